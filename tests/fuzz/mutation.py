"""Changes to the text of a kernel file or of JSON that keep most of it readable: numbers, words, lines."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Final

_POWERS: Final = (0, 1, 2, 7, 4095, 1 << 31, 1 << 32, (1 << 52) - 1, 1 << 52, (1 << 63) - 1, 1 << 64)
_ODD: Final = (b"-1", b"+1", b"00", b"1.5", b"1e9", b"", b"NaN", b"\xc2\xb2", b"9" * 5000)
NUMBERS: Final = (*(str(number).encode() for number in _POWERS), *_ODD)
_NUMBER = re.compile(rb"\d+")
_WORD = re.compile(rb"[A-Za-z_]+")

Change = Callable[[random.Random, bytes], bytes]


def mutated(rng: random.Random, text: bytes) -> bytes:
    """The text after one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(CHANGES)(rng, text)
    return text


def _number(rng: random.Random, text: bytes) -> bytes:
    return _replaced(rng, text, _NUMBER, NUMBERS)


def _nearby_number(rng: random.Random, text: bytes) -> bytes:
    found = _one(rng, text, _NUMBER)
    if found is None or len(found[0]) > 20:
        return text
    value = max(0, int(found[0]) + rng.choice((-1, 1, -4096, 4096)))
    return text[: found.start()] + str(value).encode() + text[found.end() :]


def _word(rng: random.Random, text: bytes) -> bytes:
    """A word of the text in place of another."""
    words = _WORD.findall(text)
    return _replaced(rng, text, _WORD, words) if words else text


def _line(rng: random.Random, text: bytes) -> bytes:
    """A line left out, doubled, or moved."""
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    index = rng.randrange(len(lines))
    kind = rng.randrange(3)
    if kind == 0:
        del lines[index]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[index])
    else:
        lines.insert(rng.randrange(len(lines)), lines.pop(index))
    return b"".join(lines)


def _cut(rng: random.Random, text: bytes) -> bytes:
    return text[: rng.randrange(len(text) + 1)]


def _byte(rng: random.Random, text: bytes) -> bytes:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice((b" ", b"\n", b"\t", b"\r", b"\0", b"\xff", b",", b'"', b":", b"-")) + text[at:]


CHANGES: Final[Sequence[Change]] = (_number, _number, _nearby_number, _word, _line, _line, _cut, _byte)


def _replaced(rng: random.Random, text: bytes, pattern: re.Pattern[bytes], by: Sequence[bytes]) -> bytes:
    found = _one(rng, text, pattern)
    return text if found is None else text[: found.start()] + rng.choice(by) + text[found.end() :]


def _one(rng: random.Random, text: bytes, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """One match, near a place chosen at random: finding all of them would take most of the time."""
    return pattern.search(text, rng.randrange(len(text) + 1)) or pattern.search(text)
