"""Writes the table of values into the chart's README.md, from values.yaml and its comments; --check only compares."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).resolve().parent.parent / "charts" / "memory-pressure-operator"
BEGIN: Final = "<!-- values: begin (tools/chart_readme.py) -->"
END: Final = "<!-- values: end -->"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z0-9]+):")
_COMMENT = re.compile(r"^ *# -- (?P<text>.+)$")


class UndocumentedError(ValueError):
    """A value without a comment that begins with `# --`."""


def _value(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def documented(text: str) -> dict[tuple[str, ...], str]:
    """Path and comment of each value in values.yaml; raises UndocumentedError for a value that has neither."""
    values = yaml.safe_load(text)
    found: dict[tuple[str, ...], str] = {}
    path: list[str] = []
    comment: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if note := _COMMENT.match(line):
            comment = note["text"]
        elif key := _KEY.match(line):
            path = [*path[: len(key["indent"]) // 2], key["key"]]
            if comment is not None:
                found[tuple(path)] = comment
            elif not isinstance(_value(values, tuple(path)), dict):
                raise UndocumentedError(
                    f"values.yaml line {number}: {'.'.join(path)} has no comment that begins with # --"
                )
            comment = None
    return found


def table(text: str) -> str:
    """The Markdown table: one row a value."""
    values = yaml.safe_load(text)
    rows = ["| value | default | what it does |", "|---|---|---|"]
    for path, comment in documented(text).items():
        default = json.dumps(_value(values, path), ensure_ascii=False)
        rows.append(f"| `{'.'.join(path)}` | `{default}` | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def with_table(readme: str, values: str) -> str:
    """The README with the table between its two marks; ValueError when it has not exactly one of each."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md needs one line {BEGIN!r} and one line {END!r}")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(values)}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """0 when README.md has (or now has) the table of values.yaml; 1 for drift with --check."""
    parser = argparse.ArgumentParser(prog="chart_readme", description="Write the chart's table of values.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when the table is not right")
    options = parser.parse_args(arguments)
    readme = CHART / "README.md"
    now = readme.read_text(encoding="utf-8")
    wanted = with_table(now, (CHART / "values.yaml").read_text(encoding="utf-8"))
    if now == wanted:
        return 0
    if options.check:
        print("README.md of the chart is not what values.yaml says: run tools/chart_readme.py", file=sys.stderr)
        return 1
    readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
