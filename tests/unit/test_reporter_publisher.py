"""The publisher between a real journal and a scripted API: what is written when, and what becomes of records."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reporting import (
    BOOT_NS,
    UNIX_NS,
    Lines,
    Object,
    ScriptedClient,
    link_state,
    sentinel_status,
    under_pressure,
)
from support.sentinellab import candidate
from support.sentinellab import orders as orders_of

from memorypressure.grants import begin_beat
from memorypressure.reasons import Reason
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import DECISION_SLOTS, DECISIONS_OFFSET
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter import publisher as publisher_module
from memorypressure_agent.reporter.client import ApiError
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.publisher import Publisher

BOOT_ID = "b0b0b0b0-0000-4000-8000-000000000001"
ORDERS = orders_of(candidate("pod-1", "p"))
EPISODE: Object = {
    "id": "x-e1",
    "start": "2027-01-15T08:00:00.000001Z",
    "worst": "w",
    "reason": "AtomicReserveBreached",
    "actions": 0,
    "outcome": "Running",
}
AWAY = ApiError(0, "no answer from https://h: Connection refused")


class Clock:
    """Seconds since the start on all three clocks; `suspend` moves two of them, `step` one."""

    def __init__(self) -> None:
        self.now = 100.0
        self.boot_ns = BOOT_NS
        self.unix_ns = UNIX_NS

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.suspend(seconds)

    def suspend(self, seconds: float) -> None:
        self.boot_ns += int(seconds * 1e9)
        self.unix_ns += int(seconds * 1e9)


STATE_PATH = "/apis/memorypressure.dev/v1alpha1/nodememorystates/n"


class StandingLink:
    """A link whose state a test sets."""

    def __init__(self) -> None:
        self.state: LinkState = link_state(ORDERS)


class Node:
    """A journal, the publisher that reads it, and the status as the API server has it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.path = directory / "journal"
        self.clock = clock
        self.journal = Journal(str(self.path), BOOT_ID)
        self.link = StandingLink()
        self.client = ScriptedClient()
        self.log = Lines()
        self.number = 0
        self.current = sentinel_status()
        self.start()

    def start(self) -> None:
        """Another reporter process."""
        self.publisher = Publisher(self.client, "n", str(self.path), self.link, self.log)  # type: ignore[arg-type]
        self.publisher._beat_jitter = 0.5

    def restart(self) -> None:
        """A reporter that begins from what the API has."""
        state = {"metadata": {"uid": "state-uid"}, "status": self.status} if self.client.patches else None
        self.link.state = dataclasses.replace(self.link.state, state=state or self.link.state.state)
        self.start()

    def sentinel(self, status: Object | None = None) -> None:
        """The sentinel writes its status."""
        self.current = status or self.current
        self.journal.write_status({**self.current, "writtenBootNs": self.clock.boot_ns})

    def act(self, **changes: Any) -> str:
        """The sentinel records an action; its id."""
        self.number += 1
        identity = f"{self.journal.incarnation[:8]}-a{self.number}"
        record = {
            "id": identity,
            "time": "2027-01-15T08:00:00.000001Z",
            "action": "Kill",
            "mode": "DryRun",
            "result": "Success",
            "reason": "AtomicReserveBreached",
        }
        self.journal.write_decision(
            {"kind": "action", "record": {**record, **changes}, "message": "why", "outcome": "gone"}
        )
        return identity

    def round(self, seconds: float = 0.5, *, quiet: bool = False) -> None:
        """Time passes, the sentinel is well, the publisher has a turn."""
        self.clock.advance(seconds)
        if not quiet:
            self.sentinel()
        self.publisher.read()
        self.publisher.write()

    def pass_time(self, seconds: float, **how: Any) -> None:
        for _ in range(int(seconds / 0.5)):
            self.round(**how)

    @property
    def patches(self) -> list[Object]:
        assert all(patch[0]["path"] == "/metadata/uid" for patch in self.client.patches)
        return [patch[-1]["value"] for patch in self.client.patches]

    @property
    def status(self) -> Object:
        return self.patches[-1]

    def shown(self) -> list[str]:
        """Ids of all actions in the order in which a reader of every status met them for the first time."""
        seen = [action["id"] for patch in self.patches for action in reversed(patch["recentActions"])]
        return list(dict.fromkeys(seen))

    def told(self) -> list[str]:
        """What an operator that remembers only the last status counts as new."""
        told: list[str] = []
        before: set[str] = set()
        for patch in self.patches:
            now = [action["id"] for action in reversed(patch["recentActions"])]
            told += [identity for identity in now if identity not in before]
            before = set(now)
        return told

    def condition(self, kind: str) -> Object:
        return next(each for each in self.status["conditions"] if each["type"] == kind)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(publisher_module, "time", made)
    monkeypatch.setattr(publisher_module, "boot_ns", lambda: made.boot_ns)
    monkeypatch.setattr(publisher_module, "unix_ns", lambda: made.unix_ns)
    return made


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Iterator[Node]:
    made = Node(tmp_path, clock)
    yield made
    made.journal.close()


