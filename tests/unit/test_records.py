"""Records have the shape of the API's status and come back from it; steps are due by one rule."""

import json
from dataclasses import replace

import pytest

from memorypressure.reasons import Reason
from memorypressure.records import (
    ActionResult,
    Decision,
    EpisodeOutcome,
    EpisodeRecord,
    Phase,
    PodRef,
    RecordError,
    Victim,
    action_record,
    action_record_from,
    rfc3339,
    unix_ns_from,
)
from memorypressure.spec_values import Action, Match, Mode, Step
from memorypressure.steps import Reading, StepTimer, advance_steps, readings_from_report
from memorypressure.triggers import TriggerStatus

S = 1_000_000_000
MOMENT = 1_767_323_045_123_456_000
A, C, U = TriggerStatus.ACTIVE, TriggerStatus.CLEAR, TriggerStatus.UNKNOWN
DECISION = Decision(
    time_ns=1,
    phase=Phase.ACTING,
    action=Action.KILL,
    mode=Mode.ENFORCE,
    reason=Reason.KILLED,
    message="kill shop/web",
    action_number=4,
    victim=Victim(PodRef("u1", "shop", "web"), ("c1",), 5, 0, True),
    cause=Reason.ATOMIC_RESERVE_BREACHED,
    inputs=(("active", ("reserve",)),),
)


def test_an_action_record_has_the_apis_shape_and_comes_back() -> None:
    record = action_record(DECISION, "0123456789", MOMENT, ActionResult.SUCCESS, freed_bytes=9)
    value = json.loads(json.dumps(record.to_json()))
    assert value == {
        "id": "01234567-a4",
        "time": "2026-01-02T03:04:05.123456Z",
        "action": "Kill",
        "mode": "Enforce",
        "result": "Success",
        "reason": "AtomicReserveBreached",
        "pod": {"uid": "u1", "namespace": "shop", "name": "web"},
        "freedBytes": 9,
    }
    assert action_record_from(value) == replace(record, message="")


def test_the_record_of_one_containers_kill_names_the_container_and_comes_back() -> None:
    victim = Victim(PodRef("u1", "shop", "web", "c1"), ("c1",), 5, 0, True)
    record = action_record(replace(DECISION, victim=victim), "0123456789", MOMENT, ActionResult.SUCCESS)
    value = json.loads(json.dumps(record.to_json()))
    assert value["pod"] == {"uid": "u1", "namespace": "shop", "name": "web", "container": "c1"}
    assert action_record_from(value).pod == victim.pod


def test_a_decision_without_an_action_is_no_action_record() -> None:
    with pytest.raises(ValueError, match="without an action"):
        action_record(replace(DECISION, action=None), "i", 0, ActionResult.SUCCESS)


def test_a_decision_is_a_line_of_json() -> None:
    value = json.loads(json.dumps(DECISION.to_json()))
    assert (value["action"], value["victim"]["containers"], value["inputs"]) == (
        "Kill",
        ["c1"],
        {"active": ["reserve"]},
    )
    assert json.loads(json.dumps(replace(DECISION, action=None, victim=None).to_json()))["action"] is None


def test_an_episode_record_leaves_out_the_end_while_it_runs() -> None:
    record = EpisodeRecord("e1", MOMENT, None, "x" * 2000, Reason.MIN_BREACHED, 1, EpisodeOutcome.RUNNING)
    value = record.to_json()
    assert "end" not in value
    assert len(value["worst"]) == 1024
    assert replace(record, end_unix_ns=MOMENT).to_json()["end"] == "2026-01-02T03:04:05.123456Z"


TIMES = ["yesterday", "2026-01-02T03:04:05", "", "2026-13-02T03:04:05Z"]


@pytest.mark.parametrize("text", TIMES)
def test_a_time_without_a_zone_or_sense_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="time"):
        unix_ns_from(text)


def test_times_come_back() -> None:
    assert unix_ns_from(rfc3339(MOMENT)) == MOMENT
    assert unix_ns_from("2026-01-02T04:04:05+01:00") == MOMENT // S * S


BAD_RECORDS = [
    {},
    {"id": "x", "time": "2026-01-02T03:04:05Z", "action": "Nuke", "mode": "Enforce", "result": "Success"},
]


@pytest.mark.parametrize("value", BAD_RECORDS)
def test_a_foreign_action_record_is_refused(value: dict[str, str]) -> None:
    with pytest.raises(RecordError, match="recentActions"):
        action_record_from(value)


def step_of(match: Match, after: int = 20) -> Step:
    return Step(Action.EVICT, ("a", "b"), match, after)


STEPS = [
    (Match.ANY, {"a": (A, 0), "b": (C, 0)}, 20, True),
    (Match.ANY, {"a": (A, 0), "b": (C, 0)}, 19, False),
    (Match.ANY, {"a": (U, 0), "b": (A, 0)}, 20, True),
    (Match.ANY, {"a": (U, 0), "b": (U, 0)}, 99, False),
    (Match.ANY, {}, 99, False),
    (Match.ALL, {"a": (A, 0), "b": (A, 10)}, 29, False),
    (Match.ALL, {"a": (A, 0), "b": (A, 10)}, 30, True),
    (Match.ALL, {"a": (A, 0), "b": (U, 0)}, 99, False),
    (Match.ALL, {"a": (A, 0)}, 99, False),
]


@pytest.mark.parametrize(("match", "readings", "now", "due"), STEPS)
def test_a_step_is_due_after_its_seconds_and_never_by_unknown(
    match: Match, readings: dict[str, tuple[TriggerStatus, int]], now: int, due: bool
) -> None:
    known = {name: Reading(status, since * S) for name, (status, since) in readings.items()}
    _, (status,) = advance_steps((step_of(match),), (), known, now * S)
    assert status.due is due


def test_one_trigger_after_another_carries_an_any_step_on_and_a_gap_ends_it() -> None:
    timers: tuple[StepTimer, ...] = ()
    ladder = (step_of(Match.ANY),)
    for now, readings, due in [
        (0, {"a": Reading(A, 0), "b": Reading(C, 0)}, False),
        (15, {"a": Reading(C, 15 * S), "b": Reading(A, 15 * S)}, False),
        (20, {"a": Reading(C, 15 * S), "b": Reading(A, 15 * S)}, True),
        (21, {"a": Reading(U, 0), "b": Reading(U, 0)}, False),
        (22, {"a": Reading(A, 22 * S), "b": Reading(C, 0)}, False),
    ]:
        timers, (status,) = advance_steps(ladder, timers, readings, now * S)
        assert status.due is due, now


def test_a_step_that_changed_starts_anew() -> None:
    readings = {"a": Reading(A, 100 * S), "b": Reading(A, 100 * S)}
    timers, _ = advance_steps((step_of(Match.ANY),), (), {"a": Reading(A, 0)}, 0)
    _, (status,) = advance_steps((step_of(Match.ALL),), timers, readings, 110 * S)
    assert not status.due


def test_what_a_report_does_not_list_is_clear() -> None:
    readings = readings_from_report(("a", "b"), {"b": 5})
    assert readings == {"a": Reading(C, 0), "b": Reading(A, 5)}
