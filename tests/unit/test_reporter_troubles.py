"""What is wrong, and how it is told: the node's files, the API server's refusals, silence, probes."""

import dataclasses
import itertools
import re
from typing import Any

import pytest
from support.publishing import AWAY, BOOT_ID, ORDERS, STATE_PATH, Node, calm
from support.reporting import Object, link_state, sentinel_status, source

from memorypressure.reasons import Reason
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter.client import ApiError


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
        ({"last_contact_seconds": 0.5, "problem": "gone"}, True, "ok API server: last answer 120 s ago gone"),
        ({"last_contact_seconds": 0.0}, False, "NOT API server: last answer 120 s ago; it says nothing"),
        ({"reason": Reason.ORDERS_INVALID, "message": "plan.spec: odd"}, False, "NOT orders: plan.spec: odd"),
        ({"reason": Reason.ACTION_FAILED, "message": "disk full"}, False, "NOT orders: disk full"),
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


@pytest.mark.parametrize(
    ("standing", "ok", "line"),
    [
        ("Valid", True, "ok orders: in force"),
        ("Invalid", False, "NOT orders: the sentinel refuses them: version: 9"),
        ("None", True, "ok orders: written; the sentinel has not taken them over"),
    ],
)
def test_ready_tells_what_the_sentinel_says_of_its_orders(node: Node, standing: str, ok: bool, line: str) -> None:
    calm(node)
    node.link.state = link_state(ORDERS, last_contact_seconds=node.clock.now)
    node.sentinel({**node.current, "orders": node.current["orders"] | {"standing": standing, "message": "version: 9"}})
    node.publisher.read()
    health = node.publisher.ready()
    assert health.ok is ok
    assert line in health.lines


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda node: None, "NOT sentinel: it writes no status"),
        (lambda node: node.path.unlink(), "NOT sentinel: the journal cannot be read: .*: No such file or directory"),
        (lambda node: node.path.write_bytes(b"x" * 99), "NOT sentinel: the journal cannot be read: .*"),
        (
            lambda node: node.sentinel({"agentVersion": "9.9"}),
            "NOT sentinel: the sentinel's status is not understood: capabilities: is missing; it is of version 9.9.*",
        ),
    ],
    ids=["silent", "no journal", "another file", "another version"],
)
def test_ready_tells_what_is_wrong_with_the_sentinel_and_that_it_is_well_again(
    node: Node, spoil: Any, line: str
) -> None:
    calm(node)
    node.link.state = dataclasses.replace(node.link.state, last_contact_seconds=node.clock.now)
    assert node.publisher.ready().ok
    kept = node.path.read_bytes()
    spoil(node)
    for _ in range(24):
        node.clock.advance(0.5)
        node.publisher.read()
    health = node.publisher.ready()
    assert not health.ok
    assert [bool(re.fullmatch(line, each)) for each in health.lines].count(True) == 1
    assert [each.partition(" ")[0] for each in health.lines].count("NOT") == 1, "and nothing else is"
    if not node.path.exists() or node.path.stat().st_size != len(kept):
        node.path.write_bytes(kept)
        node.journal.close()
        node.journal = Journal(str(node.path), BOOT_ID)
    node.sentinel(sentinel_status())
    node.publisher.read()
    assert node.publisher.ready().ok


def test_ready_is_not_said_while_the_zones_cannot_be_read(node: Node) -> None:
    calm(node)
    node.link.state = dataclasses.replace(node.link.state, last_contact_seconds=node.clock.now)
    node.sentinel(sentinel_status(sources=[source("zoneinfo", failed="NotUnderstood", message="line 7: odd")]))
    node.publisher.read()
    health = node.publisher.ready()
    assert not health.ok
    assert "NOT zoneinfo: line 7: odd" in health.lines
    node.sentinel(sentinel_status())
    node.publisher.read()
    assert node.publisher.ready().ok
    assert "ok zoneinfo: read" in node.publisher.ready().lines


def test_ready_is_not_said_before_there_is_an_object_to_report_to(node: Node) -> None:
    node.sentinel()
    node.link.state = dataclasses.replace(
        link_state(None, last_contact_seconds=node.clock.now), state=None, message="there is no NodeMemoryState n"
    )
    node.pass_time(10)
    assert node.patches == []
    health = node.publisher.ready()
    assert not health.ok
    assert "NOT status written: never there is no NodeMemoryState n" in health.lines
