"""The operator's machinery without a cluster: settings, streams, views, Events, registry, health, evictor."""

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memorypressure.reasons import Reason
from memorypressure_operator import cli, evictor, settings
from memorypressure_operator.api import Answer, Api, Credentials, connect
from memorypressure_operator.dirty import Dirty
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, CredentialsError, SettingsError
from memorypressure_operator.events import Event, EventWriter, pod_subject
from memorypressure_operator.evictor import Outcome
from memorypressure_operator.handlers import Backoffs
from memorypressure_operator.pods import decode_pod
from memorypressure_operator.registry import SINKS, Registry
from memorypressure_operator.reports import decode_plan, decode_state, digest
from memorypressure_operator.streams import Meta, Source, Stream
from memorypressure_operator.views import decode_budget, decode_node


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- settings ---


def test_every_setting_has_a_flag_a_variable_and_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, text, _ in settings.describe():
        assert "--" + name.replace("_", "-") in shown
        assert text.endswith(".")


def test_a_flag_wins_over_a_variable() -> None:
    parsed = settings.parse({"lease_seconds": "30"}, {"MPO_LEASE_SECONDS": "40", "MPO_NAMESPACE": "n"})
    assert parsed.lease_seconds == 30.0
    assert parsed.namespace == "n"
    assert parsed.identity


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({}, {"MPO_LEASE": "1"}, "MPO_LEASE: not a setting"),
        ({"page_size": "1.5"}, {}, "--page-size: '1.5' is not a whole number"),
        ({"page_size": "0"}, {}, "--page-size: 0 is out of range, it must be from 1 to 5000"),
        ({"max_kills_per_hour": "-2"}, {}, "--max-kills-per-hour: -2 is out of range, it must be at least -1"),
        ({}, {"MPO_DRY_RUN_ONLY": "yes"}, "MPO_DRY_RUN_ONLY: 'yes' is neither true nor false"),
        ({"log_level": "loud"}, {}, "--log-level: 'loud' is not one of"),
        ({"lease_seconds": "12"}, {}, "--lease-seconds: must be at least"),
        ({"renew_seconds": "nan"}, {}, "--renew-seconds: nan is out of range"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        settings.parse({"namespace": "n", **flags}, environment)


def test_without_a_namespace_and_outside_a_pod_the_setting_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="--namespace: not given"):
        settings.parse({}, {})


def test_a_kubeconfig_that_is_not_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("clusters: [")
    with pytest.raises(CredentialsError, match=re.escape(str(file))):
        Credentials(str(file), 60, Clock())


@pytest.mark.parametrize(("name", "why"), [("missing", "there is no such file"), ("", "Is a directory")])
def test_a_kubeconfig_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(CredentialsError, match=f"{name} cannot be used: {why}"):
        connect(str(tmp_path / name), 5, 60, Clock())


# --- views ---


def pod_json(**changes: Any) -> dict[str, Any]:
    spec = {"nodeName": "n", "containers": [{"resources": {"requests": {"memory": "64Mi"}}}], **changes.pop("spec", {})}
    meta = {
        "name": "p",
        "namespace": "ns",
        "uid": "u",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **changes.pop("metadata", {}),
    }
    return {"metadata": meta, "spec": spec, "status": {"phase": "Running", "qosClass": "Burstable"}, **changes}


def view(**changes: Any) -> Any:
    return decode_pod(json.dumps(pod_json(**changes)).encode())


