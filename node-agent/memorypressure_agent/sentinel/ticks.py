"""Rounds between the samples of a node at rest: its gates are read and compared, and that is all.

Nothing is decided in them (`memorypressure.rest`); the first that finds anything but shut gates asks for a sample. They
come every 10 ms near a line, and each wakes up with cold caches: what a wake-up runs is little code, in one place.
"""

from collections import deque
from dataclasses import dataclass
from os import pread
from typing import Final

from memorypressure.sampling import LONGEST_NS, least_period_ns
from memorypressure_agent.host.sources import FIRST_COUNTER, FIRST_LINE_BYTES
from memorypressure_agent.sentinel.clocks import Waits

TICKS_KEPT: Final = 16
"""At least the five of which a window is made."""
SLACK_NS: Final = 5_000_000
"""A round that is due in less than this is due now."""
_SECOND_NS: Final = 1_000_000_000

Tick = tuple[int, tuple[int, ...]]
"""When gates were read, and each one's free pages."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A NUMA node's gate, shut while its free pages are above the threshold.

    `descriptor` is that of its vmstat, open until the next sample; a faster loss than the rate asks for one.
    """

    node: int
    descriptor: int
    threshold_pages: int
    pages_per_second: int


class Ticks:
    """Reads gates that were shut at the last sample. For the sampler's thread."""

    def __init__(self) -> None:
        self._gates: tuple[tuple[int, int, int], ...] = ()
        self._until_ns = 0
        self.latest_ns = 0
        """When the next sample is due, whatever the room: no period is longer than until then."""
        self._longest_ns = LONGEST_NS
        self._recorded = 0
        self.nodes: tuple[int, ...] = ()
        """The NUMA nodes of the gates, in the order of their free pages."""
        self.last: Tick = (0, ())
        """The last reading of the gates, in a sample or after it."""
        self.period_ns = 0
        """From the last reading to the next one."""
        self.cost_ns = 0
        """What a reading takes of a core; the owner keeps it."""
        self.count = 0
        """Readings since the start."""
        self.gate_reads = 0
        self.taken: deque[Tick] = deque(maxlen=TICKS_KEPT)
        """The last readings, of which no sample was made yet."""

    def arm(self, gates: tuple[Gate, ...], free_pages: tuple[int, ...], now_ns: int) -> None:
        """Takes gates that a sample found shut; `begin` lets them be read."""
        self.nodes = tuple([gate.node for gate in gates])
        self._gates = tuple([(gate.descriptor, gate.threshold_pages, gate.pages_per_second) for gate in gates])
        self.last = now_ns, free_pages

    def begin(self, due_ns: int, longest_ns: int) -> None:
        """Lets the gates be read until another sample is due, or nearly so, with no longer period than that."""
        self.latest_ns, self._until_ns, self._longest_ns = due_ns, due_ns - SLACK_NS, longest_ns

    def end(self) -> None:
        """No reading until another `begin`: a sample is next."""
        self._until_ns = 0

    def forget(self) -> None:
        """Drops the readings taken: they were stepped, or nothing is known any more."""
        self.taken.clear()

    def take_unrecorded(self) -> tuple[Tick, ...]:
        """The readings that were not asked for here before: for the flight recorder."""
        count, self._recorded = self.count - self._recorded, self.count
        return tuple(self.taken)[-count:] if count else ()

    @property
    def is_full(self) -> bool:
        """Whether another reading would push one out that is not recorded."""
        return self.count - self._recorded >= TICKS_KEPT

    def run(self, now_ns: int, until_ns: int, waits: Waits | None) -> int | None:
        """Reads the gates now, and after each pause again: nanoseconds to the next reading; None: a sample is due.

        It is due when a gate opened or could not be read, a loss was faster than any before, or zones and memory are
        due. Without `waits`, and with `TICKS_KEPT` readings to be recorded, the caller waits. All of a wake-up is in
        this function: each further one that it called would be cold, too, and cost more than what it does.
        """
        latest_ns, until_ns = self.latest_ns, min(until_ns, self._until_ns)
        gates, longest_ns = self._gates, self._longest_ns
        shortest_ns = min(least_period_ns(self.cost_ns), longest_ns)
        last_ns, before = self.last
        while now_ns < until_ns:
            elapsed_ns, period_ns = now_ns - last_ns, longest_ns
            found: tuple[int, ...] = ()
            for descriptor, threshold, rate in gates:
                try:
                    text = pread(descriptor, FIRST_LINE_BYTES, 0)
                except OSError:
                    return None
                self.gate_reads += 1
                end = text.find(b"\n")  # as `first_count`
                digits = text[len(FIRST_COUNTER) : end]
                if end < 0 or not digits.isdigit() or not text.startswith(FIRST_COUNTER):
                    return None
                free = int(digits)
                lost = before[len(found)] - free
                if free <= threshold or lost * _SECOND_NS > rate * elapsed_ns:
                    return None
                found += (free,)
                half_ns = (free - threshold) * _SECOND_NS // (2 * rate)
                period_ns = min(period_ns, half_ns)
            last_ns, before = self.last = now_ns, found
            self.taken.append(self.last)
            self.count += 1
            left_ns = latest_ns - now_ns
            period_ns = max(min(period_ns, left_ns), shortest_ns)
            self.period_ns = period_ns
            if waits is None or self.count - self._recorded >= TICKS_KEPT:
                return period_ns
            began_ns = waits.monotonic_ns()
            due_ns = waits.woke_ns + period_ns
            due_ns = max(due_ns, began_ns)
            waits.sleep((due_ns - began_ns) / 1e9)
            waits.woke_ns = woke_ns = waits.monotonic_ns()
            waits.late_ns.append(woke_ns - due_ns)
            now_ns = waits.boot_ns()
        return None
