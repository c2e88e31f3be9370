"""The watchdog: it ends what stands still, and only that."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory
from support.fullfifo import drained, full_fifo
from support.sentinellab import SentinelLab, candidate, eventually, grant_for, orders

from memorypressure_agent.sentinel.watchdog import LONGEST_STEP_NS, Watchdog

SECOND = 1_000_000_000
UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"


def test_no_progress_for_the_limit_is_stuck_and_any_progress_begins_anew() -> None:
    watchdog = Watchdog(10 * SECOND)
    assert not any(watchdog.stuck(7, second * SECOND) for second in range(10))
    assert not watchdog.stuck(8, 10 * SECOND)
    assert not any(watchdog.stuck(8, second * SECOND) for second in range(11, 20))
    assert watchdog.stuck(8, 20 * SECOND)
    assert watchdog.still_ns == 10 * SECOND


@pytest.mark.parametrize("gap_seconds", [60, 3600, 100_000], ids=["a stall", "a suspend", "a day"])
def test_a_time_in_which_nobody_asked_counts_as_two_seconds(gap_seconds: int) -> None:
    watchdog = Watchdog(10 * SECOND)
    assert not watchdog.stuck(7, 0)
    assert not watchdog.stuck(7, gap_seconds * SECOND)
    assert watchdog.still_ns == LONGEST_STEP_NS
    assert not watchdog.stuck(8, (gap_seconds + 1) * SECOND)


def test_a_clock_that_goes_back_counts_nothing() -> None:
    watchdog = Watchdog(SECOND)
    assert not watchdog.stuck(7, 50 * SECOND)
    assert not watchdog.stuck(7, SECOND)


@pytest.fixture
def lab(tmp_path: Path) -> "SentinelLab":
    (tmp_path / "cgroup").mkdir()
    return SentinelLab(tmp_path, tmp_path / "cgroup")


def test_a_sampler_that_hangs_ends_the_process_with_the_reason(lab: SentinelLab) -> None:
    tree = CgroupTree(lab.cgroup_root)
    tree.add_pod(UID)
    container = tree.add_container(UID, "c0de01", Memory(anon=300 * MIB))
    fifo = full_fifo(container / "cgroup.kill")  # a write to it waits for ever
    lab.give(orders(candidate(UID, "web"), grant=grant_for(lab.known_past())))
    sentinel = lab.start("--watchdog-seconds=2")
    try:
        eventually(lab.armed, "the orders are taken over")
        lab.flood()
        assert sentinel.wait(timeout=30) == 1
        assert "the sampler made no round for 2 s; ending, to be started again" in lab.log()
        assert lab.kills_total() == 1, "what it had counted stays counted"
    finally:
        drained(fifo)
        os.close(fifo)
        lab.close()


def test_a_helper_that_hangs_ends_the_process_with_the_reason(lab: SentinelLab) -> None:
    tree = CgroupTree(lab.cgroup_root)
    tree.add_pod(UID)
    figures = tree.add_container(UID, "c0de01", Memory(anon=300 * MIB)) / "memory.stat"
    figures.unlink()
    os.mkfifo(figures)  # opening it waits for a writer, for ever
    lab.give(orders(candidate(UID, "web"), grant=grant_for(lab.known_past())))
    sentinel = lab.start("--watchdog-seconds=2")
    try:
        assert sentinel.wait(timeout=30) == 1
        assert "the helper thread made no turn for 2 s; ending, to be started again" in lab.log()
    finally:
        lab.close()


def test_a_process_that_was_stopped_for_longer_than_the_limit_goes_on(lab: SentinelLab) -> None:
    sentinel = lab.start("--watchdog-seconds=2")
    try:
        eventually(lab.status, "it runs")
        sentinel.send_signal(signal.SIGSTOP)  # as a freezer does it
        time.sleep(3.5)
        sentinel.send_signal(signal.SIGCONT)
        before = lab.status()["counters"]["rounds"]
        eventually(lambda: lab.status()["counters"]["rounds"] > before + 2, "it goes on")
        assert sentinel.poll() is None
        assert lab.status()["loop"]["lag"]["worst"] > 2, "how late it woke up is told"
        with pytest.raises(subprocess.TimeoutExpired):
            sentinel.wait(timeout=1.5)
    finally:
        lab.close()
