"""What holds of the reader of the flight recorder, for any block whose checksums are right."""

from binascii import crc32
from collections.abc import Iterator

from fuzz.places import PAGE

from memorypressure_agent.host import flight_format, flight_reader


def flight(data: bytes) -> None:
    """A flight recorder's block, its checksums put right: samples in order of time, and no more than are there."""
    block = _sealed(bytearray(data[: flight_format.BLOCK_BYTES].ljust(flight_format.BLOCK_BYTES, b"\0")))
    found = flight_format.unpack_block(block)
    # Not the whole area: its 1,792 blocks would take a hundred times as long.
    samples = flight_reader._samples([] if found is None else [found])
    times = [sample.time_ns for sample in samples]
    assert times == sorted(times)
    assert len(samples) <= flight_format.BLOCK_BYTES // flight_format.RECORD.size


def _sealed(block: bytearray) -> bytes:
    """The block with the checksums that its bytes need, of the head and of each sample as long as they fit."""
    layout = flight_format
    zones = block[layout.HEAD.size - 2]  # its count has two bytes; more than fit in a block are of no interest
    block[layout.HEAD.size - 1] = 0
    start = layout.live_offset(zones)
    if start + layout.LIVE.size > len(block):
        return bytes(block)
    layout.CRC.pack_into(block, start - layout.CRC.size, crc32(block[: start - layout.CRC.size]))
    found = layout.unpack_block(bytes(block))
    if found is None:
        return bytes(block)
    at = found.start
    while at + layout.RECORD.size <= found.used:
        flags, _, ticks = layout.RECORD.unpack_from(block, at)
        size = _sample_bytes(found, flags)
        body = bytes(block[at + layout.RECORD.size : at + layout.RECORD.size + size])
        layout.RECORD.pack_into(block, at, flags, layout.check_of(flags, ticks, body), ticks)
        at += layout.RECORD.size + size
    return bytes(block)


def _sample_bytes(block: flight_format.Block, flags: int) -> int:
    """Bytes after a sample's head, as the format's description says."""
    layout, zones = flight_format, len(block.zones)
    nodes = {zone[0] for zone in block.zones if zone[6] and zone[1] < 3}  # judged: with a managed zone up to Normal
    free = 0 if flags & layout.UNKNOWN else (zones if flags & layout.FULL else len(nodes))
    size = free * (4 if flags & layout.WIDE else 2)
    size += 4 * zones * bool(flags & layout.BOOST) + 4 * zones * bool(flags & layout.CMA)
    size += layout.SLOW.size * bool(flags & layout.MEMORY)
    return size + layout.AVERAGES.size * (bool(flags & layout.PSI_NODE) + bool(flags & layout.PSI_PODS))


def flights() -> Iterator[bytes]:
    layout = flight_format
    zone = layout.ZONE.pack(0, 2, 3, 900, 200, 200, 2_000_000, 0, 0, 32, 2)
    head = layout.pack_head(1, 7_000_000_000, PAGE, (2_000_000, 1000, 0), 31, zone)
    samples = layout.RECORD.pack(layout.FULL | layout.WIDE, 0, 10) + (97_027).to_bytes(4, "little")
    samples += layout.RECORD.pack(layout.FULL | layout.MEMORY | layout.PSI_NODE, 0, 100) + bytes(2 + 8 + 12)
    samples += layout.RECORD.pack(0, 0, 100) + bytes(2)
    block = bytearray(head + samples)
    layout.LIVE.pack_into(block, layout.live_offset(1), len(block), 0, 0)
    yield bytes(block)
