"""Grants as they are written: first what is taken away, a few at once, and others have their turn in between."""

import json
import threading
from typing import Any

from support.fakecluster import Clock, FakeCluster

from memorypressure.allotment import opened
from memorypressure.ledger import Entry, Ledger
from memorypressure.spec import Limits, Mode, Share
from memorypressure_operator import atonce
from memorypressure_operator.api import Answer
from memorypressure_operator.budget import Budgets
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.granting import Granting, NodeFacts, Result
from memorypressure_operator.reports import StateView, decode_state

NODES = [f"n{number:03d}" for number in range(120)]
LIMITS = Limits(60, 1, Share(percent=10), Share(percent=10), 20, 5, Share(percent=100), 900)


class World:
    """120 nodes with an allowance each; those of `leaving` are to lose it, the others' beats wait for an answer."""

    def __init__(self, leaving: set[str]) -> None:
        self.clock, self.cluster = Clock(), FakeCluster()
        self.lock, self.patched, self.fails_at = threading.Lock(), list[str](), 10_000
        self.refused: set[str] = set()
        api: Any = self
        self.budgets = Budgets(api, "own", "ledger", self.clock, lambda: None)
        self.granting = Granting(api, self.budgets, lambda: True, self.clock, self.took)
        self.states = {}
        for name in NODES:
            grant = {"incarnation": name, "beat": 1, "killsCeiling": 1, "planUID": "p", "planGeneration": 1}
            meta = {"name": name, "uid": "s", "generation": 1, "resourceVersion": "0"}
            lease = {"incarnation": name, "beat": 2, "killsTotal": 0, "ceilingSeen": 1}
            body = {"metadata": meta, "spec": {"grant": grant}, "status": {"lease": lease}}
            body["status"]["capabilities"] = ["CgroupKill"]
            self.cluster.states[name] = body
            self.states[name] = decode_state(json.dumps(body).encode())
        store = self.budgets.store("p")
        self.budgets.refresh(store, lambda: Ledger(entries=tuple(Entry(n, n, 1, 0, 1, 900) for n in NODES)))
        self.facts = {
            name: NodeFacts(
                name,
                Mode.DISABLED if name in leaving else Mode.ENFORCE,
                "p",
                1,
                plan_current=True,
                plan_newest=True,
                reporting=True,
                under_pressure=False,
                refill_slot=True,
                held_elsewhere=False,
            )
            for name in NODES
        }

    def request(self, method: str, path: str, **more: Any) -> Answer:
        with self.lock:
            if "nodememorystates" in path:
                self.patched.append(path.rsplit("/", 1)[1])
                if self.patched[-1] in self.refused:
                    raise ApiRefused(403, "Forbidden", "no")
                if len(self.patched) >= self.fails_at:
                    raise ApiUnreachable("away")
            return self.cluster.request(method, path, **more)

    def get(self, path: str, **_: Any) -> Answer:
        return self.request("GET", path)

    def took(self, name: str, view: StateView) -> None:
        self.states[name] = view

    def round(self) -> Result:
        policy: Any = Kills()
        self.patched.clear()
        self.clock.now += 1
        return self.granting.round(self.budgets.store("p"), LIMITS, policy, self.facts, self.states, len(NODES))


class Kills:
    """A policy with a Kill step: of a policy a round asks no more."""

    class Step:
        kill = True

    ladder = (Step(),)


def test_allowances_are_taken_away_before_others_are_renewed() -> None:
    leaving = set(NODES[-60:])
    world = World(leaving)
    first = world.round()
    assert len(world.patched) == atonce.A_PASS
    assert set(world.patched) <= leaving
    assert first.at_once, "the rest need not wait for the next round's time"
    second = world.round()
    assert leaving - set(world.patched) == leaving - first.unwritten
    assert second.at_once
    world.round()
    last = world.round()
    assert not last.at_once
    assert last.unwritten == set()
    grants = {name: state.spec.get("grant") for name, state in world.states.items()}
    assert all(not grants[name] or not grants[name]["killsCeiling"] for name in leaving)
    assert all(grants[name]["killsCeiling"] == 1 and grants[name]["beat"] == 2 for name in set(NODES) - leaving)


def test_once_the_server_gives_no_answer_no_more_is_asked_of_it_in_this_round() -> None:
    world = World(set(NODES))
    world.fails_at = 10
    result = world.round()
    assert len(world.patched) <= 9 + atonce.AT_ONCE
    assert len(result.unwritten) == len(NODES) - 9
    assert result.again
    world.fails_at = 10_000
    for _ in range(4):
        result = world.round()
    assert result.unwritten == set()


def test_nodes_whose_grants_are_refused_do_not_keep_others_from_theirs() -> None:
    world = World(set(NODES))
    world.refused = set(NODES[:60])
    for _ in range(4):
        result = world.round()
    assert result.unwritten == world.refused
    assert not result.at_once, "what is refused is tried again, but not at once"
    assert result.again


def test_whether_a_nodes_state_is_gone_is_asked_only_once_its_allowance_has_run_out() -> None:
    world = World(set())
    for name in NODES[:50]:
        del world.states[name], world.facts[name], world.cluster.states[name]
    world.round()
    assert set(world.patched) & set(NODES[:50]) == set()
    store = world.budgets.store("p")
    assert store.desk is not None
    assert opened(store.desk.ledger, 0).ledger.standing == len(NODES)
    world.clock.now += 1000
    for name in NODES[50:]:  # the others go on reporting
        world.facts.pop(name), world.states.pop(name)
    world.round()
    assert set(NODES[:50]) <= set(world.patched)
