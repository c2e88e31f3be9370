"""What follows an eviction or a kill, with an API server that answers on demand and a clock that a test moves."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure.book import Book
from memorypressure.ledger import Ledger
from memorypressure.reasons import Reason
from memorypressure.spec import Mode
from memorypressure_operator.acting import Actor
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.cleanups import PATIENCE_SECONDS, After, Cleaner
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.events import Event
from memorypressure_operator.memory import Cleanup, NodeMemory, Outstanding
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.tallies import Tally
from memorypressure_operator.views import NodeView, PodView

NODE = NodeView(name="n", uid="node-uid", labels={}, taints=(), ready=True)
DISRUPTION = ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    events: list[Event] = field(default_factory=list)
    leads: bool = True
    protected: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    most: int = 6

    def __post_init__(self) -> None:
        api: Any = self.cluster
        writer: Any = self  # `tell` below
        self.budgets = Budgets(api, "own", "ledger", self.clock, lambda: None)
        self.memory = NodeMemory()
        self.cleaner = Cleaner(api, self.budgets, writer, lambda: self.leads, self.clock)
        self.actor = Actor(
            api, self.budgets, writer, Metrics(), lambda: self.leads, self.clock, lambda _: Tally(self.clock)
        )

    def tell(self, event: Event) -> bool:
        self.events.append(event)
        return True

    @property
    def store(self) -> Store:
        store = self.budgets.store("p")
        self.budgets.refresh(store, Ledger)
        return store

    def counted(self, kills: int) -> None:
        """The ledger counts so many kills more."""
        store = self.store
        assert store.desk is not None
        book = Book(store.desk.ledger)
        book.spend(kills)
        store.desk = replace(store.desk, ledger=book.ledger())

    def reported(self, *pods: PodView) -> None:
        for pod in pods:
            self.memory.cleanups[pod.uid] = Cleanup(0.0, self.clock())

    def clean_up(self) -> float | None:
        def protected(pod: PodView) -> tuple[Reason, str] | None:
            return self.protected.get(pod.uid)

        return self.cleaner.run(self.memory, After(NODE, self.cluster.views(), 7, self.store, self.most, protected))

    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


@pytest.fixture
def world() -> World:
    return World()


# --- clean-ups ---


def test_a_pod_is_evicted_after_its_kill_once_the_ledger_counts_the_kill(world: World) -> None:
    pod = world.cluster.add("a")
    world.reported(pod)
    assert world.clean_up() == 0.5
    assert world.cluster.evictions == []
    world.counted(1)
    world.clock.now += 0.5
    assert world.clean_up() is None
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
    for _ in range(3):
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
    world.cleaner.run(world.memory, After(NODE, views, 7, world.store, 6, lambda _: None))
    assert world.cluster.evictions == []
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


# --- the second delete ---


def outlived(world: World, pod: PodView) -> None:
    world.memory.outstanding = Outstanding(pod, "p", 4, world.clock())
    world.clock.now += 15


def test_a_pod_that_outlives_its_grace_is_deleted_again(world: World) -> None:
    outlived(world, world.cluster.add("a", deletionTimestamp="2026-01-01T01:00:00Z"))
    assert world.actor.follow(world.memory, NODE, world.cluster.views(), Mode.ENFORCE) == 5.0
    assert world.cluster.deletes == ["a"]
    world.actor.follow(world.memory, NODE, world.cluster.views(), Mode.ENFORCE)
    assert world.cluster.deletes == ["a"], "once"


def test_a_pod_whose_eviction_got_no_answer_and_was_refused_is_never_deleted(world: World) -> None:
    outlived(world, world.cluster.add("a"))
    assert world.actor.follow(world.memory, NODE, world.cluster.views(), Mode.ENFORCE) is None
    assert world.cluster.deletes == []
    assert world.memory.outstanding is None, "others may be tried"


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.DISABLED])
def test_after_the_policy_was_turned_down_nothing_is_deleted_again(world: World, mode: Mode) -> None:
    outlived(world, world.cluster.add("a", deletionTimestamp="2026-01-01T01:00:00Z"))
    world.actor.follow(world.memory, NODE, world.cluster.views(), mode)
    assert world.cluster.deletes == []


def test_an_api_server_that_is_away_ends_no_wait(world: World) -> None:
    outlived(world, world.cluster.add("a", deletionTimestamp="2026-01-01T01:00:00Z"))
    views = world.cluster.views()

    def away(method: str, path: str) -> None:
        raise ApiUnreachable("away")

    world.cluster.before = away
    assert world.actor.follow(world.memory, NODE, views, Mode.ENFORCE) == 5.0
    assert world.memory.outstanding is not None
