"""Rounds between the samples of a node at rest: its gates are read and compared, and that is all.

Nothing is decided in them (`memorypressure.rest`); the first that finds anything but shut gates asks for a sample. They
come every 10 ms near a line, and each wakes up with cold caches: what a wake-up runs is little code, in one place.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from os import pread
from typing import Final

from memorypressure.sampling import LONGEST_NS, least_period_ns
from memorypressure_agent.host.sources import FIRST_LINE_BYTES, first_count

TICKS_KEPT: Final = 16
"""At least the five of which a window is made."""
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

    def begin(self, until_ns: int, longest_ns: int) -> None:
        """Lets the gates be read until then, when another sample is due, with no longer period than that."""
        self._until_ns, self._longest_ns = until_ns, longest_ns

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

    def run(self, now_ns: int, until_ns: int, pause: Callable[[int], int] | None) -> int | None:
        """Reads the gates now, and after each pause again: nanoseconds to the next reading; None: a sample is due.

        It is due when a gate opened or could not be read, a loss was faster than any before, or zones and memory are
        due. `pause` waits so long and returns the time then; without it, and with `TICKS_KEPT` readings to be recorded,
        the caller waits.
        """
        until_ns = min(until_ns, self._until_ns)
        gates, longest_ns = self._gates, self._longest_ns
        shortest_ns = min(least_period_ns(self.cost_ns), longest_ns)
        while now_ns < until_ns:
            last_ns, before = self.last
            elapsed_ns, period_ns = now_ns - last_ns, longest_ns
            found = []
            for (descriptor, threshold, rate), free_before in zip(gates, before, strict=True):
                try:
                    free = first_count(pread(descriptor, FIRST_LINE_BYTES, 0))
                except OSError:
                    return None
                self.gate_reads += 1
                if free is None or free <= threshold or (free_before - free) * _SECOND_NS > rate * elapsed_ns:
                    return None
                found.append(free)
                period_ns = min(period_ns, (free - threshold) * _SECOND_NS // (2 * rate))
            self.last = last = now_ns, tuple(found)
            self.taken.append(last)
            self.count += 1
            self.period_ns = period_ns = max(shortest_ns, period_ns)
            if pause is None or self.is_full:
                return period_ns
            now_ns = pause(period_ns)
        return None
