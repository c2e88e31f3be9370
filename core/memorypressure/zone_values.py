"""Zones, the lines in them and the NUMA nodes they add up to, in pages of the machine.

Where the numbers come from and what the kernel does with them: mm/page_alloc.c, `__zone_watermark_ok` and
`__setup_per_zone_wmarks`; checked for 4.14 to 6.18.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter

MAX_PAGES = 1 << 52
"""No page count can be larger: physical addresses have at most 64 bits and a page at least 2^12 bytes."""

SMALL_ZONE_BYTES = 16 << 20
"""A zone of at most this size does not count beside a larger one: x86's DMA, which is "below" on every machine."""

COUNTABLE_ZONES = frozenset(("DMA", "DMA32", "Normal"))
"""GFP_ATOMIC cannot use HighMem, Movable or Device."""


class Line(StrEnum):
    """A mark in a zone, highest first. AtomicFloor is shown and measured, and never a trigger."""

    HIGH = "High"
    LOW = "Low"
    MIN = "Min"
    ATOMIC_RESERVE = "AtomicReserve"
    ATOMIC_FLOOR = "AtomicFloor"


@dataclass(frozen=True, slots=True)
class Zone:
    """One block of /proc/zoneinfo; min, low and high as printed, so with boost in them since kernel 5.0.

    `boost_known` is False before 5.16, where boost is not printed: from 5.0 to 5.15 it is then invisible in min, low
    and high. `raw_min_pages` is then bounded, exactly where min is at least 0.4 % of the zone (machines of up to some
    16 GiB, or huge pages); else the lines made of it are too high by half or 3/8 of the boost.
    `cma_known` is False before 5.12, where the zone's CMA total is not printed; `cma_pages` is then 0.
    `stat_threshold_pages` is the largest `vm stats threshold` of the zone's `cpus` CPUs, 0 without SMP.
    `held_pages` is what is known to hold the zone's pages: per-CPU lists, compressed swap and, in the block that names
    them, LRU lists, page tables, kernel stacks and reclaimable slabs; since 4.8 that is the first block of a node with
    pages, for all of the node. `uses_told` says whether this block names them. `compressed_pages` is zsmalloc's part:
    swap in zram, zswap's pool.
    """

    node: int
    name: str
    free_pages: int
    boost_pages: int
    boost_known: bool
    min_pages: int
    low_pages: int
    high_pages: int
    managed_pages: int
    free_cma_pages: int = 0
    cma_pages: int = 0
    cma_known: bool = False
    protection: tuple[int, ...] = ()
    stat_threshold_pages: int = 0
    cpus: int = 0
    held_pages: int = 0
    uses_told: bool = False
    compressed_pages: int = 0

    @property
    def raw_min_pages(self) -> int:
        """Min without boost, which is what GFP_ATOMIC is tested against; where boost is hidden, at most so much.

        Boost does not move the distance from min to low, which is a quarter of raw min or more (mm/page_alloc.c,
        `__setup_per_zone_wmarks`, all versions): so raw min is at most four times that distance.
        """
        if self.boost_known or self.low_pages < self.min_pages:
            return self.min_pages - self.boost_pages
        return min(self.min_pages, 4 * (self.low_pages - self.min_pages) + 3)

    @property
    def usable_pages(self) -> int:
        """Free pages that GFP_ATOMIC may take; below 0 only by the counters' error."""
        return self.free_pages - self.free_cma_pages

    @property
    def error_pages(self) -> int:
        """By how much `free_pages` may be off, in either direction: what the CPUs may hold back (mm/vmstat.c)."""
        return self.cpus * self.stat_threshold_pages

    def mark_pages(self, line: Line) -> int:
        """The line without protection and margin, rounded as the kernel rounds."""
        if line is Line.LOW:
            return self.low_pages
        if line is Line.MIN:
            return self.min_pages
        if line is Line.HIGH:
            return self.high_pages
        raw_min = self.min_pages - self.boost_pages if self.boost_known else self.raw_min_pages
        half = raw_min - raw_min // 2
        return half if line is Line.ATOMIC_RESERVE else half - half // 4


