"""The figures of one run, computed from what the guest brought back. Times are differences of the guest's clock."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from memorypressure.zone_values import Line
from memorypressure_tools.lab import rundata
from memorypressure_tools.lab.recording import ZoneSample, zone_samples
from memorypressure_tools.lab.rundata import Signal, Stall, VoidRunError
from memorypressure_tools.lab.scenarios import Flood, Scenario
from memorypressure_tools.lab.statistics import largest_gap, percentile

_MEMORY_BACK: Final = 0.2
"""A victim's memory is back when its cgroup holds at most this part of what it held at the kill.

Not less: what was being written to swap at that moment, up to 11 %, stays charged to it as swap cache until reclaim
comes by.
"""

MOST_LATE_SECONDS: Final = 5.0
"""A flood that begins later than this is a void run, whoever the killer is; the shortest should last 18 s."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value of a run: how tables name it, and in which unit."""

    key: str
    title: str
    unit: str


FIGURES: Final = (
    Figure("atomic_failures", "atomic allocations that failed", ""),
    Figure("worst_stall_ms", "worst stall of a bystander", "ms"),
    Figure("flood_stall_ms", "worst stall of a bystander that began in the flood", "ms"),
    Figure("p99_stall_ms", "p99 of its turns", "ms"),
    Figure("psi_full_seconds", "PSI memory full", "s"),
    Figure("below_reserve_seconds", "time below AtomicReserve", "s"),
    Figure("lowest_of_min", "lowest usable, part of min", ""),
    Figure("line_to_kill_ms", "first sample below AtomicReserve (in a flood: of the flood) to the kill", "ms"),
    Figure("kill_to_memory_back_ms", "kill to its memory back", "ms"),
    Figure("kill_to_gone_ms", "kill to its last process gone", "ms"),
    Figure("frames_lost_percent", "frames that the card could not take in", "%"),
    Figure("kills", "pods killed", ""),
    Figure("innocent_kills", "wrong pods killed", ""),
    Figure("control_phase_kills", "pods killed before the flood", ""),
    Figure("kernel_oom_kills", "kills by the kernel's OOM killer", ""),
    Figure("killer_late_ms", "longest that a turn of the agent came late", "ms"),
    Figure("killer_cpu_percent", "CPU of the killer", "% of a core"),
    Figure("killer_rss_kib", "memory of the killer", "KiB"),
    Figure("killer_major_faults", "pages that the killer had to wait for, read from a disk", ""),
    Figure("sampler_gap_ms", "longest time between two samples of the lab", "ms"),
    Figure("flood_late_seconds", "how much later than it should the flood began", "s"),
)
BY_KEY: Final = {figure.key: figure for figure in FIGURES}


def run_figures(directory: Path, scenario: Scenario) -> dict[str, Any]:
    """Every figure by its key, None where the run has none; and `deaths`, who was killed when by whom.

    VoidRunError for a run that did not come to its end.
    """
    marks = rundata.marks(directory)
    start, end = marks["start"], marks["end"]
    samples = [sample for sample in zone_samples(directory) if start <= sample.at <= end]
    if len(samples) < 2:
        raise VoidRunError("timeline.zones.csv: no samples between the start and the end of the run")
    deaths = _deaths(directory, start, end)
    first = next((death for death in deaths if death["pod"] in scenario.victims), None)
    crossed = _crossed(samples, marks["flood"] if first and first["at"] >= marks["flood"] else start)
    stalls = rundata.stalls(directory, start, end)
    atomic = {flags: count for flags, count in rundata.give_ups(directory).items() if rundata.is_atomic(flags)}
    calm_until = end if scenario.is_control and scenario.flood is Flood.NONE else marks["flood"]
    return {
        "atomic_failures": sum(atomic.values()),
        "worst_stall_ms": max(stall.seconds for stall in stalls) * 1e3,
        "flood_stall_ms": _flood_stall(stalls, marks["flood"]) if scenario.flood is not Flood.NONE else None,
        "p99_stall_ms": percentile([stall.seconds for stall in stalls], 0.99) * 1e3,
        **_pressure(directory, start, end),
        "below_reserve_seconds": _seconds_below(samples, Line.ATOMIC_RESERVE),
        "lowest_of_min": _lowest_of_min(samples),
        "line_to_kill_ms": _milliseconds(crossed, first["at"] if first else None),
        **_aftermath(directory, first),
        **_frames(directory, scenario),
        "kills": len(deaths) - _by_kernel(deaths),
        "innocent_kills": sum(not death["byKernel"] and death["pod"] not in scenario.victims for death in deaths),
        "control_phase_kills": sum(not death["byKernel"] and death["at"] < calm_until for death in deaths),
        "kernel_oom_kills": _by_kernel(deaths),
        **_killer(directory, end - start),
        "sampler_gap_ms": largest_gap([start, *(sample.at for sample in samples), end]) * 1e3,
        "flood_late_seconds": _flood_late(marks, scenario),
        "kill_after_start_seconds": first["at"] - start if first else None,
        "deaths": deaths,
    }


def _deaths(directory: Path, start: float, end: float) -> list[dict[str, Any]]:
    """The pods that got a signal that ends them; the first one to each process."""
    pods = rundata.pods(directory)
    seen: set[int] = set()
    found = []
    for signal in rundata.signals(directory):
        pod = pods.get(signal.pid)
        if pod is None or signal.pid in seen or not start <= signal.at < end:
            continue
        seen.add(signal.pid)
        found.append(_death(signal, pod))
    return found


def _death(signal: Signal, pod: str) -> dict[str, Any]:
    return {
        "pod": pod,
        "at": signal.at,
        "signal": signal.number,
        "sender": "kernel" if signal.by_kernel else signal.sender,
        "byKernel": signal.by_kernel,
    }


