"""The flight recorder: what goes in comes out, within its 8 MiB, for as long as it says, episodes beside it."""

import mmap
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flightsamples import (
    ABSENT,
    DMA,
    MACHINE,
    MEMORY,
    MS,
    NORMAL,
    ONLY_SOME,
    PAGE,
    PSI,
    SECOND,
    START,
    TELLING,
    ZERO,
    free_of,
    full,
    gate,
    machine_of,
    with_free,
)

from memorypressure.signals import Absent, GateShut, Psi, Sample, Unknown
from memorypressure.zone_values import ZoneInfo
from memorypressure_agent.host import flight_format as layout
from memorypressure_agent.host.flight_reader import episodes, rings
from memorypressure_agent.host.flight_recorder import FlightRecorder


def bytes_of(area: mmap.mmap, recorder: FlightRecorder, sample: Sample) -> int:
    """What a sample takes in the open block it goes to."""
    used = {ring: ring.used for ring in (recorder._fast, recorder._slow)}
    recorder.add(sample)
    return sum(ring.used - before for ring, before in used.items())


def test_a_sample_comes_back_as_it_went_in(area: mmap.mmap) -> None:
    recorder = FlightRecorder(area, 0)
    recorder.add(full(START, with_free(MACHINE, 3840, 70, 80, boost=33)))
    recorder.add(gate(START + 10 * MS, 500_123))
    recorder.add(Sample(START + 20 * MS, Unknown("line 3"), None, None, None))
    recorder.add(full(START + 30 * MS, with_free(MACHINE, 3841, 4_000_000_000, 79), psi=ZERO))
    first, second, third, fourth = rings(area[:])
    assert first.time_ns == START
    assert (first.memory, first.psi_node, first.psi_pods) == (MEMORY, PSI, PSI)
    assert first.zones is not None
    populated = with_free(MACHINE, 3840, 70, 80, boost=33)
    assert [replace(zone, protection=()) for zone in first.zones.zones] == [
        replace(zone, protection=()) for zone in populated.zones if zone.managed_pages
    ]
    assert [each.lines for node in first.zones.nodes for each in node.counted] == [
        each.lines for node in populated.nodes for each in node.counted
    ]
    assert (second.zones, second.node_free_pages, second.memory) == (None, ((0, 500_123),), None)
    assert (third.zones, third.node_free_pages) == (None, ())
    assert free_of(fourth) == (3841, 4_000_000_000, 79)
    assert (fourth.psi_node, fourth.time_ns) == (ZERO, START + 30 * MS)
    assert fourth.zones is not None
    assert fourth.zones.zones[0].boost_pages == 0


def test_losses_of_gates_come_back_whether_or_not_they_fit_into_two_bytes(area: mmap.mmap) -> None:
    recorder = FlightRecorder(area, 0)
    recorder.add(full(START, with_free(MACHINE, 3840, 70, 80)))
    free = [100_000, 100_000 - 32_768, 100_000, 100_000 - 32_769, 100_000, 4_000_000_000]
    recorder.add_gates([(START + number * MS, (pages,)) for number, pages in enumerate(free, 1)])
    assert [each.node_free_pages for each in rings(area[:])[1:]] == [((0, pages),) for pages in free]


def test_who_holds_pages_comes_back_by_numa_node(area: mmap.mmap) -> None:
    told = replace(DMA, held_pages=400_000, uses_told=True)
    swap = replace(NORMAL, held_pages=90, compressed_pages=70)
    recorder = FlightRecorder(area, 0)
    machines = []
    for step, (held, compressed) in enumerate(((400_000, 70), (400_123, 70), (300_000, 4_000_000_000))):
        zones = replace(told, held_pages=held), replace(swap, compressed_pages=compressed), replace(NORMAL, node=1)
        machines.append(ZoneInfo(zones, PAGE, 2))
        recorder.add(full(START + step * 10 * MS, machines[-1], slow=not step))
    found = [each.zones for each in rings(area[:]) if each.zones]
    for machine, seen in zip(machines, found, strict=True):
        assert [node.unclaimed_pages for node in seen.nodes] == [node.unclaimed_pages for node in machine.nodes]
        assert [node.compressed_error_pages for node in seen.nodes] == [64, 0]
        assert sum(zone.compressed_pages for zone in seen.zones) == machine.zones[1].compressed_pages
    assert found[0].nodes[1].unclaimed_pages is None


