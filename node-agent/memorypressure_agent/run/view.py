"""What `run` shows at a moment, as lines of at most 80 columns and as JSON. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memorypressure.records import Decision
from memorypressure.signals import Sample
from memorypressure.spec_values import Mode, Trigger
from memorypressure.triggers import TriggersState, TriggerStatus
from memorypressure.zone_values import CountedZone, Line, ZoneInfo
from memorypressure_agent.run.figures import (
    NodeFigures,
    memory_json,
    missing_json,
    psi_json,
    trigger_text,
    zones_json,
)
from memorypressure_agent.text import WIDTH, duration_text, labelled, size_text

Paint = Callable[[str, str], str]
"""Puts a text into a color ("red", "yellow", "green", "dim", "bold"); the identity where there are no colors."""

_SHOWN_CANDIDATES = 8
_LABEL_WIDTH = 10
_ZONE_LINES = (Line.ATOMIC_FLOOR, Line.ATOMIC_RESERVE, Line.MIN, Line.LOW, Line.HIGH)
_ZONE_HEADINGS = ("usable", "Floor", "Reserve", "Min", "Low", "High", "+/- error")


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A pod as the ranking sees it: its place (0: none), and why it is not chosen where it is excluded."""

    name: str
    rank: int
    relief_bytes: int | None
    containers: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything shown at one refresh."""

    unix_seconds: float
    policy_name: str
    mode: Mode
    page_bytes: int
    period_ns: int
    sample: Sample
    triggers: tuple[Trigger, ...]
    state: TriggersState
    nodes: tuple[NodeFigures, ...]
    decision: Decision
    recent: tuple[str, ...]
    """Decisions that did something or would have, newest last, one line each."""
    candidates: tuple[CandidateRow, ...]
    candidates_note: str

    @property
    def gist(self) -> tuple[object, ...]:
        """What makes two views differ enough for a log: triggers, lines, decision; no figures."""
        return (
            tuple((state.name, state.status) for state in self.state.triggers),
            tuple((node.node.number, node.node.below_lines()) for node in self.nodes),
            self.decision.action,
            self.decision.reason,
            self.candidates_note,
        )


def no_paint(text: str, _color: str) -> str:
    """The text as it is."""
    return text


def view_lines(view: View, paint: Paint = no_paint) -> list[str]:
    """The whole view; no line is wider than 80 columns (colors not counted)."""
    return [
        *_heading(view, paint),
        "",
        *_zone_lines(view, paint),
        "",
        paint("triggers", "bold"),
        *_trigger_lines(view, paint),
        paint("decision", "bold"),
        *_decision_lines(view, paint),
        paint("candidates", "bold"),
        *_candidate_lines(view, paint),
    ]


def _heading(view: View, paint: Paint) -> list[str]:
    when = dt.datetime.fromtimestamp(view.unix_seconds, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    name = f"policy {view.policy_name}"
    room = WIDTH - len(when) - 1
    left = f"{name[: room - len(view.mode) - 2]}, {view.mode}"
    every = f"page {size_text(view.page_bytes)}, a sample every {view.period_ns / 1e6:.0f} ms"
    return [f"{paint(left, 'bold')}{'':{room - len(left)}} {when}", paint(every, "dim")]


def _zone_lines(view: View, paint: Paint) -> list[str]:
    info = view.sample.zones
    if not isinstance(info, ZoneInfo):
        message = next(iter(missing_json(info).values()))["message"]
        return [paint(line, "yellow") for line in labelled("zones", f"unknown: {message}", _LABEL_WIDTH, indent=0)]
    lines: list[str] = []
    for figures in view.nodes:
        lines.extend(_node_heading(figures, view.page_bytes, paint))
        lines.append(paint(f"  {'zone':<8}" + "".join(f"{heading:>10}" for heading in _ZONE_HEADINGS), "dim"))
        lines.extend(_zone_row(counted, view.page_bytes, paint) for counted in figures.node.counted)
    judged = {(figures.node.number, counted.zone.name) for figures in view.nodes for counted in figures.node.counted}
    others = [
        f"{zone.node}/{zone.name} {size_text(zone.managed_pages * view.page_bytes)}"
        for zone in info.zones
        if zone.managed_pages and (zone.node, zone.name) not in judged
    ]
    if others:
        lines.extend(paint(line, "dim") for line in labelled("not counted:", ", ".join(others), 12))
    return lines


def _node_heading(figures: NodeFigures, page_bytes: int, paint: Paint) -> list[str]:
    below = figures.node.below_lines()
    state, color = (f"BELOW {below[-1]}", "red" if Line.MIN in below else "yellow") if below else ("clear", "green")
    if figures.headroom_pages is None:
        distance = f"can never be below {figures.line}: all zones are closed to it"
    elif figures.headroom_pages == 0:
        distance = f"nothing left to {figures.line}"
    else:
        distance = f"{size_text(figures.headroom_pages * page_bytes)} to {figures.line}"
        if figures.seconds_to_line is not None:
            drain = size_text(figures.drain_pages_per_second * page_bytes)
            distance += f", {duration_text(figures.seconds_to_line)} at the drain seen ({drain}/s)"
        else:
            distance += ", no drain seen"
    label = f"NUMA node {figures.node.number}: {state}; "
    lines = labelled(label.rstrip(), distance, len(label) - 1, indent=0)
    return [lines[0].replace(state, paint(state, color), 1), *lines[1:]]


def _zone_row(counted: CountedZone, page_bytes: int, paint: Paint) -> str:
    zone = counted.zone
    cells = [f"{size_text(zone.usable_pages * page_bytes):>10}"]
    for line in _ZONE_LINES:
        cell = "closed" if counted.closed(line) else size_text(counted.line_pages(line) * page_bytes)
        shown = f"{cell:>10}"
        if not counted.closed(line) and counted.below(line):
            shown = paint(shown, "red")
        cells.append(shown)
    return f"  {zone.name:<8}{''.join(cells)}{size_text(zone.error_pages * page_bytes):>10}"


def _trigger_lines(view: View, paint: Paint) -> list[str]:
    colors = {TriggerStatus.ACTIVE: "red", TriggerStatus.UNKNOWN: "yellow", TriggerStatus.CLEAR: "green"}
    width = min(24, max(len(trigger.name) for trigger in view.triggers)) + 8
    lines: list[str] = []
    for trigger in view.triggers:
        state = view.state.of(trigger.name)
        label = f"{trigger.name[:24]:<{width - 8}} {state.status:<7}"
        first, *rest = labelled(label, trigger_text(trigger, view.state, view.sample), width)
        lines += [first.replace(f" {state.status} ", f" {paint(state.status, colors[state.status])} ", 1), *rest]
    return lines


def _decision_lines(view: View, paint: Paint) -> list[str]:
    action = view.decision.action
    label = str(action) if action else "nothing"
    lines = labelled(label, f"{view.decision.reason}: {view.decision.message}", 7)
    if action:
        lines[0] = lines[0].replace(label, paint(label, "red"), 1)
    for recent in view.recent:
        lines.extend(labelled("earlier", recent, 7))
    return lines


def _candidate_lines(view: View, paint: Paint) -> list[str]:
    lines = labelled("", view.candidates_note, 0, indent=1) if view.candidates_note else []
    for row in view.candidates[:_SHOWN_CANDIDATES]:
        place = f"{row.rank}." if row.rank else "-"
        relief = size_text(row.relief_bytes) if row.relief_bytes is not None else "unknown"
        why = f"  {row.reason}" if row.reason else ""
        lines.append(f"  {place:>3} {row.name[:40]:<40} {relief:>9}{why[:24]}"[:WIDTH])
    if len(view.candidates) > _SHOWN_CANDIDATES:
        lines.append(paint(f"      and {len(view.candidates) - _SHOWN_CANDIDATES} more", "dim"))
    return lines


def view_json(view: View) -> dict[str, Any]:
    """The view as one JSON object; zones, lines and drains in pages, memory in bytes."""
    zones = view.sample.zones
    return {
        "time": dt.datetime.fromtimestamp(view.unix_seconds, tz=dt.UTC).isoformat(timespec="milliseconds"),
        "policy": {"name": view.policy_name, "mode": view.mode},
        "pageBytes": view.page_bytes,
        "periodMilliseconds": view.period_ns / 1e6,
        "nodes": zones_json(zones, view.nodes) if isinstance(zones, ZoneInfo) else missing_json(zones),
        "memory": memory_json(view.sample.memory),
        "psi": {"node": psi_json(view.sample.psi_node), "pods": psi_json(view.sample.psi_pods)},
        "triggers": [
            {
                "name": trigger.name,
                "type": trigger.type,
                "status": view.state.of(trigger.name).status,
                "holds": view.state.of(trigger.name).holds,
                "numaNodes": sorted(view.state.of(trigger.name).nodes),
                "message": trigger_text(trigger, view.state, view.sample),
            }
            for trigger in view.triggers
        ],
        "decision": {
            "action": view.decision.action,
            "reason": view.decision.reason,
            "message": view.decision.message,
        },
        "recentDecisions": list(view.recent),
        "candidates": [
            {
                "pod": row.name,
                "rank": row.rank or None,
                "reliefBytes": row.relief_bytes,
                "containers": row.containers,
                "reason": row.reason or None,
                "message": row.message or None,
            }
            for row in view.candidates
        ],
        "candidatesNote": view.candidates_note,
    }