def _by_kernel(deaths: list[dict[str, Any]]) -> int:
    return sum(death["byKernel"] for death in deaths)


def _below(sample: ZoneSample, line: Line) -> bool:
    return any(node.below(line) for node in sample.info.counted_nodes)


def _seconds_below(samples: list[ZoneSample], line: Line) -> float:
    """Each sample stands for the time until the next one, at most 250 ms, as in the dwell of a trigger."""
    return sum(min(later.at - sample.at, 0.25) for sample, later in pairwise(samples) if _below(sample, line))


def _lowest_of_min(samples: list[ZoneSample]) -> float:
    """Lowest usable memory above protection as a part of min without boost, of the node's counted zones together."""
    lowest = float("inf")
    for sample in samples:
        for node in sample.info.counted_nodes:
            least = sum(counted.zone.min_pages - counted.zone.boost_pages for counted in node.counted)
            usable = sum(max(0, counted.zone.usable_pages - counted.protection_pages) for counted in node.counted)
            lowest = min(lowest, usable / least) if least else lowest
    return lowest


def _flood_stall(stalls: Sequence[Stall], flood: float) -> float | None:
    return _milliseconds(0, max((stall.seconds for stall in stalls if stall.at >= flood), default=None))


def _crossed(samples: Sequence[ZoneSample], since: float) -> float | None:
    """The first sample below the reserve's line; pods that fill memory before a flood may cross it briefly, too."""
    return next((sample.at for sample in samples if sample.at >= since and _below(sample, Line.ATOMIC_RESERVE)), None)


def _flood_late(marks: Mapping[str, float], scenario: Scenario) -> float | None:
    """A guest that stands still before the flood, its script too, gets less of it than the run should have.

    VoidRunError when it is much less, whoever the killer is: such a run says nothing of a flood.
    """
    if scenario.flood is Flood.NONE:
        return None
    late = max(0.0, marks["flood"] - marks["start"] - scenario.fill_seconds)
    if late > MOST_LATE_SECONDS:
        raise VoidRunError(f"marks.txt: the flood began {late:.1f} s late; the guest stood still before it")
    return late


def _pressure(directory: Path, start: float, end: float) -> dict[str, float]:
    rows = [row for row in rundata.columns(directory, "timeline.vmstat.csv") if start <= float(row["t"]) <= end]
    if len(rows) < 2:
        raise VoidRunError("timeline.vmstat.csv: no rows between the start and the end of the run")
    totals = {name: (int(rows[-1][name]) - int(rows[0][name])) / 1e6 for name in ("psi_some_us", "psi_full_us")}
    return {"psi_some_seconds": totals["psi_some_us"], "psi_full_seconds": totals["psi_full_us"]}


def _aftermath(directory: Path, death: dict[str, Any] | None) -> dict[str, float | None]:
    """How long after its first signal a victim's memory was back, and its last process gone."""
    nothing: dict[str, float | None] = {"kill_to_memory_back_ms": None, "kill_to_gone_ms": None}
    if death is None:
        return nothing
    rows = rundata.columns(directory, "timeline.files.csv")
    memory = next((name for name in rows[0] if name.endswith(f"/{death['pod']}/memory.current")), None)
    processes = next((name for name in rows[0] if name.endswith(f"/{death['pod']}/cgroup.procs")), None)
    if memory is None or processes is None:
        return nothing
    before = next((int(row[memory]) for row in reversed(rows) if float(row["t"]) <= death["at"]), None)
    after = [row for row in rows if float(row["t"]) > death["at"]]
    back = next((float(row["t"]) for row in after if before and int(row[memory]) <= before * _MEMORY_BACK), None)
    gone = next((float(row["t"]) for row in after if int(row[processes]) < 0), None)
    return {
        "kill_to_memory_back_ms": _milliseconds(death["at"], back),
        "kill_to_gone_ms": _milliseconds(death["at"], gone),
    }


def _frames(directory: Path, scenario: Scenario) -> dict[str, float | None]:
    if scenario.flood is not Flood.UDP:
        return {"frames_lost_percent": None}
    sent = rundata.numbers(directory, "flood.txt").get("sent_frames", 0)
    if not sent:
        raise VoidRunError("flood.txt: no frame was sent")
    received, _ = rundata.received_frames(directory)
    udp = rundata.udp_counters(directory)
    return {
        "frames_lost_percent": max(0.0, 100.0 * (1 - received / sent)),
        "frames_sent": sent,
        "frames_received": received,
        "datagrams_dropped": udp.get("RcvbufErrors", 0) + udp.get("MemErrors", 0),
    }


def _killer(directory: Path, seconds: float) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys(
        ("killer_cpu_percent", "killer_rss_kib", "killer_major_faults", "killer_late_ms")
    )
    if (directory / "killer.txt").exists():
        figures = rundata.numbers(directory, "killer.txt")
        if "cpu_ticks" in figures:
            found["killer_cpu_percent"] = figures["cpu_ticks"] / 100 / seconds * 100
        if "VmRSS" in figures:
            found["killer_rss_kib"] = figures["VmRSS"]
        found["killer_major_faults"] = figures.get("major_faults")
    if (directory / "agent.json").exists() or (directory / "armed.txt").exists():
        rundata.require_armed(directory)
    if (directory / "agent.json").exists():
        status = json.loads((directory / "agent.json").read_text(encoding="utf-8"))["status"]
        found["killer_late_ms"] = status["loop"]["lag"]["worst"] * 1e3
    return found


def _milliseconds(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else (later - earlier) * 1e3
