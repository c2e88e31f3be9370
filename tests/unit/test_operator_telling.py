"""What a report is told as: each action once, by its name, whatever the clocks say."""

from datetime import UTC, datetime
from typing import Any

import pytest
from support.fakecluster import Clock

from memorypressure.reasons import Reason
from memorypressure_operator.events import Event
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.reports import (
    Condition,
    Lowest,
    PodReference,
    ReportedAction,
    StateStatus,
    StateView,
    Zone,
)
from memorypressure_operator.tallies import Tally
from memorypressure_operator.telling import Teller
from memorypressure_operator.views import NodeView

NODE = NodeView("n", "node-uid", {}, (), ready=True)
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def kill(name: str, time: str = "2026-01-01T11:59:00Z", **changes: Any) -> ReportedAction:
    fields = {"action": "Kill", "mode": "Enforce", "result": "Success", "reason": "MinBreached", "message": "m"}
    return ReportedAction(name, time, **(fields | {"pod": PodReference("u", "ns", "web-0")} | changes))


class World:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.memory = NodeMemory()
        self.came_seconds: float | None = None  # of the next report; the first is there at first sight
        writer: Any = self
        self.tally_of = Tally(Clock())
        self.teller = Teller(writer, lambda _: self.tally_of, lambda: NOON)

    def tell(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def report(self, *actions: ReportedAction, **status: Any) -> list[str]:
        view = StateView("n", "s", 1, "1", "", {}, StateStatus(recent_actions=actions, **status))
        self.kills = self.teller.report(self.memory, NODE, view, "p", self.came_seconds)
        self.came_seconds = 0.0
        return [each.action.id for each in self.kills]


def test_each_kill_is_new_once() -> None:
    world = World()
    assert world.report() == []
    assert world.report(kill("a")) == ["a"]
    assert world.report(kill("b"), kill("a")) == ["b"]
    assert world.report(kill("b"), kill("a")) == []
    assert {event.regarding.kind for event in world.events} == {"Pod", "Node"}
    assert len({event.name for event in world.events}) == 4
    assert world.tally_of.count("kills") == 2


@pytest.mark.parametrize("clock", ["2026-01-01T03:00:05Z", "2026-01-01T12:00:00Z", "2026-01-01T20:00:05Z"])
def test_a_node_whose_clock_is_hours_off_is_believed_what_it_did_since_the_last_report(clock: str) -> None:
    world = World()
    world.report()
    assert world.report(kill("a", clock.replace("05Z", "00Z")), last_report_time=clock) == ["a"]
    assert [(kill.age_seconds, kill.recent) for kill in world.kills] == [(0.0, True)]
    assert [event.reason for event in world.events] == [Reason.KILLED] * 2
    assert world.tally_of.count("kills") == 1


def test_a_kill_that_its_node_could_not_report_for_an_hour_is_told_and_its_pod_left_alone() -> None:
    world = World()
    world.report()
    assert world.report(kill("late", "2026-01-01T02:00:00Z"), last_report_time="2026-01-01T03:07:00Z") == ["late"]
    assert [(kill.age_seconds, kill.recent) for kill in world.kills] == [(0.0, False)]
    assert [event.reason for event in world.events] == [Reason.KILLED] * 2 + [Reason.SAMPLE_STALE]
    assert "67 minutes later" in world.events[-1].note


@pytest.mark.parametrize(
    ("done", "reported"),
    [
        ("2026-01-01T10:00:00Z", ""),  # by this machine's clock
        ("2026-01-01T11:59:00Z", "2026-01-01T13:59:00Z"),  # by that of the node, which is two hours ahead
        ("2026-01-01T08:00:00Z", "2026-01-01T08:00:05Z"),  # nobody knows how old the report is
    ],
)
def test_at_first_sight_of_a_node_old_actions_are_left_alone(done: str, reported: str) -> None:
    assert World().report(kill("old", done), last_report_time=reported) == []
    assert World().report(kill("young"), last_report_time="2026-01-01T11:59:30Z") == ["young"]


@pytest.mark.parametrize(
    ("next_report", "told"), [("2026-01-01T08:01:05Z", ["slow"]), ("2026-01-01T11:59:58Z", [])], ids=["slow", "old"]
)
def test_of_a_kill_that_was_there_at_first_sight_a_slow_nodes_next_report_says_how_old_it_is(
    next_report: str, told: list[str]
) -> None:
    """An operator that was restarted cannot tell a node whose clock is slow from one that fell silent hours ago."""
    world, action = World(), kill("slow", "2026-01-01T08:00:00Z")
    for _ in range(2):
        world.came_seconds = None  # the second look at the same report knows no more
        assert world.report(action, last_report_time="2026-01-01T08:00:05Z") == []
    assert world.report(action, last_report_time=next_report) == told
    assert [(each.age_seconds, each.recent) for each in world.kills] == [(65.0, True)] * len(told)
    assert [event.reason for event in world.events] == [Reason.KILLED] * 2 * len(told)
    assert world.report(action, last_report_time=next_report) == []


def test_what_was_seen_to_come_before_this_process_led_is_as_old_as_its_nodes_clock_says() -> None:
    world = World()
    world.came_seconds = 1000.0
    young, old = kill("a", "2026-01-01T07:50:00Z"), kill("b", "2026-01-01T07:20:00Z")
    assert world.report(old, young, last_report_time="2026-01-01T08:00:00Z") == ["a"]
    assert world.kills[0].age_seconds == 1600.0


def test_what_is_pending_is_told_when_it_has_ended() -> None:
    world = World()
    world.report()
    assert world.report(kill("a", result="Pending")) == []
    assert world.report(kill("a")) == ["a"]


def test_a_kill_that_was_not_seen_to_end_is_cleaned_up_after_and_one_that_failed_is_not() -> None:
    world = World()
    world.report()
    assert world.report(kill("a", result="Incomplete")) == ["a"]
    assert [event.reason for event in world.events] == [Reason.KILLED] * 2
    assert "exit code 137" in world.events[0].note
    assert world.report(kill("b", result="Failed")) == []
    assert [event.reason for event in world.events[2:]] == [Reason.ACTION_FAILED] * 2
    assert "could not be killed" in world.events[2].note


def test_a_kill_is_told_with_node_zone_line_free_min_and_what_came_back() -> None:
    world = World()
    world.report()
    lowest = Lowest(node="0", zone="0/Normal", line="AtomicReserve", usable_to_line="41%")
    zones = (Zone("Normal", 0, 20 << 20, 45 << 20),)
    world.report(kill("a", freed_bytes=123 << 20), lowest=lowest, zones=zones)
    (note,) = {event.note for event in world.events}
    for words in ("node n", "0/Normal", "41% of AtomicReserve", "free 20.0 MiB, min 45.0 MiB", "123.0 MiB came back"):
        assert words in note
    assert "exit code 137" in note


def test_an_episode_is_told_on_the_node_when_it_starts_and_when_it_ends() -> None:
    world = World()
    for status, since in (
        ("False", "1"),
        ("True", "2"),
        ("True", "2"),
        ("Unknown", "3"),
        ("False", "4"),
        ("False", "4"),
    ):
        world.report(conditions=(Condition("UnderPressure", status, "MinBreached", "m", since),))
    assert [event.reason for event in world.events] == [Reason.PRESSURE_STARTED, Reason.PRESSURE_CLEARED]
    assert all(event.regarding.kind == "Node" for event in world.events)
