"""How a kill is told that was done but not seen to end, and one that never was: its pod is evicted, or it is not."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BELOW_RESERVE_PAGES, UID, Bench

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


def pressed(bench: Bench) -> None:
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)


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


def test_a_kill_that_was_decided_but_not_counted_was_not_done(
    bench: Bench, ended: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class EndsHereError(Exception):
        """The process is killed between its two writes."""

    def ends(_: int) -> int:
        raise EndsHereError

    with monkeypatch.context() as patched:
        patched.setattr(bench.journal, "count_kill", ends)
        with pytest.raises(EndsHereError):
            pressed(bench)
    bench.sampler.take_journal(bench.journal)
    waited(bench)
    assert ended == [("Failed", "the sentinel that decided it ended before cgroup.kill was written")]
    assert bench.tree.killed() == set()


def test_a_kill_that_counts_from_long_before_says_nothing_of_this_one(
    bench: Bench, ended: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.journal.remember_kills((bench.now - 60_000_000_000,))
    test_a_kill_that_was_decided_but_not_counted_was_not_done(bench, ended, monkeypatch)
