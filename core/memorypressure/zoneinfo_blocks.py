"""/proc/zoneinfo as blocks, one a zone, by the grammar; and the error that names a line of it."""

import re
from typing import Any

from memorypressure.zoneinfo_grammar import HEAD, REST, expression, mismatch

_HEAD = re.compile(expression(HEAD))
_REST = re.compile(expression(REST))
_SHOWN_CHARACTERS = 60


class Block:
    """One zone's text: `head` is the match of its lines up to the pagesets, which end with the block at `end`."""

    __slots__ = ("end", "head")

    def __init__(self, head: re.Match[bytes], end: int) -> None:
        self.head = head
        self.end = end

    @property
    def text(self) -> bytes:
        """All that was read, of which this is a part."""
        return self.head.string

    def __getitem__(self, name: str) -> Any:
        return self.head[name]

    def start(self, name: str | int = 0) -> int:
        """Where a field begins, or the block."""
        return self.head.start(name)


class ZoneInfoError(ValueError):
    """What of /proc/zoneinfo was not understood: line number (from 1), its text, shortened, and what was expected."""

    def __init__(self, line_number: int, line: str, expected: str) -> None:
        super().__init__(f"line {line_number}: {line!r}: expected {expected}")
        self.line_number = line_number
        self.line = line
        self.expected = expected


def error_at(text: bytes, offset: int, expected: str) -> ZoneInfoError:
    """What to raise for the line that this offset is in."""
    start = text.rfind(b"\n", 0, offset) + 1
    end = text.find(b"\n", offset)
    line = text[start : end if end >= 0 else len(text)]
    shown = line[:_SHOWN_CHARACTERS].decode("ascii", "backslashreplace").strip()
    if len(line) > _SHOWN_CHARACTERS:
        shown += "..."
    return ZoneInfoError(text.count(b"\n", 0, start) + 1, shown or "end of text", expected)


def block_at(text: bytes, offset: int) -> Block | None:
    """The block that begins there; None when there is none."""
    head = _HEAD.match(text, offset)
    if head is None:
        return None
    if head["stats"] is None:
        return Block(head, head.end())
    rest = _REST.match(text, head.end())
    return None if rest is None else Block(head, rest.end())


def blocks_of(text: bytes) -> list[Block]:
    """All blocks of a complete text; ZoneInfoError where it is none."""
    blocks = []
    offset = 0
    while offset < len(text):
        block = block_at(text, offset)
        if block is None:
            raise _mismatch_error(text)
        blocks.append(block)
        offset = block.end
    if not blocks:
        raise ZoneInfoError(1, "end of text", "'Node N, zone NAME': nothing was read")
    return blocks


def _mismatch_error(text: bytes) -> ZoneInfoError:
    found = mismatch(text)
    if found is None:  # the expression and the walk are made of the same table
        return error_at(text, len(text), "blocks as mm/vmstat.c prints them")
    expected = " or ".join(found.expected)
    if text.find(b"\n", found.offset) < 0:
        expected += " and the end of its line (cut off?)"
    return error_at(text, found.offset, expected)
