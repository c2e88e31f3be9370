"""Which version of a policy counts: kopf's watch, lists and answers to our own writes come in any order."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure.spec import Policy, parse_policy
from memorypressure_operator import settings as settings_module
from memorypressure_operator.api import Answer
from memorypressure_operator.errors import ApiUnreachable
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.policies import Policies
from memorypressure_operator.recency import DELETED_KEPT
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import StateStatus, StateView
from memorypressure_operator.surveying import Surveyor
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView


def policy(version: str, *, uid: str = "u", generation: int = 1, name: str = "p", **status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {
            "name": name,
            "uid": uid,
            "generation": generation,
            "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "mode": "DryRun",
            "nodeSelector": {"matchLabels": {"a": "b"}},
            "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
            "ladder": [{"action": "Taint", "triggers": ["low"]}],
        },
        "status": status,
    }


class World:
    def __init__(self) -> None:
        clock = Clock()
        self.registry = Registry(clock, 0.0)
        for table in SINKS:
            self.registry.mark_synced(table)
        self.cluster = FakeCluster()
        api: Any = self.cluster
        self.policies = Policies(api, self.registry, Metrics(), clock, settings_module.parse({"namespace": "own"}, {}))

    def watch(self, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            self.registry.put_policy(body, watched=True)

    def listed(self, *bodies: dict[str, Any], meanwhile: Callable[[], None] = lambda: None) -> None:
        """A list with these is answered; `meanwhile` happens between the server's look and the answer's arrival."""
        self.cluster.policies = [*bodies]
        request = self.cluster.request

        def late(method: str, path: str, **arguments: Any) -> Answer:
            answer = request(method, path, **arguments)
            meanwhile()
            return answer

        self.cluster.request = late  # type: ignore[method-assign]
        self.policies.list()
        self.cluster.request = request  # type: ignore[method-assign]

    def held(self) -> dict[str, str]:
        return {name: entry.uid for name, entry in self.registry.tables.policies.items()}

    def status(self) -> Mapping[str, Any]:
        return self.registry.tables.policies["p"].status


@pytest.fixture
def world() -> World:
    return World()


def test_a_policy_that_was_deleted_while_a_list_was_under_way_does_not_come_back(world: World) -> None:
    world.watch(policy("10"))
    world.listed(policy("10"), meanwhile=lambda: world.registry.remove_policy("u", watched=True))
    assert world.held() == {}
    world.watch(policy("10", generation=2))
    assert world.held() == {}, "nor by an event that was under way"


def test_one_of_the_same_name_that_was_made_while_a_list_was_under_way_stays(world: World) -> None:
    world.watch(policy("10"))

    def replaced() -> None:
        world.registry.remove_policy("u", watched=True)
        world.watch(policy("12", uid="v"))

    world.listed(policy("10"), meanwhile=replaced)
    assert world.held() == {"p": "v"}
    world.listed(meanwhile=lambda: world.watch(policy("14", uid="w", name="q")))
    assert world.held() == {"q": "w"}, "v was known before the list, and is not on it"


def test_the_end_of_an_earlier_policy_does_not_end_the_one_that_has_its_name_now(world: World) -> None:
    world.watch(policy("10"), policy("15", uid="v"), policy("12", generation=7))
    assert world.held() == {"p": "v"}, "the earlier one's last event came late"
    world.registry.remove_policy("u", watched=True)
    assert world.held() == {"p": "v"}


def test_what_no_list_shows_any_more_was_deleted_while_the_watch_was_broken(world: World) -> None:
    world.watch(policy("10"), policy("11", uid="v", name="q"))
    world.listed(policy("10"))
    assert world.held() == {"p": "u"}


def test_a_list_that_was_asked_for_and_failed_is_tried_again(world: World) -> None:
    def away(*_: str) -> None:
        raise ApiUnreachable("no answer")

    world.cluster.policies = [policy("10")]
    world.policies.refresh(lambda _: False)
    world.cluster.policies = []
    world.policies.recheck()  # a watch broke, and kopf does not tell what was deleted meanwhile
    world.cluster.before = away
    with pytest.raises(ApiUnreachable):
        world.policies.refresh(lambda _: False)
    assert world.held() == {"p": "u"}
    world.cluster.before = lambda *_: None
    world.policies.refresh(lambda _: False)
    assert (world.held(), world.policies.valid) == ({}, {})


@pytest.mark.parametrize(
    ("known", "event", "taken"),
    [
        (("12", 1), ("11", 1), False),
        (("9", 1), ("10", 1), True),
        (("12", 1), ("12", 1), True),
        (("12", 1), ("11", 2), True),  # a restored etcd counts anew, but a spec's generation goes on
        (("12", 2), ("13", 1), False),
        (("b7", 1), ("a9", 1), True),  # a server that does not count: the last word counts
        (("12", 1), ("011", 1), True),
        (("12", 1), ("²", 1), True),
        (("", 1), ("", 1), True),
    ],
)
def test_of_two_versions_of_a_policy_the_later_one_counts_whichever_comes_first(
    world: World, known: tuple[str, int], event: tuple[str, int], taken: bool
) -> None:
    world.watch(
        policy(known[0], generation=known[1], says="known"), policy(event[0], generation=event[1], says="event")
    )
    assert world.status() == {"says": "event" if taken else "known"}


def test_only_so_many_deleted_policies_are_remembered(world: World) -> None:
    for number in range(3 * DELETED_KEPT):
        world.watch(policy("10", uid=f"u{number}"))
        world.registry.remove_policy(f"u{number}")
    assert len(list(world.registry._deleted_policies)) == DELETED_KEPT


class Valid(dict[str, Policy]):
    """A mapping that can be watched."""


def surveyor_of(world: World) -> Surveyor:
    """One that is asked only for what it makes of the registry."""
    nothing: Any = None
    return Surveyor(nothing, world.registry, *[nothing] * 7, Clock(), nothing)


def test_policies_are_surveyed_anew_whenever_they_are_others(world: World) -> None:
    """They are a new mapping each time; the address of one that is freed is soon another's."""
    world.registry.put_node("n", NodeView("n", "u", {"a": "b"}, (), ready=True))
    surveyor = surveyor_of(world)
    surveyed, kept = [], []
    for label in ("b", "c", "b"):
        body = {key: value for key, value in policy("1").items() if key != "status"}
        body["spec"]["nodeSelector"]["matchLabels"] = {"a": label}
        valid = Valid(p=parse_policy(body))
        found = surveyor._surveyed(valid)
        assert surveyor._surveyed(valid) is found
        surveyed.append(found.policies["p"].selected)
        kept.append(weakref.ref(valid))
        del valid
        assert kept[-1]() is not None, "so long as its survey counts nothing else can be taken for it"
    assert surveyed == [1, 0, 1]


def test_a_policy_that_takes_nodes_over_finds_their_reports_although_none_was_looked_at_since(world: World) -> None:
    """Its Ready would be False until each node had its turn, and True again then."""
    world.registry.put_node("n", NodeView("n", "u", {"a": "b"}, (), ready=True))
    status = StateStatus(last_report_time="2026-01-01T00:00:00Z")
    world.registry.put_state("n", StateView("n", "s", 1, "1", "u", {}, status))
    surveyor = surveyor_of(world)
    body = {key: value for key, value in policy("1").items() if key != "status"}
    found = surveyor._surveyed(Valid(p=parse_policy(body)))
    assert found.policies["p"].effective == 1
    assert surveyor._live(found, {"n": NodeMemory(selection=None)}) == {"p": (1, 0)}
