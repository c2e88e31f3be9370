"""The operator's pure parts: taint, pressure over time, status, caps."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operatorpolicy import policy

from memorypressure.reasons import Reason
from memorypressure.spec import Action, Mode, Share
from memorypressure_operator import pressure, status, tainter
from memorypressure_operator.caps import capped, for_nodes
from memorypressure_operator.look import is_silent
from memorypressure_operator.pressure import NS, Watch
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import (
    ActiveTrigger,
    Condition,
    Episode,
    StateStatus,
)
from memorypressure_operator.settings import Settings
from memorypressure_operator.status import Counts, Facts
from memorypressure_operator.tables import PolicyEntry
from memorypressure_operator.tainter import KEY, TaintInput
from memorypressure_operator.views import Taint

OURS = Taint(KEY, "NoSchedule")
FOREIGN = Taint("example.com/x", "NoExecute", value="v", time_added="2026-01-01T00:00:00Z")


# --- taint ---


def taint_input(**changes: Any) -> TaintInput:
    base = TaintInput(
        taints=(),
        mode=Mode.ENFORCE,
        step=policy().ladder[0],
        matches=False,
        fresh=True,
        silent=False,
        clear_seconds=0.0,
        silent_seconds=1.0,
        beat_limit_seconds=900.0,
    )
    return dataclasses.replace(base, **changes)


TAINT_CASES = {
    "pressure taints": ({"matches": True, "clear_seconds": None}, "NoSchedule", True, Reason.TAINTED),
    "pressure in a stale report taints nothing": (
        {"matches": True, "clear_seconds": None, "fresh": False},
        None,
        False,
        Reason.NO_PRESSURE,
    ),
    "a taint that is there stays": ({"matches": True, "taints": (OURS,)}, "NoSchedule", False, Reason.TAINTED),
    "another effect is put right": (
        {"matches": True, "taints": (Taint(KEY, "PreferNoSchedule"),)},
        "NoSchedule",
        True,
        Reason.TAINTED,
    ),
    "clear for less than the hold time keeps it": (
        {"taints": (OURS,), "clear_seconds": 299.0},
        "NoSchedule",
        False,
        Reason.STEP_NOT_DUE,
    ),
    "clear for the hold time lifts it": ({"taints": (OURS,), "clear_seconds": 300.0}, None, True, Reason.UNTAINTED),
    "silence keeps it until three beats and the hold time": (
        {"taints": (OURS,), "matches": True, "fresh": False, "silent": True, "silent_seconds": 1199.0},
        "NoSchedule",
        False,
        Reason.STEP_NOT_DUE,
    ),
    "silence for three beats and the hold time lifts it": (
        {"taints": (OURS,), "matches": True, "fresh": False, "silent": True, "silent_seconds": 1200.0},
        None,
        True,
        Reason.UNTAINTED,
    ),
    "a kill that ended the pressure before its report came taints": (
        {"killed_seconds": 10.0},
        "NoSchedule",
        True,
        Reason.TAINTED,
    ),
    "the hold time counts from the kill": (
        {"taints": (OURS,), "clear_seconds": 400.0, "killed_seconds": 299.0},
        "NoSchedule",
        False,
        Reason.STEP_NOT_DUE,
    ),
    "the taint of a kill is lifted": (
        {"taints": (OURS,), "clear_seconds": 400.0, "killed_seconds": 300.0},
        None,
        True,
        Reason.UNTAINTED,
    ),
    "a kill before the hold time taints nothing": ({"killed_seconds": 300.0}, None, False, Reason.NO_PRESSURE),
    "a kill in DryRun taints nothing": (
        {"mode": Mode.DRY_RUN, "killed_seconds": 10.0},
        None,
        False,
        Reason.NO_PRESSURE,
    ),
    "DryRun only tells": ({"mode": Mode.DRY_RUN, "matches": True}, None, False, Reason.WOULD_TAINT),
    "DryRun lifts what Enforce left": ({"mode": Mode.DRY_RUN, "taints": (OURS,)}, None, True, Reason.UNTAINTED),
    "without a policy it is lifted": (
        {"mode": Mode.DISABLED, "step": None, "taints": (OURS,)},
        None,
        True,
        Reason.UNTAINTED,
    ),
    "a foreign taint is none of ours": (
        {"mode": Mode.DISABLED, "step": None, "taints": (FOREIGN,)},
        None,
        False,
        Reason.NO_PRESSURE,
    ),
}


@pytest.mark.parametrize(("changes", "effect", "acts", "reason"), TAINT_CASES.values(), ids=TAINT_CASES.keys())
def test_taint_decision(changes: dict[str, Any], effect: str | None, acts: bool, reason: Reason) -> None:
    decision = tainter.decide(taint_input(**changes))
    assert (decision.effect, decision.changes, decision.reason) == (effect, acts, reason)


def test_a_lifted_taint_tells_the_time_that_counted_which_may_be_that_since_a_kill() -> None:
    def said(killed_seconds: float | None) -> str:
        given = taint_input(taints=(OURS,), clear_seconds=400.0, killed_seconds=killed_seconds)
        return tainter.decide(given).message.rpartition("lifted: ")[2]

    assert said(None) == "clear for 400 s"
    assert said(300.0) == "clear since a kill that was reported 300 s ago"
    assert said(500.0) == "clear for 400 s"


taints = st.lists(
    st.builds(
        Taint,
        st.sampled_from([KEY, "a", "b", "memorypressure.dev/other"]),
        st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"]),
        st.sampled_from([None, "v"]),
    ),
    max_size=6,
).map(tuple)


@given(taints, st.sampled_from([None, "NoSchedule", "PreferNoSchedule"]))
def test_a_patch_tests_the_whole_list_and_keeps_every_foreign_taint(before: Any, effect: str | None) -> None:
    operations = tainter.patch(before, effect)
    seen = [{k: v for k, v in json.loads(json.dumps(_plain(t))).items() if v is not None} for t in before]
    foreign = [taint for taint in seen if taint["key"] != KEY]
    wanted = foreign + ([{"key": KEY, "effect": effect}] if effect else [])
    if not operations:
        assert [taint["effect"] for taint in seen if taint["key"] == KEY] == ([effect] if effect else [])
        return
    assert operations[0] == {"op": "test", "path": "/spec/taints", "value": seen or None}
    after = [] if operations[1]["op"] == "remove" else operations[1]["value"]
    assert after == wanted
    assert len(operations) == 2


def _plain(taint: Taint) -> dict[str, Any]:
    return {"key": taint.key, "effect": taint.effect, "value": taint.value, "timeAdded": taint.time_added}


# --- pressure over time ---


def report(*names: str, **changes: Any) -> StateStatus:
    return StateStatus(active_triggers=tuple(ActiveTrigger(name, "2026-01-01T00:00:00Z") for name in names), **changes)


def test_a_step_is_due_after_its_time_counted_from_the_arrival_of_the_report() -> None:
    ladder = policy().ladder
    watch = pressure.advance(Watch(), report("low"), ladder, reported_ns=10 * NS, now_ns=11 * NS)
    taint, evict = watch.step(Action.TAINT), watch.step(Action.EVICT)
    assert taint is not None
    assert evict is not None
    assert taint.due
    assert not evict.due
    assert evict.due_ns == 30 * NS
    later = pressure.advance(watch, report("min"), ladder, reported_ns=29 * NS, now_ns=30 * NS)
    evict = later.step(Action.EVICT)
    assert evict is not None
    assert evict.due, "another trigger took over without a gap"


def test_a_gap_starts_the_time_anew() -> None:
    ladder = policy().ladder
    watch = pressure.advance(Watch(), report("low"), ladder, 0, NS)
    watch = pressure.advance(watch, report(), ladder, 10 * NS, 10 * NS)
    watch = pressure.advance(watch, report("low"), ladder, 15 * NS, 15 * NS)
    evict = watch.step(Action.EVICT)
    assert evict is not None
    assert evict.due_ns == 35 * NS


def test_an_episode_lasts_until_120_seconds_of_clear_and_keeps_its_name() -> None:
    ladder = policy().ladder
    named = report("low", recent_episodes=(Episode("e7", "2026-01-01T00:00:00Z"),))
    watch = pressure.advance(Watch(), named, ladder, 0, 0)
    assert watch.episode == "e7"
    watch = pressure.advance(watch, report(), ladder, 10 * NS, 10 * NS)
    watch = pressure.advance(watch, report(), ladder, 10 * NS, 129 * NS)
    assert watch.episode == "e7"
    watch = pressure.advance(watch, report("low"), ladder, 129 * NS, 129 * NS)
    assert watch.episode == "e7", "re-entry is the same episode"
    watch = pressure.advance(watch, report(), ladder, 130 * NS, 130 * NS)
    watch = pressure.advance(watch, report(), ladder, 130 * NS, 250 * NS)
    assert watch.episode == ""


def test_the_name_of_an_episode_survives_a_restart_of_the_operator() -> None:
    condition = Condition("UnderPressure", "True", "LowBreached", "", "2026-01-01T00:00:07Z")
    status_ = report("low", conditions=(condition,))
    names = {pressure.advance(Watch(), status_, policy().ladder, at, at).episode for at in (0, 99 * NS)}
    assert names == {"since-2026-01-01T00:00:07Z"}


@pytest.mark.parametrize(
    ("changed", "now", "expected"), [(None, 0, False), (0, 35, True), (0, 36, False)], ids=["never", "young", "old"]
)
def test_only_a_young_report_is_acted_on(changed: int | None, now: int, expected: bool) -> None:
    assert pressure.fresh(None if changed is None else changed * NS, now * NS) is expected


@pytest.mark.parametrize(("age", "expected"), [(900, False), (901, True)])
def test_silence_is_three_missed_beats_or_never_heard_of(age: int, expected: bool) -> None:
    registry = Registry(lambda: 100.0, 0.0)
    assert is_silent(registry, "n", None, 100.0)
    registry.reported_at["n"] = 100.0
    assert is_silent(registry, "n", None, 100.0 + age) is expected


# --- status and caps ---


def entry(before: dict[str, Any] | None = None, error: str = "") -> PolicyEntry:
    return PolicyEntry("p", "u", 3, "7", None if error else policy(), error, before or {})


def conditions(result: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in result["conditions"]}


USED = {"Evict": True, "Kill": True}
GOOD = Facts(
    Counts(2, 2, reporting=1), evictions_left=1, evictions_limit=20, kills_left=1, kills_limit=5, actions_used=USED
)


def test_every_count_is_written_from_the_start() -> None:
    result = status.compute(entry(), Facts(Counts()), "t")
    assert set(result["nodes"].values()) | set(result["actions"].values()) | set(result["exposure"].values()) == {0}
    assert result["observedGeneration"] == 3


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (GOOD, {"Ready": ("True", "Reconciled"), "BudgetAvailable": ("True", "BudgetLeft")}),
        (dataclasses.replace(GOOD, counts=Counts(2, 2)), {"Ready": ("False", "ReportMissing")}),
        (dataclasses.replace(GOOD, counts=Counts(2, 0, 2)), {"Ready": ("True", "Reconciled")}),
        (dataclasses.replace(GOOD, blind=("namespaces",)), {"Ready": ("False", "Unreadable")}),
        (dataclasses.replace(GOOD, refused_plans={"n": "too long"}), {"Ready": ("False", "PlanRefused")}),
        (dataclasses.replace(GOOD, ledger_problem="x"), {"Ready": ("False", "LedgerInvalid")}),
        (dataclasses.replace(GOOD, conflict="tied"), {"Conflicted": ("True", "EqualPriorityOverlap")}),
        (dataclasses.replace(GOOD, evictions_left=0), {"BudgetAvailable": ("False", "BudgetExhausted")}),
        (dataclasses.replace(GOOD, ledger_full=True), {"BudgetAvailable": ("False", "BudgetExhausted")}),
        (dataclasses.replace(GOOD, record_full=True), {"BudgetAvailable": ("False", "BudgetExhausted")}),
        (dataclasses.replace(GOOD, kills_left=0), {"BudgetAvailable": ("False", "BudgetExhausted")}),
        (dataclasses.replace(GOOD, kills_left=0, actions_used={}), {"BudgetAvailable": ("True", "BudgetLeft")}),
    ],
)
def test_conditions_of_a_policy(facts: Facts, expected: dict[str, tuple[str, str]]) -> None:
    found = conditions(status.compute(entry(), facts, "t"))
    assert found["Accepted"] == ("True", "Accepted")
    assert {kind: found[kind] for kind in expected} == expected


def test_ready_says_where_to_look_when_no_agent_reports() -> None:
    result = status.compute(entry(), dataclasses.replace(GOOD, counts=Counts(2, 2)), "t")
    message = result["conditions"][1]["message"]
    assert "in force on 2 of 2 selected nodes, 0 report in time" in message
    assert "kubectl get pods -A -l app.kubernetes.io/component=agent -o wide" in message


def test_a_used_up_budget_says_what_nodes_may_still_do() -> None:
    facts = dataclasses.replace(GOOD, kills_left=0)
    for standing, words in ((0, "count as made"), (2, "count as made; nodes may still make 2, allowed before")):
        result = status.compute(entry(), dataclasses.replace(facts, standing_kills=standing), "t")
        assert result["conditions"][3]["message"] == f"all 5 kills of this hour are made, or {words}"


def test_a_new_ledgers_waiting_time_does_not_rewrite_the_status_each_minute() -> None:
    facts = [dataclasses.replace(GOOD, quarantine_seconds=each) for each in (4800.0, 3000.0, 1.0)]
    found = [status.compute(entry(), each, "t") for each in facts]
    assert found[0] == found[1] == found[2]
    assert "nothing is granted in its first" in found[0]["conditions"][1]["message"]
    assert found[0] != status.compute(entry(), GOOD, "t")


def test_ready_says_whose_ledger_holds_back_whose_nodes() -> None:
    facts = dataclasses.replace(GOOD, unsure_nodes=3, unread_ledgers=("other",))
    ready = next(each for each in status.compute(entry(), facts, "t")["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Reconciled")
    assert "nothing is granted to 3 nodes that may hold an allowance of other" in ready["message"]


def test_ready_names_a_node_that_waits_for_another_policys_ledger_and_why() -> None:
    facts = dataclasses.replace(GOOD, ungranted={"b": "x", "a": "the ledger of policy other still counts one"})
    ready = status.compute(entry(), facts, "t")["conditions"][1]
    assert (ready["status"], ready["reason"]) == ("True", "Reconciled")
    assert ready["message"].endswith(
        "nothing is granted yet to 2 nodes, such as a: the ledger of policy other still counts one"
    )


def test_ready_names_a_node_whose_plan_the_api_server_does_not_take() -> None:
    facts = dataclasses.replace(GOOD, refused_plans={"b": "spec.pods[0]: bad", "a": "spec.pods[2].workload: Too long"})
    message = status.compute(entry(), facts, "t")["conditions"][1]["message"]
    assert message.endswith("refuses the plans of 2 nodes, such as a: spec.pods[2].workload: Too long")


def test_a_last_action_that_lies_ahead_is_not_kept() -> None:
    ahead = entry({"lastActionTime": "2099-01-01T00:00:00Z"})
    assert "lastActionTime" not in status.compute(ahead, GOOD, "2026-11-26T10:00:00Z")
    before = entry({"lastActionTime": "2026-11-26T09:00:00Z"})
    assert status.compute(before, GOOD, "2026-11-26T10:00:00Z")["lastActionTime"] == "2026-11-26T09:00:00Z"


def test_an_invalid_policy_says_which_field_is_wrong() -> None:
    result = status.compute(entry(error="spec.mode: must be one of"), Facts(Counts()), "t")
    assert conditions(result)["Accepted"] == ("False", "Invalid")
    assert "spec.mode" in result["conditions"][0]["message"]


def test_a_transition_time_moves_only_with_the_status() -> None:
    first = status.compute(entry(), GOOD, "t1")
    same = status.compute(entry(first), dataclasses.replace(GOOD, evictions_left=0), "t2")
    times = {each["type"]: each["lastTransitionTime"] for each in same["conditions"]}
    assert times == {"Accepted": "t1", "Ready": "t1", "Conflicted": "t1", "BudgetAvailable": "t2"}


def test_caps_only_lower() -> None:
    rules = policy(limits={"evictionsPerHour": 20, "killsPerHour": 5, "maxStandingKills": "10%"})
    settings = Settings(max_evictions_per_hour=3, max_kills_per_hour=50, max_standing_kills=2)
    limits = capped(rules, settings).limits
    assert (limits.evictions_per_hour, limits.kills_per_hour) == (3, 5)
    assert for_nodes(limits, 100, settings).max_standing_kills == Share(count=2)
    assert for_nodes(limits, 10, settings).max_standing_kills == Share(count=1)
    assert capped(rules, Settings(dry_run_only=True)).mode is Mode.DRY_RUN
