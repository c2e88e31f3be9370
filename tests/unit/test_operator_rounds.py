"""Over which nodes a round of grants goes: over all when something general moved, else over those that it concerns."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure.desk import Seen, opened
from memorypressure.ledger import Entry, Ledger
from memorypressure.reasons import Reason
from memorypressure.selection import select
from memorypressure.spec import Limits, Policy, Share, parse_policy
from memorypressure_operator import rounds as rounds_module
from memorypressure_operator import settings as settings_module
from memorypressure_operator.api import Answer
from memorypressure_operator.budget import Budgets
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, LeaseLost
from memorypressure_operator.granting import Result
from memorypressure_operator.holdings import Holdings
from memorypressure_operator.inforce import InForce
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, ReportedLease, StateStatus, StateView
from memorypressure_operator.rounds import Rounds
from memorypressure_operator.tables import PolicyEntry
from memorypressure_operator.views import NodeView

NODES = [f"n{number:02d}" for number in range(40)]
WAITING = dict.fromkeys(NODES[10:], (Reason.STANDING_LIMIT, "all are out"))


def policy(generation: int = 1) -> Policy:
    return parse_policy(
        {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "p", "generation": generation},
            "spec": {
                "mode": "Enforce",
                "nodeSelector": {},
                "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}}],
                "ladder": [{"action": "Kill", "triggers": ["low"], "afterSeconds": 0}],
            },
        }
    )


class Granting:
    """Notes for which nodes it was asked; the first ten (`held`) hold allowances, the others wait."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.limits: list[Limits] = []
        self.held_elsewhere: set[str] = set()
        self.newest: set[str] = set()
        self.pressed = ""
        self.ended = True
        self.again = False
        self.held = 10
        self.error: Exception | None = None

    def round(self, store: Any, limits: Any, _policy: Any, facts: dict[str, Any], *_: Any) -> Result:
        if self.error is not None:
            raise self.error
        self.asked.append(set(facts))
        self.limits.append(limits)
        self.held_elsewhere = {name for name, each in facts.items() if each.held_elsewhere}
        self.newest = {name for name, each in facts.items() if each.plan_newest}
        entries = tuple(Entry(name, f"i-{name}", 1, 0, 1, 900) for name in NODES[: self.held])
        store.desk = _desk(store.desk, entries)
        order = sorted(WAITING, key=lambda name: name != self.pressed)
        waiting = {name: WAITING[name] for name in order if name in facts}
        return Result(armed=10 if self.ended else None, again=self.again, waiting=waiting)


