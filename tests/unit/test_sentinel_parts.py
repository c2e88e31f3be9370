"""The sentinel's parts, each by itself: orders file, candidates, readings, counters, log, locks, the lean process."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, SANDBOX, CgroupTree, Memory
from support.sentinellab import CAPTURES, candidate, grant_for, lowest_of_the_flood, orders

from memorypressure.orders import encode
from memorypressure.reasons import Reason
from memorypressure.signals import GateShut
from memorypressure.spec_values import AvailableMemory, Mode
from memorypressure.victims import CgroupState, ContainerUsage, Usage
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.containers import RESERVED_DESCRIPTORS
from memorypressure_agent.host.sources import HostRoots, HostSources
from memorypressure_agent.sentinel.candidates import Candidates, anonymous_bytes, cgroup_kill_capability
from memorypressure_agent.sentinel.counters import BelowLineTimes, Lag
from memorypressure_agent.sentinel.helper import Wake
from memorypressure_agent.sentinel.libc import call
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.node_lock import NodeLock
from memorypressure_agent.sentinel.orders_file import OrdersFile, Standing
from memorypressure_agent.sentinel.process import _unchanged_file_mappings, every_other_chunk
from memorypressure_agent.sentinel.readings import Readings
from memorypressure_agent.sentinel.settings import SentinelSettings
from memorypressure_tools.floodplayer import FakeNode, Reading

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
OTHER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
SECOND = 1_000_000_000


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 10_000 * SECOND

    def __call__(self) -> int:
        return self.now


# --- orders file


def test_orders_are_read_once_and_again_when_the_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    file = OrdersFile(str(path))
    first = file.poll()
    assert first is not None
    assert first.standing is Standing.NONE
    assert file.poll() is None
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    valid = file.poll()
    assert valid is not None
    assert valid.standing is Standing.VALID
    assert valid.candidate_uids == {UID}
    assert file.poll() is None
    (tmp_path / "new").write_bytes(encode(orders()))
    (tmp_path / "new").rename(path)
    again = file.poll()
    assert again is not None
    assert again.candidates == ()
    path.unlink()
    gone = file.poll()
    assert gone is not None
    assert gone.standing is Standing.NONE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.ORDERS_INVALID),
        (b"{}", Reason.WRONG_VERSION),
        (b'{"version": 2}', Reason.WRONG_VERSION),
        (b"\xff\xfe", Reason.ORDERS_INVALID),
        (b"[" * 100_000, Reason.ORDERS_INVALID),
        (b" " * (1 << 20) + b"{}", Reason.ORDERS_INVALID),
    ],
    ids=["empty", "no version", "another version", "no text", "nested without end", "too large"],
)
def test_orders_that_are_not_understood_leave_no_orders(tmp_path: Path, content: bytes, reason: Reason) -> None:
    path = tmp_path / "orders"
    path.write_bytes(content)
    read = OrdersFile(str(path)).poll()
    assert read is not None
    assert (read.standing, read.reason) == (Standing.INVALID, reason)
    assert read.orders is None
    assert read.leave(Mode.ENFORCE) is None
    assert read.rules(SentinelSettings(HostRoots(), None, "j"), 4096).mode is Mode.DISABLED


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_orders_that_are_no_plain_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "orders"
    if kind == "link":
        (tmp_path / "real").write_bytes(encode(orders()))
        path.symlink_to(tmp_path / "real")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    read = OrdersFile(str(path)).poll()
    assert read is not None
    assert read.standing is Standing.INVALID


def test_the_command_lines_limits_stand_above_orders(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"), grant=grant_for("x"))))
    read = OrdersFile(str(path)).poll()
    assert read is not None
    settings = SentinelSettings(
        HostRoots(), str(path), "j", max_kills_per_hour=2, min_cooldown_seconds=99, dry_run_only=True, own_pod_uid=OTHER
    )
    rules = read.rules(settings, 4096)
    assert rules.mode is Mode.DRY_RUN
    assert (rules.hard.kills_per_hour, rules.hard.min_cooldown_seconds, rules.hard.dry_run_only) == (2, 99, True)
    assert rules.own_pod_uid == OTHER
    leave = read.leave(rules.mode)
    assert leave is not None
    assert leave.mode is Mode.DRY_RUN


# --- candidates


@pytest.fixture
def tree(tmp_path: Path) -> CgroupTree:
    made = CgroupTree(tmp_path)
    made.add_pod(UID)
    made.add_container(UID, "c0de01", Memory(anon=300 * MIB, nodes=(200 * MIB, 100 * MIB)), processes=3)
    made.add_pod(OTHER)
    made.add_container(OTHER, "c0de02", Memory(anon=50 * MIB))
    return made


@pytest.fixture
def candidates(tree: CgroupTree, tmp_path: Path) -> Iterator[Candidates]:
    made = Candidates(PodsTree(str(tmp_path)), "", Clock())
    yield made
    made.close()


def test_only_wanted_pods_have_figures(candidates: Candidates) -> None:
    assert candidates.refresh(hold=False).usages == ()
    candidates.wanted = frozenset((UID, "not-here"))
    (usage,) = candidates.refresh(hold=False).usages
    assert usage.uid == UID
    assert {container.id: container.relief_bytes for container in usage.containers}["c0de01"] == 300 * MIB
    assert {container.id: container.processes for container in usage.containers}["c0de01"] == 3
    assert usage.containers[0].is_sandbox != usage.containers[1].is_sandbox


def test_a_sandbox_has_no_other_figure_than_what_it_holds_until_it_holds_more(
    candidates: Candidates, tree: CgroupTree
) -> None:
    candidates.wanted = frozenset((UID,))
    (usage,) = candidates.refresh(hold=False).usages
    (sandbox,) = [container for container in usage.containers if container.is_sandbox]
    assert (sandbox.relief_bytes, sandbox.memory_bytes) == (None, SANDBOX.anon + SANDBOX.kernel)
    Memory(anon=3 * MIB).write(tree.pod_directory(UID) / sandbox.id)
    (usage,) = candidates.refresh(hold=True).usages
    (grown,) = [container for container in usage.containers if container.id == sandbox.id]
    assert (grown.is_sandbox, grown.relief_bytes) == (False, 3 * MIB)


def test_a_container_whose_processes_are_not_understood_has_no_figures_and_the_others_have(
    candidates: Candidates, tree: CgroupTree
) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    (tree.pod_directory(UID) / "c0de01" / "cgroup.procs").write_text("12\nthirteen\n")
    snapshot = candidates.refresh(hold=True)
    containers = {usage.uid: {each.id for each in usage.containers} for usage in snapshot.usages}
    assert "c0de01" not in containers[UID]
    assert len(containers[OTHER]) == 2
    (failure,) = snapshot.failures
    assert failure.endswith("cgroup.procs line 2: 'thirteen': expected a process's number")


def test_the_agents_own_pod_is_never_opened(tree: CgroupTree, tmp_path: Path) -> None:
    candidates = Candidates(PodsTree(str(tmp_path)), UID, Clock())
    candidates.wanted = frozenset((UID, OTHER))
    assert [usage.uid for usage in candidates.refresh(hold=False).usages] == [OTHER]
    with pytest.raises(KeyError):
        candidates.kill(UID, ("c0de01",))
    assert tree.killed() == set()


@pytest.mark.parametrize(
    ("uid", "container"),
    [
        (UID, "../../pod" + OTHER + "/c0de02"),
        (UID, "c0de02"),
        (OTHER, "c0de02"),
        ("..", "c0de01"),
        ("/", "kubepods"),
        (UID, ""),
    ],
)
def test_only_a_container_that_is_held_can_be_killed(
    candidates: Candidates, tree: CgroupTree, uid: str, container: str
) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    with pytest.raises(KeyError):
        candidates.kill(uid, (container,))
    assert tree.killed() == set()


def test_a_kill_reaches_the_containers_named_and_no_other(candidates: Candidates, tree: CgroupTree) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    killed = candidates.kill(UID, ("c0de01",))
    assert tree.killed() == {"c0de01"}
    assert killed.memory_bytes == 300 * MIB
    assert len(killed.pids) == 3


def test_a_held_list_stays_as_it_is_until_it_may_change(candidates: Candidates, tree: CgroupTree) -> None:
    candidates.wanted = frozenset((UID, OTHER))
    candidates.refresh(hold=False)
    tree.add_container(OTHER, "c0de03", Memory(anon=9 * MIB))
    held = {usage.uid: len(usage.containers) for usage in candidates.refresh(hold=True).usages}
    assert held[OTHER] == 2
    listed = {usage.uid: len(usage.containers) for usage in candidates.refresh(hold=False).usages}
    assert listed[OTHER] == 3


def test_a_container_made_anew_under_its_name_is_opened_anew(candidates: Candidates, tree: CgroupTree) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.refresh(hold=False)
    directory = tree.pod_directory(UID) / "c0de01"
    directory.rename(tree.root / "old")
    tree.add_container(UID, "c0de01", Memory(anon=3 * MIB))
    (usage,) = candidates.refresh(hold=False).usages
    assert {container.id: container.relief_bytes for container in usage.containers}["c0de01"] == 3 * MIB
    candidates.kill(UID, ("c0de01",))
    assert (tree.root / "old" / "cgroup.kill").read_text() == ""


def test_a_pod_that_is_being_killed_says_so(candidates: Candidates) -> None:
    candidates.wanted = frozenset((UID,))
    candidates.dying = frozenset((UID,))
    (usage,) = candidates.refresh(hold=False).usages
    assert usage.state is CgroupState.DYING


def test_a_pods_age_counts_from_when_its_directory_was_made(tree: CgroupTree, tmp_path: Path) -> None:
    clock = Clock()
    candidates = Candidates(PodsTree(str(tmp_path)), "", clock)
    candidates.wanted = frozenset((UID,))
    assert candidates.refresh(hold=False).usages[0].seen_seconds < 60
    clock.now += 100 * SECOND
    assert 100 <= candidates.refresh(hold=False).usages[0].seen_seconds < 160


def test_no_descriptor_is_left_open(tree: CgroupTree, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    candidates = Candidates(PodsTree(str(tmp_path)), "", Clock())
    candidates.wanted = frozenset((UID, OTHER))
    for _ in range(5):
        candidates.refresh(hold=False)
    candidates.wanted = frozenset((OTHER,))
    candidates.refresh(hold=False)
    candidates.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_candidates_leave_descriptors_for_orders_and_sources(tree: CgroupTree, tmp_path: Path) -> None:
    for number in range(60):
        tree.add_container(UID, f"c0de{number:02}", Memory(anon=MIB))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    candidates = Candidates(PodsTree(str(tmp_path)), "", Clock())
    candidates.wanted = frozenset((UID,))
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + RESERVED_DESCRIPTORS + 50  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        found = candidates.refresh(hold=False)
        spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(RESERVED_DESCRIPTORS // 2)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        candidates.close()
    for descriptor in spare:
        os.close(descriptor)
    assert 0 < len(found.usages[0].containers) < 60
    assert "Too many open files (the limit is" in found.failures[0]


def test_a_process_that_cannot_be_seen_has_no_known_memory() -> None:
    assert anonymous_bytes(0) is None
    own = anonymous_bytes(os.getpid())
    assert own is not None
    assert own > MIB


def test_a_tree_without_cgroup_kill_is_a_missing_capability(tree: CgroupTree, tmp_path: Path) -> None:
    pods = PodsTree(str(tmp_path))
    assert cgroup_kill_capability(pods) == ""
    (tree.pods / "cgroup.kill").unlink()
    assert "5.14" in cgroup_kill_capability(pods)
    assert "No such file" in cgroup_kill_capability(PodsTree(str(tree.pods / "missing")))


# --- readings


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[FakeNode]:
    made = FakeNode(tmp_path / "machine", CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt")
    yield made
    made.close()


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


# --- counters


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


# --- log, locks, process


@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_line_is_one_line_whatever_is_in_it(as_json: bool) -> None:
    reading, writing = os.pipe()
    log = Log(as_json=as_json, descriptor=writing)
    log.put(0, "Killed", "two\nlines \x1b[31m and " + "x" * 9_000)
    log.flush()
    os.close(writing)
    text = os.read(reading, 1 << 16)
    os.close(reading)
    assert text.count(b"\n") == 1
    assert len(text) <= 4096
    if as_json:
        assert json.loads(text)["reason"] == "Killed"


def test_a_full_pipe_never_holds_the_log_up() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    log = Log(as_json=False, descriptor=writing)

    def write() -> None:
        for number in range(2_000):
            log.put(number, "Killed", "line")
        log.flush()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for room in the pipe"
    os.close(reading)
    os.close(writing)


def test_a_wake_is_kept_until_somebody_waits_and_ends_one_wait() -> None:
    wake = Wake()
    assert wake._lock.locked(), "a wait takes its time"
    wake.set()
    wake.set()
    assert not wake._lock.locked(), "a wait ends at once"
    wake.wait(60)
    assert wake._lock.locked(), "the next one takes its time again"


def test_the_nodes_lock_is_for_one_process_and_falls_with_it(tree: CgroupTree, tmp_path: Path) -> None:
    ours = NodeLock(PodsTree(str(tmp_path)))
    assert ours.free_for_us()
    assert ours.free_for_us()
    code = (
        "import sys; from memorypressure_agent.host.cgroups import PodsTree;"
        "from memorypressure_agent.sentinel.node_lock import NodeLock;"
        "lock = NodeLock(PodsTree(sys.argv[1])); print(lock.free_for_us(), lock.message)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    assert other.startswith("False another sentinel acts on this node")


def test_a_pods_directory_made_anew_is_found_and_locked_anew(tmp_path: Path) -> None:
    before = CgroupTree(tmp_path)
    before.add_pod(UID)
    tree = PodsTree(str(tmp_path))
    lock = NodeLock(tree)
    assert lock.free_for_us()
    before.pods.rename(tmp_path / "gone")
    assert tree.scan() == ()
    CgroupTree(tmp_path, systemd=True).add_pod(UID)
    assert [pod.uid for pod in tree.scan()] == [UID]
    assert lock.free_for_us()
    assert not NodeLock(PodsTree(str(tmp_path))).free_for_us(), "the lock is on the directory that is there now"


def test_without_pods_there_is_nothing_to_lock(tmp_path: Path) -> None:
    assert NodeLock(PodsTree(str(tmp_path))).free_for_us()


def test_a_lock_that_cannot_be_tried_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubepods").mkdir()
    lock = NodeLock(PodsTree(str(tmp_path)))

    def no_more_files(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", no_more_files)
    assert not lock.free_for_us()
    assert "cannot be tried" in lock.message


def test_a_call_into_the_c_library_tells_its_errno() -> None:
    assert call("getpid") == (os.getpid(), 0)
    assert call("close", -1) == (-1, 9)
    with pytest.raises(OSError, match="undefined symbol"):
        call("no_such_function_anywhere")


def test_every_other_chunk_of_a_mapping_is_marked_up_to_its_end() -> None:
    assert list(every_other_chunk(0x10000, 0x1D000, 0x4000)) == [(0x10000, 0x4000), (0x18000, 0x4000)]
    assert list(every_other_chunk(0x10000, 0x19000, 0x4000)) == [(0x10000, 0x4000), (0x18000, 0x1000)]
    assert list(every_other_chunk(0x10000, 0x11000, 0x4000)) == [(0x10000, 0x1000)]


def test_only_unchanged_read_only_file_mappings_are_given_back() -> None:
    smaps = (
        "1000-2000 r-xp 00000000 08:01 1 /lib/one\nRss: 4 kB\nAnonymous:             0 kB\n"
        "2000-3000 r--p 00000000 08:01 1 /lib/relocated\nRss: 4 kB\nAnonymous:             4 kB\n"
        "3000-4000 rw-p 00000000 08:01 1 /lib/data\nAnonymous:             0 kB\n"
        "4000-5000 r--p 00000000 00:00 0 \nAnonymous:             0 kB\n"
        "5000-6000 r--s 00000000 00:01 7 /dev/shm/journal\nAnonymous:             0 kB\n"
        "6000-7000 r--p 00000000 08:01 1 /lib/two\nAnonymous:             0 kB\nVmFlags: rd mr\n"
    )
    assert _unchanged_file_mappings(smaps) == [(0x1000, 0x2000), (0x6000, 0x7000)]


LEAN = """
import sys
sys.path[:0] = sys.argv[1:]
from memorypressure_agent.sentinel import lean
lean.make_lean()
import memorypressure.orders, memorypressure_agent.sentinel.service
lean.share_methods()
heavy = {"typing", "inspect", "ctypes", "threading", "fractions", "decimal", "argparse", "logging", "socket", "ssl",
         "http", "urllib", "subprocess", "asyncio", "importlib", "difflib", "yaml", "urllib3", "prometheus_client"}
