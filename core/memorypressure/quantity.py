"""Kubernetes quantities (64Mi, 1.5Gi, 1e3, 100m) as exact numbers and as whole bytes."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

# As apimachinery's ParseQuantity (api/resource/quantity.go) reads them in 1.37: sign, digits, at most one point, then a
# suffix or a decimal exponent. It also takes "5.", ".5" and a missing number ("Mi" is 0); so does this.
_QUANTITY = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([EinumkKMGTPe]*[+-]?[0-9]*)", re.ASCII)
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)", re.ASCII)
_DECIMAL_POWERS = {
    "n": -9,
    "u": -6,
    "m": -3,
    "": 0,
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
    "P": 15,
    "E": 18,
}
_BINARY_POWERS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}

_LARGEST_EXPONENT = 40  # far above every bound, and 10**n of it is still cheap


class QuantityError(ValueError):
    """The text is not a quantity; the message says what one looks like."""


def parse_quantity_exact(value: str | int) -> "Fraction | int":
    """The number a quantity stands for, exactly; an int is itself. Raises QuantityError.

    An exponent beyond 40 decimal digits is cut to that: such a number is outside every bound of the API anyway.
    """
    if isinstance(value, int):
        return value
    parts = _QUANTITY.fullmatch(value)
    if not value or parts is None:
        raise QuantityError(f'"{value}" is not a quantity such as 64Mi, 1.5Gi or 67108864')
    sign, whole, decimals, suffix = (
        parts.group(1),
        parts.group(2),
        parts.group(3) or "",
        parts.group(4),
    )
    if not decimals and (suffix in _BINARY_POWERS or _DECIMAL_POWERS.get(suffix, -1) >= 0):
        factor: int = 2 ** _BINARY_POWERS[suffix] if suffix in _BINARY_POWERS else 10 ** _DECIMAL_POWERS[suffix]
        return int(f"{sign}{whole or 0}") * factor
    # Not at the top: the sentinel keeps in memory what it imports, and orders hold whole bytes.
    from fractions import Fraction

    number = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    if suffix in _DECIMAL_POWERS:
        number *= Fraction(10) ** _DECIMAL_POWERS[suffix]
    elif suffix in _BINARY_POWERS:
        number *= 2 ** _BINARY_POWERS[suffix]
    elif exponent := _EXPONENT.fullmatch(suffix):
        power = int(exponent.group(1))
        if not -(2**63) <= power < 2**63:
            raise QuantityError(f'"{value}" has an exponent that no number has')
        power = (power + 2**31) % 2**32 - 2**31  # Kubernetes keeps 32 bits of it
        power = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, power))
        number *= Fraction(10) ** power
    else:
        raise QuantityError(f'"{value}" has the unit "{suffix}"; units are Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P and E')
    smallest = Fraction(1, 10**9)  # what is nearer to zero than 1n counts as 1n
    if number and number < smallest:
        number = smallest
    return -number if sign == "-" else number


def parse_quantity(value: str | int) -> int:
    """Whole bytes, a fraction of a byte rounded up as Kubernetes' Quantity.Value does. Raises QuantityError."""
    exact = parse_quantity_exact(value)
    return -(-exact.numerator // exact.denominator)
