"""The journal's bytes: areas at fixed places, each record with a checksum. Little-endian, no pointers.

    0        header     magic, version, sizes, incarnation, boot id, creation time, CRC; written once, before the rename
    4096     grants     2 slots: all of `grants.NodeGrants` (killsTotal, beats and clocks, ceiling seen, fence), CRC
    8192     kills      64 slots: number of the kill, boot-time clock, CRC; kill n in slot n % 64
    12288    state      2 slots of 32 KiB: what else must survive a restart of the sentinel (JSON)
    77824    status     2 slots of 128 KiB: gauges and counters for the reporter (JSON), every 1 to 4 s
    339968   decisions  512 slots of 2 KiB: decision records (JSON); record n in slot n % 512
    1388544  recorder   8 MiB: the flight recorder, see `flight_format`

There is one writer (two threads, each with its own areas) and any number of readers, in other processes. A record is
whole when its CRC, which covers its sequence number, is right. Where two slots are kept the writer fills the older one,
so a writer killed in the middle of a record leaves the previous one. A reader that meets a record in the making sees a
wrong CRC and reads again.

What is guaranteed: what was written before the process died, however it died, is what the next one reads, because the
pages belong to the file and not to the process, and all of them were allocated when the file was made (a full tmpfs
fails there, not later). Not guaranteed: anything across a reboot. A file of another boot is not inherited, so no write
has to reach a disk, and nothing here waits for one.
"""

import struct
from binascii import crc32
from dataclasses import dataclass
from typing import Final

from memorypressure.grants import BEATS_KEPT, Beat, NodeGrants
from memorypressure_agent.host.flight_format import AREA_BYTES

MAGIC: Final = b"MPJOURNL"
VERSION: Final = 2

_PAGE = 4096
GRANTS_OFFSET: Final = _PAGE
GRANTS_SLOT_BYTES: Final = 256
KILLS_OFFSET: Final = 2 * _PAGE
KILL_SLOTS: Final = 64
KILL_SLOT_BYTES: Final = 32
STATE_OFFSET: Final = 3 * _PAGE
STATE_SLOT_BYTES: Final = 8 * _PAGE
STATUS_OFFSET: Final = STATE_OFFSET + 2 * STATE_SLOT_BYTES
STATUS_SLOT_BYTES: Final = 32 * _PAGE
DECISIONS_OFFSET: Final = STATUS_OFFSET + 2 * STATUS_SLOT_BYTES
DECISION_SLOTS: Final = 512
DECISION_SLOT_BYTES: Final = 2048
RECORDER_OFFSET: Final = DECISIONS_OFFSET + DECISION_SLOTS * DECISION_SLOT_BYTES
TOTAL_BYTES: Final = RECORDER_OFFSET + AREA_BYTES

HEADER: Final = struct.Struct("<8sII16s36sQI")
"""Magic, version, total bytes, 16 random bytes, boot id, creation (unix ns), 0; then the CRC."""
GRANTS: Final = struct.Struct(f"<5Q{2 * BEATS_KEPT}Q")
"""Sequence, killsTotal, ceilingSeen, fence's beat and ceiling, then (number, boot-time ns) of the last beats; the CRC.

Oldest beat first, unused ones 0.
"""
KILL: Final = struct.Struct("<QQ")
"""Number of a kill, and its boot-time clock in nanoseconds; then the CRC."""
BLOB: Final = struct.Struct("<QII")
"""Sequence, length of the JSON that follows, CRC of sequence, length and JSON."""
CRC: Final = struct.Struct("<I")

MAX_STATE_BYTES: Final = STATE_SLOT_BYTES - BLOB.size
MAX_STATUS_BYTES: Final = STATUS_SLOT_BYTES - BLOB.size
MAX_DECISION_BYTES: Final = DECISION_SLOT_BYTES - BLOB.size


class JournalError(Exception):
    """A file that is no journal of this version and boot; the message says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which journal this is. `incarnation` is what leases and grants name: 32 hex digits, a dot, the boot id."""

    incarnation: str
    boot_id: str
    created_unix_ns: int


def pack_header(random_bytes: bytes, boot_id: str, created_unix_ns: int) -> bytes:
    """The header with its checksum."""
    body = HEADER.pack(MAGIC, VERSION, TOTAL_BYTES, random_bytes, boot_id.encode("ascii"), created_unix_ns, 0)
    return body + CRC.pack(crc32(body))


