"""After a kill: whose pod is evicted, how many may be, and which ledger has to count the kill."""

import pytest
from support.evictionworld import NODE, World

from memorypressure.reasons import Reason
from memorypressure_operator.cleanups import PATIENCE_SECONDS, After
from memorypressure_operator.errors import ApiRefused

FORBIDDEN = ApiRefused(403, "Forbidden", "the namespace is protected", 0, ())
DISRUPTION = ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))


@pytest.fixture
def world() -> World:
    return World()


def test_a_pod_is_evicted_after_its_kill_once_the_ledger_counts_the_kill(world: World) -> None:
    pod = world.cluster.add("a")
    world.reported(pod)
    assert world.clean_up() == 0.5
    assert world.cluster.evictions == []
    world.counted(1)
    world.clock.now += 0.5
    assert world.clean_up() is not None
    assert list(world.memory.cleanups) == ["a"], "until it is seen that it ends"
    assert world.clean_up() is None
    assert world.memory.cleanups == {}
    assert world.cluster.evictions == ["a"]
    assert world.reasons() == [Reason.EVICTED]
    assert (world.store.evictions.cleanups, world.store.evictions.evictions) == (1, 0)


def test_a_lying_node_has_no_more_pods_evicted_than_the_ledger_counts_as_killed(world: World) -> None:
    pods = [world.cluster.add(f"p{number}") for number in range(8)]
    world.counted(2)
    for _ in range(4):
        world.reported(*pods)
        world.clean_up()
        world.clock.now += 40
    assert len(world.cluster.evictions) == 2
    assert world.reasons().count(Reason.KILL_NOT_COUNTED) == 0, "it might be counted yet"
    world.clock.now += PATIENCE_SECONDS
    world.clean_up()
    assert len(world.cluster.evictions) == 2
    assert world.reasons().count(Reason.KILL_NOT_COUNTED) == 6
    assert world.memory.cleanups == {}


def test_a_node_that_lies_about_its_count_has_no_more_pods_evicted_than_an_hour_may_kill(world: World) -> None:
    world.most = 3
    world.reported(*(world.cluster.add(f"p{number}") for number in range(8)))
    world.counted(1000)
    world.clean_up()
    assert len(world.cluster.evictions) == 3


def test_the_bound_of_clean_ups_holds_across_a_restart(world: World) -> None:
    world.counted(1)
    world.reported(world.cluster.add("a"))
    world.clean_up()
    after = World(clock=world.clock, cluster=world.cluster, most=6)
    after.reported(after.cluster.add("b"))
    assert after.clean_up() == 0.5
    assert world.cluster.evictions == ["a"]


def test_a_clean_up_refused_by_a_budget_is_tried_again_and_counts_once(world: World) -> None:
    world.counted(1)
    world.cluster.answers["a"] = [DISRUPTION, DISRUPTION, None]
    world.reported(world.cluster.add("a"))
    for _ in range(4):
        world.clean_up()
        world.clock.now += 10
    assert world.cluster.evictions == ["a", "a", "a"]
    assert world.cluster.deletes == [], "never a plain delete"
    assert world.store.evictions.cleanups == 1
    assert world.memory.cleanups == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"deletionTimestamp": "2026-01-01T01:00:00Z"}, None),
        ({"uid": "another"}, None),
    ],
    ids=["ending already", "made anew"],
)
def test_a_killed_pod_is_read_again_right_before_its_eviction(
    world: World, changes: dict[str, str], reason: Reason | None
) -> None:
    world.counted(1)
    world.reported(world.cluster.add("a"))
    views = world.cluster.views()
    world.cluster.pods["a"]["metadata"] |= changes
    world.cleaner.run(world.memory, After(NODE, views, 7, [(world.store, 6)], lambda _: None))
    assert world.cluster.evictions == []
    assert world.memory.cleanups == {}


def test_an_eviction_that_stays_forbidden_is_not_tried_for_ever(world: World) -> None:
    world.counted(1)
    world.cluster.answers["a"] = [FORBIDDEN, FORBIDDEN]
    world.reported(world.cluster.add("a"))
    assert world.clean_up() == 10
    assert world.reasons() == [], "the right may come back"
    world.clock.now += PATIENCE_SECONDS
    assert world.clean_up() is None
    assert world.reasons() == [Reason.ACTION_FAILED]
    assert world.memory.cleanups == {}


def test_a_protected_pod_stays_and_why_is_told(world: World) -> None:
    world.counted(1)
    world.protected["a"] = (Reason.ANNOTATED, "it says so")
    world.reported(world.cluster.add("a"))
    assert world.clean_up() is None
    assert world.cluster.evictions == []
    assert world.reasons() == [Reason.ANNOTATED]


def test_without_the_lease_nothing_is_cleaned_up(world: World) -> None:
    world.counted(1)
    world.reported(world.cluster.add("a"))
    world.leads = False
    assert world.clean_up() == 1.0
    assert world.cluster.writes == [("POST", "/api/v1/namespaces/own/configmaps")]


def test_a_kill_that_another_policys_ledger_counts_is_cleaned_up_by_that_ledger(world: World) -> None:
    world.others = ("former",)
    world.reported(world.cluster.add("a"), world.cluster.add("b"))
    world.counted(1, "former")
    world.clean_up()
    assert world.cluster.evictions == ["a"]
    assert world.budgets.store("former").evictions.cleanups == 1
    world.clock.now += 1
    world.clean_up()
    assert world.cluster.evictions == ["a"], "each kill counts once, whichever ledger has it"
    world.counted(1)
    world.clock.now += 1
    world.clean_up()
    assert world.cluster.evictions == ["a", "b"]
    assert world.store.evictions.cleanups == 1


def test_a_ledger_that_is_not_read_may_count_the_kill_so_nothing_is_given_up(world: World) -> None:
    world.others = ("former",)
    world.reported(world.cluster.add("a"))
    world.clean_up()
    world.clock.now += 2 * PATIENCE_SECONDS
    assert world.clean_up() == 10.0
    assert list(world.memory.cleanups) == ["a"]


def test_when_nothing_is_enforced_any_more_killed_pods_stay_and_are_forgotten(world: World) -> None:
    world.counted(2)
    world.reported(world.cluster.add("a"), world.cluster.add("b", deletionTimestamp="2026-01-01T01:00:00Z"))
    world.cleaner.give_up(world.memory, NODE, world.cluster.views())
    assert world.memory.cleanups == {}, "or a pod that has run again for an hour would be evicted later"
    assert world.cluster.evictions == []
    assert [(event.reason, event.regarding.name) for event in world.events] == [(Reason.MODE_NOT_ENFORCE, "a")]
