"""The flight recorder's bytes: blocks of 4 KiB, each whole by itself, with samples of 7 to 70 bytes. Little-endian.

    fast      512 blocks (2 MiB), a ring: samples less than a second after the one before
    slow     1280 blocks (5 MiB), a ring: one sample a second (`slow_every_ns`: rarer on machines of many zones)
    episodes  8 slots of 32 blocks (1 MiB): copies of the blocks of an episode, see `flight_recorder`

A block: `HEAD`, the shapes of the zones (`ZONE`), a CRC of both, then `LIVE`, which grows as samples are appended, then
samples. What seldom changes (sizes, watermarks without boost, protection, totals) is the block's; a change of it begins
another block. A sample is `RECORD`, then by its flags:

    free pages   of each zone (full), or of each judged NUMA node (gate): differences to the last such sample of the
                 block as 2 bytes each, or (WIDE) the numbers themselves as 4. Behind those of the zones stand, for
                 each NUMA node that tells, the pages that nobody claims and those of compressed swap (`USES_TOLD`)
    boost, CMA   4 bytes a zone, when one of them changed; where the kernel hides boost (before 5.16) min stands there
    memory       MemAvailable and SwapFree, 4 bytes each, in pages
    PSI          averages of some and full in hundredths of a percent, 12 bytes each scope, when one is not 0

Bytes a sample, measured by `tests/unit/test_flight.py`: a gate 5 + 2 a NUMA node; all zones 5 + 2 a zone + 4 a NUMA
node (+ 4 a zone with another boost); with memory and PSI of both scopes 32 more. So three populated zones of one
node: 7, 15 (27), 47.
"""

import mmap
import struct
from binascii import crc32
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 4096
FAST_BLOCKS: Final = 512
SLOW_BLOCKS: Final = 1280
EPISODE_SLOTS: Final = 8
EPISODE_BLOCKS: Final = 32
BLOCKS: Final = FAST_BLOCKS + SLOW_BLOCKS + EPISODE_SLOTS * EPISODE_BLOCKS
AREA_BYTES: Final = BLOCKS * BLOCK_BYTES
"""8 MiB."""

HEAD: Final = struct.Struct("<QQIIIIBBH")
"""Sequence in its ring (0: empty), boot-time ns of the block's begin, page size, pages of MemTotal, SwapTotal and huge
pages, what there is (`HAS_*`), 0, number of zones."""
ZONE: Final = struct.Struct("<hBBIIIIIIHH")
"""NUMA node, index in ZONE_NAMES, `BOOST_KNOWN`, `CMA_KNOWN` and `USES_TOLD`, pages: raw min (0 where boost is hidden),
low - min, high - low, managed, protection for class Normal, CMA; stat threshold, CPUs."""
CRC: Final = struct.Struct("<I")
LIVE: Final = struct.Struct("<HHI")
"""Bytes used of the block, 0, number of the episode that the block is a copy for (0 in the rings)."""
RECORD: Final = struct.Struct("<BHH")
"""Flags, the low half of the CRC of flags, time and what follows, time since the sample before (or the block's begin)
in units of `TICK_NS`."""

TICK_NS: Final = 100_000
MOST_TICKS: Final = 0xFFFF
MOST_PAGES: Final = (1 << 32) - 1
"""Page counts are capped here: 16 TiB with pages of 4 KiB."""

FULL: Final = 1
WIDE: Final = 2
BOOST: Final = 4
CMA: Final = 8
MEMORY: Final = 16
PSI_NODE: Final = 32
PSI_PODS: Final = 64
UNKNOWN: Final = 128
"""The zones could not be read or understood."""

HAS_MEMORY: Final = 1
HAS_NODE: Final = 2
HAS_NODE_FULL: Final = 4
HAS_PODS: Final = 8
HAS_PODS_FULL: Final = 16

BOOST_KNOWN: Final = 1
CMA_KNOWN: Final = 2
USES_TOLD: Final = 4
"""The zone's node tells who holds its pages."""

ZONE_NAMES: Final = ("DMA", "DMA32", "Normal", "HighMem", "Movable", "Device")
ZONE_INDEX: Final = {name: index for index, name in enumerate(ZONE_NAMES)}

AVERAGES: Final = struct.Struct("<6H")
SLOW: Final = struct.Struct("<II")

VALUES_A_SECOND: Final = 9
"""Populated zones, and two for each NUMA node that tells, of a machine of whose samples, one a second, 24 hours fit."""
SECOND_NS: Final = 1_000_000_000


def slow_every_ns(values: int) -> int:
    """Time between slow samples: 1 s, 2 s above 9 values, 3 s above 18, so that 24 hours always fit."""
    return SECOND_NS * max(1, -(-values // VALUES_A_SECOND))


@dataclass(frozen=True, slots=True)
class Block:
    """A block's head, and where its samples are: `data[start:used]`."""

    sequence: int
    begin_ns: int
    page_bytes: int
    memory_pages: tuple[int, int, int]
    has: int
    zones: tuple[tuple[int, ...], ...]
    episode: int
    data: bytes
    start: int
    used: int


def pack_head(
    sequence: int, begin_ns: int, page_bytes: int, memory_pages: tuple[int, int, int], has: int, zones: bytes
) -> bytes:
    """A block up to its first sample."""
    head = HEAD.pack(sequence, begin_ns, page_bytes, *memory_pages, has, 0, len(zones) // ZONE.size) + zones
    used = len(head) + CRC.size + LIVE.size
    return head + CRC.pack(crc32(head)) + LIVE.pack(used, 0, 0)


def live_offset(zones: int) -> int:
    """Where `LIVE` stands in a block with that many zones."""
    return HEAD.size + zones * ZONE.size + CRC.size


def unpack_block(area: bytes | mmap.mmap, offset: int = 0) -> Block | None:
    """The block there, None when it is empty, damaged or in the making."""
    data = area[offset : offset + BLOCK_BYTES]
    if len(data) < BLOCK_BYTES:
        return None
    sequence, begin_ns, page_bytes, total, swap, huge, has, _, count = HEAD.unpack_from(data)
    live = live_offset(count)
    if not sequence or live + LIVE.size > BLOCK_BYTES:
        return None
    if CRC.unpack_from(data, live - CRC.size)[0] != crc32(data[: live - CRC.size]):
        return None
    used, _, episode = LIVE.unpack_from(data, live)
    start = live + LIVE.size
    if not start <= used <= BLOCK_BYTES or page_bytes < 4096 or page_bytes & (page_bytes - 1):
        return None
    zones = tuple(ZONE.iter_unpack(data[HEAD.size : HEAD.size + count * ZONE.size]))
    return Block(sequence, begin_ns, page_bytes, (total, swap, huge), has, zones, episode, data, start, used)


def check_of(flags: int, ticks: int, body: bytes) -> int:
    """The checksum of a sample."""
    return crc32(body, flags << 16 | ticks) & 0xFFFF
