"""`memorypressure-agent record`: reads this machine's zones, memory and PSI for some seconds and writes them as CSV."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from memorypressure.signals import Absent, Sample, Unknown
from memorypressure.zones import ZoneInfo
from memorypressure_agent.arguments import add_root_arguments, host_roots, number_between, proc_complaint
from memorypressure_agent.errors import EXIT_OK, AgentError, BadInputError
from memorypressure_agent.record.rows import HEADER, sample_rows

EPILOG = """\
The recording has one row for each zone and sample, with every column that
`replay` knows; what this kernel does not tell stays empty. Ctrl-C ends it
early; what was written is a whole recording.

examples:
  memorypressure-agent record --seconds 60 --output recording.csv
  memorypressure-agent record --seconds 600 --period-ms 100 | gzip > slow.csv.gz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the options of `record`."""
    parser.description = "Write a recording of this machine that `replay` reads."
    parser.epilog = EPILOG
    parser.add_argument(
        "--seconds", type=number_between(0.1, 86_400), default=30.0, metavar="N", help="length (default: 30)"
    )
    parser.add_argument(
        "--period-ms",
        type=number_between(1, 60_000),
        default=10.0,
        metavar="MS",
        help="time between samples (default: 10; dips last 10 to 260 ms)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument("--force", action="store_true", help="replace the file when it is there")
    add_root_arguments(parser)


class Sources(Protocol):
    """Where samples come from; `HostSources` on a real machine."""

    def read_sample(self) -> Sample:
        """A whole sample, now."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording came to."""

    samples: int
    unreadable: int
    worst_lateness_ns: int


def main(arguments: argparse.Namespace) -> int:
    """Record; 0 also after Ctrl-C, 2 when the machine's zones cannot be read."""
    from memorypressure_agent.host.cgroups import PodsTree
    from memorypressure_agent.host.sources import HostSources

    roots = host_roots(arguments)
    tree = PodsTree(roots.cgroup)
    sources = HostSources(roots, lambda: tree.path)
    first = sources.read_sample()
    if isinstance(first.zones, Absent | Unknown):
        raise BadInputError(proc_complaint(roots, first.zones.message))
    with ExitStack() as stack:
        file = stack.enter_context(_opened(arguments.output, force=arguments.force)) if arguments.output else sys.stdout
        try:
            done = record(
                sources,
                file,
                page_bytes=sources.page_size_bytes,
                period_ns=int(arguments.period_ms * 1e6),
                length_ns=int(arguments.seconds * 1e9),
            )
        except OSError as error:
            raise AgentError(f"cannot write {arguments.output or 'standard output'}: {error.strerror}") from error
    target = arguments.output or "standard output"
    print(
        f"recorded {done.samples} samples to {target}, at worst {done.worst_lateness_ns / 1e6:.1f} ms late",
        file=sys.stderr,
    )
    if done.unreadable:
        print(f"{done.unreadable} samples could not be read and are left out", file=sys.stderr)
    return EXIT_OK


def record(
    sources: Sources,
    file: TextIO,
    *,
    page_bytes: int,
    period_ns: int,
    length_ns: int,
    now_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Recorded:
    """Write samples every `period_ns` until `length_ns` have passed or Ctrl-C; ticks that were missed are left out."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    start_ns = due_ns = now_ns()
    samples = unreadable = worst_ns = 0
    try:
        while due_ns - start_ns <= length_ns:
            delay_ns = due_ns - now_ns()
            if delay_ns > 0:
                sleep(delay_ns / 1e9)
            worst_ns = max(worst_ns, now_ns() - due_ns)
            sample = sources.read_sample()
            if isinstance(sample.zones, ZoneInfo):
                writer.writerows(sample_rows(sample, sample.zones, start_ns, page_bytes))
                samples += 1
            else:
                unreadable += 1
            due_ns += period_ns * max(1, -(-(now_ns() - due_ns) // period_ns))
    except KeyboardInterrupt:
        pass
    file.flush()
    return Recorded(samples, unreadable, worst_ns)


def _opened(path: Path, *, force: bool) -> TextIO:
    try:
        return path.open("w" if force else "x", encoding="ascii", newline="")
    except FileExistsError:
        raise BadInputError(f"{path}: is there already; choose another name, or --force to replace it") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot write: {error.strerror}") from error
