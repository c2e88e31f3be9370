"""The journal's one writer: it makes or inherits the file, counts kills before they happen, writes records.

Format and guarantees: `journal_format`. Readers: `journal_reader`.
"""

import errno
import fcntl
import json
import mmap
import os
import stat
from collections.abc import Mapping
from typing import Any

from memorypressure.grants import NodeGrants, new_journal, reserve
from memorypressure_agent.host import journal_format as layout
from memorypressure_agent.host.clocks import boot_ns, unix_ns
from memorypressure_agent.host.flight_recorder import FlightRecorder
from memorypressure_agent.host.journal_format import Identity, JournalError


class JournalLockedError(Exception):
    """Another process writes this journal: two sentinels on one node."""


class Journal:
    """An open journal: `write_status` is the helper thread's, everything else the sampler's."""

    def __init__(self, path: str, boot_id: str | None) -> None:
        """Inherits the journal at `path` if it is whole, of this version and of this boot, else puts a new one there.

        `opened_because` says which and why. JournalLockedError while another process holds it; OSError when the
        directory cannot be written or has no room.
        """
        self.path = path
        self._fd = -1
        self._lock = _take_lock(path)
        try:
            self._open(path, boot_id)
        except BaseException:
            os.close(self._lock)
            if self._fd >= 0:
                os.close(self._fd)
            raise

    def _open(self, path: str, boot_id: str | None) -> None:
        self.inherited = False
        try:
            self._map, self.identity = _inherit(path, boot_id)
            self.inherited = True
            self.opened_because = "continues the journal of an earlier sentinel"
        except JournalError as error:
            self.opened_because = f"new journal: the one found is {error}"
            self._map, self.identity = _create(path, boot_id)
        except FileNotFoundError:
            self.opened_because = "new journal: there was none"
            self._map, self.identity = _create(path, boot_id)
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        self._file = (found.st_dev, found.st_ino)
        self._seen_ctime_ns = -1
        grants = layout.newest_grants(
            self.identity.incarnation, self._slots(layout.GRANTS_OFFSET, layout.GRANTS_SLOT_BYTES)
        )
        if grants is None:  # cannot be: _inherit and _create both see to it
            raise JournalError("has no grants record")
        self._grants_sequence, self.grants = grants
        self.kill_times = self._kill_times()
        """Boot-time clocks of the last counted kills, oldest first, at most 64; survives restarts of the sentinel."""
        self._state_sequence, self._state = self._newest_blob(layout.STATE_OFFSET, layout.STATE_SLOT_BYTES)
        self._status_sequence, _ = self._newest_blob(layout.STATUS_OFFSET, layout.STATUS_SLOT_BYTES)
        self._decision_sequence = self._newest_decision()
        self.flight = FlightRecorder(self._map, layout.RECORDER_OFFSET)
        """The flight recorder, for the sampler's thread."""

    @property
    def incarnation(self) -> str:
        """What leases and grants call this journal."""
        return self.identity.incarnation

    def in_place(self, *, look_up: bool = True) -> bool:
        """Whether the path still leads to this file: otherwise nobody can read what is written here.

        Without `look_up` the path, which waits for memory where there is little, is looked up only if anything happened
        to the file: being moved, replaced or removed changes its ctime. (On a tmpfs a write to the mapping does not.)
        """
        try:
            held = os.fstat(self._fd)
            if not look_up and held.st_ctime_ns == self._seen_ctime_ns:
                return True
            self._seen_ctime_ns = -1  # what was found missing once is looked for at the next call, too
            found = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            return error.errno == errno.ENOMEM  # passes, and says nothing of the file
        if (found.st_dev, found.st_ino, found.st_size) != (*self._file, layout.TOTAL_BYTES):
            return False
        self._seen_ctime_ns = held.st_ctime_ns
        return True

    def keep_resident(self) -> None:
        """Touches every page: those that were swapped out come back, and stay where the process's memory is locked.

        Pages of a tmpfs are swapped like any others. A kill writes where nothing was written before, and waiting there
        for a swap disk that everybody waits for takes 0.3 s.
        """
        for offset in range(0, layout.TOTAL_BYTES, mmap.PAGESIZE):
            self._map[offset]

    def write_grants(self, grants: NodeGrants) -> None:
        """Puts the state of the grant protocol down, whole; what it says may leave the process only afterwards.

        When it returns, the record is in the file's pages and was read back from there: a process that dies at any
        later instant leaves it to the next. OSError when it does not read back as written.
        """
        if grants == self.grants:
            return
        sequence = self._grants_sequence + 1
        record = layout.pack_grants(sequence, grants)
        offset = layout.GRANTS_OFFSET + sequence % 2 * layout.GRANTS_SLOT_BYTES
        self._map[offset : offset + len(record)] = record
        if self._map[offset : offset + len(record)] != record:
            raise OSError(errno.EIO, "the journal does not hold what was written to it")
        self._grants_sequence, self.grants = sequence, grants

    def count_kill(self, boot_time_ns: int) -> int:
        """Raises `killsTotal` by one and returns it; call it *before* writing `cgroup.kill`.

        A crash after it counts a kill that never was; never the other way.
        """
        spent = reserve(self.grants)
        offset = layout.KILLS_OFFSET + spent.kills_total % layout.KILL_SLOTS * layout.KILL_SLOT_BYTES
        record = layout.pack_checked(layout.KILL, spent.kills_total, boot_time_ns)
        self._map[offset : offset + len(record)] = record
        self.write_grants(spent)
        self.kill_times = (*self.kill_times, boot_time_ns)[-layout.KILL_SLOTS :]
        return spent.kills_total

    def remember_kills(self, times: tuple[int, ...]) -> None:
        """Adds kills that another journal of this boot counted to `kill_times`: they count towards the agent's hour."""
        self.kill_times = tuple(sorted({*self.kill_times, *times}))[-layout.KILL_SLOTS :]

    def read_state(self) -> dict[str, Any] | None:
        """What `write_state` left, also by an earlier sentinel; None when there is nothing whole."""
        if not self._state:
            return None
        try:
            value = json.loads(self._state)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Keeps what must survive a restart. ValueError when it has no room."""
        payload = _json(state)
        if len(payload) > layout.MAX_STATE_BYTES:
            raise ValueError(f"state of {len(payload)} bytes, more than {layout.MAX_STATE_BYTES}")
        self._state = payload
        self._state_sequence += 1
        self._put_blob(layout.STATE_OFFSET, layout.STATE_SLOT_BYTES, self._state_sequence, payload)

    def write_status(self, status: Mapping[str, Any]) -> bool:
        """Replaces the gauges and counters; False, and nothing written, when they have no room."""
        payload = _json(status)
        if len(payload) > layout.MAX_STATUS_BYTES:
            return False
        self._status_sequence += 1
        self._put_blob(layout.STATUS_OFFSET, layout.STATUS_SLOT_BYTES, self._status_sequence, payload)
        return True

    def write_decision(self, record: Mapping[str, Any]) -> int:
        """Appends a decision and returns its sequence number. One too long loses its longest texts, visibly."""
        payload = _json(record)
        if len(payload) > layout.MAX_DECISION_BYTES:
            payload = _json(_shortened(record, layout.MAX_DECISION_BYTES))
        sequence = self._decision_sequence + 1
        offset = layout.DECISIONS_OFFSET + sequence % layout.DECISION_SLOTS * layout.DECISION_SLOT_BYTES
        blob = layout.pack_blob(sequence, payload)
        self._map[offset : offset + len(blob)] = blob
        self._decision_sequence = sequence
        return sequence

    def close(self) -> None:
        """Unmaps the file and lets another process write it."""
        self._map.close()
        if self._lock >= 0:
            os.close(self._fd)
            os.close(self._lock)
            self._fd = self._lock = -1

    def _kill_times(self) -> tuple[int, ...]:
        found = []
        for slot in range(layout.KILL_SLOTS):
            offset = layout.KILLS_OFFSET + slot * layout.KILL_SLOT_BYTES
            values = layout.unpack_checked(layout.KILL, self._map[offset : offset + layout.KILL_SLOT_BYTES])
            if values is not None:
                found.append((values[0], values[1]))
        return tuple(time for _, time in sorted(found))

    def _put_blob(self, area: int, slot_bytes: int, sequence: int, payload: bytes) -> None:
        blob = layout.pack_blob(sequence, payload)
        offset = area + sequence % 2 * slot_bytes
        self._map[offset : offset + len(blob)] = blob

    def _slots(self, area: int, slot_bytes: int) -> tuple[bytes, bytes]:
        return self._map[area : area + slot_bytes], self._map[area + slot_bytes : area + 2 * slot_bytes]

    def _newest_blob(self, area: int, slot_bytes: int) -> tuple[int, bytes]:
        return layout.newest_blob(self._slots(area, slot_bytes)) or (0, b"")

    def _newest_decision(self) -> int:
        newest = 0
        for slot in range(layout.DECISION_SLOTS):
            offset = layout.DECISIONS_OFFSET + slot * layout.DECISION_SLOT_BYTES
            if self._map[offset : offset + 8] == bytes(8):
                continue
            blob = layout.unpack_blob(self._map[offset : offset + layout.DECISION_SLOT_BYTES])
            if blob is not None:
                newest = max(newest, blob[0])
        return newest


def _take_lock(path: str) -> int:
    """A lock file beside the journal: the journal itself may have to be replaced, which would lose a lock on it."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise JournalLockedError(f"{path}: another sentinel writes it") from None
    return descriptor


