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


def test_one_torn_copy_of_the_state_leaves_the_other_and_two_leave_none(journal: Journal, path: Path) -> None:
    for number in range(1, 4):
        journal.write_state({"n": number})
    journal.close()
    for sequence, left in ((3, {"n": 2}), (2, None)):
        data = bytearray(path.read_bytes())
        data[layout.STATE_OFFSET + sequence % 2 * layout.STATE_SLOT_BYTES + layout.BLOB.size] ^= 1
        path.write_bytes(data)
        again = Journal(str(path), BOOT)
        assert again.inherited
        assert again.read_state() == left
        again.close()


def test_a_torn_time_of_a_kill_is_left_out_and_its_count_stays(journal: Journal, path: Path) -> None:
    for time_ns in (1_000, 2_000, 3_000):
        journal.count_kill(time_ns)
    journal.close()
    data = bytearray(path.read_bytes())
    data[layout.KILLS_OFFSET + 2 * layout.KILL_SLOT_BYTES + 8] ^= 1
    path.write_bytes(data)
    again = Journal(str(path), BOOT)
    assert (again.grants.kills_total, again.kill_times) == (3, (1_000, 3_000))
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


PLACES = st.one_of(  # where a sentinel looks at its start
    st.integers(0, layout.HEADER.size + layout.CRC.size),
    st.integers(layout.GRANTS_OFFSET, layout.GRANTS_OFFSET + 2 * layout.GRANTS_SLOT_BYTES - 1),
    st.integers(layout.KILLS_OFFSET, layout.KILLS_OFFSET + 9 * layout.KILL_SLOT_BYTES),
    st.integers(layout.STATE_OFFSET, layout.STATE_OFFSET + 40),
    st.integers(layout.STATE_OFFSET + layout.STATE_SLOT_BYTES, layout.STATE_OFFSET + layout.STATE_SLOT_BYTES + 40),
    st.integers(layout.DECISIONS_OFFSET, layout.DECISIONS_OFFSET + 9 * layout.DECISION_SLOT_BYTES),
    st.integers(layout.RECORDER_OFFSET, layout.TOTAL_BYTES - 1),
)


@given(flips=st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_damage_makes_the_next_sentinel_go_on_from_what_was_never_written(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "resumed"
    path.unlink(missing_ok=True)
    journal = Journal(str(path), BOOT)
    for number in range(1, 8):
        journal.count_kill(number)
        journal.write_grants(begin_beat(journal.grants, number * 10))
        journal.write_state({"n": number})
        journal.write_decision({"n": number})
    journal.close()
    with path.open("r+b") as file:
        for offset, flip in flips:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ flip]))
    again = Journal(str(path), BOOT)
    total = again.grants.kills_total
    if again.inherited:
        assert again.identity == journal.identity
        assert (total, again.grants.beat) in {(7, 7), (7, 8)}
        assert list(again.kill_times) == sorted(set(again.kill_times) & set(range(1, 8)))
        assert again.read_state() in ({"n": 6}, {"n": 7}, None)
    else:
        assert again.incarnation != journal.incarnation
        assert (total, again.kill_times, again.read_state()) == (0, (), None)
    assert again.count_kill(99) == total + 1, "and it is written on"
    again.write_state({"n": 8})
    again.close()
    last = Journal(str(path), BOOT)
    assert (last.inherited, last.grants.kills_total, last.read_state()) == (True, total + 1, {"n": 8})
    last.close()


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
