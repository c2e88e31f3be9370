"""Plans are deterministic; orders are read whole or not at all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.podfacts import Pod

from memorypressure import orders as orders_module
from memorypressure.grants import Grant
from memorypressure.orders import Orders, OrdersError, decode, encode, grant_from, grant_json, orders_from
from memorypressure.plans import PlanResult, build_plan, candidate_nodes, empty_plan
from memorypressure.protections import OwnPods, PodFacts, Surroundings
from memorypressure.reasons import Reason
from memorypressure.spec import Mode, Policy, Share, ladder_from, limits_from, parse_policy, triggers_from, victims_from
from memorypressure.spec_json import ladder_json, limits_json, triggers_json, victims_json
from memorypressure.victims import MAX_PODS

SAMPLES = sorted((Path(__file__).parents[2] / "crds" / "samples").glob("*.yaml"))
INCARNATION = "0" * 32 + ".1"
GRANT = Grant(INCARNATION, 7, 3, "plan-uid", 4)
OWN = OwnPods("memory-pressure")


def policy_of(path: Path) -> Policy:
    return replace(parse_policy(yaml.safe_load(path.read_text())), generation=3)


def default_policy() -> Policy:
    return policy_of(next(path for path in SAMPLES if path.stem == "default"))


def around(pod: PodFacts) -> Surroundings:
    return Surroundings({}, 5, allows_disruption=True)


def planned(pods: list[Pod], limited: frozenset[str] = frozenset()) -> PlanResult:
    return build_plan(default_policy(), "n1", pods, around, OWN, limited)


def some_orders(**changes: Any) -> Orders:
    plan = planned([Pod("u1"), Pod("u2", owner="StatefulSet/db"), Pod("own")]).plan
    state = {"nodeName": "n1", "policyName": "default", "mode": "Enforce", "grant": grant_json(GRANT)}
    made = orders_from(plan.to_json(), "plan-uid", 4, state, "own")
    assert made is not None
    return replace(made, **changes)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_parts_of_a_policy_come_back_from_their_json(path: Path) -> None:
    policy = policy_of(path)
    assert triggers_from(json.loads(json.dumps(triggers_json(policy.triggers)))) == policy.triggers
    assert ladder_from(json.loads(json.dumps(ladder_json(policy.ladder)))) == policy.ladder
    assert victims_from(json.loads(json.dumps(victims_json(policy.victims)))) == policy.victims
    assert limits_from(json.loads(json.dumps(limits_json(policy.limits)))) == policy.limits


def test_selectors_and_shares_as_numbers_come_back_too() -> None:
    value = {
        "podSelector": {
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "k", "operator": "In", "values": ["z", "y"]},
                {"key": "k", "operator": "Exists"},
            ],
        }
    }
    rules = victims_from(value)
    assert victims_from(victims_json(rules)) == rules
    limits = limits_from({"maxStandingKills": 0, "maxConcurrentNodes": 3})
    assert limits_from(limits_json(limits)) == limits


def test_the_plan_holds_every_eligible_pod_of_the_node_and_says_why_others_are_not_on_it() -> None:
    result = planned([Pod("u1"), Pod("u2", annotated=True), Pod("u3", node="n2"), Pod("u4", create_time="yesterday")])
    assert [pod.uid for pod in result.plan.pods] == ["u1"]
    assert [(each.uid, each.reason) for each in result.excluded] == [
        ("u2", Reason.ANNOTATED),
        ("u4", Reason.NOT_UNDERSTOOD),
    ]
    entry = result.plan.to_json()["pods"][0]
    assert entry == {
        "uid": "u1",
        "namespace": "shop",
        "name": "web-1",
        "priority": 0,
        "qosClass": "Burstable",
        "requestBytes": 1000,
        "createTime": "2026-01-02T03:04:05Z",
        "workload": "Deployment/web",
    }


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 50)), max_size=20), st.randoms(use_true_random=False))
def test_the_same_pods_in_any_order_make_the_same_plan(figures: list[tuple[int, int]], random: Random) -> None:
    pods = [
        Pod(f"u{index}", priority=priority, create_time=f"2026-01-02T03:04:{second:02}Z")
        for index, (priority, second) in enumerate(figures)
    ]
    result = planned(pods)
    random.shuffle(pods)
    assert planned(pods) == result


def test_a_plan_holds_250_pods_and_leaves_out_the_most_important() -> None:
    result = planned([Pod(f"u{index:03}", priority=index) for index in range(MAX_PODS + 5)])
    assert len(result.plan.pods) == MAX_PODS
    assert max(pod.priority for pod in result.plan.pods) == MAX_PODS - 1
    assert {each.reason for each in result.excluded} == {Reason.PLAN_LIMIT}


def test_a_workload_at_its_limit_elsewhere_has_no_candidates_here() -> None:
    result = planned([Pod("u1"), Pod("u2", owner="Deployment/other")], frozenset({"shop/Deployment/web"}))
    assert [pod.uid for pod in result.plan.pods] == ["u2"]
    assert result.excluded[0].reason is Reason.WORKLOAD_LIMIT


def test_the_workloads_share_goes_to_nodes_in_trouble_then_stays_where_it_is() -> None:
    pods = {f"n{index}": 2 for index in range(10)}
    calm = candidate_nodes(Share(percent=10), pods, frozenset({"n7", "n8"}), lambda node: 1.0)
    assert calm == {"n7", "n8"}
    assert candidate_nodes(Share(percent=10), pods, calm, lambda node: 0.0 if node == "n3" else 1.0) == {"n3", "n7"}
    assert candidate_nodes(Share(percent=1), {"n1": 1, "n2": 1}, frozenset(), lambda node: 1.0) == {"n1"}


def test_a_node_without_a_policy_has_no_orders() -> None:
    state = {"nodeName": "n1", "mode": "Disabled"}
    assert orders_from(empty_plan("n1"), "plan-uid", 1, state, "own") is None


def test_orders_come_back_from_the_file_and_leave_out_the_agent() -> None:
    orders = some_orders()
    assert [pod.uid for pod in orders.pods] == ["u1", "u2"]
    assert decode(encode(orders)) == orders
    assert decode(encode(replace(orders, grant=None))).grant is None
    assert orders.leave.grant_seconds == 900


def test_plan_and_state_must_be_of_one_node_and_policy() -> None:
    plan = planned([]).plan.to_json()
    with pytest.raises(OrdersError, match=r"plan\.spec\.nodeName"):
        orders_from(plan, "p", 1, {"nodeName": "n2", "policyName": "default", "mode": "DryRun"}, "")
    with pytest.raises(OrdersError, match=r"plan\.spec\.policy\.name"):
        orders_from(plan, "p", 1, {"nodeName": "n1", "policyName": "other", "mode": "DryRun"}, "")


@given(st.integers(0, 5000))
def test_half_written_orders_are_refused(length: int) -> None:
    data = encode(some_orders())
    if length >= len(data) - 1:
        return
    with pytest.raises(OrdersError, match="not whole JSON"):
        decode(data[:length])


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            document = document[part]  # type: ignore[index]
        if value is ...:
            del document[last]  # type: ignore[arg-type]
        else:
            document[last] = value  # type: ignore[index]

    return apply


BAD = [
    ("version", 2, "version"),
    ("version", "1", "version"),
    ("version", ..., "version"),
    ("surprise", 1, "surprise"),
    ("mode", "enforce", "mode"),
    ("mode", ..., "mode"),
    ("nodeName", "", "nodeName"),
    ("plan.uid", 7, "plan.uid"),
    ("plan.generation", 0, "plan.generation"),
    ("plan.generation", True, "plan.generation"),
    ("plan.more", 1, "plan.more"),
    ("policy.name", None, "policy.name"),
    ("triggers", [], "triggers"),
    ("triggers.0.zoneWatermark.line", "Middle", "triggers[0].zoneWatermark.line"),
    ("ladder.0.triggers.0", "nobody", "ladder[0].triggers"),
    ("victims.maxPriority", 2_000_000_000, "victims.maxPriority"),
    ("limits.grantSeconds", 10_000, "limits.grantSeconds"),
    ("limits.cooldownSeconds", 0, "limits.cooldownSeconds"),
    ("pods", {}, "pods"),
    ("pods.0.uid", "../../x", "pods[0].uid"),
    ("pods.0.uid", "own", "pods"),
    ("pods.1.uid", "u1", "pods"),
    ("pods.0.priority", 2_000_000_000, "pods[0].priority"),
    ("pods.0.requestBytes", -1, "pods[0].requestBytes"),
    ("pods.0.requestBytes", 1.5, "pods[0].requestBytes"),
    ("pods.0.createTime", "2026-01-02", "pods[0].createTime"),
    ("pods.0.qosClass", "Silver", "pods[0].qosClass"),
    ("pods.0.more", 1, "pods[0].more"),
    ("grant.killsCeiling", -1, "grant.killsCeiling"),
    ("grant.killsCeiling", "9", "grant.killsCeiling"),
    ("grant.beat", ..., "grant.beat"),
    ("grant", [], "grant"),
    ("grant", ..., "grant"),
    ("ownPodUID", None, "ownPodUID"),
]


@pytest.mark.parametrize(("path", "value", "named"), BAD, ids=[f"{path}={value}" for path, value, _ in BAD])
def test_orders_that_are_not_understood_name_the_field_and_nothing_is_applied(
    path: str, value: object, named: str
) -> None:
    document = json.loads(encode(some_orders()))
    change(path, value)(document)
    with pytest.raises(OrdersError) as refusal:
        decode(json.dumps(document).encode())
    assert refusal.value.path == named
    assert str(refusal.value).startswith(f"{named}: ")


RAW = [
    b"",
    b"null",
    b"[]",
    b'{"version":1,"version":1}',
    b"\xff",
    b"[" * 100_000,
    b'{"version": NaN}',
    b" " * (1 << 21),
]


@pytest.mark.parametrize("data", RAW, ids=lambda data: repr(data[:12]))
def test_anything_else_is_no_orders(data: bytes) -> None:
    with pytest.raises(OrdersError):
        decode(data)


def test_too_many_pods_are_refused() -> None:
    document = json.loads(encode(some_orders()))
    document["pods"] = [{**document["pods"][0], "uid": f"u{index}"} for index in range(MAX_PODS + 1)]
    with pytest.raises(OrdersError, match="at most 250"):
        decode(json.dumps(document).encode())


def test_a_grant_comes_back_from_the_states_json() -> None:
    assert grant_from(grant_json(GRANT)) == GRANT
    assert orders_module.VERSION == 1
    assert some_orders().mode is Mode.ENFORCE
