"""A ring of the flight recorder: blocks of samples, of which the oldest gives way to the next."""

import mmap
import struct
from binascii import crc32

from memorypressure_agent.host import flight_format as layout
from memorypressure_agent.host.flight_shape import Shape


class Ring:
    """One ring of blocks; `append` puts a sample into its open block."""

    def __init__(self, area: mmap.mmap, first: int, count: int) -> None:
        self._area = area
        self.first = first
        self.count = count
        self.sequence = max((self._sequence_of(index) for index in range(count)), default=0)
        self.open_offset = -1
        self.used = 0
        self.time_ns = 0
        self.shape: Shape | None = None
        self.has = 0
        self.full: tuple[int, ...] = ()
        self.gate: tuple[int, ...] = ()
        self.boost: tuple[int, ...] = ()
        self.cma: tuple[int, ...] = ()

    def offset_of(self, sequence: int) -> int:
        """Where the block of that sequence number is, if it still is."""
        return self.first + sequence % self.count * layout.BLOCK_BYTES

    def begin(self, shape: Shape, has: int, time_ns: int) -> None:
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