OWNER = {"kind": "ReplicaSet", "name": "web-5d8", "controller": True}
Mi = 1 << 20


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({}, "owner", ""),
        ({"metadata": {"ownerReferences": [OWNER]}}, "owner", "ReplicaSet/web-5d8"),
        (
            {"metadata": {"ownerReferences": [OWNER], "labels": {"pod-template-hash": "5d8"}}},
            "owner",
            "Deployment/web",
        ),
        ({"metadata": {"ownerReferences": [{**OWNER, "controller": False}]}}, "owner", ""),
        ({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}, "static", True),
        (
            {"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "controller": True}]}},
            "daemon_set",
            True,
        ),
        ({"metadata": {"annotations": {"memorypressure.dev/protected": "true"}}}, "annotated", True),
        ({"metadata": {"annotations": {"memorypressure.dev/protected": "no"}}}, "annotated", False),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "local_storage", True),
        ({"spec": {"volumes": [{"emptyDir": {"medium": "Memory"}}]}}, "local_storage", False),
        ({"spec": {"volumes": [{"hostPath": {"path": "/x"}}]}}, "local_storage", True),
        ({"spec": {"volumes": [{"configMap": {"name": "x"}}]}}, "local_storage", False),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "terminating", True),
        ({}, "request_bytes", 64 * Mi),
        ({"spec": {"overhead": {"memory": "16Mi"}}}, "request_bytes", 80 * Mi),
        ({"spec": {"resources": {"requests": {"memory": "1Gi"}}}}, "request_bytes", 1024 * Mi),
        (
            {"spec": {"initContainers": [{"resources": {"requests": {"memory": "100Mi"}}}]}},
            "request_bytes",
            100 * Mi,
        ),
        (
            {"spec": {"initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"memory": "100Mi"}}}]}},
            "request_bytes",
            164 * Mi,
        ),
    ],
)
def test_what_is_read_of_a_pod(changes: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(view(**changes), field) == expected


def test_equal_labels_are_kept_once() -> None:
    first, second = (view(metadata={"uid": uid, "labels": {"app": "x"}}) for uid in "ab")
    assert first.labels is second.labels


@pytest.mark.parametrize(
    ("status", "generation", "allowed", "current"),
    [
        ({"disruptionsAllowed": 1, "observedGeneration": 2}, 2, 1, True),
        ({"disruptionsAllowed": 1, "observedGeneration": 1}, 2, 1, False),
        (None, 1, 0, False),
    ],
)
def test_a_budget_counts_only_with_a_status_of_its_spec(
    status: dict[str, int] | None, generation: int, allowed: int, current: bool
) -> None:
    body = {"metadata": {"name": "b", "namespace": "n", "generation": generation}, "spec": {"selector": {}}}
    budget = decode_budget(json.dumps({**body, "status": status}).encode())
    assert (budget.disruptions_allowed, budget.current) == (allowed, current)
    assert budget.covers("n", {"any": "label"})


def test_a_budget_without_a_selector_covers_nothing_and_a_strange_one_everything() -> None:
    body: dict[str, Any] = {"metadata": {"name": "b", "namespace": "n"}, "spec": {}}
    assert not decode_budget(json.dumps(body).encode()).covers("n", {})
    body["spec"]["selector"] = {"matchExpressions": [{"key": "a", "operator": "Near"}]}
    assert decode_budget(json.dumps(body).encode()).covers("n", {})


def test_a_plan_is_known_by_its_content_whatever_the_order_of_its_keys() -> None:
    spec = {"nodeName": "n", "policy": {"name": "p", "generation": 1}, "pods": [{"namespace": "a", "workload": "B/c"}]}
    body = {"metadata": {"name": "n", "uid": "u", "generation": 1}, "spec": dict(reversed(spec.items()))}
    plan = decode_plan(json.dumps(body).encode())
    assert plan.digest == digest(spec)
    assert plan.workloads == {"a/B/c"}
    assert plan.policy == "p"


def test_a_state_without_a_status_has_an_empty_one() -> None:
    state = decode_state(b'{"metadata": {"name": "n", "uid": "u"}, "spec": {"nodeName": "n", "mode": "Disabled"}}')
    assert state.status.lease is None
    assert state.status.active_triggers == ()


def test_a_node_is_not_ready_only_where_it_says_so() -> None:
    def ready(*statuses: str) -> bool:
        conditions = [{"type": "Ready", "status": each} for each in statuses]
        body = {"metadata": {"name": "n", "uid": "u"}, "spec": {}, "status": {"conditions": conditions}}
        return decode_node(json.dumps(body).encode()).ready

    assert ready()
    assert ready("True")
    assert not ready("False")
    assert not ready("Unknown")


# --- registry ---


def taken(dirty: Dirty) -> list[str]:
    """Everything that is due, in order."""
    return [found[0] for found in iter(dirty.take, None)]


def test_new_pressure_comes_first_then_reports_then_what_is_due_and_changes_are_coalesced() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    dirty.add(["a", "b"])
    dirty.add(["a"])
    assert dirty.take() is None
    clock.now += 0.2
    dirty.report("d", urgent=False)
    dirty.report("c", urgent=True)
    dirty.report("b", urgent=False)
    assert [dirty.take() for _ in range(5)] == [("c", True), ("d", True), ("b", True), ("a", False), None]
    assert len(dirty) == 0


def test_a_node_of_which_only_the_report_moved_keeps_its_plan() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    dirty.report("a", urgent=False)
    dirty.add(["b"], light=True, delay_seconds=0.0)
    dirty.add(["b"])
    assert taken(dirty) == ["a", "b"]
    assert not dirty.thorough("a")
    assert dirty.thorough("b")
    assert not dirty.thorough("b")


def test_an_earlier_due_time_stays_and_a_node_is_taken_once() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    for delay in (5.0, 1.0, 3.0):
        dirty.add(["a"], delay_seconds=delay)
    clock.now += 1.5
    assert dirty.waiting() == 1
    assert taken(dirty) == ["a"]
    clock.now += 10
    assert taken(dirty) == []
    assert len(dirty) == 0


def test_due_times_that_were_overtaken_do_not_pile_up() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    for _ in range(5000):
        dirty.add(["a"], delay_seconds=300)
        dirty.report("a", urgent=False)
        assert dirty.take() == ("a", True)
    assert len(dirty._heap) <= 1003


def test_no_node_counts_as_dirty_before_every_table_is_complete() -> None:
    clock = Clock()
    registry = Registry(clock, 0.2)
    registry.put_node("n", decode_node(b'{"metadata": {"name": "n", "uid": "u"}, "spec": {}}'))
    assert len(registry.dirty) == 0
    for table in SINKS:
        assert not registry.complete()
        registry.mark_synced(table)
    assert registry.complete()
    clock.now += 1
    assert registry.dirty.take() == ("n", False)


def state_json(version: str, *triggers: str) -> bytes:
    body = {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": version},
        "spec": {"nodeName": "n", "mode": "Enforce"},
        "status": {"activeTriggers": [{"name": name} for name in triggers]},
    }
    return json.dumps(body).encode()


def test_the_first_sight_of_a_report_is_no_change_of_it() -> None:
    clock = Clock()
    registry = Registry(clock, 0.0)
    registry.put_state("n", decode_state(state_json("5", "low")))
    assert "n" in registry.reported_at
    assert "n" not in registry.changed_at
    clock.now += 3
    registry.put_state("n", decode_state(state_json("6", "low", "min")))
    assert registry.changed_at["n"] == clock.now
    registry.put_state("n", decode_state(state_json("4")))
    assert len(registry.tables.states["n"].status.active_triggers) == 2, "an older version comes late"


def test_pods_are_counted_by_workload_and_node_while_they_live() -> None:
    registry = Registry(Clock(), 0.0)
    owner = {"ownerReferences": [{"kind": "Job", "name": "j", "controller": True}]}
    for uid in ("a", "b"):
        registry.put_pod(uid, view(metadata={"uid": uid, **owner}))
    assert registry.tables.workload_nodes == {"ns/Job/j": {"n": 2}}
    registry.put_pod("a", view(metadata={"uid": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", **owner}))
    assert registry.tables.workload_nodes == {"ns/Job/j": {"n": 1}}
    registry.remove_pod("a")
    registry.remove_pod("b")
    assert registry.tables.workload_nodes == {}
    assert registry.tables.pods_by_node == {}


# --- streams, against a local server: a real one cannot be made to answer so ---


class Server:
    """Answers each GET with the next script: a list of lines, or (status, body)."""

    def __init__(self, scripts: list[Any]) -> None:
        outer = self
        self.queries: list[str] = []
        self.scripts = scripts
        self.held = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.queries.append(self.path.partition("?")[2])
                script = outer.scripts.pop(0) if outer.scripts else (503, b"{}")
                if script[:1] == ("hold",):
                    self.protocol_version = "HTTP/1.1"
                    self.send_response(200)
                    self.send_header("Connection", script[1])
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(script[2]), script[2]))
                    outer.held.wait(60)
                    self.close_connection = True
                    return
                status, body = script if isinstance(script, tuple) else (200, b"".join(x + b"\n" for x in script))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Sink:
    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.complete = 0

    def put(self, key: str, value: str) -> None:
        self.rows[key] = value

    def remove(self, key: str) -> None:
        self.rows.pop(key, None)

    def keys(self) -> set[str]:
        return set(self.rows)

    def synced(self) -> None:
        self.complete += 1

    def heard(self) -> None:
        pass


def event(kind: str, name: str, version: int, **extra: Any) -> bytes:
    meta = {"name": name, "resourceVersion": str(version), **extra}
    return json.dumps({"type": kind, "object": {"metadata": meta}}).encode()


def bookmark(version: int, *, end: bool = False) -> bytes:
    return event("BOOKMARK", "", version, annotations={"k8s.io/initial-events-end": "true"} if end else {})


@pytest.fixture
def streaming(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, Sink, list[str]]]]:
    closing: list[Callable[[], None]] = []

    def start(
        scripts: list[Any], *, strict: bool = False, rows: dict[str, str] | None = None, read_timeout_seconds: float = 2
    ) -> Any:
        server, sink, restarts = Server(scripts), Sink(), []
        sink.rows.update(rows or {})
        config = tmp_path / "config"
        config.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": server.url}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        api = Api(Credentials(str(config), 60, Clock()), 2.0)

        class Thing(msgspec.Struct):
            metadata: Meta

        def view(thing: Thing) -> str:
            if thing.metadata.name.startswith("bad"):
                raise ValueError("not understood")
            return thing.metadata.name.upper()

        stream = Stream(
            api,
            Source("things", "/things", key=lambda meta: meta.name, model=Thing, view=view, strict=strict),
            sink,
            lifetime_seconds=60,
            read_timeout_seconds=read_timeout_seconds,
            page_size=2,
            backoff_seconds=0.01,
            backoff_limit_seconds=0.02,
            on_restart=restarts.append,
        )

        def close() -> None:
            stopping = threading.Thread(target=stream.stop)
            stopping.start()
            stopping.join(5)
            stream.join(5)
            ended = not stopping.is_alive() and not stream.is_alive()
            server.held.set()
            server.close()
            stopping.join(5)
            assert ended, "stop does not wait for the server"

        closing.append(close)
        stream.start()
        deadline = threading.Event()
        for _ in range(200):
            if not server.scripts:
                break
            deadline.wait(0.02)
        deadline.wait(0.1)
        return server, sink, restarts

    yield start
    for close in closing:
        close()