def _desk(desk: Any, entries: tuple[Entry, ...]) -> Any:
    return replace(
        desk, ledger=replace(desk.ledger, entries=entries), seen={each.incarnation: Seen(1, 0) for each in entries}
    )


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = Registry(self.clock, 0.0)
        self.cluster = FakeCluster()
        api: Any = self.cluster
        self.budgets = Budgets(api, "own", "ledger", self.clock, lambda: None)
        self.granting = Granting()
        self.policy = policy()
        self.policies: dict[str, Policy] = {}
        self.memories: dict[str, NodeMemory] = {}
        for name in NODES:
            self.registry.put_node(name, NodeView(name, f"uid-{name}", {}, (), ready=True))
            self.registry.put_state(name, StateView(name, "s", 1, "1", f"uid-{name}", {}, StateStatus()))
            self.memories[name] = NodeMemory(selection=select([self.policy], {}))
        granting: Any = self.granting
        settings = settings_module.parse({"namespace": "own"}, {})
        self.holdings = Holdings(self.budgets, self.registry, self.clock)
        self.in_force = InForce(self.registry, self.memories)
        self.rounds = Rounds(
            granting, self.budgets, self.holdings, self.in_force, self.registry, self.memories, self.clock, settings
        )

    def run(self, *touched: str) -> set[str]:
        """The nodes of the next round, after these were looked at."""
        self.clock.now += 1
        for name in touched:
            self.rounds.touch("p", name)
        self.rounds.run(self.policies or {"p": self.policy})
        return self.granting.asked[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(rounds_module, "WHOLE_SHARE", 1e-9)  # whole rounds as rare as they may be
    return World()


def test_the_first_round_is_over_all(world: World) -> None:
    assert world.run() == set(NODES)


def test_the_next_is_over_those_that_moved_those_of_the_ledger_and_the_first_that_wait(world: World) -> None:
    world.run()
    found = world.run("n35")
    assert found == set(NODES[:10]) | {"n35"} | set(NODES[10 : 10 + rounds_module.WAITING_SEEN])
    assert world.run("n36") & {"n35", "n36"} == {"n36"}


def test_who_waits_is_remembered_over_smaller_rounds(world: World) -> None:
    world.run()
    world.run("n35")
    assert world.rounds.results["p"].waiting.keys() == WAITING.keys()


def test_who_waited_and_is_gone_is_not_told_of_any_more(world: World) -> None:
    world.run()
    world.registry.remove_node("n39")
    world.registry.remove_state("n39")
    del world.memories["n39"]
    world.registry.put_node("n99", NodeView("n99", "uid-n99", {}, (), ready=True))
    world.memories["n99"] = NodeMemory(selection=select([world.policy], {}))
    assert world.run("n99") != set(NODES), "as many nodes as before are no matter of all"
    assert world.rounds.results["p"].waiting.keys() == WAITING.keys() - {"n39"}


def test_while_there_is_room_for_an_allowance_one_over_all_comes_again_after_a_while(world: World) -> None:
    world.granting.held = 3
    world.run()
    assert world.run("n35") != set(NODES)
    world.clock.now += rounds_module.WHOLE_SECONDS
    assert world.run("n35") == set(NODES), "10 % of 40 nodes may have one, 3 do"


def test_without_room_none_is_over_all_until_an_allowance_came_back(world: World) -> None:
    world.run()
    world.clock.now += 10 * rounds_module.WHOLE_SECONDS
    assert world.run("n35") != set(NODES)
    world.granting.held = 3
    assert world.run("n35") != set(NODES)
    assert world.run("n35") == set(NODES)


def test_another_generation_of_the_policy_is_a_matter_of_all(world: World) -> None:
    world.run()
    world.policy = policy(2)
    assert world.run("n35") == set(NODES)


def test_the_plan_of_a_node_that_was_not_looked_at_since_the_policy_was_edited_is_not_the_newest(world: World) -> None:
    for name in NODES:
        world.registry.put_plan(name, PlanView(name, "plan", 1, f"uid-{name}", "", "p", 1, 0, frozenset()))
    world.run()
    assert world.granting.newest == set(NODES)
    world.policy = policy(2)
    world.memories["n20"].selection = select([world.policy], {})
    world.registry.put_plan("n20", PlanView("n20", "plan", 2, "uid-n20", "", "p", 2, 0, frozenset()))
    world.run("n20")
    assert world.granting.newest == {"n20"}


def test_a_node_that_was_not_looked_at_since_there_is_another_policy_is_given_nothing_more(world: World) -> None:
    valid = {"p": world.policy}
    for name in NODES:
        world.registry.put_plan(name, PlanView(name, "plan", 1, f"uid-{name}", "", "p", 1, 0, frozenset()))
        world.memories[name].chosen_from = valid
    world.policies = valid
    world.run()
    assert world.granting.newest == set(NODES)
    world.policies = world.memories["n20"].chosen_from = valid | {"dry": policy()}
    world.run("n20")
    assert world.granting.newest == {"n20"}


def test_a_node_more_or_less_is_a_matter_of_all(world: World) -> None:
    world.run()
    world.registry.remove_node("n39")
    del world.memories["n39"]
    assert world.run("n35") == set(NODES[:39])


def test_a_ledger_that_was_read_anew_is_a_matter_of_all(world: World) -> None:
    world.run()
    desk = world.budgets.store("p").desk
    assert desk is not None
    world.budgets.store("p").desk = replace(desk, seen={})
    assert world.run("n35") == set(NODES)


def test_while_an_allowance_is_on_its_way_back_rounds_stay_as_small_as_what_moves(world: World) -> None:
    world.run()
    world.granting.again = True
    world.run("n35")
    world.run("n36")
    assert world.run("n37") & {"n35", "n36", "n37"} == {"n37"}


def test_who_began_to_wait_last_is_looked_at_before_those_that_wait_quietly(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "WAITING_SEEN", 1)
    world.run()
    world.granting.pressed = "n35"
    world.run("n35")
    assert "n35" in world.run("n20"), "it may be under pressure, and wait for what a calm one gives back"


def test_nodes_of_a_round_that_was_not_ended_are_looked_at_again(world: World) -> None:
    world.run()
    world.granting.ended = False
    world.run("n35")
    world.granting.ended = True
    assert "n35" in world.run()


@pytest.mark.parametrize(
    "error", [ApiUnreachable("no answer"), LeaseLost("late"), ApiRefused(500, "", "x"), ValueError("x")], ids=repr
)
def test_nodes_of_a_round_that_failed_are_looked_at_again(world: World, error: Exception) -> None:
    world.run()
    world.granting.error = error
    with contextlib.suppress(ApiUnreachable, LeaseLost):
        world.run("n35")
    world.granting.error = None
    world.clock.now += rounds_module.IDLE_SECONDS
    assert "n35" in world.run()


def test_a_node_that_fell_to_another_policy_is_counted_out_at_once(world: World) -> None:
    world.run()
    other = select([], {})
    world.memories["n39"].selection = other
    world.in_force.chose("n39", other)
    assert world.run("n35") == set(NODES[:39])


def test_no_round_runs_while_a_node_was_not_looked_at(world: World) -> None:
    world.registry.put_node("new", NodeView("new", "uid", {}, (), ready=True))
    world.clock.now += 1
    world.rounds.run({"p": world.policy})
    assert world.granting.asked == []


def test_of_a_policy_that_is_gone_with_its_ledger_nothing_is_remembered(world: World) -> None:
    for name in ("p", "q"):
        world.registry.tables.policies[name] = PolicyEntry(name, "u", 1, "1", world.policy, "", {})
    for policies in ({"p": world.policy, "q": world.policy}, {"p": world.policy}, {"p": world.policy}):
        world.clock.now += rounds_module.IDLE_SECONDS
        world.rounds.touch("q", "n20")
        world.granting.held = 0
        world.rounds.run(policies)
    assert world.rounds.results.keys() == world.budgets.stores.keys() == {"p"}
    tables = vars(world.rounds).values()
    assert not any("q" in table for table in tables if isinstance(table, dict))


def test_a_policy_made_anew_after_its_ledgers_deletion_got_no_answer_waits_for_nothing(world: World) -> None:
    world.granting.held = 0
    world.registry.tables.policies["p"] = PolicyEntry("p", "u", 1, "1", world.policy, "", {})
    world.run()
    del world.registry.tables.policies["p"]
    request = world.cluster.request

    def unanswered(method: str, path: str, **more: Any) -> Answer:
        answer = request(method, path, **more)
        if method == "DELETE":
            raise ApiUnreachable("the answer was lost")
        return answer

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ApiUnreachable):
        patch.setattr(world.cluster, "request", unanswered)
        world.clock.now += rounds_module.IDLE_SECONDS
        world.rounds.run({})
    assert world.cluster.config_maps == {}
    world.clock.now += rounds_module.IDLE_SECONDS
    world.rounds.run({})
    assert (world.cluster.config_maps, world.budgets.stores) == ({}, {})
    world.registry.tables.policies["p"] = PolicyEntry("p", "v", 1, "1", world.policy, "", {})
    world.clock.now += rounds_module.IDLE_SECONDS
    world.run()
    desk = world.budgets.store("p").desk
    assert desk is not None
    assert desk.ledger.quarantine_ns == 0


