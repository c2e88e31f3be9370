"""Quantities mean what they mean to Kubernetes."""

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure.quantity import QuantityError, parse_quantity, parse_quantity_exact

SUFFIXES: dict[str, Fraction | int] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("64Mi", 64 * 2**20),
        ("1.5Gi", 3 * 2**29),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("2e-3", Fraction(2, 1000)),
        ("1e+2", 100),
        ("100m", Fraction(1, 10)),
        ("007", 7),
        ("5.", 5),
        (".5", Fraction(1, 2)),
        ("+1Ki", 1024),
        ("-1Ki", -1024),
        ("0", 0),
        ("0.000Gi", 0),
        ("Mi", 0),
        (7, 7),
        ("1e-20", Fraction(1, 10**9)),
        ("-1e-20", -Fraction(1, 10**9)),
        ("5e4294967296", 5),
    ],
)
def test_a_quantity_is_an_exact_number(text: str | int, exact: Fraction | int) -> None:
    assert parse_quantity_exact(text) == exact


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1 Gi", "1KI", "1K", "1gi", "1e", "1e1.5", "1.2.3", "--1", "1GiB", "NaN"]
)
def test_what_is_no_quantity_is_an_error_that_shows_the_text(text: str) -> None:
    with pytest.raises(QuantityError, match=r"quantity|unit") as caught:
        parse_quantity(text)
    assert f'"{text}"' in str(caught.value)


@pytest.mark.parametrize(("text", "size"), [("100m", 1), ("1.5", 2), ("-1.5", -1), ("1001m", 2), ("2Ki", 2048)])
def test_bytes_are_whole_and_rounded_up_as_kubernetes_does(text: str, size: int) -> None:
    assert parse_quantity(text) == size


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.sampled_from(sorted(SUFFIXES)))
def test_number_times_unit(whole: int, millionths: int, suffix: str) -> None:
    number = Fraction(whole) + Fraction(millionths % 10**6, 10**6)
    exact = number * SUFFIXES[suffix]
    text = f"{whole}.{millionths % 10**6:06d}{suffix}"
    assert parse_quantity_exact(text) == (max(exact, Fraction(1, 10**9)) if exact else 0)


@given(st.integers(-(2**63), 2**63))
def test_an_exponent_of_any_size_is_read_at_once(exponent: int) -> None:
    try:
        value = parse_quantity_exact(f"1e{exponent}")
    except QuantityError:
        assert not -(2**63) <= exponent < 2**63
    else:
        assert value > 0


@given(st.text(alphabet="0123456789.+-eEinumkKMGTP", max_size=12))
def test_any_text_of_its_letters_is_a_number_or_an_error(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert isinstance(parse_quantity(text), int)
