"""The flight recorder's writer: every sample into one of two rings, and the blocks of an episode kept beside them.

A sample less than a second after the last slow one goes to the fast ring, else to the slow one; together they are all
samples. While an episode is kept, each block that is full is copied to the episode's slot, and the open ones when it
ends: so its samples are there from at least 5 s before its begin to at least 30 s after its pressure was last seen. An
episode too long for its 32 blocks (about a minute of samples every 10 ms) keeps its first 16 and its last 16. The ninth
episode takes the place of the first.

For the sampler's thread: nothing is opened, and a sample costs some microseconds.
"""

import mmap
import struct
from collections.abc import Iterable
from operator import sub
from typing import Final

from memorypressure.signals import GateShut, MemInfo, Psi, PsiLine, Sample
from memorypressure.zone_values import ZoneInfo
from memorypressure_agent.host import flight_format as layout
from memorypressure_agent.host.flight_ring import Ring
from memorypressure_agent.host.flight_shape import Shape, shape_key, told_nodes

BEFORE_NS: Final = 5_000_000_000
AFTER_NS: Final = 30_000_000_000
_SLACK_NS: Final = 5_000_000
_HALF: Final = layout.EPISODE_BLOCKS // 2
_EMPTY: Final = bytes(8)
_EPISODE: Final = struct.Struct("<I")


