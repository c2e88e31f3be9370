"""The floods of a session as a table: what came of each, when, and whether its test passed. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from memorypressure_tools.flood.demo import timings
from memorypressure_tools.flood.run import Result

STEPS = ("memory back", "Event", "evicted", "taint lifted")


@dataclass(frozen=True, slots=True)
class Row:
    """One flood; times are seconds after the kill, `line_to_kill` milliseconds before it."""

    #: the name of its scenario
    flood: str
    began: str
    outcome: str
    valid: bool
    passed: bool
    line_to_kill: float | None
    steps: tuple[float | None, ...]


@dataclass(slots=True)
class Runs:
    """The floods so far."""

    rows: list[Row] = field(default_factory=list)

    def add(self, results: Iterable[tuple[Result, bool | None]], *, passed: bool) -> None:
        """The floods of a test that has ended; one without a verdict of its own has the test's."""
        self.rows += [_row(each, passed=passed if own is None else own) for each, own in results]

    def table(self) -> str:
        """A line for each flood, medians of the valid ones, and how many of them passed."""
        width = max(10, *(len(row.flood) for row in self.rows))
        steps = " ".join(f"{step:>12}" for step in STEPS)
        head = f"    {'flood':{width}} {'began':20} {'line to kill':>12} {steps}  result"
        lines = [f"{number:3} {_line(row, width)}" for number, row in enumerate(self.rows, 1)]
        valid = [row for row in self.rows if row.valid]
        if valid:
            medians = [_median(each) for each in zip(*(row.steps for row in valid), strict=True)]
            middle = _cells([_median(row.line_to_kill for row in valid), *medians])
            lines.append(f"    {'median':{width}} {'of valid ones':20} {middle}")
        passed = sum(row.passed for row in valid)
        lines.append(f"{len(valid)} valid, {len(self.rows) - len(valid)} void; of the valid ones {passed} passed")
        return "\n".join([head, *lines])


def _median(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _line(row: Row, width: int) -> str:
    kind = "passed" if row.passed else "FAILED"
    result = f"{row.outcome}, {kind}" if row.valid else f"{row.outcome}, void: repeated"
    return f"{row.flood:{width}} {row.began:20} {_cells([row.line_to_kill, *row.steps])}  {result}"


def _cells(values: Iterable[float | None]) -> str:
    first, *rest = values
    ahead = "-" if first is None else f"{first * 1000:.0f} ms"
    return " ".join([f"{ahead:>12}", *(f"{'-' if each is None else f'{each:.2f} s':>12}" for each in rest)])


def _row(result: Result, *, passed: bool) -> Row:
    document: dict[str, Any] = result.document
    killed, crossed = document.get("killed_at"), document.get("line_crossed_at")
    seen = dict(timings(document))
    names = (
        "half of the hog's memory back",
        "Event that explains exit 137",
        "killed pod evicted (being deleted, or gone)",
        "taint lifted",
    )
    times = [seen[name] for name in names]
    return Row(
        flood=result.scenario.name,
        began=document["began"],
        outcome=str(result.verdict.outcome),
        valid=result.valid,
        passed=passed,
        line_to_kill=None if killed is None or crossed is None else killed - crossed,
        steps=tuple(None if killed is None or at is None else at - killed for at in times),
    )
