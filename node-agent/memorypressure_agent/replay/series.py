"""What a plot shows of a replay: figures of zones and triggers over time, and the decisions as marks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from memorypressure.spec_values import Trigger
from memorypressure.triggers import TriggersState, TriggerStatus
from memorypressure.zone_values import CountedZone, Line, NumaNode, ZoneInfo

UNKNOWN = -1
"""Stands in the arrays for a line that the recording does not tell."""

CLEAR_CODE, HOLDS_CODE, ACTIVE_CODE, UNKNOWN_CODE = range(4)


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision in the plot."""

    time_seconds: float
    label: str


def _pages() -> array[int]:
    return array("q")


@dataclass(slots=True)
class ZoneSeries:
    """A counted zone over time, in pages: usable memory and lines, protection included."""

    usable: array[int] = field(default_factory=_pages)
    lines: dict[Line, array[int]] = field(default_factory=lambda: {line: _pages() for line in Line})

    def add(self, counted: CountedZone, unknown_lines: frozenset[Line]) -> None:
        """Append one sample."""
        self.usable.append(counted.zone.usable_pages)
        for line, series in self.lines.items():
            series.append(UNKNOWN if line in unknown_lines else counted.line_pages(line))


@dataclass(slots=True)
class TriggerSeries:
    """A trigger over time: its status as a code, and how much of its dwell is fulfilled, 0 to 1."""

    status: array[int] = field(default_factory=lambda: array("b"))
    dwell: array[float] = field(default_factory=lambda: array("f"))


@dataclass(slots=True)
class Series:
    """Everything that a plot shows; grows by one sample at a time."""

    triggers: tuple[Trigger, ...]
    times: array[float] = field(default_factory=lambda: array("d"))
    zones: dict[tuple[int, str], ZoneSeries] = field(default_factory=dict)
    trigger_series: dict[str, TriggerSeries] = field(default_factory=dict)
    below_reserve: array[int] = field(default_factory=lambda: array("b"))
    marks: list[Mark] = field(default_factory=list)

    def add(self, time_seconds: float, info: ZoneInfo, state: TriggersState) -> None:
        """Append one sample and what the triggers made of it."""
        self.times.append(time_seconds)
        for node in info.counted_nodes:
            for counted in node.counted:
                key = (node.number, counted.zone.name)
                series = self.zones.setdefault(key, ZoneSeries())
                series.add(counted, info.unknown_lines)
        self.below_reserve.append(_any_below_reserve(info.counted_nodes))
        for trigger in self.triggers:
            self._add_trigger(trigger, state)

    def _add_trigger(self, trigger: Trigger, state: TriggersState) -> None:
        series = self.trigger_series.setdefault(trigger.name, TriggerSeries())
        of = state.of(trigger.name)
        if of.status is TriggerStatus.UNKNOWN:
            code = UNKNOWN_CODE
        elif of.status is TriggerStatus.ACTIVE:
            code = ACTIVE_CODE
        else:
            code = HOLDS_CODE if of.holds else CLEAR_CODE
        series.status.append(code)
        needed_ms = trigger.zone_watermark.below_ms if trigger.zone_watermark else 0
        held_ns = max((window.held_ns for _, window in of.windows), default=0)
        series.dwell.append(min(1.0, held_ns / (needed_ms * 1e6)) if needed_ms else 0.0)


def _any_below_reserve(nodes: Iterable[NumaNode]) -> bool:
    return any(node.below(Line.ATOMIC_RESERVE) for node in nodes)
