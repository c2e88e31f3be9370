"""A trigger's condition at one sample, without dwell: whether it holds, for which NUMA nodes, whether it may clear."""

from dataclasses import dataclass

from memorypressure.explain import available_limit_bytes, psi_average
from memorypressure.signals import Absent, GateShut, MemInfo, Psi, Sample, Unknown
from memorypressure.spec_values import AvailableMemory, NodesScope, PsiSettings, TakenBy, ZoneWatermark
from memorypressure.takers import Marks, taken
from memorypressure.zone_values import Line, NumaNode, ZoneInfo

SLOW_GAP_NS = 3_000_000_000
"""Memory and PSI are read down to once a second; what is older is not known."""

MACHINE = -1
"""Key of a window that is not one NUMA node's."""

_CLEARS_BY = {
    Line.HIGH: (Line.HIGH,),
    Line.LOW: (Line.LOW, Line.HIGH),
    Line.MIN: (Line.LOW,),
    Line.ATOMIC_RESERVE: (Line.LOW,),
}
"""The lines that `NumaNode.above_clear` is made of: a recording may not tell them (`ZoneInfo.unknown_lines`)."""

BelowCache = dict[tuple[int, Line, int], bool]
"""What `NumaNode.below` said at this sample, by node, line and margin."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition at one sample.

    `keys` says for each window whether it holds; `above` for each key that was pressed whether it is clear, a key that
    is missing there is gone. `pressing` are the keys that a fulfilled window makes pressed, None: its own.
    """

    keys: tuple[tuple[int, bool], ...]
    above: dict[int, bool]
    needed_ns: int = 0
    within_ns: int = 0
    pressing: tuple[int, ...] | None = None
    unknown: str | None = None
    evidence: str = ""
    """What else the condition rests on, for the message."""


def zone_condition(
    settings: ZoneWatermark, sample: Sample, marks: Marks, below: BelowCache, *, running: bool
) -> Condition:
    """Whether each NUMA node, or all, are below the line; `running`: whether somebody waits for them to be above."""
    zones = sample.zones
    if isinstance(zones, (Unknown, Absent)):
        return Condition((), {}, unknown=zones.message)
    line, margin, evidence = settings.line, settings.margin_percent, ""
    if isinstance(zones, ZoneInfo) and line in zones.unknown_lines:
        return Condition((), {}, unknown=f"the recording does not tell {line}")
    if isinstance(zones, GateShut):
        nodes = zones.info.counted_nodes
        under = [(node.number, False) for node in nodes]
        above = {node.number: zones.clear_lines for node in nodes} if running else {}
    else:
        nodes = zones.counted_nodes
        under = [(node.number, below_line(node, line, margin, below)) for node in nodes]
        if settings.taken_by is TakenBy.BUFFERS:
            if any(node.unclaimed_pages is None for node in nodes):
                return Condition((), {}, unknown=_NOT_TOLD)
            under, evidence = _drained_by_buffers(nodes, under, marks, sample.time_ns)
        told = zones.unknown_lines.isdisjoint(_CLEARS_BY[line])
        above = (
            {
                node.number: told and not held and node.above_clear(line, margin)
                for node, (_, held) in zip(nodes, under, strict=True)
            }
            if running
            else {}
        )
    needed_ns, within_ns = settings.below_ms * 1_000_000, settings.within_ms * 1_000_000
    if settings.nodes is NodesScope.ANY_NODE:
        return Condition(tuple(under), above, needed_ns, within_ns, evidence=evidence)
    all_below = bool(under) and all(node_below for _, node_below in under)
    pressing = tuple([node.number for node in nodes])
    return Condition(((MACHINE, all_below),), above, needed_ns, within_ns, pressing, evidence=evidence)


def _drained_by_buffers(
    nodes: tuple[NumaNode, ...], under: list[tuple[int, bool]], marks: Marks, now_ns: int
) -> tuple[list[tuple[int, bool]], str]:
    """Which of the nodes below were drained by buffers, and the figures of those."""
    judged, evidence = [], []
    for node, (number, is_below) in zip(nodes, under, strict=True):
        found = taken(marks, node, now_ns) if is_below else None
        held = found is not None and found.by_buffers
        judged.append((number, held))
        if held and found is not None:
            evidence.append(
                f"NUMA node {number} lacks {found.lacking_pages} pages to min, and buffers took "
                f"{found.by_buffers_pages} since it was above"
            )
    return judged, "; ".join(evidence)


def below_line(node: NumaNode, line: Line, margin_percent: int, cache: BelowCache) -> bool:
    """`NumaNode.below`, once for all triggers of a sample."""
    key = (node.number, line, margin_percent)
    known = cache.get(key)
    if known is None:
        known = cache[key] = node.below(line, margin_percent)
    return known


def memory_condition(settings: AvailableMemory, memory: MemInfo | Unknown | Absent | None) -> Condition:
    """Whether MemAvailable, and swap where there is some, are under their thresholds."""
    if not isinstance(memory, MemInfo):
        return Condition((), {}, unknown=_NOT_READ if memory is None else memory.message)
    limit = available_limit_bytes(settings, memory)
    scarce, plenty = memory.available_bytes < limit, memory.available_bytes * 10 >= limit * 11
    if memory.swap_total_bytes and settings.swap_free_percent is not None:
        free, mark = memory.swap_free_bytes * 100, memory.swap_total_bytes * settings.swap_free_percent
        scarce, plenty = scarce and free < mark, plenty or free * 10 >= mark * 11
    return Condition(((MACHINE, scarce),), {MACHINE: plenty})


def psi_condition(settings: PsiSettings, psi: Psi | Unknown | Absent | None) -> Condition:
    """Whether the average reaches the threshold."""
    if not isinstance(psi, Psi):
        return Condition((), {}, unknown=_NOT_READ if psi is None else psi.message)
    average = psi_average(settings, psi)
    if average is None:
        return Condition((), {}, unknown=f"the kernel prints no '{settings.kind.lower()}' line")
    low = average * 10 < settings.threshold_percent * 9
    return Condition(((MACHINE, average >= settings.threshold_percent),), {MACHINE: low})


_NOT_TOLD = "/proc/zoneinfo (or the recording) does not tell who holds pages"
_NOT_READ = f"not read in the last {SLOW_GAP_NS // 1_000_000_000} s"