def calm(node: Node) -> None:
    """The first report is out and a while has passed."""
    node.sentinel()
    node.pass_time(20)
    assert len(node.patches) == 1


def test_the_first_report_goes_out_with_the_first_status_and_then_nothing_while_nothing_happens(node: Node) -> None:
    node.round(quiet=True)
    assert node.patches == []  # a sentinel that is not there yet is waited for
    node.sentinel()
    node.round()
    assert node.condition("Ready")["status"] == "True"
    assert node.status["lease"]["incarnation"] == node.journal.incarnation
    node.pass_time(600)
    assert len(node.patches) == 1


def test_without_an_object_to_write_to_nothing_is_sent(node: Node) -> None:
    node.link.state = link_state(state=None)
    node.sentinel()
    node.pass_time(30)
    assert node.patches == []


@pytest.mark.parametrize(
    ("spoil", "reason", "text"),
    [
        (lambda node: node.path.unlink(), "Unreadable", "the journal cannot be read: .*: No such file or directory"),
        (lambda node: node.path.write_bytes(b"x" * 99), "Unreadable", "too short for a journal|not a journal"),
        (lambda node: None, "SentinelSilent", "the sentinel writes no status"),
        (
            lambda node: node.sentinel({"agentVersion": "9.9"}),
            "WrongVersion",
            r"capabilities: is missing; it is of version 9.9, this reporter of .*: run both containers from one image",
        ),
    ],
    ids=["no journal", "another file", "no status", "another version"],
)
def test_what_is_wrong_on_the_node_is_a_condition_after_ten_seconds_and_not_the_end(
    node: Node, spoil: Any, reason: str, text: str
) -> None:
    spoil(node)
    node.pass_time(9, quiet=True)
    assert node.patches == []
    node.pass_time(2, quiet=True)
    ready = node.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert re.search(text, ready["message"])
    assert node.condition("UnderPressure")["status"] == "Unknown"
    assert not node.publisher.ready().ok


def test_a_journal_that_vanishes_is_told_once_and_its_return_too(node: Node) -> None:
    calm(node)
    node.path.rename(node.path.with_suffix(".away"))
    node.pass_time(10, quiet=True)
    assert node.condition("Ready")["reason"] == "Unreadable"
    assert node.status["activeTriggers"] == []
    assert node.status["lease"]["beat"] == 1  # the last that is known
    node.path.with_suffix(".away").rename(node.path)
    node.pass_time(10)
    assert node.condition("Ready")["status"] == "True"
    told = [text for reason, text in node.log.lines if "journal" in text]
    assert len(told) == 2


def test_a_transition_is_written_at_once_or_five_seconds_after_the_last_write(node: Node) -> None:
    calm(node)
    node.sentinel(under_pressure())
    node.publisher.read()
    node.publisher.write()
    assert node.condition("UnderPressure")["status"] == "True"
    node.sentinel(sentinel_status())
    for seconds in (4.5, 0.4):
        node.round(seconds)
        assert len(node.patches) == 2
    node.round(0.2)
    assert node.condition("UnderPressure")["status"] == "False"


