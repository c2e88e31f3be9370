"""`make bench-cluster`: the demo's flood, some runs without a policy and some with one, and a page of figures.

Every run is kept in build/runs/, those of `make demo-cluster` too, and the page is over all of them: runs may be made
in pieces, and `--report-only` makes none.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from memorypressure_tools import toolcache
from memorypressure_tools.arguments import directory, output_file
from memorypressure_tools.flood import demo, figures
from memorypressure_tools.flood.run import RESULTS

PAGE: Final = Path("build/flood-on-a-node.md")


def main(arguments: list[str] | None = None) -> int:
    """0 when the page was written; 1 when runs failed or are too few; 3 after a list of what this machine lacks."""
    parser = argparse.ArgumentParser(prog="make bench-cluster", description=__doc__)
    parser.add_argument(
        "--runs", type=demo.RUNS, default=5, metavar="N", help="valid runs of each kind; default: %(default)s"
    )
    parser.add_argument(
        "--results", type=directory, metavar="DIR", help=f"with --report-only: the runs to report; default: {RESULTS}"
    )
    parser.add_argument(
        "--output", type=output_file, default=PAGE, metavar="FILE", help="the page; default: %(default)s"
    )
    parser.add_argument("--report-only", action="store_true", help="no new runs, only the page")
    options = parser.parse_args(arguments)
    if options.results and not options.report_only:
        parser.error(f"--results goes with --report-only: new runs are kept in {RESULTS}")
    results = options.results or RESULTS
    code = 0
    if not options.report_only:
        code = demo.main(["--runs", str(options.runs)])
        if code == toolcache.EXIT_MISSING:
            return code
    try:
        text = figures.page(documents(results), "make bench-cluster")
    except ValueError as error:
        print(f"bench-cluster: {results}: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(f"{text}\n{options.output}")
    return code


def documents(results: Path) -> list[dict[str, Any]]:
    """The runs of the demo that were kept, oldest first; ValueError that names a file that is no run."""
    found = []
    for path in sorted(results.glob("*.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            name, began = run["scenario"]["name"], str(run["began"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name} is no run: {type(error).__name__}: {error}") from error
        if name in {figures.WITHOUT, figures.WITH}:
            found.append((began, run))
    return [run for _, run in sorted(found, key=lambda each: each[0])]


if __name__ == "__main__":
    sys.exit(main())
