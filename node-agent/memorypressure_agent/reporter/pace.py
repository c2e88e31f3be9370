"""When the next status write is due: a pure choice from what has changed and how the server answers."""

from dataclasses import dataclass, replace

TRANSITION_SECONDS = 5.0
"""Transitions are written no faster than this."""
PRESSURE_SECONDS = 10.0
"""Under pressure a write is due this long after the last one."""
SLOW_ANSWER_SECONDS = 2.0
"""An answer slower than this doubles the intervals, as a 429 does."""
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
MOST_STRETCH = 8.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How the writes have gone so far. All times are seconds of one monotonic clock."""

    last_write_seconds: float | None = None
    not_before_seconds: float = 0.0
    failures: int = 0
    stretch: float = 1.0
    """Factor on the intervals, 1 to 8: doubled by slow answers and 429, halved by fast ones."""


def due(pace: Pace, now_seconds: float, *, transition: bool, under_pressure: bool, new_beat: bool) -> bool:
    """Whether a status write is due now."""
    if now_seconds < pace.not_before_seconds:
        return False
    if pace.last_write_seconds is None or new_beat or pace.failures:
        return True
    waited_seconds = now_seconds - pace.last_write_seconds
    if transition and waited_seconds >= TRANSITION_SECONDS * pace.stretch:
        return True
    return under_pressure and waited_seconds >= PRESSURE_SECONDS * pace.stretch


def succeeded(pace: Pace, now_seconds: float, answer_seconds: float) -> Pace:
    """The pace after a write that took `answer_seconds`."""
    slow = answer_seconds > SLOW_ANSWER_SECONDS
    stretch = min(MOST_STRETCH, pace.stretch * 2) if slow else max(1.0, pace.stretch / 2)
    return Pace(last_write_seconds=now_seconds, stretch=stretch)


def failed(
    pace: Pace, now_seconds: float, jitter: float, *, throttled: bool, retry_after_seconds: float | None
) -> Pace:
    """The pace after a write that failed; `jitter`, a random number from 0 to 1, spreads half of the back-off."""
    backoff_seconds = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(pace.failures, 10))
    wait_seconds = max(backoff_seconds * (0.5 + jitter / 2), retry_after_seconds or 0.0)
    stretch = min(MOST_STRETCH, pace.stretch * 2) if throttled else pace.stretch
    return replace(pace, failures=pace.failures + 1, not_before_seconds=now_seconds + wait_seconds, stretch=stretch)