@pytest.mark.parametrize("ending", ["keep-alive", "close"])
def test_a_stream_that_waits_for_its_next_line_ends_when_it_is_told_to(streaming: Any, ending: str) -> None:
    """With `Connection: close`, as servers that shut down say, the connection's socket belongs to the answer."""
    lines = event("ADDED", "a", 1) + b"\n" + bookmark(5, end=True) + b"\n"
    _, sink, _ = streaming([("hold", ending, lines)], read_timeout_seconds=60)
    assert sink.complete == 1  # the fixture ends the thread, and fails where it goes on


def test_the_initial_state_replaces_what_was_held(streaming: Any) -> None:
    _, sink, _ = streaming([[event("ADDED", "a", 1), bookmark(5, end=True)]], rows={"gone": "GONE"})
    assert sink.rows == {"a": "A"}
    assert sink.complete == 1


def test_an_ended_stream_is_resumed_from_the_last_version(streaming: Any) -> None:
    server, sink, _ = streaming(
        [[event("ADDED", "a", 1), bookmark(5, end=True), bookmark(9)], [event("DELETED", "a", 11)]]
    )
    assert "resourceVersion=9" in server.queries[1]
    assert "sendInitialEvents" not in server.queries[1]
    assert "resourceVersion=11" in server.queries[2]
    assert sink.rows == {}


