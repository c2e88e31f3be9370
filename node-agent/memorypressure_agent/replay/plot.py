"""A replay as a picture: zones against their lines, the triggers' dwell, the decisions. The only user of matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memorypressure.zone_values import Line
from memorypressure_agent.errors import AgentError, BadInputError, MissingError
from memorypressure_agent.replay.series import (
    ACTIVE_CODE,
    CLEAR_CODE,
    HOLDS_CODE,
    UNKNOWN_CODE,
    Mark,
    Series,
    ZoneSeries,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FREE_COLOR = "#1f3b73"
_BELOW_COLOR = "#d62728"
_LINE_STYLES = {
    Line.HIGH: ("#7fbf7b", "-", "High"),
    Line.LOW: ("#1b7837", "-", "Low"),
    Line.MIN: ("#ff9900", "-", "Min"),
    Line.ATOMIC_RESERVE: (_BELOW_COLOR, "-", "AtomicReserve"),
    Line.ATOMIC_FLOOR: ("#7b3294", ":", "AtomicFloor"),
}
_STATUS_STYLES = {
    HOLDS_CODE: ("#ffcc66", "", "true, dwell not reached"),
    ACTIVE_CODE: (_BELOW_COLOR, "", "active"),
    UNKNOWN_CODE: ("#e3e3e3", "////", "unknown"),
}
_ZOOM_BEFORE_SECONDS = 1.0
_ZOOM_MARGIN_SECONDS = 0.15
_MAX_POINTS = 8000
_LEAST_SHOWN_PAGES = 10
"""The bottom of the logarithmic axis: 0 pages have no place on it."""


def check_plot_path(path: Path) -> None:
    """Raise at once, before a long replay, when a picture cannot be written there."""
    if path.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise BadInputError(f"--plot {path}: write a name that ends in .png, .svg or .pdf")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise BadInputError(f"--plot {path}: {'is a directory' if path.is_dir() else 'its directory is not there'}")
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise MissingError(
            f"--plot needs matplotlib ({error}); install the extra: pip install 'memory-pressure-operator[plot]'"
        ) from None


def write_plot(path: Path, title: str, series: Series) -> None:
    """Draw and write the picture, its format by the name's ending."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    zoom = _zoom_range(series)
    count = len(series.zones)
    heights = [3.2] * count + ([2.6] * count if zoom else []) + [0.45 * len(series.triggers) + 0.5]
    figure = Figure(figsize=(12, sum(heights) + 1.4), layout="constrained")
    axes: list[Axes] = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    figure.suptitle(title, fontsize=11)
    for axis, (key, zone) in zip(axes, series.zones.items(), strict=False):
        _draw_zone(axis, series, key, zone)
        axis.set_xlim(series.times[0], max(series.times[-1], series.times[0] + 0.001))
    if zoom:
        for axis, (key, zone) in zip(axes[count:], series.zones.items(), strict=False):
            _draw_zoom(axis, series, key, zone, zoom)
    _draw_triggers(axes[-1], series)
    axes[-1].set_xlim(axes[0].get_xlim())
    axes[-1].set_xlabel("seconds of the recording")
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise AgentError(f"cannot write {path}: {error.strerror or error}") from error


def _zoom_range(series: Series) -> tuple[float, float] | None:
    """The time around the first kill (else the first decision) and what led to it; None: most of the recording."""
    if not series.marks:
        return None
    at = next((mark for mark in series.marks if mark.label.startswith("Kill")), series.marks[0]).time_seconds
    start = min(mark.time_seconds for mark in series.marks if at - _ZOOM_BEFORE_SECONDS <= mark.time_seconds <= at)
    zoom = start - _ZOOM_MARGIN_SECONDS, at + _ZOOM_MARGIN_SECONDS
    return zoom if zoom[1] - zoom[0] < (series.times[-1] - series.times[0]) / 4 else None


def _draw_zone(axis: Axes, series: Series, key: tuple[int, str], zone: ZoneSeries) -> None:
    picked = _thinned(zone.usable)
    times = [series.times[i] for i in picked]
    free = [max(zone.usable[i], _LEAST_SHOWN_PAGES) for i in picked]
    _draw_lines(axis, times, zone, picked)
    axis.plot(times, free, color=_FREE_COLOR, linewidth=0.8, label="usable", zorder=3)
    for start, end in _stretches(series.below_reserve, series.times):
        axis.axvspan(start, end, color=_BELOW_COLOR, alpha=0.25, linewidth=0)
    _finish_zone(axis, f"NUMA node {key[0]}, zone {key[1]}")
    _draw_marks(axis, series.marks, labels=True)
    _legend_above(axis)