def test_a_kill_is_told_a_second_after_the_report_of_the_pressure_that_it_answers(node: Node) -> None:
    calm(node)
    node.sentinel(under_pressure())
    node.publisher.read()
    node.publisher.write()
    wanted = [node.act()]
    node.round(0.9)
    assert node.told() == []
    node.round(0.2)
    assert node.told() == wanted
    before = len(node.patches)
    node.pass_time(9)
    assert len(node.patches) == before, "nothing new was told"


def test_a_report_of_an_episode_waits_for_the_status_that_names_its_triggers(node: Node) -> None:
    calm(node)
    node.journal.write_decision({"kind": "episode", "record": EPISODE})
    node.round(quiet=True)
    assert len(node.patches) == 1
    node.sentinel(under_pressure())
    node.round()
    assert len(node.patches) == 2
    assert (node.status["activeTriggerNames"], node.status["recentEpisodes"][0]["id"]) == ("reserve", EPISODE["id"])


def test_without_another_status_an_episode_is_reported_after_a_second_and_a_half(node: Node) -> None:
    calm(node)
    node.journal.write_decision({"kind": "episode", "record": EPISODE})
    node.pass_time(1.5, quiet=True)
    assert len(node.patches) == 1
    node.round(quiet=True)
    assert node.status["recentEpisodes"][0]["id"] == EPISODE["id"]


def test_a_backlog_of_actions_is_told_at_the_rate_of_transitions(node: Node) -> None:
    calm(node)
    wanted = [node.act() for _ in range(12)]
    node.pass_time(4.5)
    assert node.told() == wanted[:5]
    node.pass_time(1)
    assert node.told() == wanted[:10]
    node.pass_time(1)
    assert node.told() == wanted


def test_under_pressure_a_report_goes_out_every_ten_seconds(node: Node) -> None:
    calm(node)
    node.sentinel(under_pressure())
    node.pass_time(60)
    assert len(node.patches) in (7, 8)


def test_a_beat_is_reported_within_its_spread_and_a_renewed_grant_is_not_answered(node: Node) -> None:
    calm(node)
    node.journal.write_grants(begin_beat(node.journal.grants, node.clock.boot_ns))
    node.round()
    node.pass_time(2)
    assert len(node.patches) == 1
    node.pass_time(1)
    assert [patch["lease"]["beat"] for patch in node.patches] == [1, 2]
    node.link.state = dataclasses.replace(node.link.state, generation=5)
    node.pass_time(100)
    assert len(node.patches) == 2


def test_a_state_that_was_made_anew_gets_a_report_at_once(node: Node) -> None:
    calm(node)
    node.link.state = dataclasses.replace(node.link.state, state={"metadata": {"uid": "another", "generation": 4}})
    node.round()
    assert len(node.patches) == 2


def test_beats_that_follow_each_other_quickly_are_reported_every_five_seconds_at_most(node: Node) -> None:
    calm(node)
    for _ in range(120):  # an answer to each report that lets the sentinel begin another beat
        node.journal.write_grants(begin_beat(node.journal.grants, node.clock.boot_ns))
        node.round()
    assert len(node.patches) <= 1 + 60 / 5 + 1


def test_what_was_not_reported_yet_does_not_wait_for_the_next_beat(node: Node) -> None:
    calm(node)
    wanted = [node.act() for _ in range(23)]
    node.pass_time(30)
    assert node.told() == wanted
    assert node.publisher._actions.unreported == 0
    assert all(len(patch["recentActions"]) <= 10 for patch in node.patches)
    assert node.status["recentActions"][0]["message"] == "why. gone"
    assert node.status["lastActionTime"] == "2027-01-15T08:00:00.000001Z"


