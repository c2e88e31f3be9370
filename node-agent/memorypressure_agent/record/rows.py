"""A sample -> the rows of a recording, with every column that `replay` knows."""

from __future__ import annotations

from memorypressure.signals import MemInfo, Psi, Sample
from memorypressure.zones import Zone, ZoneInfo
from memorypressure_agent.replay.columns import COLUMNS, WHOLE_NODE

HEADER = tuple(column.name for column in COLUMNS)


def sample_rows(sample: Sample, zones: ZoneInfo, start_ns: int, page_bytes: int) -> list[list[str]]:
    """One row for each zone that the kernel prints, cells in the order of `HEADER`; unknown figures stay empty."""
    shared = {"t": _seconds(sample.time_ns - start_ns), "page_size": str(page_bytes)}
    if isinstance(sample.memory, MemInfo):
        shared |= _memory_cells(sample.memory, page_bytes)
    for prefix, psi in (("psi_", sample.psi_node), ("psi_pods_", sample.psi_pods)):
        if isinstance(psi, Psi):
            shared |= _psi_cells(prefix, psi)
    protections = {
        (node.number, counted.zone.name): counted.protection_pages for node in zones.nodes for counted in node.counted
    }
    told = {node.number for node in zones.nodes if node.unclaimed_pages is not None}
    return [
        [
            (shared | _zone_cells(zone, protections.get((zone.node, zone.name)), told=zone.node in told)).get(name, "")
            for name in HEADER
        ]
        for zone in zones.zones
    ]


def gate_rows(
    node_free_pages: tuple[tuple[int, int], ...], time_ns: int, start_ns: int, page_bytes: int
) -> list[list[str]]:
    """One row for each NUMA node of a reading that has only their free pages."""
    shared = {"t": _seconds(time_ns - start_ns), "page_size": str(page_bytes), "zone": WHOLE_NODE}
    return [
        [(shared | {"node": str(node), "free": str(free)}).get(name, "") for name in HEADER]
        for node, free in node_free_pages
    ]


def _seconds(time_ns: int) -> str:
    return f"{time_ns // 1_000_000_000}.{time_ns % 1_000_000_000 // 1000:06d}"


def _zone_cells(zone: Zone, protection_pages: int | None, *, told: bool) -> dict[str, str]:
    cells = {
        "node": str(zone.node),
        "zone": zone.name,
        "free": str(zone.free_pages),
        "min": str(zone.min_pages),
        "low": str(zone.low_pages),
        "high": str(zone.high_pages),
        "managed": str(zone.managed_pages),
        "stat_threshold": str(zone.stat_threshold_pages),
        "cpus": str(zone.cpus),
    }
    if zone.boost_known:
        cells["boost"] = str(zone.boost_pages)
    if zone.cma_known:
        cells["free_cma"] = str(zone.free_cma_pages)
    if told:
        cells |= {"held": str(zone.held_pages), "zspages": str(zone.compressed_pages)}
    if protection_pages is not None:
        cells["protection"] = str(protection_pages)
    return cells


def _memory_cells(memory: MemInfo, page_bytes: int) -> dict[str, str]:
    figures = {
        "mem_total": memory.total_bytes,
        "mem_available": memory.available_bytes,
        "hugetlb": memory.hugetlb_bytes,
        "swap_total": memory.swap_total_bytes,
        "swap_free": memory.swap_free_bytes,
    }
    return {name: str(figure // page_bytes) for name, figure in figures.items()}


def _psi_cells(prefix: str, psi: Psi) -> dict[str, str]:
    cells: dict[str, str] = {}
    for kind, line in (("some", psi.some), ("full", psi.full)):
        if line is not None:
            cells |= {
                f"{prefix}{kind}_avg10": f"{line.avg10:.2f}",
                f"{prefix}{kind}_avg60": f"{line.avg60:.2f}",
                f"{prefix}{kind}_avg300": f"{line.avg300:.2f}",
                f"{prefix}{kind}_total_us": str(line.total_us) if line.total_us else "",
            }
    return cells
