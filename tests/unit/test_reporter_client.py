"""The API client against a small TLS server: token and CA that change, refusals, watches, silence, bad files."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from support.reporting import StubServer, answer, answer_chunks

from memorypressure_agent.reporter import client as client_module
from memorypressure_agent.reporter.client import ApiClient, ApiError, Endpoint
from memorypressure_tools.certificates import Authority
from memorypressure_tools.ports import free_port


class Api:
    """What the stub server was asked, and what it answers; a test replaces `reply`."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.server = StubServer(directory / "pki", self._handle)
        self.token = directory / "token"
        self.token.write_text("first\n")
        self.clients: list[ApiClient] = []
        self.endpoint = Endpoint(self.server.url, self.token, self.server.authority.certificate_file)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        self.asked.append((handler.command, handler.path, dict(handler.headers), body))
        self.reply(handler)

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        answer(handler, 200, b'{"kind":"Thing"}')

    def client(self, timeout_seconds: float = 5.0, **changes: Any) -> ApiClient:
        """A client; `changes` replace parts of the endpoint."""
        made = ApiClient(replace(self.endpoint, **changes), "memorypressure-agent/test", timeout_seconds)
        self.clients.append(made)
        return made

    def answers(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.reply = lambda handler: answer(handler, status, body, **headers)  # type: ignore[method-assign]

    def streams(self, *chunks: bytes, end: bool = True) -> None:
        self.reply = lambda handler: answer_chunks(handler, *chunks, end=end)  # type: ignore[method-assign]

    def tokens(self) -> list[str]:
        return [headers["Authorization"] for _, _, headers, _ in self.asked]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path)
    yield made
    for client in made.clients:
        client.close()
    made.server.close()


def test_a_call_carries_token_user_agent_and_content_type(api: Api) -> None:
    client = api.client()
    assert client.get("/apis/x") == {"kind": "Thing"}
    operations = [{"op": "add", "path": "/status", "value": {"a": 1}}]
    assert client.patch("/apis/x/status", operations) == {"kind": "Thing"}
    (get, path, headers, _), (patch, _, patch_headers, body) = api.asked
    assert (get, path, headers["Authorization"]) == ("GET", "/apis/x", "Bearer first")
    assert headers["User-Agent"] == "memorypressure-agent/test"
    assert (patch, patch_headers["Content-Type"]) == ("PATCH", "application/json-patch+json")
    assert json.loads(body) == operations


def test_calls_share_a_connection(api: Api) -> None:
    ports = set()
    api.reply = lambda handler: (ports.add(handler.client_address[1]), answer(handler, 200, b"{}"))[1]  # type: ignore[method-assign,func-returns-value]
    client = api.client()
    for _ in range(5):
        client.get("/x")
    api.answers(500, b"no")
    with pytest.raises(ApiError):
        client.get("/x")
    assert len(ports) == 1


def test_a_connection_that_the_server_ended_is_replaced_without_an_error(api: Api) -> None:
    ports = []

    def once(handler: BaseHTTPRequestHandler) -> None:
        ports.append(handler.client_address[1])
        answer(handler, 200, b"{}")
        handler.close_connection = True  # without saying so: an API server that restarts

    api.reply = once  # type: ignore[method-assign]
    client = api.client()
    for _ in range(4):
        client.get("/x")
    assert len(set(ports)) == 4


def test_a_server_that_ends_every_connection_without_an_answer_is_asked_twice_at_most(api: Api) -> None:
    client = api.client()
    client.get("/x")

    def slam(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    api.reply = slam  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="no answer from https://"):
        client.get("/x")
    assert len(api.asked) == 3  # the good one, once by the kept connection, once by a new one
    api.answers(200)
    assert client.get("/x") == {}

    def slam_once(handler: BaseHTTPRequestHandler) -> None:
        api.answers(200)
        slam(handler)

    api.reply = slam_once  # type: ignore[method-assign]
    assert client.get("/x") == {}


def test_an_answer_that_ends_too_early_is_an_error_and_its_connection_is_not_used_again(api: Api) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"half":')
        handler.close_connection = True

    client = api.client()
    api.reply = cut  # type: ignore[method-assign]
    with pytest.raises(ApiError, match=r"no answer from .*IncompleteRead"):
        client.get("/x")
    api.answers(200)
    assert client.get("/x") == {}