print(sorted(name for name in heavy if getattr(sys.modules.get(name), "__file__", None)))
from memorypressure.zones import parse_zoneinfo
from memorypressure.orders import decode, OrdersError
info = parse_zoneinfo(open("/proc/zoneinfo", "rb").read(), 4096)
try:
    info.zones[0].name = "x"
except AttributeError as error:
    print(type(error).__name__)
import dataclasses
print(dataclasses.replace(info.zones[0], free_pages=5).free_pages)
from memorypressure.victims import ContainerUsage, Usage
usage = Usage("uid", (ContainerUsage("id", 1, None, 2),), 3)
print(repr(usage), hash(usage) == hash(dataclasses.replace(usage)), len({usage, dataclasses.replace(usage)}))
try:
    decode(b'{"version": 1, "nodeNam": "x"}')
except OrdersError as error:
    print(error)
"""


@pytest.mark.parametrize("options", [[], ["-OO"]], ids=["as it is", "without documentation"])
def test_the_lean_process_imports_none_of_the_heavy_modules_and_behaves_the_same(options: list[str]) -> None:
    repository = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-I", "-S", *options, "-c", LEAN, str(repository / "core"), str(repository / "node-agent")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    heavy, frozen, replaced, shown, refused = ended.stdout.splitlines()
    usage = Usage("uid", (ContainerUsage("id", 1, None, 2),), 3)
    assert shown == f"{usage!r} True 1"
    assert heavy == "[]"
    assert frozen == "FrozenInstanceError"
    assert replaced == "5"
    assert "nodeNam: unknown field" in refused
