"""When the next status write is due, and how long to wait after failures: pure choices, no clock."""

from dataclasses import dataclass, replace
from typing import Final

TRANSITION_SECONDS: Final = 5.0
"""Writes follow each other no faster than this, unless they tell of an action."""
ACTION_SECONDS: Final = 1.0
"""A write that tells of an action follows the one before no faster than this. Taint, Events and eviction wait for it,
and the one before is that of the pressure, right before the kill. It is rare: a sentinel's own limit is 6 an hour."""
PRESSURE_SECONDS: Final = 10.0
"""Under pressure a write is due this long after the last one."""
BEAT_SPREAD_SECONDS: Final = 5.0
"""A new beat is reported within this time, at a moment that differs from node to node."""
SLOW_ANSWER_SECONDS: Final = 2.0
"""An answer slower than this doubles the intervals, as a 429 does."""
FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 60.0
LONGEST_RETRY_AFTER_SECONDS: Final = 300.0
"""A server that asks for more is asked again after this: a grant lives for 3 minutes or longer."""
MOST_STRETCH: Final = 8.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How the writes have gone so far. All times are seconds of one monotonic clock."""

    last_write_seconds: float | None = None
    not_before_seconds: float = 0.0
    failures: int = 0
    stretch: float = 1.0
    """Factor on the intervals, 1 to 8: doubled by slow answers and 429, halved by fast ones."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What there is to write."""

    transition: bool
    """A state has changed, or records wait to be seen."""
    action: bool
    """A few of these are of actions; a backlog, which takes several writes, is told at the slower rate."""
    under_pressure: bool
    beat_seconds: float | None
    """How long ago a beat began that was not reported yet; None: the last one was."""


def due(pace: Pace, now_seconds: float, wish: Wish, jitter: float) -> bool:
    """Whether a status write is due now; `jitter`, 0 to 1, is the node's own place within the spread of beats."""
    if now_seconds < pace.not_before_seconds:
        return False
    if pace.last_write_seconds is None or pace.failures:
        return True
    waited_seconds = now_seconds - pace.last_write_seconds
    if wish.action and waited_seconds >= ACTION_SECONDS * pace.stretch:
        return True
    if wish.beat_seconds is not None and wish.beat_seconds >= jitter * BEAT_SPREAD_SECONDS:
        return waited_seconds >= TRANSITION_SECONDS
    if wish.transition and waited_seconds >= TRANSITION_SECONDS * pace.stretch:
        return True
    return wish.under_pressure and waited_seconds >= PRESSURE_SECONDS * pace.stretch


def succeeded(pace: Pace, now_seconds: float, answer_seconds: float) -> Pace:
    """The pace after a write that took `answer_seconds`."""
    slow = answer_seconds > SLOW_ANSWER_SECONDS
    stretch = min(MOST_STRETCH, pace.stretch * 2) if slow else max(1.0, pace.stretch / 2)
    return Pace(last_write_seconds=now_seconds, stretch=stretch)


def failed(
    pace: Pace, now_seconds: float, jitter: float, *, throttled: bool, retry_after_seconds: float | None
) -> Pace:
    """The pace after a write that failed; `jitter` is a new random number from 0 to 1 each time."""
    wait_seconds = backoff_seconds(pace.failures, jitter, LONGEST_BACKOFF_SECONDS, retry_after_seconds)
    stretch = min(MOST_STRETCH, pace.stretch * 2) if throttled else pace.stretch
    return replace(pace, failures=pace.failures + 1, not_before_seconds=now_seconds + wait_seconds, stretch=stretch)


def backoff_seconds(failures: int, jitter: float, longest_seconds: float, retry_after_seconds: float | None) -> float:
    """The wait after `failures` earlier failures in a row: doubled each time, half of it random.

    Never less than the server asked for, as far as that is at most 5 minutes.
    """
    whole_seconds = min(longest_seconds, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16))
    asked_seconds = min(LONGEST_RETRY_AFTER_SECONDS, retry_after_seconds or 0.0)
    return max(whole_seconds * (0.5 + jitter / 2), asked_seconds)