def test_a_stream_that_breaks_within_the_initial_state_begins_anew(streaming: Any) -> None:
    server, sink, _ = streaming([[event("ADDED", "a", 7)], [event("ADDED", "b", 8), bookmark(9, end=True)]])
    assert "sendInitialEvents=true" in server.queries[1]
    assert sink.rows == {"b": "B"}


@pytest.mark.parametrize(
    "gone",
    [
        [json.dumps({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}).encode()],
    ],
)
def test_an_expired_version_begins_anew_and_drops_what_is_not_sent_again(streaming: Any, gone: list[bytes]) -> None:
    server, sink, restarts = streaming(
        [
            [event("ADDED", "a", 1), event("ADDED", "b", 2), bookmark(5, end=True)],
            gone,
            [event("ADDED", "b", 2), bookmark(20, end=True)],
        ]
    )
    assert "sendInitialEvents=true" in server.queries[2]
    assert sink.rows == {"b": "B"}
    assert "Expired" in restarts


def test_a_server_without_streaming_lists_is_listed_in_pages(streaming: Any) -> None:
    def page(names: str, token: str) -> tuple[int, bytes]:
        items = [{"metadata": {"name": name}} for name in names]
        return 200, json.dumps({"metadata": {"resourceVersion": "30", "continue": token}, "items": items}).encode()

    server, sink, _ = streaming(
        [
            (422, b'{"message": "sendInitialEvents is forbidden"}'),
            page("ab", "more"),
            page("c", ""),
            [event("ADDED", "d", 31)],
        ],
        rows={"gone": "GONE"},
    )
    assert sink.rows == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert sink.complete == 1
    assert "continue=more" in server.queries[2]
    assert "resourceVersion=30" in server.queries[3]


