"""The gate: shut means not below, whatever the zones are, and while what it was computed from goes stale."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import shapes

from memorypressure.gate import (
    NodeVmstatError,
    gate_threshold_pages,
    gate_thresholds,
    parse_node_vmstat_free,
)
from memorypressure.zones import CountedZone, Line, NumaNode, Zone, ZoneInfo, parse_zoneinfo

PAGE = 4096
sizes = st.one_of(st.integers(0, 5000), st.integers(0, 1 << 36))


@st.composite
def machines(draw: st.DrawFn) -> ZoneInfo:
    """One node with any zones; free at most managed, but for the counters' error."""
    zones = []
    for name in draw(st.sets(st.sampled_from(shapes.ALL_TYPES), min_size=1)):
        managed = draw(sizes)
        raw_min, boost, step = draw(sizes), draw(sizes), draw(sizes)
        error = draw(st.integers(0, 125))
        cma_known = draw(st.booleans())
        cma = draw(st.integers(0, managed)) if cma_known else 0
        zones.append(
            Zone(
                0,
                name,
                draw(st.integers(0, managed + error * 4)),
                boost,
                draw(st.booleans()),
                raw_min + boost,
                raw_min + boost + step,
                raw_min + boost + 2 * step,
                managed,
                draw(st.integers(0, (cma + error * 4 if cma else 0) if cma_known else managed)),
                cma,
                cma_known,
                (draw(sizes),),
                error,
                4,
            )
        )
    return ZoneInfo(tuple(zones), PAGE, 0)


def node_free(info: ZoneInfo) -> int:
    """What the node's vmstat would say at the same moment."""
    return sum(zone.free_pages for zone in info.zones)


@given(machines(), st.sampled_from(Line), st.integers(0, 400), st.integers(0, 20000))
def test_a_shut_gate_means_that_the_node_is_not_below(info: ZoneInfo, line: Line, margin: int, factor: int) -> None:
    (node,) = info.nodes
    if node_free(info) > gate_threshold_pages(node, line, margin, boost_factor=factor):
        assert not node.below(line, margin)
    if node_free(info) > gate_threshold_pages(node, line, margin, clear_line=True, boost_factor=factor):
        assert node.above_clear(line, margin) or not node.counted


@given(machines(), st.sampled_from(Line), st.integers(0, 400))
def test_the_gate_is_never_lower_than_the_sum_it_stands_for(info: ZoneInfo, line: Line, margin: int) -> None:
    (node,) = info.nodes
    lines = sum(counted.line_pages(line, margin) for counted in node.counted)
    free_cma = sum(counted.zone.free_cma_pages for counted in node.counted)
    assert gate_threshold_pages(node, line, margin) >= lines + node.uncounted_managed_pages + free_cma


