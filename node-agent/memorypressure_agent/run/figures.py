"""A sample and what the triggers made of it -> the figures that `run` shows, as text and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from memorypressure.explain import explain
from memorypressure.sampling import Drains, time_to_line_seconds
from memorypressure.signals import Absent, GateShut, MemInfo, Psi, PsiLine, Sample, Unknown
from memorypressure.spec_values import Trigger, ZoneWatermark
from memorypressure.triggers import TriggersState
from memorypressure.zone_values import CountedZone, Line, NumaNode, Zone, ZoneInfo


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A judged NUMA node: how far it is from its nearest watched line, and how fast it gets there."""

    node: NumaNode
    line: Line
    headroom_pages: int | None
    """Pages to that line; None: it can never be below, all zones are closed to it."""
    drain_pages_per_second: int
    seconds_to_line: float | None


def node_figures(
    info: ZoneInfo, watched: Iterable[tuple[Line, int]], drains: Drains, now_ns: int
) -> tuple[NodeFigures, ...]:
    """The figures of each judged node, for the watched line (of those of the triggers) that it is nearest to."""
    figures = []
    lines = tuple(watched) or ((Line.ATOMIC_RESERVE, 0),)
    for node in info.counted_nodes:
        rooms = [(node.headroom_pages(line, margin), line) for line, margin in lines]
        room, line = min(rooms, key=lambda pair: (pair[0] is None, pair[0] or 0))
        drain = drains.of(node.number)
        figures.append(
            NodeFigures(
                node,
                line,
                room,
                drain.pages_per_second(now_ns) if drain is not None else 0,
                time_to_line_seconds(drains, node.number, room, now_ns),
            )
        )
    return tuple(figures)


def trigger_text(trigger: Trigger, state: TriggersState, sample: Sample) -> str:
    """One sentence: what the trigger asks for, or its figures now, or why nothing is known."""
    of = state.of(trigger.name)
    if of.status == "Unknown":
        return of.message
    if trigger.zone_watermark is None:
        return explain(trigger, sample)
    where = f"; NUMA node {', '.join(map(str, sorted(of.nodes)))}" if of.nodes else ""
    now = ", below now" if of.holds else ""
    return f"{_watermark_text(trigger.zone_watermark)}{where}{now}"


def _watermark_text(settings: ZoneWatermark) -> str:
    margin = f" + {settings.margin_percent} %" if settings.margin_percent else ""
    nodes = "any NUMA node" if settings.nodes == "AnyNode" else "all NUMA nodes"
    return f"{nodes} below {settings.line}{margin} for {settings.below_ms} of {settings.within_ms} ms"


def zones_json(info: ZoneInfo, nodes: tuple[NodeFigures, ...]) -> list[dict[str, Any]]:
    """The judged and the other zones by NUMA node, every number in pages."""
    by_number = {figures.node.number: figures for figures in nodes}
    return [_node_json(info, node, by_number.get(node.number)) for node in info.nodes]


def _node_json(info: ZoneInfo, node: NumaNode, figures: NodeFigures | None) -> dict[str, Any]:
    counted = {zone.zone.name: zone for zone in node.counted}
    shown: dict[str, Any] = {
        "numaNode": node.number,
        "judged": bool(node.counted),
        "belowLines": list(node.below_lines()),
        "zones": [_zone_json(zone, counted.get(zone.name)) for zone in info.zones if zone.node == node.number],
    }
    if figures is not None:
        shown["nearestLine"] = figures.line
        shown["headroomPages"] = figures.headroom_pages
        shown["drainPagesPerSecond"] = figures.drain_pages_per_second
        shown["secondsToLine"] = figures.seconds_to_line
    return shown


def _zone_json(zone: Zone, counted: CountedZone | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "zone": zone.name,
        "counted": counted is not None,
        "freePages": zone.free_pages,
        "freeCmaPages": zone.free_cma_pages,
        "usablePages": zone.usable_pages,
        "errorPages": zone.error_pages,
        "boostPages": zone.boost_pages if zone.boost_known else None,
        "minPages": zone.min_pages,
        "lowPages": zone.low_pages,
        "highPages": zone.high_pages,
        "managedPages": zone.managed_pages,
    }
    if counted is not None:
        shown["protectionPages"] = counted.protection_pages
        shown["linePages"] = {line: counted.line_pages(line) for line in Line}
        shown["closedLines"] = [line for line in Line if counted.closed(line)]
    return shown


def memory_json(memory: MemInfo | Unknown | Absent | None) -> dict[str, Any]:
    """Memory and swap in bytes, or why there are none."""
    if not isinstance(memory, MemInfo):
        return missing_json(memory)
    return {
        "totalBytes": memory.total_bytes,
        "availableBytes": memory.available_bytes,
        "hugetlbBytes": memory.hugetlb_bytes,
        "swapTotalBytes": memory.swap_total_bytes,
        "swapFreeBytes": memory.swap_free_bytes,
    }


def psi_json(psi: Psi | Unknown | Absent | None) -> dict[str, Any]:
    """PSI memory, or why there is none."""
    if not isinstance(psi, Psi):
        return missing_json(psi)
    return {"some": _psi_line_json(psi.some), "full": _psi_line_json(psi.full)}


def _psi_line_json(line: PsiLine | None) -> dict[str, Any] | None:
    if line is None:
        return None
    return {
        "avg10Percent": line.avg10,
        "avg60Percent": line.avg60,
        "avg300Percent": line.avg300,
        "totalMicroseconds": line.total_us,
    }


def missing_json(part: object) -> dict[str, Any]:
    """Why a source gives nothing: absent on this machine, unknown, or not read this time."""
    match part:
        case Absent(reason=reason, message=message):
            return {"absent": {"reason": reason, "message": message}}
        case Unknown(message=message):
            return {"unknown": {"message": message}}
        case GateShut():
            return {"notRead": {"message": "every NUMA node's free pages are above its gate"}}
        case _:
            return {"notRead": {"message": "not read at this sample"}}
