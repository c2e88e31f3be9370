"""A policy's ConfigMap: that it never outgrows what the API server takes, and that ages in it do not stand still."""

from dataclasses import replace
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure import ledger as ledger_module
from memorypressure.allotment import NodeView, decide, opened, settled
from memorypressure.grants import Lease
from memorypressure.ledger import CONFIG_MAP_BYTES, ENTRIES_BYTES, Entry, Ledger
from memorypressure.reasons import Reason
from memorypressure.spec_values import Limits, Mode, Share
from memorypressure_operator import evictions
from memorypressure_operator.budget import AGES_SECONDS, LAZY_SECONDS, POLL_SECONDS, Budgets, Store
from memorypressure_operator.evictions import RECORDS_BYTES, EvictionLog

LIMITS = Limits(60, 3, Share(percent=10), Share(percent=10), 20, 10_000, Share(count=10_000), 3600)
NAMES = {"maximal": 253, "usual": 45, "short": 4}


def node_view(number: int, length: int, *, pressed: bool = False) -> NodeView:
    return NodeView(
        node=f"{number:0{length}d}",
        mode=Mode.ENFORCE,
        grant=None,
        lease=Lease(f"{number:069d}" if length < 253 else f"{number:0128d}", 1, 0, 0),
        plan_uid="plan",
        plan_generation=1,
        armable=True,
        under_pressure=pressed,
        nearness=1.0,
        refill_slot=True,
        plan_newest=True,
    )


def filled(length: int) -> Ledger:
    """A ledger to which decisions add until they refuse."""
    views = [node_view(number, length) for number in range(4500)]
    found = decide(settled(opened(Ledger(), 0), views, frozenset(), 0), views, LIMITS, 5000)
    assert {waiting.reason for waiting in found.waiting} == {Reason.LEDGER_FULL}
    assert len(found.writes) + len(found.waiting) == len(views)
    assert len(found.desk.ledger.entries) == len(found.writes)
    return found.desk.ledger


def full_record(node: str, workload: str) -> EvictionLog:
    record, number = EvictionLog(), 0
    while not record.is_full():
        record = record.with_record(node, workload, f"{number:036d}", cleanup=number % 2 == 0)
        number += 1
    return record


@pytest.fixture(scope="module", params=NAMES.values(), ids=NAMES)
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return filled(request.param)


def test_a_ledger_that_is_full_has_room_for_figures_that_grow(ledger: Ledger) -> None:
    grown = tuple(replace(each, ceiling=10**5, counted=10**5, beat=10**7) for each in ledger.entries)
    for made in (ledger, replace(ledger, entries=grown, serial=10**12, buckets=(10**5,) * 13)):
        size = len(ledger_module.encode(made)[ledger_module.KEY])
        assert ENTRIES_BYTES * 0.99 < size <= CONFIG_MAP_BYTES - RECORDS_BYTES
        assert ledger_module.decode(ledger_module.encode(made)) == made


def test_what_a_full_ledger_refuses_it_gives_once_there_is_room(ledger: Ledger) -> None:
    gone, late = ledger.entries[0], node_view(9999, len(ledger.entries[0].node), pressed=True)
    refused = decide(opened(ledger, 0), [late], LIMITS, 5000)
    assert [waiting.reason for waiting in refused.waiting] == [Reason.LEDGER_FULL]
    assert str(len(ledger.entries)) in refused.waiting[0].message
    assert refused.desk.ledger.entries == ledger.entries
    assert not refused.write_ledger_first
    freed = replace(ledger, entries=tuple(each for each in ledger.entries[3:] if each != gone))
    assert [write.node for write in decide(opened(freed, 0), [late], LIMITS, 5000).writes] == [late.node]


def test_a_node_of_a_full_ledger_is_still_given_more(ledger: Ledger) -> None:
    entry = ledger.entries[0]
    view = replace(node_view(0, len(entry.node)), lease=Lease(entry.incarnation, 2, 1, 1))
    found = decide(settled(opened(ledger, 0), [view], frozenset(), 0), [view], LIMITS, 5000)
    assert [write.grant.kills_ceiling for write in found.writes if write.grant] == [2]