def unpack_header(data: bytes, file_bytes: int) -> Identity:
    """The identity in a header; JournalError when it is not one of this version."""
    if len(data) < HEADER.size + CRC.size:
        raise JournalError(f"{file_bytes} bytes long, too short for a journal")
    magic, version, total, random_bytes, boot_id, created, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise JournalError("not a journal (its first bytes are not 'MPJOURNL')")
    if version != VERSION:
        raise JournalError(f"a journal of version {version}; this agent writes version {VERSION}")
    if CRC.unpack_from(data, HEADER.size)[0] != crc32(data[: HEADER.size]):
        raise JournalError("its header is damaged (wrong checksum)")
    if total != TOTAL_BYTES or file_bytes != TOTAL_BYTES:
        raise JournalError(f"{file_bytes} bytes long, not {TOTAL_BYTES}: truncated or extended")
    text = boot_id.decode("ascii", "replace")
    return Identity(f"{random_bytes.hex()}.{text}", text, created)


def pack_checked(record: struct.Struct, *values: int) -> bytes:
    """A fixed record followed by its checksum."""
    body = record.pack(*values)
    return body + CRC.pack(crc32(body))


def unpack_checked(record: struct.Struct, data: bytes) -> tuple[int, ...] | None:
    """The values of a fixed record, None when its checksum is wrong (torn, or never written)."""
    if len(data) < record.size + CRC.size or CRC.unpack_from(data, record.size)[0] != crc32(data[: record.size]):
        return None
    values: tuple[int, ...] = record.unpack_from(data)
    return values if any(values) else None


def pack_blob(sequence: int, payload: bytes) -> bytes:
    """A JSON record with its sequence, length and checksum."""
    return BLOB.pack(sequence, len(payload), _blob_crc(sequence, payload)) + payload


def unpack_blob(data: bytes) -> tuple[int, bytes] | None:
    """(sequence, JSON) of a record; None when it is torn or was never written."""
    if len(data) < BLOB.size:
        return None
    sequence, length, checksum = BLOB.unpack_from(data)
    payload = data[BLOB.size : BLOB.size + length]
    if not sequence or len(payload) != length or checksum != _blob_crc(sequence, payload):
        return None
    return sequence, payload


def blob_length(head: bytes, most: int) -> int:
    """How long the JSON after this head is, at most `most`; 0 for what is no head."""
    return min(most, BLOB.unpack(head)[1]) if len(head) == BLOB.size else 0


def pack_grants(sequence: int, grants: NodeGrants) -> bytes:
    """A whole `NodeGrants` with its checksum."""
    beats = [number for beat in grants.beats[-BEATS_KEPT:] for number in (beat.number, beat.boot_ns)]
    beats += [0] * (2 * BEATS_KEPT - len(beats))
    counters = (grants.kills_total, grants.ceiling_seen, grants.fence_beat, grants.fence_ceiling)
    return pack_checked(GRANTS, sequence, *counters, *beats)


def newest_grants(incarnation: str, slots: tuple[bytes, bytes]) -> tuple[int, NodeGrants] | None:
    """(sequence, grants) of the newer whole slot; None when neither is whole."""
    whole = [values for slot in slots if (values := unpack_checked(GRANTS, slot)) is not None]
    if not whole:
        return None
    sequence, kills_total, ceiling_seen, fence_beat, fence_ceiling, *numbers = max(whole)
    beats = tuple(Beat(numbers[at], numbers[at + 1]) for at in range(0, len(numbers), 2) if numbers[at])
    if not beats:
        return None
    return sequence, NodeGrants(incarnation, kills_total, beats, ceiling_seen, fence_beat, fence_ceiling)


def newest_blob(slots: tuple[bytes, bytes]) -> tuple[int, bytes] | None:
    """(sequence, JSON) of the newer whole slot; None when neither is whole."""
    whole = [blob for slot in slots if (blob := unpack_blob(slot)) is not None]
    return max(whole) if whole else None


def _blob_crc(sequence: int, payload: bytes) -> int:
    return crc32(payload, crc32(struct.pack("<QI", sequence, len(payload))))
