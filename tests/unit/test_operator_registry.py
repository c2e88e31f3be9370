"""The registry under answers to our own writes that come late: in the end it shows what the API server has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakecluster import Clock

from memorypressure.protections import DisruptionBudget
from memorypressure_operator.recency import DELETED_KEPT, Ours
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, StateStatus, StateView
from memorypressure_operator.tables import SINKS

NAME = "node-1"


def state(uid: str, version: int) -> StateView:
    return StateView(NAME, uid, version, str(version), "uid-of-node", {"written": version}, StateStatus())


def plan(uid: str, version: int) -> PlanView:
    return PlanView(NAME, uid, version, "uid-of-node", f"digest {version}", "policy", 1, 0, frozenset())


@dataclass(frozen=True)
class Kind:
    view: Callable[[str, int], Any]
    put: str
    remove: str
    table: str


KINDS = (Kind(state, "put_state", "remove_state", "states"), Kind(plan, "put_plan", "remove_plan", "plans"))


def complete() -> Registry:
    registry = Registry(Clock(), 0.0)
    for name in SINKS:
        registry.mark_synced(name)
    return registry


@dataclass
class Server:
    """One object's history: the watch's events in their order, and the answers to the writes that are ours."""

    events: list[Any] = field(default_factory=list)  # a view, or None for a deletion
    answers: list[tuple[int, Any, Ours]] = field(default_factory=list)  # (events before it at the earliest, view, ...)
    stored: Any = None
    watched: bool = True  # else the watch is broken, and ends with a new initial state
    told: Any = None

    def tell(self) -> None:
        if self.watched and self.stored is not self.told:
            self.events.append(self.stored)
            self.told = self.stored


def history(kind: Kind, moves: Sequence[str]) -> Server:
    """While the watch is broken we change only what it has told, and make nothing; it ends with what is stored."""
    server = Server()
    incarnation = 0
    for version, move in enumerate((*moves, "list"), 1):
        if move == "break":
            server.watched = False
        elif move == "list":
            server.watched = True
        elif move == "delete":
            server.stored = None
        else:
            made = server.stored is None
            known = server.told is not None and not made and server.told.uid == server.stored.uid
            if move == "ours" and not server.watched and not known:
                continue
            incarnation += made
            server.stored = kind.view(f"uid-{incarnation}", version)
            if move == "ours":
                ours = Ours.MADE if made else Ours.CHANGED
                server.answers.append((len(server.events), server.stored, ours))
        server.tell()
    return server


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
@pytest.mark.parametrize("ours", Ours)
def test_an_answer_that_comes_after_the_deletion_does_not_bring_the_object_back(kind: Kind, ours: Ours) -> None:
    registry = complete()
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    put(NAME, kind.view("uid-1", 1))
    remove(NAME)
    put(NAME, kind.view("uid-1", 2), ours=ours)
    assert getattr(registry.tables, kind.table) == {}
    assert registry.reported_at == {}
    put(NAME, kind.view("uid-2", 3), ours=Ours.MADE)
    assert getattr(registry.tables, kind.table)[NAME].uid == "uid-2"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
@pytest.mark.parametrize("ours", Ours)
def test_an_answer_about_what_had_the_name_before_does_not_replace_what_has_it_now(kind: Kind, ours: Ours) -> None:
    registry = complete()
    put = getattr(registry, kind.put)
    put(NAME, kind.view("uid-1", 1))
    put(NAME, kind.view("uid-2", 3))  # a new initial state: nobody tells of the deletion in between
    put(NAME, kind.view("uid-1", 2), ours=ours)
    assert getattr(registry.tables, kind.table)[NAME] == kind.view("uid-2", 3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_a_change_of_ours_does_not_bring_an_object_back_however_many_were_deleted_since(kind: Kind) -> None:
    registry = complete()
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    names = [f"node-{number}" for number in range(DELETED_KEPT + 1)]
    for name in names:
        put(name, kind.view(f"uid-of-{name}", 1))
    for name in names:
        remove(name)
    put(names[0], kind.view(f"uid-of-{names[0]}", 2), ours=Ours.CHANGED)
    assert getattr(registry.tables, kind.table) == {}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_what_the_watch_sends_again_is_there_and_so_are_answers_about_it(kind: Kind) -> None:
    registry = complete()
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    put(NAME, kind.view("uid-1", 1), ours=Ours.MADE)
    remove(NAME)  # a new initial state that was read before our write does not name it
    put(NAME, kind.view("uid-1", 1))
    put(NAME, kind.view("uid-1", 2), ours=Ours.CHANGED)
    assert getattr(registry.tables, kind.table)[NAME] == kind.view("uid-1", 2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
@given(data=st.data(), moves=st.lists(st.sampled_from(("ours", "theirs", "delete", "break", "list")), max_size=12))
def test_whenever_answers_come_the_registry_ends_with_what_the_server_has(
    kind: Kind, data: st.DataObject, moves: list[str]
) -> None:
    registry, server = complete(), history(kind, moves)
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    # Each answer comes at any time after its write, before or after any event, in any order with the other answers.
    due = [
        (data.draw(st.integers(earliest, len(server.events)), label="after so many events"), view, ours)
        for earliest, view, ours in server.answers
    ]
    for seen in range(len(server.events) + 1):
        for _, view, ours in data.draw(st.permutations([each for each in due if each[0] == seen]), label="answers"):
            put(NAME, view, ours=ours)
        if seen < len(server.events):
            event = server.events[seen]
            remove(NAME) if event is None else put(NAME, event)
    assert getattr(registry.tables, kind.table).get(NAME) == server.stored


def test_deleted_uids_are_remembered_up_to_a_bound() -> None:
    registry = complete()
    for number in range(DELETED_KEPT + 1):
        registry.put_state(NAME, state(f"uid-{number}", 1))
        registry.remove_state(NAME)
    registry.put_state(NAME, state(f"uid-{DELETED_KEPT}", 2), ours=Ours.MADE)
    registry.put_state(NAME, state("uid-1", 2), ours=Ours.MADE)
    assert registry.tables.states == {}
    assert len(list(registry._deleted)) == DELETED_KEPT


def test_a_namespace_that_had_a_budget_once_leaves_nothing() -> None:
    registry, budget = complete(), DisruptionBudget("ns", None, disruptions_allowed=0, current=True)
    for name in ("one", "other"):
        registry.put_budget(("ns", name), budget)
    registry.remove_budget(("ns", "one"))
    assert registry.tables.budgets_by_namespace == {"ns": {"other": budget}}
    registry.remove_budget(("ns", "other"))
    registry.remove_budget(("ns", "other"))
    assert (registry.tables.budgets, registry.tables.budgets_by_namespace) == ({}, {})
