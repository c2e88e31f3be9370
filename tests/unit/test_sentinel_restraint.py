"""What keeps a sampler from a kill, or from taking one for ended, each by itself: its own limits, other sentinels."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.journals import BOOT
from support.samplerbench import SECOND, UID, Bench, calm_bench, pressed

from memorypressure.grants import Permit, Refusal
from memorypressure.reasons import Reason
from memorypressure_agent.host.cgroups import ContainerCgroup, PodsTree
from memorypressure_agent.host.containers import ContainerHandle, open_handle
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import KILL_SLOTS
from memorypressure_agent.sentinel.kills import MOST_KILLED_KEPT


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from calm_bench(tmp_path)


@pytest.fixture
def resumed(bench: Bench) -> Bench:
    """A process that goes on where another one had killed: its victim's processes have ended meanwhile."""
    pressed(bench)
    assert bench.tree.killed() == {"c0de01"}
    list(bench.helper.take_outcomes())
    bench.sampler.take_journal(bench.journal)
    container = bench.tree.pod_directory(UID) / "c0de01"
    (container / "cgroup.procs").write_text("")
    bench.now += SECOND
    bench.helper.candidates.refresh(hold=False)
    return bench


@pytest.mark.parametrize(("age_seconds", "allowed"), [(3599, False), (3601, True)])
def test_kills_count_for_an_hour(bench: Bench, age_seconds: int, allowed: bool) -> None:
    bench.journal.kill_times = (bench.now - age_seconds * SECOND,) * 6
    found = bench.sampler.kills.granted()
    assert isinstance(found, Permit) is allowed
    assert allowed or (isinstance(found, Refusal) and found.reason is Reason.AGENT_LIMIT)


def test_where_another_sentinel_holds_the_lock_nothing_is_killed(bench: Bench) -> None:
    bench.sampler.lock_held = True
    pressed(bench)
    assert (bench.reason, bench.tree.killed()) == (Reason.LOCK_HELD, set())


def test_without_the_capability_nothing_is_killed(bench: Bench) -> None:
    bench.helper.kill_failure = "the kernel has no cgroup.kill"
    pressed(bench)
    assert (bench.reason, bench.tree.killed()) == (Reason.CAPABILITY_MISSING, set())
    assert bench.journal.grants.kills_total == 0


def test_a_kill_before_a_restart_has_ended_when_figures_show_it(resumed: Bench) -> None:
    (outcome,) = resumed.sampler.kills.outcomes()
    assert outcome.message == "its cgroup was empty when a new sentinel looked"


@pytest.mark.parametrize("what", ["some figures could not be read", "nobody looked for its pod"])
def test_and_not_when_they_say_nothing_of_its_pod(resumed: Bench, what: str) -> None:
    candidates = resumed.helper.candidates
    changes = {"failures": ("x",)} if what.startswith("some") else {"wanted": frozenset[str]()}
    candidates.snapshot = replace(candidates.snapshot, **changes)  # type: ignore[arg-type]
    assert resumed.sampler.kills.outcomes() == ()


def test_a_victim_whose_state_is_not_understood_has_not_ended(bench: Bench) -> None:
    pressed(bench)
    (bench.tree.pod_directory(UID) / "c0de01" / "cgroup.events").write_text("populated maybe\n")
    bench.helper._turn()
    assert bench.helper.candidates.dying == {UID}
    assert bench.helper.last_kill is None


def test_of_pods_that_were_killed_the_newest_are_kept(bench: Bench) -> None:
    many = [f"uid-{number}" for number in range(2 * MOST_KILLED_KEPT)]
    state = bench.journal.read_state() or {}
    bench.journal.write_state({**state, "killed": many, "killedCeiling": 1})
    bench.sampler.take_journal(bench.journal)
    assert bench.helper.candidates.killed == set(many[-MOST_KILLED_KEPT:])
    pressed(bench)
    kept = (bench.journal.read_state() or {})["killed"]
    assert kept == [*many[-MOST_KILLED_KEPT + 1 :], UID]


def test_the_times_of_the_last_kills_come_back_oldest_first(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"), BOOT)
    times = tuple(range(1000, 1000 + KILL_SLOTS + 6))
    for time_ns in times:
        journal.count_kill(time_ns)
    assert journal.kill_times == times[-KILL_SLOTS:]
    journal.close()
    again = Journal(journal.path, BOOT)
    assert again.kill_times == times[-KILL_SLOTS:]
    again.close()


def test_a_container_that_took_anothers_name_since_it_was_listed_is_not_opened(bench: Bench) -> None:
    pods = PodsTree(str(bench.tree.root))
    (listed,) = [each for pod in pods.scan() for each in pod.containers if each.container_id == "c0de01"]
    opened = open_handle(pods, listed)
    assert opened is not None
    opened.close()
    assert open_handle(pods, ContainerCgroup(UID, "c0de01", listed.parts, listed.inode + 1)) is None


def test_a_threaded_cgroup_below_a_container_hides_none_of_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = bench.helper.candidates._pods[UID].handles["c0de01"]
    assert isinstance(handle, ContainerHandle)
    threaded = os.open(bench.tree.pod_directory(UID) / "c0de01" / "cgroup.procs", os.O_RDONLY)
    handle._procs.append(threaded)
    before, read = handle.pids(), os.pread

    def answered(descriptor: int, size: int, offset: int) -> bytes:
        if descriptor == threaded:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))  # only cgroup.threads answers there
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", answered)
    assert handle.pids() == before[: len(before) // 2] != ()
