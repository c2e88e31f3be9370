"""Windows: how long a condition has held, and by how many samples; O(1) a sample while nothing happens."""

from dataclasses import dataclass

LAST_SAMPLES = 5
NEEDED_SAMPLES = 3
_FLAGS = (1 << LAST_SAMPLES) - 1

Times = tuple[int, ...]
"""Times of the samples of one source since its windows were restarted, the last five, newest last; ns."""


def restarted(times: Times, now_ns: int, longest_gap_ns: int) -> bool:
    """Whether a sample at `now_ns` cannot continue the windows: the first, after too long a gap, or out of order."""
    return not times or not 0 < now_ns - times[-1] <= longest_gap_ns


def with_sample(times: Times, now_ns: int, *, restart: bool) -> Times:
    """The times with one more sample."""
    return (now_ns,) if restart else (*times[1 - LAST_SAMPLES :], now_ns)


@dataclass(frozen=True, slots=True)
class Window:
    """Samples of one condition: the last five as bits, newest lowest, and the stretches of time in which it held.

    A stretch lies between samples that follow each other and in all of which it held: what one sample alone shows may
    have been over at once, and a sample comes as soon as the condition begins, so that dips far apart would add up.
    """

    flags: int = 0
    stretches: tuple[tuple[int, int], ...] = ()
    held_ns: int = 0

    @property
    def running(self) -> bool:
        """Whether there is anything in the window."""
        return bool(self.flags or self.stretches)

    def fulfilled(self, needed_ns: int) -> bool:
        """Whether 3 of the last 5 samples held and the time in which they did reaches `needed_ns`."""
        return self.flags.bit_count() >= NEEDED_SAMPLES and self.held_ns >= needed_ns

    def fed(self, times: Times, within_ns: int, *, holds: bool) -> "Window":
        """The window after the sample at `times[-1]`.

        Time is kept for the last `within_ns`, or for the span of the last five samples if that is longer.
        """
        if len(times) < 2:
            return _FIRST_HOLDS if holds else EMPTY
        if not holds and not self.flags and not self.stretches:
            return EMPTY
        now = times[-1]
        stretches, held = self.stretches, self.held_ns
        if holds and self.flags & 1:
            before = times[-2]
            held += now - before
            if stretches and stretches[-1][1] == before:
                stretches = (*stretches[:-1], (stretches[-1][0], now))
            else:
                stretches = (*stretches, (before, now))
        oldest = min(now - within_ns, times[0])
        while stretches and stretches[0][0] < oldest:
            start, end = stretches[0]
            if end <= oldest:
                held -= end - start
                stretches = stretches[1:]
            else:
                held -= oldest - start
                stretches = ((oldest, end), *stretches[1:])
        return Window((self.flags << 1 | holds) & _FLAGS, stretches, held)


EMPTY = Window()
_FIRST_HOLDS = Window(flags=1)
