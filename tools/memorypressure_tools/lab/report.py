"""The report of a series: README.md for people, results.json and runs.jsonl for programs, pictures beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from memorypressure_tools.lab.arms import ARMS, Killer
from memorypressure_tools.lab.bars import Bar, bars, by_cell
from memorypressure_tools.lab.figures import BY_KEY
from memorypressure_tools.lab.scenarios import SCENARIOS, Flood, Scenario
from memorypressure_tools.lab.series import Result, is_current
from memorypressure_tools.lab.statistics import interval

_FLOOD_COLUMNS: Final = (
    "atomic_failures",
    "worst_stall_ms",
    "flood_stall_ms",
    "p99_stall_ms",
    "psi_full_seconds",
    "below_reserve_seconds",
    "lowest_of_min",
    "line_to_kill_ms",
    "kill_to_memory_back_ms",
    "frames_lost_percent",
    "sampler_gap_ms",
)
_LEAK_COLUMNS: Final = ("worst_stall_ms", "p99_stall_ms", "psi_full_seconds", "kill_after_start_seconds")
_CONTROL_COLUMNS: Final = ("lowest_of_min", "below_reserve_seconds", "worst_stall_ms", "psi_full_seconds")
_KILLER_COLUMNS: Final = ("killer_late_ms", "killer_cpu_percent", "killer_rss_kib", "killer_major_faults")
_KILLS: Final[Mapping[str, str]] = {
    "kills": "killed",
    "innocent_kills": "wrong",
    "control_phase_kills": "before the flood",
    "kernel_oom_kills": "kernel OOM",
}
_TITLES: Final[Mapping[str, str]] = {
    "atomic_failures": "failed atomic allocations",
    "worst_stall_ms": "worst stall, ms",
    "flood_stall_ms": "of those since the flood, ms",
    "p99_stall_ms": "p99 turn, ms",
    "psi_full_seconds": "PSI full, s",
    "below_reserve_seconds": "below AtomicReserve, s",
    "line_to_kill_ms": "line to kill, ms",
    "kill_to_memory_back_ms": "kill to memory back, ms",
    "kill_after_start_seconds": "leak to kill, s",
    "lowest_of_min": "lowest, part of min",
    "frames_lost_percent": "frames lost, %",
    "sampler_gap_ms": "lab's longest gap, ms",
    "killer_late_ms": "latest turn, ms",
    "killer_cpu_percent": "CPU, % of a core",
    "killer_rss_kib": "RSS, KiB",
    "killer_major_faults": "major faults",
}

TOLD_LATE_SECONDS: Final = 1.0

EXPLANATION: Final = """\
## What this is

