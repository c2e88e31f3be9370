"""What a trigger sees, in words with figures: for messages, never for decisions."""

from memorypressure.signals import Absent, GateShut, MemInfo, Psi, Sample, Unknown
from memorypressure.spec_values import (
    AvailableMemory,
    PsiKind,
    PsiScope,
    PsiSettings,
    Trigger,
    ZoneWatermark,
)
from memorypressure.zone_values import NumaNode, ZoneInfo

MOST_PART_BY_AT_LEAST = 10
"""`atLeast` raises the threshold to a tenth of the memory at most: it is for small machines and must not fill them."""

_MIB = 1 << 20
_SHOWN_NODES = 4


def available_limit_bytes(settings: AvailableMemory, memory: MemInfo) -> int:
    """MemAvailable under this many bytes is scarce: a percentage of MemTotal without huge pages, within its bounds."""
    usable = memory.total_bytes - memory.hugetlb_bytes
    limit = usable * settings.percent // 100
    if settings.at_least_bytes is not None:
        limit = max(limit, min(settings.at_least_bytes, usable // MOST_PART_BY_AT_LEAST))
    return limit if settings.at_most_bytes is None else min(limit, settings.at_most_bytes)


def psi_average(settings: PsiSettings, psi: Psi) -> float | None:
    """The average that the trigger compares, in percent; None where the kernel does not print it."""
    line = psi.some if settings.kind is PsiKind.SOME else psi.full
    if line is None:
        return None
    return {10: line.avg10, 60: line.avg60, 300: line.avg300}[settings.window_seconds]


def explain(trigger: Trigger, sample: Sample) -> str:
    """One sentence about the trigger's condition at this sample, with its figures."""
    if trigger.zone_watermark is not None:
        return _explain_zones(trigger.zone_watermark, sample.zones)
    if trigger.available_memory is not None:
        return _explain_memory(trigger.available_memory, sample.memory)
    if trigger.psi is not None:
        psi = sample.psi_node if trigger.psi.scope is PsiScope.NODE else sample.psi_pods
        return _explain_psi(trigger.psi, psi)
    return f"trigger {trigger.name} has no settings"


def pages_text(pages: int, page_size_bytes: int) -> str:
    """Pages, and what they come to in MiB."""
    return f"{pages} pages ({pages * page_size_bytes / _MIB:.1f} MiB)"


def _explain_zones(settings: ZoneWatermark, zones: ZoneInfo | GateShut | Unknown | Absent) -> str:
    if isinstance(zones, (Unknown, Absent)):
        return zones.message
    margin = f" with a margin of {settings.margin_percent} %" if settings.margin_percent else ""
    name = f"{settings.line}{margin}"
    if isinstance(zones, GateShut):
        return f"every NUMA node's free pages are above what {name} could need"
    nodes = sorted(zones.counted_nodes, key=lambda node: _room(node, settings))
    shown = [_explain_node(node, settings, name, zones.page_size_bytes) for node in nodes[:_SHOWN_NODES]]
    if len(nodes) > _SHOWN_NODES:
        shown.append(f"{len(nodes) - _SHOWN_NODES} more NUMA nodes")
    return "; ".join(shown)


def _room(node: NumaNode, settings: ZoneWatermark) -> int:
    room = node.headroom_pages(settings.line, settings.margin_percent)
    return 1 << 62 if room is None else room


def _explain_node(node: NumaNode, settings: ZoneWatermark, name: str, page_size_bytes: int) -> str:
    parts = []
    for counted in node.counted:
        zone = counted.zone
        mark = counted.line_pages(settings.line, settings.margin_percent)
        closed = ", closed" if zone.managed_pages <= mark else ""
        usable = pages_text(zone.usable_pages, page_size_bytes)
        line = pages_text(mark, page_size_bytes)
        minimum = pages_text(zone.min_pages, page_size_bytes)
        uncertain = f", uncertain by {zone.error_pages} pages" if zone.cpus else ""
        parts.append(f"{zone.name} usable {usable}, line {line}, min {minimum}{uncertain}{closed}")
    side = "below" if node.below(settings.line, settings.margin_percent) else "above"
    return f"NUMA node {node.number} {side} {name}: {', '.join(parts)}"


def _explain_memory(settings: AvailableMemory, memory: MemInfo | Unknown | Absent | None) -> str:
    if not isinstance(memory, MemInfo):
        return "not read at this sample" if memory is None else memory.message
    limit = available_limit_bytes(settings, memory)
    text = f"MemAvailable {memory.available_bytes / _MIB:.0f} MiB, threshold {limit / _MIB:.0f} MiB"
    if not memory.swap_total_bytes:
        return f"{text}; no swap"
    free = memory.swap_free_bytes * 100 / memory.swap_total_bytes
    wanted = "not looked at" if settings.swap_free_percent is None else f"threshold {settings.swap_free_percent} %"
    return f"{text}; SwapFree {memory.swap_free_bytes / _MIB:.0f} MiB, {free:.1f} % of swap, {wanted}"


def _explain_psi(settings: PsiSettings, psi: Psi | Unknown | Absent | None) -> str:
    name = f"PSI {settings.kind.lower()} of the {settings.scope.lower()}, avg{settings.window_seconds}"
    if not isinstance(psi, Psi):
        return f"{name}: not read at this sample" if psi is None else psi.message
    value = psi_average(settings, psi)
    if value is None:
        return f"{name}: this kernel does not print it"
    return f"{name}: {value:.2f} %, threshold {settings.threshold_percent} %"
