"""The grammar of /proc/zoneinfo, kernels 4.0 to 6.18, as one table: a regular expression and its error messages.

`mm/vmstat.c: zoneinfo_show_print()` prints a block per zone. What changed: per-node stats 4.8; empty zones printed and
protection moved up 4.12; cma 5.12; boost 5.16; pagesets' high_min and high_max 6.7; promo 6.12. A line that is not in
the table makes the file not understood: a kernel that adds one needs a look before its numbers are believed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

COUNT = rb"(?:0|[1-9][0-9]{0,15}+)"
_ANY = rb"[0-9]{1,20}+\n"
_STAT = rb"      [a-z][a-z0-9_]*+ ++" + _ANY
ZONE_TYPES = ("DMA", "DMA32", "Normal", "HighMem", "Movable", "Device")
"""Names in the order of `enum zone_type`; which of them a kernel has depends on its configuration."""

_NAMES = "|".join(name.rjust(8) for name in ZONE_TYPES)


@dataclass(frozen=True, slots=True)
class Token:
    """One line: its pattern with the newline, and what to say when it is not there."""

    pattern: bytes
    expected: str


@dataclass(frozen=True, slots=True)
class Optional:
    """Lines that stand together or not at all; the first line decides."""

    items: "Sequence[Item]"


@dataclass(frozen=True, slots=True)
class Many:
    """Lines that repeat at least once; the first line of a round decides."""

    items: "Sequence[Item]"


@dataclass(frozen=True, slots=True)
class Group:
    """Lines whose text is wanted as a whole."""

    name: str
    items: "Sequence[Item]"


Item = Token | Optional | Many | Group


def _field(label: str, name: str) -> Token:
    """A page count of the block; the kernel pads labels with spaces, numbers are left-aligned."""
    return Token(
        label.encode() + rb"(?P<" + name.encode() + rb">" + COUNT + rb")\n",
        f"'{label.strip()}' and a page count from 0 to 2^52",
    )


def _pageset(label: str) -> Token:
    return Token(rb"              " + label.encode() + rb": {1,5}" + _ANY, f"'{label}:' and a number")


def _protection(name: str) -> Token:
    counts = COUNT + rb"(?>(?:, " + COUNT + rb"){1,5})"
    return Token(
        rb"        protection: \((?P<" + name.encode() + rb">" + counts + rb")\)\n",
        "'protection: (a, b, ...)' with 2 to 6 page counts",
    )


_LINES: Sequence[Item] = (
    Token(
        rb"Node (?P<node>0|[1-9][0-9]{0,3}), zone (?P<zone>" + _NAMES.encode() + rb")\n",
        "'Node N, zone NAME' with one of " + ", ".join(ZONE_TYPES),
    ),
    Optional(
        (
            Token(rb"  per-node stats\n", "'per-node stats'"),
            Group("node_stats", (Many((Token(_STAT, "a counter of the node: a name and a number"),)),)),
        )
    ),
    _field("  pages free     ", "free"),
    Optional((_field("        boost    ", "boost"),)),
    _field("        min      ", "min"),
    _field("        low      ", "low"),
    _field("        high     ", "high"),
    Optional((_field("        promo    ", "promo"),)),
    Optional((Token(rb"   (?:node_scanned  |     scanned  )" + _ANY, "'scanned' and a number"),)),
    _field("        spanned  ", "spanned"),
    _field("        present  ", "present"),
    _field("        managed  ", "managed"),
    Optional((_field("        cma      ", "cma"),)),
    Optional((_protection("protection"),)),
)
_STATS: Sequence[Item] = (
    Group(
        "stats",
        (
            Token(rb"      nr_free_pages ++" + _ANY, "'nr_free_pages' and a number"),
            Many((Token(_STAT, "a counter of the zone: a name and a number"),)),
        ),
    ),
    Optional((_protection("late_protection"),)),
    Token(rb"  pagesets\n", "'pagesets'"),
)
HEAD: Sequence[Item] = (*_LINES, Optional(_STATS))
"""A zone's block up to its pagesets; of a zone without pages (and without group `stats`) all of it."""
REST: Sequence[Item] = (
    Many(
        (
            Token(rb"    cpu: [0-9]{1,5}\n", "'cpu:' and a CPU number"),
            _pageset("count"),
            _pageset("high"),
            _pageset("batch"),
            Optional((_pageset("high_min"), _pageset("high_max"))),
            Optional((Token(rb"  vm stats threshold: [0-9]{1,3}\n", "'vm stats threshold: N'"),)),
        )
    ),
    Token(rb"  (?:node_unreclaimable|all_unreclaimable): ++[0-9]{1,10}\n", "'node_unreclaimable:' and a number"),
    Token(rb"  start_pfn: ++" + _ANY, "'start_pfn:' and a number"),
    Optional((Token(rb"  (?:node_)?inactive_ratio: ++" + _ANY, "'node_inactive_ratio:' and a number"),)),
)
"""The rest of the block of a zone with pages. Without groups: with hundreds of CPUs each round would keep them all."""
BLOCK: Sequence[Item] = (*_LINES, Optional((*_STATS, *REST)))
"""A zone's block."""


def expression(items: Sequence[Item]) -> bytes:
    """The items as one regular expression; repeats are atomic, because the first line of a choice decides it.

    Atomic groups, not `(...)++`: possessive repeats of groups do not match in CPython before 3.11.5 (gh-106052), and
    Debian 12 has 3.11.2.
    """
    parts = []
    for item in items:
        match item:
            case Token(pattern):
                parts.append(pattern)
            case Optional(inner):
                parts.append(rb"(?>(?:" + expression(inner) + rb")?)")
            case Many(inner):
                parts.append(rb"(?>(?:" + expression(inner) + rb")+)")
            case Group(name, inner):
                parts.append(rb"(?P<" + name.encode() + rb">" + expression(inner) + rb")")
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a block stops to follow the grammar and what could have stood there."""

    offset: int
    expected: tuple[str, ...]


def mismatch(text: bytes) -> Mismatch | None:
    """The first place where the text is not a sequence of blocks; None if it is one."""
    walk = _Walk(text)
    while walk.end < len(text):
        if not walk.sequence(BLOCK):
            return walk.furthest()
    return None


class _Walk:
    """Follows the grammar line by line and keeps what it looked for; a choice that was begun must be finished."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.end = 0
        self._tried: list[tuple[int, str]] = []

    def furthest(self) -> Mismatch:
        """Where it got stuck."""
        furthest = max(offset for offset, _ in self._tried)
        return Mismatch(furthest, tuple(dict.fromkeys(name for offset, name in self._tried if offset == furthest)))

    def sequence(self, items: Sequence[Item]) -> bool:
        """Whether the items stand at `end`, which moves behind what was understood."""
        return all(self._item(item) for item in items)

    def _item(self, item: Item) -> bool:
        start = self.end
        match item:
            case Token(pattern, expected):
                found = re.compile(pattern).match(self._text, start)
                if found is None:
                    self._tried.append((start, expected))
                    return False
                self.end = found.end()
                return True
            case Group(_, inner):
                return self.sequence(inner)
            case Optional(inner):
                return self.sequence(inner) or self.end == start
            case Many(inner):
                if not self.sequence(inner):
                    return False
                while True:
                    start = self.end
                    if not self.sequence(inner):
                        return self.end == start