def test_through_an_outage_every_decision_is_told_once_and_conditions_keep_their_own_times(node: Node) -> None:
    calm(node)
    node.client.refuse_patches = AWAY
    wanted = []
    for number in range(12):
        wanted.append(node.act())
        node.sentinel(under_pressure() if number == 0 else None)
        node.pass_time(2)
    assert len(node.patches) == 1
    assert not node.publisher.ready().ok
    node.client.refuse_patches = None
    node.pass_time(90)
    assert node.told() == wanted
    changed = node.condition("UnderPressure")["lastTransitionTime"]
    assert changed == "2027-01-15T08:00:20Z"
    refusals = [text for _, text in node.log.lines if "could not be written" in text]
    assert len(refusals) == 1
    assert (Reason.ACCEPTED, "the status is written again") in node.log.lines


def test_an_answer_that_was_lost_repeats_nothing(node: Node) -> None:
    calm(node)
    wanted = [node.act(), node.act()]
    original = node.client.patch

    def lose(path: str, body: Object) -> Object:
        original(path, body)
        raise AWAY

    node.client.patch = lose  # type: ignore[method-assign]
    node.round()
    node.client.patch = original  # type: ignore[method-assign]
    node.pass_time(30)
    assert node.told() == wanted


def test_a_restart_in_the_middle_tells_nothing_twice_and_forgets_nothing(node: Node) -> None:
    calm(node)
    wanted = [node.act() for _ in range(17)]
    node.pass_time(9)  # two of four writes
    assert len(node.told()) < 17
    node.restart()
    wanted.append(node.act())
    node.pass_time(30)
    assert node.told() == wanted
    changed = [patch["conditions"][0]["lastTransitionTime"] for patch in node.patches]
    assert len(set(changed)) == 1
    node.restart()
    before = len(node.patches)
    node.pass_time(30)
    assert len(node.patches) == before + 1  # the first report of a process, nothing more
    assert node.told() == wanted


def test_a_new_journal_is_told_at_once_and_what_was_left_in_the_old_one_too(node: Node) -> None:
    calm(node)
    old = node.journal
    left = node.act()
    old.close()
    node.path.unlink()
    node.journal = Journal(str(node.path), BOOT_ID)
    node.number = 0
    node.sentinel()
    new = node.act()
    node.pass_time(6)
    assert node.status["lease"]["incarnation"] == node.journal.incarnation != old.incarnation
    assert node.told() == [left, new]
    assert "the journal was replaced" in node.log.text()


def test_records_that_were_overwritten_unread_are_counted_and_at_the_start_nobody_knows(node: Node) -> None:
    for _ in range(DECISION_SLOTS + 100):
        node.journal.write_decision({"kind": "decision"})
    calm(node)
    assert "overwritten" not in node.log.text()
    for _ in range(DECISION_SLOTS + 8):
        node.journal.write_decision({"kind": "decision"})
    last = node.act()
    node.pass_time(10)
    assert "9 records were overwritten or damaged before they were read" in node.log.text()
    assert node.told() == [last]


def test_a_damaged_record_is_counted_and_hides_no_other(node: Node) -> None:
    node.journal.write_decision({"kind": "decision"})
    calm(node)
    first, spoiled, last = node.act(), node.act(), node.act()
    slot = DECISIONS_OFFSET + 3 * 2048
    with node.path.open("r+b") as file:
        file.seek(slot + 40)
        file.write(b"\0\0\0")
    node.pass_time(10)
    assert node.told() == [first, last]
    assert spoiled not in node.shown()
    assert "1 records were overwritten or damaged" in node.log.text()


@pytest.mark.parametrize("record", [{"id": None}, {"time": "?"}, {"action": "Reboot"}, {"pod": {"uid": 1}}])
def test_a_record_that_the_api_would_refuse_is_told_in_the_log_and_keeps_nothing_from_being_written(
    node: Node, record: Object
) -> None:
    calm(node)
    node.act(**record) if record.get("id", "") is not None else node.journal.write_decision(
        {"kind": "action", "record": "cut"}
    )
    good = node.act()
    node.pass_time(10)
    assert node.told() == [good]
    assert "of the journal is no action" in node.log.text()


