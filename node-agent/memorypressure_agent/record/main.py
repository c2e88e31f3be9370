"""`memorypressure-agent record`: zones, memory and PSI as CSV, read now or taken from a sentinel's flight recorder."""

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
from memorypressure_agent.errors import EXIT_OK, BadInputError
from memorypressure_agent.output import STANDARD_OUTPUT, writing_to
from memorypressure_agent.record.rows import HEADER, sample_rows
from memorypressure_agent.text import duration_text

EPILOG = """\
The recording has one row for each zone and sample, with every column that
`replay` knows; what this kernel does not tell stays empty. Ctrl-C ends it
early; what was written is a whole recording.

With --journal nothing is read of this machine: the recording is what a
sentinel's flight recorder holds, which is every sample of the last ten minutes
near a line, one a second of the last day, and each of the last eight episodes
from 5 s before to 30 s after.

examples:
  memorypressure-agent record --seconds 60 --output recording.csv
  memorypressure-agent record --seconds 600 --period-ms 100 | gzip > slow.csv.gz
  memorypressure-agent record --journal ./journal --list
  memorypressure-agent record --journal ./journal --episode 3 --output e3.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the options of `record`."""
    parser.description = "Write a recording of this machine that `replay` reads."
    parser.epilog = EPILOG
    parser.add_argument(
        "--seconds",
        type=number_between(0.1, 86_400),
        metavar="N",
        help="length (default: 30); with --journal: only the last N seconds of it (default: all)",
    )
    parser.add_argument(
        "--period-ms",
        type=number_between(1, 60_000),
        metavar="MS",
        help="time between samples (default: 10; dips last 10 to 260 ms)",
    )
    parser.add_argument("--journal", metavar="FILE", help="a sentinel's journal, instead of this machine")
    parser.add_argument("--episode", type=_episode, metavar="N", help="with --journal: the episode of that number")
    parser.add_argument("--list", action="store_true", help="with --journal: show what it holds and write no recording")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument("--force", action="store_true", help="replace the file when it is there")
    add_root_arguments(parser)


DEFAULT_SECONDS = 30.0
DEFAULT_PERIOD_MS = 10.0


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
    """Record; 0 also after Ctrl-C, 2 when the machine's zones or the journal cannot be read."""
    if arguments.journal is None and (arguments.episode is not None or arguments.list):
        raise BadInputError("--episode and --list are about a journal; name it with --journal FILE")
    if arguments.journal is not None:
        return _from_journal(arguments)
    from memorypressure_agent.host.cgroups import PodsTree
    from memorypressure_agent.host.sources import HostSources

    roots = host_roots(arguments)
    tree = PodsTree(roots.cgroup)
    sources = HostSources(roots, lambda: tree.path)
    first = sources.read_sample()
    if isinstance(first.zones, Absent | Unknown):
        raise BadInputError(proc_complaint(roots, first.zones.message))
    target = arguments.output or STANDARD_OUTPUT
    with ExitStack() as stack:
        file = stack.enter_context(_opened(arguments.output, force=arguments.force)) if arguments.output else sys.stdout
        with writing_to(target):
            done = record(
                sources,
                file,
                page_bytes=sources.page_size_bytes,
                period_ns=int((arguments.period_ms or DEFAULT_PERIOD_MS) * 1e6),
                length_ns=int((arguments.seconds or DEFAULT_SECONDS) * 1e9),
            )
    print(
        f"recorded {done.samples} samples to {target}, at worst {done.worst_lateness_ns / 1e6:.1f} ms late",
        file=sys.stderr,
    )
    if done.unreadable:
        print(f"{done.unreadable} samples could not be read and are left out", file=sys.stderr)
    return EXIT_OK


def _from_journal(arguments: argparse.Namespace) -> int:
    from memorypressure_agent.record import journal

    if arguments.period_ms is not None:
        raise BadInputError("--period-ms: the samples of a journal are as they are; omit it")
    flight = journal.read_flight(arguments.journal)
    if arguments.list:
        print(journal.listing(flight))
        return EXIT_OK
    samples = journal.chosen(flight, arguments.journal, arguments.episode, arguments.seconds)
    samples, before = journal.of_one_machine(samples)
    target = arguments.output or STANDARD_OUTPUT
    with ExitStack() as stack:
        file = stack.enter_context(_opened(arguments.output, force=arguments.force)) if arguments.output else sys.stdout
        with writing_to(target):
            journal.write_recording(samples, file)
    length = duration_text((samples[-1].time_ns - samples[0].time_ns) / 1e9)
    print(
        f"recorded {len(samples)} samples ({length} from {flight.when(samples[0].time_ns)}) to {target}",
        file=sys.stderr,
    )
    if before:
        print(f"{before} samples from before the machine's zones changed are left out", file=sys.stderr)
    return EXIT_OK


def _episode(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 32:
        raise argparse.ArgumentTypeError(f"'{text[:20]}' is no episode's number, which --list shows")
    return int(text)


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
