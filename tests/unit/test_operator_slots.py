"""maxVictimsPerWorkload over lost, late and repeated reports: on how many nodes a workload can be killed at once."""

import itertools
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, StateStatus, StateView
from memorypressure_operator.slots import Slots
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView

W = "ns/ReplicaSet/w"
PODS = {"a": 1, "b": 1, "c": 1}


def plan(uid: str, generation: int, *, named: bool) -> PlanView:
    return PlanView("n", uid, generation, "", "", "p", 1, 1, frozenset({W} if named else ()))


def state(generation: int, observed: int, named: tuple[str, int] | None, uid: str = "s") -> StateView:
    spec: dict[str, Any] = {"grant": {"x": 1}}
    if named is not None:
        spec["plan"] = {"uid": named[0], "generation": named[1]}
    return StateView("n", uid, generation, "1", "", spec, StateStatus(observed_generation=observed))


def lost(slots: Slots) -> Slots:
    """The node had the workload by generation 1 of its plan, and has it no more by generation 2."""
    slots.state("a", None, state(5, 5, ("plan", 1)))
    slots.plan("a", None, plan("plan", 1, named=True))
    slots.plan("a", plan("plan", 1, named=True), plan("plan", 2, named=False))
    return slots


def test_a_node_keeps_its_place_until_it_reports_to_have_taken_the_plan_without_the_workload() -> None:
    slots = lost(Slots(PODS, {}))
    assert slots.lingering(W, PODS) == {"a"}
    before = state(5, 5, ("plan", 1))
    for generation, observed, named, stays in [(6, 5, 2, True), (7, 5, 2, True), (7, 6, 2, False)]:
        after = state(generation, observed, ("plan", named))
        slots.state("a", before, after)
        assert slots.lingering(W, PODS) == ({"a"} if stays else set())
        before = after


def test_a_report_about_older_orders_says_nothing() -> None:
    slots = lost(Slots(PODS, {}))
    slots.state("a", state(5, 5, ("plan", 1)), state(6, 6, ("plan", 1)))
    assert slots.lingering(W, PODS) == {"a"}


@pytest.mark.parametrize("named", [("other", 1), None], ids=["made anew", "none"])
def test_a_plan_that_was_deleted_is_given_up_with_the_report_about_its_successor(named: tuple[str, int] | None) -> None:
    slots = Slots(PODS, {})
    slots.state("a", None, state(5, 5, ("plan", 1)))
    slots.plan("a", None, plan("plan", 1, named=True))
    slots.plan("a", plan("plan", 1, named=True), None)
    slots.state("a", state(5, 5, ("plan", 1)), state(6, 5, named))
    assert slots.lingering(W, PODS) == {"a"}
    slots.state("a", state(6, 5, named), state(6, 6, named))
    assert slots.lingering(W, PODS) == set()


def test_a_state_made_anew_has_to_report_anew() -> None:
    slots = lost(Slots(PODS, {}))
    slots.state("a", state(5, 5, ("plan", 1)), state(6, 5, ("plan", 2)))
    slots.state("a", state(6, 5, ("plan", 2)), state(1, 0, ("plan", 2), uid="t"))
    assert slots.lingering(W, PODS) == {"a"}
    slots.state("a", state(1, 0, ("plan", 2), uid="t"), state(1, 1, ("plan", 2), uid="t"))
    assert slots.lingering(W, PODS) == set()


def test_what_a_new_process_did_not_see_it_takes_for_possible_until_the_node_reports() -> None:
    slots = Slots(PODS, {})
    slots.state("a", None, state(6, 5, ("plan", 2)))
    slots.plan("a", None, plan("plan", 2, named=False))
    slots.state("b", None, state(6, 6, ("plan", 2)))
    slots.plan("b", None, plan("plan", 2, named=False))
    slots.state("c", None, state(6, 6, ("plan", 2)))
    slots.plan("c", None, plan("plan", 3, named=False))  # written, but the state did not name it yet
    assert slots.lingering(W, PODS) == {"a", "c"}
    assert slots.lingering(W, {"b": 1}) == set(), "the others have none of its pods"
    slots.state("a", state(6, 5, ("plan", 2)), state(7, 6, ("plan", 2)))
    slots.state("c", state(6, 6, ("plan", 2)), state(7, 6, ("plan", 3)))
    assert slots.lingering(W, PODS) == {"c"}
    slots.gone("c")
    assert slots.lingering(W, PODS) == set()


# --- nodes that go: garbage collection deletes their plans and states some time after them ---


def registry(*, tables: bool = True) -> Registry:
    made = Registry(lambda: 0.0, 0.0)
    for name in SINKS if tables else ():
        made.mark_synced(name)
    return made


def kept(slots: Slots) -> dict[str, Any]:
    return {name: value for name, value in vars(slots).items() if value}


def put_objects(made: Registry, parts: tuple[str, ...] = ("plan", "state")) -> None:
    if "plan" in parts:
        made.put_plan("a", plan("plan", 1, named=True))
    if "state" in parts:
        made.put_state("a", state(5, 5, ("plan", 1)))


