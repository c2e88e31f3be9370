"""When a node's plan is thought over, when it is written, and how old what is not in it yet may be."""

import json
from collections import deque
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster
from support.onenode import World as OneNode

from memorypressure.protections import PROTECTED_KEY
from memorypressure_operator import settings as settings_module
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.health import Health
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.reconcile import DecisionLoop
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import decode_state
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView

PLANS_PER_SECOND = 20
RESYNC_SECONDS = 300


class Leads:
    term = 1

    def holds(self) -> bool:
        return True


class Tells:
    def tell(self, _: Any) -> bool:
        return True


class World:
    """The whole decision loop, nodes that one policy selects, and how often a plan was thought over."""

    def __init__(self) -> None:
        self.clock, self.cluster = Clock(), FakeCluster()
        self.registry = Registry(self.clock, 0.2)
        for name in SINKS:
            self.registry.mark_synced(name)
        self.metrics = Metrics()
        parts: Any = (self.cluster, Leads(), Tells())
        made = settings_module.parse({"namespace": "own"}, {})
        assert (made.plan_writes_per_second, made.resync_seconds) == (PLANS_PER_SECOND, RESYNC_SECONDS)
        self.health = Health(self.clock, 60, silence_seconds=200)
        self.loop = DecisionLoop(
            made, parts[0], self.registry, parts[1], parts[2], self.metrics, self.health, self.clock
        )
        self.edit(1)
        self.drafts: list[str] = []
        draft = self.loop._planner.draft

        def counted(policy: Any, node: str, *more: Any) -> Any:
            self.drafts.append(node)
            return draft(policy, node, *more)

        planner: Any = self.loop._planner
        self.loop._planner = Spied(planner, counted)  # type: ignore[assignment]

    def edit(self, generation: int) -> None:
        """Another version of the policy: every plan has to be written."""
        meta = {"name": "p", "uid": "u", "generation": generation, "creationTimestamp": "2026-01-01T00:00:00Z"}
        spec = {
            "mode": "DryRun",
            "nodeSelector": {},
            "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
            "ladder": [{"action": "Taint", "triggers": ["low"]}],
        }
        self.cluster.policies = [{"metadata": meta, "spec": spec}]
        self.loop.recheck_policies()

    def nodes(self, count: int, *, pressed: str = "") -> None:
        for number in range(count):
            name = f"n{number:03d}"
            self.registry.put_node(name, NodeView(name, f"uid-{name}", {}, (), ready=True))
            self.report(name, pressed=name == pressed)

    def report(self, name: str, *, pressed: bool, version: int = 1) -> None:
        owners = [{"kind": "Node", "uid": f"uid-{name}"}]
        meta = {"name": name, "uid": "s", "generation": 1, "resourceVersion": "0", "ownerReferences": owners}
        spec = {"nodeName": name, "mode": "DryRun", "policyName": "p"}
        body = self.cluster.states.setdefault(name, {"metadata": meta, "spec": spec})
        self.cluster.version += 1
        body["metadata"]["resourceVersion"] = str(self.cluster.version)
        triggers = [{"name": "low", "since": "2026-01-01T00:00:00Z"}] if pressed else []
        body["status"] = {"activeTriggers": triggers, "lastReportTime": f"t{version}"}
        self.registry.put_state(name, decode_state(json.dumps(body).encode()))

    def run(self, seconds: float, step: float = 0.05) -> None:
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            self.loop.once()
            self.clock.now += step

    def staleness(self) -> float:
        self.loop.once()
        found: float = self.metrics.plan_staleness._value.get()
        return found


class Spied:
    """The planner, whose drafts are counted."""

    def __init__(self, planner: Any, draft: Any) -> None:
        self._planner, self.draft = planner, draft

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)


@pytest.fixture
def world() -> World:
    return World()


def test_time_alone_has_a_plan_thought_over_once_in_an_hour_at_most(world: World) -> None:
    world.nodes(5)
    world.run(3)
    assert len(world.cluster.plans) == 5
    world.drafts.clear()
    for _ in range(6):
        world.run(0.2)
        world.clock.now += RESYNC_SECONDS - 1
    assert world.drafts == [], "looked at with every resync, thought over not"
    for _ in range(6):
        world.run(0.2)
        world.clock.now += RESYNC_SECONDS
    assert sorted(world.drafts) == sorted(world.cluster.plans), "what nobody told of is found within the hour"


def test_many_nodes_that_wait_for_their_plans_think_them_over_a_few_times_each(world: World) -> None:
    count = 300
    world.nodes(count)
    world.run(count / PLANS_PER_SECOND * 1.3)
    assert len(world.cluster.plans) == count, "none of the tokens is left unused"
    assert len(world.drafts) < 6 * count


