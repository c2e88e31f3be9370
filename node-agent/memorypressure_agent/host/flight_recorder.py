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
from binascii import crc32
from collections.abc import Iterable
from operator import sub
from typing import Final

from memorypressure.signals import GateShut, MemInfo, Psi, PsiLine, Sample
from memorypressure.zone_values import Zone, ZoneInfo
from memorypressure_agent.host import flight_format as layout

BEFORE_NS: Final = 5_000_000_000
AFTER_NS: Final = 30_000_000_000
_SLACK_NS: Final = 5_000_000
_HALF: Final = layout.EPISODE_BLOCKS // 2
_EMPTY: Final = bytes(8)
_EPISODE: Final = struct.Struct("<I")


class _Shape:
    """What a block says of the machine once: `head` is all but sequence and time. Compared by `key`."""

    def __init__(
        self, key: tuple[object, ...], zones: tuple[Zone, ...], info: ZoneInfo, memory: MemInfo | None
    ) -> None:
        self.key = key
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


class _Ring:
    """One ring of blocks; `write` appends a sample to its open block."""

    def __init__(self, area: mmap.mmap, first: int, count: int) -> None:
        self._area = area
        self.first = first
        self.count = count
        self.sequence = max((self._sequence_of(index) for index in range(count)), default=0)
        self.open_offset = -1
        self.used = 0
        self.time_ns = 0
        self.shape: _Shape | None = None
        self.has = 0
        self.full: tuple[int, ...] = ()
        self.gate: tuple[int, ...] = ()
        self.boost: tuple[int, ...] = ()
        self.cma: tuple[int, ...] = ()

    def offset_of(self, sequence: int) -> int:
        """Where the block of that sequence number is, if it still is."""
        return self.first + sequence % self.count * layout.BLOCK_BYTES

    def begin(self, shape: _Shape, has: int, time_ns: int) -> None:
        """Opens the next block."""
        self.sequence += 1
        head = layout.pack_head(self.sequence, time_ns, shape.page_bytes, shape.memory_pages, has, shape.zones)
        self.open_offset = self.offset_of(self.sequence)
        self._area[self.open_offset : self.open_offset + len(head)] = head
        self.used = len(head)
        self.time_ns = time_ns
        self.shape, self.has = shape, has
        self.full = self.gate = self.boost = self.cma = ()

    def append(self, flags: int, ticks: int, body: bytes) -> None:
        """Puts a sample behind the last one; it counts from `publish` on."""
        check = crc32(body, flags << 16 | ticks) & 0xFFFF  # as `flight_format.check_of`
        record = layout.RECORD.pack(flags, check, ticks) + body
        start = self.open_offset + self.used
        self.used += len(record)
        self._area[start : self.open_offset + self.used] = record
        self.time_ns += ticks * layout.TICK_NS

    def publish(self) -> None:
        """Lets what was appended to the open block count: it says how many of its bytes are used."""
        live = self.open_offset + (self.shape.live if self.shape else 0)
        self._area[live : live + 2] = self.used.to_bytes(2, "little")

    def begin_ns_of(self, sequence: int) -> int | None:
        """When that block begins; None when it is not there."""
        offset = self.offset_of(sequence)
        found, begin_ns = struct.unpack_from("<QQ", self._area, offset)
        return int(begin_ns) if found == sequence else None

    def _sequence_of(self, index: int) -> int:
        """That of the block in this place; 0 without one, for damage must not become a sequence that goes on."""
        block = layout.unpack_block(self._area, self.first + index * layout.BLOCK_BYTES)
        return block.sequence if block is not None and block.sequence % self.count == index else 0


class FlightRecorder:
    """The recorder in `flight_format.AREA_BYTES` of a mapping from `offset`; goes on where another one stopped."""

    def __init__(self, area: mmap.mmap, offset: int) -> None:
        self._area = area
        self._fast = _Ring(area, offset, layout.FAST_BLOCKS)
        self._slow = _Ring(area, offset + layout.FAST_BLOCKS * layout.BLOCK_BYTES, layout.SLOW_BLOCKS)
        self._slots = offset + (layout.FAST_BLOCKS + layout.SLOW_BLOCKS) * layout.BLOCK_BYTES
        self._shape: _Shape | None = None
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

    def _sample(self, ring: _Ring, shape: _Shape, sample: Sample) -> tuple[int, bytes]:
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

    def _gate(self, ring: _Ring, free: tuple[int, ...]) -> tuple[int, bytes]:
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
        totals = memory and (memory.total_bytes, memory.swap_total_bytes, memory.hugetlb_bytes)
        told = told_nodes(info)
        shaped_by = (totals, told, info.lines_key)
        if shaped_by == self._shaped_by:
            return
        self._shaped_by = shaped_by
        zones = [zone for zone in info.zones if zone.managed_pages]
        key = (
            totals,
            told,
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
                for zone in zones
            ],
        )
        if self._shape is None or key != self._shape.key:
            shape = _Shape(key, tuple(zones), info, memory)
            self._shape = shape if shape.fits else None

    def _see_slow(self, sample: Sample) -> None:
        self._memory = sample.memory if isinstance(sample.memory, MemInfo) else None
        has = layout.HAS_MEMORY if self._memory is not None else 0
        if isinstance(sample.psi_node, Psi):
            has |= layout.HAS_NODE | (layout.HAS_NODE_FULL if sample.psi_node.full is not None else 0)
        if isinstance(sample.psi_pods, Psi):
            has |= layout.HAS_PODS | (layout.HAS_PODS_FULL if sample.psi_pods.full is not None else 0)
        self._has = has

    def _next_block(self, ring: _Ring, shape: _Shape, now_ns: int) -> None:
        if ring.open_offset >= 0:
            ring.publish()
            if self._kept:
                self._copy(ring.open_offset)
        ring.begin(shape, self._has, now_ns)

    def _recent(self, ring: _Ring, since_ns: int, there: list[tuple[int, ...]]) -> list[int]:
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


def told_nodes(info: ZoneInfo) -> tuple[int, ...]:
    """The NUMA nodes that tell who holds their pages, in their order."""
    return tuple([node.number for node in info.nodes if node.unclaimed_pages is not None])


def _uses(info: ZoneInfo, told: tuple[int, ...]) -> list[int]:
    """For each of these nodes the pages that nobody claims and those of compressed swap."""
    values = []
    for node in info.nodes:
        if node.number in told:
            compressed = sum([zone.compressed_pages for zone in info.zones if zone.node == node.number])
            values += [min(max(0, node.unclaimed_pages or 0), layout.MOST_PAGES), min(compressed, layout.MOST_PAGES)]
    return values


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


def _any(line: PsiLine) -> bool:
    return bool(line.avg10 or line.avg60 or line.avg300)


def _hundredths(line: PsiLine | None) -> tuple[int, int, int]:
    if line is None:
        return 0, 0, 0
    return round(line.avg10 * 100), round(line.avg60 * 100), round(line.avg300 * 100)