@dataclass(frozen=True, slots=True)
class Lines:
    """All lines of a counted zone, protection included."""

    atomic_floor: int
    atomic_reserve: int
    min: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class CountedZone:
    """A zone that GFP_ATOMIC can take from; `protection_pages` is what class Normal must leave in it."""

    zone: Zone
    protection_pages: int

    @property
    def lines(self) -> Lines:
        """Every line, for display."""
        return Lines(
            self.line_pages(Line.ATOMIC_FLOOR),
            self.line_pages(Line.ATOMIC_RESERVE),
            self.line_pages(Line.MIN),
            self.line_pages(Line.LOW),
            self.line_pages(Line.HIGH),
        )

    def line_pages(self, line: Line, margin_percent: int = 0) -> int:
        """The line in pages of free memory; the margin raises the mark, not the protection."""
        return self.zone.mark_pages(line) * (100 + margin_percent) // 100 + self.protection_pages

    def clear_line_pages(self, line: Line, margin_percent: int = 0) -> int:
        """What the zone must be above for a trigger on `line` to clear; never under the trigger's own line.

        It is Low, for line Low the middle of low and high, for line High High.
        """
        zone = self.zone
        if line is Line.HIGH:
            clear = zone.high_pages
        elif line is Line.LOW:
            clear = (zone.low_pages + zone.high_pages) // 2
        else:
            clear = zone.low_pages
        return max(clear + self.protection_pages, self.line_pages(line, margin_percent))

    def closed(self, line: Line, margin_percent: int = 0) -> bool:
        """Whether the zone could not be above the line even if all of it were free."""
        return self.zone.managed_pages <= self.line_pages(line, margin_percent)

    def below(self, line: Line, margin_percent: int = 0) -> bool:
        """Whether the zone is at or under the line, or closed to it."""
        mark = self.line_pages(line, margin_percent)
        zone = self.zone
        return zone.free_pages - zone.free_cma_pages <= mark or zone.managed_pages <= mark


@dataclass(frozen=True, slots=True)
class NumaNode:
    """The zones of a NUMA node as one judgement; `counted` is empty on a node that is left out."""

    number: int
    counted: tuple[CountedZone, ...]
    uncounted_managed_pages: int
    uncounted_error_pages: int
    free_cma_pages: int
    movable_above_low: bool
    unclaimed_pages: int | None = None
    """Pages in use that are no process's, no page cache, no compressed swap, no reclaimable slab, no page table and no
    stack: what drivers and the network hold, and what the kernel took for good. None where it is not told. Only what it
    grows by says something."""
    compressed_error_pages: int = 0
    """By how much the counters of compressed swap may lag, where there is any."""

    def below(self, line: Line, margin_percent: int = 0) -> bool:
        """Whether all counted zones are below the line and one of them at least is not merely closed."""
        marks = ((counted.zone, counted.line_pages(line, margin_percent)) for counted in self.counted)
        return _all_below(marks)

    def above_clear(self, line: Line, margin_percent: int = 0) -> bool:
        """Whether a trigger on `line` has no hold on the node any more; see `CountedZone.clear_line_pages`."""
        marks = ((counted.zone, counted.clear_line_pages(line, margin_percent)) for counted in self.counted)
        return not self.below(line, margin_percent) and not _all_below(marks)

    def below_lines(self) -> tuple[Line, ...]:
        """The lines that the node is below, highest first."""
        return tuple(line for line in Line if self.below(line))

    def headroom_pages(self, line: Line, margin_percent: int = 0) -> int | None:
        """Pages that must be taken before the node is below the line; None if it never can be (all closed)."""
        room = None
        for counted in self.counted:
            mark = counted.line_pages(line, margin_percent)
            if counted.zone.managed_pages > mark:
                room = (room or 0) + max(0, counted.zone.usable_pages - mark)
        return room

    def lacking_pages(self, line: Line = Line.HIGH) -> int:
        """Pages that the counted zones lack to the line, zones closed to it left out."""
        lacking = 0
        for counted in self.counted:
            mark = counted.line_pages(line)
            if counted.zone.managed_pages > mark:
                lacking += max(0, mark - counted.zone.usable_pages)
        return lacking

    def lacking_to_raw_min_pages(self) -> tuple[int, ...]:
        """What each counted zone lacks to min without boost, protection included; zones closed to it left out."""
        lacking = []
        for counted in self.counted:
            zone = counted.zone
            mark = zone.raw_min_pages + counted.protection_pages
            if zone.managed_pages > mark:
                usable = zone.free_pages - zone.free_cma_pages
                lacking.append(mark - usable if mark > usable else 0)
        return tuple(lacking)


