"""Whose pods are on a node's plan, and how fast plans are written."""

import json
from typing import Any

import pytest
from support.fakecluster import Clock
from support.operatorpolicy import policy

from memorypressure.spec import Policy
from memorypressure_operator.main import SOURCES
from memorypressure_operator.planning import Planner, TokenBucket
from memorypressure_operator.pods import PodTraits, PodView
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView
from memorypressure_operator.sinks import TableSink
from memorypressure_operator.streams import Stream
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView


def pod(uid: str, node: str, owner: str = "StatefulSet/w", **changes: Any) -> PodView:
    traits: dict[str, Any] = {
        "namespace": "ns",
        "phase": "Running",
        "qos_class": "Burstable",
        "priority": 0,
        "request_bytes": 0,
        "owner": owner,
        "static": False,
        "daemon_set": False,
        "local_storage": False,
        "annotated": False,
        "label_words": (),
    }
    own: dict[str, Any] = {
        "uid": uid,
        "name": uid,
        "node": node,
        "created": 1_767_225_600.0,
        "terminating": False,
        "grace_period_seconds": None,
    }
    assert changes.keys() <= traits.keys() | own.keys()
    own |= {name: value for name, value in changes.items() if name in own}
    traits |= {name: value for name, value in changes.items() if name in traits}
    return PodView(traits=PodTraits(**traits), **own)


def planner(*pods: PodView, pressed: str = "") -> Planner:
    registry = Registry(Clock(), 0.0)
    registry.put_namespace("ns", {})
    for each in pods:
        registry.put_node(each.node, NodeView(each.node, f"uid-{each.node}", {}, (), ready=True))
        registry.put_pod(each.uid, each)
    return Planner(registry, "own", lambda node: 0.0 if node == pressed else 1.0)


def store_plan(plans: Planner, node: str, workloads: set[str], generation: int = 1) -> None:
    view = PlanView(node, f"uid-{node}", generation, "", "", "p", 3, 1, frozenset(workloads))
    plans.registry.put_plan(node, view)


def planned(plans: Planner, rules: Policy, node: str) -> list[str]:
    plans.begin_pass()
    pods = plans.registry.tables.pods_by_node[node].values()
    return sorted(entry["uid"] for entry in plans.draft(rules, node, pods).spec["pods"])


def test_a_workload_waits_until_the_node_that_holds_it_has_given_it_up() -> None:
    rules = policy(limits={"maxVictimsPerWorkload": 1})
    plans = planner(pod("a1", "a"), pod("b1", "b"), pressed="b")
    store_plan(plans, "a", {"ns/StatefulSet/w"})
    plans.begin_pass()
    draft = plans.draft(rules, "b", plans.registry.tables.pods_by_node["b"].values())
    assert draft.spec["pods"] == []
    assert draft.blocked == {"a"}
    assert planned(plans, rules, "a") == [], "b is under pressure, so a lets go"
    store_plan(plans, "a", set(), generation=2)
    plans.begin_pass()
    draft = plans.draft(rules, "b", plans.registry.tables.pods_by_node["b"].values())
    assert (draft.spec["pods"], draft.blocked, draft.waits) == ([], set(), True), "it may hold the old plan"
    plans.armed = lambda _: False
    assert planned(plans, rules, "b") == ["b1"], "without an allowance it cannot use it"


def test_without_pressure_a_workload_stays_where_it_is() -> None:
    rules = policy(limits={"maxVictimsPerWorkload": 1})
    plans = planner(pod("a1", "a"), pod("b1", "b"))
    store_plan(plans, "b", {"ns/StatefulSet/w"})
    assert planned(plans, rules, "b") == ["b1"]
    assert planned(plans, rules, "a") == []


def test_equal_input_makes_equal_plans_whatever_the_order() -> None:
    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    pods = [pod(f"p{number}", "a", priority=number % 3) for number in range(20)]
    first, second = planner(*pods), planner(*reversed(pods))
    drafts = [plans.draft(rules, "a", plans.registry.tables.pods_by_node["a"].values()) for plans in (first, second)]
    assert drafts[0].digest == drafts[1].digest


def test_a_pod_under_a_used_up_budget_is_vetoed_for_kills_but_left_to_the_eviction_api() -> None:
    from memorypressure.protections import DisruptionBudget
    from memorypressure.spec import LabelSelector

    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    plans = planner(pod("a1", "a"), pod("a2", "a"))
    plans.registry.put_budget(("ns", "b"), DisruptionBudget("ns", LabelSelector(), 0))
    assert planned(plans, rules, "a") == []
    assert plans.veto(rules, plans.registry.tables.pods["a1"]) is None


LINES = {
    "namespaces": {"metadata": {"name": "ns", "uid": "u", "resourceVersion": "5", "labels": {"a": 5}}},
    "poddisruptionbudgets": {"metadata": {"name": "b", "namespace": "ns", "resourceVersion": "5"}, "spec": "new"},
}


@pytest.mark.parametrize("resource", LINES)
def test_pods_that_an_object_which_is_not_understood_concerns_are_on_no_plan(resource: str) -> None:
    """The object comes in the middle of a stream, and the plans are thought over."""
    nothing: Any = None
    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    plans = planner(pod("a1", "a"), pod("a2", "a"))
    for table in SINKS:
        plans.registry.mark_synced(table)
    while plans.registry.dirty.take():
        pass
    assert planned(plans, rules, "a") == ["a1", "a2"]
    source = next(each for each in SOURCES if each.name == resource)
    sink = TableSink(plans.registry, resource, nothing)
    stream = Stream(
        nothing,
        source,
        sink,
        lifetime_seconds=0,
        read_timeout_seconds=0,
        page_size=0,
        backoff_seconds=0,
        backoff_limit_seconds=0,
        on_restart=nothing,
    )
    stream._event(json.dumps({"type": "MODIFIED", "object": LINES[resource]}).encode())
    assert plans.registry.dirty.take() == ("a", False)
    assert planned(plans, rules, "a") == []
    assert len(stream.misread()) == 1


def test_more_pods_than_a_plan_holds_are_counted() -> None:
    plans = planner(*(pod(f"p{number}", "a") for number in range(260)))
    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    draft = plans.draft(rules, "a", plans.registry.tables.pods_by_node["a"].values())
    assert len(draft.spec["pods"]) == 250
    assert draft.beyond_limit == 10


@pytest.mark.parametrize(("write_seconds", "expected"), [(0.01, 20), (2.0, 0.25)], ids=["quick", "2 s a call"])
def test_a_slow_server_gets_fewer_plans(write_seconds: float, expected: float) -> None:
    clock = Clock()
    bucket = TokenBucket(20, clock)
    while bucket.take():  # what it may give at once
        pass
    end, writes = clock.now + 60, 0
    while clock.now < end:
        if bucket.take():
            clock.now += write_seconds
            bucket.rest(write_seconds)
            writes += 1
        else:
            clock.now += max(0.001, bucket.wait_seconds())
    assert writes / 60 == pytest.approx(expected, rel=0.1)


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    clock = Clock()
    bucket = TokenBucket(20, clock)
    bucket.rest(10)
    assert not bucket.take()
    assert bucket.wait_seconds() == 10
    clock.now += 10
    assert bucket.take()


def test_the_token_bucket_gives_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(20, clock)
    assert sum(bucket.take() for _ in range(50)) == 20
    assert bucket.wait_seconds() == pytest.approx(0.05)
    clock.now += 1
    assert sum(bucket.take() for _ in range(50)) == 20