def _inherit(path: str, boot_id: str | None) -> tuple[mmap.mmap, Identity]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise JournalError(f"not to be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise JournalError("no regular file")
        if status.st_uid != os.geteuid():
            raise JournalError(f"owned by uid {status.st_uid}, not by this agent")
        header = os.pread(descriptor, layout.HEADER.size + layout.CRC.size, 0)
        identity = layout.unpack_header(header, status.st_size)
        if boot_id is None or identity.boot_id != boot_id:
            raise JournalError("of another boot of this machine")
        mapping = _mapped(descriptor)
    finally:
        os.close(descriptor)
    area, size = layout.GRANTS_OFFSET, layout.GRANTS_SLOT_BYTES
    slots = (mapping[area : area + size], mapping[area + size : area + 2 * size])
    if layout.newest_grants(identity.incarnation, slots) is None:
        mapping.close()
        raise JournalError("damaged (the state of its grants has a wrong checksum)")
    return mapping, identity


def _create(path: str, boot_id: str | None) -> tuple[mmap.mmap, Identity]:
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, layout.TOTAL_BYTES)  # no holes: a full tmpfs would answer one with SIGBUS
        header = layout.pack_header(os.urandom(16), boot_id or "0" * 36, unix_ns())
        mapping = _mapped(descriptor)
        mapping[0 : len(header)] = header
        identity = layout.unpack_header(header, layout.TOTAL_BYTES)
        record = layout.pack_grants(1, new_journal(identity.incarnation, boot_ns()))
        offset = layout.GRANTS_OFFSET + layout.GRANTS_SLOT_BYTES
        mapping[offset : offset + len(record)] = record
        _check_place(path)
        _keep_foreign(path)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    return mapping, identity


