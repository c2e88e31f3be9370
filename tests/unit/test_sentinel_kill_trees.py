"""A kill by the layouts of cgroups that nodes have: both drivers, every QoS class, containerd and CRI-O."""

from pathlib import Path

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory

from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.sentinel.candidates import Candidates

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
OTHER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"


def killed(root: Path) -> set[str]:
    """Where `cgroup.kill` was written to, from the tree's root on."""
    return {str(path.parent.relative_to(root)) for path in root.rglob("cgroup.kill") if path.read_text()}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("runtime", ["cri-containerd", "crio"])
@pytest.mark.parametrize("qos", ["Guaranteed", "Burstable", "BestEffort"])
@pytest.mark.parametrize("systemd", [False, True], ids=["cgroupfs", "systemd"])
def test_the_containers_of_one_pod_are_killed_and_neither_its_sandbox_nor_a_monitor(
    tmp_path: Path, systemd: bool, qos: str, runtime: str, nested: bool
) -> None:
    tree = CgroupTree(tmp_path, systemd=systemd)
    for uid in (UID, OTHER):
        pod = tree.add_pod(uid, qos)
        for number in (1, 2):
            tree.add_container(
                uid, f"c0de0{number}", Memory(anon=90 * MIB), qos=qos, processes=3, runtime=runtime, nested=nested
            )
        monitor = pod / "crio-conmon-c0de01.scope"
        monitor.mkdir()
        (monitor / "cgroup.kill").write_text("")
        (monitor / "cgroup.procs").write_text("4000000\n")
    candidates = Candidates(PodsTree(str(tmp_path)))
    candidates.wanted = frozenset((UID,))
    (usage,) = candidates.refresh(hold=False).usages
    found = {container.id: container for container in usage.containers}
    victims = {name for name, container in found.items() if not container.is_sandbox}
    assert victims == {"c0de01", "c0de02"}
    assert len(found) == 3, "its sandbox is seen, and the monitor is no container"
    assert {(found[name].processes, found[name].relief_bytes) for name in victims} == {(3, 90 * MIB)}
    candidates.kill(UID, tuple(sorted(victims)))
    directory = tree.pod_directory(UID, qos).relative_to(tmp_path)
    names = [f"{runtime}-{name}.scope" if systemd else name for name in victims]
    assert killed(tmp_path) == {str(directory / name) for name in names}, "the scope, which holds what is nested in it"
    candidates.close()


@pytest.mark.parametrize("systemd", [False, True], ids=["cgroupfs", "systemd"])
def test_one_container_of_a_pod_is_killed_without_the_others(tmp_path: Path, systemd: bool) -> None:
    tree = CgroupTree(tmp_path, systemd=systemd)
    tree.add_pod(UID)
    for number in (1, 2):
        tree.add_container(UID, f"c0de0{number}", Memory(anon=90 * MIB))
    candidates = Candidates(PodsTree(str(tmp_path)))
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    candidates.kill(UID, ("c0de02",))
    assert [Path(name).name for name in killed(tmp_path)] == ["cri-containerd-c0de02.scope" if systemd else "c0de02"]
    candidates.close()
