"""Runs every script of tests/bench and prints what they measured: `make bench`.

A script prints one JSON object a line,
`{"name": ..., "value": ..., "unit": ...}`, with `"limit": ...` where the measured
value must not be above one; other lines go through as they are. All rows end up in build/bench.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SCRIPTS: Final = REPOSITORY / "tests" / "bench"
RESULT: Final = REPOSITORY / "build" / "bench.json"
LIMIT_SECONDS: Final = 600.0


class BenchError(Exception):
    """A script failed or printed something that is no row; the text names it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value; `limit` in the same unit, None where there is no budget."""

    script: str
    name: str
    value: float
    unit: str
    limit: float | None

    @property
    def within(self) -> bool:
        """False when the value is above its limit."""
        return self.limit is None or self.value <= self.limit


def parse(script: str, line: str) -> Row:
    """The row of one line of a script's output; raises BenchError naming the field that is wrong."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise BenchError(f"{script}: not JSON ({error}): {line}") from None
    for key, kinds in (("name", str), ("value", int | float), ("unit", str), ("limit", int | float | None)):
        if not isinstance(fields.get(key), kinds):
            raise BenchError(f"{script}: {key}: {fields.get(key)!r} is no {kinds} in: {line}")
    unknown = set(fields) - {"name", "value", "unit", "limit"}
    if unknown:
        raise BenchError(f"{script}: unknown fields {sorted(unknown)} in: {line}")
    return Row(script, fields["name"], fields["value"], fields["unit"], fields.get("limit"))


def run(script: Path) -> list[Row]:
    """The rows that one script printed; raises BenchError when it fails, hangs or prints none."""
    name = script.stem
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name}: still running after {LIMIT_SECONDS:.0f} s") from None
    rows = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            rows.append(parse(name, line))
        else:
            print(line)
    if done.returncode != 0 and all(row.within for row in rows):  # a value above its limit ends the script with 1 too
        raise BenchError(f"{name}: ended with code {done.returncode}")
    if not rows:
        raise BenchError(f"{name}: printed no row")
    return rows


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| measured | value | limit | |", "|---|---:|---:|---|"]
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g} {row.unit}"
        lines.append(f"| {row.name} | {row.value:.4g} {row.unit} | {limit} | {'' if row.within else 'ABOVE'} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """0 when everything is within its limit; 1 for a value above it or a script that failed."""
    parser = argparse.ArgumentParser(prog="bench", description="Run the scripts of tests/bench.")
    parser.add_argument("names", nargs="*", metavar="SCRIPT", help="file names without .py; default: all")
    wanted: list[str] = parser.parse_args(arguments).names
    scripts = {path.stem: path for path in sorted(SCRIPTS.glob("*.py"))}
    unknown = [name for name in wanted if name not in scripts]
    if unknown or not scripts:
        parser.error(f"no script {SCRIPTS / (unknown or ['*'])[0]}.py; there are: {', '.join(scripts) or 'none'}")
    rows: list[Row] = []
    failures: list[str] = []
    for name in wanted or scripts:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        try:
            rows += run(scripts[name])
        except BenchError as error:
            failures.append(str(error))
    print(table(rows))
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n", "utf-8")
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures or not all(row.within for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
