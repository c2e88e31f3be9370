"""Readings of real machines: the captures, and the machine that the tests run on."""

import os
from pathlib import Path

import pytest
from support import naive

from memorypressure.zones import Line, ZoneInfo, parse_zoneinfo

CAPTURES = Path(__file__).parents[1] / "fixtures" / "captures"
PAGE = 4096


def capture(name: str) -> ZoneInfo:
    """A capture, parsed."""
    return parse_zoneinfo((CAPTURES / f"zoneinfo-{name}.txt").read_bytes(), PAGE)


@pytest.mark.parametrize("name", ["6.18-host-1node-idle", "6.1-guest-1node-idle", "6.1-guest-1node-boosted"])
def test_a_machine_that_is_not_short_of_memory_is_clear_of_every_line(name: str) -> None:
    (node,) = capture(name).nodes
    assert node.below_lines() == ()


def test_a_reserve_taken_to_less_than_half_is_below_all_lines_but_the_floor() -> None:
    (node,) = capture("6.1-guest-1node-below-half").nodes
    assert node.below_lines() == (Line.HIGH, Line.LOW, Line.MIN, Line.ATOMIC_RESERVE)


def test_boost_does_not_raise_the_atomic_lines() -> None:
    (node,) = capture("6.1-guest-1node-boosted").nodes
    (counted,) = node.counted
    assert (counted.zone.boost_pages, counted.zone.min_pages, counted.zone.raw_min_pages) == (512, 1146, 634)
    assert counted.lines.atomic_reserve == 317
    assert counted.lines.atomic_floor == 238
    assert counted.lines.min == 1146


def test_the_guest_counts_its_dma32_alone_because_its_dma_is_small() -> None:
    (node,) = capture("6.1-guest-1node-below-half").nodes
    assert [counted.zone.name for counted in node.counted] == ["DMA32"]
    assert node.uncounted_managed_pages == 3840


def test_the_hosts_lines_carry_the_protection_of_class_normal() -> None:
    (node,) = capture("6.18-host-1node-idle").nodes
    dma32, normal = node.counted
    assert (dma32.protection_pages, normal.protection_pages) == (5632, 0)
    assert (dma32.lines.min, normal.lines.min) == (5886 + 5632, 10980)
    assert (dma32.lines.atomic_reserve, normal.lines.atomic_reserve) == (2943 + 5632, 5490)
    assert (dma32.zone.error_pages, normal.zone.error_pages) == (2 * 24, 2 * 28)


def test_every_number_of_a_capture_is_where_it_belongs() -> None:
    zone = capture("6.18-host-1node-idle").zones[1]
    assert (zone.node, zone.name, zone.free_pages, zone.boost_pages) == (0, "DMA32", 772789, 0)
    assert (zone.min_pages, zone.low_pages, zone.high_pages, zone.managed_pages) == (5886, 7357, 8828, 772915)
    assert (zone.free_cma_pages, zone.cma_pages, zone.cma_known, zone.boost_known) == (0, 0, True, True)
    assert (zone.protection, zone.stat_threshold_pages, zone.cpus) == ((0, 0, 5632, 5632, 5632), 24, 2)


def test_this_machine_is_understood() -> None:
    text = Path("/proc/zoneinfo").read_bytes()
    info = parse_zoneinfo(text, os.sysconf("SC_PAGE_SIZE"))
    assert info.counted_nodes
    assert [(zone.free_pages, zone.managed_pages, zone.protection) for zone in info.zones] == [
        (block.numbers["free"], block.numbers["managed"], block.protection) for block in naive.read(text)
    ]
