"""What is read in a round, and when the next round is: the gate near a line, zoneinfo when it opens, the rest slowly.

far from every line      one full reading a second
near a line              the gates every 10 ms or so; zoneinfo when one opens, and once a second
a gate stays open        zoneinfo in every round; between two of them, every 10 ms, the gate of the lines that may kill
a node is below Min      the same every 10 ms or so, as long as there is time saved
memory nearly runs out   /proc/meminfo every 100 ms
"""

from collections.abc import Callable
from typing import Final

from memorypressure.gate import gate_thresholds
from memorypressure.sampling import (
    DECIDING_SAMPLES,
    LONGEST_NS,
    MOST_SAVED_NS,
    Drains,
    Hurry,
    NodeMarks,
    assumed_rate,
    guarded_period_ns,
    least_period_ns,
    look_period_ns,
    marks_of,
    memory_is_near,
    next_period_ns,
    observe,
    observe_gates,
    rooms,
    saved_ns,
)
from memorypressure.signals import Absent, GateShut, MemInfo, Psi, Sample, Unknown
from memorypressure.spec_values import AvailableMemory
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.host.sources import HostSources
from memorypressure_agent.sentinel.ticks import SLACK_NS, Gate, Tick, Ticks

FULL_EVERY_NS: Final = 1_000_000_000
SLOW_EVERY_NS: Final = 1_000_000_000
"""Memory and PSI: the kernel updates PSI's averages every 2 s."""
SLOW_WATCHING_NS: Final = 100_000_000
"""Three of five readings are 0.3 s then: a leak of 16 MB/s takes the last 2 % of 450 MB in 0.6 s."""
SLOW_WHILE_SHORT_NS: Final = 2_000_000_000
"""The same below a line that may kill, where nothing may be waited for; within the 3 s in which a reading counts."""
_SECOND_NS: Final = 1_000_000_000

OBSERVED_LINES: Final = ((Line.ATOMIC_RESERVE, 0), (Line.LOW, 0))
"""What is kept in sight without orders."""
PAUSE_IN_VAIN: Final = 4
"""Costs of a round between a sample that a look asked for in vain and the next look: a quarter of a core at most."""
HARD_LINES: Final = frozenset((Line.ATOMIC_RESERVE, Line.MIN))
"""The lines on which a kill may rest."""


