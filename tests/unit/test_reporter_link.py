"""Orders from the API server to the file: written, renewed, withdrawn, kept; no busy loops, no torn files."""

import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.reporting import Lines, Object, ScriptedClient, eventually, not_found, plan_object, state_object
from support.sentinellab import candidate, grant_for
from support.sentinellab import orders as orders_of

from memorypressure.orders import Orders, decode
from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode
from memorypressure_agent.reporter import files
from memorypressure_agent.reporter import link as link_module
from memorypressure_agent.reporter.client import ApiError
from memorypressure_agent.reporter.link import PLANS, STATES, Link

NODE = "node-a"
STATE, PLAN = f"{STATES}/{NODE}", f"{PLANS}/{NODE}"
OWN_UID = "0c2b8d7e-0000-4a7e-9f0e-2f8d6a3c1b00"
ORDERS = orders_of(candidate("8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11", "web-0"), grant=grant_for("i" * 32))
MISSING_KIND = ApiError(404, "404 page not found")


class Desk:
    """A link with a scripted client, followed step by step."""

    def __init__(self, directory: Path) -> None:
        self.client = ScriptedClient()
        self.log = Lines()
        self.path = directory / "orders.json"
        self.link = Link(self.client, NODE, OWN_UID, self.path, self.log)  # type: ignore[arg-type]

    def serve(self, orders: Orders | None, **changes: Any) -> None:
        """Lets the API server hold what makes these orders."""
        self.client.objects[STATE] = state_object(NODE, orders, **changes)
        if orders is not None:
            self.client.objects[PLAN] = plan_object(NODE, orders)

    def follow(self, *events: Object) -> None:
        self.client.watches = [list(events)]
        self.read_anew()

    def read_anew(self) -> None:
        """Follows as a link does that has no version to go on from."""
        self.link._version = ""
        self.link.follow()

    def orders(self) -> Orders | None:
        """What the sentinel would read."""
        return decode(self.path.read_bytes()) if self.path.exists() else None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def modified(orders: Orders | None, **changes: Any) -> Object:
    return {"type": "MODIFIED", "object": state_object(NODE, orders, **changes)}


DELETED: Object = {"type": "DELETED", "object": state_object(NODE, ORDERS)}
BOOKMARK: Object = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}


def test_state_and_plan_become_the_orders_that_the_sentinel_reads(desk: Desk) -> None:
    desk.serve(ORDERS)
    desk.follow()
    assert desk.orders() == replace(ORDERS, own_pod_uid=OWN_UID)
    state = desk.link.state
    assert (state.connected, state.problem, state.reason, state.generation, state.uid) == (
        True,
        "",
        None,
        1,
        "state-uid",
    )
    assert state.synced_unix_seconds is not None
    assert desk.link.changed.is_set()
    query = {"fieldSelector": "metadata.name=node-a", "allowWatchBookmarks": "true", "timeoutSeconds": "300"}
    assert desk.client.queries == [query | {"resourceVersion": "7"}]


def test_the_agents_own_pod_is_never_ordered(desk: Desk) -> None:
    own, other = candidate(OWN_UID, "agent"), candidate("8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11", "web-0")
    desk.serve(replace(ORDERS, pods=(own, other)))
    desk.follow()
    found = desk.orders()
    assert found is not None
    assert [pod.name for pod in found.pods] == ["web-0"]


def test_a_change_of_the_state_alone_needs_no_plan_and_a_newer_plan_is_fetched_once(desk: Desk) -> None:
    desk.serve(ORDERS)
    newer = replace(ORDERS, plan_generation=2)
    dry = replace(ORDERS, mode=Mode.DRY_RUN)
    desk.client.watches = [[modified(dry, generation=2), BOOKMARK]]
    desk.read_anew()
    assert desk.client.gets == [STATE, PLAN]
    assert desk.orders() == replace(dry, own_pod_uid=OWN_UID)
    assert desk.link.state.generation == 2
    desk.serve(newer)
    desk.follow(modified(newer), modified(newer))
    assert desk.client.gets == [STATE, PLAN, STATE, PLAN]


def test_equal_orders_are_not_written_again_also_not_by_the_next_process(desk: Desk, tmp_path: Path) -> None:
    desk.serve(ORDERS)
    desk.follow()
    before = desk.path.stat()
    desk.follow(modified(ORDERS))
    again = Desk(tmp_path)
    again.serve(ORDERS)
    again.follow()
    after = desk.path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_file_that_somebody_else_changed_or_removed_is_put_right_at_the_next_event(desk: Desk) -> None:
    desk.serve(ORDERS)
    for spoil in (lambda: desk.path.write_text("{"), desk.path.unlink):
        desk.follow()
        spoil()
        desk.follow(modified(ORDERS))
        assert desk.orders() is not None


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([modified(None)], "no policy is in force on this node"),
        ([DELETED], "there is no NodeMemoryState node-a; the operator makes it"),
    ],
)
def test_what_is_no_longer_ordered_is_withdrawn_at_once(desk: Desk, events: list[Object], message: str) -> None:
    desk.serve(ORDERS)
    desk.follow(*events)
    assert desk.orders() is None
    assert (desk.link.state.orders, desk.link.state.reason) == (None, Reason.NO_ORDERS)
    assert desk.link.state.message == message
    assert (Reason.NO_ORDERS, message) in desk.log.lines


