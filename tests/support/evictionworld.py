"""A node's evictions and clean-ups, with an API server that answers on demand and a clock that a test moves."""

from dataclasses import dataclass, field, replace
from typing import Any

from support.fakecluster import Clock, FakeCluster

from memorypressure.book import Book
from memorypressure.ledger import Ledger
from memorypressure.reasons import Reason
from memorypressure_operator.acting import Actor
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.cleanups import After, Cleaner
from memorypressure_operator.events import Event
from memorypressure_operator.memory import Cleanup, NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import PodView
from memorypressure_operator.tallies import Tally
from memorypressure_operator.views import NodeView

NODE = NodeView(name="n", uid="node-uid", labels={}, taints=(), ready=True)


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    events: list[Event] = field(default_factory=list)
    leads: bool = True
    protected: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    most: int = 6
    others: tuple[str, ...] = ()  # further policies with a ledger

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
