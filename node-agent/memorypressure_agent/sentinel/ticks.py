"""Rounds between the samples of a node at rest: its gates are read and compared, and that is all.

Nothing is decided in them (`memorypressure.rest`); the first that finds anything but shut gates asks for a sample. They
come every 10 ms near a line, and each wakes up with cold caches: what a wake-up runs is little code, in one place.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from os import pread
from typing import Final

from memorypressure.sampling import LONGEST_NS, shut_period_ns
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
        self.nodes: tuple[int, ...] = ()
        """The NUMA nodes of the gates, in the order of their free pages."""
        self.free_pages: tuple[int, ...] = ()
        self.last_ns = 0
        """When the gates were last read, in a sample or after it, and what they showed."""
        self.period_ns = 0
        """From the last reading to the next one."""
        self.cost_ns = 0
        """What a reading takes of a core; the owner keeps it."""
        self.count = 0
        """Readings since the start."""
        self.gate_reads = 0
        self.taken: deque[Tick] = deque(maxlen=TICKS_KEPT)
        """The last readings, of which no sample was made yet."""
        self.unrecorded = 0
        """How many of them, the last ones, are not in the flight recorder yet."""

    def arm(self, gates: tuple[Gate, ...], free_pages: tuple[int, ...], now_ns: int) -> None:
        """Takes gates that a sample found shut; `begin` lets them be read."""
        self.nodes = tuple([gate.node for gate in gates])
        self._gates = tuple([(gate.descriptor, gate.threshold_pages, gate.pages_per_second) for gate in gates])
        self.free_pages, self.last_ns = free_pages, now_ns

    def begin(self, until_ns: int, longest_ns: int) -> None:
        """Lets the gates be read until then, when another sample is due, with no longer period than that."""
        self._until_ns, self._longest_ns = until_ns, longest_ns

    def end(self) -> None:
        """No reading until another `begin`: a sample is next."""
        self._until_ns = 0

    def forget(self) -> None:
        """Drops the readings taken: they were stepped, or nothing is known any more."""
        self.taken.clear()

    def run(self, now_ns: int, until_ns: int, pause: Callable[[int], int] | None) -> int | None:
        """Reads the gates now, and after each pause again: nanoseconds to the next reading; None: a sample is due.

        It is due when a gate opened or could not be read, a loss was faster than any before, or zones and memory are
        due. `pause` waits so long and returns the time then; 0, or no `pause`: something else is to be done first, or
        `TICKS_KEPT` readings have to be recorded.
        """
        until_ns = min(until_ns, self._until_ns)
        gates = self._gates
        while now_ns < until_ns:
            elapsed_ns = now_ns - self.last_ns
            found, rooms = [], []
            for (descriptor, threshold, rate), before in zip(gates, self.free_pages, strict=True):
                try:
                    text = pread(descriptor, FIRST_LINE_BYTES, 0)
                except OSError:
                    return None
                self.gate_reads += 1
                free = first_count(text)
                if free is None or free <= threshold or (before - free) * _SECOND_NS > rate * elapsed_ns:
                    return None
                found.append(free)
                rooms.append((free - threshold, rate))
            self.free_pages = free_pages = tuple(found)
            self.last_ns = now_ns
            self.taken.append((now_ns, free_pages))
            self.count += 1
            self.unrecorded += 1
            self.period_ns = period_ns = min(shut_period_ns(rooms, self.cost_ns), self._longest_ns)
            if pause is None or self.unrecorded == TICKS_KEPT:
                return period_ns
            now_ns = pause(period_ns)
            if not now_ns:
                return 0
        return None