def test_what_is_no_http_is_an_error(api: Api) -> None:
    def babble(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"220 mail.example ESMTP\r\n\r\n")
        handler.close_connection = True

    api.reply = babble  # type: ignore[method-assign]
    for ask in (lambda: api.client().get("/x"), lambda: list(api.client().watch("/x", {}, 5.0))):
        with pytest.raises(ApiError, match="220 mail"):
            ask()


def test_a_new_token_is_used_within_half_a_minute(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(client_module.time, "monotonic", lambda: now)
    client = api.client()
    client.get("/x")
    api.token.write_text("second")
    client.get("/x")
    now += 31
    client.get("/x")
    assert api.tokens() == ["Bearer first", "Bearer first", "Bearer second"]


def test_after_a_401_the_token_is_read_again_at_once(api: Api) -> None:
    client = api.client()
    api.answers(401, b'{"message":"Unauthorized"}')
    with pytest.raises(ApiError, match="HTTP 401: Unauthorized"):
        client.get("/x")
    api.token.write_text("second")
    api.answers(200)
    client.get("/x")
    assert api.tokens()[-1] == "Bearer second"


def test_another_ca_is_trusted_as_soon_as_it_is_there_and_the_former_no_longer(api: Api, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(api.endpoint.ca_file.read_bytes())
    client = api.client(ca_file=ca)
    client.get("/x")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(Authority(tmp_path / "other").certificate_file.read_bytes())
    foreign.replace(ca)  # as the kubelet does: another inode
    with pytest.raises(ApiError, match=r"its certificate is not accepted .*is --ca-file the CA of this API server"):
        client.get("/x")
    with pytest.raises(ApiError, match="not accepted"):
        list(client.watch("/x", {}, 5.0))
    good = tmp_path / "good"
    good.write_bytes(api.endpoint.ca_file.read_bytes())
    good.replace(ca)
    assert client.get("/x") == {"kind": "Thing"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "wanted", "after", "named"),
    [
        (
            404,
            b'{"message":"nms \\"n\\" not found","details":{"name":"n"}}',
            {},
            'HTTP 404: nms "n" not found',
            None,
            True,
        ),
        (404, b"404 page not found\n", {}, "HTTP 404: 404 page not found", None, False),
        (
            409,
            b'{"message":"Operation cannot be fulfilled"}',
            {},
            "HTTP 409: Operation cannot be fulfilled",
            None,
            False,
        ),
        (422, b'{"message":"status.lease: too long","details":{"name":"n"}}', {}, "HTTP 422: status.lease", None, True),
        (429, b'{"message":"too many"}', {"Retry_After": "7"}, "HTTP 429: too many", 7.0, False),
        (429, b"busy", {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "HTTP 429: busy", None, False),
        (503, b"", {}, "HTTP 503: Service Unavailable", None, False),
        (500, b'["odd"]', {}, 'HTTP 500: ["odd"]', None, False),
        (500, b"\xff" * 5000, {}, "HTTP 500: \ufffd", None, False),
        (307, b"", {"Location": "https://elsewhere.example/"}, "HTTP 307: Temporary Redirect", None, False),
    ],
)
def test_a_refusal_keeps_the_servers_words(
    api: Api, status: int, body: bytes, headers: dict[str, str], wanted: str, after: float | None, named: bool
) -> None:
    api.answers(status, body, **headers)
    with pytest.raises(ApiError) as caught:
        api.client().get("/x")
    error = caught.value
    assert str(error).startswith(wanted)
    assert len(str(error)) < 300
    assert (error.status, error.retry_after_seconds, error.names_object) == (status, after, named)
    assert len(api.asked) == 1  # neither tried again nor redirected: the token goes to one place


@pytest.mark.parametrize(
    ("body", "wanted"), [(b"<html>", "the answer is not JSON"), (b"[]", "not an object but list"), (b"", "not JSON")]
)
def test_an_answer_that_is_no_object_is_an_error(api: Api, body: bytes, wanted: str) -> None:
    api.answers(200, body)
    with pytest.raises(ApiError, match=wanted):
        api.client().get("/x")


def test_a_watch_gives_events_as_lines_however_they_are_cut(api: Api) -> None:
    api.streams(b'{"type":"ADDED","obj', b'ect":{}}\n{"type":"BOOKMARK"}\n\n{"type"', b':"DELETED"}\n')
    events = list(api.client().watch("/x", {"fieldSelector": "metadata.name=n"}, 5.0))
    assert [event["type"] for event in events] == ["OPENED", "ADDED", "BOOKMARK", "DELETED"]
    assert api.asked[0][1] == "/x?fieldSelector=metadata.name%3Dn&watch=1"


def test_a_watch_whose_connection_the_server_will_close_is_read_to_its_end(api: Api) -> None:
    """An API server that is about to end says so to each new request."""

    def last_answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b'{"type":"ADDED"}\n{"type":"MODIFIED"}\n')
        handler.close_connection = True

    api.reply = last_answer  # type: ignore[method-assign]
    client = api.client()
    assert [event["type"] for event in client.watch("/x", {}, 5.0)] == ["OPENED", "ADDED", "MODIFIED"]
    api.answers(200, b'{"kind":"Thing"}', Connection="close")
    assert client.get("/x") == client.get("/x") == {"kind": "Thing"}


def test_a_silent_watch_ends_without_an_error_after_its_time(api: Api) -> None:
    api.streams(b'{"type":"ADDED"}\n', end=False)
    began = time.monotonic()
    assert [event["type"] for event in api.client().watch("/x", {}, 0.3)] == ["OPENED", "ADDED"]
    assert 0.2 < time.monotonic() - began < 3


def test_a_watch_that_breaks_off_or_is_refused_or_is_no_json_is_an_error(api: Api) -> None:
    def breaks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b'11\r\n{"type":"ADDED"}\n\r\n40\r\n{"ty')
        handler.close_connection = True

    api.reply = breaks  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="the watch broke off"):
        list(api.client().watch("/x", {}, 5.0))
    api.answers(410, b'{"message":"too old resource version"}')
    with pytest.raises(ApiError, match="HTTP 410: too old resource version"):
        list(api.client().watch("/x", {}, 5.0))
    api.streams(b"oops\n")
    with pytest.raises(ApiError, match="not JSON"):
        list(api.client().watch("/x", {}, 5.0))


