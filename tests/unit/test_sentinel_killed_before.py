"""A pod that was killed and whose containers were started again in it: only a new permit is meant for it then."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BELOW_RESERVE_PAGES, SECOND, UID, Bench
from support.sentinellab import LIMITS, candidate, grant_for, orders

from memorypressure.grants import begin_beat
from memorypressure.orders import encode
from memorypressure.reasons import Reason
from memorypressure.victims import CgroupState
from memorypressure_agent.host.journal import Journal

OTHER = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b12"
FIRST, AGAIN, OTHERS = "c0de01", "c0de02", "c0de03"
PAUSE_SECONDS = 125


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Two candidates, of which the one of lower priority is killed first, and two kills granted."""
    made = Bench(tmp_path, dry_run_only=False)
    made.tree.add_pod(OTHER)
    made.tree.add_container(OTHER, OTHERS, Memory(anon=300 * MIB))
    give(made, ceiling=2)
    for _ in range(3):
        made.round(1000, 90_000)
    made.read_figures(UID, OTHER)
    yield made
    made.close()


def give(bench: Bench, *, ceiling: int) -> None:
    pods = (candidate(UID, "a", priority=-10), candidate(OTHER, "b"))
    beat = bench.journal.grants.beat
    grant = grant_for(bench.journal.incarnation, ceiling=ceiling, beat=beat)
    limits = replace(LIMITS, grant_seconds=3600)
    bench.orders_path.write_bytes(encode(orders(*pods, grant=grant, limits=limits)))


def pressed(bench: Bench) -> None:
    bench.read_figures(UID, OTHER)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)


def pause(bench: Bench) -> None:
    """Long enough for cool-down, episode and calm."""
    for _ in range(PAUSE_SECONDS):
        bench.round(1000, 90_000)


def start_again(bench: Bench) -> None:
    """What a kubelet does: the killed container is removed, and another one started in the same pod."""
    directory = bench.tree.pod_directory(UID)
    (directory / FIRST / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    shutil.rmtree(directory / FIRST)
    bench.helper._turn()  # sees that it is gone
    bench.tree.add_container(UID, AGAIN, Memory(anon=300 * MIB))


def killed_once(bench: Bench) -> None:
    pressed(bench)
    assert bench.tree.killed() == {FIRST}
    start_again(bench)
    pause(bench)


def test_it_is_not_killed_again_under_the_same_grant_and_nobody_in_its_place(bench: Bench) -> None:
    killed_once(bench)
    pressed(bench)
    assert bench.reason is Reason.KILLED_BEFORE
    assert bench.tree.killed() == set()
    assert bench.journal.grants.kills_total == 1


def test_a_ceiling_that_was_raised_since_is_a_new_permit(bench: Bench) -> None:
    killed_once(bench)
    give(bench, ceiling=3)
    bench.round(1000, 90_000)
    pressed(bench)
    assert bench.tree.killed() == {AGAIN}


def test_so_is_one_that_was_withdrawn_and_given_again(bench: Bench) -> None:
    killed_once(bench)
    give(bench, ceiling=1)
    bench.round(1000, 90_000)
    pressed(bench)
    assert bench.reason is Reason.CEILING_REACHED
    give(bench, ceiling=2)
    bench.round(1000, 90_000)
    pressed(bench)
    assert bench.tree.killed() == {AGAIN}


def test_a_renewed_beat_alone_is_none(bench: Bench) -> None:
    killed_once(bench)
    bench.journal.write_grants(begin_beat(bench.journal.grants, bench.now))
    give(bench, ceiling=2)
    bench.round(1000, 90_000)
    pressed(bench)
    assert bench.reason is Reason.KILLED_BEFORE
    assert bench.tree.killed() == set()


def test_a_sentinel_that_was_started_since_knows_it_from_the_journal(bench: Bench) -> None:
    killed_once(bench)
    path, boot = bench.journal.path, "1" * 36
    bench.journal.close()
    bench.helper.candidates.killed = frozenset()
    bench.journal = Journal(path, boot)
    bench.sampler.take_journal(bench.journal)
    for _ in range(3):
        bench.round(1000, 90_000)
    pressed(bench)
    assert bench.reason is Reason.KILLED_BEFORE
    assert bench.tree.killed() == set()


def test_a_kill_that_failed_is_none_so_its_pod_stays_a_victim(bench: Bench) -> None:
    handle = bench.helper.candidates._pods[UID].handles[FIRST]
    kill = handle.kill

    def refused() -> None:
        raise PermissionError(13, "Permission denied")

    handle.kill = refused  # type: ignore[method-assign]
    pressed(bench)
    assert bench.tree.killed() == set()
    handle.kill = kill  # type: ignore[method-assign]
    pause(bench)
    pressed(bench)
    assert bench.tree.killed() == {FIRST}


def test_while_the_other_one_is_the_better_victim_it_is_chosen(bench: Bench) -> None:
    killed_once(bench)
    Memory(anon=1 * MIB).write(bench.tree.pod_directory(UID) / AGAIN)  # so small that it is taken for the sandbox
    pressed(bench)
    assert bench.tree.killed() == {OTHERS}


def test_while_its_processes_end_it_is_dying_and_not_only_killed(bench: Bench) -> None:
    pressed(bench)
    bench.read_figures(UID, OTHER)
    states = {usage.uid: usage.state for usage in bench.helper.snapshot.usages}
    assert states == {UID: CgroupState.DYING, OTHER: CgroupState.LIVE}
    start_again(bench)
    bench.now += SECOND
    bench.read_figures(UID, OTHER)
    states = {usage.uid: usage.state for usage in bench.helper.snapshot.usages}
    assert states == {UID: CgroupState.KILLED, OTHER: CgroupState.LIVE}
