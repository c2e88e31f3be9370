"""Evictions of a process that ended before it told of them."""

from typing import Any

import pytest
from support.fakecluster import Clock
from support.onenode import World

from memorypressure.reasons import Reason
from memorypressure_operator.events import Event
from memorypressure_operator.evictions import EvictionLog
from memorypressure_operator.registry import Registry
from memorypressure_operator.retelling import RETOLD_SECONDS, retell
from memorypressure_operator.views import NodeView


@pytest.fixture
def evicted() -> World:
    """A node from which a pod was just evicted, and whose pressure has ended with it."""
    world = World()
    world.pressed = True
    world.run(25)
    assert world.cluster.evictions == ["a"]
    world.pressed = False
    return world


def told(world: World) -> dict[str, Event]:
    return {event.regarding.kind: event for event in world.events if event.reason == Reason.EVICTED}


def next_process(world: World, seconds: float = 3) -> dict[str, Event]:
    """What it tells of evictions."""
    world.events.clear()
    world.loop = world.operator()
    world.run(seconds)
    return told(world)


def test_the_next_operator_tells_of_it_by_the_same_names(evicted: World) -> None:
    before, again = told(evicted), next_process(evicted)
    assert before.keys() == again.keys() == {"Pod", "Node"}
    for kind, event in again.items():
        assert event.name == before[kind].name, "so whichever comes second is refused"
        assert "ns/a is ending: its eviction from node n for memory pressure was recorded" in event.note
    assert next_process(evicted).keys() == {"Pod", "Node"}


def test_where_the_pod_has_gone_meanwhile_it_is_told_by_the_same_names(evicted: World) -> None:
    before = told(evicted)
    evicted.gone("a")
    again = next_process(evicted)
    assert again.keys() == {"Pod", "Node"}
    for kind, event in again.items():
        assert (event.name, event.regarding) == (before[kind].name, before[kind].regarding)
        assert "pod ns/a is gone: its eviction from node n for memory pressure was recorded" in event.note


def test_of_a_pod_whose_name_is_not_on_record_the_node_is_told() -> None:
    """The record is of an earlier version, or the name of the workload is kept as a digest."""
    told, registry = [], Registry(Clock(), 0.0)
    registry.put_node("n", NodeView("n", "uid-n", {}, (), ready=True))
    writer: Any = type("", (), {"tell": lambda _, event: told.append(event)})()
    log = EvictionLog().with_record("n", "ns/Job/x", "u").with_record("n", "ns/Job/" + "y" * 500, "v", name="y-1")
    retell(log, registry, writer)
    assert [(event.regarding.kind, event.related) for event in told] == [("Node", None)] * 2
    assert "a pod of ns/Job/x (u) is gone" in told[0].note


def test_nothing_is_told_of_a_pod_that_stays_nor_of_one_evicted_long_ago(evicted: World) -> None:
    del evicted.cluster.pods["a"]["metadata"]["deletionTimestamp"]
    assert next_process(evicted) == {}, "its eviction was recorded and never done"
    evicted.gone("a")
    evicted.run(2 * RETOLD_SECONDS, step=5)
    assert next_process(evicted) == {}