class FlightRecorder:
    """The recorder in `flight_format.AREA_BYTES` of a mapping from `offset`; goes on where another one stopped."""

    def __init__(self, area: mmap.mmap, offset: int) -> None:
        self._area = area
        self._fast = Ring(area, offset, layout.FAST_BLOCKS)
        self._slow = Ring(area, offset + layout.FAST_BLOCKS * layout.BLOCK_BYTES, layout.SLOW_BLOCKS)
        self._slots = offset + (layout.FAST_BLOCKS + layout.SLOW_BLOCKS) * layout.BLOCK_BYTES
        self._shape: Shape | None = None
        self._shaped_by: tuple[object, ...] = ()
        self._memory: MemInfo | None = None
        self._has = 0
        self._slow_due_ns = 0
        self._kept = 0
        self._kept_blocks = 0
        self._keep_until_ns = 0
        self._gate_nodes = 0
        self._gate_narrow = self._gate_wide = struct.Struct("<")

    def add(self, sample: Sample) -> None:
        """Records a sample. Before the first full one there is nothing to record it with."""
        zones, now = sample.zones, sample.time_ns
        if sample.memory is not None:
            self._see_slow(sample)
        if isinstance(zones, ZoneInfo):
            self._see_zones(zones)
        shape = self._shape
        if shape is None:
            return
        if now >= self._slow_due_ns and not isinstance(zones, GateShut):
            self._slow_due_ns = now + shape.slow_every_ns - _SLACK_NS
            ring = self._slow
        else:
            ring = self._fast
        ticks = max(0, now - ring.time_ns) // layout.TICK_NS
        if ring.shape is not shape or ring.has != self._has or ticks > layout.MOST_TICKS or now < ring.time_ns:
            self._next_block(ring, shape, now)
            ticks = 0
        flags, body = self._sample(ring, shape, sample)
        if ring.used + layout.RECORD.size + len(body) > layout.BLOCK_BYTES:
            self._next_block(ring, shape, now)
            ticks = 0
            flags, body = self._sample(ring, shape, sample)
        ring.append(flags, ticks, body)
        ring.publish()
        if self._kept and now > self._keep_until_ns:
            self._end_keeping()

    def add_gates(self, readings: Iterable[tuple[int, tuple[int, ...]]]) -> None:
        """Records readings of the gates, (time, free pages of each judged node), as `add` a sample of nothing else."""
        shape, ring = self._shape, self._fast
        if shape is None:
            return
        for now_ns, free in readings:
            ticks = (now_ns - ring.time_ns) // layout.TICK_NS
            room = ring.used + layout.RECORD.size + 4 * len(free) <= layout.BLOCK_BYTES
            if ring.shape is not shape or ring.has != self._has or not 0 <= ticks <= layout.MOST_TICKS or not room:
                self._next_block(ring, shape, now_ns)
                ticks = 0
            flags, body = self._gate(ring, free)
            ring.append(flags, ticks, body)
            if self._kept and now_ns > self._keep_until_ns:
                ring.publish()
                self._end_keeping()
        if ring.open_offset >= 0:
            ring.publish()

    def keep(self, episode: int, now_ns: int) -> None:
        """Keeps the samples of this episode until 30 s from now; called again while its pressure lasts."""
        self._keep_until_ns = now_ns + AFTER_NS
        if episode == self._kept:
            return
        if self._kept:
            self._end_keeping()
        self._kept = episode
        there = self._blocks_of(episode)
        self._kept_blocks = len(there)
        if not there:
            for index in range(layout.EPISODE_BLOCKS):
                offset = self._slot(index)
                self._area[offset : offset + 8] = _EMPTY
        for ring in (self._slow, self._fast):  # also what an earlier process had not copied yet when it ended
            for offset in self._recent(ring, now_ns - BEFORE_NS, there):
                self._copy(offset)

    def rehearse(self) -> None:
        """Goes through `keep`, a block copied onto itself: its code is there then when an episode begins.

        Needs a sample in a ring. A page of code that is touched first when an episode begins is read from a disk, into
        memory that has to be reclaimed: seconds, at the moment of a kill.
        """
        offset = self._slot(0)
        self._blocks_of(0)
        for ring in (self._slow, self._fast):
            self._recent(ring, 0, [])
            if ring.open_offset >= 0:
                self._is_news(ring.open_offset, [])
        self._area.move(offset, offset, layout.BLOCK_BYTES)
        layout.HEAD.unpack_from(self._area, offset)
        _EPISODE.pack_into(bytearray(_EPISODE.size), 0, layout.live_offset(0))

    def _sample(self, ring: Ring, shape: Shape, sample: Sample) -> tuple[int, bytes]:
        """Flags and bytes of a sample behind those of the ring's open block."""
        zones = sample.zones
        flags = 0
        parts = []
        if isinstance(zones, ZoneInfo):
            flags = layout.FULL
            populated = [zone for zone in zones.zones if zone.managed_pages]
            values = (*[min(zone.free_pages, layout.MOST_PAGES) for zone in populated], *_uses(zones, shape.told))
            wide, packed = _packed_free(values, ring.full, shape.narrow, shape.wide)
            ring.full = values
            flags |= wide
            parts.append(packed)
            boost = tuple([zone.boost_pages if zone.boost_known else zone.min_pages for zone in populated])
            cma = tuple([zone.free_cma_pages for zone in populated])
            if boost != ring.boost and (ring.boost or any(boost)):
                flags |= layout.BOOST
                parts.append(shape.of_zones.pack(*[min(each, layout.MOST_PAGES) for each in boost]))
            if cma != ring.cma and (ring.cma or any(cma)):
                flags |= layout.CMA
                parts.append(shape.of_zones.pack(*[min(each, layout.MOST_PAGES) for each in cma]))
            ring.boost, ring.cma = boost, cma
        elif isinstance(zones, GateShut):
            flags, packed = self._gate(ring, tuple([pages for _, pages in zones.node_free_pages]))
            parts.append(packed)
        else:
            flags = layout.UNKNOWN
        if isinstance(sample.memory, MemInfo):
            flags |= layout.MEMORY
            pages = (
                sample.memory.available_bytes // shape.page_bytes,
                sample.memory.swap_free_bytes // shape.page_bytes,
            )
            parts.append(layout.SLOW.pack(*[min(each, layout.MOST_PAGES) for each in pages]))
        for flag, psi in ((layout.PSI_NODE, sample.psi_node), (layout.PSI_PODS, sample.psi_pods)):
            if isinstance(psi, Psi) and (_any(psi.some) or (psi.full is not None and _any(psi.full))):
                flags |= flag
                parts.append(layout.AVERAGES.pack(*_hundredths(psi.some), *_hundredths(psi.full)))
        return flags, b"".join(parts)

    def _gate(self, ring: Ring, free: tuple[int, ...]) -> tuple[int, bytes]:
        """Flags and bytes of a reading of gates behind those of the open block."""
        if max(free, default=0) > layout.MOST_PAGES:
            free = tuple([min(pages, layout.MOST_PAGES) for pages in free])
        if len(free) != self._gate_nodes:
            self._gate_nodes = len(free)
            self._gate_narrow, self._gate_wide = struct.Struct(f"<{len(free)}h"), struct.Struct(f"<{len(free)}I")
        found = _packed_free(free, ring.gate, self._gate_narrow, self._gate_wide)
        ring.gate = free
        return found

    def _see_zones(self, info: ZoneInfo) -> None:
        """Takes the machine's shape, another one when something of it changed."""
        memory = self._memory
        totals = (memory.total_bytes, memory.swap_total_bytes, memory.hugetlb_bytes) if memory else None
        told = told_nodes(info)
        shaped_by = (totals, told, info.lines_key)
        if shaped_by == self._shaped_by:
            return
        self._shaped_by = shaped_by
        key = shape_key(info, totals)
        if self._shape is None or key != self._shape.key:
            shape = Shape(key, info, memory)
            self._shape = shape if shape.fits else None

    def _see_slow(self, sample: Sample) -> None:
        self._memory = sample.memory if isinstance(sample.memory, MemInfo) else None
        has = layout.HAS_MEMORY if self._memory is not None else 0
        if isinstance(sample.psi_node, Psi):
            has |= layout.HAS_NODE | (layout.HAS_NODE_FULL if sample.psi_node.full is not None else 0)
        if isinstance(sample.psi_pods, Psi):
            has |= layout.HAS_PODS | (layout.HAS_PODS_FULL if sample.psi_pods.full is not None else 0)
        self._has = has

    def _next_block(self, ring: Ring, shape: Shape, now_ns: int) -> None:
        if ring.open_offset >= 0:
            ring.publish()
            if self._kept:
                self._copy(ring.open_offset)
        ring.begin(shape, self._has, now_ns)

    def _recent(self, ring: Ring, since_ns: int, there: list[tuple[int, ...]]) -> list[int]:
        """Where the closed blocks with samples since then are, oldest first, but for those that are there already."""
        wanted: list[int] = []
        is_open = ring.open_offset >= 0  # else another process wrote the last one: it is closed
        sequence = ring.sequence if is_open else ring.sequence + 1
        begin = ring.begin_ns_of(sequence) if is_open else since_ns + 1
        while begin is not None and begin > since_ns and len(wanted) < _HALF // 2:
            sequence -= 1
            begin = ring.begin_ns_of(sequence)
            if begin is not None:
                wanted.append(ring.offset_of(sequence))
        wanted.reverse()
        return [offset for offset in wanted if self._is_news(offset, there)]

    def _is_news(self, offset: int, there: list[tuple[int, ...]]) -> bool:
        """Whether a whole block is there, and not yet among those of the episode."""
        block = layout.unpack_block(self._area, offset)
        return block is not None and (block.sequence, block.begin_ns, block.used) not in there

    def _end_keeping(self) -> None:
        for ring in (self._slow, self._fast):
            if ring.open_offset >= 0:
                self._copy(ring.open_offset)
        self._kept = 0

    def _copy(self, offset: int) -> None:
        count = self._kept_blocks
        target = self._slot(count if count < _HALF else _HALF + (count - _HALF) % _HALF)
        self._kept_blocks += 1
        self._area.move(target, offset, layout.BLOCK_BYTES)
        zones = layout.HEAD.unpack_from(self._area, target)[-1]
        at = target + layout.live_offset(zones) + 4
        _EPISODE.pack_into(self._area, at, self._kept & 0xFFFFFFFF)

    def _slot(self, index: int) -> int:
        """Where a block of the episode that is kept stands."""
        slot = self._kept % layout.EPISODE_SLOTS
        return self._slots + (slot * layout.EPISODE_BLOCKS + index) * layout.BLOCK_BYTES

    def _blocks_of(self, episode: int) -> list[tuple[int, ...]]:
        """(sequence, begin, bytes used) of the blocks with which the episode's slot is filled for it already."""
        found: list[tuple[int, ...]] = []
        for index in range(layout.EPISODE_BLOCKS):
            block = layout.unpack_block(self._area, self._slot(index))
            if block is None or block.episode != episode & 0xFFFFFFFF:
                break
            found.append((block.sequence, block.begin_ns, block.used))
        return found


def _packed_free(
    free: tuple[int, ...], before: tuple[int, ...], narrow: struct.Struct, wide: struct.Struct
) -> tuple[int, bytes]:
    """(WIDE or 0, the bytes): differences where they fit into two bytes each, else the numbers."""
    if len(before) == len(free):
        try:
            return 0, narrow.pack(*map(sub, free, before))
        except struct.error:  # a difference does not fit
            pass
    return layout.WIDE, wide.pack(*free)


def _uses(info: ZoneInfo, told: tuple[int, ...]) -> list[int]:
    """For each of these nodes the pages that nobody claims and those of compressed swap."""
    values = []
    for node in info.nodes:
        if node.number in told:
            compressed = sum([zone.compressed_pages for zone in info.zones if zone.node == node.number])
            values += [min(max(0, node.unclaimed_pages or 0), layout.MOST_PAGES), min(compressed, layout.MOST_PAGES)]
    return values


def _any(line: PsiLine) -> bool:
    return bool(line.avg10 or line.avg60 or line.avg300)


def _hundredths(line: PsiLine | None) -> tuple[int, int, int]:
    if line is None:
        return 0, 0, 0
    return round(line.avg10 * 100), round(line.avg60 * 100), round(line.avg300 * 100)
