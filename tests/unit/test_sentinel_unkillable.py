"""A pod whose own `cgroup.kill` cannot be written is no victim, and costs neither the grant nor another one's turn."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BELOW_RESERVE_PAGES, UID, Bench
from support.sentinellab import candidate, grant_for, orders

from memorypressure.orders import encode
from memorypressure.reasons import Reason

LARGER = "0a1b2c3d-6ad0-4a7e-9f0e-000000000002"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Two candidates, of which the larger one would be the victim; grants for five kills."""
    made = Bench(tmp_path, dry_run_only=False)
    made.tree.add_pod(LARGER)
    made.tree.add_container(LARGER, "1a2b3c", Memory(anon=500 * MIB))
    grant = grant_for(made.journal.incarnation, ceiling=5)
    given = orders(candidate(UID, "a"), candidate(LARGER, "b"), grant=grant)
    made.orders_path.write_bytes(encode(given))
    yield made
    made.close()


def kill_file(bench: Bench, uid: str, container: str) -> Path:
    return bench.tree.pod_directory(uid) / container / "cgroup.kill"


def under_pressure(bench: Bench, seconds: int) -> None:
    for _ in range(3):
        bench.round(1000, 90_000)
    bench.read_figures(UID, LARGER)
    for step in range(seconds * 20):
        bench.round(50, BELOW_RESERVE_PAGES)
        if step % 20 == 0:
            bench.helper.candidates.refresh(hold=True)


def test_the_larger_one_is_the_victim_while_it_can_be_killed(bench: Bench) -> None:
    under_pressure(bench, 2)
    assert bench.tree.killed() == {"1a2b3c"}


def test_a_pod_without_a_kill_file_is_passed_over_and_the_next_one_killed_at_once(bench: Bench) -> None:
    kill_file(bench, LARGER, "1a2b3c").unlink()
    under_pressure(bench, 2)
    assert bench.tree.killed() == {"c0de01"}
    assert len(bench.journal.kill_times) == 1
    snapshot = bench.helper.snapshot
    assert [usage.containers[0].killable for usage in snapshot.usages if usage.uid == LARGER] == [False]
    assert any("1a2b3c" in failure and "cgroup.kill" in failure for failure in snapshot.failures)


def test_after_a_write_that_failed_another_one_is_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    refused = kill_file(bench, LARGER, "1a2b3c").stat().st_ino

    def failing(descriptor: int, data: bytes) -> int:
        if os.fstat(descriptor).st_ino == refused:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    under_pressure(bench, 60)
    assert bench.tree.killed() == {"c0de01"}
    assert len(bench.journal.kill_times) == 2, "the one that failed was counted before it was tried"


@pytest.mark.parametrize(("number", "stays"), [(errno.EIO, False), (errno.ENOMEM, True), (errno.EINTR, True)])
def test_a_failure_that_passes_does_not_take_the_victim_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, stays: bool
) -> None:
    bench.read_figures(UID, LARGER)

    def failing(_descriptor: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        bench.helper.candidates.kill(LARGER, ("1a2b3c",))
    monkeypatch.undo()
    bench.helper.candidates.refresh(hold=True)
    usages = {usage.uid: usage for usage in bench.helper.snapshot.usages}
    killable = {each.id: each.killable for each in usages[LARGER].containers}
    assert killable["1a2b3c"] is stays


def test_one_that_is_alone_and_cannot_be_killed_is_told_and_costs_nothing(bench: Bench) -> None:
    bench.orders_path.write_bytes(
        encode(orders(candidate(LARGER, "b"), grant=grant_for(bench.journal.incarnation, ceiling=5)))
    )
    kill_file(bench, LARGER, "1a2b3c").unlink()
    under_pressure(bench, 60)
    assert bench.tree.killed() == set()
    assert bench.journal.kill_times == ()
    assert bench.reason is Reason.NO_VICTIM
    view = bench.sampler.view
    assert view is not None
    assert view.result.state.ladder.futile_until_ns <= bench.now


def test_where_nothing_can_be_killed_no_container_is_to_blame(bench: Bench) -> None:
    kill_file(bench, LARGER, "1a2b3c").unlink()
    bench.helper.candidates.tree_can_kill = False
    bench.read_figures(UID, LARGER)
    assert all(each.killable for usage in bench.helper.snapshot.usages for each in usage.containers)
    assert bench.helper.snapshot.failures == ()


def test_dry_run_names_who_could_be_killed(bench: Bench) -> None:
    kill_file(bench, LARGER, "1a2b3c").unlink()
    given = orders(candidate(UID, "a"), candidate(LARGER, "b"))
    bench.orders_path.write_bytes(encode(replace(given, mode=type(given.mode)("DryRun"))))
    under_pressure(bench, 2)
    view = bench.sampler.view
    assert view is not None
    assert bench.tree.killed() == set()
    assert bench.sampler.counts.shadow_kills == 1
