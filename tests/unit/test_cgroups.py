"""Pods' cgroups: found for both drivers and all runtimes, never outside pod<uid>/<container>."""

import contextlib
import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cgrouptree import MIB, SANDBOX, CgroupTree, Memory

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, Unknown
from memorypressure_agent.host.cgroups import ContainerCgroup, PodsTree, container_id_of, is_plain_name, pod_uid_of
from memorypressure_agent.host.containers import (
    CgroupFileError,
    ContainerHandle,
    MemoryFigures,
    open_handle,
    parse_numa_stat,
    parse_populated,
    relief_of,
)
from memorypressure_agent.sentinel.candidates import Candidates

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
OTHER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
STATIC = "3f2a9c0d4b5e6f708192a3b4c5d6e7f8"  # a static pod's: the hash of its manifest


def handle_of(root: Path, container_id: str) -> ContainerHandle:
    tree = PodsTree(str(root))
    for pod in tree.scan():
        for container in pod.containers:
            if container.container_id == container_id:
                handle = open_handle(tree, container)
                assert handle is not None
                return handle
    raise AssertionError(container_id)


@pytest.mark.parametrize("systemd", [False, True], ids=["cgroupfs", "systemd"])
@pytest.mark.parametrize("qos", ["Guaranteed", "Burstable", "BestEffort"])
@pytest.mark.parametrize("uid", [UID, STATIC])
def test_a_pod_is_found_by_its_uid_with_both_drivers_and_every_qos_class(
    tmp_path: Path, systemd: bool, qos: str, uid: str
) -> None:
    tree = CgroupTree(tmp_path, systemd=systemd)
    tree.add_pod(uid, qos, sandbox=False)
    tree.add_container(uid, "abc123", Memory(anon=5), qos=qos)
    pods = PodsTree(str(tmp_path)).scan()
    assert [(pod.uid, [container.container_id for container in pod.containers]) for pod in pods] == [(uid, ["abc123"])]


@pytest.mark.parametrize(
    ("directory", "container_id"),
    [
        ("cri-containerd-0a1b.scope", "0a1b"),
        ("crio-0a1b.scope", "0a1b"),
        ("docker-0a1b.scope", "0a1b"),
        ("0a1b", "0a1b"),
        ("crio-conmon-0a1b.scope", None),
        ("..", None),
        (".hidden", None),
        ("a/b", None),
        ("", None),
        ("a\n", None),
    ],
)
def test_a_container_id_is_read_from_its_directorys_name(directory: str, container_id: str | None) -> None:
    assert container_id_of(directory) == container_id


@pytest.mark.parametrize(
    ("directory", "uid"),
    [
        (f"pod{UID}", UID),
        (f"kubepods-burstable-pod{UID.replace('-', '_')}.slice", UID),
        (f"kubepods-pod{UID.replace('-', '_')}.slice", UID),
        (f"kubelet-kubepods-besteffort-pod{UID.replace('-', '_')}.slice", UID),
        ("kubepods-burstable.slice", None),
        ("burstable", None),
        ("pod", None),
        ("pod..", None),
        ("pod/../x", None),
        ("system.slice", None),
    ],
)
def test_a_pod_uid_is_read_from_its_directorys_name(directory: str, uid: str | None) -> None:
    assert pod_uid_of(directory) == uid


@pytest.mark.parametrize("below", ["", "kubelet.slice", "unified"])
def test_the_pods_directory_is_found_from_every_usual_root(tmp_path: Path, below: str) -> None:
    tree = CgroupTree(tmp_path / below)
    tree.add_pod(UID)
    if below == "kubelet.slice":
        tree.pods.rename(tmp_path / below / "kubelet-kubepods.slice")
    assert [pod.uid for pod in PodsTree(str(tmp_path)).scan()] == [UID]


def test_the_pods_directory_may_be_mounted_as_the_root_itself_under_any_name(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path, systemd=True)
    tree.add_pod(UID)
    tree.pods.rename(tmp_path / "mounted")
    assert [pod.uid for pod in PodsTree(str(tmp_path / "mounted")).scan()] == [UID]


