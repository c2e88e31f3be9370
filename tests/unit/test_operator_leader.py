"""The Lease: who may act, until when, and that nothing is sent after that."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memorypressure_operator import cleanup
from memorypressure_operator import settings as settings_module
from memorypressure_operator.api import Answer, Api, Credentials
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, LeaseLost
from memorypressure_operator.leader import Leader, LeaderSettings
from memorypressure_operator.reconcile import STANDBY_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeLeases:
    """One Lease with the API server's rules: creation conflicts and stale resourceVersions answer 409."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken: Exception | None = None

    def request(self, method: str, path: str, *, body: Any = None, timeout_seconds: float | None = None) -> Answer:
        if self.broken is not None:
            raise self.broken
        if method == "GET":
            if self.lease is None:
                raise ApiRefused(404, "NotFound", "none")
            return Answer(200, json.dumps(self.lease).encode())
        if method == "POST" and self.lease is not None:
            raise ApiRefused(409, "AlreadyExists", "exists")
        if method == "PUT":
            if self.lease is None:
                raise ApiRefused(404, "NotFound", "none")
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                raise ApiRefused(409, "Conflict", "stale")
        self.version += 1
        self.lease = json.loads(json.dumps(body))
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return Answer(200, json.dumps(self.lease).encode())


def leader(leases: FakeLeases, clock: Clock, identity: str, installation: str = "") -> Leader:
    settings = LeaderSettings("ns", "lease", identity, 15, 10, 2, 3)
    return Leader(leases, settings, clock, installation=lambda: installation)


def test_a_free_lease_is_taken_and_held_until_the_deadline() -> None:
    clock, leases = Clock(), FakeLeases()
    one = leader(leases, clock, "one")
    assert not one.holds()
    assert one.attempt()
    clock.now += 9.9
    assert one.holds()
    clock.now += 0.2
    assert not one.holds()
    assert one.term == 1
    assert one.attempt()
    assert one.term == 2, "a gap of our own is a new term"


@pytest.mark.parametrize("error", [ApiUnreachable("away"), ApiRefused(500, "", "x"), ApiRefused(409, "", "x")])
def test_any_failed_renewal_leaves_the_deadline_where_it_was(error: Exception) -> None:
    clock, leases = Clock(), FakeLeases()
    one = leader(leases, clock, "one")
    one.attempt()
    leases.broken = error
    for _ in range(6):
        clock.now += 2
        assert not one.attempt()
    assert not one.holds()
    leases.broken = None
    assert one.attempt()
    assert one.holds()


def test_another_takes_over_only_after_it_saw_no_renewal_for_the_whole_duration() -> None:
    clock, leases = Clock(), FakeLeases()
    one, two = leader(leases, clock, "one"), leader(leases, clock, "two")
    one.attempt()
    for _ in range(8):
        assert not two.attempt()
        clock.now += 1.9
    assert not one.holds()
    assert two.attempt()
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1
    assert not one.attempt(), "the first sees that it was replaced"


def test_at_default_times_another_acts_within_20_s_of_the_end_of_the_first_whatever_their_phases() -> None:
    made = settings_module.parse({"namespace": "own"}, {})
    times = (made.lease_seconds, made.renew_deadline_seconds, made.renew_seconds, made.renew_timeout_seconds)
    took = []
    for phase in range(20):
        for end in range(20):
            clock, leases = Clock(), FakeLeases()
            one, two = (Leader(leases, LeaderSettings("ns", "lease", name, *times), clock) for name in ("one", "two"))
            killed, tick = 100 + end, 0
            while not two.holds():
                if tick < killed and tick % 20 == 0:
                    one.attempt()
                if tick % 20 == phase:
                    two.attempt()
                tick += 1
                clock.now += made.renew_seconds / 20
            took.append((tick - killed) * made.renew_seconds / 20)
    assert max(took) + STANDBY_SECONDS <= 20
    assert min(took) > made.lease_seconds - made.renew_seconds