def test_a_kill_is_looked_for_in_the_ledgers_that_named_the_node_within_the_hour_and_in_no_other(world: World) -> None:
    world.run()
    other = world.budgets.store("other")
    assert [store.policy for store, _ in world.rounds.ledgers("n05", "p")] == ["p"]
    assert [store.policy for store, _ in world.rounds.ledgers("n05", "other")] == ["other", "p"]
    assert [store.policy for store, _ in world.rounds.ledgers("n35", "other")] == ["other"]
    assert other.policy == "other"
    world.clock.now += 3601
    assert [store.policy for store, _ in world.rounds.ledgers("n05", "other")] == ["other"]


# --- what a user can read bounds what is given ---


def shown(world: World, worst: int | None) -> Limits:
    """The limits of the next round, where the policy's status shows this worst hour."""
    status = {} if worst is None else {"exposure": {"standingKills": 0, "worstCaseHour": worst}}
    world.registry.tables.policies["p"] = PolicyEntry("p", "u", 1, "1", world.policy, "", status)
    world.run("n35")
    return world.granting.limits[-1]


def test_nothing_is_given_beyond_the_worst_hour_that_the_status_shows(world: World) -> None:
    most, refills = 4, world.policy.limits.kills_per_hour
    world.granting.held = 0
    for worst in (None, 0, 1, refills, most + refills - 1):
        limits = shown(world, worst)
        assert limits.max_standing_kills.of(40) + limits.kills_per_hour == (worst or 0)
        assert world.rounds.unshown
    assert shown(world, most + refills) == world.policy.limits
    assert not world.rounds.unshown


