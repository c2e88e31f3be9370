"""The journal as the reporter sees it: read-only, from another process, while the sentinel writes.

Nothing is mapped: `pread` copies, so a file that is truncated under the reader is a short read and not a SIGBUS. A
record in the making is read again, a few times; one that stays torn is left out and counted, never guessed.
"""

import json
import os
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from memorypressure.grants import Lease, NodeGrants
from memorypressure_agent.host import journal_format as layout
from memorypressure_agent.host.flight_format import AREA_BYTES
from memorypressure_agent.host.journal_format import Identity, JournalError

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class DecisionBatch:
    """Decisions after a sequence number, oldest first. `lost`: overwritten before they were read, or damaged."""

    records: tuple[tuple[int, dict[str, Any]], ...]
    next_after: int
    lost: int


@dataclass(frozen=True, slots=True)
class StatusRecord:
    """Gauges and counters as the sentinel last wrote them; `sequence` grows with each write."""

    sequence: int
    values: dict[str, Any]


class JournalReader:
    """One journal file. `refresh()` comes before each round of reading; JournalError says why it cannot be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Identity | None = None
        self._fd = -1
        self._inode = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def refresh(self) -> Identity:
        """The journal now at the path, opened anew if it was replaced.

        Another `incarnation` than before: all sequence numbers start again. JournalError: none, not readable, another
        version, damaged.
        """
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            self.close()
            raise JournalError(f"{self.path}: {error.strerror}") from error
        if self._fd < 0 or (found.st_dev, found.st_ino) != self._inode:
            self.close()
            self._open()
        size = os.fstat(self._fd).st_size
        header = os.pread(self._fd, layout.HEADER.size + layout.CRC.size, 0)
        try:
            self.identity = layout.unpack_header(header, size)
        except JournalError as error:
            self.close()
            raise JournalError(f"{self.path}: {error}") from error
        return self.identity

    def grants(self) -> NodeGrants:
        """The whole state of the grant protocol, the beats' clocks included. JournalError when no copy is whole."""
        if self.identity is None:
            raise JournalError(f"{self.path}: not open; call refresh()")
        for _ in range(_ATTEMPTS):
            slots = self._two(layout.GRANTS_OFFSET, layout.GRANTS_SLOT_BYTES)
            newest = layout.newest_grants(self.identity.incarnation, slots)
            if newest is not None:
                return newest[1]
        raise JournalError(f"{self.path}: the state of its grants is damaged")

    def lease(self) -> Lease:
        """What to report as `status.lease`; the clock of its beat was in the journal before the beat could be read."""
        return self.grants().lease

    def status(self) -> StatusRecord | None:
        """Gauges and counters; None before the first were written."""
        for _ in range(_ATTEMPTS):
            places = (layout.STATUS_OFFSET, layout.STATUS_OFFSET + layout.STATUS_SLOT_BYTES)
            heads = sorted(
                ((self._read(place, layout.BLOB.size), place) for place in places), key=_sequence, reverse=True
            )
            for head, place in heads:  # the newer one, unless it is in the making: 128 KiB are not read for 10
                size = layout.BLOB.size + layout.blob_length(head, layout.MAX_STATUS_BYTES)
                newest = layout.unpack_blob(self._read(place, size))
                if newest is not None:
                    return StatusRecord(newest[0], _object(newest[1]))
        return None

    def decisions(self, after: int = 0, limit: int = layout.DECISION_SLOTS) -> DecisionBatch:
        """At most `limit` decisions with a sequence number above `after`; go on with `next_after`."""
        if not self._has_decision_after(after):
            return DecisionBatch((), after, 0)
        heads = self._sequences()
        newest = max(heads, default=0)
        oldest = max(after + 1, newest - layout.DECISION_SLOTS + 1, 1)
        lost = max(0, oldest - after - 1) if newest > after else 0
        records = []
        last = max(after, oldest - 1) if newest > after else after
        for sequence in range(oldest, min(newest, oldest + limit - 1) + 1):
            payload = self._decision(sequence)
            last = sequence
            if payload is None:
                lost += 1
            else:
                records.append((sequence, payload))
        return DecisionBatch(tuple(records), last, lost)

    def flight(self) -> bytes:
        """The flight recorder's area as it is now, for `flight_reader`; empty when the file is shorter."""
        return self._read(layout.RECORDER_OFFSET, AREA_BYTES)

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self.identity = None

    def _open(self) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"{self.path}: {error.strerror}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise JournalError(f"{self.path}: no regular file")
        self._fd = descriptor
        self._inode = (status.st_dev, status.st_ino)

    def _read(self, offset: int, size: int) -> bytes:
        if self._fd < 0:
            raise JournalError(f"{self.path}: not open; call refresh()")
        return os.pread(self._fd, size, offset)

    def _two(self, area: int, slot_bytes: int) -> tuple[bytes, bytes]:
        data = self._read(area, 2 * slot_bytes)
        return data[:slot_bytes], data[slot_bytes:]

    def _sequences(self) -> list[int]:
        found = []
        for slot in range(layout.DECISION_SLOTS):
            data = self._read(layout.DECISIONS_OFFSET + slot * layout.DECISION_SLOT_BYTES, layout.DECISION_SLOT_BYTES)
            blob = layout.unpack_blob(data)
            if blob is not None and blob[0] % layout.DECISION_SLOTS == slot:
                found.append(blob[0])
        return found

    def _has_decision_after(self, after: int) -> bool:
        """Whether the slot of the next sequence number holds anything newer than one whole round before it."""
        sequence = after + 1
        offset = layout.DECISIONS_OFFSET + sequence % layout.DECISION_SLOTS * layout.DECISION_SLOT_BYTES
        head = int.from_bytes(self._read(offset, 8), "little")
        return head not in (0, sequence - layout.DECISION_SLOTS)

    def _decision(self, sequence: int) -> dict[str, Any] | None:
        offset = layout.DECISIONS_OFFSET + sequence % layout.DECISION_SLOTS * layout.DECISION_SLOT_BYTES
        for _ in range(_ATTEMPTS):
            blob = layout.unpack_blob(self._read(offset, layout.DECISION_SLOT_BYTES))
            if blob is not None:
                try:
                    return _object(blob[1]) if blob[0] == sequence else None
                except JournalError:
                    return None
        return None


def _sequence(head: tuple[bytes, int]) -> int:
    return int.from_bytes(head[0][:8], "little")


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise JournalError(f"a record is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise JournalError("a record is no JSON object")
    return value
