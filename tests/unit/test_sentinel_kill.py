"""A kill as the sentinel does and follows it: what it reached, what it did not, and what came back."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory

from memorypressure.ladder import OutcomeKind
from memorypressure.records import PodRef, Victim
from memorypressure.victims import CgroupState
from memorypressure_agent.host import containers
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.clocks import boot_ns
from memorypressure_agent.host.containers import ContainerHandle
from memorypressure_agent.sentinel import candidates as candidates_module
from memorypressure_agent.sentinel.candidates import Candidates
from memorypressure_agent.sentinel.helper import FOLLOW_AT_MOST_NS, MOST_RELEASED, Helper
from memorypressure_agent.sentinel.log import Log

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
BIG, SMALL = "c0de01", "c0de02"


@pytest.fixture
def tree(tmp_path: Path) -> CgroupTree:
    made = CgroupTree(tmp_path)
    made.add_pod(UID)
    made.add_container(UID, BIG, Memory(anon=300 * MIB, file=500 * MIB))
    made.add_container(UID, SMALL, Memory(anon=40 * MIB))
    return made


@pytest.fixture
def candidates(tree: CgroupTree) -> Candidates:
    made = Candidates(PodsTree(str(tree.root)))
    made.wanted = frozenset((UID,))
    made.refresh(hold=False)
    return made


def failing(candidates: Candidates, container: str, number: int) -> None:
    """Makes the kill of this container fail; ENODEV: its cgroup was removed."""

    def kill() -> bool:
        if number == errno.ENODEV:
            return False
        raise OSError(number, os.strerror(number))

    candidates._pods[UID].handles[container].kill = kill  # type: ignore[method-assign]


def followed(candidates: Candidates, end: Callable[[], None]) -> Helper:
    """A helper that has followed a kill of both containers to its end, which `end` makes."""
    helper = Helper(candidates, Log(as_json=False), lambda: None, lambda: "", can_release=False)
    killed = candidates.kill(UID, (BIG, SMALL))
    helper.watch(1, Victim(PodRef(UID, "default", "pod"), (BIG, SMALL), None, 0, over_request=False), killed, boot_ns())
    end()
    helper._turn()
    return helper


def emptied(tree: CgroupTree, container: str, left: Memory | None) -> None:
    """As the kernel shows a container whose processes have ended and whose cgroup is still there."""
    directory = tree.pod_directory(UID) / container
    (directory / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    if left is not None:
        left.write(directory)


def test_a_kill_that_missed_a_container_says_which_and_counts_only_what_it_reached(
    tree: CgroupTree, candidates: Candidates
) -> None:
    failing(candidates, SMALL, errno.EIO)
    helper = followed(candidates, lambda: emptied(tree, BIG, Memory(file=500 * MIB)))
    assert OutcomeKind.GONE in [outcome.kind for outcome in helper.take_outcomes()]
    assert helper.last_kill is not None
    assert helper.last_kill.action_number == 1
    end = helper.take_end(1)
    assert end.failures == (f"{SMALL}: Input/output error",)
    assert end.freed_bytes == 300 * MIB


def test_a_container_that_was_gone_already_is_no_failure(tree: CgroupTree, candidates: Candidates) -> None:
    failing(candidates, SMALL, errno.ENODEV)
    helper = followed(candidates, lambda: emptied(tree, BIG, Memory()))
    assert helper.take_end(1).failures == ()


def test_a_kill_that_reached_nothing_raises(candidates: Candidates) -> None:
    failing(candidates, BIG, errno.ENODEV)
    failing(candidates, SMALL, errno.ENODEV)
    with pytest.raises(OSError, match="its cgroup was removed"):
        candidates.kill(UID, (BIG, SMALL))


def test_a_kill_that_failed_says_why_also_where_another_container_was_removed(candidates: Candidates) -> None:
    failing(candidates, BIG, errno.EIO)
    failing(candidates, SMALL, errno.ENODEV)
    with pytest.raises(OSError, match="Input/output error"):
        candidates.kill(UID, (BIG, SMALL))


def test_a_removed_cgroup_is_told_from_one_that_cannot_be_killed(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = candidates._pods[UID].handles[BIG]
    assert handle.kill()
    for number, gone in ((errno.ENODEV, True), (errno.EIO, False)):

        def write(_: int, __: bytes, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(containers.os, "write", write)
        with contextlib.nullcontext() if gone else pytest.raises(OSError, match="Input/output"):
            assert not handle.kill()


def test_file_pages_that_moved_to_the_cgroup_above_are_not_counted_as_freed(
    tree: CgroupTree, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed() -> None:  # as descriptors of removed cgroups answer
        emptied(tree, BIG, None)
        emptied(tree, SMALL, None)
        monkeypatch.setattr(ContainerHandle, "removed", lambda _self: True)
        monkeypatch.setattr(ContainerHandle, "memory_bytes", lambda _self: 0)

    assert followed(candidates, removed).take_end(1).freed_bytes == 340 * MIB


def test_without_figures_it_is_not_known_what_came_back(tree: CgroupTree, tmp_path: Path) -> None:
    for container in (BIG, SMALL):
        for name in ("memory.current", "memory.stat", "memory.numa_stat"):
            (tree.pod_directory(UID) / container / name).unlink()
    bare = Candidates(PodsTree(str(tmp_path)))
    bare.wanted = frozenset((UID,))
    bare.refresh(hold=False)

    def end() -> None:
        emptied(tree, BIG, None)
        emptied(tree, SMALL, None)

    assert followed(bare, end).take_end(1).freed_bytes is None


def test_a_pod_that_is_being_killed_is_no_candidate_until_its_end(tree: CgroupTree, candidates: Candidates) -> None:
    helper = followed(candidates, lambda: None)
    assert candidates.dying == {UID}
    emptied(tree, BIG, None)
    emptied(tree, SMALL, None)
    helper._turn()
    assert candidates.dying == frozenset()


@pytest.mark.parametrize("can_release", [True, False])
def test_the_helper_takes_the_memory_of_each_process_that_was_reached_once_where_that_is_allowed(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch, can_release: bool
) -> None:
    released: list[int] = []
    monkeypatch.setattr("memorypressure_agent.sentinel.helper.release_memory", lambda pid: released.append(pid) or "")
    helper = Helper(candidates, Log(as_json=False), lambda: None, lambda: "", can_release=can_release)
    failing(candidates, SMALL, errno.EACCES)
    killed = candidates.kill(UID, (BIG, SMALL))
    helper.watch(1, Victim(PodRef(UID, "default", "pod"), (BIG, SMALL), None, 0, over_request=False), killed, boot_ns())
    assert released == [], "not by the thread that kills"
    for _ in range(3):
        helper._turn()
    assert released == (list(candidates._pods[UID].pids[BIG]) if can_release else [])
    assert candidates._pods[UID].pids[BIG], "it had one"


def test_of_a_victim_of_very_many_processes_the_rest_exit_by_themselves(
    tree: CgroupTree, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr("memorypressure_agent.sentinel.helper.release_memory", lambda pid: released.append(pid) or "")
    tree.add_container(UID, BIG, Memory(anon=300 * MIB), processes=2 * MOST_RELEASED)
    candidates.refresh(hold=False)
    helper = Helper(candidates, Log(as_json=False), lambda: None, lambda: "", can_release=True)
    killed = candidates.kill(UID, (BIG,))
    assert len(killed.pids) == 2 * MOST_RELEASED
    helper.watch(1, Victim(PodRef(UID, "default", "pod"), (BIG,), None, 0, over_request=False), killed, boot_ns())
    helper._turn()
    assert released == list(killed.pids[:MOST_RELEASED])


def test_a_victim_that_never_ends_is_followed_for_two_minutes_and_is_a_candidate_again_then(
    tree: CgroupTree, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [boot_ns()]
    monkeypatch.setattr("memorypressure_agent.sentinel.helper.boot_ns", lambda: now[0])
    helper = followed(candidates, lambda: None)
    began = now[0]
    while now[0] - began < FOLLOW_AT_MOST_NS - 10**9:
        now[0] += 10**9
        helper._turn()
        assert candidates.dying == {UID}
    now[0] += 2 * 10**9
    helper._turn()
    assert candidates.dying == frozenset()
    assert {outcome.kind for outcome in helper.take_outcomes()} == {OutcomeKind.WRITTEN, OutcomeKind.PROGRESS}
    assert helper.take_end(1).freed_bytes is None, "nobody saw an end of it"
    assert [usage.state for usage in candidates.refresh(hold=False).usages] == [CgroupState.LIVE]
    assert candidates.kill(UID, (BIG,)).reached, "it is still held"


def hurrying(candidates: Candidates, monkeypatch: pytest.MonkeyPatch, *, realtime: bool) -> tuple[Helper, list[str]]:
    """A helper, and what it asked the scheduler for."""
    calls: list[str] = []
    monkeypatch.setattr("memorypressure_agent.sentinel.helper.become_realtime", lambda *_: calls.append("begin") or "")
    monkeypatch.setattr("memorypressure_agent.sentinel.helper.end_realtime", lambda _: calls.append("end"))
    helper = Helper(candidates, Log(as_json=False), lambda: None, lambda: "", can_release=False, realtime=realtime)
    helper._thread_id = 1
    return helper, calls


def test_with_realtime_the_helper_is_under_it_from_a_kill_to_its_end_and_no_longer(
    tree: CgroupTree, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, calls = hurrying(candidates, monkeypatch, realtime=True)
    killed = candidates.kill(UID, (BIG, SMALL))
    helper.watch(1, Victim(PodRef(UID, "default", "pod"), (BIG, SMALL), None, 0, over_request=False), killed, boot_ns())
    helper._turn()
    assert calls == ["begin"]
    emptied(tree, BIG, Memory())
    emptied(tree, SMALL, Memory())
    helper._turn()
    assert calls == ["begin", "end"]


@pytest.mark.parametrize("realtime", [True, False])
def test_with_realtime_the_helper_is_under_it_near_a_line_because_it_may_hold_what_the_sampler_waits_for(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch, realtime: bool
) -> None:
    helper, calls = hurrying(candidates, monkeypatch, realtime=realtime)
    for near in (False, True, True, False, False, True):
        helper.near(near, watching=False, busy=True, hold=False)
    assert calls == (["begin", "end", "begin"] if realtime else [])


def test_a_kill_leaves_no_descriptor_open_also_of_containers_that_it_did_not_reach(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    candidates = Candidates(PodsTree(str(tmp_path)))
    candidates.wanted = frozenset((UID,))
    counts = []
    for _ in range(4):
        tree.add_pod(UID)
        tree.add_container(UID, "c0de01", Memory(anon=300 * MIB))
        candidates.refresh(hold=False)
        killed = candidates.kill(UID, ("c0de01",))
        candidates.begin_dying(UID)
        shutil.rmtree(tree.pod_directory(UID))
        candidates.refresh(hold=False)  # a listing while it dies
        assert killed.reached[0].memory_bytes == 300 * MIB
        assert killed.reached[0].left_bytes() is not None, "what is waited for is still held"
        candidates.end_dying(UID)
        candidates.give_up(killed.handles)
        candidates.refresh(hold=False)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(counts)) == 1


def test_a_wall_clock_set_forward_makes_no_pod_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = CgroupTree(tmp_path)
    made = Candidates(PodsTree(str(tmp_path)))
    made.wanted = frozenset((UID,))
    tree.add_pod(UID)
    tree.add_container(UID, "c0de01", Memory(anon=300 * MIB))
    monkeypatch.setattr(candidates_module, "unix_ns", lambda: time.time_ns() + 86_400 * 1_000_000_000)
    assert made.refresh(hold=False).usages[0].seen_seconds < 60
    new = Candidates(PodsTree(str(tmp_path)))  # a process that began after the step cannot know of it
    new.wanted = frozenset((UID,))
    uptime_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert new.refresh(hold=False).usages[0].seen_seconds <= uptime_seconds + 1


def test_a_helper_that_is_woken_again_and_again_sleeps_as_long_as_its_last_turn_took(candidates: Candidates) -> None:
    helper = Helper(candidates, Log(as_json=False), lambda: None, lambda: "", can_release=False)
    began = boot_ns()
    helper.wake()
    helper._wait(took_seconds=0.1)
    assert boot_ns() - began >= 100_000_000
