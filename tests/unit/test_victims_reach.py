"""Whatever orders name and whatever stands in the cgroup tree: only named pods' containers are reached."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cgrouptree import MIB, CgroupTree, Memory

from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.sentinel.candidates import Candidates

PLANNED = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
OTHER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
OWN = "99999999-1111-4a7e-9f0e-2f8d6a3c1b33"
UIDS = (PLANNED, OTHER, OWN)

HOSTILE = (
    "..",
    ".",
    "",
    "/",
    "\0",
    "../..",
    "../../precious",
    f"{PLANNED}/../pod{OTHER}",
    f"pod{OTHER}",
    f"{OTHER}\0",
    f"{OTHER}\n",
    "8f1f6d1e_6ad0_4a7e_9f0e_2f8d6a3c1b11",
    "8F1F6D1E-6AD0-4A7E-9F0E-2F8D6A3C1B11",
    "\u202e8f1f6d1e",
    "\uff18f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11",
    "precious",
    "*",
    "burstable",
)
WANTED = st.builds(  # pods that are there, and names that nobody may take for one
    frozenset.union,
    st.sampled_from([frozenset(UIDS), frozenset((PLANNED,)), frozenset((OTHER, OWN)), frozenset[str]()]),
    st.frozensets(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)), max_size=4),
)
PLANTS = st.lists(
    st.sampled_from(
        [
            "a link in place of a pod",
            "a link in place of a container",
            "a link in place of cgroup.kill",
            "a link in place of a QoS class",
            "a container named as a pod",
            "a pod in a pod",
            "a name in another script",
            "a monitor of CRI-O",
            "a file in place of a container",
        ]
    ),
    max_size=4,
)


class Machine:
    """A tree with three pods, and files outside that nobody may write to."""

    def __init__(self, root: Path, *, systemd: bool) -> None:
        self.root = root
        self.tree = CgroupTree(root / "cgroup", systemd=systemd)
        for number, uid in enumerate(UIDS):
            qos = ("Burstable", "BestEffort", "Guaranteed")[number]
            self.tree.add_pod(uid, qos)
            self.tree.add_container(uid, f"c0de{number:02d}", Memory(anon=100 * MIB), qos=qos, nested=number == 0)
        self.precious = root / "precious"
        for directory in (self.precious, self.precious / f"pod{PLANNED}" / "c0de77", root / "system.slice"):
            directory.mkdir(parents=True)
            (directory / "cgroup.kill").write_text("")
            (directory / "cgroup.procs").write_text("1\n")
            (directory / "cgroup.events").write_text("populated 1\n")

    def plant(self, what: str) -> None:
        """Puts something hostile into the tree; a second time it is there already."""
        pod = self.tree.pod_directory(PLANNED)
        if not pod.is_dir() or pod.is_symlink():
            return
        container = next(path for path in sorted(pod.iterdir()) if "c0de00" in path.name)
        burstable = pod.parent
        match what:
            case "a link in place of a pod":
                link = self.tree.pod_directory("aaaaaaaa-1111-4a7e-9f0e-2f8d6a3c1b44")
                link.is_symlink() or link.symlink_to(self.precious)
            case "a link in place of a container":
                link = pod / "c0de88"
                link.is_symlink() or link.symlink_to(self.precious)
            case "a link in place of cgroup.kill":
                (container / "cgroup.kill").unlink()
                (container / "cgroup.kill").symlink_to(self.precious / "cgroup.kill")
            case "a link in place of a QoS class":
                link = burstable.parent / ("kubepods-x-burstable.slice" if self.tree.systemd else "x-burstable.slice")
                link.is_symlink() or link.symlink_to(self.precious)
            case "a container named as a pod":
                self._fake(burstable / f"pod{OTHER}x" / f"pod{PLANNED}")
            case "a pod in a pod":
                self._fake(pod / f"pod{OTHER}" / "c0de66")
            case "a name in another script":
                self._fake(burstable / "pod\uff18f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11" / "c0de55")
            case "a monitor of CRI-O":
                self._fake(pod / "crio-conmon-c0de44.scope")
            case "a file in place of a container":
                (pod / "c0de33").write_text("1")

    @staticmethod
    def _fake(directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.kill").write_text("")
        (directory / "cgroup.procs").write_text("4000000\n")
        (directory / "cgroup.events").write_text("populated 1\n")

    def killed(self) -> set[Path]:
        """Every file below everything that says that it was killed; links are what they lead to."""
        found = (path for path in self.root.rglob("cgroup.kill") if not path.is_symlink())
        return {path for path in found if path.read_text() == "1"}


@settings(max_examples=60, deadline=None)
@given(wanted=WANTED, plants=PLANTS, systemd=st.booleans())
def test_nothing_is_killed_but_listed_containers_of_pods_that_were_named(
    tmp_path_factory: pytest.TempPathFactory, wanted: frozenset[str], plants: list[str], systemd: bool
) -> None:
    root = tmp_path_factory.getbasetemp() / "reach"
    shutil.rmtree(root, ignore_errors=True)
    machine = Machine(root, systemd=systemd)
    for plant in plants:
        machine.plant(plant)
    pods = PodsTree(str(root / "cgroup"))
    candidates = Candidates(pods, own_pod_uid=OWN)
    candidates.wanted = wanted
    usages = candidates.refresh(hold=False).usages
    for usage in usages:
        for container in usage.containers:
            with contextlib.suppress(OSError):  # its cgroup.kill is a link, and was not opened
                candidates.kill(usage.uid, (container.id,))
    named = (wanted & set(UIDS)) - {OWN}
    allowed = {machine.tree.pod_directory(uid, qos) for uid, qos in ((PLANNED, "Burstable"), (OTHER, "BestEffort"))
               if uid in named}  # fmt: skip
    for path in machine.killed():
        assert path.parents[1] in allowed, f"{path} was killed"
        assert "crio-conmon" not in path.parent.name
        assert os.path.realpath(path) == str(path)
    assert {usage.uid for usage in usages} <= named
    assert not any("precious" in str(path) or "system.slice" in str(path) for path in machine.killed())
    if PLANNED in wanted and "a link in place of cgroup.kill" not in plants:
        assert machine.killed(), "and those are"
    candidates.close()


@pytest.mark.parametrize("container", [*HOSTILE, f"pod{PLANNED}", "c0de99"])
def test_a_container_that_was_not_listed_cannot_be_named(tmp_path: Path, container: str) -> None:
    machine = Machine(tmp_path, systemd=False)
    candidates = Candidates(PodsTree(str(tmp_path / "cgroup")))
    candidates.wanted = frozenset((PLANNED,))
    candidates.refresh(hold=False)
    with pytest.raises(KeyError):
        candidates.kill(PLANNED, (container,))
    with pytest.raises(KeyError):
        candidates.kill(container, ("c0de00",))
    assert machine.killed() == set()
    candidates.close()