def test_what_is_out_is_not_taken_back_for_a_status_that_shows_less(world: World) -> None:
    world.granting.held = 3
    world.run()
    assert shown(world, 0).max_standing_kills == Share(count=3)


def test_when_the_status_shows_more_a_round_goes_over_all_again(world: World) -> None:
    for _ in range(3):
        shown(world, 1)
    assert world.granting.asked[-1] != set(NODES)
    shown(world, 100)
    assert world.granting.asked[-1] == set(NODES)


# --- another policy's ledger that cannot be read ---


def holding(name: str, ceiling: int, seen: int) -> StateView:
    grant = {"incarnation": f"i-{name}", "beat": 1, "killsCeiling": ceiling, "planUID": "p", "planGeneration": 1}
    status = StateStatus(lease=ReportedLease(f"i-{name}", 1, 0, seen))
    return StateView(name, "s", 2, "2", f"uid-{name}", {"grant": grant} if ceiling else {}, status)


def test_a_ledger_that_cannot_be_read_holds_back_only_who_may_hold_an_allowance_of_it(world: World) -> None:
    world.run()
    other = world.budgets.store("other")
    other.problem, other.checked_at = "edited", world.clock.now + 9999
    world.registry.put_state("n20", holding("n20", 1, 0))
    world.registry.put_state("n21", holding("n21", 0, 1))
    world.registry.put_state("n22", holding("n22", 0, 0))
    world.registry.put_state("n05", holding("n05", 1, 1))
    assert world.run("n35") == set(NODES), "it is a matter of all"
    assert world.granting.held_elsewhere == {"n20", "n21"}, "n05 is in the policy's own ledger"
    assert (world.holdings.unread("p"), world.holdings.unsure["p"]) == (["other"], {"n20", "n21"})
    world.registry.put_state("n21", replace_version(holding("n21", 0, 0)))
    world.run("n21")
    assert world.holdings.unsure["p"] == {"n20"}
    world.registry.put_state("n21", replace_version(holding("n21", 0, 1), 4))
    world.run("n21")
    assert world.holdings.unsure["p"] == {"n20", "n21"}
    world.registry.remove_state("n21")
    world.run("n35")
    assert world.holdings.unsure["p"] == {"n20"}, "what is gone is not counted in the status"
    other.problem, other.desk = "", opened(Ledger(), 0)
    world.run("n35")
    assert world.holdings.unsure["p"] == set()


def replace_version(state: StateView, version: int = 3) -> StateView:
    return StateView(state.name, state.uid, version, str(version), state.owner_uid, state.spec, state.status)
