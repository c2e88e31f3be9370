"""When to read next: from headroom, the fastest drain seen, and what a reading costs."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from memorypressure.explain import available_limit_bytes
from memorypressure.signals import Absent, MemInfo, Unknown
from memorypressure.spec_values import AvailableMemory
from memorypressure.zone_values import Line, ZoneInfo

SHORTEST_NS = 10_000_000
LONGEST_NS = 1_000_000_000
WATCHING_NS = 100_000_000
"""While a line is breached or a window runs: well under the gap of 250 ms that restarts the windows."""

LONGEST_WATCHING_NS = 200_000_000
COST_FACTOR = 50
"""A reading may take a fiftieth of the time to the next: 2 % of a core."""
MOST_SAVED_NS = 6_000_000_000
"""What 300 s of 2 % are: so much, and what may be owed, can be spent at once; beyond that the average stays at 2 %."""

MOST_OWED_NS = 2_000_000_000
"""What a node below the atomic reserve may use beyond what was saved: two more samples decide, and a node that was
short for minutes before has nothing left. It is paid back: 100 s of 2 %."""

DECIDING_SAMPLES = 4
"""Three of five decide; the first may have come late."""

HALF_LIFE_NS = 60_000_000_000
ASSUMED_DRAIN_BYTES_PER_SECOND = 64 << 20
"""Every node may be drained at this rate at any time, seen or not: a slow gigabit of small frames in pages of 4 KiB."""

_SECOND_NS = 1_000_000_000


class Hurry(Enum):
    """How much of a core rounds may take for as long as time is saved: 1/part of it, or only the 2 %.

    Never more than half of one, but for the few samples that decide: the other threads and the machine's own work get
    their turn whatever a round costs.

    Where a round takes less than 0.2 ms this changes nothing. It is for machines with hundreds of CPUs, whose zoneinfo
    is long, and for slow ones: dips under the reserve last 10 to 260 ms, and three samples of five must see one.
    """

    NONE = 0, 0
    WATCHING = 1, 10
    """A watched line is breached or a window runs: a tenth of a core."""
    BELOW_MIN = 2, 2
    """Half of a core."""
    BELOW_RESERVE = 3, 2, True
    """Half of a core; on credit where nothing is saved."""
    DECIDING = 4, 1, True
    """The same for the first `DECIDING_SAMPLES` of it: a fifth of the time is slept, for they decide."""

    def __init__(self, _number: int, part: int, is_on_credit: bool = False) -> None:
        self.part = part
        """The period is so many times a round's cost; 0 for the 2 %."""
        self.is_on_credit = is_on_credit
        """Whether it may make debts."""

    def may_use_ns(self, saved_ns: int) -> int:
        """Time of a core that is there for it, of what was saved, or is owed where negative."""
        return saved_ns + MOST_OWED_NS if self.is_on_credit else saved_ns


@dataclass(frozen=True, slots=True)
class NodeDrain:
    """What one node lost: usable pages of its counted zones at the last full reading, and the fastest loss seen.

    `free_pages` are those of all its zones at the last reading, full or of its gate.
    """

    node: int
    usable_pages: tuple[tuple[str, int], ...]
    fastest_pages_per_second: int
    seen_ns: int
    free_pages: int = 0

    def pages_per_second(self, now_ns: int) -> int:
        """The fastest loss seen, halved for every 60 s since, rounded up."""
        if now_ns - self.seen_ns < HALF_LIFE_NS:
            return self.fastest_pages_per_second
        halvings = max(0, now_ns - self.seen_ns) // HALF_LIFE_NS
        return -(-self.fastest_pages_per_second >> min(halvings, 64))


@dataclass(frozen=True, slots=True)
class Drains:
    """The drain of every node; `time_ns` is that of the last full reading, None before the first.

    `free_ns` is that of the last reading of free pages, full or of the gates.
    """

    time_ns: int | None = None
    nodes: tuple[NodeDrain, ...] = ()
    free_ns: int = 0

    def of(self, node: int) -> NodeDrain | None:
        """That node's drain, None before its first reading."""
        for drain in self.nodes:
            if drain.node == node:
                return drain
        return None


