"""Whether the sentinel's status is what this reporter reads: the first field that is not, as a sentence. Pure.

Both processes are of one image, unless somebody overrides one of the two; then the journal may well have the same
version and a status of other fields. Checked once a reading, here, so that nothing after it has to expect less.
"""

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias

from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode


class _Kind(StrEnum):
    TEXT = "a text"
    NAME = "a text of 1 to 63 characters"
    ZONE = "a zone's name of 1 to 16 characters"
    NODE = "a NUMA node's number, at most 65535"
    FLAG = "true or false"
    COUNT = "a whole number, not negative"
    INTEGER = "a whole number"
    NUMBER = "a number"


class _OrNull:
    def __init__(self, inner: "Shape") -> None:
        self.inner = inner


class _Each:
    """A JSON object with any names, of values of one shape."""

    def __init__(self, inner: "Shape") -> None:
        self.inner = inner


Shape: TypeAlias = "_Kind | _OrNull | _Each | frozenset[str] | Mapping[str, Shape] | list[Shape]"

_TEXT, _FLAG, _COUNT, _NUMBER = _Kind.TEXT, _Kind.FLAG, _Kind.COUNT, _Kind.NUMBER
_NAME, _ZONE, _NODE = _Kind.NAME, _Kind.ZONE, _Kind.NODE
_REASON: Final = frozenset(reason.value for reason in Reason)
_PSI: Final = _OrNull({"avg10": _NUMBER, "totalSeconds": _NUMBER})
_PSI_SCOPE: Final = _OrNull({"some": _PSI, "full": _PSI})

STATUS: Final[Shape] = {
    "writtenBootNs": _COUNT,
    "agentVersion": _TEXT,
    "capabilities": _Each(_TEXT),
    "sources": [
        {"name": _TEXT, "up": _FLAG, "absent": _FLAG, "reason": _OrNull(_REASON), "message": _TEXT},
    ],
    "orders": {
        "standing": frozenset(("None", "Valid", "Invalid")),
        "message": _TEXT,
        "policyName": _OrNull(_TEXT),
        "policyGeneration": _OrNull(_COUNT),
        "mode": frozenset(mode.value for mode in Mode),
    },
    "lockHeld": _FLAG,
    "decision": {"reason": _REASON, "message": _TEXT, "cause": _REASON},
    "triggers": [
        {
            "name": _NAME,
            "status": frozenset(("Active", "Clear", "Unknown")),
            "sinceUnixNs": _Kind.INTEGER,
            "message": _TEXT,
        }
    ],
    "zones": _OrNull(
        [
            {
                "numaNode": _NODE,
                "zone": _ZONE,
                "counted": _FLAG,
                "managedBytes": _COUNT,
                "freeBytes": _COUNT,
                "minBytes": _COUNT,
                "lowBytes": _COUNT,
                "highBytes": _COUNT,
                "boostBytes": _OrNull(_COUNT),
                "errorBytes": _COUNT,
            }
        ]
    ),
    "lowest": _OrNull(
        {
            "numaNode": _NODE,
            "zone": _ZONE,
            "line": _NAME,
            "usableToLine": _OrNull(_NUMBER),
            "freeToMin": _OrNull(_NUMBER),
        }
    ),
    "vmstat": _OrNull(_Each(_COUNT)),
    "psi": {"node": _PSI_SCOPE, "pods": _PSI_SCOPE},
    "topPods": [{"uid": _NAME, "reliefBytes": _COUNT, "overRequest": _FLAG}],
    "counters": {
        "freedBytes": _COUNT,
        "refusals": _Each(_COUNT),
        "ended": [{"policy": _TEXT, "mode": _TEXT, "result": _TEXT, "count": _COUNT}],
    },
    "belowLine": [{"numaNode": _NODE, "zone": _ZONE, "line": _TEXT, "seconds": _NUMBER, "episodes": _COUNT}],
    "killLatency": {
        "sum": _NUMBER,
        "count": _COUNT,
        "last": _OrNull({"action": _NAME, "seconds": _NUMBER, "unixNs": _COUNT}),
    },
    "loop": {"periodSeconds": _NUMBER, "lag": {"sum": _NUMBER, "count": _COUNT}},
    "helper": {"near": _FLAG},
}
"""What `memorypressure_agent.sentinel.status` documents, as far as the reporter reads it. More may be there."""