def test_a_root_without_pods_says_what_to_give_instead(tmp_path: Path) -> None:
    tree = PodsTree(str(tmp_path))
    assert tree.path is None
    assert tree.scan() == ()
    assert "--cgroup-root must be" in tree.failure
    assert "No such file" in PodsTree(str(tmp_path / "missing")).failure


def test_cgroup_v1_is_named_as_what_cannot_kill_and_the_tree_beside_it_is_found(tmp_path: Path) -> None:
    for controller in ("memory", "cpu,cpuacct", "systemd"):
        (tmp_path / controller / "kubepods" / f"pod{UID}" / "c0de").mkdir(parents=True)
    tree = PodsTree(str(tmp_path))
    assert tree.scan() == ()
    assert tree.failure == f"{tmp_path}: is cgroup v1, a tree for each controller; cgroup.kill is in cgroup v2 only"
    CgroupTree(tmp_path / "unified").add_pod(UID)
    assert [pod.uid for pod in tree.scan()] == [UID]


def test_a_crio_container_counts_the_processes_of_its_nested_cgroup(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path, systemd=True)
    tree.add_pod(UID, sandbox=False)
    tree.add_container(UID, "0a1b", Memory(anon=64 * MIB), runtime="crio", nested=True, processes=3)
    assert len(handle_of(tmp_path, "0a1b").pids()) == 3


def test_a_nested_cgroup_made_after_its_container_was_listed_is_found_at_the_next_listing(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID, sandbox=False)
    scope = tree.add_container(UID, "0a1b", Memory(anon=64 * MIB), processes=0)
    candidates = Candidates(PodsTree(str(tmp_path)))
    candidates.wanted = frozenset((UID,))
    assert candidates.refresh(hold=False).usages[0].containers[0].processes == 0
    tree.add_container(UID, "0a1b", Memory(anon=64 * MIB), processes=2, nested=True)  # CRI-O's comes a moment later
    assert candidates.refresh(hold=False).usages[0].containers[0].processes == 2
    assert scope.is_dir()


def test_links_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    victim = CgroupTree(outside)
    victim.add_pod(OTHER)
    victim.add_container(OTHER, "victim", Memory(anon=5))
    tree = CgroupTree(tmp_path / "root")
    tree.add_pod(UID)
    (tree.pod_directory(UID) / "linked").symlink_to(victim.pod_directory(OTHER) / "victim")
    (tree.pods / "burstable" / f"pod{OTHER}").symlink_to(victim.pod_directory(OTHER))
    found = PodsTree(str(tmp_path / "root"))
    assert [pod.uid for pod in found.scan()] == [UID]
    assert all(container.container_id != "linked" for pod in found.scan() for container in pod.containers)
    assert open_handle(found, ContainerCgroup(UID, "linked", ("burstable", f"pod{UID}", "linked"))) is None


def test_a_kill_file_that_is_a_link_is_not_opened(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID)
    directory = tree.add_container(UID, "abc", Memory(anon=5))
    target = tmp_path / "precious"
    target.write_text("")
    (directory / "cgroup.kill").unlink()
    (directory / "cgroup.kill").symlink_to(target)
    handle = handle_of(tmp_path, "abc")
    assert not handle.can_kill
    with pytest.raises(OSError, match=r"cgroup\.kill"):
        handle.kill()
    assert target.read_text() == ""


NAMES = st.one_of(
    st.sampled_from(
        ["..", ".", "", "/", "a/b", "\0", f"pod{UID}", f"pod{OTHER}", "abc", "burstable", "kubepods", "/etc"]
    ),
    st.text(max_size=12),
)


