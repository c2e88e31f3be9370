"""What forbids the real sentinel a kill: orders and grants that do not allow it, orders that are not understood."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.killcases import CANDIDATES, EVERYTHING, SETTLED_SECONDS, VICTIM, granted
from support.sentinellab import RealPods, SentinelLab, broken_json, eventually, grant_for, orders

from memorypressure.orders import Orders, encode
from memorypressure.spec_values import Mode

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
    lab.give(change(granted(lab.known_past())))
    lab.flood()
    lab.start(*options)
    eventually(lambda: reason in lab.reasons(), f"a decision says {reason}")
    time.sleep(SETTLED_SECONDS)
    assert pods.alive() == EVERYTHING
    assert lab.kills_total() == 0
    assert not any(path.read_text().strip() == "1" for path in pods.root.rglob("cgroup.freeze"))


def test_nothing_is_killed_with_an_echo_of_a_beat_that_is_too_old(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(granted(lab.known_past(beat_age_seconds=901)))
    lab.start()
    eventually(lab.armed, "the orders are taken over")
    lab.flood()
    eventually(lambda: "GrantExpired" in lab.reasons(), "a decision says GrantExpired")
    time.sleep(SETTLED_SECONDS)
    assert pods.alive() == EVERYTHING
    lab.reader.refresh()
    assert lab.reader.lease().beat == 2, "a new beat has begun, for the reporter to report"


def test_nothing_is_killed_without_pressure(lab: SentinelLab, pods: RealPods) -> None:
    lab.give(granted(lab.known_past()))
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
    lab.give(granted(lab.reader.refresh().incarnation))
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
    pod: dict[str, Any] = json.loads(encode(given))["pods"][0]
    return pod


def test_orders_that_are_not_understood_disarm_until_valid_ones_come(lab: SentinelLab, pods: RealPods) -> None:
    valid = granted(lab.known_past())
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
