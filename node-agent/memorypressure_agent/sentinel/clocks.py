"""The clocks of a round, as values that tests can replace."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks that a round reads, so that tests can hand in others."""

    boot_ns: Callable[[], int]
    unix_ns: Callable[[], int]
    cpu_ns: Callable[[], int]
    """What the sampler's thread has used of a core, of one source: it measures what rounds cost."""