@pytest.mark.parametrize("synced", [True, False], ids=["in operation", "at the start"])
@pytest.mark.parametrize("parts", [("plan", "state"), ("plan",), ("state",)], ids="-".join)
@pytest.mark.parametrize("order", [*itertools.permutations(("node", "plan", "state"))], ids="-".join)
def test_of_a_node_that_is_gone_nothing_is_kept_whichever_object_goes_first(
    order: tuple[str, ...], parts: tuple[str, ...], synced: bool
) -> None:
    made = registry(tables=synced)
    for first in (True, False):
        if first:
            made.put_node("a", NodeView("a", "u", {}, (), ready=True))
        put_objects(made, parts)
        if not first:
            made.put_node("a", NodeView("a", "u", {}, (), ready=True))
        for each in order:
            {"node": made.remove_node, "plan": made.remove_plan, "state": made.remove_state}[each]("a")
            assert each != "node" or made.slots.lingering(W, PODS) == set()
        assert kept(made.slots) == {}


def test_what_garbage_collection_still_writes_to_the_objects_of_a_node_that_is_gone_is_not_kept() -> None:
    made = registry()
    made.put_node("a", NodeView("a", "u", {}, (), ready=True))
    put_objects(made)
    made.remove_node("a")
    made.put_plan("a", plan("plan", 2, named=False))
    made.put_state("a", state(6, 5, ("plan", 2)))
    assert made.slots.lingering(W, PODS) == set()
    made.remove_plan("a")
    made.remove_state("a")
    assert kept(made.slots) == {}


@pytest.mark.parametrize("observed", [5, 4], ids=["it holds what is stored", "it may hold an older one"])
def test_a_node_that_comes_back_to_its_old_objects_is_judged_by_them(observed: int) -> None:
    made = registry()
    put_objects(made)
    made.put_state("a", state(5, observed, ("plan", 1)))
    made.put_plan("a", plan("plan", 1, named=True))
    for _ in range(2):
        made.put_node("a", NodeView("a", "u", {}, (), ready=True))
        assert made.slots.lingering(W, PODS) == (set() if observed == 5 else {"a"})
        made.remove_node("a")
        assert made.slots.lingering(W, PODS) == set()


@dataclass
class Cluster:
    """Nodes that take orders and report late, or never; one operator that writes plans and states, and restarts."""

    random: Random
    share: int
    named: dict[str, set[str]] = field(default_factory=dict)
    plans: dict[str, list[PlanView]] = field(default_factory=dict)  # every version
    states: dict[str, StateView] = field(default_factory=dict)
    held: dict[str, tuple[int, bool]] = field(default_factory=dict)  # node -> generation taken, names the workload
    at: dict[tuple[str, int], bool] = field(default_factory=dict)  # what orders of a state's generation name

    def __post_init__(self) -> None:
        for node in PODS:
            self.plans[node] = []
            self.put_state(node, StateView(node, "s", 1, "1", "", {"grant": {}}, StateStatus()))
        self.restart()

    def restart(self) -> None:
        self.named = {}
        self.slots = Slots(PODS, self.named)
        for node, view in self.states.items():
            self.slots.state(node, None, view)
        for node, versions in self.plans.items():
            if versions:
                self.slots.plan(node, None, versions[-1])

    def put_state(self, node: str, view: StateView) -> None:
        self.states[node] = view
        plans = self.plans[node]
        self.at[node, view.generation] = bool(plans and plans[-1].workloads)

    def write_plan(self, node: str, *, named: bool) -> None:
        versions = self.plans[node]
        before = versions[-1] if versions else None
        after = PlanView(node, "plan", len(versions) + 1, "", "", "p", 1, 1, frozenset({W} if named else ()))
        versions.append(after)
        self.slots.plan(node, before, after)

    def write_state(self, node: str) -> None:
        before = self.states[node]
        spec = {**before.spec}
        if self.plans[node]:
            spec["plan"] = {"uid": "plan", "generation": self.plans[node][-1].generation}
        after = StateView(node, "s", before.generation + 1, "1", "", spec, before.status)
        self.put_state(node, after)
        self.slots.state(node, before, after)

    def report(self, node: str) -> None:
        before = self.states[node]
        status = StateStatus(observed_generation=self.held.get(node, (0, False))[0])
        after = StateView(node, "s", before.generation, "1", "", before.spec, status)
        self.states[node] = after
        self.slots.state(node, before, after)

    def step(self) -> None:
        node = self.random.choice(list(PODS))
        match self.random.randrange(6):
            case 0:
                holders = self.named.get(W, set())
                others = (holders | self.slots.lingering(W, PODS)) - {node}
                if node in holders or len(others) < self.share:
                    self.write_plan(node, named=True)
            case 1:
                self.write_plan(node, named=False)
            case 2:
                self.write_state(node)
            case 3:
                self.held[node] = (self.states[node].generation, self.at[node, self.states[node].generation])
                plan_now = self.plans[node][-1] if self.plans[node] else None
                if plan_now is not None and self.random.random() < 0.5:  # the reporter fetches the newest plan
                    self.held[node] = (self.states[node].generation, bool(plan_now.workloads))
            case 4:
                self.report(node)
            case _:
                if self.random.random() < 0.1:
                    self.restart()

    def holding(self) -> int:
        return sum(named for _, named in self.held.values())


@pytest.mark.parametrize("share", [1, 2])
def test_never_more_nodes_than_the_share_hold_orders_that_name_the_workload(share: int) -> None:
    moved = 0
    for seed in range(300):
        cluster = Cluster(Random(seed), share)
        for _ in range(120):
            cluster.step()
            assert cluster.holding() <= share, f"seed {seed}"
        moved += sum(bool(version.workloads) for versions in cluster.plans.values() for version in versions)
    assert moved > 300, "the workload must move, or this shows nothing"