@given(
    parts=st.lists(NAMES, max_size=5).map(tuple), uid=st.one_of(st.just(UID), st.just(OTHER), NAMES), container=NAMES
)
@settings(max_examples=300, deadline=None)
def test_no_name_whatever_leads_outside_the_container_it_names(
    tmp_path_factory: pytest.TempPathFactory, parts: tuple[str, ...], uid: str, container: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz"
    if not root.exists():
        made = CgroupTree(root)
        made.add_pod(UID)
        made.add_container(UID, "abc", Memory(anon=5))
    tree = PodsTree(str(root))
    try:
        handle = tree.open_container(ContainerCgroup(uid, container, parts))
    except ValueError:
        return
    if handle is None:
        return
    reached = str(Path(f"/proc/self/fd/{handle}").readlink())
    os.close(handle)
    assert reached == str(root / "kubepods" / "burstable" / f"pod{UID}" / parts[-1])
    assert (uid, container) == (UID, parts[-1])


@given(st.text())
def test_a_plain_name_never_leaves_its_directory(name: str) -> None:
    if is_plain_name(name):
        assert PurePosixPath("/d", name).parts == ("/", "d", name)


def test_relief_is_anon_kernel_and_sockets_never_file(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID)
    tree.add_container(UID, "abc", Memory(anon=100 * MIB, kernel=7 * MIB, sock=3 * MIB, file=900 * MIB, nodes=(60, 40)))
    figures = handle_of(tmp_path, "abc").figures()
    assert figures == MemoryFigures(1010 * MIB, 110 * MIB, ((0, 60), (1, 40)))


def test_before_5_18_the_kernels_part_is_added_up() -> None:
    assert relief_of({"anon": 1, "sock": 2, "kernel_stack": 4, "pagetables": 8, "percpu": 16, "slab": 32}) == 63


def test_a_tree_without_the_memory_controller_has_no_figures_and_says_so(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID)
    tree.add_container(UID, "abc", None)
    handle = handle_of(tmp_path, "abc")
    figures = handle.figures()
    assert isinstance(figures, Absent)
    assert figures.reason is Reason.NO_FIGURES
    assert handle.memory_bytes() is None


@pytest.mark.parametrize("garbage", ["anon\n", "anon -5\n", "anon x\n", "file 5\n", "anon 1 2\n", "\xff\n"])
def test_memory_figures_that_are_not_understood_are_unknown_never_zero(tmp_path: Path, garbage: str) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID)
    directory = tree.add_container(UID, "abc", Memory(anon=5))
    (directory / "memory.stat").write_text(garbage)
    assert isinstance(handle_of(tmp_path, "abc").figures(), Unknown)


@pytest.mark.parametrize(
    ("file", "garbage"),
    [
        ("memory.current", ""),
        ("memory.current", "many\n"),
        ("memory.current", "-5\n"),
        ("memory.numa_stat", "anon 5\n"),
        ("memory.numa_stat", "anon N0=5 Nx=6\n"),
        ("memory.numa_stat", "anon N0=5\nanon N0=6\n"),
    ],
)
def test_no_part_of_the_figures_is_guessed(tmp_path: Path, file: str, garbage: str) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID)
    directory = tree.add_container(UID, "abc", Memory(anon=5))
    (directory / file).write_text(garbage)
    handle = handle_of(tmp_path, "abc")
    figures = handle.figures()
    assert isinstance(figures, Unknown)
    assert file in figures.message
    assert handle.memory_bytes() == (None if file == "memory.current" else 5)


def test_where_the_kernel_does_not_say_on_which_numa_node_memory_lies_all_of_it_is_relief(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    tree.add_pod(UID)
    (tree.add_container(UID, "abc", Memory(anon=90 * MIB), processes=2) / "memory.numa_stat").unlink()  # before 5.11
    assert handle_of(tmp_path, "abc").figures() == MemoryFigures(90 * MIB, 90 * MIB, ())
    candidates = Candidates(PodsTree(str(tmp_path)))
    candidates.wanted = frozenset((UID,))
    (usage,) = candidates.refresh(hold=False).usages
    (container,) = [each for each in usage.containers if each.id == "abc"]
    assert (container.relief_bytes, container.relief_bytes_by_node) == (90 * MIB, None)
    candidates.close()


@given(st.binary(max_size=200))
def test_no_bytes_make_the_cgroup_parsers_fail_in_another_way_than_their_own(text: bytes) -> None:
    for parse in (parse_numa_stat, parse_populated):
        with contextlib.suppress(CgroupFileError):
            parse(text)


def test_the_sandbox_of_the_fixture_is_under_its_bound() -> None:
    assert SANDBOX.anon + SANDBOX.kernel < 2 * MIB
