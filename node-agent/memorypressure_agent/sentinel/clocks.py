"""The clocks of a round and the waits between rounds, as values that tests can replace."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks that a round reads, so that tests can hand in others."""

    boot_ns: Callable[[], int]
    unix_ns: Callable[[], int]
    cpu_ns: Callable[[], int]
    """What the sampler's thread has used of a core, of one source: it measures what rounds cost."""


@dataclass(slots=True)
class Waits:
    """The loop's waits: when it last woke up, and how late it did each time.

    Due is what comes a period after the last waking, by a clock that stands still during suspend.
    """

    monotonic_ns: Callable[[], int]
    boot_ns: Callable[[], int]
    sleep: Callable[[float], None]
    woke_ns: int = 0
    late_ns: list[int] = field(default_factory=list)
    """Of the waits that were not counted yet."""
