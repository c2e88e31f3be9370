"""The arithmetic of lines: rounding as the kernel's, margins, closed zones, nodes."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import shapes

from memorypressure.gate import gate_thresholds
from memorypressure.sampling import headroom_pages, marks_of, rooms
from memorypressure.zones import CountedZone, Line, NumaNode, Zone, ZoneInfo, parse_zoneinfo


def zone(free: int = 1000, minimum: int = 634, boost: int = 0, managed: int = 100_000, **others: object) -> Zone:
    """A zone Normal of node 0 with low and high as the kernel would set them."""
    raw = minimum - boost
    values = {
        "node": 0, "name": "Normal", "free_pages": free, "boost_pages": boost, "boost_known": True,
        "min_pages": minimum, "low_pages": minimum + raw // 4, "high_pages": minimum + raw // 4 * 2,
        "managed_pages": managed,
    }  # fmt: skip
    return Zone(**(values | others))  # type: ignore[arg-type]


def node(*counted: CountedZone) -> NumaNode:
    """A node of these zones alone."""
    return NumaNode(0, counted, 0, 0, 0, movable_above_low=False)


@pytest.mark.parametrize(
    ("raw_min", "reserve", "floor"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (2, 1, 1),
        (3, 2, 2),
        (7, 4, 3),
        (8, 4, 3),
        (23, 12, 9),
        (634, 317, 238),
        (55495, 27748, 20811),
    ],
)
def test_reserve_and_floor_round_as_the_kernel_does(raw_min: int, reserve: int, floor: int) -> None:
    counted = CountedZone(zone(minimum=raw_min), 0)
    assert (counted.lines.atomic_reserve, counted.lines.atomic_floor) == (reserve, floor)


def test_boost_lowers_no_atomic_line_and_raises_the_others() -> None:
    counted = CountedZone(zone(minimum=2059, boost=1425), 10)
    assert counted.lines.atomic_reserve == 317 + 10
    assert counted.lines.min == 2059 + 10


@pytest.mark.parametrize(
    ("line", "margin", "pages"),
    [
        (Line.ATOMIC_RESERVE, 0, 317 + 408),
        (Line.ATOMIC_RESERVE, 50, 475 + 408),
        (Line.ATOMIC_RESERVE, 400, 1585 + 408),
        (Line.MIN, 10, 697 + 408),
        (Line.LOW, 0, 792 + 408),
    ],
)
def test_the_margin_raises_the_mark_and_not_the_protection(line: Line, margin: int, pages: int) -> None:
    assert CountedZone(zone(), 408).line_pages(line, margin) == pages


@pytest.mark.parametrize(
    ("line", "margin", "clear"),
    [
        (Line.ATOMIC_RESERVE, 0, 792),
        (Line.MIN, 0, 792),
        (Line.LOW, 0, (792 + 950) // 2),
        (Line.HIGH, 0, 950),
        (Line.ATOMIC_RESERVE, 400, 1585),
        (Line.MIN, 100, 1268),
    ],
)
def test_a_trigger_clears_at_low_or_higher_and_never_under_its_own_line(line: Line, margin: int, clear: int) -> None:
    assert CountedZone(zone(), 0).clear_line_pages(line, margin) == clear


@pytest.mark.parametrize(("free", "below"), [(316, True), (317, True), (318, False)])
def test_exactly_on_the_line_is_below(free: int, below: bool) -> None:
    assert node(CountedZone(zone(free=free), 0)).below(Line.ATOMIC_RESERVE) is below


def test_a_closed_zone_counts_as_below_but_never_alone() -> None:
    closed = CountedZone(zone(free=400, managed=400), 408)
    below, above = CountedZone(zone(free=100), 0), CountedZone(zone(free=900), 0)
    assert closed.closed(Line.ATOMIC_RESERVE)
    assert node(closed, below).below(Line.ATOMIC_RESERVE)
    assert not node(closed, above).below(Line.ATOMIC_RESERVE)
    assert not node(closed, closed).below(Line.ATOMIC_RESERVE)
    assert not node().below(Line.ATOMIC_RESERVE)


def test_headroom_is_what_all_open_zones_can_lose_and_lacking_what_they_lack() -> None:
    closed = CountedZone(zone(free=400, managed=400), 408)
    above, below = CountedZone(zone(free=900), 0), CountedZone(zone(free=100), 0)
    assert node(closed, above, below).headroom_pages(Line.ATOMIC_RESERVE) == 900 - 317
    assert node(closed).headroom_pages(Line.ATOMIC_RESERVE) is None
    assert node(closed, above, below).lacking_pages() == (950 - 900) + (950 - 100)


def test_a_recording_without_protection_has_none() -> None:
    info = ZoneInfo((zone(free=100),), 4096, 0)
    assert info.nodes[0].counted[0].protection_pages == 0
    assert info.nodes[0].below(Line.ATOMIC_RESERVE)


pages = st.integers(0, 1 << 40)
margins = st.integers(0, 400)


@given(pages, pages, pages, pages, margins, st.sampled_from(Line), pages)
def test_a_zone_that_loses_pages_never_rises_above_a_line(
    minimum: int, free: int, lost: int, managed: int, margin: int, line: Line, protection: int
) -> None:
    before = node(CountedZone(zone(free, minimum, managed=managed), protection))
    after = node(CountedZone(zone(free - lost, minimum, managed=managed), protection))
    assert after.below(line, margin) >= before.below(line, margin)


@given(pages, pages, pages, margins, st.sampled_from(Line), pages)
def test_headroom_is_zero_exactly_below_and_above_clear_excludes_below(
    minimum: int, free: int, managed: int, margin: int, line: Line, protection: int
) -> None:
    judged = node(CountedZone(zone(free, minimum, managed=managed), protection))
    assert (judged.headroom_pages(line, margin) == 0) is judged.below(line, margin)
    assert not (judged.above_clear(line, margin) and judged.below(line, margin))


few = st.integers(0, 60)
some_zones = st.lists(
    st.builds(
        zone, free=few, minimum=few, managed=few, low_pages=few, high_pages=few, free_cma_pages=few,
        node=st.integers(0, 1), name=st.sampled_from(["DMA", "DMA32", "Normal", "Movable"]),
        boost_known=st.booleans(), protection=st.tuples(few),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(some_zones, margins, margins, st.sampled_from(Line))
def test_what_is_plainly_above_every_line_is_below_none_with_that_margin_or_less(
    found: list[Zone], margin: int, less: int, line: Line
) -> None:
    info = ZoneInfo(tuple(found), 4096, 0)
    if info.is_above_every_line(margin):
        assert not any(node.below(line, min(margin, less)) for node in info.nodes)


@given(some_zones, st.lists(st.tuples(st.sampled_from(Line), margins), max_size=3))
def test_rooms_are_the_headroom_to_the_nearest_of_the_lines(found: list[Zone], watched: list[tuple[Line, int]]) -> None:
    info, lines = ZoneInfo(tuple(found), 4096, 0), tuple(watched)
    judged = [node.number for node in info.nodes if node.counted]
    assert list(rooms(info, marks_of(info, lines))) == [(each, headroom_pages(info, each, lines)) for each in judged]


def test_one_zone_above_high_is_enough_for_its_node_and_every_judged_node_needs_one() -> None:
    high, low = zone(free=5000, name="Normal"), zone(free=10, name="DMA32")
    assert ZoneInfo((low, high), 4096, 0).is_above_every_line(400)
    assert not ZoneInfo((low, high, replace(low, node=1)), 4096, 0).is_above_every_line()
    assert not ZoneInfo((high,), 4096, 0, frozenset((Line.HIGH,))).is_above_every_line(), "High is not told"


@pytest.mark.parametrize("name", [each.name for each in fields(Zone)])
def test_readings_with_the_same_key_have_the_same_lines_and_gates(name: str) -> None:
    known = zone(free=900, minimum=700, boost=60, managed=9_000, cma_pages=50, cma_known=True, cpus=4)
    known = replace(known, protection=(80,), stat_threshold_pages=3)
    value = getattr(known, name)
    other = {"name": "DMA32", "protection": (81,)}.get(name, not value if isinstance(value, bool) else None)
    changed = replace(known, **{name: value + 1 if other is None else other})
    before, after = ZoneInfo((known,), 4096, 0), ZoneInfo((changed,), 4096, 0)
    lines = ((Line.MIN, 0), (Line.LOW, 50))
    made = [
        (gate_thresholds(info, lines), gate_thresholds(info, lines, clear_lines=True), marks_of(info, lines))
        for info in (before, after)
    ]
    assert (before.lines_key == after.lines_key) is (name in NOT_OF_LINES)
    assert made[0] == made[1] or before.lines_key != after.lines_key


NOT_OF_LINES = ("free_pages", "free_cma_pages", "held_pages", "uses_told", "compressed_pages")


@pytest.mark.parametrize("kernel", [(4, 19), (5, 4), (5, 15)])
@pytest.mark.parametrize("boost", [0, 512, 15_000])
def test_where_boost_is_hidden_raw_min_is_bounded_by_what_boost_does_not_move(
    kernel: tuple[int, int], boost: int
) -> None:
    """A virtual machine whose min is 0.8 % of its zone: a quarter of it is the distance from min to low."""
    machine = shapes.Machine(
        kernel, {0: (shapes.ZoneShape("Normal", 2_000_000, 90_000, 16_000, boost_pages=boost),)}, types=shapes.NO_DMA
    )
    (zone,) = [zone for zone in parse_zoneinfo(shapes.zoneinfo(machine), 4096).zones if zone.managed_pages]
    assert not zone.boost_known
    assert 16_000 <= zone.raw_min_pages <= 16_003
    assert zone.mark_pages(Line.ATOMIC_RESERVE) <= 8_002


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 32), st.integers(0, 1 << 30))
def test_the_bound_of_raw_min_is_never_below_raw_min(raw_min: int, managed: int, boost: int) -> None:
    step = max(raw_min >> 2, managed * 10 // 10_000)
    marks = (raw_min + boost, raw_min + boost + step, raw_min + boost + 2 * step)
    assert Zone(0, "Normal", 0, 0, False, *marks, managed).raw_min_pages >= raw_min
    assert Zone(0, "Normal", 0, 0, False, *marks, managed).raw_min_pages <= raw_min + boost
