"""Evictions of a process that ended before it told of them."""

import pytest
from support.onenode import World

from memorypressure.reasons import Reason
from memorypressure_operator.events import Event
from memorypressure_operator.retelling import RETOLD_SECONDS


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


def test_where_the_pod_has_gone_meanwhile_its_node_is_told(evicted: World) -> None:
    before = told(evicted)
    evicted.gone("a")
    again = next_process(evicted)
    assert again.keys() == {"Node"}
    assert again["Node"].name == before["Node"].name
    assert "a pod of ns/ReplicaSet/web (a) is gone" in again["Node"].note


def test_nothing_is_told_of_a_pod_that_stays_nor_of_one_evicted_long_ago(evicted: World) -> None:
    del evicted.cluster.pods["a"]["metadata"]["deletionTimestamp"]
    assert next_process(evicted) == {}, "its eviction was recorded and never done"
    evicted.gone("a")
    evicted.run(2 * RETOLD_SECONDS, step=5)
    assert next_process(evicted) == {}
