"""A straight line through the measured sizes: what a node costs, how well that fits, and where it leads. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """y = base + slope x nodes, by least squares on relative errors; `residuals` are measured - fitted."""

    base: float
    slope: float
    residuals: tuple[float, ...]

    def at(self, nodes: float) -> float:
        """The value that the line has there."""
        return self.base + self.slope * nodes


def fit(sizes: Sequence[float], values: Sequence[float]) -> Line | None:
    """The line, None for fewer than two sizes.

    Each size weighs as its own inverse, so that 100 nodes say as much about the base as 5,000 do about the slope.
    """
    if len(set(sizes)) < 2:
        return None
    weights = [1 / size for size in sizes]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, sizes, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, values, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, sizes, strict=True))
    common = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, sizes, values, strict=True))
    slope = common / spread
    base = mean_y - slope * mean_x
    return Line(base, slope, tuple(y - base - slope * x for x, y in zip(sizes, values, strict=True)))


def growth(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """How the cost of a further node changes: its slope between the two largest sizes over that between the others.

    1 is a straight line, above 1 grows faster than linearly. None for fewer than three sizes or a cost that is flat.
    """
    points = sorted(zip(sizes, values, strict=True))
    if len(points) < 3:
        return None
    (x1, y1), (x2, y2), (x3, y3) = points[0], points[-2], points[-1]
    early, late = (y2 - y1) / (x2 - x1), (y3 - y2) / (x3 - x2)
    return late / early if early > 0 else None