class Readings:
    """Reads samples and knows when the next one is due. For the sampler's thread."""

    def __init__(self, sources: HostSources, clock: Callable[[], int]) -> None:
        """`clock` is the clock of samples and windows."""
        self._sources = sources
        self._clock = clock
        self._gates: tuple[tuple[int, int], ...] = ()
        self._gates_clear_lines = False
        self._marks: NodeMarks = ()
        self._made_of: tuple[object, ...] = ()  # what gates and marks were made of
        self._full_ns: int | None = None
        self._slow_ns: int | None = None
        self._full_cost_ns = 0
        self._gate_cost_ns = 0
        self._gate_shut = False
        self._gate_open = False
        self._armed = False  # whether ticks may follow
        self.ticks = Ticks()
        """The readings of gates alone that follow a sample of a node at rest."""
        self._gate_rooms: tuple[tuple[int, int], ...] = ()
        self._hard = _hard(OBSERVED_LINES)
        self._hard_margin_percent = 0  # the largest of them
        self._guards: tuple[tuple[Callable[[], int | None], int], ...] = ()
        self._guard_cost_ns = 0
        self._guard_opened = False
        self._memory_watched: tuple[AvailableMemory, ...] = ()
        self._memory_near = False
        self.watched: tuple[tuple[Line, int], ...] = OBSERVED_LINES
        self.drains = Drains()
        self.info: ZoneInfo | None = None
        """The last full reading; None when the last one was not understood."""
        self.memory: MemInfo | Absent | Unknown | None = None
        self.psi_node: Psi | Absent | Unknown | None = None
        self.psi_pods: Psi | Absent | Unknown | None = None
        self._now = 0
        self._charged_ns: int | None = None
        self._saved_ns = MOST_SAVED_NS
        self._hurried = Hurry.NONE
        self.worth_a_hurry = True
        """Whether the next samples could end in a kill; else they never take more than the 2 %."""
        self._below_reserve = 0  # samples in a row
        self.full_reads = 0
        self._gate_reads = 0

    @property
    def gate_reads(self) -> int:
        """How many gates were read since the start."""
        return self._gate_reads + self.ticks.gate_reads

    def watch(self, lines: tuple[tuple[Line, int], ...], memory: tuple[AvailableMemory, ...] = ()) -> None:
        """Takes other lines to keep in sight; the next reading is a whole one, from which the gates are made anew.

        `memory` are the thresholds near which MemAvailable is read more often.
        """
        self._memory_watched = memory
        lines = lines or OBSERVED_LINES
        if lines != self.watched:
            self.watched = lines
            self._hard = _hard(lines)
            self._hard_margin_percent = max([margin for _, margin in self._hard], default=0)
            self._gates = self._guards = self._made_of = ()
            self._slow_ns = None  # with zoneinfo: else the next round would be due before a second is over
            self.ticks.end()  # the next round is no tick over gates that are no more

    def sample(self, *, watching: bool, fresh: bool = False) -> Sample:
        """The next sample. `watching`: a window runs or a trigger is active; `fresh`: all of it is read now."""
        ticks = self.ticks
        last_ns, free_pages = ticks.last
        if self._gates and last_ns > self.drains.free_ns and self.info is not None:
            before = zip(ticks.nodes, free_pages, strict=True)
            self.drains = observe_gates(self.drains, tuple(before), last_ns)
        now = self._now = self._clock()
        zones: ZoneInfo | GateShut | Absent | Unknown
        since_ns = self._full_ns
        self._armed = False
        ticks.end()
        shut = None if fresh else self._shut(now, watching=watching)
        self._gate_shut = shut is not None
        zones = shut if shut is not None else self._full(now, clear_lines=watching)
        every = self._slow_every_ns(watching)
        if watching and isinstance(zones, ZoneInfo) and self._is_below_hard(zones):
            every = SLOW_WHILE_SHORT_NS
        elif since_ns is not None and now - since_ns >= FULL_EVERY_NS - SLACK_NS:
            every //= 2  # with the full reading that is due, so that both are due together from then on
        if fresh or self._slow_ns is None or now - self._slow_ns >= every - SLACK_NS:
            elapsed_ns = 0 if self._slow_ns is None else now - self._slow_ns
            self._slow_ns = now
            whole = self._sources.read_slow()
            self._memory_near = memory_is_near(self._memory_watched, self.memory, whole[0], elapsed_ns)
            self.memory, self.psi_node, self.psi_pods = whole
            found = Sample(now, zones, *whole)
        else:
            found = Sample(now, zones, None, None, None)
        if self._armed and self._full_ns is not None:
            due_ns = min(self._full_ns + FULL_EVERY_NS, self._slow_ns + self._slow_every_ns(watching))
            ticks.begin(due_ns, SLOW_WATCHING_NS if self._memory_near else LONGEST_NS)
        return found

    def charge(self, cost_ns: int, ticks: int = 0) -> None:
        """Takes what the last round or ticks cost of a core, reading and deciding; the next period follows it.

        A single costly round (a page that had to be read again) counts at most twice what was usual.
        """
        now = self.ticks.last[0] if ticks else self._now
        elapsed_ns = 0 if self._charged_ns is None else now - self._charged_ns
        self._charged_ns = now
        on_credit = self._hurried.is_on_credit
        self._saved_ns = saved_ns(self._saved_ns, elapsed_ns, cost_ns, on_credit=on_credit)
        if ticks or self._gate_shut:
            self._gate_cost_ns = self.ticks.cost_ns = _smoothed(self._gate_cost_ns, cost_ns // (ticks or 1))
        else:
            self._full_cost_ns = _smoothed(self._full_cost_ns, cost_ns)

    def guard(self, period_ns: int) -> int | None:
        """Nanoseconds from a sample to the first `look` before the next one; None: nothing is looked at before it.

        Not behind gates that are shut, which `period_ns` follows, nor below a line that may kill, where samples follow
        each other as fast as looks. After a look that asked for a sample in vain they pause, and without saved time
        there is none until the next sample.
        """
        in_vain, self._guard_opened = self._guard_opened, False
        if not self._is_guarded():
            return None
        first = self._look_period_ns()
        if in_vain:
            if not self.worth_a_hurry or self._saved_ns <= self._full_cost_ns:
                return None
            first = max(first, PAUSE_IN_VAIN * self._full_cost_ns)
        return first if first < period_ns else None

    def look(self) -> int | None:
        """Nanoseconds to the next look while no node can be below a line that may kill; None: a sample is due."""
        for read, threshold in self._guards:
            free = read()
            self._gate_reads += 1
            if free is None or free <= threshold:
                self._guard_opened = True
                return None
        return self._look_period_ns()

    def _look_period_ns(self) -> int:
        # What was saved is for the time near a line in which a window runs, which is short.
        hurry = self._gates_clear_lines and self.worth_a_hurry and self._saved_ns > self._full_cost_ns
        return look_period_ns(self._guard_cost_ns, hurry=hurry)

    def charge_looks(self, cost_ns: int, looks: int) -> None:
        """Takes what so many looks cost of a core, since the last sample."""
        self._saved_ns = saved_ns(self._saved_ns, 0, cost_ns)
        self._guard_cost_ns = _smoothed(self._guard_cost_ns, cost_ns // looks)

    def period_ns(self, *, watching: bool) -> int:
        """Nanoseconds from the last sample to the next.

        Behind a shut gate the room is that to the gate, which a node cannot pass unseen; else that to the lines. Where
        gates are read until zones and memory are due, the last of these periods ends when they are.
        """
        info, now = self.info, self._now
        if info is None:
            return FULL_EVERY_NS
        room_of: tuple[tuple[int, int | None], ...]
        if self._gate_shut:
            room_of, cost = self._gate_rooms, self._gate_cost_ns
        else:
            room_of = rooms(info, self._marks)
            next_is_full = watching or self._gate_open or not self._gates
            cost = self._full_cost_ns if next_is_full else self._gate_cost_ns
        if watching and self._is_guarded():
            self._hurried = Hurry.NONE
            return guarded_period_ns(cost)
        hurry = self._hurry(info, watching=watching)
        if hurry.may_use_ns(self._saved_ns) <= cost:
            hurry = Hurry.NONE
        self._hurried = hurry
        period = next_period_ns(self.drains, room_of, now, info.page_size_bytes, cost, watching=watching, hurry=hurry)
        if self._armed:
            period = max(min(period, self.ticks.latest_ns - now), least_period_ns(cost))
        return min(period, SLOW_WATCHING_NS) if self._memory_near else period

    def _is_guarded(self) -> bool:
        """Whether looks at the gates will find a node that gets below a line that may kill, from above all of them."""
        info = self.info
        if info is None or not self._guards or self._gate_shut:
            return False
        return not self._is_below_hard(info)

    def _is_below_hard(self, info: ZoneInfo, *lines: Line) -> bool:
        """Whether a node is below a line that may kill, with its margin; of these lines, or of all."""
        if info.is_above_every_line(self._hard_margin_percent):
            return False
        watched = [each for each in self._hard if not lines or each[0] in lines]
        return any(node.below(line, margin) for node in info.nodes for line, margin in watched)

    def _slow_every_ns(self, watching: bool) -> int:
        return SLOW_WATCHING_NS if watching or self._memory_near else SLOW_EVERY_NS

    def _full_every_ns(self, now: int, watching: bool) -> int:
        """A second; half of it in a round in which the slow reading is due, so that both are due together from then on.

        Else a zoneinfo that was read between two slow readings would make two rounds of each second for ever after.
        """
        every = self._slow_every_ns(watching)
        slow_is_due = self._slow_ns is not None and now - self._slow_ns >= every - SLACK_NS
        return FULL_EVERY_NS // 2 if slow_is_due and every == SLOW_EVERY_NS else FULL_EVERY_NS

    def _hurry(self, info: ZoneInfo, *, watching: bool) -> Hurry:
        if not watching or self._gate_shut or not self.worth_a_hurry:
            return Hurry.NONE
        if not self._hard:
            return Hurry.WATCHING
        if self._below_reserve:
            return Hurry.DECIDING if self._below_reserve <= DECIDING_SAMPLES else Hurry.BELOW_RESERVE
        if any(node.below(Line.MIN) for node in info.nodes):
            return Hurry.BELOW_MIN
        return Hurry.WATCHING

    def _shut(self, now: int, *, watching: bool) -> GateShut | None:
        """The sample of shut gates, or None when zoneinfo has to be read."""
        if self.info is None or self._full_ns is None or not self._gates or watching != self._gates_clear_lines:
            return None
        self._gate_open = False
        if now - self._full_ns >= self._full_every_ns(now, watching) - SLACK_NS:
            return None
        free, above = [], []
        for node, threshold in self._gates:
            pages = self._sources.read_gate(node)
            self._gate_reads += 1
            if not isinstance(pages, int) or pages <= threshold:
                self._gate_open = True
                return None
            free.append((node, pages))
            above.append((node, pages - threshold))
        self._gate_rooms = tuple(above)
        node_free = tuple(free)
        self.drains = observe_gates(self.drains, node_free, now)
        self._arm(self.info, now, node_free)
        self._below_reserve = 0
        return GateShut(self.info, node_free, self._gates_clear_lines)

    def _arm(self, info: ZoneInfo, now: int, node_free: tuple[tuple[int, int], ...]) -> None:
        """Lets ticks follow a reading that found these free pages, by node as in `_gates`: above every gate."""
        page = info.page_size_bytes
        gates = [
            Gate(node, self._sources.gate_descriptor(node), threshold, assumed_rate(self.drains, node, now, page))
            for node, threshold in self._gates
        ]
        self.ticks.arm(tuple(gates), tuple([pages for _, pages in node_free]), now)
        self._armed = not self._gates_clear_lines

    def _full(self, now: int, *, clear_lines: bool) -> ZoneInfo | Absent | Unknown:
        zones = self._sources.read_zoneinfo()
        self.full_reads += 1
        if not isinstance(zones, ZoneInfo):
            self.info, self._full_ns, self._gates, self._guards = None, None, (), ()
            self._made_of = ()
            return zones
        self.info, self._full_ns = zones, now
        self._below_reserve = self._below_reserve + 1 if self._is_below_hard(zones, Line.ATOMIC_RESERVE) else 0
        self.drains = observe(self.drains, zones, now)
        self._gates_clear_lines = clear_lines
        made_of = (self.watched, clear_lines, zones.lines_key)
        if made_of != self._made_of:
            self._made_of = made_of
            self._marks = marks_of(zones, self.watched)
            gates = gate_thresholds(zones, self.watched, clear_lines=clear_lines)
            known = set(self._sources.numa_nodes)
            self._gates = gates if all(node in known for node, _ in gates) else ()
        node_free = tuple([(drain.node, drain.free_pages) for drain in self.drains.nodes])
        if self._gates and all(
            node == gated and free > threshold
            for (node, free), (gated, threshold) in zip(node_free, self._gates, strict=True)
        ):
            self._arm(zones, now, node_free)
        hard = gate_thresholds(zones, self._hard) if self._hard and self._gates and not self._armed else ()
        self._guards = tuple(
            [(self._sources.gate_reader(node), threshold - _used_of_uncounted(zones, node)) for node, threshold in hard]
        )
        return zones

    def recheck(self) -> None:
        """Looks whether one of the sources vanished, appeared or was replaced; another one at each call."""
        self._sources.recheck_one()


def sample_of(tick: Tick, info: ZoneInfo) -> Sample:
    """A tick as the sample of shut gates that it was; `info` is the full reading that the gates were made of."""
    time_ns, free = tick
    nodes = tuple(zip([node.number for node in info.counted_nodes], free, strict=True))
    return Sample(time_ns, GateShut(info, nodes, clear_lines=False), None, None, None)


def _used_of_uncounted(zones: ZoneInfo, number: int) -> int:
    """Pages in use in the zones of a node that do not count.

    A gate allows for all of them being free, for it must never be wrong. A look need not be right, and where a small
    machine has used up its zone DMA it would ask for samples in vain all the time.
    """
    node = zones.node(number)
    if node is None:
        return 0
    counted = {each.zone.name for each in node.counted}
    return sum(
        max(0, zone.managed_pages - zone.free_pages)
        for zone in zones.zones
        if zone.node == number and zone.name not in counted
    )


def _hard(lines: tuple[tuple[Line, int], ...]) -> tuple[tuple[Line, int], ...]:
    return tuple([(line, margin) for line, margin in lines if line in HARD_LINES])


def _smoothed(before: int, now: int) -> int:
    return now if before == 0 else (3 * before + min(now, 2 * before)) // 4
