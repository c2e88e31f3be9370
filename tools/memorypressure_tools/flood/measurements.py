"""What a run recorded, read: timelines of zones and cgroups, a bystander's stalls, what gave up. Pure."""

import csv
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

GFP_HIGH: Final = 0x20
GFP_DIRECT_RECLAIM: Final = 0x400
"""include/linux/gfp_types.h, Linux 6.1 and 6.12. An allocation that may use the reserve and cannot wait has the first
and not the second: GFP_ATOMIC."""
SMALLEST_MIN_PAGES: Final = 64
"""A zone whose min is smaller (DMA) is closed to the load by its lowmem reserve."""


@dataclass(frozen=True, slots=True)
class ZoneSample:
    """One zone at one time: seconds since boot, pages."""

    at: float
    node: int
    zone: str
    free_pages: int
    raw_min_pages: int
    """Watermark min without its boost."""

    def below(self, share: float) -> bool:
        """Whether free memory is under that share of min."""
        return self.free_pages < self.raw_min_pages * share


@dataclass(frozen=True, slots=True)
class ReserveFigures:
    """How deep the zones were drained, over all samples."""

    samples: int
    below_min: int
    below_half: int
    first_below_half: float | None
    """Seconds since boot."""
    lowest_percent_of_min: float | None
    longest_gap_seconds: float
    """Longest time without a sample: what happened in it was not seen."""


@dataclass(frozen=True, slots=True)
class Stall:
    """The bystander waited for fresh memory: since when (seconds since boot), for how long."""

    at: float
    seconds: float


def zone_samples(text: str) -> list[ZoneSample]:
    """Rows of the sampler's `.zones.csv`, without zones that the load cannot use; ValueError for another file."""
    rows = csv.DictReader(text.splitlines())
    samples = []
    for row in rows:
        try:
            raw_min = int(row["min"]) - int(row["boost"])
            if raw_min >= SMALLEST_MIN_PAGES:
                samples.append(ZoneSample(float(row["t"]), int(row["node"]), row["zone"], int(row["free"]), raw_min))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {rows.line_num} of the zones' timeline: {row}: {error!r}") from error
    return samples


CPU_COUNTERS: Final = ("usage_usec", "nr_throttled", "throttled_usec")
LINE = 0.75
"""The line of the default policy's trigger `reserve`, as a part of min: half of it with a margin of 50 %."""


def reserve_figures(samples: Sequence[ZoneSample]) -> ReserveFigures:
    """The figures over a timeline; a time counts once, however many of its zones are below."""
    times = sorted({sample.at for sample in samples})
    below_half = sorted({sample.at for sample in samples if sample.below(0.5)})
    shares = [sample.free_pages / sample.raw_min_pages for sample in samples]
    return ReserveFigures(
        samples=len(times),
        below_min=len({sample.at for sample in samples if sample.below(1.0)}),
        below_half=len(below_half),
        first_below_half=below_half[0] if below_half else None,
        lowest_percent_of_min=round(100 * min(shares), 1) if shares else None,
        longest_gap_seconds=round(max((b - a for a, b in itertools.pairwise(times)), default=0.0), 3),
    )


def times_drained(samples: Sequence[ZoneSample]) -> list[float]:
    """Times at which the condition held: in 3 of the last 5 samples some zone was below the default policy's line.

    That is the default policy's 15 of 50 ms, counted in samples, because samples come later under load.
    """
    below = [(at, any(each.below(LINE) for each in group)) for at, group in itertools.groupby(samples, lambda s: s.at)]
    return [at for i, (at, _) in enumerate(below) if sum(low for _, low in below[max(0, i - 4) : i + 1]) >= 3]


def file_timeline(text: str) -> tuple[list[str], list[tuple[float, list[int]]]]:
    """Names of the files and rows of (seconds since boot, first number in each, -1 where there was none)."""
    rows = list(csv.reader(text.splitlines()))
    if not rows or rows[0][:1] != ["t"]:
        raise ValueError(f"no timeline of files: {text[:80]!r}")
    return rows[0][1:], [(float(row[0]), [int(cell) for cell in row[1:]]) for row in rows[1:]]


