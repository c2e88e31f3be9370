"""The journal: inherited or replaced, never half; kills counted before they happen; records read each once."""

import errno
import gc
import itertools
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.journals import BOOT, Forgetful, with_ceiling

from memorypressure.grants import begin_beat
from memorypressure_agent.host import journal_format as layout
from memorypressure_agent.host.flight_format import AREA_BYTES
from memorypressure_agent.host.journal import Journal, JournalLockedError
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader

OTHER_BOOT = "99999999-2222-3333-4444-555555555555"


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal.path, BOOT)


def test_no_two_areas_overlap() -> None:
    assert layout.HEADER.size + layout.CRC.size <= layout.GRANTS_OFFSET
    assert layout.GRANTS.size + layout.CRC.size <= layout.GRANTS_SLOT_BYTES
    assert layout.KILL.size + layout.CRC.size <= layout.KILL_SLOT_BYTES
    areas = [
        (0, 4096),
        (layout.GRANTS_OFFSET, 2 * layout.GRANTS_SLOT_BYTES),
        (layout.KILLS_OFFSET, layout.KILL_SLOTS * layout.KILL_SLOT_BYTES),
        (layout.STATE_OFFSET, 2 * layout.STATE_SLOT_BYTES),
        (layout.STATUS_OFFSET, 2 * layout.STATUS_SLOT_BYTES),
        (layout.DECISIONS_OFFSET, layout.DECISION_SLOTS * layout.DECISION_SLOT_BYTES),
        (layout.RECORDER_OFFSET, AREA_BYTES),
        (layout.TOTAL_BYTES, 0),
    ]
    for (offset, size), (following, _) in itertools.pairwise(areas):
        assert offset + size <= following


def test_the_offsets_are_those_of_the_formats_description() -> None:
    described = [
        line.split()[:2]
        for line in (layout.__doc__ or "").splitlines()
        if line.startswith("    ") and line.split()[0].isdigit()
    ]
    assert [(int(number), name) for number, name in described] == [
        (0, "header"),
        (layout.GRANTS_OFFSET, "grants"),
        (layout.KILLS_OFFSET, "kills"),
        (layout.STATE_OFFSET, "state"),
        (layout.STATUS_OFFSET, "status"),
        (layout.DECISIONS_OFFSET, "decisions"),
        (layout.RECORDER_OFFSET, "recorder"),
    ]


def test_a_new_journal_is_whole_allocated_and_for_other_users_to_read_only(journal: Journal, path: Path) -> None:
    status = path.stat()
    assert status.st_size == layout.TOTAL_BYTES
    assert status.st_blocks * 512 >= layout.TOTAL_BYTES
    assert status.st_mode & 0o777 == 0o644
    assert not journal.inherited
    assert journal.incarnation.endswith(BOOT)


def test_a_restarted_sentinel_finds_everything_again(journal: Journal) -> None:
    journal.count_kill(1_000)
    journal.count_kill(2_000)
    journal.write_grants(begin_beat(with_ceiling(journal, 5), 3_000))
    grants = journal.grants
    journal.write_state({"cooldownUntil": 17})
    journal.write_decision({"reason": "NoVictim"})
    before = journal.identity
    again = reopened(journal)
    assert again.inherited
    assert again.identity == before
    assert again.grants == grants
    assert (again.grants.kills_total, again.grants.ceiling_seen, again.grants.beat) == (2, 5, 2)
    assert again.kill_times == (1_000, 2_000)
    assert again.read_state() == {"cooldownUntil": 17}
    assert again.write_decision({}) == 2
    again.close()


def test_two_journals_never_share_an_incarnation(tmp_path: Path) -> None:
    drawn = []
    for number in range(20):
        journal = Journal(str(tmp_path / str(number)), BOOT)
        drawn.append(journal.incarnation)
        journal.close()
    assert len(set(drawn)) == 20


@pytest.mark.parametrize("boot", [OTHER_BOOT, None], ids=["another boot", "a boot that is not told"])
def test_a_journal_is_not_inherited_in(journal: Journal, path: Path, boot: str | None) -> None:
    journal.close()
    again = Journal(str(path), boot)
    assert not again.inherited
    again.close()


@pytest.mark.needs("root")
def test_a_journal_that_another_user_made_is_not_inherited(journal: Journal, path: Path) -> None:
    journal.close()
    os.chown(path, 65532, 65532)
    again = Journal(str(path), BOOT)
    assert again.opened_because == "new journal: the one found is owned by uid 65532, not by this agent"
    again.close()


def test_a_file_that_never_was_a_journal_is_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"somebody": "else\'s"}')
    Journal(str(path), BOOT).close()
    assert (tmp_path / "journal.replaced").read_text() == '{"somebody": "else\'s"}'