def test_an_object_that_is_not_understood_is_left_out_alone(streaming: Any) -> None:
    _, sink, _ = streaming(
        [[event("ADDED", "bad", 1), event("ADDED", "a", 2), bookmark(5, end=True)]], rows={"bad": "OLD"}
    )
    assert sink.rows == {"a": "A"}
    assert sink.complete == 1


def test_a_strict_stream_is_not_complete_while_an_object_is_not_understood(streaming: Any) -> None:
    _, sink, restarts = streaming([[event("ADDED", "bad", 1), bookmark(5, end=True)]], strict=True)
    assert sink.complete == 0
    assert "Undecodable" in restarts


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"type": 5}', b"\xff\xfe"])
def test_garbage_on_a_stream_is_a_failure_not_an_end(streaming: Any, line: bytes) -> None:
    _, sink, restarts = streaming([[line]])
    assert restarts
    assert sink.complete == 0


# --- evictor ---


class Refusing:
    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.bodies: list[Any] = []

    def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Answer:
        self.bodies.append(body)
        if self.error is not None:
            raise self.error
        return Answer(201, b"{}")


BUDGET = ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))


@pytest.mark.parametrize(
    ("error", "outcome", "spent", "goes_on"),
    [
        (None, Outcome.EVICTED, True, False),
        (BUDGET, Outcome.DISRUPTION_BUDGET, False, True),
        (ApiRefused(429, "TooManyRequests", "slow down", 1), Outcome.BUSY, False, False),
        (ApiRefused(500, "", "This pod has more than one PodDisruptionBudget"), Outcome.DISRUPTION_BUDGET, False, True),
        (ApiRefused(500, "", "etcd is away"), Outcome.FAILED, True, False),
        (ApiRefused(503, "", "shutting down"), Outcome.FAILED, True, False),
        (ApiRefused(500, "", "etcdserver: request timed out"), Outcome.UNKNOWN, True, False),
        (ApiRefused(504, "", "timeout"), Outcome.UNKNOWN, True, False),
        (ApiRefused(404, "NotFound", "x"), Outcome.GONE, False, True),
        (ApiRefused(409, "Conflict", "UID"), Outcome.REPLACED, False, True),
        (ApiRefused(403, "Forbidden", "policy"), Outcome.FORBIDDEN, False, True),
        (ApiUnreachable("reset"), Outcome.UNKNOWN, True, False),
    ],
)
def test_outcomes_of_an_eviction(error: Exception | None, outcome: Outcome, spent: bool, goes_on: bool) -> None:
    api: Any = Refusing(error)
    answer = evictor.evict(api, view(), 7)
    found = answer.outcome
    assert (found, found.spent, found.next_candidate) == (outcome, spent, goes_on)
    assert answer.retry_after_seconds == (error.retry_after_seconds if isinstance(error, ApiRefused) else 0)
    assert api.bodies[0]["deleteOptions"] == {"preconditions": {"uid": "u"}, "gracePeriodSeconds": 7}


