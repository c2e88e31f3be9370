"""Medians with distribution-free intervals: few runs, skewed figures, no assumption about their shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from typing import Final

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and an interval of order statistics around it; `confidence` is what the interval really has.

    With fewer than six values no such interval reaches 95 %: it is then the range, with its own, lower confidence.
    """

    median: float
    low: float
    high: float
    confidence: float
    count: int


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. ValueError without values."""
    if not values:
        raise ValueError("a median of nothing")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median with the narrowest symmetric interval of order statistics of at least that confidence.

    The true median lies between the k-th smallest and the k-th largest of n values with probability
    1 - 2 P(Binomial(n, 1/2) < k), whatever the distribution.
    """
    ordered = sorted(values)
    count = len(ordered)
    centre = median(ordered)
    best = 1
    for k in range(1, count // 2 + 1):
        if _coverage(count, k) >= confidence:
            best = k
    return Interval(centre, ordered[best - 1], ordered[count - best], max(0.0, _coverage(count, best)), count)


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that is not below `fraction` of all (nearest rank). ValueError without values."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    rank = max(1, -int(-fraction * len(ordered) // 1))
    return ordered[min(rank, len(ordered)) - 1]


def largest_gap(times: Sequence[float]) -> float:
    """The longest time between two neighbours; 0 for fewer than two."""
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


def _coverage(count: int, k: int) -> float:
    return 1.0 - 2.0 * sum(comb(count, i) for i in range(k)) / 2.0**count