def test_a_link_in_the_journals_place_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "journal").symlink_to(target)
    journal = Journal(str(tmp_path / "journal"), BOOT)
    journal.close()
    assert target.read_text() == "precious"
    assert not (tmp_path / "journal").is_symlink()


def test_a_directory_in_the_journals_place_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(OSError, match="is a directory; --journal must name a file"):
        Journal(str(tmp_path / "journal"), BOOT)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["journal", "journal.lock"]


def test_a_pipe_or_device_in_the_journals_place_stays_where_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "journal")
    with pytest.raises(OSError, match="is a device, pipe or socket; --journal must name a file"):
        Journal(str(tmp_path / "journal"), BOOT)
    assert (tmp_path / "journal").is_fifo()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["journal", "journal.lock"]


def test_a_journal_knows_whether_its_path_still_leads_to_it(journal: Journal, path: Path) -> None:
    assert journal.in_place()
    path.rename(path.with_name("moved"))
    assert not journal.in_place()
    path.write_bytes(bytes(layout.TOTAL_BYTES))
    assert not journal.in_place()


@pytest.mark.parametrize("how", ["moved", "removed", "replaced", "cut off"])
def test_a_journal_whose_path_is_not_looked_at_notices_all_the_same_that_it_is_gone(
    journal: Journal, path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.in_place()
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda *_words, **_options: pytest.fail("the path was looked up"))
        assert journal.in_place(look_up=False)
    if how == "moved":
        path.rename(path.with_name("moved"))
    elif how == "removed":
        path.unlink()
    elif how == "replaced":
        path.with_name("new").write_bytes(bytes(layout.TOTAL_BYTES))
        path.with_name("new").rename(path)
    else:
        os.truncate(path, layout.TOTAL_BYTES - 1)
    assert not journal.in_place(look_up=False)
    assert not journal.in_place(look_up=False), "nor the next time"


def test_a_journal_that_was_found_missing_once_is_missing_until_its_path_leads_to_it(tmp_path: Path) -> None:
    """As before a kill, where its path is looked up: the file itself knows nothing of its directory's name."""
    place = tmp_path / "place"
    place.mkdir()
    journal = Journal(str(place / "journal"), BOOT)
    assert journal.in_place()
    place.rename(tmp_path / "elsewhere")
    assert journal.in_place(look_up=False)
    assert not journal.in_place()
    assert not journal.in_place(look_up=False)
    (tmp_path / "elsewhere").rename(place)
    assert journal.in_place(look_up=False)
    journal.close()


def test_a_journal_that_is_closed_or_cannot_be_opened_leaves_no_descriptor(tmp_path: Path) -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    journal = Journal(str(tmp_path / "journal"), BOOT)
    journal.close()
    journal.close()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layout, "newest_blob", lambda _slots: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            Journal(str(tmp_path / "journal"), BOOT)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_two_writers_are_refused(journal: Journal) -> None:
    with pytest.raises(JournalLockedError):
        Journal(journal.path, BOOT)


def test_a_second_writer_may_follow_the_first(journal: Journal) -> None:
    journal.close()
    Journal(journal.path, BOOT).close()


