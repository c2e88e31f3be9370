"""A second sentinel, or the next one after it ended: each kill is counted once, and one of them acts."""

import os
import stat
import time
from pathlib import Path

from support.cgrouptree import MIB, CgroupTree, Memory
from support.fullfifo import drained, full_fifo, waits_in_a_write
from support.killcases import EVERYTHING, SETTLED_SECONDS, VICTIM, granted
from support.sentinellab import RealPods, SentinelLab, eventually


def test_of_two_sentinels_on_a_node_one_acts(lab: SentinelLab, pods: RealPods, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = SentinelLab(tmp_path / "second", pods.root)
    try:
        lab.give(granted(lab.known_past()))
        second.give(granted(second.known_past()))
        first = lab.start()
        eventually(lab.armed, "the first is armed")
        second.start()
        eventually(second.armed, "the second is armed")
        assert second.status()["lockHeld"]
        assert not lab.status()["lockHeld"]
        second.flood()
        eventually(lambda: "LockHeld" in second.reasons(), "the second says why it does nothing")
        time.sleep(SETTLED_SECONDS)
        assert pods.alive() == EVERYTHING
        assert second.kills_total() == 0
        first.kill()
        first.wait(timeout=5)
        eventually(lambda: f"{VICTIM}/c0de01" in pods.dead(), "it takes over when the first is gone")
        assert second.kills_total() == 1
    finally:
        second.close()


def test_a_second_sentinel_on_the_same_journal_observes_until_the_first_is_gone(
    lab: SentinelLab, pods: RealPods
) -> None:
    lab.give(granted(lab.known_past()))
    first = lab.start()
    eventually(lab.armed, "the first is armed")
    lab.start()
    eventually(lambda: "another sentinel writes it" in lab.log(), "the second says so")
    first.kill()
    first.wait(timeout=5)
    lab.flood()
    eventually(lambda: f"{VICTIM}/c0de01" in pods.dead(), "the second takes over")
    assert lab.kills_total() == 1


def test_a_sentinel_whose_journal_was_replaced_ends_and_has_killed_nothing(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(granted(lab.known_past()))
    sentinel = lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.journal_path.rename(lab.directory / "stolen")
    lab.flood()
    assert sentinel.wait(timeout=10) == 1
    assert "was removed or replaced" in lab.log()
    assert pods.alive() == EVERYTHING
    (lab.directory / "stolen").rename(lab.journal_path)
    assert lab.kills_total() == 0


def test_a_restarted_sentinel_tells_how_the_kill_before_it_ended(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(granted(lab.known_past()))
    sentinel = lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: lab.kills_total() == 1, "the kill", seconds=20)
    sentinel.kill()
    sentinel.wait(timeout=5)
    told = len(lab.records("action"))
    lab.start()
    (action,) = eventually(lambda: lab.records("action"), "the kill's end is recorded once", seconds=20)
    assert action["record"]["pod"]["uid"] == VICTIM
    assert told <= 1
    assert pods.dead() in ({f"{VICTIM}/c0de01", f"{VICTIM}/c0de02"}, set())
    time.sleep(SETTLED_SECONDS)
    assert lab.kills_total() == 1


def test_a_sentinel_killed_between_counting_and_killing_has_spent_the_kill(tree_lab: SentinelLab) -> None:
    lab = tree_lab
    tree = CgroupTree(lab.cgroup_root)
    tree.add_pod(VICTIM)
    container = tree.add_container(VICTIM, "c0de01", Memory(anon=300 * MIB))
    fifo = full_fifo(container / "cgroup.kill")
    lab.give(granted(lab.known_past(), ceiling=1))
    sentinel = lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: lab.kills_total() == 1, "the kill is counted")
    eventually(lambda: waits_in_a_write(sentinel.pid), "the sentinel waits in its write to cgroup.kill")
    sentinel.kill()
    sentinel.wait(timeout=5)
    assert stat.S_ISFIFO((container / "cgroup.kill").stat().st_mode)
    assert b"1" not in drained(fifo)
    lab.start()
    eventually(lambda: "WaitingForVictim" in lab.reasons(), "the next one waits for the victim of the first")
    time.sleep(SETTLED_SECONDS)
    assert lab.kills_total() == 1
    assert drained(fifo) == b""
    os.close(fifo)


def test_the_agents_hour_outlives_the_journal_of_a_replaced_pod(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(granted(lab.known_past(), ceiling=1))
    first = lab.start("--max-kills-per-hour=1")
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: lab.records("action"), "the one kill of the hour")
    first.kill()
    first.wait(timeout=5)
    lab.journal_path.unlink()
    dead = pods.dead()
    lab.give(granted(lab.known_past(), ceiling=1))
    lab.start("--max-kills-per-hour=1")
    eventually(lambda: lab.reasons() and lab.reasons()[-1] == "AgentLimit", "a new journal knows of the kill before it")
    time.sleep(SETTLED_SECONDS)
    assert lab.kills_total() == 0
    assert pods.dead() == dead