def test_a_second_delete_never_asks_for_no_grace() -> None:
    api: Any = Refusing(None)
    evictor.delete_again(api, view(), 0)
    assert api.bodies[0]["gracePeriodSeconds"] == 1
    assert api.bodies[0]["preconditions"] == {"uid": "u"}


# --- Events ---


class Posts:
    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.bodies: list[Any] = []

    def request(self, method: str, path: str, *, body: Any = None) -> None:
        self.bodies.append(body)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error


def told(*errors: Exception | None, times: int = 1, note: str = "n") -> tuple[Posts, list[int]]:
    posts, failures = Posts(*errors), [0]

    def failed() -> None:
        failures[0] += 1

    writer = EventWriter(posts, "me", failed)
    for _ in range(times):
        writer.tell(Event("key", pod_subject("ns", "p", "u"), "KillPod", Reason.KILLED, note))
    writer._queue.put(None)
    writer.run()
    return posts, failures


def test_an_event_is_posted_once_under_a_name_that_follows_from_what_it_tells() -> None:
    posts, failures = told(times=3)
    assert len(posts.bodies) == 1
    name = posts.bodies[0]["metadata"]["name"]
    assert name == told()[0].bodies[0]["metadata"]["name"]
    assert re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name)
    assert failures == [0]


def test_an_event_that_exists_already_counts_as_told() -> None:
    posts, failures = told(ApiRefused(409, "AlreadyExists", "x"))
    assert (len(posts.bodies), failures) == (1, [0])


def test_an_event_that_is_refused_for_good_is_counted_not_repeated() -> None:
    posts, failures = told(ApiRefused(403, "Forbidden", "terminating namespace"))
    assert (len(posts.bodies), failures) == (1, [1])


def test_a_long_note_is_cut_to_what_the_api_takes() -> None:
    posts, _ = told(note="ä" * 2000)
    assert len(posts.bodies[0]["note"].encode()) <= 1024


# --- kopf ---


def test_kopf_never_runs_out_of_backoffs() -> None:
    delays = iter(Backoffs())
    assert all(0 < next(delays) <= 26 for _ in range(2000))