def test_episodes_are_shown_as_they_stand(node: Node) -> None:
    calm(node)
    node.journal.write_decision({"kind": "episode", "record": EPISODE})
    node.pass_time(6)
    ended = {**EPISODE, "end": "2027-01-15T08:02:00.000001Z", "outcome": "Recovered"}
    node.journal.write_decision({"kind": "episode", "record": ended})
    node.pass_time(6)
    assert [patch["recentEpisodes"] for patch in node.patches[1:]] == [[EPISODE], [ended]]


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "expired"), (403, "bound to a pod on this node"), (404, "operator running"), (422, "another version")],
)
def test_a_refusal_says_what_to_look_at(node: Node, status: int, hint: str) -> None:
    node.client.refuse_patches = ApiError(status, "no")
    node.client.objects[STATE_PATH] = {"metadata": {"uid": "state-uid"}}
    node.sentinel()
    node.pass_time(10)
    assert len([text for _, text in node.log.lines if hint in text]) == 1
    health = node.publisher.ready()
    assert not health.ok
    assert any(hint in line and line.startswith("NOT status written: never") for line in health.lines)


@pytest.mark.parametrize("status", [409, 422])
@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"metadata": {"uid": "another"}}, "made anew (UID state-uid is now another)"),
        (None, "the object was deleted; it is waited for"),
        ({"metadata": {"uid": "state-uid"}, "status": {"lease": {"beat": 8}}}, "HTTP "),
    ],
)
def test_a_report_that_was_made_for_a_replaced_object_says_so_and_its_records_go_to_the_next(
    node: Node, status: int, now: Object | None, said: str
) -> None:
    calm(node)
    node.client.refuse_patches = ApiError(status, "the server rejected our request due to an error in our request")
    if now is not None:
        node.client.objects[STATE_PATH] = now
    identity = node.act()
    node.pass_time(8)
    assert [said in text for _, text in node.log.lines].count(True) == 1
    assert not node.publisher.ready().ok
    node.client.refuse_patches = None
    node.link.state = dataclasses.replace(
        node.link.state, state={"metadata": {"uid": "another", "generation": 1}, "spec": {}}
    )
    node.pass_time(20)
    assert node.client.patches[-1][0] == {"op": "test", "path": "/metadata/uid", "value": "another"}
    assert node.told() == [identity]
    assert any(line.startswith("ok status written") for line in node.publisher.ready().lines)


def test_a_lease_that_is_only_handed_on_is_read_again_when_another_one_stands_there(node: Node) -> None:
    node.publisher._reader = JournalReader(str(node.path.with_name("nothing")))
    node.link.state = dataclasses.replace(
        node.link.state, state={"metadata": {"uid": "state-uid"}, "spec": {}, "status": {"lease": {"beat": 7}}}
    )
    node.client.refuse_patches = ApiError(422, "the server rejected our request due to an error in our request")
    node.client.objects[STATE_PATH] = {"metadata": {"uid": "state-uid"}, "status": {"lease": {"beat": 8}}}
    node.pass_time(15)
    assert "another reporter wrote its lease meanwhile; it is read again" in node.log.text()


def test_whether_an_object_was_replaced_is_not_guessed_when_it_cannot_be_read(node: Node) -> None:
    calm(node)
    node.client.refuse_patches = ApiError(422, "spec.x: Invalid")
    node.client.objects[STATE_PATH] = AWAY
    node.act()
    node.pass_time(8)
    assert "the status could not be written: HTTP 422: spec.x: Invalid" in node.log.text()


def test_a_server_that_asks_for_time_gets_it(node: Node) -> None:
    calm(node)
    calls = []

    def throttle(path: str, body: Object) -> Object:
        calls.append(node.clock.now)
        raise ApiError(429, "slow down", 40.0)

    node.client.patch = throttle  # type: ignore[method-assign]
    node.act()
    node.pass_time(85)
    assert len(calls) == 3
    assert min(after - before for before, after in itertools.pairwise(calls)) >= 40


