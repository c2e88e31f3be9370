"""Failed page allocations in the text of the kernel log, and the file that tells their number. Pure.

The log leaves out most of them: one message in 10 s (since 5.4), and none for allocations with `__GFP_NOWARN`, which
are those of network receive since 6.12 (c89cca307b20). So a count is a lower bound, and 0 says little.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

VERSION: Final = 1
LONGEST_BYTES: Final = 4096
TAIL_BYTES: Final = 512
"""By so much of its end a text is found again in the next one; a line's time stamp makes it unique."""

_FAILURE: Final = re.compile(
    rb": page allocation failure: order:\d+, mode:0x[0-9a-f]+(?:\((?P<page>[A-Z_|x0-9a-f]*)\))?"
    rb"|SLUB: Unable to allocate memory on (?:node|CPU) .{0,60}?gfp=0x[0-9a-f]+(?:\((?P<slab>[A-Z_|x0-9a-f]*)\))?"
    rb"|(?:warn_alloc|slab_out_of_memory): (?P<suppressed>\d{1,9}) callbacks suppressed"
)
"""mm/page_alloc.c warn_alloc and mm/slub.c slab_out_of_memory, 4.9 to 6.18; the hexadecimal flags differ by version."""


@dataclass(frozen=True, slots=True)
class Failures:
    """How many there were: of `GFP_ATOMIC`, of others, and of those that the log itself left out."""

    atomic: int = 0
    other: int = 0
    unknown: int = 0

    def __add__(self, more: "Failures") -> "Failures":
        return Failures(self.atomic + more.atomic, self.other + more.other, self.unknown + more.unknown)


class FailuresError(ValueError):
    """A file that does not tell their number; the message says what is wrong with it."""


def found_in(text: bytes) -> Failures:
    """The failures of which a part of the kernel log tells."""
    atomic = other = unknown = 0
    for found in _FAILURE.finditer(text):
        if found["suppressed"] is not None:
            unknown += int(found["suppressed"])
            continue
        flags = found["page"] if found["page"] is not None else found["slab"]
        if flags is None:  # before 4.6 there are no names
            unknown += 1
        elif b"GFP_ATOMIC" in flags.split(b"|"):
            atomic += 1
        else:
            other += 1
    return Failures(atomic, other, unknown)


def new_part(text: bytes, tail: bytes) -> bytes:
    """What of the log came after `tail`, the end of what was seen before; all of it when that is no longer there."""
    at = text.rfind(tail) if tail else -1
    return text if at < 0 else text[at + len(tail) :]


def encode(failures: Failures, written_boot_ns: int, problem: str = "") -> bytes:
    """The file. `problem`: why the log cannot be read; empty when it can."""
    counts = {"atomic": failures.atomic, "other": failures.other, "unknown": failures.unknown}
    value = {"version": VERSION, "writtenBootNs": written_boot_ns, "problem": problem[:500], "failures": counts}
    return json.dumps(value).encode()


def decode(data: bytes) -> tuple[Failures, int, str]:
    """(failures, when they were written by the boot clock, why the log cannot be read). Raises FailuresError."""
    if len(data) > LONGEST_BYTES:
        raise FailuresError(f"has {len(data)} bytes, more than {LONGEST_BYTES}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FailuresError(f"is not whole JSON ({error})") from error
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise FailuresError(f"is not of version {VERSION}")
    counts, written, problem = value.get("failures"), value.get("writtenBootNs"), value.get("problem")
    if not isinstance(counts, dict) or type(written) is not int or type(problem) is not str:
        raise FailuresError("lacks failures, writtenBootNs or problem")
    numbers: list[Any] = [counts.get(name) for name in ("atomic", "other", "unknown")]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise FailuresError("failures: not three whole numbers")
    return Failures(*numbers), written, problem
