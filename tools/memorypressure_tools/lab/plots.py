"""Pictures of a series: every run as a dot beside its median, and one run against the lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from memorypressure.zone_values import Line
from memorypressure_tools.lab.arms import ARMS, OURS
from memorypressure_tools.lab.bars import by_cell
from memorypressure_tools.lab.recording import zone_samples
from memorypressure_tools.lab.rundata import VoidRunError, marks
from memorypressure_tools.lab.scenarios import SCENARIOS, Flood
from memorypressure_tools.lab.series import Result
from memorypressure_tools.lab.statistics import median

_PANELS: Final = (
    ("atomic_failures", "failed atomic allocations"),
    ("worst_stall_ms", "worst stall (ms)"),
    ("psi_full_seconds", "PSI full (s)"),
)
_OURS_COLOUR: Final = "#1a7f37"
_OTHER_COLOUR: Final = "#57606a"
_TIMELINE_ARMS: Final = ("none", OURS)


def write_plots(where: Path, results: Sequence[Result], runs: Path) -> dict[str, str]:
    """Writes the pictures that the results allow; scenario -> file name."""
    import matplotlib as mpl

    mpl.use("Agg")
    cells = by_cell(results)
    found = {}
    for name, scenario in SCENARIOS.items():
        arms = [arm for arm in ARMS if (name, arm) in cells]
        if len(arms) > 1 and not scenario.is_control:
            found[name] = f"{name}.png"
            _dots(where / found[name], scenario.title, arms, {arm: cells[name, arm] for arm in arms}, scenario.flood)
    picked = _timelines(results, runs)
    if picked:
        _timeline(where / "timeline.png", picked)
        found["timeline"] = "timeline.png"
    return found


def _dots(
    path: Path, title: str, arms: Sequence[str], runs: Mapping[str, Sequence[Mapping[str, Any]]], flood: Flood
) -> None:
    from matplotlib import pyplot as plt

    panels = _PANELS if flood is not Flood.NONE else _PANELS[1:]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 1.2 + 0.32 * len(arms)), sharey=True)
    for axis, (key, label) in zip(axes, panels, strict=True):
        for row, arm in enumerate(arms):
            values = [max(each[key], 0) for each in runs[arm]]
            colour = _OURS_COLOUR if arm.startswith("ours") else _OTHER_COLOUR
            axis.plot(values, [row] * len(values), "o", color=colour, alpha=0.45, markersize=4)
            axis.plot([median(values)], [row], "|", color=colour, markersize=14, markeredgewidth=2.5)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(left=0)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    figure.suptitle(f"{title} (dots: runs, bars: medians)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _timelines(results: Sequence[Result], runs: Path) -> list[tuple[Result, Path]]:
    """For each arm of the picture the main flood's run that is nearest to its median of failures, and its files."""
    found = []
    for arm in _TIMELINE_ARMS:
        here = [each for each in results if each.scenario == "flood" and each.arm == arm and each.figures is not None]
        if not here:
            continue
        middle = median([each.figures["atomic_failures"] for each in here if each.figures])
        for each in sorted(here, key=lambda run: abs((run.figures or {})["atomic_failures"] - middle)):
            directory = runs / f"{each.scenario}_{each.arm}_{each.number:02d}"
            if (directory / "timeline.zones.csv").exists():
                found.append((each, directory))
                break
    return found


def _timeline(path: Path, picked: Sequence[tuple[Result, Path]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(picked), 1, figsize=(11, 3.2 * len(picked)), sharex=True, squeeze=False)
    for axis, (run, directory) in zip(axes[:, 0], picked, strict=True):
        try:
            moments = marks(directory)
            samples = [each for each in zone_samples(directory) if moments["start"] <= each.at <= moments["end"]]
        except VoidRunError:
            continue
        start = moments["start"]
        times = [each.at - start for each in samples]
        zones = [each.info.counted_nodes[0].counted[-1] for each in samples]
        axis.plot(times, [max(each.zone.usable_pages, 1) * 4 for each in zones], color="#0969da", linewidth=0.8)
        lowest = [each.zone.min_pages - each.zone.boost_pages + each.protection_pages for each in zones]
        axis.plot(times, [pages * 4 for pages in lowest], color="#bf8700", linewidth=1, label="min without boost")
        reserve = [each.line_pages(Line.ATOMIC_RESERVE) * 4 for each in zones]
        axis.plot(times, reserve, color="#cf222e", linewidth=1, label="AtomicReserve")
        events = [
            ("flood", moments["flood"]),
            *((f"{e['pod']} killed", e["at"]) for e in (run.figures or {})["deaths"]),
        ]
        for place, (text, at) in enumerate(events):
            axis.axvline(at - start, color="black", linestyle=":", linewidth=1)
            axis.text(at - start, 0.97 - 0.1 * place, f" {text}", va="top", transform=axis.get_xaxis_transform())
        axis.set_yscale("log")
        axis.set_ylabel("usable (KiB)")
        failures = (run.figures or {})["atomic_failures"]
        axis.set_title(f"{run.arm}: {failures} failed atomic allocations", fontsize=10)
        axis.legend(loc="upper right", fontsize=8, ncols=2)
    axes[-1, 0].set_xlabel("seconds since the pods started")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
