"""What becomes of the journal's records: each told once, through outages, restarts and damage, and at the end."""

import pytest
from support.publishing import AWAY, BOOT_ID, EPISODE, Node, calm
from support.reporting import Object, under_pressure

from memorypressure.reasons import Reason
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import DECISION_SLOTS, DECISIONS_OFFSET


def test_a_backlog_of_actions_is_told_at_the_rate_of_transitions(node: Node) -> None:
    calm(node)
    wanted = [node.act() for _ in range(12)]
    node.pass_time(4.5)
    assert node.told() == wanted[:5]
    node.pass_time(1)
    assert node.told() == wanted[:10]
    node.pass_time(1)
    assert node.told() == wanted


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
