"""Which nodes have to be looked at, when, and whether their plans have to be thought over again."""

import heapq
import threading
from collections.abc import Callable, Iterable


class Dirty:
    """Node names waiting for a look, the urgent ones first; a name waits `coalesce_seconds` for more changes.

    A look is *light* when nothing but the node's report or time has moved: then its plan is as it was. Every
    operation costs O(log n) at most, however many nodes there are.
    """

    def __init__(self, clock: Callable[[], float], coalesce_seconds: float) -> None:
        self._clock = clock
        self._coalesce = coalesce_seconds
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # may hold entries that `_due` has overtaken
        self._urgent: dict[str, None] = {}
        self._reported: dict[str, None] = {}
        self._thorough: set[str] = set()
        self._since: dict[str, float] = {}  # since when a change of the node was not looked at; the oldest comes first
        self._changed = threading.Condition(threading.Lock())

    def add(
        self, names: Iterable[str], *, urgent: bool = False, delay_seconds: float | None = None, light: bool = False
    ) -> None:
        """Marks nodes; an earlier due time stays. `delay_seconds` replaces the time for coalescing.

        With `light` a look that nobody else asked for leaves the plan alone.
        """
        wait = 0.0 if urgent else self._coalesce if delay_seconds is None else delay_seconds
        now = self._clock()
        due = now + wait
        with self._changed:
            earlier = not self._heap or due < self._heap[0][0]
            for name in names:
                if not light:
                    self._thorough.add(name)
                if delay_seconds is None:
                    self._since.setdefault(name, now)
                if urgent:
                    self._urgent[name] = None
                known = self._due.get(name)
                if known is None or due < known:
                    self._due[name] = due
                    heapq.heappush(self._heap, (due, name))
            if len(self._heap) > 2 * len(self._due) + 1000:  # mostly overtaken
                self._heap = [(due, name) for name, due in self._due.items()]
                heapq.heapify(self._heap)
            if urgent or earlier:
                self._changed.notify()

    def take(self) -> tuple[str, bool] | None:
        """The node to look at next, and whether it is so for pressure or a report; None while none is due.

        First those under new pressure, then those that reported, in the order in which they did, then by due time.
        """
        now = self._clock()
        with self._changed:
            for waiting in (self._urgent, self._reported):
                if waiting:
                    name = next(iter(waiting))
                    self._forget(name)
                    return name, True
            while self._heap and self._heap[0][0] <= now:
                due, name = heapq.heappop(self._heap)
                if self._due.get(name) == due:
                    self._forget(name)
                    return name, False
        return None

    def _forget(self, name: str) -> None:
        self._urgent.pop(name, None)
        self._reported.pop(name, None)
        self._due.pop(name, None)
        self._since.pop(name, None)

    def report(self, name: str, *, urgent: bool) -> None:
        """A node reported: it rarely does, and waits for what comes of it, so that nothing is collected first.

        `urgent`: new pressure.
        """
        now = self._clock()
        with self._changed:
            (self._urgent if urgent else self._reported)[name] = None
            self._due[name] = min(now, self._due.get(name, now))
            self._since.setdefault(name, now)
            self._changed.notify()

    def pressing(self) -> bool:
        """Whether a node that reported has to wait for what is done now."""
        return bool(self._urgent or self._reported)

    def oldest(self, default: float) -> float:
        """When the oldest change came that was not looked at yet."""
        with self._changed:
            return next(iter(self._since.values()), default)

    def thorough(self, name: str) -> bool:
        """Whether more than a report or time made the node dirty since this was last asked; forgets it."""
        with self._changed:
            found = name in self._thorough
            self._thorough.discard(name)
            return found

    def wait(self, limit_seconds: float) -> None:
        """Returns when something is due or new, at the latest after the limit."""
        with self._changed:
            if self._urgent or self._reported:
                return
            while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                heapq.heappop(self._heap)
            wait = limit_seconds
            if self._heap:
                wait = min(wait, self._heap[0][0] - self._clock())
            if wait > 0:
                self._changed.wait(wait)

    def wake(self) -> None:
        """Ends a `wait`."""
        with self._changed:
            self._changed.notify()

    def waiting(self) -> int:
        """How many nodes should have been looked at by now."""
        now = self._clock()
        with self._changed:
            return sum(due <= now for due in self._due.values())

    def __len__(self) -> int:
        return len(self._due)
