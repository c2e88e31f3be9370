"""One thing that is refused or lost hinders no other: taint, plan, ledger, the policy's status."""

import pytest
from support.onenode import World

from memorypressure_operator.errors import ApiRefused

FORBIDDEN = ApiRefused(403, "Forbidden", "nodes is forbidden")


@pytest.fixture(autouse=True)
def _old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memorypressure_operator.telling.Teller._age_seconds", lambda *_: 0.0)


def test_a_taint_that_is_refused_keeps_no_pod_from_its_eviction_nor_a_killed_one_from_its_clean_up() -> None:
    world, tries = World(3, taint=True), []

    def before(method: str, path: str) -> None:
        if method == "PATCH" and path.startswith("/api/v1/nodes/"):
            tries.append(world.clock.now)
            raise FORBIDDEN

    world.cluster.before = before
    world.pressed = True
    world.kills("a")
    world.tells("a")
    world.run(3)
    assert world.cluster.evictions == ["a"], "the clean-up"
    world.gone("a")
    world.run(40)
    assert len(world.cluster.evictions) == 2, "the eviction that is due"
    assert 4 <= len(tries) <= 5, "it is tried again with pauses, not at every report"


def test_a_plan_that_is_refused_keeps_nobody_from_eviction() -> None:
    world = World()

    def before(method: str, path: str) -> None:
        if method == "PATCH" and "/nodememoryplans/" in path:
            raise ApiRefused(422, "Invalid", "spec.pods: Too many", causes=("FieldValueTooMany",))

    world.cluster.before = before
    world.cluster.add("d")  # the plan has to change
    world.pressed = True
    world.run(25)
    assert len(world.cluster.evictions) == 1
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "PlanRefused")
    world.cluster.before = lambda _method, _path: None
    world.run(5)
    assert world.condition("Ready")["status"] == "True"


def test_a_ledger_that_was_deleted_gives_no_eviction_anew_before_the_hour_is_over() -> None:
    world = World(evictionsPerHour=1)
    world.pressed = True
    world.run(25)
    (evicted,) = world.cluster.evictions
    world.gone(evicted)
    world.pressed = False
    world.run(130)
    del world.cluster.config_maps["memory-pressure-ledger-p"]
    world.run(20)
    assert (world.condition("BudgetAvailable")["status"], world.condition("BudgetAvailable")["reason"]) == (
        "False",
        "LedgerQuarantine",
    )
    world.pressed = True
    world.run(3600, step=5)
    assert world.cluster.evictions == [evicted]
    world.run(25 * 60, step=5)
    assert len(world.cluster.evictions) == 2, "after 82 minutes nothing of what was forgotten counts any more"
    assert world.condition("BudgetAvailable")["reason"] != "LedgerQuarantine"


def test_a_status_that_the_watch_shows_before_the_answer_comes_is_one_that_came_back() -> None:
    world, writes = World(), []

    def before(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("/status"):
            writes.append(path)
            world.clock.now += 1
            kind = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy"}
            world.registry.put_policy({**kind, **world.cluster.policies[0]}, watched=True)
            world.clock.now += 1

    world.health.policy_echo_due = None
    world.cluster.before = before
    world.pressed = True
    world.run(8)
    assert len(writes) == 1
    assert world.health.policy_echo_due is None
