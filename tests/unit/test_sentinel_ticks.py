"""Rounds of gates alone: what the sampler knows after them is what it would know if each had been a whole round."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.samplerbench import MS, SECOND, Bench

from memorypressure.sampling import LONGEST_NS, Drains, NodeDrain, assumed_rate, next_period_ns
from memorypressure.signals import Absent, Unknown
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.host.flight_reader import rings
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.host.sources import first_count
from memorypressure_agent.sentinel.clocks import Waits
from memorypressure_agent.sentinel.readings import SLOW_WATCHING_NS
from memorypressure_agent.sentinel.ticks import Gate, Ticks
from memorypressure_tools.floodplayer import Reading


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
    bench.sampler.put_down_ticks()
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


@pytest.mark.parametrize("free_pages", [9_000, 11_000, 20_000, 32_000, 60_000])
def test_zoneinfo_is_read_once_a_second_whatever_the_period_behind_shut_gates(
    bench: Bench, free_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_ns, read, at = MS // 10, bench.readings._full, []

    def full(now_ns: int, *, clear_lines: bool) -> ZoneInfo | Absent | Unknown:
        at.append(now_ns)
        return read(now_ns, clear_lines=clear_lines)

    def sleep(seconds: float) -> None:
        bench.now += round(seconds * SECOND) + late_ns

    monkeypatch.setattr(bench.readings, "_full", full)
    bench.machine.show(Reading(0.0, free_pages, 0, 634))
    waits, began = Waits(bench.clock, bench.clock, sleep, woke_ns=bench.now), bench.now
    while bench.now < began + 20 * SECOND:
        period = bench.sampler.round(waits)
        sleep((waits.woke_ns + period - bench.now) / SECOND)
        waits.woke_ns = bench.now
    assert max(later - before for before, later in itertools.pairwise(at)) <= SECOND + late_ns
    assert len(at) <= 22


def test_orders_with_other_lines_between_two_ticks_are_followed_from_a_full_reading_on(bench: Bench) -> None:
    settle(bench)
    for _ in range(5):
        bench.round(10, 90_000)
    full = bench.readings.full_reads
    bench.readings.watch(((Line.HIGH, 0),))
    bench.round(10, 90_000)
    assert bench.readings.full_reads == full + 1
    bench.readings.watch(())
    for _ in range(5):
        bench.round(10, 90_000)
    assert bench.readings.full_reads == full + 2


def test_above_the_reserve_looks_at_gates_stand_between_two_samples_and_a_dip_gets_one_at_once(bench: Bench) -> None:
    settle(bench)
    for _ in range(3):
        bench.round(100, 700)  # under Low, above the reserve
    full, sampled = bench.readings.full_reads, bench.sampler.state
    for _ in range(9):
        assert bench.round(10, 700) == 10 * MS
    assert bench.readings.full_reads == full
    assert bench.sampler.state is sampled, "a look is no sample"
    bench.round(5, 150)
    assert bench.readings.full_reads == full + 1
    assert bench.sampler.state != sampled
    assert bench.sampler.period_ns == 10 * MS
    assert bench.sampler.state.triggers.of("reserve").holds


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gates=st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)), min_size=1, max_size=3),
    cost_ns=st.integers(0, 30 * MS),
    longest_ns=st.sampled_from([SLOW_WATCHING_NS, LONGEST_NS]),
)
def test_between_readings_the_period_is_the_cores_choice(
    tmp_path: Path, gates: list[tuple[int, int]], cost_ns: int, longest_ns: int
) -> None:
    threshold, now = 1000, 5 * SECOND
    ticks, drains, opened = Ticks(), [], []
    for node, (room, rate) in enumerate(gates):
        file = tmp_path / str(node)
        file.write_text(f"nr_free_pages {threshold + room}\n")
        opened.append(
            Gate(node, os.open(file, os.O_RDONLY), threshold, assumed_rate(drain(node, rate), node, now, 4096))
        )
        drains += drain(node, rate).nodes
    rooms = tuple([(node, room) for node, (room, _) in enumerate(gates)])
    ticks.arm(tuple(opened), tuple([threshold + room for room, _ in gates]), now)
    ticks.begin(10 * SECOND, longest_ns)
    ticks.cost_ns = cost_ns
    period = ticks.run(now, 10 * SECOND, None)
    for gate in opened:
        os.close(gate.descriptor)
    chosen = next_period_ns(Drains(now, tuple(drains), now), rooms, now, 4096, cost_ns, watching=False)
    assert period == ticks.period_ns == min(chosen, longest_ns)


@given(
    st.one_of(
        st.sampled_from(
            [
                b"nr_free_pages 2000\n",
                b"nr_free_pages 2000\nnr_zone 1\n",
                b"nr_free_pages 2000",
                b"nr_free_pages \n",
                b"",
                b"nr_free_pages +2000\n",
                b"nr_free_pages 2_000\n",
                b"nr_free_pages  2000\n",
                b"nr_free_page 20000\n",
                b"\n",
            ]
        ),
        st.text(alphabet="nr_fepags 019\n", max_size=40).map(str.encode),
    )
)
@settings(max_examples=100, deadline=None)
def test_a_gate_is_read_as_first_count_reads_it_or_asks_for_a_sample(text: bytes) -> None:
    descriptor = os.memfd_create("vmstat")
    os.write(descriptor, text)
    ticks = Ticks()
    ticks.arm((Gate(0, descriptor, 1000, 1000),), (2000,), SECOND)
    ticks.begin(10 * SECOND, LONGEST_NS)
    period = ticks.run(SECOND + MS, 10 * SECOND, None)
    os.close(descriptor)
    free = first_count(text)
    if free is None or free <= 1000 or 2000 - free > 1:
        assert period is None
        assert not ticks.taken
    else:
        assert ticks.taken.pop() == (SECOND + MS, (free,))


def test_between_readings_the_loop_waits_by_the_clock_and_counts_how_late_it_woke(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 90000\n")
    clock, asked = [100 * SECOND], []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        clock[0] += round(seconds * SECOND) + 2 * MS

    waits = Waits(lambda: clock[0], lambda: clock[0] + 7 * SECOND, sleep, woke_ns=100 * SECOND - 40 * MS)
    ticks = Ticks()
    gate = Gate(0, os.open(file, os.O_RDONLY), 1000, 1_000_000)
    ticks.arm((gate,), (90_000,), 107 * SECOND - 40 * MS)
    ticks.begin(107 * SECOND + 100 * MS, LONGEST_NS)
    assert ticks.run(107 * SECOND, 200 * SECOND, waits) is None
    os.close(gate.descriptor)
    assert ticks.period_ns == 44_500_000
    assert asked == pytest.approx([0.0045, 0.0445, 0.0445])
    assert waits.late_ns == [2 * MS] * 3
    assert [time_ns - 107 * SECOND for time_ns, _ in ticks.taken] == [0, 6_500_000, 53_000_000]


def test_a_suspend_between_two_readings_is_no_lateness(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 90000\n")
    running, boot = [100 * SECOND], [107 * SECOND]

    def sleep(seconds: float) -> None:
        running[0] += round(seconds * SECOND) + MS
        boot[0] += round(seconds * SECOND) + MS + (3600 * SECOND if len(waits.late_ns) == 1 else 0)

    waits = Waits(lambda: running[0], lambda: boot[0], sleep, woke_ns=running[0])
    ticks = Ticks()
    gate = Gate(0, os.open(file, os.O_RDONLY), 1000, 1_000_000)
    ticks.arm((gate,), (90_000,), boot[0] - MS)
    ticks.begin(5000 * SECOND, LONGEST_NS)
    assert ticks.run(boot[0], boot[0] + 3600 * SECOND + 200 * MS, waits) is None
    os.close(gate.descriptor)
    assert waits.late_ns == [MS] * len(ticks.taken)
    assert len(ticks.taken) == 5
    assert waits.woke_ns == running[0]


def drain(node: int, rate: int) -> Drains:
    """A node that lost so many pages a second five seconds after boot."""
    return Drains(5 * SECOND, (NodeDrain(node, (), rate, 5 * SECOND),))


START = 10_000 * SECOND
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
    pair = [Bench(tmp_path_factory.mktemp("ticks"), ticking=ticking, now_ns=START) for ticking in (True, False)]
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
