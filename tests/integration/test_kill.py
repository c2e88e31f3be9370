"""The real sentinel kills a real process through a real cgroup.kill, exactly within what it was granted.

The machine is fake (an idle capture with the recorded flood's values put in), the sentinel is the console script, pods
are real processes in a real cgroup v2 tree. On hybrid hosts that tree has no memory figures, so victims are ordered by
Priority and Youngest here; relief on a fixture tree is tested in tests/unit.
"""

import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory
from support.fullfifo import drained, full_fifo, waits_in_a_write
from support.sentinellab import (
    MEMORY_USER,
    PAUSE,
    RealPods,
    SentinelLab,
    broken_json,
    candidate,
    eventually,
    grant_for,
    orders,
    real_pods,
)

from memorypressure.orders import Orders, encode
from memorypressure.spec_values import Mode
from memorypressure_tools.unprivileged import run_as_nobody

VICTIM = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
BYSTANDER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
NOT_PLANNED = "5d7e2c90-2222-4a7e-9f0e-2f8d6a3c1b33"
SETTLED_SECONDS = 0.4
"""Forty rounds of 10 ms: what was to be killed would be dead by then."""


@pytest.fixture
def pods() -> Iterator[RealPods]:
    made = real_pods()
    if isinstance(made, str):
        pytest.skip(made)
    for each in made:
        each.add(VICTIM, "5a9d", PAUSE)
        each.add(VICTIM, "c0de01", MEMORY_USER, count=2)
        each.add(VICTIM, "c0de02", MEMORY_USER)
        each.add(BYSTANDER, "c0de03", MEMORY_USER)
        each.add(NOT_PLANNED, "c0de04", MEMORY_USER)
        yield each


@pytest.fixture
def lab(tmp_path: Path, pods: RealPods) -> Iterator[SentinelLab]:
    made = SentinelLab(tmp_path, pods.root)
    yield made
    made.close()


@pytest.fixture
def tree_lab(tmp_path: Path) -> Iterator[SentinelLab]:
    (tmp_path / "cgroup").mkdir()
    made = SentinelLab(tmp_path, tmp_path / "cgroup")
    yield made
    made.close()


CANDIDATES = (candidate(VICTIM, "victim", 0), candidate(BYSTANDER, "bystander", 1000))
EVERYTHING = {
    f"{VICTIM}/5a9d",
    f"{VICTIM}/c0de01",
    f"{VICTIM}/c0de02",
    f"{BYSTANDER}/c0de03",
    f"{NOT_PLANNED}/c0de04",
}


def test_the_flood_costs_one_pod_its_containers_and_nobody_else_anything(lab: SentinelLab, pods: RealPods) -> None:
    incarnation = lab.known_past()
    lab.give(orders(*CANDIDATES, grant=grant_for(incarnation, ceiling=2)))
    sentinel = lab.start()
    eventually(lab.armed, "the orders are taken over")
    assert pods.alive() == EVERYTHING
    lab.flood()
    eventually(lambda: lab.records("action"), "an action is recorded")
    assert pods.dead() == {f"{VICTIM}/c0de01", f"{VICTIM}/c0de02"}
    assert {each.returncode for each in pods.processes[f"{VICTIM}/c0de01"]} == {-signal.SIGKILL}
    assert pods.alive() == EVERYTHING - pods.dead()
    assert lab.kills_total() == 1
    (action,) = lab.records("action")
    assert action["record"]["result"] == "Success"
    assert action["record"]["pod"] == {"uid": VICTIM, "namespace": "default", "name": "victim"}
    assert action["record"]["reason"] == "AtomicReserveBreached"
    eventually(lambda: "Cooldown" in lab.reasons(), "the next kill waits for the cool-down")
    assert lab.kills_total() == 1
    assert f"{BYSTANDER}/c0de03" in pods.alive()
    sentinel.terminate()
    assert sentinel.wait(timeout=5) == 0


def test_a_second_victim_dies_only_after_the_cool_down(lab: SentinelLab, pods: RealPods) -> None:
    incarnation = lab.known_past()
    lab.give(orders(*CANDIDATES, grant=grant_for(incarnation, ceiling=5)))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: lab.kills_total() == 1, "the first kill")
    first = time.monotonic()
    eventually(lambda: lab.kills_total() == 2, "the second kill", seconds=20)
    assert 9.5 < time.monotonic() - first < 14
    eventually(lambda: f"{BYSTANDER}/c0de03" in pods.dead(), "the bystander is the second victim")
    assert pods.alive() == {f"{VICTIM}/5a9d", f"{NOT_PLANNED}/c0de04"}


def _valid(incarnation: str) -> Orders:
    return orders(*CANDIDATES, grant=grant_for(incarnation, ceiling=2))