def test_orders_left_by_an_earlier_process_go_when_the_state_is_gone(desk: Desk) -> None:
    desk.path.write_text("old")
    desk.follow()
    assert not desk.path.exists()
    assert "resourceVersion" not in desk.client.queries[0]  # so the watch begins with the object as soon as it is there


def test_a_state_that_is_made_anew_is_taken_over_with_its_uid(desk: Desk) -> None:
    desk.serve(ORDERS)
    desk.follow(DELETED, {"type": "ADDED", "object": state_object(NODE, ORDERS, uid="second")})
    assert desk.orders() is not None
    assert desk.link.state.uid == "second"
    assert desk.client.gets == [STATE, PLAN, PLAN]  # nothing of the old one is trusted


def broken(part: str, **changes: Any) -> Callable[[Desk], None]:
    def spoil(desk: Desk) -> None:
        desk.client.objects[part]["spec"].update(changes)  # type: ignore[union-attr]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken(PLAN, pods="many"), "plan.spec.pods: must be a list"),
        (broken(PLAN, nodeName="node-b"), "plan.spec.nodeName: is node-b, the state is of node-a"),
        (
            broken(PLAN, policy={"name": "other", "generation": 1}),
            "plan.spec.policy.name: is other, the state names test",
        ),
        (broken(PLAN, triggers=[]), "plan.spec.triggers"),
        (broken(STATE, mode="Fierce"), "state.spec.mode: must be one of Disabled, DryRun, Enforce"),
        (broken(STATE, grant={"incarnation": 5}), "state.spec.grant"),
        (broken(PLAN, pods=[{"uid": "../.."}]), "plan.spec.pods[0]"),
    ],
)
def test_objects_that_are_not_understood_disarm_and_say_which_field(
    desk: Desk, spoil: Callable[[Desk], None], message: str
) -> None:
    desk.serve(ORDERS)
    desk.follow()
    spoil(desk)
    desk.link._plan = None
    desk.follow()
    assert desk.orders() is None
    assert desk.link.state.reason is Reason.ORDERS_INVALID
    assert message in desk.link.state.message


def test_a_plan_that_is_not_there_yet_is_asked_for_again_soon(desk: Desk) -> None:
    desk.serve(ORDERS)
    desk.path.write_text("orders of the plan before")
    desk.client.objects[PLAN] = not_found(PLAN)
    with pytest.raises(link_module._TryAgainError):
        desk.read_anew()
    assert desk.orders() is None
    assert "the plan" in desk.link.state.message
    assert "is not there" in desk.link.state.message
    desk.serve(ORDERS)
    desk.follow()
    assert desk.orders() is not None


@pytest.mark.parametrize("status", [0, 401, 403, 429, 500, 503])
def test_while_the_api_server_is_away_or_refuses_the_orders_stay(desk: Desk, status: int) -> None:
    desk.serve(ORDERS)
    desk.follow()
    for path in (STATE, PLAN):
        desk.serve(ORDERS)
        desk.client.objects[path] = ApiError(status, "no")
        desk.link._plan = None
        with pytest.raises(ApiError):
            desk.read_anew()
    assert desk.orders() is not None


@pytest.mark.parametrize(
    "changed",
    [replace(ORDERS, mode=Mode.DRY_RUN), replace(ORDERS, grant=None), replace(ORDERS, policy_name="other")],
    ids=["Enforce to DryRun", "no grant any more", "another policy"],
)
def test_a_leave_that_was_taken_away_ends_also_when_the_new_plan_cannot_be_read(desk: Desk, changed: Orders) -> None:
    desk.serve(ORDERS)
    desk.follow()
    assert desk.orders() is not None
    desk.serve(changed)
    desk.client.objects[PLAN] = ApiError(500, "no")
    desk.link._plan = None
    with pytest.raises(ApiError):
        desk.read_anew()
    assert desk.orders() is None
    assert "cannot be read" in desk.link.state.message


def test_a_state_without_a_spec_disarms(desk: Desk) -> None:
    desk.serve(ORDERS)
    desk.follow()
    desk.client.objects[STATE] = {"metadata": {"name": NODE, "resourceVersion": "2", "uid": "u"}, "spec": None}
    desk.follow()
    assert desk.orders() is None