_COUNTED_ZONE: Final = ("reserveBytes", "floorBytes", "lowmemReserveBytes")


def complaint(status: Mapping[str, Any]) -> str:
    """What is not as expected in a status, empty when all is: `lowest.line: must be a text, not 3`."""
    found = _mismatch(status, STATUS, "")
    if found:
        return found
    for index, zone in enumerate(status["zones"] or ()):
        for name in _COUNTED_ZONE if zone["counted"] else ():
            found = _mismatch(zone.get(name), _Kind.COUNT, f"zones[{index}].{name}")
            if found:
                return found
    for name in status["capabilities"]:
        if _CAPABILITY.fullmatch(name) is None:
            return f"capabilities: {_shown(name)} is no name in CamelCase"
    for path, keys in (
        ("zones", [(zone["numaNode"], zone["zone"]) for zone in status["zones"] or ()]),
        ("triggers", [trigger["name"] for trigger in status["triggers"]]),
    ):
        if len(set(keys)) != len(keys):
            return f"{path}: one of them stands there twice"
    for path, histogram in (("loop.lag", status["loop"]["lag"]), ("killLatency", status["killLatency"])):
        buckets = histogram.get("buckets")
        whole = isinstance(buckets, list) and buckets and all(_is_bucket(each) for each in buckets)
        if not whole or buckets[-1][0] is not None:
            return f"{path}.buckets: must be pairs of bound and count, the last bound null, not {_shown(buckets)}"
    return ""


_MOST: Final = (1 << 63) - 1
_CAPABILITY: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")


def _is_bucket(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and (value[0] is None or _CHECKS[_Kind.NUMBER](value[0]))
        and _CHECKS[_Kind.COUNT](value[1])
    )


_CHECKS: Final[Mapping[_Kind, Callable[[Any], bool]]] = {
    _Kind.TEXT: lambda value: type(value) is str,
    _Kind.NAME: lambda value: type(value) is str and 0 < len(value) <= 63,
    _Kind.ZONE: lambda value: type(value) is str and 0 < len(value) <= 16,
    _Kind.NODE: lambda value: type(value) is int and 0 <= value <= 65535,
    _Kind.FLAG: lambda value: type(value) is bool,
    _Kind.COUNT: lambda value: type(value) is int and 0 <= value <= _MOST,
    _Kind.INTEGER: lambda value: type(value) is int,
    _Kind.NUMBER: lambda value: type(value) in (int, float) and abs(value) < math.inf,  # which NaN is not
}


def _mismatch(value: Any, shape: Shape, path: str) -> str:
    if isinstance(shape, _Kind):
        return "" if _CHECKS[shape](value) else f"{path}: must be {shape.value}, not {_shown(value)}"
    if isinstance(shape, _OrNull):
        return "" if value is None else _mismatch(value, shape.inner, path)
    if isinstance(shape, frozenset):
        known = type(value) is str and value in shape
        return "" if known else f"{path}: {_shown(value)} is none of the words that are known here"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path}: must be a list, not {_shown(value)}"
        pairs = ((each, shape[0], f"{path}[{index}]") for index, each in enumerate(value))
    elif not isinstance(value, Mapping):
        return f"{path or 'status'}: must be an object, not {_shown(value)}"
    elif isinstance(shape, _Each):
        pairs = ((each, shape.inner, f"{path}.{name}") for name, each in value.items())
    else:
        for name in shape:
            if name not in value:
                return f"{path}.{name}: is missing".lstrip(".")
        pairs = ((value[name], inner, f"{path}.{name}".lstrip(".")) for name, inner in shape.items())
    return next((found for found in (_mismatch(*pair) for pair in pairs) if found), "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