@given(machines(), st.sampled_from(Line), st.integers(0, 400), st.data())
def test_the_gate_holds_while_cma_is_freed_and_zones_are_boosted(
    info: ZoneInfo, line: Line, margin: int, data: st.DataObject
) -> None:
    (node,) = info.nodes
    threshold = gate_threshold_pages(node, line, margin)
    later = []
    for zone in info.zones:
        raw_high = zone.high_pages - (zone.boost_pages if zone.boost_known else 0)
        pageblock = data.draw(st.sampled_from([512, 8192]))
        can = pageblock * 4 <= zone.managed_pages
        most = max(raw_high * 15000 // 10000, pageblock) if can else zone.boost_pages
        added = max(0, data.draw(st.integers(0, most)) - zone.boost_pages)
        later.append(
            replace(
                zone,
                free_pages=data.draw(st.integers(0, zone.managed_pages)),
                free_cma_pages=data.draw(st.integers(0, zone.cma_pages if zone.cma_known else zone.managed_pages)),
                boost_pages=zone.boost_pages + (added if zone.boost_known else 0),
                min_pages=zone.min_pages + added,
                low_pages=zone.low_pages + added,
                high_pages=zone.high_pages + added,
            )
        )
    after = ZoneInfo(tuple(later), PAGE, 0)
    if node_free(after) > threshold:
        assert not after.nodes[0].below(line, margin)


def test_the_gate_of_an_ordinary_node_is_its_lines_its_other_zones_and_room_for_boost() -> None:
    zone = Zone(0, "Normal", 9000, 0, True, 634, 792, 950, 107192, 0, 0, True, (), 24, 2)
    node = NumaNode(0, (CountedZone(zone, 408),), 3840, 8, 0, movable_above_low=False)
    assert gate_threshold_pages(node, Line.ATOMIC_RESERVE) == 317 + 408 + 3840 + 8
    assert gate_threshold_pages(node, Line.MIN, boost_factor=0) == 634 + 408 + 3840 + 8
    assert gate_threshold_pages(node, Line.MIN) == 634 + 408 + 3840 + 8 + 8192
    assert gate_threshold_pages(node, Line.MIN, boost_factor=150_000) == 634 + 408 + 3840 + 8 + 14250


def test_the_gate_of_a_node_with_cma_has_room_for_the_error_of_its_counter() -> None:
    zone = Zone(0, "Normal", 2000, 0, True, 600, 750, 900, 1 << 20, 1048, 1000, True, (), 24, 2)
    info = ZoneInfo((zone,), PAGE, 0)
    (node,) = info.nodes
    assert not node.below(Line.ATOMIC_RESERVE)
    below = replace(zone, free_pages=1348)
    assert ZoneInfo((below,), PAGE, 0).nodes[0].below(Line.ATOMIC_RESERVE)
    assert gate_threshold_pages(node, Line.ATOMIC_RESERVE) == 300 + 1000 + 48


def test_the_highest_of_the_watched_lines_decides() -> None:
    info = parse_zoneinfo(shapes.zoneinfo(shapes.with_memoryless_nodes()), PAGE)
    node = info.nodes[1]
    watched = ((Line.ATOMIC_RESERVE, 0), (Line.LOW, 10))
    assert gate_thresholds(info, watched) == ((1, gate_threshold_pages(node, Line.LOW, 10)),)
    assert gate_thresholds(info, watched, clear_lines=True) == (
        (1, gate_threshold_pages(node, Line.LOW, 10, clear_line=True)),
    )
    assert gate_thresholds(info, ()) == ((1, -1),)


@pytest.mark.parametrize("kernel", shapes.KERNELS)
def test_a_nodes_vmstat_begins_with_its_free_pages_on_every_kernel(kernel: tuple[int, int]) -> None:
    machine = shapes.two_nodes(kernel)
    text = shapes.node_vmstat(machine, 0)
    assert parse_node_vmstat_free(text) == 3_403_840


@pytest.mark.parametrize(
    ("text", "line_number", "expected"),
    [
        (b"", 1, "'nr_free_pages' and a page count"),
        (b"nr_free_pages -1\n", 1, "'nr_free_pages' and a page count"),
        (b"nr_free_pages 12", 1, "'nr_free_pages' and a page count"),
        (b"nr_free_pages 012\n", 1, "'nr_free_pages' and a page count"),
        (b"nr_free_pages 4503599627370497\n", 1, "2^52"),
        (b"nr_mlock 1\nnr_free_pages 12\n", 1, "'nr_free_pages' and a page count"),
        (b"nr_free_pages 12\nnr_mlock 1\nnr_dirty\n", 3, "a counter's name and number"),
        (b"nr_free_pages 12\nnr_mlock 1", 2, "a counter's name and number"),
        (b"nr_free_pages 12\n\xff\x00 1\n", 2, "a counter's name and number"),
    ],
)
def test_a_vmstat_that_is_not_understood_is_named_by_its_line(text: bytes, line_number: int, expected: str) -> None:
    with pytest.raises(NodeVmstatError) as caught:
        parse_node_vmstat_free(text)
    assert (caught.value.line_number, expected in caught.value.expected) == (line_number, True)


@given(st.binary(max_size=80), st.integers(0, 400))
def test_a_damaged_vmstat_is_an_error_or_says_what_it_says(junk: bytes, at: int) -> None:
    text = shapes.node_vmstat(shapes.one_node(), 0)
    damaged = text[:at] + junk + text[at + len(junk) :]
    try:
        free_pages = parse_node_vmstat_free(damaged)
    except NodeVmstatError:
        return
    assert damaged.startswith(b"nr_free_pages %d\n" % free_pages)
