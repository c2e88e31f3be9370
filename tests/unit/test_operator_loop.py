"""The decision loop: in which order nodes have their turn, and that no node takes the others'."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure_operator import settings as settings_module
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, LeaseLost
from memorypressure_operator.health import Health
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.reconcile import DecisionLoop
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import StateStatus, StateView
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView


@dataclass
class Leads:
    """A Lease that is always held."""

    term: int = 1

    def holds(self) -> bool:
        return True


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    cluster: FakeCluster = field(default_factory=FakeCluster)

    def __post_init__(self) -> None:
        self.registry = Registry(self.clock, 0.0)
        for name in SINKS:
            self.registry.mark_synced(name)
        api: Any = self.cluster
        leader: Any = Leads()
        events: Any = None
        self.metrics = Metrics()
        made = settings_module.parse({"namespace": "own"}, {})
        health = Health(self.clock, 60)
        self.loop = Recording(made, api, self.registry, leader, events, self.metrics, health, self.clock)

    def node(self, name: str, mode: str, labels: dict[str, str] | None = None) -> None:
        self.registry.put_node(name, NodeView(name, f"uid-{name}", labels or {}, (), ready=True))
        spec = {"nodeName": name, "mode": mode}
        self.registry.put_state(name, StateView(name, "s", 1, "1", f"uid-{name}", spec, StateStatus()))

    def pass_over(self) -> list[str]:
        self.loop.seen.clear()
        self.loop.once()
        return list(self.loop.seen)


class Recording(DecisionLoop):
    """Notes the order of its looks; `broken` nodes raise."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[str] = []
        self.broken: dict[str, Exception] = {}

    def _look(self, name: str, *, quick: bool = False) -> float | None:
        self.seen.append(name)
        if name in self.broken:
            raise self.broken[name]
        return super()._look(name, quick=quick) if name not in self._registry.tables.nodes else 300.0


def policy(mode: str, generation: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "uid": "u", "generation": generation, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "mode": mode,
            "nodeSelector": {"matchLabels": {"a": "b"}},
            "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
            "ladder": [{"action": "Taint", "triggers": ["low"]}],
        },
    }


@pytest.fixture
def world() -> World:
    return World()


def test_a_node_whose_pass_fails_does_not_take_the_turn_of_the_others(world: World) -> None:
    for name in ("a", "b", "c"):
        world.node(name, "Disabled")
    world.loop.broken["a"] = ValueError("poison")
    assert world.pass_over() == ["a", "b", "c"]
    world.clock.now += 10
    assert world.pass_over() == []
    world.clock.now += 11
    assert world.pass_over() == ["a"], "it is tried again"
    text = world.metrics.reconcile_errors.labels("Unexpected")
    assert text._value.get() == 2


def test_a_lease_that_is_lost_ends_the_pass_and_every_node_keeps_its_turn(world: World) -> None:
    for name in ("a", "b", "c"):
        world.node(name, "Disabled")
    world.loop.broken["b"] = LeaseLost("gone")
    with pytest.raises(LeaseLost):
        world.loop.once()
    world.loop.broken.clear()
    world.clock.now += 3
    assert world.pass_over() == ["c", "b"]


def test_nodes_that_may_do_less_than_before_come_first_whatever_moved_them(world: World) -> None:
    world.cluster.policies = [policy("DryRun")]
    for name, mode in (("up", "Disabled"), ("same", "DryRun"), ("down", "Enforce")):
        world.node(name, mode, {"a": "b"})
    assert world.pass_over()[0] == "down"
    for name in ("up", "same", "down"):
        labels = {"a": "b" if name != "same" else "c"}
        world.registry.put_node(name, NodeView(name, f"uid-{name}", labels, (), ready=name == "up"))
    world.node("later", "Enforce", {"a": "b"})
    world.clock.now += 1
    first = world.pass_over()
    assert set(first[:3]) == {"same", "down", "later"}, "relabelled, or still to be turned down"


