"""Who took the reserve: what nobody claims counts as buffers' part, and only what grew since the node was above min."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import shapes
from support.sentinellab import CAPTURES

from memorypressure.signals import GateShut, Sample
from memorypressure.spec_values import NodesScope, TakenBy, Trigger, TriggerType, ZoneWatermark
from memorypressure.takers import MOST_AGE_NS, marked, taken
from memorypressure.triggers import TriggersState, TriggerStatus, advance, initial
from memorypressure.zones import Line, Zone, ZoneInfo, parse_zoneinfo

MS = 1_000_000
SECOND = 1000 * MS
PAGE = 4096
MANAGED = 1 << 20
MIN = 1000
LINE = 750  # AtomicReserve with a margin of 50 %

FREE = st.integers(0, 3 * MIN)


def zones(free: int, held: int = 500_000, *, compressed: int = 0, told: bool = True, minimum: int = MIN) -> ZoneInfo:
    low, high = minimum * 5 // 4, minimum * 3 // 2
    zone = Zone(0, "Normal", free, 0, True, minimum, low, high, MANAGED, 0, 0, True, (), 50, 2)
    return ZoneInfo(
        (replace(zone, held_pages=held if told else 0, uses_told=told, compressed_pages=compressed),), PAGE, 0
    )


def reserve(taken_by: TakenBy, scope: NodesScope = NodesScope.ANY_NODE) -> Trigger:
    watermark = ZoneWatermark(Line.ATOMIC_RESERVE, scope, 50, 15, 50, taken_by)
    return Trigger("reserve", TriggerType.ZONE_WATERMARK, watermark)


def played(readings: list[ZoneInfo], *triggers: Trigger) -> list[TriggersState]:
    state, states = initial(triggers), []
    for number, reading in enumerate(readings):
        state = advance(triggers, state, Sample(SECOND + number * 10 * MS, reading, None, None, None))
        states.append(state)
    return states


def status(readings: list[ZoneInfo], taken_by: TakenBy = TakenBy.BUFFERS) -> TriggerStatus:
    return played(readings, reserve(taken_by))[-1].triggers[0].status


def test_a_reserve_that_nobody_claims_is_taken_by_buffers() -> None:
    readings = [zones(1100), *[zones(600)] * 3]
    assert status(readings) is TriggerStatus.ACTIVE


def test_a_reserve_that_went_to_compressed_swap_is_not_but_for_any_taker() -> None:
    readings = [zones(1100, 500_000), *[zones(600, 500_500, compressed=500)] * 9]
    assert status(readings) is TriggerStatus.CLEAR
    assert status(readings, TakenBy.ANY) is TriggerStatus.ACTIVE


def test_three_quarters_of_what_is_lacking_are_enough_and_less_is_not() -> None:
    before = zones(MIN)
    assert status([before, *[zones(600, 500_100)] * 3]) is TriggerStatus.ACTIVE
    assert status([before, *[zones(600, 500_101)] * 3]) is TriggerStatus.CLEAR


def test_where_there_is_compressed_swap_its_counters_may_lag_by_their_error() -> None:
    readings = [zones(1100, compressed=10), *[zones(600, compressed=10)] * 3]
    assert status(readings) is TriggerStatus.ACTIVE  # 500 grown, 100 of them not believed, 300 needed
    readings = [zones(1001, compressed=10), *[zones(600, 500_000, compressed=10)] * 3]
    assert status(readings) is TriggerStatus.ACTIVE  # 401, 301
    readings = [zones(1000, 500_000, compressed=10), *[zones(601, 500_000, compressed=10)] * 3]
    assert status(readings) is TriggerStatus.CLEAR  # 399, 299 of 399 lacking


def test_the_message_says_what_buffers_took() -> None:
    message = played([zones(1100), *[zones(600)] * 3], reserve(TakenBy.BUFFERS))[-1].triggers[0].message
    assert "lacks 400 pages to min, and buffers took 500 since it was above" in message


def test_a_kernel_that_does_not_tell_makes_it_unknown_and_leaves_the_other_as_it_is() -> None:
    readings = [zones(1100, told=False), *[zones(100, told=False)] * 9]
    state = played(readings, reserve(TakenBy.BUFFERS), reserve(TakenBy.ANY))[-1]
    assert [each.status for each in state.triggers] == [TriggerStatus.UNKNOWN, TriggerStatus.ACTIVE]
    assert "does not tell who holds pages" in state.triggers[0].message


def test_a_node_never_seen_above_min_does_not_hold() -> None:
    assert status([zones(600)] * 9) is TriggerStatus.CLEAR


def test_a_change_of_min_makes_what_was_seen_before_worthless() -> None:
    readings = [zones(1100), *[zones(600, minimum=1001)] * 9]
    assert status(readings) is TriggerStatus.CLEAR


def test_a_sample_above_min_says_nothing_after_a_minute() -> None:
    marks = marked((), zones(1100), 0)
    node = zones(600).nodes[0]
    assert taken(marks, node, MOST_AGE_NS) is not None
    assert taken(marks, node, MOST_AGE_NS + 1) is None


def test_shut_gates_leave_what_is_known() -> None:
    first = zones(1100)
    triggers = (reserve(TakenBy.BUFFERS),)
    state = advance(triggers, initial(triggers), Sample(SECOND, first, None, None, None))
    shut = GateShut(first, ((0, 9000),), clear_lines=False)
    after = advance(triggers, state, Sample(SECOND + 10 * MS, shut, None, None, None))
    assert after.marks == state.marks != ()


def test_of_two_zones_only_what_is_lacking_since_then_is_asked_for() -> None:
    def two(dma32: int, normal: int) -> ZoneInfo:
        zone = zones(dma32).zones[0]
        return ZoneInfo((replace(zone, name="DMA32"), replace(zone, name="Normal", free_pages=normal)), PAGE, 0)

    marks = marked((), two(1200, 600), 0)  # Normal lacked 400 then, and nobody asks who took those
    found = taken(marks, two(700, 600).nodes[0], MS)
    assert found is not None
    assert (found.lacking_pages, found.by_buffers_pages, found.by_buffers) == (300, 500, True)


def test_the_captures_tell_who_holds_pages() -> None:
    for path in sorted(CAPTURES.glob("zoneinfo-*.txt")):
        info = parse_zoneinfo(path.read_bytes(), PAGE)
        for node in info.counted_nodes:
            total = sum(zone.managed_pages for zone in info.zones if zone.node == node.number)
            assert node.unclaimed_pages is not None
            assert 0 < node.unclaimed_pages < total // 4, path.name


def test_kernel_stacks_are_told_in_kib_and_per_cpu_lists_are_held() -> None:
    text = (CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt").read_bytes()
    before = parse_zoneinfo(text, PAGE).nodes[0].unclaimed_pages
    stacks = int(text.split(b"nr_kernel_stack ")[1].split(b"\n")[0])
    after = text.replace(b"nr_kernel_stack %d\n" % stacks, b"nr_kernel_stack %d\n" % (stacks + 40))
    found = parse_zoneinfo(after, PAGE).nodes[0].unclaimed_pages
    assert before is not None
    assert found == before - 10
    count = text.split(b"count: ")[-1].split(b"\n")[0]
    after = text.replace(b"count: " + count, b"count: %d" % (int(count) + 7))
    assert parse_zoneinfo(after, PAGE).nodes[0].unclaimed_pages == before - 7 * text.count(b"count: " + count)


@pytest.mark.parametrize("kernel", [(4, 8), (4, 19), (5, 8), (5, 10), (5, 11), (6, 18)])
def test_stacks_and_page_tables_are_held_whether_zones_or_the_node_count_them(kernel: tuple[int, int]) -> None:
    text = shapes.zoneinfo(shapes.one_node(kernel))
    before = parse_zoneinfo(text, PAGE).nodes[0].unclaimed_pages
    assert before is not None
    for name, by, pages in ((b"nr_kernel_stack", 40, 10), (b"nr_page_table_pages", 40, 40)):
        line = re.compile(rb"(      " + name + rb" +)([0-9]+)\n")
        more = line.sub(lambda found, by=by: found[1] + b"%d\n" % (int(found[2]) + by), text)
        found = parse_zoneinfo(more, PAGE).nodes[0].unclaimed_pages
        assert found == before - pages * len(line.findall(text))


@pytest.mark.parametrize("missing", [b"nr_inactive_anon", b"nr_unevictable"])
def test_without_a_list_nothing_is_told(missing: bytes) -> None:
    text = (CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt").read_bytes()
    renamed = text.replace(b"      " + missing + b" ", b"      nr_other_lists ")
    assert parse_zoneinfo(renamed, PAGE).nodes[0].unclaimed_pages is None


@given(st.lists(FREE, min_size=2, max_size=20))
def test_what_others_take_never_counts_however_much_it_is(free_pages: list[int]) -> None:
    readings = [zones(free, MANAGED // 2 - free) for free in free_pages]
    for state in played(readings, reserve(TakenBy.BUFFERS), reserve(TakenBy.BUFFERS, NodesScope.ALL_NODES)):
        assert not any(trigger.holds for trigger in state.triggers)


@given(st.lists(FREE, min_size=1, max_size=20))
def test_what_nobody_claims_counts_as_if_the_taker_were_not_asked_for(free_pages: list[int]) -> None:
    readings = [zones(MIN), *map(zones, free_pages)]
    for state in played(readings, reserve(TakenBy.BUFFERS), reserve(TakenBy.ANY)):
        asked, any_taker = state.triggers
        assert (asked.status, asked.holds, asked.windows) == (any_taker.status, any_taker.holds, any_taker.windows)


@given(st.lists(st.tuples(FREE, st.integers(400_000, 500_000), st.booleans()), min_size=1, max_size=20))
def test_it_never_holds_where_the_line_alone_does_not(samples: list[tuple[int, int, bool]]) -> None:
    readings = [zones(free, held, told=told) for free, held, told in samples]
    for state in played(readings, reserve(TakenBy.BUFFERS), reserve(TakenBy.ANY)):
        asked, any_taker = state.triggers
        assert any_taker.holds or not asked.holds
