"""A watchdog over one thread, asked by another one: tells whether it stands still while the one who asks goes on."""

from typing import Final

LONGEST_STEP_NS: Final = 2_000_000_000
"""Of the time between two questions at most this much counts, and never more than a quarter of the limit: a machine
that stalls or sleeps stops both threads, and the one that asks may be the first to wake up."""


class Watchdog:
    """Counts the time without progress, as far as the asking thread has lived through it."""

    def __init__(self, limit_ns: int) -> None:
        self._limit_ns = limit_ns
        self._longest_step_ns = min(LONGEST_STEP_NS, limit_ns // 4)
        self._progress: int | None = None
        self._asked_ns = 0
        self.still_ns = 0
        """How long there has been no progress."""

    def stuck(self, progress: int, now_ns: int) -> bool:
        """Whether `progress` (any number that changes) has been the same for the limit. For about once a second."""
        if progress != self._progress:
            self._progress, self.still_ns = progress, 0
        else:
            self.still_ns += min(max(0, now_ns - self._asked_ns), self._longest_step_ns)
        self._asked_ns = now_ns
        return self.still_ns >= self._limit_ns