def test_without_the_kind_nothing_is_ordered_and_the_message_says_what_is_missing(desk: Desk) -> None:
    desk.path.write_text("old")
    desk.client.objects[STATE] = MISSING_KIND
    with pytest.raises(ApiError):
        desk.read_anew()
    assert desk.orders() is None
    assert desk.link.state.message == "the API server does not know the kind NodeMemoryState"
    assert not desk.link.state.connected


def test_a_file_that_cannot_be_written_leaves_no_older_orders_in_force(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.serve(ORDERS)
    desk.follow()
    original = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    desk.serve(replace(ORDERS, mode=Mode.DRY_RUN))
    with pytest.raises(link_module._TryAgainError):
        desk.read_anew()
    monkeypatch.setattr(os, "write", original)
    assert desk.orders() is None
    assert list(desk.path.parent.iterdir()) == []
    state = desk.link.state
    assert (state.orders, state.reason) == (None, Reason.ACTION_FAILED)
    assert "No space left on device" in state.message
    desk.follow()  # with room again
    assert desk.orders() is not None
    assert desk.link.state.reason is None


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.serve(ORDERS)
    desk.follow()

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(link_module, "remove", refuse)
    with pytest.raises(link_module._TryAgainError):
        desk.follow(DELETED)
    assert desk.link.state.reason is Reason.ACTION_FAILED
    assert desk.link.state.orders is not None  # what the file still says
    assert "cannot be removed" in desk.link.state.message


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: original(fd, bytes(data)[:7]))
    files.replace_file(tmp_path / "orders.json", b"0123456789" * 5)
    assert (tmp_path / "orders.json").read_bytes() == b"0123456789" * 5


def test_a_link_planted_in_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / ".orders.json.new").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        files.replace_file(tmp_path / "orders.json", b"x")
    assert target.read_text() == "kept"


