"""Damaged journals: replaced and never inherited, and no reader sees what was never written, nor a torn record."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.journals import BOOT, with_ceiling

from memorypressure.grants import begin_beat, new_journal
from memorypressure_agent.host import journal_format as layout
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader


def damage(data: bytearray, what: str) -> bytes:
    match what:
        case "another version":
            body = layout.HEADER.pack(layout.MAGIC, 1, layout.TOTAL_BYTES, bytes(16), BOOT.encode(), 0, 0)
            data[: len(body)] = body
        case "another program's file":
            data[:8] = b"SQLite f"
        case "a damaged header":
            data[20] ^= 1
        case "truncated":
            del data[-100:]
        case "extended":
            data += bytes(100)
        case "empty":
            data.clear()
        case "both copies of the grants torn":
            data[layout.GRANTS_OFFSET + 8] ^= 1
            data[layout.GRANTS_OFFSET + layout.GRANTS_SLOT_BYTES + 8] ^= 1
        case _:
            raise AssertionError(what)
    return bytes(data)


@pytest.mark.parametrize(
    "what",
    [
        "another version",
        "another program's file",
        "a damaged header",
        "truncated",
        "extended",
        "empty",
        "both copies of the grants torn",
    ],
)
def test_a_file_that_is_no_whole_journal_is_replaced_never_inherited(journal: Journal, path: Path, what: str) -> None:
    journal.count_kill(1_000)
    journal.write_grants(with_ceiling(journal, 5))
    journal.close()
    path.write_bytes(damage(bytearray(path.read_bytes()), what))
    again = Journal(str(path), BOOT)
    assert not again.inherited
    assert again.incarnation != journal.incarnation
    assert again.grants == new_journal(again.incarnation, again.grants.beats[0].boot_ns)
    assert again.opened_because.startswith("new journal")
    journal = again
    again.close()
    Journal(str(path), BOOT).close()


def test_one_torn_copy_of_the_grants_leaves_the_other(journal: Journal, path: Path) -> None:
    journal.count_kill(1_000)
    journal.count_kill(2_000)
    journal.close()
    data = bytearray(path.read_bytes())
    newest = layout.GRANTS_OFFSET + 3 % 2 * layout.GRANTS_SLOT_BYTES  # sequence 1 was the creation's
    data[newest + 8] ^= 1
    path.write_bytes(data)
    again = Journal(str(path), BOOT)
    assert again.inherited
    assert again.grants.kills_total == 1
    again.close()


def test_a_journal_truncated_under_the_reader_is_an_error_not_a_crash(
    journal: Journal, reader: JournalReader, path: Path
) -> None:
    reader.refresh()
    journal.close()
    os.truncate(path, layout.GRANTS_OFFSET)
    with pytest.raises(JournalError):
        reader.lease()
    assert reader.decisions().records == ()
    with pytest.raises(JournalError, match="truncated"):
        reader.refresh()


def everything(reader: JournalReader) -> list[Any]:
    """What a reader can get out of a file, or the JournalError it ends in."""
    found: list[Any] = []
    for read in (reader.refresh, reader.grants, reader.status, reader.decisions):
        try:
            found.append(read())
        except JournalError as error:
            found.append(error)
    return found


@given(data=st.binary(max_size=6000))
@settings(max_examples=60, deadline=None)
def test_garbage_is_a_journal_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(data)
    with JournalReader(str(path)) as reader:
        assert isinstance(everything(reader)[0], JournalError)


@given(
    flips=st.lists(st.tuples(st.integers(0, layout.RECORDER_OFFSET), st.integers(1, 255)), min_size=1, max_size=30),
    cut=st.one_of(st.none(), st.integers(0, layout.TOTAL_BYTES)),
)
@settings(max_examples=60, deadline=None)
def test_no_damage_makes_a_reader_see_what_was_never_written(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.unlink(missing_ok=True)
    journal = Journal(str(path), BOOT)
    for number in range(1, 8):
        journal.count_kill(number)
        journal.write_grants(begin_beat(journal.grants, number * 10))
        journal.write_decision({"n": number})
        journal.write_status({"n": number})
    journal.close()
    data = bytearray(path.read_bytes())
    for offset, flip in flips:
        data[offset] ^= flip
    path.write_bytes(data if cut is None else data[:cut])
    with JournalReader(str(path)) as reader:
        identity, grants, status, decisions = everything(reader)
        if isinstance(identity, JournalError):
            return
        assert identity == journal.identity
        assert isinstance(grants, JournalError) or (grants.kills_total, grants.beat) in {(7, 7), (7, 8)}
        assert status is None or status.values["n"] in {6, 7}
        assert all(record == {"n": sequence} for sequence, record in decisions.records)
        assert decisions.lost + len(decisions.records) <= 7


TORN_WRITER = """
import sys
from memorypressure.grants import begin_beat
from memorypressure_agent.host.journal import Journal
journal = Journal(sys.argv[1], sys.argv[2])
print("ready", flush=True)
number = 0
while True:
    number += 1
    text = chr(97 + number % 26) * 900
    journal.write_decision({"n": number, "text": text})
    journal.write_status({"n": number, "text": text * 20})
    journal.write_grants(begin_beat(journal.grants, number * 10))
"""


def test_a_reader_beside_a_writer_at_full_speed_never_sees_a_torn_record(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", TORN_WRITER, str(path), BOOT], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        with JournalReader(str(path)) as reader:
            reader.refresh()
            seen = 0
            after = 0
            for turn in itertools.count():
                if turn >= 150 and seen > 100:
                    break
                status = reader.status()
                if status is not None:
                    text = status.values["text"]
                    assert text == chr(97 + status.values["n"] % 26) * 18_000
                beats = reader.grants().beats
                assert all(beat.boot_ns == (beat.number - 1) * 10 for beat in beats if beat.number > 1)
                batch = reader.decisions(after)
                after = batch.next_after
                for sequence, record in batch.records:
                    seen += 1
                    assert record == {"n": sequence, "text": chr(97 + sequence % 26) * 900}
    finally:
        writer.kill()
        writer.communicate(timeout=10)