@pytest.mark.parametrize(
    "workload",
    ["ns/Deployment/w", f"{'n' * 63}/{'K' * 63}/{'w' * 253}", "ns/Kind/" + "é" * 300, 'ns/Kind/"\\\x00', "w" * 5000],
    ids=["short", "maximal", "unicode", "escaped", "boundless"],
)
def test_a_record_of_evictions_stays_within_its_share(workload: str) -> None:
    record = full_record("n" * 253, workload)
    size = len(evictions.encode(record.aged(3599.9)).encode())
    assert RECORDS_BYTES * 0.98 - evictions.RECORD_BYTES < size <= RECORDS_BYTES
    assert evictions.decode(evictions.encode(record)) == record
    assert {*record.workloads()} == {evictions.workload_key(workload)} != {evictions.workload_key(workload + "x")}
    assert not evictions.cleanup_allowed(record, 10_000, 10_000)


class World:
    def __init__(self) -> None:
        self.clock, self.cluster = Clock(), FakeCluster()
        self.budgets = self.process()
        self.store = self.budgets.store("p")

    def process(self) -> Budgets:
        api: Any = self.cluster
        return Budgets(api, "own", "ledger", self.clock, lambda: None)

    def begin(self, made: Ledger) -> Store:
        """A new process that reads what is there, or begins with this."""
        self.budgets = self.process()
        self.store = self.budgets.store("p")
        self.budgets.refresh(self.store, lambda: made)
        return self.store

    def round(self) -> None:
        assert self.store.desk is not None
        self.store.desk = settled(self.store.desk, [], frozenset(), int(self.clock.now * 1e9))
        self.budgets.write_lazily(self.store)


@pytest.fixture
def world() -> World:
    return World()


def test_what_does_not_fit_is_not_sent_and_the_reason_names_the_nodes_that_report_it(world: World) -> None:
    store = world.begin(Ledger())
    forged = tuple(Entry("bad", f"{number:0128d}", 9, 1, 1, 900) for number in range(4200))
    ledger = Ledger(entries=(*forged, Entry("good", "x", 1, 0, 1, 900)))
    writes = len(world.cluster.writes)
    assert not world.budgets.write(store, ledger, full_record("n" * 253, "w"))
    assert len(world.cluster.writes) == writes
    assert store.desk is None
    for words in ("own/ledger-p", "4201 allowances", "bad (4200), good (1)", "restart the agents"):
        assert words in store.problem
    world.budgets.refresh(store, Ledger)
    assert (store.desk is not None, store.problem) == (True, ""), "what was written holds"
    assert world.budgets.write(store, Ledger(serial=1), EvictionLog())


def test_a_kill_is_forgotten_after_an_hour_also_by_operators_that_do_not_live_so_long(world: World) -> None:
    ledger = Ledger(buckets=(1,) + (0,) * 12)
    store = world.begin(ledger)
    lifetime, age = 1000.0, 0.0
    while store.desk is not None and store.desk.ledger.spent:
        world.clock.now += POLL_SECONDS
        age += POLL_SECONDS
        world.round()
        if age % lifetime == 0:
            store = world.begin(ledger)
    assert 3600 <= age <= (3600 + 300) * lifetime / (lifetime - AGES_SECONDS)


def test_where_nothing_grows_older_nothing_is_written(world: World) -> None:
    store = world.begin(Ledger(entries=(Entry("n", "i", 1, 0, 1, 900),)))
    writes = len(world.cluster.writes)
    for _ in range(100):
        world.clock.now += LAZY_SECONDS
        world.round()
    assert len(world.cluster.writes) == writes
    assert world.budgets.write(store, Ledger(), EvictionLog().with_record("n", "w", "u"))
    writes = len(world.cluster.writes)
    for _ in range(200):
        world.clock.now += LAZY_SECONDS
        world.round()
    assert len(world.cluster.writes) == writes + 3600 / AGES_SECONDS - 1, "until the eviction is an hour old"