def test_hidden_boost_and_absent_sources_come_back_as_such(area: mmap.mmap) -> None:
    hidden = [replace(zone, boost_known=False, cma_known=False) for zone in MACHINE.zones]
    recorder = FlightRecorder(area, 0)
    for step, added in enumerate((0, 512, 0)):
        zones = [
            replace(z, min_pages=z.min_pages + added, low_pages=z.low_pages + added, high_pages=z.high_pages + added)
            for z in hidden
        ]
        recorder.add(Sample(START + step * 10 * MS, ZoneInfo(tuple(zones), PAGE, 2), MEMORY, ONLY_SOME, ABSENT))
    found = rings(area[:])
    assert [each.zones.zones[2].min_pages for each in found if each.zones] == [900, 1412, 900]
    assert [each.zones.zones[2].low_pages for each in found if each.zones] == [1100, 1612, 1100]
    assert not any(zone.boost_known for each in found if each.zones for zone in each.zones.zones)
    assert {(each.psi_node, each.psi_pods) for each in found} == {(ONLY_SOME, None)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 8_000_000),
            st.sampled_from(["full", "slow", "gate", "unknown"]),
            st.lists(st.integers(0, layout.MOST_PAGES), min_size=3, max_size=3),
            st.integers(0, 70_000),
            st.sampled_from([PSI, ZERO, ONLY_SOME, ABSENT]),
            st.sampled_from([900, 1000]),
        ),
        max_size=120,
    )
)
def test_any_history_comes_back_in_order(history: list[tuple[int, str, list[int], int, Psi | Absent, int]]) -> None:
    with mmap.mmap(-1, layout.AREA_BYTES) as area:
        recorder = FlightRecorder(area, 0)
        now, given_samples = START, []
        recorder.add(full(now, MACHINE))
        for microseconds, kind, free, boost, psi, raw_min in history:
            now += max(100, microseconds) * 1000
            raised = replace(MACHINE.zones[2], min_pages=raw_min)
            machine = ZoneInfo((*MACHINE.zones[:2], raised, MACHINE.zones[3]), PAGE, 2)
            if kind == "gate":
                sample = gate(now, free[0])
            elif kind == "unknown":
                sample = Sample(now, Unknown("x"), None, None, None)
            else:
                sample = full(now, with_free(machine, *free, boost=boost), slow=kind == "slow", psi=psi)
            recorder.add(sample)
            given_samples.append((sample, kind))
        found = rings(area[:])[1:]
        assert len(found) == len(given_samples)
        for (sample, kind), seen in zip(given_samples, found, strict=True):
            assert abs(sample.time_ns - seen.time_ns) < 1_000 * layout.TICK_NS // 100
            if isinstance(sample.zones, ZoneInfo):
                populated = [zone for zone in sample.zones.zones if zone.managed_pages]
                assert seen.zones is not None
                assert [(z.free_pages, z.boost_pages, z.min_pages, z.high_pages) for z in seen.zones.zones] == [
                    (z.free_pages, z.boost_pages, z.min_pages, z.high_pages) for z in populated
                ]
            elif isinstance(sample.zones, GateShut):
                assert seen.node_free_pages == sample.zones.node_free_pages
            if kind == "slow":
                assert seen.memory == MEMORY
                assert seen.psi_node == (None if isinstance(sample.psi_node, Absent) else sample.psi_node)


@pytest.mark.parametrize(("machine", "for_uses"), [(MACHINE, 0), (TELLING, 4)], ids=["old kernel", "since 4.8"])
def test_bytes_a_sample_are_as_stated(area: mmap.mmap, machine: ZoneInfo, for_uses: int) -> None:
    recorder = FlightRecorder(area, 0)
    recorder.add(full(START, machine))
    recorder.add(full(START + 10 * MS, machine, slow=False))
    recorder.add(gate(START + 20 * MS, 9000))
    moved = with_free(machine, 3840, 499_000, 501_000)
    assert bytes_of(area, recorder, gate(START + 30 * MS, 9001)) == 7
    assert bytes_of(area, recorder, full(START + 40 * MS, moved, slow=False)) == 11 + for_uses
    boosted = with_free(machine, 3840, 499_000, 501_000, boost=512)
    assert bytes_of(area, recorder, full(START + 50 * MS, boosted, slow=False)) == 23 + for_uses
    assert bytes_of(area, recorder, full(START + 2 * SECOND, moved)) == 43 + for_uses


FAST = 600 * 100
"""Samples of 10 minutes, one every 10 ms."""
DAY = 86_400


@pytest.mark.parametrize(("zones", "telling_nodes"), [(9, 0), (3, 1), (5, 2)])
def test_ten_minutes_of_fast_samples_and_a_day_of_slow_ones_have_room(
    area: mmap.mmap, zones: int, telling_nodes: int
) -> None:
    recorder, machine = FlightRecorder(area, 0), machine_of(zones, telling_nodes)
    fast, slow = recorder._fast, recorder._slow
    tick = second = 0
    while fast.sequence < 9:
        tick += 1
        recorder.add(full(START + tick * 10 * MS, machine, slow=tick % 20 == 0))
    assert (tick - 1) / 8 * (layout.FAST_BLOCKS - 1) >= FAST
    recorder.add(full(START + 100 * SECOND, machine))  # after such a gap a block begins
    before = slow.sequence
    while slow.sequence < before + 8:
        second += 1
        recorder.add(full(START + (100 + second) * SECOND, machine))
    assert second / 8 * (layout.SLOW_BLOCKS - 1) >= DAY


