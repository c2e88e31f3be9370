"""Machines and samples for the flight recorder's tests."""

from dataclasses import replace

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, GateShut, MemInfo, Psi, PsiLine, Sample
from memorypressure.zone_values import Zone, ZoneInfo
from memorypressure_agent.host.flight_reader import FlightSample

MS = 1_000_000
SECOND = 1_000 * MS
START = 7_000 * SECOND
PAGE = 4096
ABSENT = Absent(Reason.NOT_PRESENT, "none")
DMA = Zone(0, "DMA", 3840, 0, True, 21, 26, 31, 3840, 0, 0, True, (0, 3018, 11850), 4, 2)
NORMAL = Zone(0, "Normal", 500_000, 0, True, 900, 1100, 1300, 2_000_000, 0, 0, True, (0, 0, 0), 32, 2)
EMPTY_ZONE = Zone(0, "Movable", 0, 0, True, 32, 32, 32, 0, 0, 0, True, (0, 0, 0))
MACHINE = ZoneInfo((DMA, replace(NORMAL, name="DMA32"), NORMAL, EMPTY_ZONE), PAGE, 2)
TELLING = replace(MACHINE, zones=(replace(DMA, held_pages=1_000_000, uses_told=True), *MACHINE.zones[1:]))
MEMORY = MemInfo(1 << 33, 1 << 32, 1 << 30, 1 << 29, 1 << 21)
PSI = Psi(PsiLine(1.5, 2.25, 99.99, 0), PsiLine(0.01, 0.0, 3.0, 0))
ZERO = Psi(PsiLine(0.0, 0.0, 0.0, 0), PsiLine(0.0, 0.0, 0.0, 0))
ONLY_SOME = Psi(PsiLine(1.0, 2.0, 3.0, 0), None)


def with_free(info: ZoneInfo, *free: int, boost: int = 0) -> ZoneInfo:
    """The machine with other free pages in its populated zones, boosted in all of them."""
    pages = iter(free)
    zones = [
        replace(
            zone,
            free_pages=next(pages),
            boost_pages=boost,
            min_pages=zone.min_pages + boost,
            low_pages=zone.low_pages + boost,
            high_pages=zone.high_pages + boost,
        )
        if zone.managed_pages
        else zone
        for zone in info.zones
    ]
    return ZoneInfo(tuple(zones), PAGE, 2)


def full(at_ns: int, zones: ZoneInfo, *, slow: bool = True, psi: Psi | Absent = PSI) -> Sample:
    """A sample of all zones; a slow one with memory and PSI."""
    return Sample(at_ns, zones, MEMORY if slow else None, psi if slow else None, psi if slow else None)


def gate(at_ns: int, free: int) -> Sample:
    """A sample behind a shut gate."""
    return Sample(at_ns, GateShut(MACHINE, ((0, free),), clear_lines=False), None, None, None)


def free_of(sample: FlightSample) -> tuple[int, ...]:
    """Free pages of each populated zone; empty for a gate."""
    return tuple(zone.free_pages for zone in sample.zones.zones) if sample.zones else ()


def machine_of(zones: int, telling_nodes: int = 0) -> ZoneInfo:
    """So many zones in as many nodes, or spread over so many nodes that tell who holds their pages."""
    if not telling_nodes:
        return ZoneInfo(tuple(replace(NORMAL, node=node) for node in range(zones)), PAGE, 2)
    members = [replace(NORMAL, node=place * telling_nodes // zones) for place in range(zones)]
    first = {zone.node: place for place, zone in reversed(list(enumerate(members)))}
    for place in first.values():
        members[place] = replace(members[place], held_pages=1_000_000, uses_told=True)
    return ZoneInfo(tuple(members), PAGE, 2)
