"""What follows an eviction or a kill, with an API server that answers on demand and a clock that a test moves."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure.book import Book
from memorypressure.ledger import Ledger
from memorypressure.reasons import Reason
from memorypressure.spec import Mode, Policy, parse_policy
from memorypressure.victims import Candidate
from memorypressure_operator.acting import Actor, Situation
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.cleanups import PATIENCE_SECONDS, After, Cleaner
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.events import Event
from memorypressure_operator.evictions import Denied
from memorypressure_operator.memory import Cleanup, NodeMemory, Outstanding
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import PodView
from memorypressure_operator.reports import ActiveTrigger, StateStatus, StateView, TopPod
from memorypressure_operator.tallies import Tally
from memorypressure_operator.views import NodeView

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


# --- the next victim ---


def policy(**limits: Any) -> Policy:
    spec = {
        "mode": "Enforce",
        "nodeSelector": {},
        "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
        "ladder": [
            {"action": "Evict", "triggers": ["low"], "afterSeconds": 0, "evict": {"gracePeriodSeconds": 4}},
        ],
        "limits": {"cooldownSeconds": 10, "maxVictimsPerEpisode": 50, "evictionsPerHour": 2, **limits},
    }
    meta = {"name": "p", "uid": "u", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    body = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy", "metadata": meta, "spec": spec}
    return parse_policy(body)


def act(world: World, rules: Policy, *, allowed: int = 9) -> Denied | None:
    """One pass over the node with all of its pods as candidates, largest first by name."""
    pods = world.cluster.views()
    tops = tuple(TopPod(uid, (900 - number) << 20, True) for number, uid in enumerate(sorted(pods)))
    triggers = (ActiveTrigger("low", "2026-01-01T00:00:00Z"),)
    status = StateStatus(active_triggers=triggers, top_pods=tops)
    state = StateView("n", "s", 1, "1", "node-uid", {"mode": "Enforce"}, status)
    candidates = [
        Candidate(uid, "ns", uid, 0, "Burstable", 64 << 20, 0, "ReplicaSet/web")
        for uid, pod in pods.items()
        if not pod.terminating
    ]
    world.memory.watch = replace(world.memory.watch, episode="e1")
    situation = Situation(
        node=NODE,
        state=state,
        policy=rules,
        mode=Mode.ENFORCE,
        step=rules.ladder[0],
        due=True,
        fresh=True,
        candidates=candidates,
        ages=dict.fromkeys(pods, 1000.0),
        pods=pods,
        evictions_per_hour=rules.limits.evictions_per_hour,
        concurrent_nodes=0,
        concurrent_limit=1,
        workload_allowance=lambda _: allowed,
        protected=lambda pod: world.protected.get(pod.uid),
        still=lambda: True,
    )
    world.actor.follow(world.memory, NODE, pods, Mode.ENFORCE)
    return world.actor.act(world.memory, situation, world.store)


@pytest.mark.parametrize(
    ("answer", "evicted", "wait"),
    [
        (None, ["a"], None),
        (DISRUPTION, ["a", "b"], None),
        (ApiRefused(500, "", "This pod has more than one PodDisruptionBudget"), ["a", "b"], None),
        (ApiRefused(404, "NotFound", "x"), ["a", "b"], None),
        (ApiRefused(409, "Conflict", "UID"), ["a", "b"], None),
        (ApiRefused(403, "Forbidden", "policy"), ["a", "b"], None),
        (ApiRefused(429, "TooManyRequests", "slow down", 33), ["a"], 33.0),
        (ApiRefused(429, "TooManyRequests", "slow down", 1), ["a"], 10.0),
        (ApiRefused(500, "", "etcd is away"), ["a"], None),
        (ApiUnreachable("reset"), ["a"], None),
    ],
    ids=[
        "201",
        "429 budget",
        "500 two budgets",
        "404",
        "409",
        "403",
        "429 busy",
        "429 busy shortly",
        "500",
        "no answer",
    ],
)
def test_each_answer_leads_to_its_next_step(
    world: World, answer: Exception | None, evicted: list[str], wait: float | None
) -> None:
    for uid in ("a", "b"):
        world.cluster.add(uid)
    world.cluster.answers["a"] = [answer]
    denied = act(world, policy())
    assert world.cluster.evictions == evicted
    assert (denied.again_seconds if denied else None) == wait
    if wait is not None:
        world.clock.now += wait - 0.1
        assert act(world, policy()) is not None
        assert world.cluster.evictions == evicted, "it waits"
        world.clock.now += 0.2
        act(world, policy())
        assert world.cluster.evictions == [*evicted, "a"]
    else:
        counted = [record.uid for record in world.store.evictions.records]
        assert counted == [evicted[-1]], "what was refused does not count"


def test_when_every_pod_is_held_by_a_budget_nobody_is_asked_before_the_time_that_the_server_named(world: World) -> None:
    for uid in ("a", "b"):
        world.cluster.add(uid)
        world.cluster.answers[uid] = [ApiRefused(429, "TooManyRequests", "x", 25, ("DisruptionBudget",))]
    denied = act(world, policy())
    assert denied is not None
    assert (denied.reason, denied.again_seconds) == (Reason.DISRUPTION_BUDGET, 25.0)
    world.clock.now += 24
    act(world, policy())
    assert world.cluster.evictions == ["a", "b"]


class Died(BaseException):
    """The process is killed at a request: before it was sent, or after its effect and before its answer."""


@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after its effect"])
@pytest.mark.parametrize("at", range(1, 9))
def test_a_process_killed_at_any_request_leaves_no_more_evictions_than_the_limit(at: int, after: bool) -> None:
    clock, cluster = Clock(), FakeCluster()
    for number in range(6):
        cluster.add(f"p{number}")
    requests = 0
    inner = cluster.request

    def request(method: str, path: str, **rest: Any) -> Any:
        nonlocal requests
        requests += 1
        if requests == at and not after:
            raise Died
        answer = inner(method, path, **rest)
        if requests == at:
            raise Died
        return answer

    cluster.request = request  # type: ignore[method-assign]
    for life in range(3):
        world = World(clock=clock, cluster=cluster)
        world.memory.inherited, world.memory.born = life > 0, clock()
        try:
            for _ in range(4):
                act(world, policy(evictionsPerHour=2))
                ending = [uid for uid, pod in cluster.pods.items() if "deletionTimestamp" in pod["metadata"]]
                assert len(ending) <= 1, "one victim at a time"
                clock.now += 11
                if world.memory.outstanding is not None or life == 2:
                    for uid in ending:
                        cluster.pods.pop(uid)
        except Died:
            continue
    assert len(set(cluster.evictions)) <= 2
