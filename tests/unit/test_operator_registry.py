"""The registry under answers to our own writes that come late: in the end it shows what the API server has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakecluster import Clock

from memorypressure_operator.registry import DELETED_KEPT, SINKS, Registry
from memorypressure_operator.reports import PlanView, StateStatus, StateView

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
    answers: list[tuple[int, Any]] = field(default_factory=list)  # (events that precede it at the earliest, view)
    stored: Any = None


def history(kind: Kind, moves: Sequence[str]) -> Server:
    server = Server()
    incarnation = 0
    for version, move in enumerate(moves, 1):
        if move == "delete":
            if server.stored is not None:
                server.stored = None
                server.events.append(None)
            continue
        incarnation += server.stored is None
        server.stored = kind.view(f"uid-{incarnation}", version)
        if move == "ours":
            server.answers.append((len(server.events), server.stored))
        server.events.append(server.stored)
    return server


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_an_answer_that_comes_after_the_deletion_does_not_bring_the_object_back(kind: Kind) -> None:
    registry = complete()
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    put(NAME, kind.view("uid-1", 1))
    remove(NAME)
    put(NAME, kind.view("uid-1", 2), ours=True)
    assert getattr(registry.tables, kind.table) == {}
    assert registry.reported_at == {}
    put(NAME, kind.view("uid-2", 3), ours=True)
    assert getattr(registry.tables, kind.table)[NAME].uid == "uid-2"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_what_the_watch_sends_again_is_there_and_so_are_answers_about_it(kind: Kind) -> None:
    registry = complete()
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    put(NAME, kind.view("uid-1", 1), ours=True)
    remove(NAME)  # a new initial state that was read before our write does not name it
    put(NAME, kind.view("uid-1", 1))
    put(NAME, kind.view("uid-1", 2), ours=True)
    assert getattr(registry.tables, kind.table)[NAME] == kind.view("uid-1", 2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
@given(data=st.data(), moves=st.lists(st.sampled_from(("ours", "theirs", "delete")), max_size=12))
def test_whenever_answers_come_the_registry_ends_with_what_the_server_has(
    kind: Kind, data: st.DataObject, moves: list[str]
) -> None:
    registry, server = complete(), history(kind, moves)
    put, remove = getattr(registry, kind.put), getattr(registry, kind.remove)
    # Each answer comes at any time after its write, before or after any event, in any order with the other answers.
    due = [
        (data.draw(st.integers(earliest, len(server.events)), label="after so many events"), view)
        for earliest, view in server.answers
    ]
    for seen in range(len(server.events) + 1):
        for _, view in data.draw(st.permutations([each for each in due if each[0] == seen]), label="answers"):
            put(NAME, view, ours=True)
        if seen < len(server.events):
            event = server.events[seen]
            remove(NAME) if event is None else put(NAME, event)
    assert getattr(registry.tables, kind.table).get(NAME) == server.stored


def test_deleted_uids_are_remembered_up_to_a_bound() -> None:
    registry = complete()
    for number in range(DELETED_KEPT + 1):
        registry.put_state(NAME, state(f"uid-{number}", 1))
        registry.remove_state(NAME)
    registry.put_state(NAME, state(f"uid-{DELETED_KEPT}", 2), ours=True)
    registry.put_state(NAME, state("uid-1", 2), ours=True)
    assert registry.tables.states == {}
    assert len(registry._deleted) == DELETED_KEPT
