"""The real sentinel kills a real process through a real cgroup.kill, exactly within what it was granted."""

import signal
import time
from dataclasses import replace

from support.cgrouptree import MIB, CgroupTree, Memory
from support.killcases import BYSTANDER, EVERYTHING, NOT_PLANNED, VICTIM, granted
from support.sentinellab import RealPods, SentinelLab, eventually

from memorypressure.spec_values import Criterion


def test_the_flood_costs_one_pod_its_containers_and_nobody_else_anything(lab: SentinelLab, pods: RealPods) -> None:
    incarnation = lab.known_past()
    lab.give(granted(incarnation))
    sentinel = lab.start()
    eventually(lab.armed, "the orders are taken over")
    assert pods.alive() == EVERYTHING
    lab.flood()
    eventually(lambda: lab.records("action"), "an action is recorded")
    assert pods.dead() == {f"{VICTIM}/c0de01", f"{VICTIM}/c0de02"}
    assert {each.returncode for each in pods.processes[f"{VICTIM}/c0de01"]} == {-signal.SIGKILL}
    assert pods.alive() == EVERYTHING - pods.dead()
    assert lab.kills_total() == 1
    (action,) = lab.records("action")
    assert action["record"]["result"] == "Success"
    assert action["record"]["pod"] == {"uid": VICTIM, "namespace": "default", "name": "victim"}
    assert action["record"]["reason"] == "AtomicReserveBreached"
    eventually(lambda: "Cooldown" in lab.reasons(), "the next kill waits for the cool-down")
    assert lab.kills_total() == 1
    assert f"{BYSTANDER}/c0de03" in pods.alive()
    sentinel.terminate()
    assert sentinel.wait(timeout=5) == 0


def test_a_second_victim_dies_only_after_the_cool_down(lab: SentinelLab, pods: RealPods) -> None:
    incarnation = lab.known_past()
    lab.give(granted(incarnation, ceiling=5))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: lab.kills_total() == 1, "the first kill")
    first = time.monotonic()
    eventually(lambda: lab.kills_total() == 2, "the second kill", seconds=20)
    assert 9.5 < time.monotonic() - first < 14
    eventually(lambda: f"{BYSTANDER}/c0de03" in pods.dead(), "the bystander is the second victim")
    assert pods.alive() == {f"{VICTIM}/5a9d", f"{NOT_PLANNED}/c0de04"}


def test_the_pod_that_gives_most_back_is_chosen_where_there_are_figures(tree_lab: SentinelLab) -> None:
    lab = tree_lab
    tree = CgroupTree(lab.cgroup_root, systemd=True)
    for uid, container, anon in ((VICTIM, "c0de01", 300), (BYSTANDER, "c0de03", 200), (NOT_PLANNED, "c0de04", 900)):
        tree.add_pod(uid)
        tree.add_container(uid, container, Memory(anon=anon * MIB, file=500 * MIB))
    given = granted(lab.known_past(), ceiling=1)
    rules = replace(given.victims, order=(Criterion.RELIEF,), min_relief_bytes=64 * MIB)
    lab.give(replace(given, victims=rules))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(tree.killed, "a container is killed")
    assert tree.killed() == {"cri-containerd-c0de01.scope"}
    (kill,) = [record for record in lab.records("decision") if record["action"] == "Kill"]
    assert kill["victim"]["reliefBytes"] == 300 * MIB
