"""The pods whose containers are held: who has figures, whom a kill reaches, and what stays open."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, SANDBOX, CgroupTree, Memory
from support.sentinelparts import OTHER, SECOND, UID, Clock

from memorypressure.victims import CgroupState
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.containers import RESERVED_DESCRIPTORS
from memorypressure_agent.sentinel.candidates import Candidates, anonymous_bytes, cgroup_kill_capability


@pytest.fixture
def candidates(tree: CgroupTree, tmp_path: Path) -> Iterator[Candidates]:
    made = Candidates(PodsTree(str(tmp_path)), "", Clock())
    yield made
    made.close()


def test_only_wanted_pods_have_figures(candidates: Candidates) -> None:
    assert candidates.refresh(hold=False).usages == ()
    candidates.wanted = frozenset((UID, "not-here"))
    (usage,) = candidates.refresh(hold=False).usages
    assert usage.uid == UID
    assert {container.id: container.relief_bytes for container in usage.containers}["c0de01"] == 300 * MIB
    assert {container.id: container.processes for container in usage.containers}["c0de01"] == 3
    assert usage.containers[0].is_sandbox != usage.containers[1].is_sandbox


def test_a_sandbox_has_no_other_figure_than_what_it_holds_until_it_holds_more(
    candidates: Candidates, tree: CgroupTree
) -> None:
    candidates.wanted = frozenset((UID,))
    (usage,) = candidates.refresh(hold=False).usages
    (sandbox,) = [container for container in usage.containers if container.is_sandbox]
    assert (sandbox.relief_bytes, sandbox.memory_bytes) == (None, SANDBOX.anon + SANDBOX.kernel)
    Memory(anon=3 * MIB).write(tree.pod_directory(UID) / sandbox.id)
    (usage,) = candidates.refresh(hold=True).usages
    (grown,) = [container for container in usage.containers if container.id == sandbox.id]
    assert (grown.is_sandbox, grown.relief_bytes) == (False, 3 * MIB)


def test_a_container_whose_processes_are_not_understood_has_no_figures_and_the_others_have(
    candidates: Candidates, tree: CgroupTree
) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    (tree.pod_directory(UID) / "c0de01" / "cgroup.procs").write_text("12\nthirteen\n")
    snapshot = candidates.refresh(hold=True)
    containers = {usage.uid: {each.id for each in usage.containers} for usage in snapshot.usages}
    assert "c0de01" not in containers[UID]
    assert len(containers[OTHER]) == 2
    (failure,) = snapshot.failures
    assert failure.endswith("cgroup.procs line 2: 'thirteen': expected a process's number")


def test_the_agents_own_pod_is_never_opened(tree: CgroupTree, tmp_path: Path) -> None:
    candidates = Candidates(PodsTree(str(tmp_path)), UID, Clock())
    candidates.wanted = frozenset((UID, OTHER))
    assert [usage.uid for usage in candidates.refresh(hold=False).usages] == [OTHER]
    with pytest.raises(KeyError):
        candidates.kill(UID, ("c0de01",))
    assert tree.killed() == set()


@pytest.mark.parametrize(
    ("uid", "container"),
    [
        (UID, "../../pod" + OTHER + "/c0de02"),
        (UID, "c0de02"),
        (OTHER, "c0de02"),
        ("..", "c0de01"),
        ("/", "kubepods"),
        (UID, ""),
    ],
)
def test_only_a_container_that_is_held_can_be_killed(
    candidates: Candidates, tree: CgroupTree, uid: str, container: str
) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    with pytest.raises(KeyError):
        candidates.kill(uid, (container,))
    assert tree.killed() == set()


def test_a_kill_reaches_the_containers_named_and_no_other(candidates: Candidates, tree: CgroupTree) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    killed = candidates.kill(UID, ("c0de01",))
    assert tree.killed() == {"c0de01"}
    assert killed.memory_bytes == 300 * MIB
    assert len(killed.pids) == 3


def test_processes_of_another_pid_namespace_are_killed_with_their_container_and_released_by_nobody(
    candidates: Candidates, tree: CgroupTree
) -> None:
    """The kernel prints 0 for them (cgroup-v2.rst, cgroup.procs); to `pidfd_open` 0 would be no process at all."""
    (tree.pod_directory(UID) / "c0de01" / "cgroup.procs").write_text("0\n12\n0\n")
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    assert candidates.kill(UID, ("c0de01",)).pids == (12,)
    assert tree.killed() == {"c0de01"}


def test_a_held_list_stays_as_it_is_until_it_may_change(candidates: Candidates, tree: CgroupTree) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    tree.add_container(OTHER, "c0de03", Memory(anon=9 * MIB))
    held = {usage.uid: len(usage.containers) for usage in candidates.refresh(hold=True).usages}
    assert held[OTHER] == 2
    listed = {usage.uid: len(usage.containers) for usage in candidates.refresh(hold=False).usages}
    assert listed[OTHER] == 3


def test_a_held_list_takes_pods_that_become_wanted_and_looks_at_no_other(
    candidates: Candidates, tree: CgroupTree
) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    tree.add_container(UID, "c0de03", Memory(anon=9 * MIB))
    candidates.wanted = frozenset((UID, OTHER))
    snapshot = candidates.refresh(hold=True)
    assert {usage.uid: len(usage.containers) for usage in snapshot.usages} == {UID: 2, OTHER: 2}
    assert snapshot.wanted == {UID, OTHER}
    candidates.kill(OTHER, ("c0de02",))
    assert tree.killed() == {"c0de02"}


def test_a_held_list_drops_pods_that_are_no_longer_wanted_without_looking(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    monkeypatch.setattr(PodsTree, "scan", lambda _tree: pytest.fail("the tree was looked through"))
    candidates.wanted = frozenset((OTHER,))
    snapshot = candidates.refresh(hold=True)
    assert [usage.uid for usage in snapshot.usages] == [OTHER]
    assert snapshot.wanted == {OTHER}
    with pytest.raises(KeyError):
        candidates.kill(UID, ("c0de01",))


def test_a_held_list_keeps_who_is_held_when_new_ones_cannot_be_looked_for(
    candidates: Candidates, tree: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)

    def scan(tree: PodsTree) -> tuple[()]:
        tree.scan_failure = "no memory"
        return ()

    with monkeypatch.context() as patched:
        patched.setattr(PodsTree, "scan", scan)
        candidates.wanted = frozenset((UID, OTHER))
        for _ in range(2):
            snapshot = candidates.refresh(hold=True)
            assert [usage.uid for usage in snapshot.usages] == [UID]
            assert snapshot.failures == ("no memory",)
    candidates.kill(UID, ("c0de01",))
    assert tree.killed() == {"c0de01"}
    snapshot = candidates.refresh(hold=True)
    assert {usage.uid for usage in snapshot.usages} == {UID, OTHER}, "looked for again, while the node is short"
    assert snapshot.failures == ()
    monkeypatch.setattr(PodsTree, "scan", lambda _tree: pytest.fail("the tree was looked through"))
    candidates.refresh(hold=True)


def test_a_container_made_anew_under_its_name_is_opened_anew(candidates: Candidates, tree: CgroupTree) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    directory = tree.pod_directory(UID) / "c0de01"
    directory.rename(tree.root / "old")
    tree.add_container(UID, "c0de01", Memory(anon=3 * MIB))
    (usage,) = candidates.refresh(hold=False).usages
    assert {container.id: container.relief_bytes for container in usage.containers}["c0de01"] == 3 * MIB
    candidates.kill(UID, ("c0de01",))
    assert (tree.root / "old" / "cgroup.kill").read_text() == ""


def test_a_pod_that_is_being_killed_says_so(candidates: Candidates) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.dying = frozenset((UID,))
    (usage,) = candidates.refresh(hold=False).usages
    assert usage.state is CgroupState.DYING


def test_a_pods_age_counts_from_when_its_directory_was_made(tree: CgroupTree, tmp_path: Path) -> None:
    clock = Clock()
    candidates = Candidates(PodsTree(str(tmp_path)), "", clock)
    candidates.wanted = frozenset((UID,))
    assert candidates.refresh(hold=False).usages[0].seen_seconds < 60
    clock.now += 100 * SECOND
    assert 100 <= candidates.refresh(hold=False).usages[0].seen_seconds < 160


def test_a_pods_age_goes_on_where_a_held_list_was_not_looked_through(tree: CgroupTree, tmp_path: Path) -> None:
    clock = Clock()
    candidates = Candidates(PodsTree(str(tmp_path)), "", clock)
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    clock.now += 100 * SECOND
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=True)
    (usage,) = candidates.refresh(hold=False).usages
    assert usage.seen_seconds >= 100
    candidates.close()


def test_no_descriptor_is_left_open(tree: CgroupTree, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    candidates = Candidates(PodsTree(str(tmp_path)), "", Clock())
    candidates.wanted = frozenset((UID, OTHER))
    for _ in range(5):
        candidates.refresh(hold=False)
    candidates.wanted = frozenset((OTHER,))
    candidates.refresh(hold=False)
    candidates.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_candidates_leave_descriptors_for_orders_and_sources(tree: CgroupTree, tmp_path: Path) -> None:
    for number in range(60):
        tree.add_container(UID, f"c0de{number:02}", Memory(anon=MIB))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    candidates = Candidates(PodsTree(str(tmp_path)), "", Clock())
    candidates.wanted = frozenset((UID,))
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + RESERVED_DESCRIPTORS + 50  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        found = candidates.refresh(hold=False)
        spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(RESERVED_DESCRIPTORS // 2)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        candidates.close()
    for descriptor in spare:
        os.close(descriptor)
    assert 0 < len(found.usages[0].containers) < 60
    assert "Too many open files (the limit is" in found.failures[0]


def test_a_process_that_cannot_be_seen_has_no_known_memory() -> None:
    assert anonymous_bytes(0) is None
    own = anonymous_bytes(os.getpid())
    assert own is not None
    assert own > MIB


def test_a_tree_without_cgroup_kill_is_a_missing_capability(tree: CgroupTree, tmp_path: Path) -> None:
    pods = PodsTree(str(tmp_path))
    assert cgroup_kill_capability(pods) == ""
    (tree.pods / "cgroup.kill").unlink()
    assert "5.14" in cgroup_kill_capability(pods)
    assert "No such file" in cgroup_kill_capability(PodsTree(str(tree.pods / "missing")))
