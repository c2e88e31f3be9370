"""What happens to a workload elsewhere and matters to a node's plan: that node is planned anew, and no other."""

import json
from typing import Any

import pytest
from support.fakecluster import Clock, pod_json

from memorypressure.spec import Policy, parse_policy
from memorypressure_operator.planning import Planner
from memorypressure_operator.pods import decode_pod
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView

WORKLOAD = "ns/ReplicaSet/web"


def policy(share: int | str, *unprotected: str) -> Policy:
    spec: dict[str, Any] = {
        "mode": "Enforce",
        "nodeSelector": {},
        "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
        "ladder": [{"action": "Taint", "triggers": ["low"]}],
        "limits": {"maxVictimsPerWorkload": share},
        "victims": {"unprotected": list(unprotected)},
    }
    meta = {"name": "p", "uid": "u", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    body = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy", "metadata": meta, "spec": spec}
    return parse_policy(body)


class World:
    """A registry with `pods` pods of one workload, each on a node of its own."""

    def __init__(self, pods: int, share: int | str = "10%") -> None:
        self.registry = Registry(Clock(), 0.0)
        self.registry.put_namespace("ns", {})
        for number in range(pods):
            name = f"n{number:02d}"
            self.registry.put_node(name, NodeView(name, f"uid-{name}", {}, (), ready=True))
            self.put(number)
        for table in SINKS:
            self.registry.mark_synced(table)
        self.planner = Planner(self.registry, "own", lambda _: 1.0)
        self.policy = policy(share)

    def put(self, number: int, **meta: Any) -> None:
        body = pod_json(f"p{number:02d}", node=f"n{number:02d}", **meta)
        self.registry.put_pod(f"p{number:02d}", decode_pod(json.dumps(body).encode()))

    def plan(self, number: int, *workloads: str, generation: int = 1) -> None:
        name = f"n{number:02d}"
        view = PlanView(name, f"plan-{name}", generation, "", "", "p", 1, 1, frozenset(workloads))
        self.registry.put_plan(name, view)

    def unsettled(self) -> set[str]:
        return self.planner.unsettled([self.policy])


def test_the_sibling_of_a_pod_that_goes_is_planned_anew_for_it_is_the_last_one_now() -> None:
    world = World(2)
    world.registry.remove_pod("p00")
    assert world.unsettled() == {"n01"}
    assert world.unsettled() == set(), "once"


def test_the_only_pod_of_a_workload_is_planned_anew_when_it_gets_company() -> None:
    world = World(1)
    world.put(1)
    assert world.unsettled() == {"n00", "n01"}


def test_a_pod_that_ends_or_is_being_deleted_counts_as_gone() -> None:
    world = World(2)
    world.put(0, deletionTimestamp="2026-01-01T01:00:00Z")
    assert world.unsettled() == {"n01"}
    world.registry.remove_pod("p00")
    assert world.unsettled() == set(), "it was gone already"


def test_a_workload_that_shrank_has_a_node_give_it_up() -> None:
    world = World(21)
    for number in (0, 1, 2):
        world.plan(number, WORKLOAD)
    world.unsettled()
    world.registry.remove_pod("p20")
    assert world.unsettled() == {"n02"}, "10 % of 21 are 3 nodes, of 20 they are 2"
    world.registry.remove_pod("p19")
    assert world.unsettled() == set(), "of 19 they are 2 as well"


def test_a_workload_that_grew_has_another_node_take_it_over() -> None:
    world = World(20)
    for number in (3, 4):
        world.plan(number, WORKLOAD)
    world.unsettled()
    world.put(20)
    assert world.unsettled() == {"n00"}


@pytest.mark.parametrize("removed", [False, True], ids=["another plan", "no plan"])
def test_what_a_plan_gives_up_another_node_may_take_over(removed: bool) -> None:
    world = World(4, share=1)
    world.plan(3, WORKLOAD)
    assert world.unsettled() == set()
    world.registry.remove_pod("p03")
    if removed:
        world.registry.remove_plan("n03")
    else:
        world.plan(3, generation=2)
    assert world.unsettled() == {"n00"}


def test_a_daemon_sets_rollout_asks_for_no_plans_but_where_daemon_sets_may_be_victims() -> None:
    daemon = {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "controller": True}]}
    for unprotected, expected in (((), set()), (("DaemonSetPods",), {"n01"})):
        world = World(0)
        world.policy = policy("10%", *unprotected)
        for number in (0, 1):
            world.put(number, **daemon)
        world.unsettled()
        world.registry.remove_pod("p00")
        assert world.unsettled() == expected


def test_pods_whose_namespace_comes_after_them_are_planned_when_it_does() -> None:
    world = World(2)
    clock: Any = world.registry._clock
    while world.registry.dirty.take():
        pass
    world.registry.remove_namespace("ns")
    world.registry.put_namespace("ns", {"team": "a"})
    clock.now += 1
    assert {world.registry.dirty.take(), world.registry.dirty.take()} == {("n00", False), ("n01", False)}