def test_a_reader_only_ever_sees_whole_orders(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    versions = [json.dumps({"n": number, "pad": "x" * (number * 997 % 60_000)}).encode() for number in range(60)]
    files.replace_file(path, versions[0])
    stop = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        files.replace_file(path, version)
    stop.set()
    reader.join(10)
    assert set(seen) <= set(versions)


def test_an_error_event_ends_the_watch_and_is_told(desk: Desk) -> None:
    desk.serve(ORDERS)
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old resource version"}}
    desk.follow(gone, DELETED)
    assert desk.orders() is not None  # what came after the error was not looked at
    assert "too old resource version" in desk.log.text()


@pytest.mark.parametrize(
    "event", [{}, {"type": "ODD"}, {"type": "MODIFIED", "object": None}, {"type": "ERROR"}, BOOKMARK]
)
def test_odd_events_change_nothing(desk: Desk, event: Object) -> None:
    desk.serve(ORDERS)
    desk.follow(event)
    assert desk.orders() is not None


def bookmark(version: str) -> Object:
    return {"type": "BOOKMARK", "object": {"kind": "NodeMemoryState", "metadata": {"resourceVersion": version}}}


def changed(orders: Orders, version: str) -> Object:
    state = state_object(NODE, orders)
    state["metadata"]["resourceVersion"] = version
    return {"type": "MODIFIED", "object": state}


def test_a_watch_that_ended_goes_on_from_the_last_event_or_bookmark_without_reading_again(desk: Desk) -> None:
    desk.serve(ORDERS)
    desk.follow(changed(ORDERS, "9"), bookmark("40"))
    desk.client.watches = [[changed(replace(ORDERS, mode=Mode.DRY_RUN), "41")], []]
    desk.link.follow()
    assert desk.orders() == replace(ORDERS, mode=Mode.DRY_RUN, own_pod_uid=OWN_UID)
    desk.link.follow()
    assert [query.get("resourceVersion") for query in desk.client.queries] == ["7", "40", "41"]
    assert desk.client.gets == [STATE, PLAN]


EXPIRED = {"kind": "Status", "code": 410, "message": "too old resource version: 7 (9)"}


@pytest.mark.parametrize(
    "ending",
    [ApiError(410, "too old resource version: 7 (9)"), [{"type": "ERROR", "object": EXPIRED}]],
    ids=["answer", "event"],
)
def test_a_version_that_is_too_old_is_told_and_the_object_read_again(desk: Desk, ending: Any) -> None:
    desk.serve(ORDERS)
    desk.client.watches = [ending, []]
    desk.link.follow()
    assert "the watch ended: too old resource version: 7 (9); the object is read anew" in desk.log.text()
    assert desk.link.state.connected, "an answer is an answer"
    assert desk.orders() is not None
    desk.link.follow()
    assert desk.client.gets == [STATE, PLAN, STATE]


@pytest.mark.parametrize(("status", "read_again"), [(0, False), (429, False), (503, False), (404, True), (504, True)])
def test_a_watch_that_is_refused_makes_it_read_the_object_and_one_that_breaks_off_does_not(
    desk: Desk, status: int, read_again: bool
) -> None:
    desk.serve(ORDERS)
    desk.follow()
    desk.client.watches = [ApiError(status, "Too large resource version" if status else "reset")]
    with pytest.raises(ApiError):
        desk.link.follow()
    desk.client.objects[STATE] = MISSING_KIND
    desk.client.watches = [[]]
    if read_again:
        with pytest.raises(ApiError):
            desk.link.follow()
    else:
        desk.link.follow()
    assert (desk.orders() is None) is read_again


def test_an_event_that_could_not_be_taken_over_is_not_behind_us(desk: Desk) -> None:
    desk.serve(ORDERS)
    desk.follow()
    desk.client.objects[PLAN] = ApiError(503, "busy")
    desk.client.watches = [[changed(replace(ORDERS, plan_generation=2), "9")]]
    with pytest.raises(ApiError):
        desk.link.follow()
    desk.serve(replace(ORDERS, plan_generation=2), generation=2)
    desk.client.watches = [[]]
    desk.link.follow()
    assert desk.client.gets[-2:] == [STATE, PLAN]
    found = desk.orders()
    assert found is not None
    assert found.plan_generation == 2


def test_a_deleted_object_is_waited_for_from_the_version_of_its_end(desk: Desk) -> None:
    desk.serve(ORDERS)
    gone = state_object(NODE, ORDERS)
    gone["metadata"]["resourceVersion"] = "12"
    desk.follow({"type": "DELETED", "object": gone})
    desk.client.watches = [[changed(ORDERS, "15")]]
    desk.link.follow()
    assert desk.client.queries[-1]["resourceVersion"] == "12"
    assert desk.orders() is not None


def test_the_object_is_read_as_a_whole_now_and_then_whatever_was_heard(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.serve(ORDERS)
    desk.follow()
    monkeypatch.setattr(link_module, "READ_ANEW_SECONDS", 0.0)
    desk.link.follow()
    assert desk.client.gets == [STATE, PLAN, STATE]


class Waits:
    """Stands for the event that ends the thread: it notes how long was waited and ends after so many waits."""

    def __init__(self, most: int) -> None:
        self.seconds: list[float] = []
        self._most = most

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return self.is_set()

    def is_set(self) -> bool:
        return len(self.seconds) >= self._most


@pytest.fixture
def waits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Waits:
    made = Waits(7)
    monkeypatch.setattr(desk.link, "_stopping", made)
    monkeypatch.setattr(link_module.random, "random", lambda: 1.0)
    return made


GONE_EVENT = {"type": "ERROR", "object": {"message": "gone"}}


@pytest.mark.parametrize(
    "watch",
    [[], [GONE_EVENT], ApiError(410, "too old"), ApiError(0, "refused"), ApiError(404, "not found")],
    ids=["ends at once", "ERROR event", "410", "no connection", "404"],
)
def test_a_watch_that_always_ends_at_once_is_asked_for_ever_more_slowly(
    desk: Desk, waits: Waits, watch: list[Object] | ApiError
) -> None:
    desk.serve(ORDERS)
    desk.client.watches = [watch] * 20
    desk.link.run()
    assert waits.seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_retry_after_is_heeded(desk: Desk, waits: Waits) -> None:
    desk.client.objects[STATE] = ApiError(429, "too many requests", 12.0)
    desk.link.run()
    assert waits.seconds == [12.0, 12.0, 12.0, 12.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ApiError(401, "Unauthorized"), "HTTP 401: Unauthorized; the token is expired, or not of this cluster"),
        (ApiError(403, "forbidden: x"), "HTTP 403: forbidden: x; is the chart's ClusterRole for the agent bound"),
        (MISSING_KIND, "HTTP 404: 404 page not found; are the CustomResourceDefinitions of this version installed?"),
        (ApiError(0, "no answer from https://h: Connection refused"), "no answer from https://h: Connection refused"),
    ],
)
def test_a_failure_is_logged_once_however_long_it_lasts_and_so_is_its_end(
    desk: Desk, waits: Waits, error: ApiError, hint: str
) -> None:
    desk.client.objects[STATE] = error
    desk.link.run()
    assert [hint in text for _, text in desk.log.lines].count(True) == 1
    assert len(desk.log.lines) <= 2
    assert desk.link.state.problem.startswith(hint)
    desk.serve(ORDERS)
    desk.follow()
    assert "in touch with the API server" in desk.log.text()


def test_the_thread_ends_when_told(desk: Desk) -> None:
    desk.link.start()
    eventually(lambda: desk.client.gets, "a first call")
    desk.link.stop()
    desk.link.join(5)
    assert not desk.link.is_alive()