Each run is a small virtual machine (Debian's kernel, QEMU without KVM, 2 virtual CPUs) in which the condition that the
project is about is produced on purpose: a network card whose driver takes a whole page for every small frame, in
interrupt context; a receiver that drains its sockets in bursts; a reader of more data than memory; a pod that writes to
more memory than fits, so that reclaim succeeds all the time but only as fast as a throttled disk. Six seconds after the
pods the host floods the card for 18 s. 26 s are measured.

The guest has a kubepods tree with pods as a node has them: QoS class Burstable, oom_score_adj as the kubelet sets it,
sandboxes. Our agent runs as the DaemonSet's container does, in its own guaranteed pod, under the default policy
(`crds/samples/default.yaml`) in mode Enforce, with orders made by core's own code and a grant that echoes its beat. The
other killers are Debian's packages, with oom_score_adj -1000 and protected memory.

## How it is measured

- **Failed atomic allocations**: a probe on `warn_alloc` counts every allocation that the kernel gives up, also those
  that the log leaves out. Counted are flags with `__GFP_HIGH` and without direct reclaim or `__GFP_NORETRY` (which is a
  first try of SLUB).
- **Worst stall, p99**: a bystander maps 256 KiB of fresh memory every 5 ms, touches it and gives it back; how long that
  took.
- **PSI full**: growth of `total` of /proc/pressure/memory.
- **Below AtomicReserve**: /proc/zoneinfo every 10 ms by a program with locked memory under SCHED_FIFO, judged by core.
- **Kills**: every KILL and TERM by the tracepoint `signal_generate`, by whom and when; which pod the process was of.
- **Line to kill**: from the first sample of the lab below AtomicReserve to the first signal. Negative: it came before.
- **Killed, wrong, before the flood, kernel OOM**: in how many runs; in brackets how many pods where that
  is another number.
- **Frames lost**: of those that the host sent, those that the card could not take in.
- **Lab's longest gap**: between two samples of the lab, or from the last one to the end of the run; a guest to which
  the host gives no time has long ones. What happens within one is not seen: the times below AtomicReserve and PSI of a
  run that ends in a gap are too low.
- **Memory back**: the victim's cgroup holds at most a fifth of what it held at the kill (swap cache counts).
- **Latest turn**: how much later than it had asked for the agent's loop woke up, at worst, from its start on. CPU and
  faults are those of the killer's process from the pods' start to the end, RSS at the end; empty where it had ended.
- Figures are medians; in brackets the interval of order statistics that holds the true median with at least 95 %, or
  the range where there are fewer than six runs. Absolute times are several times longer than on hardware: compare arms.
"""


def write_report(where: Path, results: Sequence[Result], runs: Path, machine: Mapping[str, str]) -> None:
    """Writes README.md, results.json, runs.jsonl (a line for each run) and the pictures into the directory."""
    from memorypressure_tools.lab.plots import write_plots

    where.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(where, results, runs)
    (where / "README.md").write_text(markdown(results, machine, pictures), encoding="utf-8")
    (where / "results.json").write_text(json.dumps(as_json(results, machine), indent=1) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(asdict(each), separators=(",", ":")) + "\n" for each in results)
    (where / "runs.jsonl").write_text(lines, encoding="utf-8")


def as_json(results: Sequence[Result], machine: Mapping[str, str]) -> dict[str, Any]:
    """The report for programs: machine, bars, intervals by scenario, arm and figure."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for (scenario, arm), runs in by_cell(results).items():
        cells.setdefault(scenario, {})[arm] = {
            key: asdict(interval(values)) for key in BY_KEY if (values := _values(runs, key))
        }
    return {
        "machine": dict(machine),
        "kernels": sorted({each.kernel for each in results}),
        "bars": [asdict(bar) for bar in bars(results)],
        "medians": cells,
    }


def markdown(results: Sequence[Result], machine: Mapping[str, str], pictures: Mapping[str, str]) -> str:
    """The report for people."""
    runs = by_cell(results)
    kernels = ", ".join(sorted({each.kernel for each in results}))
    agents = {each.agent for each in results if each.agent}
    host = f"host with {machine['cpus']} CPUs, kernel {machine['hostKernel']}"
    lines = [
        "# The flood lab",
        "",
        f"{len(results)} runs; kernel {kernels}; {machine['emulation']}; {host}.",
        "",
    ]
    if len(agents) > 1:
        lines += [f"The runs are of {len(agents)} states of our agent: {', '.join(sorted(agents))}.", ""]
    outdated = {(each.scenario, each.arm): None for each in results if not is_current(each)}
    if outdated:
        named = ", ".join(f"`{scenario}` / `{arm}`" for scenario, arm in outdated)
        lines += [f"Runs of another definition than today's, of the arm or of what its guest runs: {named}.", ""]
    lines += ["## Bars", "", "| bar | | measured |", "|---|---|---|", *map(_bar_row, bars(results)), ""]
    for name, scenario in SCENARIOS.items():
        arms = [arm for arm in ARMS if (name, arm) in runs]
        if arms:
            lines += _scenario(scenario, arms, runs, pictures)
    killers = [name for name, arm in ARMS.items() if arm.killer is not Killer.NONE and ("flood", name) in runs]
    if killers:
        lines += ["## What the killers cost, main flood", ""]
        lines += _table(killers, {arm: runs["flood", arm] for arm in killers}, _KILLER_COLUMNS, ())
    return "\n".join([*lines, EXPLANATION])


def _bar_row(bar: Bar) -> str:
    verdict = {True: "met", False: "**missed**", None: "open"}[bar.met]
    return f"| {bar.text} | {verdict} | {bar.measured} |"


def _scenario(
    scenario: Scenario,
    arms: Sequence[str],
    runs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    pictures: Mapping[str, str],
) -> list[str]:
    columns: Sequence[str] = _FLOOD_COLUMNS
    kills = tuple(_KILLS)
    if scenario.is_control:
        columns = _CONTROL_COLUMNS
    elif scenario.flood is Flood.NONE:
        columns = _LEAK_COLUMNS
        kills = tuple(key for key in _KILLS if key != "control_phase_kills")
    here = {arm: runs[scenario.name, arm] for arm in arms}
    lines = [f"## {scenario.name}: {scenario.title}", "", *_table(arms, here, columns, kills), *_late(here)]
    if scenario.name in pictures:
        lines += [f"![{scenario.title}]({pictures[scenario.name]})", ""]
    if scenario.name == "flood" and "timeline" in pictures:
        lines += ["The run of each arm that is nearest to its median of failures:", ""]
        lines += [f"![usable memory against the lines]({pictures['timeline']})", ""]
    return lines


def _late(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Names runs that had less of the flood than the scenario says; figures of before this was measured lack it."""
    late = [
        f"`{arm}` by {each['flood_late_seconds']:.1f} s"
        for arm, figures in runs.items()
        for each in figures
        if (each.get("flood_late_seconds") or 0) > TOLD_LATE_SECONDS
    ]
    said = "The guest stood still before the flood, which therefore came late and lasted shorter within the run"
    return [f"{said}: {', '.join(late)}.", ""] if late else []


def _table(
    arms: Sequence[str],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    columns: Sequence[str],
    kills: Sequence[str],
) -> list[str]:
    heads = ["arm", "runs", *(_TITLES[key] for key in columns), *(_KILLS[key] for key in kills)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for arm in arms:
        figures = runs[arm]
        cells = [f"`{arm}`", str(len(figures)), *(_cell(figures, key) for key in columns)]
        cells += [_runs_with(figures, key) for key in kills]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _runs_with(figures: Sequence[Mapping[str, Any]], key: str) -> str:
    """In how many runs, and how many in all where that is another number."""
    total, affected = sum(each[key] for each in figures), sum(each[key] > 0 for each in figures)
    return f"{affected}" if total == affected else f"{affected} ({total})"


def _cell(figures: Sequence[Mapping[str, Any]], key: str) -> str:
    values = _values(figures, key)
    if not values:
        return ""
    found = interval(values)
    if len(values) == 1:
        return _number(found.median)
    return f"{_number(found.median)} [{_number(found.low)}, {_number(found.high)}]"


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _values(figures: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [each[key] for each in figures if each.get(key) is not None]