def _draw_zoom(axis: Axes, series: Series, key: tuple[int, str], zone: ZoneSeries, zoom: tuple[float, float]) -> None:
    """Every sample as a point: what the dwell rules saw."""
    start, end = zoom
    picked = [i for i, time in enumerate(series.times) if start - 0.05 <= time <= end + 0.05]
    times = [series.times[i] for i in picked]
    free = [max(zone.usable[i], _LEAST_SHOWN_PAGES) for i in picked]
    _draw_lines(axis, times, zone, picked)
    axis.step(times, free, where="post", color=_FREE_COLOR, linewidth=0.8, alpha=0.6, zorder=3)
    above = [(t, f) for t, f, i in zip(times, free, picked, strict=True) if not series.below_reserve[i]]
    below = [(t, f) for t, f, i in zip(times, free, picked, strict=True) if series.below_reserve[i]]
    for points, color, label in (
        (above, _FREE_COLOR, "sample"),
        (below, _BELOW_COLOR, "sample, node below AtomicReserve"),
    ):
        if points:
            axis.plot(*zip(*points, strict=True), "o", color=color, markersize=4, label=label, zorder=4)
    _finish_zone(axis, f"NUMA node {key[0]}, zone {key[1]}: every sample of {end - start:.2f} s")
    axis.set_xlim(start, end)
    _draw_marks(axis, [mark for mark in series.marks if start <= mark.time_seconds <= end], labels=True)
    _legend_above(axis, only="sample")


def _legend_above(axis: Axes, only: str = "") -> None:
    """The legend over the axes' right end, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    kept = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label.startswith(only)]
    if kept:
        axis.legend(
            [handle for handle, _ in kept],
            [label for _, label in kept],
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.1,
            ncols=6,
            fontsize=8,
            frameon=False,
        )


def _draw_lines(axis: Axes, times: Sequence[float], zone: ZoneSeries, picked: Sequence[int]) -> None:
    for line, (color, style, label) in _LINE_STYLES.items():
        pages = [zone.lines[line][i] for i in picked]
        if pages and min(pages) > 0:
            axis.step(times, pages, where="post", color=color, linestyle=style, linewidth=1.3, label=label, zorder=2)


def _finish_zone(axis: Axes, title: str) -> None:
    axis.set_yscale("log")
    axis.set_ylim(_LEAST_SHOWN_PAGES, axis.get_ylim()[1] * 3)  # room for the marks' labels
    axis.set_ylabel("pages", fontsize=9)
    axis.set_title(title, fontsize=9, loc="left")
    axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _draw_marks(axis: Axes, marks: Sequence[Mark], *, labels: bool) -> None:
    """Vertical lines; labels step down so that decisions close together stay readable."""
    for position, mark in enumerate(marks):
        axis.axvline(mark.time_seconds, color="black", linestyle="--", linewidth=1, zorder=5)
        if labels:
            axis.annotate(
                f" {mark.label}",
                (mark.time_seconds, 0.97 - 0.1 * (position % 4)),
                xycoords=("data", "axes fraction"),
                fontsize=8.5,
                va="top",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
                zorder=6,
            )


def _draw_triggers(axis: Axes, series: Series) -> None:
    names = [trigger.name for trigger in series.triggers]
    seen: set[int] = set()
    for row, name in enumerate(names):
        trigger = series.trigger_series[name]
        for code, start, end in _runs(trigger.status, series.times):
            if code == CLEAR_CODE:
                continue
            color, hatch, label = _STATUS_STYLES[code]
            options: dict[str, Any] = {"hatch": hatch, "edgecolor": "#bbbbbb"} if hatch else {}
            axis.barh(row, end - start, left=start, height=0.62, color=color, linewidth=0, **options)
            if code not in seen:
                seen.add(code)
                axis.barh(row, 0, left=start, color=color, label=label, **options)
        if any(trigger.dwell):
            picked = _thinned(trigger.dwell)
            dwell = [row + 0.31 - 0.62 * trigger.dwell[i] for i in picked]
            axis.plot([series.times[i] for i in picked], dwell, color="black", linewidth=0.6)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_title("triggers (black: time held in the window, against what is needed)", fontsize=9, loc="left")
    _draw_marks(axis, series.marks, labels=False)
    _legend_above(axis)


def _thinned(values: Sequence[float]) -> list[int]:
    """Indices to draw: all, or of a long recording the least and the largest value of each part."""
    if len(values) <= _MAX_POINTS:
        return list(range(len(values)))
    size = 2 * len(values) // _MAX_POINTS + 1
    picked: set[int] = {0, len(values) - 1}
    for start in range(0, len(values), size):
        part = range(start, min(start + size, len(values)))
        picked.add(min(part, key=values.__getitem__))
        picked.add(max(part, key=values.__getitem__))
    return sorted(picked)


def _runs(codes: Sequence[int], times: Sequence[float]) -> list[tuple[int, float, float]]:
    """(code, start, end) of each stretch of equal codes; the last ends with the recording."""
    runs: list[tuple[int, float, float]] = []
    start = 0
    for i in range(1, len(codes) + 1):
        if i == len(codes) or codes[i] != codes[start]:
            runs.append((codes[start], times[start], times[min(i, len(times) - 1)]))
            start = i
    return runs


def _stretches(flags: Sequence[int], times: Sequence[float]) -> list[tuple[float, float]]:
    return [(start, end) for code, start, end in _runs(flags, times) if code]
