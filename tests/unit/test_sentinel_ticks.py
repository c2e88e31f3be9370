"""Rounds of gates alone: what the sampler knows after them is what it would know if each had been a whole round."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cgrouptree import CgroupTree
from support.sentinellab import CAPTURES, candidate, grant_for, orders

from memorypressure import ladder
from memorypressure.orders import encode
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.flight_reader import rings
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.host.sources import HostRoots, HostSources
from memorypressure_agent.sentinel.candidates import Candidates
from memorypressure_agent.sentinel.clocks import Clocks
from memorypressure_agent.sentinel.helper import Helper
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.orders_file import OrdersFile
from memorypressure_agent.sentinel.readings import Readings
from memorypressure_agent.sentinel.sampler import Sampler
from memorypressure_agent.sentinel.settings import SentinelSettings
from memorypressure_tools.floodplayer import FakeNode, Reading

MS = 1_000_000
SECOND = 1_000 * MS
UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
BOOT = "1" * 36


class Bench:
    """A sampler on a fake machine and a clock that only the test moves; its helper never runs."""

    def __init__(self, directory: Path, *, ticking: bool) -> None:
        self.now = 10_000 * SECOND
        self.machine = FakeNode(directory / "machine", CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt")
        tree = CgroupTree(directory / "cgroup")
        tree.add_pod(UID)
        pods = PodsTree(str(directory / "cgroup"))
        self.journal = Journal(str(directory / "journal"), BOOT)
        past = ladder.durable(ladder.initial(self.now, unknown_past=False))
        self.journal.write_state({"ladder": past, "pending": None})
        orders_path = directory / "orders"
        orders_path.write_bytes(encode(orders(candidate(UID, "a"), grant=grant_for(self.journal.incarnation))))
        roots = HostRoots(str(self.machine.proc), str(self.machine.sys), str(directory / "cgroup"))
        settings = SentinelSettings(roots, str(orders_path), self.journal.path, dry_run_only=True)
        helper = Helper(
            Candidates(pods, "", self.clock), Log(as_json=False), lambda: None, lambda: "", can_release=False
        )
        self.readings = Readings(HostSources(roots, clock=self.clock), self.clock)
        if not ticking:
            self.readings.tick = lambda _now: None  # type: ignore[method-assign]
        self.sampler = Sampler(
            settings, self.readings, self.journal, helper, OrdersFile(str(orders_path)),
            Clocks(self.clock, self.clock, lambda: 0), 4096,
        )  # fmt: skip

    def clock(self) -> int:
        return self.now

    def round(self, milliseconds: int, free_pages: int) -> int:
        self.now += milliseconds * MS
        self.machine.show(Reading(0.0, free_pages, 0, 634))
        return self.sampler.round()

    def close(self) -> None:
        self.journal.close()
        self.machine.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, ticking=True)
    yield made
    made.close()


def settle(bench: Bench) -> None:
    for _ in range(3):
        bench.round(1000, 90_000)
    bench.round(20, 90_000)


def test_between_samples_only_gates_are_read_and_all_of_it_is_recorded(bench: Bench) -> None:
    settle(bench)
    full = bench.readings.full_reads
    for number in range(50):
        bench.round(10, 90_000 - number)
    assert bench.readings.full_reads == full
    assert len(bench.readings.ticks) == 5
    with JournalReader(bench.journal.path) as reader:
        reader.refresh()
        recorded = rings(reader.flight())
    gates = [each.node_free_pages[0][1] for each in recorded if each.node_free_pages]
    elsewhere = gates[-1] - (90_000 - 49)
    assert [free - elsewhere for free in gates[-50:]] == [90_000 - number for number in range(50)]


def test_a_gate_that_opens_is_answered_in_the_same_round(bench: Bench) -> None:
    settle(bench)
    for _ in range(10):
        bench.round(10, 90_000)
    full = bench.readings.full_reads
    bench.round(10, 300)
    assert bench.readings.full_reads == full + 1
    assert bench.sampler.state.triggers.watching


def test_a_faster_loss_than_any_before_shortens_the_period_at_once(bench: Bench) -> None:
    settle(bench)
    for _ in range(10):
        assert bench.round(10, 90_000) > 500 * MS
    assert bench.round(10, 50_000) < 20 * MS, "4 million pages a second, 30,000 left to the gate"


STEPS = st.lists(
    st.tuples(
        st.sampled_from([10, 10, 10, 20, 50, 100, 300, 1000]), st.sampled_from([90_000] * 8 + [60_000, 20_000, 300])
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_nothing_is_known_otherwise_than_by_whole_rounds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    pair = [Bench(tmp_path_factory.mktemp("ticks"), ticking=ticking) for ticking in (True, False)]
    try:
        for milliseconds, free in [(1000, 90_000)] * 3 + steps:
            periods = [bench.round(milliseconds, free) for bench in pair]
            assert periods[0] == periods[1]
        for bench in pair:
            bench.sampler._catch_up()
        ticked, whole = (bench.sampler for bench in pair)
        assert ticked.state == whole.state
        assert ticked.counts.rounds == whole.counts.rounds
        assert ticked.below.entries() == whole.below.entries()
    finally:
        for bench in pair:
            bench.close()