def half_back_seconds(rows: Iterable[tuple[float, list[int]]], since: float) -> float | None:
    """Seconds from `since` until the first file's number was at most half of what it was then; None if it never was.

    The file is a victim's memory.current; one that cannot be read any more is gone, and counts as 0.
    """
    before: int | None = None
    for at, values in rows:
        if at <= since:
            before = values[0] if values[0] >= 0 else before
        elif before and max(values[0], 0) <= before / 2:
            return round(at - since, 3)
    return None


def counters(text: str) -> dict[str, int]:
    """By how much each column of the sampler's `.vmstat.csv` rose from its first to its last row."""
    rows = list(csv.DictReader(text.splitlines()))
    if not rows:
        raise ValueError("the counters' timeline is empty")
    return {name: int(rows[-1][name]) - int(rows[0][name]) for name in rows[0] if name != "t"}


def stalls(text: str) -> list[Stall]:
    """The longest waits that `canary` wrote, longest first; ValueError when it wrote no count."""
    if re.search(r"^count \d+$", text, re.MULTILINE) is None:
        raise ValueError(f"no count in the canary's file: {text[:80]!r}")
    found = re.findall(r"^stall_ms ([\d.]+) at ([\d.]+)$", text, re.MULTILINE)
    return [Stall(at=float(at), seconds=float(ms) / 1e3) for ms, at in found]


def cpu_rise(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, dict[str, float | str]]:
    """Of each container in both: its quota (`cpu.max`), seconds used, periods and seconds held still by the quota.

    The texts are `max` with cpu.max, and cpu.stat (Documentation/admin-guide/cgroup-v2.rst).
    """
    found: dict[str, dict[str, float | str]] = {}
    for name, early in before.items():
        one, other = (dict(line.split(" ", 1) for line in text.splitlines()) for text in (early, after.get(name, "")))
        if "usage_usec" in one and "usage_usec" in other:
            rise = {key: int(other.get(key, 0)) - int(one.get(key, 0)) for key in CPU_COUNTERS}
            found[name] = {
                "quota": other.get("max", ""),
                "used_seconds": rise["usage_usec"] / 1e6,
                "throttled_periods": rise["nr_throttled"],
                "throttled_seconds": rise["throttled_usec"] / 1e6,
            }
    return found


def gave_up(text: str) -> dict[int, int]:
    """Allocations that gave up, by their GFP flags, from the `hist` file of the kprobe on warn_alloc."""
    found = re.findall(r"gfp:\s*(0x[0-9a-f]+|\d+)\s*\}\s*hitcount:\s*(\d+)", text)
    return {int(flags, 16 if flags.startswith("0x") else 10): int(count) for flags, count in found}


def atomic_failures(by_flags: dict[int, int]) -> int:
    """How many of them may use the reserve and cannot wait for reclaim."""
    return sum(count for flags, count in by_flags.items() if flags & GFP_HIGH and not flags & GFP_DIRECT_RECLAIM)


@dataclass(frozen=True, slots=True)
class KillWrite:
    """A write to cgroup.kill: seconds since boot, the program that wrote."""

    at: float
    program: str


RUNTIME: Final = ("runc", "contain")
"""Programs that begin so are the container runtime's, which ends containers so, too."""


def kill_writes(text: str) -> list[KillWrite]:
    """Writes to cgroup.kill, oldest first, from the `trace` file of the kprobe on cgroup_kill_write; not the runtime's.

    Its clock is `boot`; the function is of kernel/cgroup/cgroup.c, Linux 5.14.
    """
    found = re.findall(r" ([\d.]+): kill_written: \(.*?\) comm=\"(.*)\"$", text, re.MULTILINE)
    return [KillWrite(float(at), program) for at, program in found if not program.startswith(RUNTIME)]
