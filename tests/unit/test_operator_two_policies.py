"""A node between two policies: each ledger bounds what its own policy gave, and neither leaves the node unarmed."""

from collections.abc import Callable

import pytest
from support.twopolicies import NODE, Leader, World, policy, wild_run

from memorypressure.reasons import Reason
from memorypressure_operator.budget import POLL_SECONDS


def passes(world: World, leader: Leader, count: int = 6, seconds: float = 1.0) -> list[int | None]:
    """The ceilings that the state shows meanwhile; the newest agent answers each of them."""
    before = len(world.states)
    for _ in range(count):
        world.clock.now += seconds
        leader.run()
        world.agents[-1].in_touch()
    shown = (state.spec.get("grant") or {} for state in world.states[before:] if state is not None)
    return [grant.get("killsCeiling") for grant in shown]


def armed() -> tuple[World, Leader]:
    """Policy `a` has given its one kill to the node."""
    world = World()
    leader = Leader(world)
    world.agents[-1].in_touch()
    passes(world, leader)
    assert world.grant()["killsCeiling"] == 1
    return world, leader


def moved() -> tuple[World, Leader]:
    """As `armed`, and then policy `b` is in force, and the agent another one that knows nothing of that kill."""
    world, leader = armed()
    world.policies = {"b": policy("b")}
    world.replace_journal().report()
    passes(world, leader)
    return world, leader


def spent(world: World, name: str) -> int:
    held = world.ledger(name)
    return held.spent + held.standing


def test_a_new_agent_is_armed_by_the_new_policy_while_the_former_ledger_counts_what_the_old_one_had_left() -> None:
    world, leader = moved()
    assert (world.grant()["incarnation"], world.grant()["killsCeiling"]) == ("i2", 1)
    assert (spent(world, "a"), spent(world, "b")) == (1, 1)
    world.agents[0].kill(), world.agents[1].kill()
    assert len(world.kills) == 2, "the old one's orders say that it may, and its ledger counts it"
    passes(world, leader, 40, 10)
    assert (spent(world, "a"), spent(world, "b")) == (1, 1)
    assert [entry.incarnation for entry in world.ledger("a").entries] == []


def _restarts(world: World, _: Leader) -> Leader:
    return Leader(world)


def _reads_again(world: World, leader: Leader) -> Leader:
    held = world.cluster.config_maps["ledger-a"]
    world.cluster.request("PUT", "/configmaps/ledger-a", body=held)
    world.clock.now += POLL_SECONDS
    return leader


def _fails_to_write(world: World, leader: Leader) -> Leader:
    store = leader.budgets.store("b")
    assert store.desk is not None
    leader.fate = lambda: "lost"
    leader.budgets.write(store, store.desk.ledger, store.evictions)
    leader.fate = lambda: ""
    assert store.desk is None
    return leader


@pytest.mark.parametrize("happens", [_restarts, _reads_again, _fails_to_write])
def test_its_grant_stays_while_the_operator(happens: Callable[[World, Leader], Leader]) -> None:
    world, before = moved()
    leader = happens(world, before)
    assert set(passes(world, leader, 45, 30)) == {1}
    assert [entry.incarnation for entry in world.ledger("a").entries] == [], "it was closed by what came after"
    assert spent(world, "a") == 1


@pytest.mark.parametrize("mode", ["Enforce", "DryRun"])
def test_what_is_lost_leaves_its_ledger_also_where_nothing_is_granted_any_more(mode: str) -> None:
    world, leader = armed()
    world.policies = {"b": policy("b", mode=mode)} if mode == "DryRun" else {}
    world.replace_journal().report()
    passes(world, leader)
    assert not world.grant()
    passes(world, Leader(world), 60, 20)
    assert world.ledger("a").entries == ()
    assert spent(world, "a") == 1


def test_an_old_agent_that_reports_again_is_not_armed_by_the_new_policy_until_it_has_given_back() -> None:
    world, leader = moved()
    old = world.agents[0]
    old.report()
    world.clock.now += 1
    leader.run()
    assert not world.grant().get("killsCeiling"), "what it holds is the former ledger's"
    assert leader.rounds.results["b"].waiting[NODE] == (
        Reason.NO_GRANT,
        "the ledger of policy a still counts an allowance that it may use",
    )
    assert old.kill()
    for _ in range(5):
        world.clock.now += 1
        leader.run()
        old.in_touch()
    assert not old.kill()
    assert world.agents[1].kill(), "nobody has told it"
    for name in "ab":
        assert world.most_in_an_hour(name) == 1
    passes(world, leader)
    assert not world.agents[1].kill()


def test_a_node_waits_for_the_end_of_a_shorter_allowance_before_a_plan_lets_grants_hold_longer_and_it_is_said() -> None:
    world, leader = armed()
    world.policies = {"b": policy("b", grant_seconds=900)}
    world.replace_journal().report()
    passes(world, leader)
    assert not world.grant().get("killsCeiling")
    reason, why = leader.rounds.results["b"].waiting[NODE]
    assert reason is Reason.NO_GRANT
    assert why == "its plan has a longer grantSeconds than an allowance that the ledger of policy a still counts"
    passes(world, leader, 25, 10)
    assert world.grant()["killsCeiling"] == 1
    assert leader.rounds.results["b"].waiting == {}


def test_no_hour_sees_more_kills_of_a_policy_than_its_ledger_bounds_in_wild_runs() -> None:
    runs = [wild_run(seed, steps=300) for seed in range(60)]
    assert all(run.most_in_an_hour(each) <= 1 for run in runs for each in "ab")
    assert sum(len(run.kills) for run in runs) > 40, "the runs must get as far as kills, or they show nothing"


@pytest.mark.soak
def test_no_hour_sees_more_kills_of_a_policy_than_its_ledger_bounds_in_many_wild_runs() -> None:
    runs = (wild_run(seed, steps=600) for seed in range(1000, 5000))
    assert all(run.most_in_an_hour(each) <= 1 for run in runs for each in "ab")
