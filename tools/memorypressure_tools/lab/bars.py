"""What the lab has to show, as sentences with figures: met, missed, or not measured yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memorypressure_tools.lab.arms import OURS, PEERS
from memorypressure_tools.lab.scenarios import SCENARIOS, Flood
from memorypressure_tools.lab.series import Result, default_arms
from memorypressure_tools.lab.statistics import median

LEAST_RUNS: Final = 15
LEAST_CONTROL_RUNS: Final = 24
LEAST_PEER_RUNS: Final = 3
MOST_FAILURES_PART: Final = 0.02
MOST_STALL_PART: Final = 0.20
MOST_PSI_PART: Final = 0.25
MOST_LEAK_FACTOR: Final = 1.2
MOST_FUTILE_KILLS: Final = 2
"""After which the agent pauses for half an hour (core, `ladder`)."""

MUST_KILL: Final = ("flood", "leak")
"""Scenarios that come to their condition in every run without a killer; elsewhere a run without a kill may be right."""

Cells = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `met` None: there are not enough runs to say."""

    text: str
    met: bool | None
    measured: str


def by_cell(results: Sequence[Result]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Figures of the runs by (scenario, arm)."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in results:
        if each.figures is not None:
            found.setdefault((each.scenario, each.arm), []).append(each.figures)
    return found


def bars(results: Sequence[Result]) -> list[Bar]:
    """Every bar, in the order of importance."""
    runs = by_cell(results)
    return [
        _part(runs, "atomic_failures", "failed atomic allocations", MOST_FAILURES_PART),
        _part(runs, "worst_stall_ms", "worst stall", MOST_STALL_PART),
        _part(runs, "psi_full_seconds", "PSI full", MOST_PSI_PART),
        _controls(runs),
        _victims(runs),
        _futile(runs),
        _leak_before_kernel(runs),
        _leak_as_early(runs),
        *(
            _better_than_peers(runs, name)
            for name, scenario in SCENARIOS.items()
            if not scenario.is_control and scenario.flood is not Flood.NONE
        ),
    ]


def _part(runs: Cells, key: str, name: str, most: float) -> Bar:
    text = f"main flood: median {name} at most {most:.0%} of that without a killer, {LEAST_RUNS} runs each"
    without, ours = _values(runs, "flood", "none", key), _values(runs, "flood", OURS, key)
    if not without or not ours:
        return Bar(text, None, "not measured")
    base, mine = median(without), median(ours)
    measured = f"{mine:.4g} of {base:.4g}, runs {len(ours)} and {len(without)}"
    if base > 0:
        measured += f": {mine / base:.1%}"
    enough = min(len(ours), len(without)) >= LEAST_RUNS
    return Bar(text, (mine <= most * base) if enough else None, measured)


def _controls(runs: Cells) -> Bar:
    text = f"no kill in at least {LEAST_CONTROL_RUNS} control runs of our agent"
    found = [
        figures["kills"]
        for (scenario, arm), each in runs.items()
        if SCENARIOS[scenario].is_control and arm.startswith("ours")
        for figures in each
    ]
    met = None if len(found) < LEAST_CONTROL_RUNS and not any(found) else not any(found)
    return Bar(text, met, f"{sum(found)} kills in {len(found)} runs")


def _victims(runs: Cells) -> Bar:
    found = [
        figures
        for (scenario, arm), each in runs.items()
        if arm.startswith("ours") and not SCENARIOS[scenario].is_control
        for figures in each
    ]
    wrong = sum(each["innocent_kills"] for each in found)
    early = sum(each["control_phase_kills"] for each in found)
    right = sum(each["kills"] > each["innocent_kills"] for each in found)
    spared = sum(not each["kills"] for name in MUST_KILL for each in runs.get((name, OURS), ()))
    measured = f"{wrong} wrong victims in {len(found)} runs, the right one in {right}, {early} kills before the flood"
    text = "the right victim in every run of our agent, and nobody before the flood"
    return Bar(text, not (wrong or early or spared) if found else None, measured)


def _futile(runs: Cells) -> Bar:
    text = f"flood-futile: two kills without a minute of calm between them, and no third, in {LEAST_PEER_RUNS} runs"
    kills = [figures["kills"] for figures in runs.get(("flood-futile", OURS), ())]
    met = False if any(each > MOST_FUTILE_KILLS for each in kills) else None
    if met is None and len(kills) >= LEAST_PEER_RUNS:
        met = all(each == MOST_FUTILE_KILLS for each in kills)
    return Bar(text, met, f"{', '.join(map(str, kills))} kills" if kills else "not measured")


def _leak_before_kernel(runs: Cells) -> Bar:
    text = "plain leak: handled before the kernel's OOM killer in every run"
    found = runs.get(("leak", OURS), ())
    late = sum(bool(each["kernel_oom_kills"]) or not each["kills"] for each in found)
    return Bar(text, None if not found else late == 0, f"{len(found) - late} of {len(found)} runs")


def _leak_as_early(runs: Cells) -> Bar:
    text = (
        f"plain leak: no later than {MOST_LEAK_FACTOR} times earlyoom as packaged (from the leak's start to the kill)"
    )
    ours = _values(runs, "leak", OURS, "kill_after_start_seconds")
    theirs = _values(runs, "leak", "earlyoom", "kill_after_start_seconds")
    if not ours or not theirs:
        return Bar(text, None, "not measured")
    mine, base = median(ours), median(theirs)
    measured = f"{mine:.1f} s, earlyoom {base:.1f} s: {mine / base:.2f} times (runs {len(ours)} and {len(theirs)})"
    return Bar(text, mine <= MOST_LEAK_FACTOR * base, measured)


def _better_than_peers(runs: Cells, scenario: str) -> Bar:
    """No peer is better in median failures or median worst stall; open until each was measured often enough.

    None is better than no failure: 0 beside 0 counts for us.
    """
    text = (
        f"{scenario}: better than every peer in median failed allocations and worst stall, {LEAST_PEER_RUNS} runs each"
    )
    ours = {key: _values(runs, scenario, OURS, key) for key in ("atomic_failures", "worst_stall_ms")}
    wanted = [arm for arm in default_arms(scenario) if arm in PEERS]
    peers = [peer for peer in PEERS if runs.get((scenario, peer))]
    if not all(ours.values()) or not peers:
        return Bar(text, None, "not measured")
    mine = {key: median(values) for key, values in ours.items()}
    worse = [
        f"{peer} {_short(key)} {theirs:.4g}{_early(runs[scenario, peer])}"
        for peer in peers
        for key in mine
        if (theirs := median(_values(runs, scenario, peer, key))) <= mine[key] and mine[key] > 0
    ]
    measured = f"ours {mine['atomic_failures']:.4g} failures, {mine['worst_stall_ms']:.4g} ms"
    measured += f"; better: {', '.join(worse)}" if worse else ""
    counts = [len(runs[scenario, arm]) for arm in (OURS, *peers)]
    measured += f"; {len(peers)} of {len(wanted)} peers measured, {min(counts)} to {max(counts)} runs each"
    enough = set(wanted) <= set(peers) and min(counts) >= LEAST_PEER_RUNS
    return Bar(text, False if worse else (True if enough else None), measured)


def _early(figures: Sequence[Mapping[str, Any]]) -> str:
    """Says of a peer that it had killed before there was a flood, which a control counts against it."""
    early = sum(bool(each["control_phase_kills"]) for each in figures)
    return f" (killed before the flood in {early} of {len(figures)} runs)" if early else ""


def _short(key: str) -> str:
    return {"atomic_failures": "failures", "worst_stall_ms": "worst stall (ms)"}[key]


def _values(runs: Cells, scenario: str, arm: str, key: str) -> list[float]:
    return [each[key] for each in runs.get((scenario, arm), ()) if each[key] is not None]
