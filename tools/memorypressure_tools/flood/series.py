"""Runs repeated until enough of them are valid; the void ones are counted and shown, never dropped."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from memorypressure_tools.flood.run import RESULTS, Result


@dataclass(slots=True)
class Series:
    """The runs of one question: what was valid, and what was not."""

    name: str
    valid: list[Result] = field(default_factory=list)
    void: list[Result] = field(default_factory=list)

    def median(self, figure: str) -> float | None:
        """The median of a figure of the valid runs' documents; None where none has it."""
        found = [each.document[figure] for each in self.valid if each.document.get(figure) is not None]
        return median(found) if found else None

    def summary(self) -> str:
        """One line: how many runs, and why the void ones were."""
        reasons = ", ".join(sorted(each.verdict.outcome for each in self.void)) or "none"
        return f"{self.name}: {len(self.valid)} valid of {len(self.valid) + len(self.void)} runs; void: {reasons}"


class TooManyVoidError(Exception):
    """The condition could not be produced; the text says what each run lacked."""


def repeat(
    name: str,
    run: Callable[[], Result],
    *,
    wanted: int = 1,
    most_void: int = 3,
    directory: Path = RESULTS,
    series: Series | None = None,
) -> Series:
    """Runs until `wanted` runs are valid, saving each; TooManyVoidError when more than `most_void` were not.

    `series`: one to go on with, whose runs count.
    """
    series = Series(name) if series is None else series
    while len(series.valid) < wanted:
        result = run()
        path = result.save(directory)
        (series.valid if result.valid else series.void).append(result)
        kind = "valid" if result.valid else "void"
        print(f"{name}: {kind}: {result.verdict.outcome}: {result.verdict.why} ({path})", file=sys.stderr, flush=True)
        if len(series.void) > most_void:
            reasons = "; ".join(f"{each.verdict.outcome}: {each.verdict.why}" for each in series.void)
            raise TooManyVoidError(f"{series.summary()}. {reasons}")
    return series
