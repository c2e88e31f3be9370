"""Limits and records of evictions, whom they take, and what a lost ledger is made of."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operatorpolicy import policy

from memorypressure.reasons import Reason
from memorypressure.victims import Candidate
from memorypressure_operator import evictions
from memorypressure_operator.evictions import EvictionLog, Record, RecordError, Room
from memorypressure_operator.granting import adopt, nearness
from memorypressure_operator.metrics import DENIALS
from memorypressure_operator.reports import (
    ReportedLease,
    StateStatus,
    StateView,
    TopPod,
)

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
LARGE = EvictionLog(tuple(Record(9.0, "n" * 253, "w" * 400, f"{number}", cleanup=True) for number in range(600)))
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
    "the record is full": ({"log": LARGE}, Reason.LEDGER_FULL),
    "two victims did not help": ({"since_action": 70.0, "unrelieved": (70.0, 600.0)}, Reason.FUTILE),
    "the pause is over": ({"since_action": 1800.0, "unrelieved": (1800.0, 1900.0)}, None),
    "they were too far apart": ({"since_action": 70.0, "unrelieved": (70.0, 671.0)}, None),
    "one victim": ({"since_action": 70.0, "unrelieved": (70.0,)}, None),
}


@pytest.mark.parametrize(("changes", "reason"), ROOM_CASES.values(), ids=ROOM_CASES.keys())
def test_limits_of_evictions(changes: dict[str, Any], reason: Reason | None) -> None:
    denied = evictions.limits_allow(policy(), room(**changes))
    assert (denied.reason if denied else None) is reason
    assert reason is None or reason in DENIALS, "it has a series before it happens"


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
    assert list(log.workloads()) == ["w"]
    assert list(log.aged(1.0).workloads()) == []
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
