"""The operator's pure parts: taint, evictions, pressure over time, planning, status, caps."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure.reasons import Reason
from memorypressure.spec import Action, Mode, Policy, Share, parse_policy
from memorypressure.victims import Candidate
from memorypressure_operator import evictions, pressure, status, tainter
from memorypressure_operator.caps import capped, for_nodes
from memorypressure_operator.evictions import EvictionLog, Record, RecordError, Room
from memorypressure_operator.granting import adopt, nearness
from memorypressure_operator.planning import Planner, TokenBucket
from memorypressure_operator.pods import PodTraits, PodView
from memorypressure_operator.pressure import NS, Watch
from memorypressure_operator.registry import PolicyEntry, Registry
from memorypressure_operator.reports import (
    ActiveTrigger,
    Condition,
    Episode,
    PlanView,
    ReportedLease,
    StateStatus,
    StateView,
    TopPod,
)
from memorypressure_operator.settings import Settings
from memorypressure_operator.status import Counts, Facts
from memorypressure_operator.tainter import KEY, TaintInput
from memorypressure_operator.views import Taint

OURS = Taint(KEY, "NoSchedule")
FOREIGN = Taint("example.com/x", "NoExecute", value="v", time_added="2026-01-01T00:00:00Z")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def policy(**changes: Any) -> Policy:
    spec: dict[str, Any] = {
        "mode": "Enforce",
        "nodeSelector": {},
        "triggers": [
            {"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}},
            {"name": "min", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}},
        ],
        "ladder": [
            {"action": "Taint", "triggers": ["low"], "taint": {"effect": "NoSchedule", "holdSeconds": 300}},
            {"action": "Evict", "triggers": ["low", "min"], "afterSeconds": 20, "evict": {"gracePeriodSeconds": 10}},
            {"action": "Kill", "triggers": ["min"], "afterSeconds": 0},
        ],
        **changes,
    }
    return parse_policy(
        {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "p", "uid": "u", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
        }
    )


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


@pytest.mark.parametrize(("age", "expected"), [(180, False), (181, True)])
def test_silence_is_three_missed_beats(age: int, expected: bool) -> None:
    assert pressure.silent(0, age * NS, 180) is expected


# --- evictions ---


def room(**changes: Any) -> Room:
    base = Room(
        log=EvictionLog(),
        node="n",
        evictions_per_hour=2,
        concurrent_nodes=0,
        concurrent_limit=1,
        has_slot=False,
        since_action=None,
        victims_in_episode=0,
    )
    return dataclasses.replace(base, **changes)


FULL = EvictionLog((Record(3000.0, "a", "w", "u1"), Record(10.0, "b", "w", "u2")))
CLEANED = EvictionLog((Record(10.0, "a", "w", "u1", cleanup=True), Record(10.0, "b", "w", "u2", cleanup=True)))
ROOM_CASES = {
    "nothing in the way": ({}, None),
    "the hour is used up": ({"log": FULL}, Reason.BUDGET_EXHAUSTED),
    "cool-down": ({"since_action": 59.0}, Reason.COOLDOWN),
    "after the cool-down": ({"since_action": 60.0}, None),
    "the episode's limit": ({"victims_in_episode": 3}, Reason.EPISODE_LIMIT),
    "too many nodes at once": ({"concurrent_nodes": 1}, Reason.CONCURRENT_NODES),
    "it is one of those nodes": ({"concurrent_nodes": 1, "has_slot": True}, None),
    "none an hour": ({"evictions_per_hour": 0}, Reason.BUDGET_EXHAUSTED),
    "clean-ups are no evictions": ({"log": CLEANED}, None),
    "two victims did not help": ({"since_action": 70.0, "unrelieved": (70.0, 600.0)}, Reason.FUTILE),
    "the pause is over": ({"since_action": 1800.0, "unrelieved": (1800.0, 1900.0)}, None),
    "they were too far apart": ({"since_action": 70.0, "unrelieved": (70.0, 671.0)}, None),
    "one victim": ({"since_action": 70.0, "unrelieved": (70.0,)}, None),
}


@pytest.mark.parametrize(("changes", "reason"), ROOM_CASES.values(), ids=ROOM_CASES.keys())
def test_limits_of_evictions(changes: dict[str, Any], reason: Reason | None) -> None:
    denied = evictions.limits_allow(policy(), room(**changes))
    assert (denied.reason if denied else None) is reason


def test_a_used_up_hour_says_when_the_oldest_falls_out() -> None:
    denied = evictions.limits_allow(policy(), room(log=FULL))
    assert denied is not None
    assert denied.again_seconds == 600.0


records = st.lists(
    st.builds(
        Record,
        st.floats(0, 3599).map(lambda s: round(s, 1)),
        st.text("ab", min_size=1),
        st.text("w/", min_size=1),
        st.text("u-", min_size=1),
    ),
    max_size=8,
).map(lambda each: EvictionLog(tuple(each)))


@given(records)
def test_a_record_reads_back_as_written(log: EvictionLog) -> None:
    assert evictions.decode(evictions.encode(log)) == log


@given(records, st.integers(0, 200), st.integers(1, 127))
def test_a_record_edited_anywhere_is_refused(log: EvictionLog, where: int, by: int) -> None:
    text = evictions.encode(log)
    where %= len(text)
    edited = text[:where] + chr((ord(text[where]) + by) % 128) + text[where + 1 :]
    try:
        same = json.loads(edited) == json.loads(text)
    except ValueError:
        same = False
    if same:
        return
    with pytest.raises(RecordError, match="delete the ConfigMap"):
        evictions.decode(edited)


def test_records_age_and_fall_out_after_an_hour() -> None:
    log = EvictionLog().with_record("n", "w", "u").aged(599.0)
    assert log.of_workload("w") == 1
    assert log.aged(1.0).of_workload("w") == 0
    assert log.since_on("n") == 599.0
    assert len(log.aged(3000.0).records) == 1
    assert log.aged(3001.0).records == ()
    assert log.without("u").records == ()
    assert log.without("other") == log


def candidate(uid: str, priority: int = 0, request: int = 0) -> Candidate:
    return Candidate(uid, "ns", uid, priority, "Burstable", request, 0, "PodTemplate/w")


def test_victims_are_ranked_by_what_the_node_reports() -> None:
    pods = [candidate("small"), candidate("large"), candidate("unseen"), candidate("under", request=1 << 40)]
    reported = StateStatus(
        top_pods=(TopPod("small", 100 << 20, True), TopPod("large", 900 << 20, True), TopPod("under", 950 << 20, False))
    )
    ages = {pod.uid: 1000.0 for pod in pods}
    ranking = evictions.ranked(policy(), pods, reported, ages)
    assert [entry.candidate.uid for entry in ranking.order] == ["large", "small", "under"]
    assert ranking.chosen is not None
    assert ranking.chosen.candidate.uid == "large"


def test_without_reported_figures_nobody_is_evicted_unless_no_relief_is_asked_for() -> None:
    pods = [candidate("b", priority=5), candidate("a", priority=1)]
    ages = {"a": 1000.0, "b": 1000.0}
    assert evictions.ranked(policy(), pods, StateStatus(), ages).chosen is None
    blind = policy(victims={"minRelief": "0", "order": ["Priority", "Youngest"]})
    chosen = evictions.ranked(blind, pods, StateStatus(), ages).chosen
    assert chosen is not None
    assert chosen.candidate.uid == "a"


# --- planning ---


def pod(uid: str, node: str, owner: str = "StatefulSet/w", **changes: Any) -> PodView:
    traits: dict[str, Any] = {
        "namespace": "ns",
        "phase": "Running",
        "qos_class": "Burstable",
        "priority": 0,
        "request_bytes": 0,
        "owner": owner,
        "static": False,
        "daemon_set": False,
        "local_storage": False,
        "annotated": False,
        "label_words": (),
    }
    own: dict[str, Any] = {
        "uid": uid,
        "name": uid,
        "node": node,
        "created": 1_767_225_600.0,
        "terminating": False,
        "grace_period_seconds": None,
    }
    assert changes.keys() <= traits.keys() | own.keys()
    own |= {name: value for name, value in changes.items() if name in own}
    traits |= {name: value for name, value in changes.items() if name in traits}
    return PodView(traits=PodTraits(**traits), **own)


def planner(*pods: PodView, pressed: str = "") -> Planner:
    registry = Registry(Clock(), 0.0)
    registry.put_namespace("ns", {})
    for each in pods:
        registry.put_pod(each.uid, each)
    return Planner(registry, "own", lambda node: 0.0 if node == pressed else 1.0)


def store_plan(plans: Planner, node: str, workloads: set[str], generation: int = 1) -> None:
    view = PlanView(node, f"uid-{node}", generation, "", "", "p", 3, 1, frozenset(workloads))
    plans.registry.put_plan(node, view)


def planned(plans: Planner, rules: Policy, node: str) -> list[str]:
    plans.begin_pass()
    pods = plans.registry.tables.pods_by_node[node].values()
    return sorted(entry["uid"] for entry in plans.draft(rules, node, pods).spec["pods"])


def test_a_workload_waits_until_the_node_that_holds_it_has_given_it_up() -> None:
    rules = policy(limits={"maxVictimsPerWorkload": 1})
    plans = planner(pod("a1", "a"), pod("b1", "b"), pressed="b")
    store_plan(plans, "a", {"ns/StatefulSet/w"})
    plans.begin_pass()
    draft = plans.draft(rules, "b", plans.registry.tables.pods_by_node["b"].values())
    assert draft.spec["pods"] == []
    assert draft.blocked == {"a"}
    assert planned(plans, rules, "a") == [], "b is under pressure, so a lets go"
    store_plan(plans, "a", set(), generation=2)
    plans.begin_pass()
    draft = plans.draft(rules, "b", plans.registry.tables.pods_by_node["b"].values())
    assert (draft.spec["pods"], draft.blocked, draft.waits) == ([], set(), True), "it may hold the old plan"
    plans.armed = lambda _: False
    assert planned(plans, rules, "b") == ["b1"], "without an allowance it cannot use it"


def test_without_pressure_a_workload_stays_where_it_is() -> None:
    rules = policy(limits={"maxVictimsPerWorkload": 1})
    plans = planner(pod("a1", "a"), pod("b1", "b"))
    store_plan(plans, "b", {"ns/StatefulSet/w"})
    assert planned(plans, rules, "b") == ["b1"]
    assert planned(plans, rules, "a") == []


def test_equal_input_makes_equal_plans_whatever_the_order() -> None:
    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    pods = [pod(f"p{number}", "a", priority=number % 3) for number in range(20)]
    first, second = planner(*pods), planner(*reversed(pods))
    drafts = [plans.draft(rules, "a", plans.registry.tables.pods_by_node["a"].values()) for plans in (first, second)]
    assert drafts[0].digest == drafts[1].digest


def test_a_pod_under_a_used_up_budget_is_vetoed_for_kills_but_left_to_the_eviction_api() -> None:
    from memorypressure.protections import DisruptionBudget
    from memorypressure.spec import LabelSelector

    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    plans = planner(pod("a1", "a"), pod("a2", "a"))
    plans.registry.put_budget(("ns", "b"), DisruptionBudget("ns", LabelSelector(), 0))
    assert planned(plans, rules, "a") == []
    assert plans.veto(rules, plans.registry.tables.pods["a1"]) is None


def test_more_pods_than_a_plan_holds_are_counted() -> None:
    plans = planner(*(pod(f"p{number}", "a") for number in range(260)))
    rules = policy(limits={"maxVictimsPerWorkload": "100%"})
    draft = plans.draft(rules, "a", plans.registry.tables.pods_by_node["a"].values())
    assert len(draft.spec["pods"]) == 250
    assert draft.beyond_limit == 10


@pytest.mark.parametrize(("write_seconds", "expected"), [(0.01, 20), (2.0, 0.25)], ids=["quick", "2 s a call"])
def test_a_slow_server_gets_fewer_plans(write_seconds: float, expected: float) -> None:
    clock = Clock()
    bucket = TokenBucket(20, clock)
    while bucket.take():  # what it may give at once
        pass
    end, writes = clock.now + 60, 0
    while clock.now < end:
        if bucket.take():
            clock.now += write_seconds
            bucket.rest(write_seconds)
            writes += 1
        else:
            clock.now += max(0.001, bucket.wait_seconds())
    assert writes / 60 == pytest.approx(expected, rel=0.1)


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    clock = Clock()
    bucket = TokenBucket(20, clock)
    bucket.rest(10)
    assert not bucket.take()
    assert bucket.wait_seconds() == 10
    clock.now += 10
    assert bucket.take()


def test_the_token_bucket_gives_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(20, clock)
    assert sum(bucket.take() for _ in range(50)) == 20
    assert bucket.wait_seconds() == pytest.approx(0.05)
    clock.now += 1
    assert sum(bucket.take() for _ in range(50)) == 20


# --- status and caps ---


def entry(before: dict[str, Any] | None = None, error: str = "") -> PolicyEntry:
    return PolicyEntry("p", "u", 3, None if error else policy(), error, before or {})


def conditions(result: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in result["conditions"]}


USED = {"Evict": True, "Kill": True}
GOOD = Facts(Counts(2, 2), evictions_left=1, evictions_limit=20, kills_left=1, kills_limit=5, actions_used=USED)


def test_every_count_is_written_from_the_start() -> None:
    result = status.compute(entry(), Facts(Counts()), "t")
    assert set(result["nodes"].values()) | set(result["actions"].values()) | set(result["exposure"].values()) == {0}
    assert result["observedGeneration"] == 3


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (GOOD, {"Ready": ("True", "Reconciled"), "BudgetAvailable": ("True", "BudgetLeft")}),
        (dataclasses.replace(GOOD, ledger_problem="x"), {"Ready": ("False", "LedgerInvalid")}),
        (dataclasses.replace(GOOD, conflict="tied"), {"Conflicted": ("True", "EqualPriorityOverlap")}),
        (dataclasses.replace(GOOD, evictions_left=0), {"BudgetAvailable": ("False", "BudgetExhausted")}),
        (dataclasses.replace(GOOD, kills_left=0), {"BudgetAvailable": ("False", "BudgetExhausted")}),
        (dataclasses.replace(GOOD, kills_left=0, actions_used={}), {"BudgetAvailable": ("True", "BudgetLeft")}),
    ],
)
def test_conditions_of_a_policy(facts: Facts, expected: dict[str, tuple[str, str]]) -> None:
    found = conditions(status.compute(entry(), facts, "t"))
    assert found["Accepted"] == ("True", "Accepted")
    assert {kind: found[kind] for kind in expected} == expected


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


# --- adoption ---


def state(name: str = "n", *, lease: ReportedLease | None = None, grant: dict[str, Any] | None = None) -> StateView:
    spec: dict[str, Any] = {"nodeName": name, "mode": "Enforce"} | ({"grant": grant} if grant else {})
    return StateView(name, "u", 1, "1", "o", spec, StateStatus(lease=lease))


GRANT = {"incarnation": "i", "beat": 4, "killsCeiling": 3, "planUID": "p", "planGeneration": 1}


@pytest.mark.parametrize(
    ("found", "covered", "used_before", "standing", "quarantined"),
    [
        (state(), set(), False, 0, False),
        (state(lease=ReportedLease("i", 1, 0)), set(), False, 0, False),
        (state(lease=ReportedLease("i", 1, 2)), set(), False, 0, False),
        (state(lease=ReportedLease("i", 1, 2)), set(), True, 0, True),
        (state(lease=ReportedLease("i", 1, 2), grant=GRANT), set(), False, 1, True),
        (state(lease=ReportedLease("i", 1, 2), grant=GRANT), {"i"}, False, 0, False),
        (state(lease=ReportedLease("i", 1, 0, 1)), set(), False, 1, True),
        (state(grant=GRANT), set(), False, 0, True),
        (state(grant=GRANT), {"i"}, False, 0, False),
    ],
    ids=[
        "never reported",
        "never granted",
        "killed under another policy",
        "had a ledger",
        "holds a grant",
        "holds a grant of another policy",
        "saw a ceiling",
        "granted, never reported",
        "granted by another policy, never reported",
    ],
)
def test_a_lost_ledger_is_adopted_from_what_nodes_hold(
    found: StateView, covered: set[str], used_before: bool, standing: int, quarantined: bool
) -> None:
    ledger = adopt([found], 900, frozenset(covered), used_before=used_before)
    assert ledger.standing == standing
    assert (ledger.quarantine_ns > 0) is quarantined


@pytest.mark.parametrize(("text", "expected"), [("92%", 0.92), ("", float("inf")), ("far", float("inf"))])
def test_nearness_is_read_from_the_display_text(text: str, expected: float) -> None:
    from memorypressure_operator.reports import Lowest

    found = StateView("n", "u", 1, "1", "o", {}, StateStatus(lowest=Lowest(usable_to_line=text)))
    assert nearness(found) == expected