@pytest.mark.soak
@pytest.mark.parametrize(("zones", "telling_nodes"), [(9, 0), (3, 1), (5, 2)])
def test_ten_minutes_of_fast_samples_are_there_every_one_of_all_zones(
    area: mmap.mmap, zones: int, telling_nodes: int
) -> None:
    recorder, machine = FlightRecorder(area, 0), machine_of(zones, telling_nodes)
    for tick in range(700 * 100):
        recorder.add(full(START + tick * 10 * MS, machine, slow=tick % 20 == 0))
    kept = [each for each in rings(area[:]) if each.time_ns >= START + 100 * SECOND]
    assert len(kept) == FAST
    assert kept[0].time_ns == START + 100 * SECOND


@pytest.mark.soak
@pytest.mark.parametrize(("zones", "telling_nodes", "every_seconds"), [(9, 0, 1), (3, 1, 1), (5, 2, 1), (10, 8, 3)])
def test_a_day_of_slow_samples_is_there(area: mmap.mmap, zones: int, telling_nodes: int, every_seconds: int) -> None:
    recorder, machine = FlightRecorder(area, 0), machine_of(zones, telling_nodes)
    for second in range(DAY + 3_600):
        recorder.add(full(START + second * SECOND, machine))
    first = START + 3_600 * SECOND
    kept = [each.time_ns for each in rings(area[:]) if each.time_ns >= first]
    assert kept[0] <= first + every_seconds * SECOND
    assert len(kept) >= DAY // every_seconds
    assert max(after - before for before, after in pairwise(kept)) <= every_seconds * SECOND


@pytest.mark.parametrize("zones", [80, 100, 127, 200])
def test_a_machine_of_too_many_zones_for_a_block_is_not_recorded_at_all(area: mmap.mmap, zones: int) -> None:
    recorder = FlightRecorder(area, 0)
    recorder.add(full(START, with_free(MACHINE, 3840, 70, 80)))
    huge = ZoneInfo(tuple(replace(NORMAL, node=number) for number in range(zones)), PAGE, 2)
    for number in range(1, 20):
        free = [4_000_000_000 - number] * zones
        recorder.add(full(START + number * 10 * MS, with_free(huge, *free, boost=number)))
    found = rings(area[:])
    assert free_of(found[0]) == (3840, 70, 80)
    assert len(found) == (20 if zones == 80 else 1)
    assert all(len(free_of(each)) == zones for each in found[1:])
    begun = [index * layout.BLOCK_BYTES for index in range(layout.BLOCKS)]
    begun = [offset for offset in begun if any(area[offset : offset + 8])]
    assert all(layout.unpack_block(area, offset) for offset in begun)


@pytest.mark.parametrize("garbage", [b"\xff", b"\x80", b"\x01"], ids=bytes.hex)
def test_a_recorder_goes_on_in_an_area_full_of_garbage(area: mmap.mmap, garbage: bytes) -> None:
    area[:] = garbage * layout.AREA_BYTES
    recorder = FlightRecorder(area, 0)
    for tick in range(300):
        recorder.add(full(START + tick * 10 * MS, MACHINE, slow=tick % 100 == 0))
        recorder.keep(1, START + tick * 10 * MS)
    assert len(rings(area[:])) == 300
    recorder.add(full(START + 60 * SECOND, MACHINE))
    assert len(episodes(area[:])[1]) == 301


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40 * layout.BLOCK_BYTES - 1), st.integers(1, 255)), min_size=1, max_size=20),
    st.booleans(),
)
def test_damage_loses_samples_and_invents_none(damage: list[tuple[int, int]], in_slow: bool) -> None:
    with mmap.mmap(-1, layout.AREA_BYTES) as area:
        recorder = FlightRecorder(area, 0)
        written = set()
        for tick in range(1_000):
            now, free = START + tick * 10 * MS, tick * 7 % 30_000
            recorder.add(full(now, with_free(MACHINE, 1, free, 2), slow=tick % 100 == 0))
            written.add((now, (1, free, 2)))
        base = layout.FAST_BLOCKS * layout.BLOCK_BYTES if in_slow else 0
        for offset, change in damage:
            area[base + offset] ^= change
        found = {(each.time_ns, free_of(each)) for each in rings(area[:])}
        assert found <= written
