"""The begin of a term: the Lease was lost and is held again, and what was remembered is not."""

import json
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure_operator import settings as settings_module
from memorypressure_operator.health import Health
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import decode_pod
from memorypressure_operator.reconcile import DecisionLoop
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import decode_state
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView

SINCE = "2026-01-01T00:00:00Z"
NODES = ("a", "b")


class Leads:
    term = 1

    def holds(self) -> bool:
        return True


class World:
    """Two nodes with two pods each, and a policy that evicts at once, but on one node at a time."""

    def __init__(self) -> None:
        self.clock, self.cluster, self.leader = Clock(), FakeCluster(), Leads()
        self.registry, self.metrics = Registry(self.clock, 0.0), Metrics()
        for name in SINKS:
            self.registry.mark_synced(name)
        made = settings_module.parse({"namespace": "own"}, {})
        parts: Any = (self.cluster, self.leader, self)
        health = Health(self.clock, 60)
        self.loop = DecisionLoop(made, parts[0], self.registry, parts[1], parts[2], self.metrics, health, self.clock)
        self.cluster.policies = [policy()]
        self.registry.put_namespace("ns", {})
        self.pressed: set[str] = set()
        self.beat = 0
        for node in NODES:
            self.node(node)
            for number in range(2):
                self.cluster.add(f"{node}{number}", node=node, owner=f"web-{node}")
            owners = [{"kind": "Node", "uid": f"uid-{node}"}]
            meta = {"name": node, "uid": f"s-{node}", "generation": 1, "resourceVersion": "0"}
            self.cluster.states[node] = {"metadata": {**meta, "ownerReferences": owners}, "spec": {"nodeName": node}}
        self.run(3)

    def node(self, name: str, **labels: str) -> None:
        self.registry.put_node(name, NodeView(name, f"uid-{name}", labels, (), ready=True))

    def tell(self, _: Any) -> bool:
        return True

    def report(self, node: str) -> None:
        self.beat += 1
        self.cluster.version += 1
        state = self.cluster.states[node]
        state["metadata"]["resourceVersion"] = str(self.cluster.version)
        state["status"] = {
            "lastReportTime": f"t{self.beat}",
            "observedGeneration": state["metadata"]["generation"],
            "activeTriggers": [{"name": "low", "since": SINCE}] if node in self.pressed else [],
            "topPods": [
                {"uid": uid, "reliefBytes": 900 << 20, "overRequest": True}
                for uid, pod in self.cluster.pods.items()
                if pod["spec"]["nodeName"] == node
            ],
        }
        self.registry.put_state(node, decode_state(json.dumps(state).encode()))

    def run(self, seconds: float, *reporting: str) -> None:
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            for uid, body in self.cluster.pods.items():
                self.registry.put_pod(uid, decode_pod(json.dumps(body).encode()))
            for node in reporting or NODES:
                self.report(node)
            self.loop.once()
            self.clock.now += 0.25

    def unexpected(self) -> float:
        found: float = self.metrics.reconcile_errors.labels("Unexpected")._value.get()
        return found


def policy() -> dict[str, Any]:
    spec: dict[str, Any] = {
        "mode": "Enforce",
        "nodeSelector": {},
        "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}}],
        "ladder": [{"action": "Evict", "triggers": ["low"], "afterSeconds": 0, "evict": {"gracePeriodSeconds": 4}}],
        "limits": {"cooldownSeconds": 10, "maxVictimsPerWorkload": 2, "evictionsPerHour": 9, "maxConcurrentNodes": 1},
    }
    return {"metadata": {"name": "p", "uid": "u", "generation": 1, "creationTimestamp": SINCE}, "spec": spec}


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("moved", [False, True], ids=["the same nodes", "a node was relabelled meanwhile"])
def test_whose_turn_comes_first_in_a_term_is_not_helped_beside_one_that_is_being_helped(
    world: World, moved: bool
) -> None:
    world.pressed = {"b"}
    world.run(2)
    assert [uid[0] for uid in world.cluster.evictions] == ["b"]
    world.leader.term = 2
    if moved:
        world.node("b", zone="1")
    world.pressed = {"a", "b"}
    world.report("a")
    world.run(1, "a")
    assert [uid[0] for uid in world.cluster.evictions] == ["b"], "maxConcurrentNodes is 1"
    assert world.unexpected() == 0
    world.run(30)
    assert world.unexpected() == 0


def test_what_moves_while_the_lease_is_not_held_is_not_gathered_for_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.leader, "holds", lambda: False)
    for number in range(3):
        uid = f"job-{number}"
        view = world.cluster.add(uid, owner=uid)
        world.registry.put_pod(uid, view)
        world.registry.remove_pod(uid)
    assert len(world.registry.resized) == 3
    world.loop.once()
    assert (world.registry.resized, world.registry.freed) == ({}, set())
