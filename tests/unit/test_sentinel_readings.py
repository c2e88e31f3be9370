"""What is read of the machine and when, and what is counted of it."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import shapes
from support.sentinellab import lowest_of_the_flood
from support.sentinelparts import SECOND, Clock
from support.shapenode import ShapeNode, put

from memorypressure.signals import GateShut
from memorypressure.spec_values import AvailableMemory
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.host.sources import HostRoots, HostSources
from memorypressure_agent.sentinel.counters import BelowLineTimes, Lag
from memorypressure_agent.sentinel.readings import Readings
from memorypressure_tools.floodplayer import FakeNode, Reading


def readings_on(machine: FakeNode, clock: Clock) -> Readings:
    roots = HostRoots(str(machine.proc), str(machine.sys), "/nonexistent")
    readings = Readings(HostSources(roots, clock=clock), clock)
    readings.watch(((Line.ATOMIC_RESERVE, 0),))
    return readings


def test_far_from_a_line_one_full_reading_a_second_and_near_it_only_the_gate(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    assert isinstance(readings.sample(watching=False).zones, ZoneInfo)
    clock.now += SECOND // 10
    shut = readings.sample(watching=False)
    assert isinstance(shut.zones, GateShut)
    assert (shut.memory, shut.psi_node, shut.psi_pods) == (None, None, None)
    clock.now += SECOND
    whole = readings.sample(watching=False)
    assert isinstance(whole.zones, ZoneInfo)
    assert whole.memory is not None
    assert (readings.full_reads, readings.gate_reads) == (2, 1)


def test_a_kernel_without_numa_has_no_gates_so_every_reading_is_a_full_one(machine: FakeNode) -> None:
    shutil.rmtree(machine.sys / "devices/system/node")
    clock = Clock()
    readings = readings_on(machine, clock)
    for _ in range(3):
        assert isinstance(readings.sample(watching=False).zones, ZoneInfo)
        readings.charge(SECOND // 1000)
        assert readings.period_ns(watching=False) >= SECOND // 20, "of which each may take 2 % of a core"
        assert readings.guard(SECOND) is None
        clock.now += SECOND // 10
    assert (readings.full_reads, readings.gate_reads) == (3, 0)


def test_a_numa_node_that_goes_offline_is_looked_at_by_a_full_reading(
    machine: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    clock.now += SECOND // 10
    assert isinstance(readings.sample(watching=False).zones, GateShut)
    read, gate = os.preadv, readings._sources.gate_descriptor(0)

    def gone(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if descriptor == gate:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", gone)
    clock.now += SECOND // 10
    assert isinstance(readings.sample(watching=False).zones, ZoneInfo)
    assert (readings.full_reads, readings.gate_reads) == (2, 2)


def test_a_numa_node_that_comes_while_it_runs_has_no_gate_so_every_reading_is_a_full_one(tmp_path: Path) -> None:
    two = shapes.two_nodes()
    machine = ShapeNode(tmp_path, replace(two, nodes={0: two.nodes[0]}))
    clock = Clock()
    sources = HostSources(HostRoots(str(machine.proc), str(machine.sys), "/nonexistent"), clock=clock)
    readings = Readings(sources, clock)
    readings.sample(watching=False)
    clock.now += SECOND // 10
    assert isinstance(readings.sample(watching=False).zones, GateShut)
    put(machine.proc / "zoneinfo", shapes.zoneinfo(two))
    for _ in range(3):
        clock.now += SECOND
        zones = readings.sample(watching=False).zones
        assert isinstance(zones, ZoneInfo)
        assert [node.number for node in zones.nodes] == [0, 1]
        clock.now += SECOND // 10
        assert isinstance(readings.sample(watching=False).zones, ZoneInfo), "no gate tells of the new one"
    sources.close()


def test_below_the_reserve_a_slow_machine_is_read_in_a_hurry_while_time_is_saved_or_lent(
    machine: FakeNode,
) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    machine.show(lowest_of_the_flood())
    cost_ns = SECOND // 50
    periods = []
    for _ in range(430):
        readings.sample(watching=True)
        readings.charge(cost_ns)
        periods.append(readings.period_ns(watching=True))
        clock.now += periods[-1]
    hurried = periods.index(SECOND // 5)
    assert periods[:4] == [5 * cost_ns // 4] * 4, "those that decide"
    assert set(periods[4:hurried]) == {2 * cost_ns}
    assert 400 <= hurried < 418  # 6 s that were saved and 2 s on credit, of 20 ms each
    machine.idle()
    clock.now += 100 * SECOND
    readings.sample(watching=True)
    readings.charge(cost_ns)
    assert readings.period_ns(watching=True) == SECOND // 5, "looks at the gates tell when one is needed sooner"
    assert readings.guard(SECOND // 5) == SECOND // 100


def test_while_the_reserve_is_short_nothing_else_is_read_for_two_seconds(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    machine.show(Reading(0.0, 700, 0, 634))
    assert readings.sample(watching=True).memory is not None
    machine.show(lowest_of_the_flood())
    read_at = []
    for tenth in range(1, 45):
        clock.now += SECOND // 10
        if readings.sample(watching=True).memory is not None:
            read_at.append(tenth)
    assert read_at == [20, 40], "PSI's files have a lock that others hold for long in a flood"
    machine.show(Reading(0.0, 700, 0, 634))
    clock.now += SECOND // 10
    assert readings.sample(watching=True).memory is not None


def test_looks_between_two_samples_find_a_dip_and_pause_after_one_in_vain(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    machine.show(Reading(0.0, 700, 0, 634))
    for _ in range(2):
        readings.sample(watching=True)
    period = readings.period_ns(watching=True)
    assert (period, readings.guard(period)) == (SECOND // 10, SECOND // 100)
    assert readings.look() == SECOND // 100
    machine.show(Reading(0.0, 316, 0, 634))
    assert readings.look() is None
    machine.show(Reading(0.0, 700, 0, 634))
    readings.sample(watching=True)
    readings.charge(6_000_000)
    assert readings.guard(readings.period_ns(watching=True)) == 24_000_000
    readings.sample(watching=True)
    assert readings.guard(readings.period_ns(watching=True)) == SECOND // 100


def test_near_a_line_there_are_looks_between_samples_that_are_dear_though_no_window_runs(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    machine.show(Reading(0.0, 340, 0, 634))
    for _ in range(2):
        readings.sample(watching=False)
    readings.charge(6_000_000)
    period = readings.period_ns(watching=False)
    assert (period, readings.guard(period)) == (50 * 6_000_000, SECOND // 100)
    readings.charge_looks(10 * 700_000, 10)
    assert readings.guard(period) == readings.look() == 50 * 700_000, "2 % of a core, whatever is saved"
    machine.show(Reading(0.0, 316, 0, 634))
    assert readings.look() is None
    machine.idle()
    clock.now += SECOND
    readings.sample(watching=False)
    assert readings.guard(readings.period_ns(watching=False)) is None, "gates that are shut are read by ticks"


def test_looks_take_a_tenth_of_a_core_while_time_is_saved_and_two_per_cent_then(machine: FakeNode) -> None:
    readings = readings_on(machine, Clock())
    machine.show(Reading(0.0, 700, 0, 634))
    for _ in range(2):
        readings.sample(watching=True)
    readings.charge_looks(10 * 1_500_000, 10)
    assert readings.guard(SECOND // 10) == readings.look() == 15_000_000
    assert readings.guard(15_000_000) is None, "the sample is due as soon"
    for _ in range(4_000):
        readings.charge_looks(1_500_000, 1)
    assert readings.guard(SECOND // 10) == readings.look() == 75_000_000
    machine.show(Reading(0.0, 316, 0, 634))
    assert readings.look() is None
    machine.show(Reading(0.0, 700, 0, 634))
    readings.sample(watching=True)
    assert readings.guard(SECOND // 10) is None, "the last look was in vain, and no time is saved"


def test_memory_that_could_run_out_within_a_second_is_read_ten_times_a_second(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    (machine.proc / "meminfo").write_text(MEMINFO.format(available_kib=600 << 10), "ascii")
    readings.watch(((Line.ATOMIC_RESERVE, 0),), (AvailableMemory(2, None, None),))
    readings.sample(watching=False)
    assert readings.period_ns(watching=False) == SECOND
    for mib, period in ((500, SECOND), (144, SECOND // 10), (600, SECOND), (140, SECOND // 10)):
        (machine.proc / "meminfo").write_text(MEMINFO.format(available_kib=mib << 10), "ascii")
        clock.now += SECOND
        assert readings.sample(watching=False).memory is not None
        assert readings.period_ns(watching=False) == period
    clock.now += SECOND // 10
    assert readings.sample(watching=False).memory is not None


MEMINFO = (
    "MemTotal: 4096000 kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    "HugePages_Total: 0\nHugepagesize: 2048 kB\n"
)
"""4000 MiB; 2 % of them are 80 MiB."""


def test_an_open_gate_is_followed_by_a_full_reading_at_once(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    machine.show(lowest_of_the_flood())
    clock.now += SECOND // 100
    opened = readings.sample(watching=False)
    assert isinstance(opened.zones, ZoneInfo)
    assert opened.zones.counted_nodes[0].below(Line.ATOMIC_RESERVE)


def test_other_lines_to_watch_are_answered_by_a_full_reading(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    readings.watch(((Line.HIGH, 0),))
    clock.now += SECOND // 100
    assert isinstance(readings.sample(watching=False).zones, ZoneInfo)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_after_a_full_reading_between_two_slow_ones_both_are_due_together_again(machine: FakeNode, tenths: int) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    clock.now += tenths * SECOND // 10
    gates = readings._gates
    readings._gates = tuple((node, 1 << 40) for node, _ in gates)  # one opens, and it is nothing
    assert isinstance(readings.sample(watching=False).zones, ZoneInfo)
    readings._gates = gates
    readings._arm(readings.info, clock.now, tuple((node, 90_000) for node, _ in gates))  # type: ignore[arg-type]
    periods = []
    for _ in range(6):
        readings.charge(SECOND // 10_000)
        periods.append(readings.period_ns(watching=False))
        clock.now += periods[-1]
        readings.sample(watching=False)
    assert periods[3:] == [SECOND] * 3


@pytest.mark.parametrize("tenths", range(1, 10))
def test_other_lines_are_taken_with_a_whole_reading_after_which_nothing_is_due_for_a_second(
    machine: FakeNode, tenths: int
) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    clock.now += tenths * SECOND // 10
    readings.watch(((Line.ATOMIC_RESERVE, 0), (Line.LOW, 0)))
    whole = readings.sample(watching=False)
    assert isinstance(whole.zones, ZoneInfo)
    assert whole.memory is not None
    assert readings.period_ns(watching=False) == SECOND


def test_zones_that_are_not_understood_are_tried_once_a_second(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    (machine.proc / "zoneinfo").write_text("garbage\n")
    assert not isinstance(readings.sample(watching=False).zones, ZoneInfo)
    assert readings.info is None
    assert readings.period_ns(watching=False) == SECOND


def test_the_period_shrinks_towards_a_line(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    far = readings.period_ns(watching=False)
    machine.show(Reading(0.0, 700, 0, 634))
    clock.now += SECOND
    readings.sample(watching=False)
    near = readings.period_ns(watching=False)
    assert far == SECOND
    assert near == SECOND // 100


def test_behind_a_shut_gate_the_period_follows_the_room_to_the_gate_and_what_gates_saw(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    clock.now += SECOND // 100
    machine.show(Reading(0.0, 60_000, 0, 634))  # 38,000 pages in 10 ms: 14 GB/s
    assert isinstance(readings.sample(watching=False).zones, GateShut)
    assert readings.period_ns(watching=False) == SECOND // 100
    readings.charge(400_000)
    assert readings.period_ns(watching=False) == 50 * 400_000, "never more than 2 % of a core"


def test_one_costly_round_does_not_put_the_next_one_off_for_long(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    readings.sample(watching=False)
    readings.charge(100_000)
    machine.show(Reading(0.0, 700, 0, 634))
    clock.now += SECOND
    readings.sample(watching=False)
    readings.charge(80_000_000)
    assert readings.period_ns(watching=False) == SECOND // 100


def test_time_below_a_line_is_counted_from_each_sample_to_the_next(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    times = BelowLineTimes()

    def take(reading: Reading | None, after_ms: int) -> None:
        clock.now += after_ms * 1_000_000
        if reading is None:
            machine.idle()
        else:
            machine.show(reading)
        sample = readings.sample(watching=True, fresh=True)
        assert isinstance(sample.zones, ZoneInfo)
        times.observe(sample.zones, sample.time_ns)

    take(None, 0)
    for _ in range(3):
        take(lowest_of_the_flood(), 10)
    take(None, 10)
    take(lowest_of_the_flood(), 10)
    times.observe(None, clock.now + 5_000_000)
    entries = {(entry["zone"], entry["line"]): entry for entry in times.entries()}
    assert entries["DMA32", "AtomicReserve"]["seconds"] == pytest.approx(0.035)
    assert entries["DMA32", "AtomicReserve"]["episodes"] == 2


def test_a_gap_between_samples_counts_as_a_second_at_most(machine: FakeNode) -> None:
    clock = Clock()
    readings = readings_on(machine, clock)
    machine.show(lowest_of_the_flood())
    sample = readings.sample(watching=True, fresh=True)
    assert isinstance(sample.zones, ZoneInfo)
    times = BelowLineTimes()
    times.observe(sample.zones, sample.time_ns)
    times.observe(None, sample.time_ns + 3600 * SECOND)
    assert max(entry["seconds"] for entry in times.entries()) == 1.0


def test_lag_is_a_cumulative_histogram() -> None:
    lag = Lag()
    for late_ms in (0, 0.5, 3, 30, 5000, -4):
        lag.observe(int(late_ms * 1e6))
    shown = lag.to_json()
    assert shown["count"] == 6
    assert shown["buckets"][0] == [0.001, 3]
    assert shown["buckets"][-1] == [None, 6]
    assert [count for _, count in shown["buckets"]] == sorted(count for _, count in shown["buckets"])
