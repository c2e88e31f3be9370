"""A node's own kill that is not over: nobody else is taken there, no further kill is granted, its pod is on no plan."""

from typing import Any

import pytest
from support.onenode import World

from memorypressure.reasons import Reason
from memorypressure_operator import kills
from memorypressure_operator.errors import ApiRefused


@pytest.fixture(autouse=True)
def _old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memorypressure_operator.telling.Teller._age_seconds", lambda *_: 0.0)


@pytest.fixture
def world() -> World:
    return World()


def test_a_node_that_tells_of_no_kill_has_one_granted(world: World) -> None:
    assert world.ceiling == 1
    assert world.planned == ["a", "b", "c"]


def test_no_further_kill_is_granted_before_the_killed_pod_has_gone(world: World) -> None:
    world.pressed = True
    world.kills("a")
    world.run(3)
    assert world.ceiling == 1, "it has told only that it killed"
    world.tells("a")
    world.run(10)
    assert world.cluster.evictions == ["a"], "lest it starts in place"
    assert world.ceiling == 1, "its containers are ending"
    world.gone("a")
    world.run(3)
    assert world.ceiling == 2


def test_a_report_that_comes_between_a_look_at_its_node_and_the_round_of_grants_raises_nothing(world: World) -> None:
    world.pressed = True
    world.run(2)
    run = world.loop.rounds.run

    def late(policies: Any) -> None:
        world.kills("a")
        run(policies)

    world.loop.rounds.run = late  # type: ignore[method-assign]
    world.report()
    world.clock.now += 1
    world.loop.once()
    assert (world.kills_total, world.ceiling) == (1, 1)


def test_a_kill_that_was_told_while_no_operator_ran_is_waited_for_as_well(world: World) -> None:
    world.pressed = True
    world.kills_total += 1
    world.tells("a")
    world.loop.memories.clear()
    world.run(5)
    assert world.cluster.evictions == ["a"]
    assert world.ceiling == 1
    world.gone("a")
    world.run(3)
    assert world.ceiling == 2


def test_a_killed_pod_that_does_not_go_leaves_its_node_without_a_grant_for_a_minute_only(world: World) -> None:
    world.kills("a")
    world.tells("a")
    world.run(kills.GRANT_WAITS_SECONDS - 5)
    assert world.ceiling == 1
    world.run(10)
    assert world.ceiling == 2
    assert world.planned == ["b", "c"], "what is ending is on no plan"


def test_a_killed_pod_is_on_no_plan_from_the_report_of_its_kill_on(world: World) -> None:
    world.cluster.answers["a"] = [no()] * 99
    world.kills("a")
    world.tells("a")
    world.run(1)
    assert world.planned == ["b", "c"]
    world.run(kills.GRANT_WAITS_SECONDS)
    assert world.ceiling == 2
    assert world.planned == ["b", "c"], "its budget keeps it, and it is to go first"


def test_a_killed_pod_that_is_to_stay_is_waited_for_no_longer(world: World) -> None:
    world.cluster.pods["a"]["metadata"]["annotations"] = {"memorypressure.dev/protected": "true"}
    world.kills("a")
    world.tells("a")
    world.run(3)
    assert world.cluster.evictions == []
    assert world.ceiling == 2


def test_nobody_is_evicted_while_the_nodes_own_kill_is_not_over() -> None:
    world = World(victims=2)
    world.cluster.answers["a"] = [no()] * 99
    world.pressed = True
    world.run(19)
    world.kills("a")
    world.run(12)
    world.tells("a")
    world.run(kills.EVICTION_WAITS_SECONDS - 2)
    assert set(world.cluster.evictions) == {"a"}
    assert Reason.WAITING_FOR_VICTIM in world.reasons
    world.run(5)
    assert set(world.cluster.evictions) == {"a", "b"}, "its wait has an end"


def test_a_kill_under_way_when_an_operator_begins_is_known_by_what_the_node_says() -> None:
    world = World(victims=2)
    world.pressed = True
    world.run(19)
    world.waits = True
    world.kills("a")
    world.loop.memories.clear()
    world.run(kills.EVICTION_WAITS_SECONDS - 2)
    assert world.cluster.evictions == []
    world.waits = False
    world.run(5)
    assert world.cluster.evictions, "its wait has an end"


def no() -> Exception:
    return ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))
