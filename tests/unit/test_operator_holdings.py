"""Where a policy is in force, which nodes may hold an allowance of whose ledger, and which count as being helped."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakecluster import Clock, FakeCluster
from support.operatorpolicy import policy

from memorypressure.allotment import opened
from memorypressure.ledger import Entry, Ledger
from memorypressure.selection import select
from memorypressure_operator import settings as settings_module
from memorypressure_operator.budget import Budgets
from memorypressure_operator.evictions import EvictionLog
from memorypressure_operator.granting import NodeFacts, Result
from memorypressure_operator.holdings import Holdings
from memorypressure_operator.inforce import InForce
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import ReportedLease, StateStatus, StateView
from memorypressure_operator.rounds import Rounds
from memorypressure_operator.views import NodeView

RULES = policy(limits={"maxConcurrentNodes": 1})
NODES = ("a", "b", "c")


class World:
    """Three nodes under policy `p`, and ledgers as a test makes them; each round notes what it is told of the nodes."""

    def __init__(self) -> None:
        self.clock, cluster = Clock(), FakeCluster()
        api: Any = cluster
        granting: Any = self
        self.registry = Registry(self.clock, 0.0)
        self.budgets = Budgets(api, "own", "ledger", self.clock, lambda: None)
        self.memories = {name: NodeMemory(selection=select([RULES], {})) for name in NODES}
        for name in NODES:
            self.registry.put_node(name, NodeView(name, f"uid-{name}", {}, (), ready=True))
            self.registry.put_state(name, StateView(name, "s", 1, "1", f"uid-{name}", {}, StateStatus()))
        self.holdings = Holdings(self.budgets, self.registry, self.clock)
        self.in_force = InForce(self.registry, self.memories)
        settings = settings_module.parse({"namespace": "own"}, {})
        self.rounds = Rounds(
            granting, self.budgets, self.holdings, self.in_force, self.registry, self.memories, self.clock, settings
        )
        self.facts: dict[str, NodeFacts] = {}

    def ledger(self, name: str, *entries: Entry) -> None:
        store = self.budgets.store(name)
        store.desk, store.checked_at = opened(Ledger(entries=entries), 0), self.clock()

    def round(self, *arguments: Any) -> Result:
        self.facts = arguments[3]
        return Result(armed=0)

    def told(self) -> Mapping[str, NodeFacts]:
        self.clock.now += 1
        self.rounds.touch("p", "a")
        self.rounds.run({"p": RULES})
        return self.facts


@pytest.fixture
def world() -> World:
    return World()


def entry(node: str, *, ceiling: int = 1, grant_seconds: int = 900) -> Entry:
    return Entry(node, f"i-{node}", ceiling, 0, 1, grant_seconds)


@pytest.mark.parametrize(
    ("held", "wanted", "may"),
    [(entry("a", grant_seconds=300), 900, False), (entry("a"), 900, True), (entry("a"), 300, True)],
    ids=["it would hold longer", "as long", "shorter"],
)
def test_no_plan_makes_a_grant_that_is_out_hold_longer_than_its_ledger_knows(
    world: World, held: Entry, wanted: int, may: bool
) -> None:
    world.ledger("p", held)
    assert world.holdings.may_plan("a", wanted) is may
    assert world.holdings.may_plan("b", wanted)
    world.ledger("p", entry("a", ceiling=0, grant_seconds=300))
    assert world.holdings.may_plan("a", wanted), "nothing of it is out"


def test_until_a_ledger_was_read_no_plan_is_written_and_one_that_cannot_be_read_holds_none_back(world: World) -> None:
    assert world.budgets.store("p").desk is None
    assert not world.holdings.may_plan("a", 900)
    world.budgets.store("p").problem = "edited"
    assert world.holdings.may_plan("a", 900)


def test_an_allowance_counts_elsewhere_while_there_is_something_left_of_it(world: World) -> None:
    world.ledger("p", entry("a"))
    world.ledger("other", entry("b"), entry("c", ceiling=0))
    assert world.holdings.elsewhere("p") == {"b": "other"}
    assert world.holdings.elsewhere("other") == {"a": "p"}


def test_what_an_agent_had_left_that_was_replaced_does_not_hold_back_another_policys(world: World) -> None:
    world.ledger("other", entry("a"), entry("b"), entry("c"))
    for node, incarnation in (("a", "another"), ("b", "i-b")):
        status = StateStatus(lease=ReportedLease(incarnation, 1, 0, 0))
        world.registry.put_state(node, StateView(node, "s", 2, "2", f"uid-{node}", {}, status))
    assert world.holdings.elsewhere("p").keys() == {"b", "c"}, "who reports no incarnation may be any"
    assert not world.holdings.may_plan("a", 901), "it may still read a plan, and hold for longer by it"


def test_a_policys_own_ledger_is_not_among_those_of_others_that_cannot_be_read(world: World) -> None:
    world.ledger("p")
    world.budgets.store("other")
    assert world.holdings.unread("p") == ["other"]
    assert world.holdings.unread("other") == []


def test_on_a_node_that_is_gone_no_policy_is_in_force(world: World) -> None:
    assert world.in_force.of("p").keys() == set(NODES)
    world.registry.remove_node("b")
    assert world.in_force.of("p").keys() == {"a", "c"}, "although what was remembered of it is still there"


def look(world: World, node: str) -> None:
    """What the decision loop does for this: it chooses, or forgets a node that is gone."""
    if node not in world.registry.tables.nodes:
        world.memories.pop(node, None)
        return
    selection = select([RULES], {})
    world.memories[node] = NodeMemory(selection=selection)
    world.in_force.chose(node, selection)


def test_who_was_asked_for_while_a_new_term_looked_at_its_first_nodes_is_not_all_there_is(world: World) -> None:
    for node in NODES:
        look(world, node)
    assert world.in_force.of("p").keys() == set(NODES)
    world.memories.clear()  # the Lease was lost, and another process may have acted since
    world.registry.put_node("a", NodeView("a", "uid-a", {"zone": "1"}, (), ready=True))
    look(world, "a")
    assert world.in_force.of("p").keys() == {"a"}, "it is under pressure, and its eviction asks"
    look(world, "b")
    look(world, "c")
    assert world.in_force.of("p").keys() == set(NODES)


MOVES = st.one_of(
    st.tuples(st.sampled_from(("look", "node", "gone")), st.sampled_from(NODES)),
    st.tuples(st.sampled_from(("ask", "term")), st.just("")),
)


@given(moves=st.lists(MOVES, max_size=14))
def test_once_all_nodes_were_looked_at_a_policy_is_in_force_on_all_that_it_selects(
    moves: list[tuple[str, str]],
) -> None:
    world = World()
    for move, node in moves:
        if move == "look":
            look(world, node)
        elif move == "node":
            world.registry.put_node(node, NodeView(node, f"uid-{node}", {}, (), ready=True))
        elif move == "gone":
            world.registry.remove_node(node)
        elif move == "term":
            world.memories.clear()
        else:
            world.in_force.of("p")
    for node in NODES:
        look(world, node)
    assert world.in_force.of("p").keys() == world.registry.tables.nodes.keys()


def _slot(world: World) -> None:
    world.memories["b"].slot = True


def _recorded(world: World) -> None:
    world.memories["b"].inherited = True
    world.budgets.store("p").evictions = EvictionLog().with_record("b", "ns/ReplicaSet/web", "u")


@pytest.mark.parametrize(
    ("helped", "others"),
    [(lambda _: None, True), (_slot, False), (_recorded, False)],
    ids=["nobody", "since this process began", "by an earlier process"],
)
def test_while_as_many_nodes_are_helped_as_may_be_only_these_get_refills(
    world: World, helped: Callable[[World], None], others: bool
) -> None:
    world.ledger("p")
    helped(world)
    assert {name: each.refill_slot for name, each in world.told().items()} == {"a": others, "b": True, "c": others}
