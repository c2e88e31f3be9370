"""The console script `memorypressure-agent`: picks a subcommand and imports that one only.

A subcommand's module has `add_arguments(parser)` and `main(arguments) -> int`. The sentinel must not pay for the
reporter's HTTP client, nor `--help` for anything: a subcommand's options, too, are asked of its module only when it is
the one that was named.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from memorypressure.version import VERSION
from memorypressure_agent.errors import EXIT_FAILED, AgentError

PROGRAM = "memorypressure-agent"
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


@dataclass(frozen=True, slots=True)
class Subcommand:
    """Where a subcommand lives, and its line in `--help`."""

    module: str
    summary: str


SUBCOMMANDS = {
    "run": Subcommand("memorypressure_agent.run.main", "live view of this machine under a policy, no cluster needed"),
    "replay": Subcommand("memorypressure_agent.replay.main", "what a policy would have decided over a recording"),
    "record": Subcommand("memorypressure_agent.record.main", "write a recording of this machine for replay"),
    "sentinel": Subcommand("memorypressure_agent.sentinel.main", "the deciding process of a node (DaemonSet)"),
    "reporter": Subcommand("memorypressure_agent.reporter.main", "the node's link to the API server (DaemonSet)"),
    "kernel-log": Subcommand("memorypressure_agent.kernel_log.main", "count failed allocations of the log (DaemonSet)"),
}

DESCRIPTION = "Decides on one node, in milliseconds, when memory pressure has to end and who may be stopped for it."

EPILOG = """\
examples:
  memorypressure-agent run --policy crds/samples/default.yaml
  memorypressure-agent record --seconds 60 --output recording.csv
  memorypressure-agent replay --policy crds/samples/default.yaml --plot recording.png recording.csv

exit codes:
  0  the command did what it was asked for
  1  it failed while it ran
  2  bad input: arguments, a policy, a recording or a source that cannot be used; nothing was done
  3  something that it needs is missing
"""


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these arguments: of all subcommands only the named one has its options filled in."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for name, subcommand in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=subcommand.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if arguments and arguments[0] == name:
            importlib.import_module(subcommand.module).add_arguments(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named subcommand; the exit code, by the table in `--help`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = build_parser(words).parse_args(words)
    module = importlib.import_module(SUBCOMMANDS[parsed.subcommand].module)
    from memorypressure_agent.output import STANDARD_OUTPUT, writing_to

    try:
        code = int(module.main(parsed))
        with writing_to(STANDARD_OUTPUT):
            sys.stdout.flush()
    except AgentError as error:
        _flush_or_drop()
        print(f"{PROGRAM} {parsed.subcommand}: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _flush_or_drop()
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _flush_or_drop() -> None:
    """Writes what is left of standard output; drops what cannot be written, or Python would complain of it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