def observe(drains: Drains, info: ZoneInfo, time_ns: int) -> Drains:
    """The drains after one more full reading; a node's loss is what its zones lost, gains not deducted."""
    nodes = []
    free_of: dict[int, int] = {}
    for zone in info.zones:
        free_of[zone.node] = free_of.get(zone.node, 0) + zone.free_pages
    for node in info.counted_nodes:
        free = free_of[node.number]
        zones = [counted.zone for counted in node.counted]
        usable = tuple([(zone.name, zone.free_pages - zone.free_cma_pages) for zone in zones])
        before = drains.of(node.number)
        if before is None or drains.time_ns is None or time_ns <= drains.time_ns:
            nodes.append(before or NodeDrain(node.number, usable, 0, time_ns, free))
            continue
        earlier = dict(before.usable_pages)
        lost = 0
        for name, pages in usable:
            fallen = earlier.get(name, pages) - pages
            lost += max(0, fallen)
        rate = -(-lost * _SECOND_NS // (time_ns - drains.time_ns))
        if rate >= before.pages_per_second(time_ns):
            nodes.append(NodeDrain(node.number, usable, rate, time_ns, free))
        else:
            nodes.append(NodeDrain(node.number, usable, before.fastest_pages_per_second, before.seen_ns, free))
    newest = time_ns if drains.time_ns is None else max(time_ns, drains.time_ns)
    return Drains(newest, tuple(nodes), max(newest, drains.free_ns))


def observe_gates(drains: Drains, node_free_pages: tuple[tuple[int, int], ...], time_ns: int) -> Drains:
    """The drains after the gates were read: between two full readings a node's loss is what its free pages fell by."""
    elapsed_ns = time_ns - drains.free_ns
    if drains.time_ns is None or elapsed_ns <= 0:
        return drains
    free_of = dict(node_free_pages)
    nodes = []
    for drain in drains.nodes:
        free = free_of.get(drain.node)
        if free is None:
            nodes.append(drain)
            continue
        fastest, seen_ns = drain.fastest_pages_per_second, drain.seen_ns
        if free < drain.free_pages:
            rate = -(-(drain.free_pages - free) * _SECOND_NS // elapsed_ns)
            if rate >= drain.pages_per_second(time_ns):
                fastest, seen_ns = rate, time_ns
        nodes.append(NodeDrain(drain.node, drain.usable_pages, fastest, seen_ns, free))
    return Drains(drains.time_ns, tuple(nodes), time_ns)


def saved_ns(before_ns: int, elapsed_ns: int, cost_ns: int, *, on_credit: bool = False) -> int:
    """Time of a core that is left over for a hurry, after a round that took `cost_ns`: from 2 s of debt to 6 s.

    Only a round `on_credit` makes debts. They are paid by what rounds leave of 2 %, so not while each takes as much.
    """
    there = min(MOST_SAVED_NS, before_ns + elapsed_ns // COST_FACTOR)
    return max(-MOST_OWED_NS if on_credit else min(0, before_ns), there - cost_ns)


NodeMarks = tuple[tuple[int, tuple[tuple[tuple[int, int], ...], ...]], ...]
"""For each judged node, and each line that not all of its zones are closed to, the marks of the zones that are not:
(place among the counted, pages). They stay as they are as long as `ZoneInfo.lines_key` does."""


def marks_of(info: ZoneInfo, watched: tuple[tuple[Line, int], ...]) -> NodeMarks:
    """The marks from which `rooms` tells the headroom to the nearest of the watched (line, margin)."""
    found = []
    for node in info.counted_nodes:
        lines = []
        for line, margin in watched:
            marks = [each.line_pages(line, margin) for each in node.counted]
            managed = [each.zone.managed_pages for each in node.counted]
            lines.append(tuple([(at, mark) for at, mark in enumerate(marks) if managed[at] > mark]))
        found.append((node.number, tuple([marks for marks in lines if marks])))
    return tuple(found)


def rooms(info: ZoneInfo, marks: NodeMarks) -> tuple[tuple[int, int | None], ...]:
    """(node, `headroom_pages`) of each judged node; the marks are those of a reading with the same `lines_key`."""
    found = []
    for node, (number, lines) in zip(info.counted_nodes, marks, strict=True):
        zones = [counted.zone for counted in node.counted]
        usable = [zone.free_pages - zone.free_cma_pages for zone in zones]
        least = None
        for line in lines:
            room = 0
            for at, mark in line:
                if usable[at] > mark:
                    room += usable[at] - mark
            if least is None or room < least:
                least = room
        found.append((number, least))
    return tuple(found)


def headroom_pages(info: ZoneInfo, node: int, watched: tuple[tuple[Line, int], ...]) -> int | None:
    """Pages the node can lose before it is below the first of the watched (line, margin); None if it never can be."""
    numa_node = info.node(node)
    if numa_node is None:
        return None
    rooms = [room for line, margin in watched if (room := numa_node.headroom_pages(line, margin)) is not None]
    return min(rooms) if rooms else None


def time_to_line_seconds(drains: Drains, node: int, headroom: int | None, now_ns: int) -> float | None:
    """Seconds until the node is below, at the fastest drain seen; None without headroom to lose or without drain."""
    drain = drains.of(node)
    rate = drain.pages_per_second(now_ns) if drain is not None else 0
    return headroom / rate if headroom is not None and rate else None


def least_period_ns(read_cost_ns: int) -> int:
    """The shortest time from one reading to the next that takes 2 % of a core: from 10 ms to 1 s."""
    return max(SHORTEST_NS, min(read_cost_ns * COST_FACTOR, LONGEST_NS))


def look_period_ns(look_cost_ns: int, *, hurry: bool) -> int:
    """From one look at the gates of a watched node to the next: 10 ms, or a tenth of a core in a hurry, else 2 %."""
    return max(SHORTEST_NS, min(look_cost_ns * (Hurry.WATCHING.part if hurry else COST_FACTOR), LONGEST_NS))


def guarded_period_ns(read_cost_ns: int) -> int:
    """From one sample of a watched node to the next while looks at its gates tell when one is needed sooner."""
    return max(WATCHING_NS, min(read_cost_ns * COST_FACTOR, LONGEST_WATCHING_NS))


def memory_is_near(
    watched: Iterable[AvailableMemory],
    before: MemInfo | Absent | Unknown | None,
    memory: MemInfo | Absent | Unknown | None,
    elapsed_ns: int,
) -> bool:
    """Whether MemAvailable could be under one of these thresholds within a second, or is.

    At the rate of the loss since the reading before, `elapsed_ns` ago, but at least at that which every node may have.
    """
    if not isinstance(memory, MemInfo):
        return False
    rate = ASSUMED_DRAIN_BYTES_PER_SECOND
    if isinstance(before, MemInfo) and elapsed_ns > 0:
        rate = max(rate, (before.available_bytes - memory.available_bytes) * _SECOND_NS // elapsed_ns)
    return any(memory.available_bytes - available_limit_bytes(each, memory) < rate for each in watched)


def assumed_rate(drains: Drains, node: int, now_ns: int, page_size_bytes: int) -> int:
    """Pages a second that the node may lose: the fastest loss seen, or what every node may be drained at."""
    drain = drains.of(node)
    assumed = -(-ASSUMED_DRAIN_BYTES_PER_SECOND // page_size_bytes)
    return max(assumed, drain.pages_per_second(now_ns) if drain is not None else 0)


def next_period_ns(
    drains: Drains,
    headrooms: tuple[tuple[int, int | None], ...],
    now_ns: int,
    page_size_bytes: int,
    read_cost_ns: int,
    *,
    watching: bool,
    hurry: Hurry = Hurry.NONE,
) -> int:
    """Nanoseconds until the next reading, from 10 ms to 1 s.

    `headrooms` holds (node, pages to its nearest watched line or its gate, or None if it has none); `read_cost_ns` is
    what the next round takes. Half of the time in which a node could reach its line, but never more than 2 % of a core;
    while `watching` (a watched line is breached or a window runs) at most 100 ms, or 200 ms where a round takes more
    than 2 ms: beyond 4 ms the dwell, which a gap of 250 ms would restart, counts more than the 2 %.
    With a `hurry` that part of a core stands for the 2 %. Never less than twice what a round takes, half is slept; for
    the samples that decide five quarters of it.
    """
    period = LONGEST_NS
    for node, headroom in headrooms:
        if headroom is not None:
            rate = assumed_rate(drains, node, now_ns, page_size_bytes)
            period = min(period, headroom * _SECOND_NS // (2 * rate))
    cheapest = min(read_cost_ns * (hurry.part or COST_FACTOR), LONGEST_NS)
    if not watching:
        return max(SHORTEST_NS, period, cheapest)
    longest = LONGEST_WATCHING_NS if hurry is Hurry.NONE else WATCHING_NS
    slept = read_cost_ns // 4 if hurry is Hurry.DECIDING else read_cost_ns
    least = max(SHORTEST_NS, min(read_cost_ns + slept, LONGEST_NS))
    return max(least, min(max(min(period, WATCHING_NS), cheapest), longest))
