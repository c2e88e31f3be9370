"""Streaming lists: what a table holds after every way in which a stream goes on, ends or breaks.

Against a local server: a real one cannot be made to answer so.
"""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fakecluster import Clock

from memorypressure_operator.api import Api, Credentials
from memorypressure_operator.streams import Meta, Source, Stream


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
    stream: Stream

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

    def opened(self) -> None:
        pass

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
        scripts: list[Any],
        *,
        stand_in: Callable[[Meta], str] | None = None,
        rows: dict[str, str] | None = None,
        read_timeout_seconds: float = 2,
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
            if thing.metadata.uid.startswith("bad"):
                raise {"bad": ValueError, "bad type": TypeError, "bad key": KeyError}[thing.metadata.uid]("no thing")
            return thing.metadata.name.upper()

        stream = Stream(
            api,
            Source("things", "/things", key=lambda meta: meta.name, model=Thing, view=view, stand_in=stand_in),
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
        sink.stream = stream
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


@pytest.mark.parametrize("why", ["bad", "bad type", "bad key"])
def test_an_object_that_is_not_understood_is_left_out_alone_and_named(streaming: Any, why: str) -> None:
    _, sink, restarts = streaming(
        [[event("ADDED", "x", 1, uid=why, namespace="ns"), event("ADDED", "a", 2), bookmark(5, end=True)]],
        rows={"x": "OLD"},
    )
    assert sink.rows == {"a": "A"}
    assert sink.complete == 1
    assert restarts[:1] != ["MsgspecError"]
    assert [says.partition(" is not understood: ")[0] for says in sink.stream.misread()] == ["things: ns/x"]


def test_what_is_sent_after_an_object_that_is_not_understood_is_taken_in(streaming: Any) -> None:
    """It must not hold the others up: neither in the initial state nor after it, nor where a stream is resumed."""
    bad = event("MODIFIED", "a", 7, uid="bad")
    server, sink, _ = streaming(
        [
            [event("ADDED", "a", 1), event("ADDED", "b", 2), bookmark(5, end=True), bad, event("DELETED", "b", 8)],
            [event("ADDED", "c", 9)],
        ],
        stand_in=lambda meta: f"{meta.name} is protected",
    )
    assert sink.rows == {"a": "a is protected", "c": "C"}
    assert "resourceVersion=8" in server.queries[1]
    assert len(sink.stream.misread()) == 1


@pytest.mark.parametrize(
    "later",
    [
        [event("MODIFIED", "x", 9)],
        [event("DELETED", "x", 9, uid="bad")],
        [json.dumps({"type": "ERROR", "object": {"code": 410}}).encode()],
    ],
    ids=["understood", "deleted", "gone while the stream was broken"],
)
@pytest.mark.parametrize("stand_in", [None, lambda meta: "protected"], ids=["left out", "with a stand-in"])
def test_it_is_named_until_it_is_understood_or_gone(streaming: Any, later: list[bytes], stand_in: Any) -> None:
    _, sink, _ = streaming(
        [
            [event("ADDED", "x", 1, uid="bad"), bookmark(5, end=True), *later],
            [event("ADDED", "a", 12), bookmark(15, end=True)],
        ],
        stand_in=stand_in,
    )
    assert sink.stream.misread() == []
    assert sink.rows.get("x") in (None, "X")


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"type": 5}', b"\xff\xfe"])
def test_garbage_on_a_stream_is_a_failure_not_an_end(streaming: Any, line: bytes) -> None:
    _, sink, restarts = streaming([[line], [line]])
    assert restarts
    assert sink.complete == 0
    troubles = sink.stream._api.troubles
    assert any("what was sent is no event" in says for says in troubles.lasting(0.0))


def test_a_stream_that_goes_on_after_garbage_is_no_trouble_any_more(streaming: Any) -> None:
    _, sink, restarts = streaming([[b"{"], [event("ADDED", "a", 1), bookmark(5, end=True)]])
    assert "DecodeError" in restarts
    assert not any("is no event" in says for says in sink.stream._api.troubles.lasting(0.0))