def test_a_deleted_node_is_forgotten(world: World) -> None:
    world.node("a", "Disabled")
    world.pass_over()
    world.registry.remove_node("a")
    assert world.pass_over() == ["a"]
    assert len(world.registry.dirty) == 0


def moved(world: World) -> list[str]:
    return sorted(path.rsplit("/", 1)[1] for method, path in world.cluster.writes if method == "PATCH")


def test_many_moves_are_written_before_anything_else_is_done_about_their_nodes(world: World) -> None:
    world.cluster.policies = [policy("DryRun")]
    names = [f"n{number}" for number in range(8)]
    for name in names:
        world.node(name, "Enforce", {"a": "b"})
    world.node("elsewhere", "Disabled")
    seen: list[int] = []

    def before(method: str, path: str) -> None:
        if method == "PATCH":
            seen.append(len(world.loop.seen))

    world.cluster.before = before
    world.pass_over()
    assert moved(world) == names
    assert set(seen) == {0}
    states = world.registry.tables.states
    assert {states[name].spec["mode"] for name in names} == {"DryRun"}
    assert {states[name].spec["policyName"] for name in names} == {"p"}


def test_one_or_two_nodes_that_move_have_their_turn_before_all_others(world: World) -> None:
    world.cluster.policies = [policy("DryRun")]
    for number in range(100):
        world.node(f"n{number:03d}", "Disabled", {} if number < 98 else {"a": "b"})
    assert world.pass_over()[:2] == ["n098", "n099"]


def test_a_few_nodes_that_move_wait_for_none_of_the_many_that_stay(world: World) -> None:
    many, few = policy("DryRun"), policy("DryRun")
    few["metadata"] |= {"name": "few", "uid": "f"}
    few["spec"] |= {"priority": 1, "nodeSelector": {"matchLabels": {"few": "yes"}}}
    world.cluster.policies = [many, few]
    for number in range(300):
        name = f"n{number:03d}"
        world.node(name, "DryRun", {"a": "b", **({"few": "yes"} if number >= 270 else {})})
        state = world.registry.tables.states[name]
        spec = {**state.spec, "policyName": "p"}
        world.registry.put_state(name, StateView(name, "s", 2, "2", f"uid-{name}", spec, StateStatus()))
    world.pass_over()
    assert moved(world) == [f"n{number:03d}" for number in range(270, 300)], "all in the first pass"


def test_a_move_that_is_refused_is_left_to_the_nodes_own_pass(world: World) -> None:
    world.cluster.policies = [policy("DryRun")]
    for number in range(8):
        world.node(f"n{number}", "Enforce", {"a": "b"})

    def before(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("/n3"):
            raise ApiRefused(422, "Invalid", "no")

    world.cluster.before = before
    assert len(world.pass_over()) == 8
    assert moved(world) == [f"n{number}" for number in range(8) if number != 3]
    assert world.registry.tables.states["n3"].spec["mode"] == "Enforce"


def test_a_move_that_met_the_nodes_own_report_is_the_first_to_be_tried_again(world: World) -> None:
    world.cluster.policies = [policy("DryRun")]
    for number in range(300):
        world.node(f"n{number:03d}", "Disabled", {"a": "b"} if number > 290 else {})

    def before(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("/n295"):
            raise ApiRefused(409, "Conflict", "stale")

    world.cluster.before = before
    assert "n295" in world.pass_over()[:9]


def test_without_the_api_server_every_node_keeps_its_turn(world: World) -> None:
    world.cluster.policies = [policy("DryRun")]
    for number in range(8):
        world.node(f"n{number}", "Enforce", {"a": "b"})

    def before(method: str, path: str) -> None:
        if method == "PATCH":
            raise ApiUnreachable("away")

    world.cluster.before = before
    with pytest.raises(ApiUnreachable):
        world.loop.once()
    assert world.loop.seen == []
    world.cluster.before = lambda method, path: None
    world.clock.now += 3
    assert len(world.pass_over()) == 8