def test_after_a_suspend_nobody_is_called_silent_who_had_no_time_to_write(node: Node) -> None:
    calm(node)
    node.clock.suspend(3600)
    for _ in range(4):
        node.round(quiet=True)
    assert len(node.patches) == 1
    node.pass_time(10)
    assert all(patch["conditions"][0]["status"] == "True" for patch in node.patches)


def test_a_sentinel_that_stops_is_told_after_ten_seconds_and_heard_again(node: Node) -> None:
    calm(node)
    node.pass_time(12, quiet=True)
    assert node.condition("Ready")["reason"] == "SentinelSilent"
    assert node.condition("UnderPressure")["status"] == "Unknown"
    node.sentinel()
    node.pass_time(6)
    assert node.condition("Ready")["status"] == "True"


@pytest.mark.parametrize("seconds", [-(10**9), 3600, 10**11])
def test_steps_of_the_wall_clock_change_times_and_nothing_else(node: Node, seconds: int) -> None:
    calm(node)
    node.clock.unix_ns += seconds * 10**9
    wanted = node.act()
    node.pass_time(10)
    assert node.told() == [wanted]
    assert len(node.status["lastReportTime"]) == 20


def test_at_the_end_what_waits_is_written_without_waiting(node: Node) -> None:
    calm(node)
    wanted = [node.act() for _ in range(12)]
    node.publisher.finish()
    assert node.told() == wanted
    node.client.refuse_patches = AWAY
    node.act()
    node.publisher.finish()  # one attempt
    assert node.publisher._pace.failures == 1


@pytest.mark.parametrize("last_words", [True, False])
def test_at_the_end_of_both_processes_the_kill_that_was_waited_for_is_waited_for(node: Node, last_words: bool) -> None:
    calm(node)
    wanted, began = [node.act(mode="Enforce")], node.clock.now
    node.publisher.finish()
    assert node.clock.now == began, "no kill is under way"
    node.journal.write_decision({"kind": "decision", "action": "Kill", "mode": "Enforce", "actionNumber": 2})

    def sleep(seconds: float) -> None:
        node.clock.advance(seconds)
        if last_words and len(wanted) == 1:
            wanted.append(node.act(mode="Enforce", result="Incomplete"))

    node.clock.sleep = sleep  # type: ignore[attr-defined]
    node.publisher.finish()
    assert node.told() == wanted
    assert len(wanted) == 1 + last_words
    assert node.clock.now - began == pytest.approx(0.1 if last_words else 2.0, abs=0.11)


def test_a_round_that_is_stuck_makes_the_process_dead_and_a_broken_api_server_does_not(node: Node) -> None:
    node.client.refuse_patches = AWAY
    node.sentinel()
    node.pass_time(300)
    node.publisher._round_seconds = node.clock.now - 59
    assert node.publisher.live().ok
    node.clock.advance(2)
    assert not node.publisher.live().ok


@pytest.mark.parametrize(
    ("changes", "ok", "line"),
    [
        ({}, True, "ok API server: last answer 0 s ago"),
        ({"last_contact_seconds": None, "problem": "the CA"}, False, "NOT API server: the CA"),
        ({"last_contact_seconds": -200.0, "problem": "gone"}, False, "NOT API server: last answer 320 s ago; gone"),
        ({"last_contact_seconds": 60.0, "problem": "gone"}, True, "ok API server: last answer 60 s ago gone"),
        ({"reason": Reason.ORDERS_INVALID, "message": "plan.spec: odd"}, False, "NOT orders: plan.spec: odd"),
        ({"reason": Reason.NO_ORDERS, "message": "no policy"}, True, "ok orders: no policy"),
    ],
)
def test_ready_tells_the_truth_about_each_part(node: Node, changes: Any, ok: bool, line: str) -> None:
    calm(node)
    node.clock.now = 120.0
    node.link.state = dataclasses.replace(link_state(ORDERS, last_contact_seconds=120.0), **changes)
    health = node.publisher.ready()
    assert health.ok is ok
    assert line in health.lines