def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(api: Api) -> None:
    release = threading.Event()
    api.reply = lambda handler: release.wait(5)  # type: ignore[method-assign,assignment,return-value]
    began = time.monotonic()
    with pytest.raises(ApiError, match=r"no answer from https://.*: it did not answer in time") as caught:
        api.client(timeout_seconds=0.3).get("/x")
    release.set()
    assert caught.value.status == 0
    assert time.monotonic() - began < 3


def test_equal_failures_give_equal_texts_so_that_they_are_logged_once(tmp_path: Path, api: Api) -> None:
    client = api.client(server=f"https://127.0.0.1:{free_port()}")
    texts = set()
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            client.get("/x")
        texts.add(str(caught.value))
    (text,) = texts
    assert text.endswith(": Connection refused")
    assert "0x" not in text


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "holds no bearer token"),
        (b"two words", "holds no bearer token"),
        (b"a\nHost: b", "holds no bearer token"),
        (b"\xff\xfe", "holds no bearer token"),
        (None, "No such file or directory; give a readable file"),
    ],
)
def test_a_token_file_that_is_no_token_is_an_error_that_names_it_and_not_its_content(
    api: Api, content: bytes | None, wanted: str
) -> None:
    if content is None:
        api.token.unlink()
    else:
        api.token.write_bytes(content)
    with pytest.raises(ApiError, match=wanted) as caught:
        api.client().get("/x")
    assert str(caught.value).startswith(f"--token-file {api.token}: ")
    assert "two words" not in str(caught.value)
    assert api.asked == []


@pytest.mark.parametrize("content", [b"", b"no certificate", None])
def test_a_ca_file_that_is_none_is_an_error_that_names_it(api: Api, tmp_path: Path, content: bytes | None) -> None:
    ca = tmp_path / "bad-ca"
    if content is not None:
        ca.write_bytes(content)
    with pytest.raises(ApiError, match=f"--ca-file {ca}: (holds no certificate in PEM form|No such file)"):
        api.client(ca_file=ca).get("/x")
