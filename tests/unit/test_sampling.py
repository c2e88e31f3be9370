"""When the next reading is due: in time for the fastest drain seen, and within 2 % of a core."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure.sampling import (
    ASSUMED_DRAIN_BYTES_PER_SECOND,
    HALF_LIFE_NS,
    LONGEST_NS,
    MOST_OWED_NS,
    MOST_SAVED_NS,
    SHORTEST_NS,
    WATCHING_NS,
    Drains,
    Hurry,
    NodeDrain,
    headroom_pages,
    next_period_ns,
    observe,
    observe_gates,
    saved_ns,
    time_to_line_seconds,
)
from memorypressure.zones import Line, Zone, ZoneInfo

PAGE = 4096
SECOND = 1_000_000_000
WATCHED = ((Line.ATOMIC_RESERVE, 0), (Line.LOW, 0))


def info(*free: int, minimum: int = 1000) -> ZoneInfo:
    """A node with a DMA32 and a Normal zone of that many free pages (or only the first)."""
    names = ("DMA32", "Normal")
    zones = (
        Zone(0, name, pages, 0, True, minimum, minimum * 5 // 4, minimum * 3 // 2, 1 << 30)
        for name, pages in zip(names, free, strict=False)
    )
    return ZoneInfo(tuple(zones), PAGE, 0)


def drain_of(rate: int, seen_ns: int = 0) -> Drains:
    """A node that was seen to lose that many pages a second."""
    return Drains(seen_ns, (NodeDrain(0, (), rate, seen_ns),))


def test_the_fastest_loss_is_kept_and_gains_do_not_hide_losses() -> None:
    drains = observe(Drains(), info(5000, 5000), 0)
    drains = observe(drains, info(4000, 7000), SECOND // 2)
    assert drains.nodes[0].fastest_pages_per_second == 2000
    drains = observe(drains, info(3900, 7000), SECOND)
    assert drains.nodes[0].fastest_pages_per_second == 2000


def test_what_was_seen_counts_half_after_every_minute() -> None:
    drain = NodeDrain(0, (), 1000, 0)
    assert [drain.pages_per_second(HALF_LIFE_NS * count) for count in (0, 1, 2, 9, 200)] == [1000, 500, 250, 2, 1]
    drains = observe(drain_of(1000), info(9000), 0)
    drains = observe(drains, info(8000), 2 * HALF_LIFE_NS)
    assert drains.of(0) == NodeDrain(0, (("DMA32", 8000),), 1000, 0, 8000)


def test_a_reading_of_an_earlier_time_teaches_nothing() -> None:
    drains = observe(observe(Drains(), info(5000), SECOND), info(10), SECOND // 2)
    assert drains.nodes[0].fastest_pages_per_second == 0


def test_headroom_is_to_the_nearest_watched_line_over_all_open_zones() -> None:
    assert headroom_pages(info(2000, 3000), 0, WATCHED) == (2000 - 1250) + (3000 - 1250)
    assert headroom_pages(info(2000), 7, WATCHED) is None
    assert headroom_pages(info(2000), 0, ()) is None


def test_time_to_the_line_is_headroom_over_drain() -> None:
    assert time_to_line_seconds(drain_of(500), 0, 1000, 0) == 2.0
    assert time_to_line_seconds(drain_of(0), 0, 1000, 0) is None
    assert time_to_line_seconds(Drains(), 0, 1000, 0) is None
    assert time_to_line_seconds(drain_of(500), 0, None, 0) is None


@pytest.mark.parametrize(
    ("headroom", "rate", "cost_ns", "watching", "period_ns"),
    [
        (10**9, 0, 50_000, False, LONGEST_NS),
        (None, 0, 50_000, False, LONGEST_NS),
        (0, 0, 50_000, False, SHORTEST_NS),
        (16384, 0, 50_000, False, SECOND // 2),
        (16384, 163_840, 50_000, False, SECOND // 20),
        (0, 0, 1_000_000, False, 50_000_000),
        (10**9, 0, 50_000, True, WATCHING_NS),
        (10**9, 0, 3_000_000, True, 150_000_000),
        (10**9, 0, 9_000_000, True, 200_000_000),
        (10**9, 0, 90_000_000, False, LONGEST_NS),
    ],
)
def test_the_period_follows_headroom_drain_and_cost(
    headroom: int | None, rate: int, cost_ns: int, watching: bool, period_ns: int
) -> None:
    assert next_period_ns(drain_of(rate), ((0, headroom),), 0, PAGE, cost_ns, watching=watching) == period_ns


@given(
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 42),
    st.integers(0, 200_000),
    st.booleans(),
    st.sampled_from([4096, 16384, 65536]),
)
def test_a_cheap_reading_never_sleeps_past_the_line(
    headroom: int, rate: int, now_ns: int, cost_ns: int, watching: bool, page_size: int
) -> None:
    drains = drain_of(rate)
    period = next_period_ns(drains, ((0, headroom),), now_ns, page_size, cost_ns, watching=watching)
    fastest = max(drains.nodes[0].pages_per_second(now_ns), ASSUMED_DRAIN_BYTES_PER_SECOND // page_size)
    assert SHORTEST_NS <= period <= (WATCHING_NS if watching else LONGEST_NS)
    if period > SHORTEST_NS:
        assert period * fastest <= headroom * SECOND or period == cost_ns * 50


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 30), st.integers(0, 20_000_000), st.booleans())
def test_reading_takes_at_most_a_fiftieth_of_the_time_unless_a_dwell_would_be_lost(
    headroom: int, rate: int, cost_ns: int, watching: bool
) -> None:
    period = next_period_ns(drain_of(rate), ((0, headroom),), 0, PAGE, cost_ns, watching=watching)
    assert cost_ns * 50 <= period or (watching and period == 200_000_000)


@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 50_000), st.integers(0, 50_000)), min_size=2, max_size=30)
)
def test_the_fastest_drain_covers_every_loss_of_headroom_since(readings: list[tuple[int, int, int]]) -> None:
    now, drains, before = 0, Drains(), None
    for milliseconds, dma32, normal in readings:
        now += milliseconds * 1_000_000
        current = info(dma32, normal)
        drains = observe(drains, current, now)
        room = headroom_pages(current, 0, WATCHED)
        if before is not None and room is not None:
            assert drains.nodes[0].pages_per_second(now) * milliseconds >= (before - room) * 1000
        before = room


def test_between_full_readings_a_loss_is_what_the_nodes_free_pages_fell_by() -> None:
    drains = observe(Drains(), info(5000, 5000), SECOND)
    assert observe_gates(Drains(), ((0, 10),), SECOND) == Drains(), "before a full reading nothing is known"
    assert observe_gates(drains, ((0, 10),), SECOND) == drains, "no time has passed"
    drains = observe_gates(drains, ((0, 9000), (7, 1)), SECOND + SECOND // 100)
    assert (drains.nodes[0].fastest_pages_per_second, drains.nodes[0].seen_ns) == (100_000, SECOND + SECOND // 100)
    drains = observe_gates(drains, ((0, 8999),), SECOND + SECOND // 50)
    assert drains.nodes[0].fastest_pages_per_second == 100_000
    assert drains.nodes[0].usable_pages == (("DMA32", 5000), ("Normal", 5000)), "a gate tells nothing of zones"
    drains = observe(drains, info(5000, 4999), 2 * SECOND)
    assert drains.nodes[0].fastest_pages_per_second == 100_000


@given(
    st.integers(20_000, 4_000_000),
    st.lists(st.tuples(st.integers(0, 600_000), st.integers(1, 50)), min_size=1, max_size=12),
    st.integers(0, 190_000),
    st.booleans(),
)
def test_no_drain_that_was_seen_reaches_the_line_between_two_readings(
    free: int, phases: list[tuple[int, int]], cost_ns: int, through_gates: bool
) -> None:
    """A machine that loses pages in phases of some rate; each is slept through as the choice says."""
    mark, now, drains = 1250, SECOND, observe(Drains(), info(free), SECOND)
    fastest = ASSUMED_DRAIN_BYTES_PER_SECOND // PAGE
    for rate, readings in phases:
        for _ in range(readings):
            room = free - mark
            period = next_period_ns(drains, ((0, room),), now, PAGE, cost_ns, watching=False)
            assert SHORTEST_NS <= period <= LONGEST_NS
            assert period == SHORTEST_NS or fastest * period <= room * SECOND, "it sleeps past the line"
            assert cost_ns * 50 <= period, "more than 2 % of a core"
            now += period
            free -= rate * period // SECOND
            if free <= mark:
                return
            current = info(free)
            drains = observe_gates(drains, ((0, free),), now) if through_gates else observe(drains, current, now)
            fastest = max(ASSUMED_DRAIN_BYTES_PER_SECOND // PAGE, drains.nodes[0].pages_per_second(now))


def test_the_node_that_is_nearest_its_line_decides() -> None:
    drains = replace(drain_of(0), nodes=(NodeDrain(0, (), 0, 0), NodeDrain(1, (), 1 << 20, 0)))
    assert next_period_ns(drains, ((0, 10**9), (1, 1 << 20)), 0, PAGE, 0, watching=False) == SECOND // 2


def test_a_hurry_takes_its_part_of_a_core_and_on_average_no_more_than_was_saved() -> None:
    def period(cost_ns: int, hurry: Hurry) -> int:
        return next_period_ns(Drains(), ((0, 0),), 0, PAGE, cost_ns, watching=True, hurry=hurry)

    millisecond = 1_000_000
    costs = (1, 3, 8, 30, 300)
    assert [period(cost * millisecond, Hurry.NONE) // millisecond for cost in costs] == [50, 150, 200, 200, 600]
    assert [period(cost * millisecond, Hurry.WATCHING) // millisecond for cost in costs] == [10, 30, 80, 100, 600]
    assert [period(cost * millisecond, Hurry.BELOW_MIN) // millisecond for cost in costs] == [10, 10, 16, 60, 600]
    assert [period(cost * millisecond, Hurry.BELOW_RESERVE) // millisecond for cost in costs] == [10, 10, 16, 60, 600]
    assert [period(cost * millisecond, Hurry.DECIDING) // millisecond for cost in costs] == [10, 10, 10, 37, 375]
    assert {period(50_000, hurry) for hurry in Hurry} == {SHORTEST_NS}  # where a round is cheap nothing changes
    saved, spent, now = MOST_SAVED_NS, 0, 0
    while saved > 8 * millisecond:  # below Min for good, rounds of 8 ms
        step = period(8 * millisecond, Hurry.BELOW_MIN)
        saved, spent, now = saved_ns(saved, step, 8 * millisecond), spent + 8 * millisecond, now + step
    assert spent <= MOST_SAVED_NS + now // 50
    assert saved_ns(0, 300 * SECOND, 0) == saved_ns(0, 3000 * SECOND, 0) == MOST_SAVED_NS
    assert saved_ns(10, 0, 1000) == 0


def test_below_the_reserve_what_was_not_saved_is_lent_and_paid_back() -> None:
    millisecond = 1_000_000
    saved, rounds = 0, 0
    while Hurry.BELOW_RESERVE.may_use_ns(saved) > 10 * millisecond:  # rounds of 10 ms, half of a core
        saved, rounds = saved_ns(saved, 20 * millisecond, 10 * millisecond, on_credit=True), rounds + 1
    assert rounds == 208
    assert [hurry for hurry in Hurry if hurry.may_use_ns(0) > 0] == [Hurry.BELOW_RESERVE, Hurry.DECIDING]
    # Plain rounds that cost more than 2 % (200 ms apart, a window runs) make no debt, and pay none back.
    assert saved_ns(0, 200 * millisecond, 10 * millisecond) == 0
    assert saved_ns(-1000 * millisecond, 200 * millisecond, 10 * millisecond) == -1000 * millisecond
    assert saved_ns(-1000 * millisecond, 200 * millisecond, 1 * millisecond) == -997 * millisecond
    assert saved_ns(-MOST_OWED_NS, 100 * SECOND, 0) == 0


@pytest.mark.parametrize("cost_ms", [1, 2, 3, 4])
def test_below_the_reserve_for_good_the_average_comes_down_to_two_per_cent_and_half_of_a_core_is_slept(
    cost_ms: int,
) -> None:
    cost = cost_ms * 1_000_000
    saved, hurry, now, spent, early, period = MOST_SAVED_NS, Hurry.NONE, 0, 0, 0, 0
    while now < 1800 * SECOND:
        saved = saved_ns(saved, period, cost, on_credit=hurry is Hurry.BELOW_RESERVE)
        hurry = Hurry.BELOW_RESERVE if Hurry.BELOW_RESERVE.may_use_ns(saved) > cost else Hurry.NONE
        period = next_period_ns(Drains(), ((0, 0),), now, PAGE, cost, watching=True, hurry=hurry)
        assert period >= 2 * cost
        now, spent = now + period, spent + cost
        early = spent if now < 600 * SECOND else early
    assert spent - early <= (1800 - 600) * SECOND * 21 // 1000