@dataclass(frozen=True, slots=True)
class ZoneInfo:
    """All zones of one reading and the NUMA nodes they make.

    `normal_index` is the place of class Normal in the protection lists; a zone with an empty list has protection 0.
    `unknown_lines` are lines that a recording does not tell (Low, High): triggers on them are unknown, and nothing
    that needs them to clear clears. A kernel tells all.
    """

    zones: tuple[Zone, ...]
    page_size_bytes: int
    normal_index: int
    unknown_lines: frozenset[Line] = frozenset()
    nodes: tuple[NumaNode, ...] = field(init=False, compare=False)
    counted_nodes: tuple[NumaNode, ...] = field(init=False, compare=False, repr=False)
    """The nodes that are judged."""
    lines_key: tuple[object, ...] = field(init=False, compare=False, repr=False)
    """Equal in two readings whose lines, sizes and counters' errors are equal: what was made of them still holds."""

    def __post_init__(self) -> None:
        small_pages = SMALL_ZONE_BYTES // self.page_size_bytes
        nodes = tuple(_nodes(self.zones, small_pages, self.normal_index))
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "counted_nodes", tuple([node for node in nodes if node.counted]))
        lines_key = (self.page_size_bytes, self.normal_index, self.unknown_lines, *map(_LINES_OF, self.zones))
        object.__setattr__(self, "lines_key", lines_key)

    def is_above_every_line(self, margin_percent: int = 0) -> bool:
        """Whether no node is below any line with a margin up to that; False where it is not as plain as that.

        It is when each counted node has a zone above the highest line, as at most readings of a node's life.
        """
        if self.unknown_lines:
            return False
        for node in self.counted_nodes:
            for counted in node.counted:
                zone = counted.zone
                highest = max(zone.min_pages, zone.low_pages, zone.high_pages)
                mark = highest * (100 + margin_percent) // 100 + counted.protection_pages
                if zone.managed_pages > mark < zone.free_pages - zone.free_cma_pages:
                    break
            else:
                return False
        return True

    def node(self, number: int) -> NumaNode | None:
        """The node of that number, or None."""
        return next((node for node in self.nodes if node.number == number), None)


_LINES_OF = attrgetter(
    "node",
    "name",
    "boost_pages",
    "boost_known",
    "min_pages",
    "low_pages",
    "high_pages",
    "managed_pages",
    "cma_pages",
    "cma_known",
    "protection",
    "stat_threshold_pages",
    "cpus",
)

Signature = tuple[tuple[int, str, int, int, int, int], ...]


def signature(info: ZoneInfo) -> Signature:
    """What makes two readings comparable: node, name, raw min, protection and size of each counted zone.

    When it changes (hotplug, ballooning, THP, sysctl) every window restarts. Boost is no such change; where it is
    invisible (5.0 to 5.15) the distances between min, low and high, which it does not move, stand for raw min.
    """
    return tuple(
        [
            (
                node.number,
                zone.name,
                zone.min_pages - zone.boost_pages if zone.boost_known else zone.low_pages - zone.min_pages,
                0 if zone.boost_known else zone.high_pages - zone.low_pages,
                counted.protection_pages,
                zone.managed_pages,
            )
            for node in info.nodes
            for counted in node.counted
            for zone in (counted.zone,)
        ]
    )


def _all_below(marks: Iterable[tuple[Zone, int]]) -> bool:
    open_below = False
    for zone, mark in marks:
        if zone.managed_pages <= mark:
            continue
        if zone.free_pages - zone.free_cma_pages > mark:
            return False
        open_below = True
    return open_below


def _nodes(zones: tuple[Zone, ...], small_pages: int, normal_index: int) -> Iterator[NumaNode]:
    by_node: dict[int, list[Zone]] = {}
    for zone in zones:
        by_node.setdefault(zone.node, []).append(zone)
    for number, members in by_node.items():
        largest = max([zone.managed_pages for zone in members if zone.name in COUNTABLE_ZONES], default=0)
        smallest = small_pages if largest > small_pages else 0
        counted: list[CountedZone] = []
        uncounted_managed = uncounted_error = free_cma = unclaimed = compressed_error = 0
        movable_above_low = told = False
        for zone in members:
            free_cma += zone.free_cma_pages
            told = told or zone.uses_told
            unclaimed += zone.managed_pages - zone.free_pages - zone.held_pages
            if zone.compressed_pages:
                compressed_error += zone.error_pages
            if zone.managed_pages > smallest and zone.name in COUNTABLE_ZONES:
                counted.append(CountedZone(zone, zone.protection[normal_index] if zone.protection else 0))
                continue
            uncounted_managed += zone.managed_pages
            uncounted_error += zone.cpus * zone.stat_threshold_pages
            if zone.name == "Movable" and zone.managed_pages:
                movable_above_low = zone.free_pages > zone.low_pages
        yield NumaNode(
            number,
            tuple(counted),
            uncounted_managed,
            uncounted_error,
            free_cma,
            movable_above_low,
            unclaimed if told else None,
            compressed_error,
        )
