"""What a script of tests/bench measured: a table on a terminal, else a JSON object a line, as `make bench` reads it."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One measured value, with its limit where it has one, in the same unit."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def within(self) -> bool:
        """False when the value is above its limit."""
        return self.limit is None or self.value <= self.limit

    def markdown(self) -> str:
        """The row of a table."""
        limit = "" if self.limit is None else f"{self.limit:.4g} {self.unit}"
        verdict = "" if self.limit is None else "pass" if self.within else "MISS"
        return f"| {self.name} | {self.value:.4g} {self.unit} | {limit} | {verdict} |"


def show(rows: Iterable[Row], *, table: bool | None = None) -> int:
    """Prints each row as soon as it is there; 1 when one is above its limit, else 0. `table` None: on a terminal."""
    as_table = sys.stdout.isatty() if table is None else table
    if as_table:
        print("| measured | value | limit | |", "|---|---:|---:|---|", sep="\n")
    within = True
    for row in rows:
        print(row.markdown() if as_table else json.dumps(asdict(row)), flush=True)
        within = within and row.within
    return 0 if within else 1