Change = Callable[[Orders], Orders]
REFUSALS: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "DryRun": (lambda given: replace(given, mode=Mode.DRY_RUN), (), "WouldKill"),
    "a Disabled policy": (lambda given: replace(given, mode=Mode.DISABLED), (), "ModeDisabled"),
    "--dry-run-only": (lambda given: given, ("--dry-run-only",), "WouldKill"),
    "no grant": (lambda given: replace(given, grant=None), (), "NoGrant"),
    "a grant for another incarnation": (
        lambda given: replace(given, grant=grant_for("0" * 32 + ".another", ceiling=2)),
        (),
        "WrongIncarnation",
    ),
    "a grant that wants a newer plan": (
        lambda given: replace(given, grant=given.grant and replace(given.grant, plan_generation=2)),
        (),
        "PlanMismatch",
    ),
    "a ceiling that is reached": (
        lambda given: replace(given, grant=given.grant and replace(given.grant, kills_ceiling=0)),
        (),
        "CeilingReached",
    ),
    "a beat that was never made": (
        lambda given: replace(given, grant=given.grant and replace(given.grant, beat=77)),
        (),
        "GrantExpired",
    ),
    "--max-kills-per-hour 0": (lambda given: given, ("--max-kills-per-hour", "0"), "AgentLimit"),
    "a plan without pods": (lambda given: replace(given, pods=()), (), "NoVictim"),
    "no pod but the agent's own": (
        lambda given: replace(given, pods=CANDIDATES[:1]),
        ("--own-pod-uid", VICTIM),
        "NoVictim",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_nothing_is_killed_with(lab: SentinelLab, pods: RealPods, case: str) -> None:
    change, options, reason = REFUSALS[case]
    lab.give(change(_valid(lab.known_past())))
    lab.flood()
    lab.start(*options)
    eventually(lambda: reason in lab.reasons(), f"a decision says {reason}")
    time.sleep(SETTLED_SECONDS)
    assert pods.alive() == EVERYTHING
    assert lab.kills_total() == 0
    assert not any(path.read_text().strip() == "1" for path in pods.root.rglob("cgroup.freeze"))


def test_nothing_is_killed_with_an_echo_of_a_beat_that_is_too_old(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(_valid(lab.known_past(beat_age_seconds=901)))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: "GrantExpired" in lab.reasons(), "a decision says GrantExpired")
    time.sleep(SETTLED_SECONDS)
    assert pods.alive() == EVERYTHING
    lab.reader.refresh()
    assert lab.reader.lease().beat == 2, "a new beat has begun, for the reporter to report"


def test_nothing_is_killed_without_pressure(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(_valid(lab.known_past()))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    rounds = lab.status()["counters"]["rounds"]
    eventually(lambda: lab.status()["counters"]["rounds"] > rounds + 1, "it goes on sampling")
    assert pods.alive() == EVERYTHING
    assert lab.status()["phase"] == "Clear"


def test_a_journal_without_a_past_begins_with_a_cool_down(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(orders(*CANDIDATES))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.give(_valid(lab.reader.refresh().incarnation))
    lab.flood()
    eventually(lambda: "Cooldown" in lab.reasons(), "the cool-down is the reason")
    assert pods.alive() == EVERYTHING


BAD_ORDERS: dict[str, tuple[Callable[[Orders], bytes], str, str]] = {
    "half-written": (lambda given: encode(given)[:300], "OrdersInvalid", "not whole JSON (Unterminated"),
    "empty": (lambda _: b"", "OrdersInvalid", "Expecting value: line 1 column 1"),
    "of another version": (lambda given: broken_json(given, version=2), "WrongVersion", "this sentinel reads 1"),
    "with an unknown field": (lambda given: broken_json(given, kill="all"), "OrdersInvalid", "kill: unknown field"),
    "with a pod UID that is a path": (
        lambda given: broken_json(given, pods=[{**_pod_json(given), "uid": "../../system.slice"}]),
        "OrdersInvalid",
        "pods[0].uid",
    ),
    "with a system-critical pod": (
        lambda given: broken_json(given, pods=[{**_pod_json(given), "priority": 2_000_000_000}]),
        "OrdersInvalid",
        "pods[0].priority",
    ),
    "with a negative limit": (
        lambda given: broken_json(given, limits={"cooldownSeconds": -1}),
        "OrdersInvalid",
        "limits.cooldownSeconds",
    ),
}


def _pod_json(given: Orders) -> dict[str, Any]:
    import json

    pod: dict[str, Any] = json.loads(encode(given))["pods"][0]
    return pod


def test_orders_that_are_not_understood_disarm_until_valid_ones_come(lab: SentinelLab, pods: RealPods) -> None:
    valid = _valid(lab.known_past())
    lab.give(valid)
    lab.start()
    eventually(lab.armed, "valid orders are taken over first")
    for case, (make, reason, words) in BAD_ORDERS.items():
        lab.give(make(valid))
        eventually(
            lambda words=words: words in lab.status()["orders"]["message"], f"orders {case} are refused: {words}"
        )
        found = lab.status()["orders"]
        assert (found["standing"], found["reason"]) == ("Invalid", reason), case
        assert "disarmed" in found["message"]
        assert lab.status()["triggers"] == [], "nothing of the orders before is left"
        assert lab.status()["decision"]["reason"] == reason, "nobody asked for mode Disabled"
    lab.flood()
    time.sleep(SETTLED_SECONDS)
    assert pods.alive() == EVERYTHING
    lab.orders_path.unlink()
    eventually(lambda: lab.status()["orders"]["standing"] == "None", "missing orders are no orders")
    assert pods.alive() == EVERYTHING
    lab.give(valid)
    eventually(lambda: lab.reasons()[-1] == "CeilingReached", "an old echo is worth what was acknowledged meanwhile")
    lab.reader.refresh()
    echo = lab.reader.lease().beat
    assert echo > 1
    lab.give(replace(valid, grant=grant_for(lab.reader.lease().incarnation, beat=echo, ceiling=2)))
    eventually(lambda: f"{VICTIM}/c0de01" in pods.dead(), "a new echo arms it again")


def test_of_two_sentinels_on_a_node_one_acts(lab: SentinelLab, pods: RealPods, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = SentinelLab(tmp_path / "second", pods.root)
    try:
        lab.give(_valid(lab.known_past()))
        second.give(_valid(second.known_past()))
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
    lab.give(_valid(lab.known_past()))
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
    lab.give(_valid(lab.known_past()))
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
    lab.give(orders(*CANDIDATES, grant=grant_for(lab.known_past(), ceiling=2)))
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
    lab.give(orders(*CANDIDATES, grant=grant_for(lab.known_past(), ceiling=1)))
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


def test_the_pod_that_gives_most_back_is_chosen_where_there_are_figures(tree_lab: SentinelLab) -> None:
    from memorypressure.spec_values import Criterion

    lab = tree_lab
    tree = CgroupTree(lab.cgroup_root, systemd=True)
    for uid, container, anon in ((VICTIM, "c0de01", 300), (BYSTANDER, "c0de03", 200), (NOT_PLANNED, "c0de04", 900)):
        tree.add_pod(uid)
        tree.add_container(uid, container, Memory(anon=anon * MIB, file=500 * MIB))
    given = orders(*CANDIDATES, grant=grant_for(lab.known_past(), ceiling=1))
    rules = replace(given.victims, order=(Criterion.RELIEF,), min_relief_bytes=64 * MIB)
    lab.give(replace(given, victims=rules))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(tree.killed, "a container is killed")
    assert tree.killed() == {"cri-containerd-c0de01.scope"}
    (kill,) = [record for record in lab.records("decision") if record["action"] == "Kill"]
    assert kill["victim"]["reliefBytes"] == 300 * MIB


@pytest.mark.needs("root")
def test_a_user_without_rights_is_told_which_directory_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        ended = run_as_nobody(["sentinel", "--journal", str(directory / "journal")])
        assert ended.returncode == 2
        assert "its directory cannot be written to" in ended.stderr
        assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--journal", "/nonexistent/journal"], "--journal /nonexistent/journal: its directory /nonexistent does not"),
        (["--journal", "{tmp}"], "is a directory; name a file"),
        (["--journal", "{tmp}/j", "--proc-root", "{tmp}"], "holds no zoneinfo, so it is not a /proc"),
        (["--journal", "{tmp}/j", "--proc-root", "{tmp}/missing"], "--proc-root"),
        (["--journal", "{tmp}/j", "--cgroup-root", "{tmp}/missing"], "give the cgroup v2 mount"),
        (["--journal", "{tmp}/j", "--orders", "{tmp}/missing/o"], "its directory"),
        (["--journal", "{tmp}/j", "--max-kills-per-hour", "65"], "not a whole number from 0 to 64"),
        (["--journal", "{tmp}/j", "--min-cooldown-seconds", "0"], "not a whole number from 1 to 86400"),
        ([], "--journal"),
    ],
)
def test_bad_options_end_with_code_2_and_a_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    from support.sentinellab import SCRIPT

    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    ended = subprocess.run([SCRIPT, "sentinel", *given], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_agents_hour_outlives_the_journal_of_a_replaced_pod(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(orders(*CANDIDATES, grant=grant_for(lab.known_past(), ceiling=1)))
    first = lab.start("--max-kills-per-hour=1")
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: lab.records("action"), "the one kill of the hour")
    first.kill()
    first.wait(timeout=5)
    lab.journal_path.unlink()
    dead = pods.dead()
    lab.give(orders(*CANDIDATES, grant=grant_for(lab.known_past(), ceiling=1)))
    lab.start("--max-kills-per-hour=1")
    eventually(lambda: lab.reasons() and lab.reasons()[-1] == "AgentLimit", "a new journal knows of the kill before it")
    time.sleep(SETTLED_SECONDS)
    assert lab.kills_total() == 0
    assert pods.dead() == dead
