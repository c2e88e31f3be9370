"""The real sentinel where it may not do all it could: no kill before 5.14 or on cgroup v1, no memory locked.

All else works, and it says why.
"""

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory
from support.killcases import BYSTANDER, CANDIDATES, VICTIM
from support.sentinellab import SentinelLab, eventually, grant_for, orders

from memorypressure_agent.host.flight_reader import rings


def suffers(lab: SentinelLab) -> None:
    """A flood under orders that allow two kills: it is seen and recorded, decided on, and nobody is killed."""
    lab.give(orders(*CANDIDATES, grant=grant_for(lab.known_past(), ceiling=2)))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: "CapabilityMissing" in lab.reasons(), "a decision says CapabilityMissing")
    eventually(lambda: lab.status()["triggers"][0]["status"] == "Active", "the pressure is in the status")
    status = lab.status()
    assert status["decision"]["reason"] == "CapabilityMissing"
    assert status["lowest"]["headroomBytes"] == 0
    assert status["counters"]["refusals"]["CapabilityMissing"] == 1
    assert lab.kills_total() == 0
    lab.reader.refresh()
    assert any(sample.zones for sample in rings(lab.reader.flight())), "the flight recorder has samples"
    lab.calm()
    eventually(lambda: lab.status()["triggers"][0]["status"] == "Clear", "the end of it is in the status")


def test_before_linux_5_14_the_missing_capability_is_said_and_candidates_have_figures(tree_lab: SentinelLab) -> None:
    tree = CgroupTree(tree_lab.cgroup_root)
    for uid in (VICTIM, BYSTANDER):
        tree.add_pod(uid)
        tree.add_container(uid, "c0de01", Memory(anon=300 * MIB), processes=2)
    for file in tree.root.rglob("cgroup.kill"):
        file.unlink()
    suffers(tree_lab)
    status = tree_lab.status()
    assert "no cgroup.kill" in status["capabilities"]["CgroupKill"]
    assert "5.14" in status["capabilities"]["CgroupKill"]
    assert status["figures"]["failures"] == []
    assert not list(tree.root.rglob("cgroup.kill"))


def test_on_cgroup_v1_the_missing_capability_is_said(tree_lab: SentinelLab) -> None:
    for controller in ("memory", "cpu,cpuacct", "systemd"):
        (tree_lab.cgroup_root / controller / "kubepods" / f"pod{VICTIM}" / "c0de01").mkdir(parents=True)
    suffers(tree_lab)
    assert "is cgroup v1" in tree_lab.status()["capabilities"]["CgroupKill"]


@pytest.mark.needs("root", "setpriv")
def test_what_is_not_allowed_is_reported_and_the_sentinel_works_on(tree_lab: SentinelLab) -> None:
    tree = CgroupTree(tree_lab.cgroup_root)
    tree.add_pod(VICTIM)
    tree.add_container(VICTIM, "c0de01", Memory(anon=300 * MIB), processes=2)
    tree_lab.give(orders(*CANDIDATES, grant=grant_for(tree_lab.known_past(), ceiling=1)))
    without = ("setpriv", "--bounding-set", "-ipc_lock,-sys_nice", "sh", "-c", 'ulimit -l 0; exec "$0" "$@"')
    tree_lab.start("--realtime", under=without)
    eventually(lambda: "not locked" in tree_lab.log(), "it says that its memory is not locked")
    assert "memory is not locked: mlockall: Operation not permitted (needs IPC_LOCK" in tree_lab.log()
    realtime = "Realtime: SCHED_FIFO: Operation not permitted (needs SYS_NICE)"
    eventually(lambda: f"CapabilityMissing: {realtime}" in tree_lab.log(), "and that it has no real time")
    eventually(lambda: "needs IPC_LOCK" in tree_lab.status()["capabilities"].get("MemoryLocked", ""), "the status too")
    assert "needs SYS_NICE" in tree_lab.status()["capabilities"]["Realtime"]
    tree_lab.flood()
    eventually(lambda: tree.killed() == {"c0de01"}, "it kills all the same")
