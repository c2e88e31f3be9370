"""A recorded sample -> the core's `Sample`: what the recording lacks is unknown, and never becomes a number.

- protection counts as 0, as does free CMA memory, when no column gives it;
- without `low` or `high` these lines are unknown: a trigger on them stays Unknown, and no trigger clears without Low.
  (low is min + max(min/4, managed x watermark_scale_factor); a recording does not hold the factor.)
- without `managed` a zone counts by its name alone, and none as closed;
- memory or PSI that an earlier sample had and this one has not was not read with it (a flight recorder's samples).
"""

from __future__ import annotations

from memorypressure.signals import MemInfo, Psi, PsiLine, Sample, Unknown
from memorypressure.zone_values import MAX_PAGES, Line, Zone, ZoneInfo
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.replay.timeline import RecordedSample, RecordedZone

_MEMORY = ("mem_total", "mem_available", "swap_total", "swap_free")
_PSI_FIGURES = ("avg10", "avg60", "avg300")


def to_sample(name: str, recorded: RecordedSample, page_bytes: int, had: frozenset[str] = frozenset()) -> Sample:
    """The sample as the core takes it. `name` is the file's, for complaints; raises `BadInputError`.

    `had` are the figures that some earlier sample had.
    """
    for zone in recorded.zones:
        if zone.name == "Movable" and zone.managed != 0 and zone.low is None:
            raise BadInputError(
                f"{name}:{recorded.line_number}: zone Movable is given without low: "
                "whether a kill can help depends on it; add the column, or leave the zone out"
            )
    unknown = {
        line
        for line, told in (
            (Line.LOW, all(zone.low is not None for zone in recorded.zones)),
            (Line.HIGH, all(zone.high is not None for zone in recorded.zones)),
        )
        if not told
    }
    zones = ZoneInfo(tuple(map(_zone, recorded.zones)), page_bytes, 0, frozenset(unknown))
    return Sample(
        time_ns=recorded.time_ns,
        zones=zones if zones.counted_nodes else Unknown("no zone DMA, DMA32 or Normal with managed pages"),
        memory=_memory(recorded, page_bytes, had),
        psi_node=_psi(recorded, "psi_", had),
        psi_pods=_psi(recorded, "psi_pods_", had),
    )


def _zone(zone: RecordedZone) -> Zone:
    return Zone(
        node=zone.node,
        name=zone.name,
        free_pages=zone.free,
        boost_pages=zone.boost or 0,
        boost_known=zone.boost is not None,
        min_pages=zone.min,
        low_pages=zone.low or 0,
        high_pages=zone.high or 0,
        managed_pages=MAX_PAGES if zone.managed is None else zone.managed,
        free_cma_pages=zone.free_cma or 0,
        cma_known=zone.free_cma is not None,
        protection=(zone.protection or 0,),
        stat_threshold_pages=zone.stat_threshold or 0,
        cpus=zone.cpus or 0,
        held_pages=zone.held or 0,
        uses_told=zone.held is not None,
        compressed_pages=zone.zspages or 0,
    )


def _memory(recorded: RecordedSample, page_bytes: int, had: frozenset[str]) -> MemInfo | Unknown | None:
    missing = [column for column in _MEMORY if column not in recorded.figures]
    if len(missing) == len(_MEMORY) and not had.isdisjoint(_MEMORY):
        return None
    if missing:
        return Unknown(f"the recording has no {', '.join(missing)}")
    total, available, swap_total, swap_free = (int(recorded.figures[column]) * page_bytes for column in _MEMORY)
    return MemInfo(
        total_bytes=total,
        available_bytes=available,
        swap_total_bytes=swap_total,
        swap_free_bytes=swap_free,
        hugetlb_bytes=int(recorded.figures.get("hugetlb", 0)) * page_bytes,
    )


def _psi(recorded: RecordedSample, prefix: str, had: frozenset[str]) -> Psi | Unknown | None:
    some = _psi_line(recorded, f"{prefix}some_")
    if some is None:
        if f"{prefix}some_avg10" in had and f"{prefix}some_avg10" not in recorded.figures:
            return None
        return Unknown(f"the recording has no {prefix}some_avg10, avg60, avg300")
    return Psi(some, _psi_line(recorded, f"{prefix}full_"))


def _psi_line(recorded: RecordedSample, prefix: str) -> PsiLine | None:
    figures = [recorded.figures.get(prefix + figure) for figure in _PSI_FIGURES]
    if any(figure is None for figure in figures):
        return None
    avg10, avg60, avg300 = (float(figure or 0) for figure in figures)
    return PsiLine(avg10, avg60, avg300, int(recorded.figures.get(f"{prefix}total_us", 0)))  # no trigger looks at it
