"""How a kill is told that was done but not seen to end, and one that never was: its pod is evicted, or it is not."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BOOT, UID, Bench, pressed

from memorypressure.ladder import Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure_agent.host.journal import Journal

BIG, SMALL = "c0de01", "c0de02"
LONGER_THAN_THE_WAIT_SECONDS = 35


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A candidate of two containers, and every record that is put down in `records`."""
    made = Bench(tmp_path, dry_run_only=False)
    made.tree.add_container(UID, SMALL, Memory(anon=40 * MIB))
    for _ in range(3):
        made.round(1000, 90_000)
    made.read_figures(UID)
    yield made
    made.close()


@pytest.fixture
def ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Result and outcome of each action, as they are put down."""
    return records(bench, monkeypatch)


def records(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    write = bench.journal.write_decision

    def written(record: dict[str, object]) -> int:
        if record["kind"] == "action":
            inner = record["record"]
            assert isinstance(inner, dict)
            found.append((inner["result"], str(record["outcome"])))
        return write(record)

    monkeypatch.setattr(bench.journal, "write_decision", written)
    return found


def waited(bench: Bench) -> None:
    for _ in range(LONGER_THAN_THE_WAIT_SECONDS):
        bench.round(1000, 90_000)


def emptied(bench: Bench, *containers: str) -> None:
    for container in containers:
        (bench.tree.pod_directory(UID) / container / "cgroup.events").write_text("populated 0\nfrozen 0\n")


def test_a_kill_whose_processes_outlive_the_wait_was_done_all_the_same(
    bench: Bench, ended: list[tuple[str, str]]
) -> None:
    pressed(bench)
    assert bench.tree.killed() == {BIG, SMALL}
    assert ended == []
    waited(bench)
    assert ended == [("Incomplete", "the wait for its cgroup to be empty has ended")]
    emptied(bench, BIG, SMALL)
    bench.helper._turn()
    waited(bench)
    assert len(ended) == 1, "it is told once, however late its processes end"


def test_a_kill_that_missed_a_container_was_done_to_the_others(bench: Bench, ended: list[tuple[str, str]]) -> None:
    def refused() -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    bench.helper.candidates._pods[UID].handles[SMALL].kill = refused  # type: ignore[method-assign]
    pressed(bench)
    assert bench.tree.killed() == {BIG}
    emptied(bench, BIG)
    bench.helper._turn()
    bench.round(20, 90_000)
    ((result, outcome),) = ended
    assert result == "Incomplete"
    assert outcome.endswith(f"; not killed: {SMALL}: Input/output error")


def test_a_kill_that_an_ended_process_counted_may_have_been_done(bench: Bench, ended: list[tuple[str, str]]) -> None:
    pressed(bench)
    list(bench.helper.take_outcomes())  # what is known of it ends with the process
    bench.sampler.take_journal(bench.journal)
    waited(bench)
    assert ended == [("Incomplete", "the wait for its cgroup to be empty has ended")]


@pytest.fixture
def uncounted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The process was killed between putting the kill down and counting it; the next one begins."""

    class EndsHereError(Exception):
        pass

    def ends(*_: object) -> int:
        raise EndsHereError

    with monkeypatch.context() as patched:
        patched.setattr(bench.journal, "write_grants", ends)  # the time of the kill stands in the journal already
        with pytest.raises(EndsHereError):
            pressed(bench)
    state, path = bench.journal.read_state(), bench.journal.path
    assert state is not None
    assert state["pending"]["pod"]["uid"] == UID
    bench.journal.close()
    bench.journal = Journal(path, BOOT)
    bench.sampler.take_journal(bench.journal)
    return bench


@pytest.fixture
def told(uncounted: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """As `ended`, of the next process."""
    return records(uncounted, monkeypatch)


NEVER_WRITTEN = ("Failed", "the sentinel that decided it ended before cgroup.kill was written")


def test_a_kill_that_was_decided_but_not_counted_was_not_done(uncounted: Bench, told: list[tuple[str, str]]) -> None:
    assert uncounted.journal.kill_times, "a time without a count is none"
    waited(uncounted)
    assert told == [NEVER_WRITTEN]
    assert uncounted.tree.killed() == set()


def test_nor_was_it_done_when_its_containers_have_ended_by_themselves(
    uncounted: Bench, told: list[tuple[str, str]]
) -> None:
    for container in (BIG, SMALL):
        (uncounted.tree.pod_directory(UID) / container / "cgroup.procs").write_text("")
    uncounted.round(1000, 90_000)
    uncounted.read_figures(UID)
    uncounted.round(1000, 90_000)
    assert told == [NEVER_WRITTEN]


def test_its_pod_may_be_killed_then_under_the_same_permit(uncounted: Bench, told: list[tuple[str, str]]) -> None:
    for _ in range(3):
        waited(uncounted)
    uncounted.read_figures(UID)
    pressed(uncounted)
    assert uncounted.tree.killed() == {BIG, SMALL}
    assert told == [NEVER_WRITTEN]


def test_a_sentinel_that_is_stopped_tells_of_the_kill_that_it_waits_for_and_the_next_one_waits_in_silence(
    bench: Bench, ended: list[tuple[str, str]]
) -> None:
    pressed(bench)
    bench.sampler.stop()
    assert ended == [("Incomplete", "the sentinel was stopped before its cgroup was empty")]
    bench.sampler.take_journal(bench.journal)
    pressed(bench)
    assert bench.reason is Reason.WAITING_FOR_VICTIM
    waited(bench)
    assert bench.sampler.state.ladder.kill is None
    assert len(ended) == 1


def test_what_became_of_a_kill_is_told_as_well_when_the_sentinel_stops_in_the_same_moment(
    bench: Bench, ended: list[tuple[str, str]]
) -> None:
    pressed(bench)
    emptied(bench, BIG, SMALL)
    bench.helper._turn()
    bench.sampler.stop()
    ((result, outcome),) = ended
    assert (result, outcome[:20]) == ("Success", "its cgroup was empty")
    bench.sampler.stop()
    assert len(ended) == 1


def test_the_late_end_of_an_earlier_kill_is_no_end_of_this_one(bench: Bench, ended: list[tuple[str, str]]) -> None:
    pressed(bench)
    number = bench.sampler.state.ladder.actions
    failed = Outcome(OutcomeKind.FAILED, number, bench.now, None, "not written")
    bench.helper._outcomes.extend([failed, Outcome(OutcomeKind.GONE, number - 1, bench.now, None, "empty after 31 s")])
    bench.round(20, 90_000)
    assert ended == [("Failed", "not written")]


def test_what_an_earlier_version_kept_of_a_kill_says_nothing_of_its_count(
    bench: Bench, ended: list[tuple[str, str]]
) -> None:
    pressed(bench)
    list(bench.helper.take_outcomes())
    state = bench.journal.read_state()
    assert state is not None
    del state["pending"]["killsTotal"]
    bench.journal.write_state(state)
    bench.sampler.take_journal(bench.journal)
    waited(bench)
    assert [result for result, _ in ended] == ["Incomplete"]