def _check_place(path: str) -> None:
    """OSError where a rename would put the journal in the place of a directory, device, pipe or socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory; --journal must name a file", path)
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise FileExistsError(errno.EEXIST, "is a device, pipe or socket; --journal must name a file", path)


def _mapped(descriptor: int) -> mmap.mmap:
    """The whole file with all its pages in the process's page table, written to once: no page faults later."""
    mapping = mmap.mmap(descriptor, layout.TOTAL_BYTES)
    for offset in range(0, layout.TOTAL_BYTES, mmap.PAGESIZE):
        mapping[offset] = mapping[offset]
    return mapping


def _keep_foreign(path: str) -> None:
    """Moves a file aside that was never a journal, as `<path>.replaced`: a wrong --journal must lose nobody's data."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return
        with open(path, "rb") as file:
            start = file.read(len(layout.MAGIC))
    except OSError:
        return
    if start not in (b"", layout.MAGIC):
        os.rename(path, f"{path}.replaced")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _shortened(record: Mapping[str, Any], room_bytes: int) -> dict[str, Any]:
    """The record with its longest members replaced by a mark until it fits; the small ones say what happened."""
    kept = dict(record)
    sizes = sorted(((len(_json({"": value})), key) for key, value in kept.items()), reverse=True)
    for _, key in sizes:
        if len(_json(kept)) <= room_bytes:
            break
        value = kept[key]
        kept[key] = (
            value[:200] + " [shortened]" if isinstance(value, str) and len(value) > 250 else "[left out: too long]"
        )
    return kept