KILL_CHILD = """
import os, signal, sys
from memorypressure_agent.host.journal import Journal
journal = Journal(sys.argv[1], sys.argv[2])
journal.count_kill(7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_counted_before_sigkill_is_counted_for_ever(path: Path) -> None:
    for expected in (1, 2, 3):
        child = subprocess.run([sys.executable, "-c", KILL_CHILD, str(path), BOOT], timeout=30, check=False)
        assert child.returncode == -signal.SIGKILL
        with JournalReader(str(path)) as reader:
            reader.refresh()
            assert reader.lease().kills_total == expected


def test_a_state_of_the_grants_that_does_not_read_back_is_an_error_and_the_one_before_holds(journal: Journal) -> None:
    journal.count_kill(1_000)
    before, whole = journal.grants, journal._map
    journal._map = Forgetful(whole)  # type: ignore[assignment]
    changes: list[Callable[[], Any]] = [
        lambda: journal.write_grants(begin_beat(before, 2_000)),
        lambda: journal.count_kill(2_000),
    ]
    for change in changes:
        with pytest.raises(OSError, match="does not hold what was written to it") as raised:
            change()
        assert raised.value.errno == errno.EIO
        assert journal.grants == before, "nothing is told of it, and nothing is killed on it"
        assert journal.kill_times == (1_000,)
    journal._map = whole
    assert journal.count_kill(3_000) == 2
    again = reopened(journal)
    assert (again.grants.kills_total, again.kill_times) == (2, (1_000, 3_000))
    again.close()


def test_a_reader_sees_the_lease_status_and_decisions(journal: Journal, reader: JournalReader) -> None:
    reader.refresh()
    assert reader.grants() == journal.grants
    assert reader.lease().beat == 1
    assert reader.status() is None
    assert reader.decisions().records == ()
    journal.write_grants(begin_beat(journal.grants, 2_000))
    journal.count_kill(5)
    journal.write_status({"state": "Clear"})
    journal.write_status({"state": "Pressure"})
    journal.write_decision({"n": 1})
    journal.write_decision({"n": 2})
    status = reader.status()
    assert reader.grants().beats[-1].boot_ns == 2_000
    assert (reader.lease().incarnation, reader.lease().beat, reader.lease().kills_total) == (journal.incarnation, 2, 1)
    assert status is not None
    assert status.values == {"state": "Pressure"}
    batch = reader.decisions()
    assert batch.records == ((1, {"n": 1}), (2, {"n": 2}))
    assert (batch.next_after, batch.lost) == (2, 0)
    assert reader.decisions(2) == type(batch)((), 2, 0)


@pytest.mark.parametrize("beats", [1, 7, 8, 9, 40])
def test_the_last_eight_beats_are_kept_with_their_clocks(journal: Journal, reader: JournalReader, beats: int) -> None:
    for number in range(2, beats + 1):
        journal.write_grants(begin_beat(journal.grants, number * 10))
    reader.refresh()
    kept = [beat.number for beat in reader.grants().beats]
    assert kept == list(range(max(1, beats - 7), beats + 1))
    assert all(beat.boot_ns == beat.number * 10 for beat in reader.grants().beats if beat.number > 1)


def test_decisions_come_in_pages_and_each_once(journal: Journal, reader: JournalReader) -> None:
    reader.refresh()
    for number in range(1, 31):
        journal.write_decision({"n": number})
    seen: list[int] = []
    after = 0
    while batch := reader.decisions(after, limit=7).records:
        seen += [record["n"] for _, record in batch]
        after = batch[-1][0]
    assert seen == list(range(1, 31))


@pytest.mark.parametrize("written", [511, 512, 513, 1024, 1500])
def test_decisions_that_were_overwritten_are_counted_as_lost(
    journal: Journal, reader: JournalReader, written: int
) -> None:
    reader.refresh()
    for number in range(1, written + 1):
        journal.write_decision({"n": number})
    batch = reader.decisions()
    assert batch.lost == max(0, written - layout.DECISION_SLOTS)
    assert [record["n"] for _, record in batch.records] == list(range(batch.lost + 1, written + 1))
    assert batch.next_after == written
    assert reader.decisions(written).records == ()
    journal.write_decision({"n": "next"})
    assert [record["n"] for _, record in reader.decisions(written).records] == ["next"]


def test_a_decision_too_long_loses_its_longest_text_and_keeps_the_rest(journal: Journal, reader: JournalReader) -> None:
    journal.write_decision({"reason": "Killed", "message": "m" * 5_000, "inputs": list(range(5_000))})
    reader.refresh()
    ((_, record),) = reader.decisions().records
    assert record["reason"] == "Killed"
    assert record["message"].endswith("[shortened]")
    assert record["inputs"] == "[left out: too long]"


def test_a_reader_notices_that_the_journal_was_replaced(journal: Journal, reader: JournalReader, path: Path) -> None:
    first = reader.refresh()
    journal.close()
    path.unlink()
    with pytest.raises(JournalError, match="No such file"):
        reader.refresh()
    Journal(str(path), BOOT).close()
    assert reader.refresh().incarnation != first.incarnation


def test_a_reader_of_a_missing_journal_says_so(reader: JournalReader) -> None:
    with pytest.raises(JournalError, match="No such file"):
        reader.refresh()
    with pytest.raises(JournalError, match=r"refresh\(\)"):
        reader.lease()


def test_every_page_of_a_journal_is_made_resident_again(journal: Journal, path: Path) -> None:
    def resident_kib() -> int:
        lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
        return sum(
            int(next(row for row in lines if row.startswith("Rss:")).split()[1]) for line in lines if str(path) in line
        )

    assert resident_kib() * 1024 == layout.TOTAL_BYTES, "it is opened so"
    journal._map.madvise(mmap.MADV_DONTNEED)  # as if its pages had been swapped out
    assert resident_kib() == 0
    journal.keep_resident()
    assert resident_kib() * 1024 == layout.TOTAL_BYTES


def test_a_look_at_a_journal_that_fails_for_want_of_memory_says_nothing_of_it(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> None:
        def stat(*_words: object, **_options: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "stat", stat)

    fails(errno.ENOMEM)
    assert journal.in_place()
    fails(errno.ENOENT)
    assert not journal.in_place()
