"""A policy that was deleted and made anew under its name counts its generations from 1 again."""

from typing import Any

import pytest
from support.onenode import NODE, World, policy


def replaced(world: World, **rules: Any) -> None:
    """Another policy of the same name and generation; kopf's watch tells of it."""
    world.cluster.policies = [policy(1, cooldownSeconds=10)]
    world.cluster.policies[0]["metadata"]["uid"] = "v"
    world.cluster.policies[0]["spec"]["victims"] = rules
    world.loop.recheck_policies()


def generation(world: World) -> int:
    found: int = world.cluster.plans[NODE]["metadata"]["generation"]
    return found


@pytest.mark.parametrize("again", [False, True], ids=["the plan waits", "the plan is written"])
def test_no_kill_is_granted_by_the_plan_of_a_policy_that_is_gone(again: bool) -> None:
    world = World()
    assert (world.ceiling, world.planned) == (1, ["a", "b", "c"])
    world.kills("a")
    world.tells("a")
    before = generation(world)
    if not again:
        world.loop._plans._bucket.rest(1000)
    replaced(world, maxPriority=5)
    world.gone("a")
    world.run(80, step=1)
    assert (world.ceiling > 1, generation(world) > before) == (again, again)
