"""`memorypressure-agent replay`: feeds a recording to the decision core and prints what it decides."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from memorypressure.spec_values import Mode, Policy
from memorypressure_agent.arguments import page_size
from memorypressure_agent.errors import EXIT_OK, BadInputError
from memorypressure_agent.output import STANDARD_OUTPUT, writing_to
from memorypressure_agent.policy_file import load_policy
from memorypressure_agent.replay.columns import help_text
from memorypressure_agent.replay.player import play
from memorypressure_agent.replay.report import JsonReport, Replayed, Report, TextReport
from memorypressure_agent.replay.series import Series

DEFAULT_PAGE_BYTES = 4096

EPILOG = f"""\
The recording is CSV with a header line. Rows of one time are one sample, and
every sample lists the same zones.

{help_text()}

Decisions are those of a dry run: the recording cannot answer an action, so
after a kill an episode decides nothing more. Pods are not recorded: a Kill
is decided without naming the victim.

examples:
  memorypressure-agent replay --policy policy.yaml recording.csv
  memorypressure-agent replay --policy policy.yaml --json recording.csv
  memorypressure-agent replay --policy policy.yaml --plot out.png recording.csv
  zcat recording.csv.gz | memorypressure-agent replay --policy policy.yaml -
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the options of `replay`."""
    parser.description = "Print what a policy would have decided over a recording, and why."
    parser.epilog = EPILOG
    parser.add_argument(
        "--policy", required=True, type=Path, metavar="FILE", help="a MemoryPressurePolicy in YAML or JSON"
    )
    parser.add_argument("--json", action="store_true", help="one decision a line, as JSON")
    parser.add_argument(
        "--all", action="store_true", help="every sample's decision (default: those that differ from the one before)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw a picture (.png, .svg or .pdf)")
    parser.add_argument(
        "--page-size",
        type=page_size,
        metavar="BYTES",
        help="bytes in a page, when the recording has no column page_size (default: 4096)",
    )
    parser.add_argument("timeline", metavar="TIMELINE.csv", help="the recording; - for standard input")


def main(arguments: argparse.Namespace) -> int:
    """Replay; 0 whatever was decided, 2 when policy or recording cannot be used."""
    if arguments.plot:
        from memorypressure_agent.replay.plot import check_plot_path

        check_plot_path(arguments.plot)
    loaded = load_policy(arguments.policy)
    for hint in loaded.hints:
        print(f"hint: {hint}", file=sys.stderr)
    policy = _as_dry_run(loaded.policy)
    series = Series(policy.triggers) if arguments.plot else None
    name = "<standard input>" if arguments.timeline == "-" else arguments.timeline
    report: Report = JsonReport(every=arguments.all) if arguments.json else TextReport(every=arguments.all)
    with _opened(arguments.timeline) as file, writing_to(STANDARD_OUTPUT):
        report.begin(loaded.policy, name)
        replayed = play(policy, name, file, arguments.page_size or 0, DEFAULT_PAGE_BYTES, report, series)
        report.end(replayed)
    if arguments.plot and series is not None:
        _plot(arguments.plot, policy, name, replayed, series)
        print(f"picture written to {arguments.plot}", file=sys.stderr)
    return EXIT_OK


def _as_dry_run(policy: Policy) -> Policy:
    return policy if policy.mode is Mode.DISABLED else replace(policy, mode=Mode.DRY_RUN)


def _plot(path: Path, policy: Policy, name: str, replayed: Replayed, series: Series) -> None:
    from memorypressure_agent.replay.plot import write_plot

    write_plot(path, f"policy {policy.name} over {Path(name).name}: {replayed.verdict}", series)


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise BadInputError(f"{name}: cannot read the recording: {error.strerror}") from error
    with file:
        yield file
