"""What holds of the readers of the journal and of the objects in it: one file that is damaged and mended again."""

import atexit
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from fuzz.places import scratch
from support.crdschema import refusals, schema
from support.reporting import sentinel_status, under_pressure

from memorypressure_agent.host import journal_format
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter import report, shape
from memorypressure_agent.reporter.conditions import conditions_of
from memorypressure_agent.reporter.view import View

BOOT: Final = "11111111-2222-3333-4444-555555555555"
ACTION: Final = schema("nodememorystates.yaml", "status", "recentActions")
EPISODE: Final = schema("nodememorystates.yaml", "status", "recentEpisodes")
_PATCH = struct.Struct("<IB")


class _JournalFile:
    """A journal with a status, actions and samples in it, and readers of its bytes."""

    def __init__(self) -> None:
        self.path = scratch / "journal"
        journal = Journal(str(self.path), BOOT)
        for number in range(3):
            journal.write_status({**sentinel_status(), "writtenBootNs": number})
            journal.write_decision({"kind": "action", "record": _action(number), "message": "why", "outcome": ""})
            journal.write_decision({"kind": "episode", "record": _EPISODE})
        journal.write_status(under_pressure())
        journal.close()
        self.areas = (
            (0, 512),
            (journal_format.GRANTS_OFFSET, 2 * journal_format.GRANTS_SLOT_BYTES),
            (journal_format.STATUS_OFFSET, 12_000),
            (journal_format.STATUS_OFFSET + journal_format.STATUS_SLOT_BYTES, 12_000),
            (journal_format.DECISIONS_OFFSET, 8 * journal_format.DECISION_SLOT_BYTES),
        )
        self.file = self.path.open("r+b", buffering=0)
        atexit.register(self.file.close)

    def damaged(self, data: bytes) -> None:
        """Puts the patches in `data` (place, length, bytes) over the journal, reads it, and mends it."""
        done = []
        try:
            for place, patch in _patches(data):
                area, size = self.areas[place % len(self.areas)]
                offset = area + (place >> 3) % size
                self.file.seek(offset)
                done.append((offset, self.file.read(len(patch))))
                self.file.seek(offset)
                self.file.write(patch)
            self._read()
        finally:
            for offset, before in reversed(done):
                self.file.seek(offset)
                self.file.write(before)

    def _read(self) -> None:
        with JournalReader(str(self.path)) as reader:
            try:
                identity = reader.refresh()
                assert identity.incarnation
                grants = reader.grants()
                assert grants.kills_total >= 0
                assert grants.beats
                status = reader.status()
                batch = reader.decisions()
            except JournalError:
                return
            if status is not None:
                assert isinstance(shape.complaint(status.values), str)
            sequences = [sequence for sequence, _ in batch.records]
            assert sequences == sorted(set(sequences))
            for _, record in batch.records:
                records(json.dumps(record).encode())


def _patches(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _PATCH.size <= len(data):
        place, length = _PATCH.unpack_from(data, at)
        at += _PATCH.size
        yield place, data[at : at + length]
        at += length


_file: list[_JournalFile] = []


def journal(data: bytes) -> None:
    """A damaged journal is refused with its error, or what is read of it is whole."""
    if not _file:
        _file.append(_JournalFile())
    _file[0].damaged(data)


def journals() -> Iterator[bytes]:
    yield b""
    for place in range(5):
        yield _PATCH.pack(place, 4) + b"\0\0\0\1"
        yield _PATCH.pack(place | 64 << 3, 1) + b"\xff"


def status_object(data: bytes) -> None:
    """The sentinel's status as JSON: refused in a sentence, or a report that the API server's schema takes."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict) or shape.complaint(values):
        return
    view = View(values, None, 1_800_000_000_000_000_000, values["writtenBootNs"])
    link = report.LinkState()
    conditions = conditions_of(view, link, ())
    body = report.body(view, link, conditions, [], [])
    assert list(refusals(body, _STATUS)) == []


def records(data: bytes) -> None:
    """Records of the journal as JSON: left out, or entries that the API server's schema takes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    record = value["record"] if isinstance(value, Mapping) and "record" in value else value
    for entry, rules in ((report.action_entry(record, "why"), ACTION), (report.episode_entry(record), EPISODE)):
        assert entry is None or list(refusals([entry], rules)) == []


_STATUS: Final = schema("nodememorystates.yaml", "status")
_EPISODE: Final = {
    "id": "0123-e1",
    "start": "2027-01-15T08:00:00.000001Z",
    "worst": "0/Normal at 41%",
    "reason": "AtomicReserveBreached",
    "actions": 1,
    "outcome": "Running",
}


def record_objects() -> Iterator[bytes]:
    for record in (_action(1), _EPISODE):
        assert report.action_entry(record, "why") or report.episode_entry(record)
        yield json.dumps(record).encode()


def _action(number: int) -> dict[str, object]:
    return {
        "id": f"0123-a{number}",
        "time": "2027-01-15T08:00:00.000001Z",
        "action": "Kill",
        "mode": "DryRun",
        "result": "Success",
        "reason": "AtomicReserveBreached",
        "pod": {"uid": "8f1f6d1e", "namespace": "default", "name": "web-0"},
        "freedBytes": 1 << 20,
    }
