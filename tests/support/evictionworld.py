"""A node's evictions and clean-ups, with an API server that answers on demand and a clock that a test moves."""

from dataclasses import dataclass, field, replace
from typing import Any

from support import operatorpolicy
from support.fakecluster import Clock, FakeCluster

from memorypressure.book import Book
from memorypressure.ledger import Ledger
from memorypressure.reasons import Reason
from memorypressure.spec import Mode, Policy
from memorypressure.victims import Candidate
from memorypressure_operator.acting import Actor, Situation
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.cleanups import After, Cleaner
from memorypressure_operator.events import Event
from memorypressure_operator.evictions import Denied
from memorypressure_operator.following import Follower
from memorypressure_operator.means import Means
from memorypressure_operator.memory import Cleanup, NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import PodView
from memorypressure_operator.reports import ActiveTrigger, StateStatus, StateView, TopPod
from memorypressure_operator.tallies import Tally
from memorypressure_operator.views import NodeView

NODE = NodeView(name="n", uid="node-uid", labels={}, taints=(), ready=True)


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    events: list[Event] = field(default_factory=list)
    leads: bool = True
    still: bool = True
    blind: tuple[str, ...] = ()
    protected: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    most: int = 6
    others: tuple[str, ...] = ()  # further policies with a ledger

    def __post_init__(self) -> None:
        api: Any = self.cluster
        writer: Any = self  # `tell` below
        self.budgets = Budgets(api, "own", "ledger", self.clock, lambda: None)
        self.memory = NodeMemory()
        means = Means(api, self.budgets, writer, lambda: self.leads, self.clock)
        self.follower = Follower(means)
        self.cleaner = Cleaner(means)
        self.metrics = Metrics()
        self.actor = Actor(means, self.metrics, lambda _: Tally(self.clock))

    def tell(self, event: Event) -> bool:
        self.events.append(event)
        return True

    @property
    def store(self) -> Store:
        store = self.budgets.store("p")
        self.budgets.refresh(store, Ledger)
        return store

    def counted(self, kills: int, policy: str = "p") -> None:
        """The policy's ledger counts so many kills more."""
        store = self.budgets.store(policy)
        self.budgets.refresh(store, Ledger)
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

        ledgers = [(self.store, self.most), *((self.budgets.store(name), self.most) for name in self.others)]
        return self.cleaner.run(self.memory, After(NODE, self.cluster.views(), 7, ledgers, protected))

    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


def policy(**limits: Any) -> Policy:
    """One that evicts only, at once."""
    evict = {"action": "Evict", "triggers": ["low"], "afterSeconds": 0, "evict": {"gracePeriodSeconds": 4}}
    some = {"cooldownSeconds": 10, "maxVictimsPerEpisode": 50, "evictionsPerHour": 2, **limits}
    return operatorpolicy.policy(ladder=[evict], limits=some)


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
        grace_seconds=4,
        fresh=True,
        candidates=candidates,
        ages=dict.fromkeys(pods, 1000.0),
        pods=pods,
        evictions_per_hour=rules.limits.evictions_per_hour,
        concurrent_nodes=0,
        concurrent_limit=1,
        blind=world.blind,
        workload_allowance=lambda _: allowed,
        protected=lambda pod: world.protected.get(pod.uid),
        still=lambda: world.still,
    )
    world.follower.follow(world.memory, NODE, pods, Mode.ENFORCE)
    return world.actor.act(world.memory, situation, world.store)