def test_a_node_in_trouble_has_its_plan_before_hundreds_of_others(world: World) -> None:
    world.nodes(300, pressed="n299")
    world.run(1)
    world.edit(2)
    world.registry.put_policy(
        {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy", **world.cluster.policies[0]}
    )
    world.clock.now += 0.3
    world.report("n299", pressed=True, version=2)
    world.run(1)
    written = {name for name, plan in world.cluster.plans.items() if plan["spec"]["policy"]["generation"] == 2}
    assert "n299" in written
    assert len(written) < 60


def test_a_node_that_had_its_turn_between_a_policys_change_and_its_taking_up_has_another(world: World) -> None:
    world.nodes(5)
    world.run(3)
    world.edit(2)
    world.registry.put_policy(
        {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy", **world.cluster.policies[0]}
    )
    world.clock.now += 0.3
    while (taken := world.registry.dirty.take()) is not None:
        world.loop._take_turn(*taken)
    world.run(3)
    assert {plan["spec"]["policy"]["generation"] for plan in world.cluster.plans.values()} == {2}


def test_the_metric_tells_how_old_the_oldest_change_is_that_no_plan_shows(world: World) -> None:
    world.nodes(100)
    assert world.staleness() == 0
    world.clock.now += 2
    assert world.staleness() == pytest.approx(2, abs=0.3)
    world.run(8)
    assert len(world.cluster.plans) == 100
    assert world.staleness() == 0


def test_nothing_is_given_or_renewed_while_it_is_not_known_who_is_protected(world: World) -> None:
    rounds: list[float] = []
    world.loop.rounds.run = lambda _: rounds.append(world.clock.now)  # type: ignore[method-assign,assignment]
    world.nodes(1)
    world.health.heard["namespaces"] = world.clock.now
    world.run(300, step=1)
    assert max(rounds) == world.health.heard["namespaces"] + 200
    world.health.opened["namespaces"] = world.clock.now
    world.run(1, step=1)
    assert max(rounds) == world.clock.now - 1


def test_a_plan_that_the_api_server_refuses_is_told_until_it_is_written(world: World) -> None:
    world.nodes(2)

    def refuse(method: str, path: str) -> None:
        if method == "POST" and "/nodememoryplans" in path:
            raise ApiRefused(422, "Invalid", "spec.pods[0].workload: Too long", causes=("FieldValueTooLong",))

    world.cluster.before = refuse
    world.run(5)
    refused = {"n000": "spec.pods[0].workload: Too long", "n001": "spec.pods[0].workload: Too long"}
    assert world.loop._plans.refused({"n000", "n001", "n002"}) == refused
    world.cluster.before = lambda _method, _path: None
    world.run(5)
    assert world.loop._plans.refused({"n000", "n001"}) == {}
    assert len(world.cluster.plans) == 2


def test_of_nodes_that_come_and_go_nothing_is_kept(world: World) -> None:
    """An autoscaled cluster has thousands of them a day, and no policy of it may ever be enforced."""
    for number in range(30):
        world.nodes(1, pressed="n000" if number % 3 else "")
        world.run(0.5)
        world.registry.remove_node("n000")
        world.registry.remove_plan("n000")
        world.registry.remove_state("n000")
        world.cluster.plans.clear()
    world.run(2 * RESYNC_SECONDS, step=2)  # looks that were due go with their time
    holders: list[Any] = [world.registry, world.registry.tables, world.registry.slots, world.registry.dirty]
    holders += [world.loop, world.loop.rounds, world.loop._policies, world.loop._moves]
    assert {where for holder in holders for where in named(holder, "n000")} == set()


def named(holder: Any, node: str) -> list[str]:
    """The attributes in which a node's name is a key or an element, at any depth of plain containers."""

    def has(value: Any) -> bool:
        if isinstance(value, dict):
            return node in value or any(map(has, value.values()))
        if isinstance(value, (set, frozenset, list, tuple, deque)):
            return node in value or any(map(has, value))
        return False

    slots = [name for kind in type(holder).__mro__ for name in getattr(kind, "__slots__", ())]
    found = {name: getattr(holder, name) for name in [*slots, *getattr(holder, "__dict__", {})]}
    return [f"{type(holder).__name__}.{name}" for name, value in found.items() if has(value)]


def test_a_node_that_moves_by_its_label_waits_for_none_of_the_many_whose_plans_are_thought_over(world: World) -> None:
    world.nodes(300)
    few = json.loads(json.dumps(world.cluster.policies[0]))
    few["metadata"] |= {"name": "few", "uid": "f"}
    few["spec"] |= {"priority": 1, "nodeSelector": {"matchLabels": {"few": "yes"}}}
    world.cluster.policies.append(few)
    world.run(20)
    world.edit(2)
    world.cluster.policies.append(few)
    world.clock.now += 1
    world.loop.once()
    world.clock.now += 0.3
    for name in ("n298", "n299"):
        world.registry.put_node(name, NodeView(name, f"uid-{name}", {"few": "yes"}, (), ready=True))
        world.report("n000", pressed=False, version=int(world.clock.now * 100))
        world.clock.now += 0.01
        world.loop.once()
        assert world.cluster.states[name]["spec"]["policyName"] == "few"
    assert len(world.registry.dirty) > 100, "the others still wait"


def test_a_pod_that_changes_in_the_middle_of_its_nodes_turn_is_thought_over_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have been protected just now, and the turn have begun for another pod, with this one as it was."""
    world = OneNode()
    assert world.planned == ["a", "b", "c"]
    chose = world.loop._in_force.chose

    def protect(uid: str) -> None:
        world.cluster.pods[uid]["metadata"]["annotations"] = {PROTECTED_KEY: "true"}
        world.registry.put_pod(uid, world.cluster.view(uid))

    def chosen(*arguments: Any) -> None:
        protect("a")
        chose(*arguments)

    protect("b")
    with monkeypatch.context() as patch:
        patch.setattr(world.loop._in_force, "chose", chosen)
        world.loop.once()
    world.run(5)
    assert world.planned == ["c"]
