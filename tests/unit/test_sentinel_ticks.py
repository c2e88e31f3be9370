"""Rounds of gates alone: what the sampler knows after them is what it would know if each had been a whole round."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.samplerbench import MS, SECOND, Bench

from memorypressure.zone_values import Line
from memorypressure_agent.host.flight_reader import rings
from memorypressure_agent.host.journal_reader import JournalReader


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