def test_two_never_hold_at_once_whatever_the_gaps() -> None:
    clock, leases = Clock(), FakeLeases()
    both = [leader(leases, clock, "one"), leader(leases, clock, "two")]
    for step in range(400):
        if step % 7 != 3:
            both[(step // 40) % 2].attempt()
        if step % 5 == 0:
            both[1 - (step // 40) % 2].attempt()
        clock.now += (step * 37 % 23) / 5
        assert sum(each.holds() for each in both) <= 1


def test_a_lease_that_somebody_deletes_is_made_anew_by_its_holder_and_by_others_not_before_it_can_know() -> None:
    clock, leases = Clock(), FakeLeases()
    one, two = leader(leases, clock, "one"), leader(leases, clock, "two")
    one.attempt()
    for _ in range(7):
        assert not two.attempt()
        clock.now += 2
    one.attempt()  # the other does not see this renewal any more
    leases.lease = None
    assert not two.attempt()
    clock.now += 2
    assert one.attempt()
    leases.lease = None
    for _ in range(7):
        assert not two.attempt()
        assert not two.holds()
        clock.now += 2
    assert not one.holds()
    assert two.attempt()
    leases.lease = None
    clock.now += 2
    assert two.attempt(), "although it has seen another hold it before"
    assert two.term == 1


def test_a_released_lease_is_free_at_once() -> None:
    clock, leases = Clock(), FakeLeases()
    one, two = leader(leases, clock, "one"), leader(leases, clock, "two")
    one.attempt()
    one.release()
    assert not one.holds()
    assert two.attempt()


def test_a_lease_that_is_not_understood_is_not_taken() -> None:
    leases = FakeLeases()
    leases.lease = {
        "metadata": {"resourceVersion": "1"},
        "spec": {"holderIdentity": "x", "leaseDurationSeconds": "soon"},
    }
    clock = Clock()
    one = leader(leases, clock, "one")
    for _ in range(3):
        assert not one.attempt()
        clock.now += 100


@pytest.mark.parametrize("spec", [None, "x", [], {"holderIdentity": ["one"]}])
def test_a_lease_that_somebody_spoilt_does_not_disturb_the_end(spec: Any) -> None:
    clock, leases = Clock(), FakeLeases()
    one = leader(leases, clock, "one")
    one.attempt()
    assert leases.lease is not None
    leases.lease["spec"] = spec
    one.release()
    assert not one.holds()


def test_a_seized_lease_stops_its_holder_and_stays_away_from_it_for_the_time_asked_for() -> None:
    clock, leases = Clock(), FakeLeases()
    one, two = leader(leases, clock, "one"), leader(leases, clock, "two")
    one.attempt()
    assert two.seize(120) == "one"
    assert not one.attempt()
    assert not one.holds()
    for _ in range(60):
        clock.now += 1.9
        assert not one.attempt()
    clock.now += 8
    assert one.attempt(), "whoever seized it is gone"


def test_a_lease_that_nobody_holds_is_seized_without_a_former_holder() -> None:
    clock, leases = Clock(), FakeLeases()
    one, two = leader(leases, clock, "one"), leader(leases, clock, "two")
    assert two.seize(120) == "", "there is none"
    leases.lease = None
    one.attempt()
    one.release()
    assert two.seize(120) == ""
    leases.broken = ApiRefused(409, "Conflict", "stale")
    assert two.seize(120) is None


def test_a_lease_that_a_cleanup_offers_goes_at_once_to_another_installation_only() -> None:
    clock, leases = Clock(), FakeLeases()
    old, cleaner = leader(leases, clock, "old", "first"), leader(leases, clock, "cleaner", "first")
    new, unknown = leader(leases, clock, "new", "second"), leader(leases, clock, "unknown")
    old.attempt()
    cleaner.seize(120)
    assert not new.attempt(), "the one that held it may act for some seconds more"
    assert cleaner.offer()
    clock.now += 50
    assert not old.attempt()
    assert not unknown.attempt()
    assert new.attempt()
    assert not old.attempt(), "it is an ordinary Lease again"
    assert not leader(leases, clock, "third", "third").attempt()


def test_an_installation_that_is_not_known_leaves_the_lease_to_nobody() -> None:
    clock, leases = Clock(), FakeLeases()
    cleaner = leader(leases, clock, "cleaner")
    cleaner.seize(120)
    assert not cleaner.offer()
    assert not leader(leases, clock, "new", "second").attempt()


def test_who_may_not_ask_which_installation_it_is_waits_like_all_others() -> None:
    clock, leases = Clock(), FakeLeases()
    cleaner = leader(leases, clock, "cleaner", "first")
    cleaner.seize(120)
    cleaner.offer()

    def refused() -> str:
        raise ApiRefused(403, "Forbidden", "no reviews here")

    new = Leader(leases, LeaderSettings("ns", "lease", "new", 15, 10, 2, 3), clock, installation=refused)
    assert not new.attempt()
    clock.now += 121
    assert new.attempt()


# --- nothing is sent without it ---


class Server:
    """Answers {} to everything; each request it gets lets `clock` jump by `jump`."""

    def __init__(self, clock: Clock) -> None:
        self.seen: list[str] = []
        self.jump = 0.0
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                owner.seen.append(self.command)
                clock.now += owner.jump
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  http.server's names

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    made = Server(clock)
    yield made
    made.close()


@pytest.fixture
def api(server: Server, tmp_path: Path, clock: Clock) -> Api:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    return Api(Credentials(str(path), 60, clock), 2.0)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_process_that_slept_beyond_its_deadline_sends_nothing_but_reads(
    api: Api, server: Server, clock: Clock, method: str
) -> None:
    holder = leader(FakeLeases(), clock, "one")
    holder.attempt()
    fenced = api.fenced(holder.holds)
    fenced.request(method, "/x", body={})
    server.jump = 11.0  # it is stopped while it reads, after it saw that it holds the Lease
    fenced.get("/x")
    with pytest.raises(LeaseLost, match=f"{method} /x not sent"):
        fenced.request(method, "/x", body={})
    fenced.get("/x")
    api.request(method, "/x", body={})  # the Lease itself is written without the fence
    assert server.seen == [method, "GET", "GET", method]


def test_cleanup_without_a_right_to_the_lease_touches_no_taint() -> None:
    leases = FakeLeases()
    leases.broken = ApiRefused(403, "Forbidden", "no")
    made = settings_module.parse({"namespace": "ns"}, {})
    unused = Api.__new__(Api)  # any request would fail
    assert cleanup.run(made, unused, leader(leases, Clock(), "one"), lambda _: None) == 1
