"""What the flight recorder says of a machine once a block: its zones, their lines, its memory."""

import struct

from memorypressure.signals import MemInfo
from memorypressure.zone_values import Zone, ZoneInfo
from memorypressure_agent.host import flight_format as layout


class Shape:
    """What a block says of the machine once, and how its samples are packed. Compared by `key`."""

    def __init__(self, key: tuple[object, ...], info: ZoneInfo, memory: MemInfo | None) -> None:
        """`key` is `shape_key` of both."""
        self.key = key
        zones = [zone for zone in info.zones if zone.managed_pages]
        self.told = told_nodes(info)
        self.zones = b"".join(_packed(zone, info.normal_index, told=zone.node in self.told) for zone in zones)
        self.page_bytes = info.page_size_bytes
        figures = (memory.total_bytes, memory.swap_total_bytes, memory.hugetlb_bytes) if memory else (0, 0, 0)
        total, swap, huge = [min(each // self.page_bytes, layout.MOST_PAGES) for each in figures]
        self.memory_pages = (total, swap, huge)
        self.live = layout.live_offset(len(zones))
        values = len(zones) + 2 * len(self.told)
        self.narrow = struct.Struct(f"<{values}h")
        self.wide = struct.Struct(f"<{values}I")
        self.of_zones = struct.Struct(f"<{len(zones)}I")
        self.slow_every_ns = layout.slow_every_ns(values)
        largest = layout.RECORD.size + self.wide.size + 2 * self.of_zones.size
        largest += layout.SLOW.size + 2 * layout.AVERAGES.size
        self.fits = self.live + layout.LIVE.size + largest <= layout.BLOCK_BYTES
        """Whether a block holds a sample. Some 90 populated zones do; of a larger machine nothing is recorded."""


def shape_key(info: ZoneInfo, totals: tuple[int, ...] | None) -> tuple[object, ...]:
    """What makes two machines one shape: who tells what, and of each populated zone all that a sample does not repeat.

    `totals`: bytes of memory, swap and huge pages; None while they are not known.
    """
    return (
        totals,
        told_nodes(info),
        *[
            (
                zone.node,
                zone.name,
                zone.managed_pages,
                zone.min_pages - zone.boost_pages if zone.boost_known else -1,
                zone.low_pages - zone.min_pages,
                zone.high_pages - zone.low_pages,
                zone.protection,
                zone.cma_pages,
                zone.stat_threshold_pages,
                zone.cpus,
            )
            for zone in info.zones
            if zone.managed_pages
        ],
    )


def told_nodes(info: ZoneInfo) -> tuple[int, ...]:
    """The NUMA nodes that tell who holds their pages, in their order."""
    return tuple([node.number for node in info.nodes if node.unclaimed_pages is not None])


def _packed(zone: Zone, normal_index: int, *, told: bool) -> bytes:
    known = (
        (layout.BOOST_KNOWN if zone.boost_known else 0)
        | (layout.CMA_KNOWN if zone.cma_known else 0)
        | (layout.USES_TOLD if told else 0)
    )
    pages = (
        zone.min_pages - zone.boost_pages if zone.boost_known else 0,
        zone.low_pages - zone.min_pages,
        zone.high_pages - zone.low_pages,
        zone.managed_pages,
        zone.protection[normal_index] if zone.protection else 0,
        zone.cma_pages,
    )
    capped = [min(each, layout.MOST_PAGES) for each in pages]
    return layout.ZONE.pack(
        zone.node, layout.ZONE_INDEX[zone.name], known, *capped, zone.stat_threshold_pages, min(zone.cpus, 0xFFFF)
    )
