"""The flight recorder read back: the bytes of its area -> samples in order of time, episode by episode or all of it.

Damage costs what it hit and no more: a block that is not whole is left out, a sample whose checksum is wrong ends its
block. Nothing is guessed.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from memorypressure.signals import MemInfo, Psi, PsiLine
from memorypressure.zone_values import Zone, ZoneInfo
from memorypressure_agent.host import flight_format as layout
from memorypressure_agent.host.flight_format import Block


@dataclass(frozen=True, slots=True)
class FlightSample:
    """One sample: zones, or only free pages of NUMA nodes (a gate), or neither (they were unknown).

    Times are the boot-time clock's, to 0.1 ms. Parts that were not read with it are None; PSI totals are not recorded
    and 0.
    """

    time_ns: int
    page_bytes: int
    zones: ZoneInfo | None
    node_free_pages: tuple[tuple[int, int], ...]
    memory: MemInfo | None
    psi_node: Psi | None
    psi_pods: Psi | None


def rings(area: bytes) -> list[FlightSample]:
    """All samples of both rings, oldest first."""
    return _samples(_blocks(area, 0, layout.FAST_BLOCKS + layout.SLOW_BLOCKS))


def episodes(area: bytes) -> dict[int, list[FlightSample]]:
    """The samples kept of each episode, by its number (the low 32 bits)."""
    by_number: dict[int, list[Block]] = {}
    first = layout.FAST_BLOCKS + layout.SLOW_BLOCKS
    for block in _blocks(area, first, layout.BLOCKS):
        if block.episode:
            by_number.setdefault(block.episode, []).append(block)
    return {number: _samples(by_number[number]) for number in sorted(by_number)}


def _blocks(area: bytes, first: int, end: int) -> Iterator[Block]:
    for index in range(first, end):
        block = layout.unpack_block(area, index * layout.BLOCK_BYTES)
        if block is not None:
            yield block


def _samples(blocks: Iterable[Block]) -> list[FlightSample]:
    found = {}
    for block in blocks:
        for sample in _decoded(block):
            found[sample.time_ns, bool(sample.zones)] = sample
    return [found[key] for key in sorted(found)]


def _decoded(block: Block) -> Iterator[FlightSample]:
    """The samples of a block, up to the first that is not whole."""
    template = [_zone(zone) for zone in block.zones]
    shape = ZoneInfo(tuple(template), block.page_bytes, 0)
    nodes = [node.number for node in shape.counted_nodes]
    told = tuple(dict.fromkeys(packed[0] for packed in block.zones if packed[2] & layout.USES_TOLD))
    values_of_full = len(template) + 2 * len(told)
    full = [0] * values_of_full
    gate = [0] * len(nodes)
    boost, cma = [0] * len(template), [0] * len(template)
    offset, time_ns = block.start, block.begin_ns
    while offset + layout.RECORD.size <= block.used:
        flags, check, ticks = layout.RECORD.unpack_from(block.data, offset)
        offset += layout.RECORD.size
        count = values_of_full if flags & layout.FULL else len(nodes)
        free_bytes = 0 if flags & layout.UNKNOWN else count * (4 if flags & layout.WIDE else 2)
        size = free_bytes + sum(
            length
            for flag, length in (
                (layout.BOOST, 4 * len(template)),
                (layout.CMA, 4 * len(template)),
                (layout.MEMORY, layout.SLOW.size),
                (layout.PSI_NODE, layout.AVERAGES.size),
                (layout.PSI_PODS, layout.AVERAGES.size),
            )
            if flags & flag
        )
        body = block.data[offset : offset + size]
        if offset + size > block.used or check != layout.check_of(flags, ticks, body):
            return
        offset += size
        time_ns += ticks * layout.TICK_NS
        at = 0
        if free_bytes:
            values = struct.unpack_from(f"<{count}{'I' if flags & layout.WIDE else 'h'}", body)
            before = full if flags & layout.FULL else gate
            now = (
                list(values)
                if flags & layout.WIDE
                else [then + value for then, value in zip(before, values, strict=True)]
            )
            if flags & layout.FULL:
                full = now
            else:
                gate = now
            at = free_bytes
        if flags & layout.BOOST:
            boost = list(struct.unpack_from(f"<{len(template)}I", body, at))
            at += 4 * len(template)
        if flags & layout.CMA:
            cma = list(struct.unpack_from(f"<{len(template)}I", body, at))
            at += 4 * len(template)
        zones = None
        if flags & layout.FULL:
            free, uses = full[: len(template)], full[len(template) :]
            read = _told(list(map(_zone_at, template, free, boost, cma)), told, uses)
            zones = ZoneInfo(tuple(read), block.page_bytes, 0)
        is_gate = free_bytes and not flags & layout.FULL
        node_free = tuple(zip(nodes, gate, strict=True)) if is_gate else ()
        yield FlightSample(time_ns, block.page_bytes, zones, node_free, *_slow(block, flags, body, at))


def _told(zones: list[Zone], told: tuple[int, ...], uses: list[int]) -> list[Zone]:
    """The zones with what their nodes tell: all but what nobody claims in the first zone of each.

    Compressed swap stands in the zone whose counters may be off by most, so that its lag is not made smaller.
    """
    for node, unclaimed, compressed in zip(told, uses[::2], uses[1::2], strict=True):
        members = [place for place, zone in enumerate(zones) if zone.node == node]
        in_use = sum(zones[place].managed_pages - zones[place].free_pages for place in members)
        zones[members[0]] = replace(zones[members[0]], held_pages=in_use - unclaimed, uses_told=True)
        last = max(members, key=lambda place: zones[place].error_pages)
        zones[last] = replace(zones[last], compressed_pages=compressed)
    return zones


def _slow(block: Block, flags: int, body: bytes, at: int) -> tuple[MemInfo | None, Psi | None, Psi | None]:
    if not flags & layout.MEMORY:
        return None, None, None
    available, swap_free = layout.SLOW.unpack_from(body, at)
    at += layout.SLOW.size
    total, swap_total, huge = block.memory_pages
    memory = MemInfo(*[pages * block.page_bytes for pages in (total, available, swap_total, swap_free, huge)])
    scopes: list[Psi | None] = []
    for flag, has, has_full in (
        (layout.PSI_NODE, layout.HAS_NODE, layout.HAS_NODE_FULL),
        (layout.PSI_PODS, layout.HAS_PODS, layout.HAS_PODS_FULL),
    ):
        averages = (0,) * 6
        if flags & flag:
            averages = layout.AVERAGES.unpack_from(body, at)
            at += layout.AVERAGES.size
        some, full = _psi_line(averages[:3]), _psi_line(averages[3:])
        scopes.append(Psi(some, full if block.has & has_full else None) if block.has & has else None)
    return memory, scopes[0], scopes[1]


def _psi_line(hundredths: tuple[int, ...]) -> PsiLine:
    avg10, avg60, avg300 = hundredths
    return PsiLine(avg10 / 100, avg60 / 100, avg300 / 100, 0)


def _zone(packed: tuple[int, ...]) -> Zone:
    node, name, known, raw_min, to_low, to_high, managed, protection, cma, threshold, cpus = packed
    low = raw_min + to_low
    return Zone(
        node,
        layout.ZONE_NAMES[min(name, len(layout.ZONE_NAMES) - 1)],
        0,
        0,
        bool(known & layout.BOOST_KNOWN),
        raw_min,
        low,
        low + to_high,
        managed,
        0,
        cma,
        bool(known & layout.CMA_KNOWN),
        (protection,),
        threshold,
        cpus,
    )


def _zone_at(zone: Zone, free: int, boost: int, cma: int) -> Zone:
    """The zone at one sample: boost in all three marks, or where it is hidden min itself."""
    return Zone(
        zone.node,
        zone.name,
        free,
        boost if zone.boost_known else 0,
        zone.boost_known,
        zone.min_pages + boost,
        zone.low_pages + boost,
        zone.high_pages + boost,
        zone.managed_pages,
        cma,
        zone.cma_pages,
        zone.cma_known,
        zone.protection,
        zone.stat_threshold_pages,
        zone.cpus,
    )
