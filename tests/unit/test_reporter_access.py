"""Metrics over TLS, and who may read them: reviews, what is remembered of them, certificates that change."""

import contextlib
import itertools
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.reporting import Lines, Object

from memorypressure.reasons import Reason
from memorypressure_agent.reporter import access as access_module
from memorypressure_agent.reporter.access import ACCESS_REVIEWS, MOST_REMEMBERED, TOKEN_REVIEWS, Access
from memorypressure_agent.reporter.certificate import ServingCertificate
from memorypressure_agent.reporter.client import ApiError
from memorypressure_agent.reporter.endpoint import metrics, serve
from memorypressure_agent.reporter.log import Log
from memorypressure_tools.certificates import Authority

USER = {"username": "system:serviceaccount:monitoring:prometheus", "uid": "u", "groups": ["g"], "extra": {"k": ["v"]}}


class Reviews:
    """Stands for the API server: `users` by token, and who is allowed."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {"good": USER, "stranger": {"username": "stranger"}}
        self.allowed = {USER["username"]}
        self.asked: list[tuple[str, Object]] = []
        self.fails: ApiError | None = None
        self.now = 1000.0

    def create(self, path: str, body: Object) -> Object:
        if self.fails is not None:
            raise self.fails
        self.asked.append((path, body["spec"]))
        if path == TOKEN_REVIEWS:
            assert (body["apiVersion"], body["kind"]) == ("authentication.k8s.io/v1", "TokenReview")
            user = self.users.get(body["spec"]["token"])
            return {"status": {"authenticated": True, "user": user} if user else {"authenticated": False}}
        assert (body["apiVersion"], body["kind"]) == ("authorization.k8s.io/v1", "SubjectAccessReview")
        return {"status": {"allowed": body["spec"]["user"] in self.allowed}}

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def reviews(monkeypatch: pytest.MonkeyPatch) -> Reviews:
    made = Reviews()
    monkeypatch.setattr(access_module, "time", made)
    return made


@pytest.fixture
def log() -> Lines:
    return Lines()


def guard(reviews: Reviews, log: Log) -> Access:
    return Access(reviews, log)  # type: ignore[arg-type]


def test_a_token_whose_user_may_get_the_metrics_is_let_in_and_the_whole_user_is_asked_about(
    reviews: Reviews, log: Lines
) -> None:
    assert guard(reviews, log).verdict("Bearer good").status == 200
    (path, spec), (second, asked) = reviews.asked
    assert (path, spec) == (TOKEN_REVIEWS, {"token": "good"})
    assert second == ACCESS_REVIEWS
    assert asked == {
        "user": USER["username"],
        "uid": "u",
        "groups": ["g"],
        "extra": {"k": ["v"]},
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic Z29vZA==", "good", "Bearer g\u00f6od", f"Bearer {'x' * 40_000}"]
)
def test_a_request_without_a_bearer_token_is_refused_and_nobody_is_asked(
    reviews: Reviews, log: Lines, header: str
) -> None:
    assert guard(reviews, log).verdict(header).status == 401
    assert reviews.asked == []


def test_unknown_tokens_and_users_without_the_right_are_told_apart(reviews: Reviews, log: Lines) -> None:
    made = guard(reviews, log)
    assert made.verdict("Bearer bad").status == 401
    refused = made.verdict("bearer stranger")
    assert refused.status == 403
    assert "stranger may not get the non-resource URL /metrics" in refused.text
    reviews.now += 11
    assert made.verdict("Bearer stranger").status == 403
    assert log.text().count("ScrapeRefused: metrics refused: stranger may not get") == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": None},
        {"status": {"authenticated": "true", "user": USER}},
        {"status": {"authenticated": True}},
        {"status": {"authenticated": True, "user": {"username": ""}}},
        {"status": {"user": USER, "error": "x"}},
    ],
)
def test_an_answer_that_is_no_clear_yes_lets_nobody_in(reviews: Reviews, log: Lines, answer: Object) -> None:
    reviews.create = lambda path, body: answer  # type: ignore[method-assign]
    assert guard(reviews, log).verdict("Bearer good").status == 401


@pytest.mark.parametrize("answer", [{}, {"status": {"allowed": "yes"}}, {"status": {"denied": False}}])
def test_only_allowed_true_is_allowed(reviews: Reviews, log: Lines, answer: Object) -> None:
    original = reviews.create
    reviews.create = (  # type: ignore[method-assign]
        lambda path, body: original(path, body) if path == TOKEN_REVIEWS else answer
    )
    assert guard(reviews, log).verdict("Bearer good").status == 403


def test_answers_are_remembered_a_minute_and_refusals_ten_seconds(reviews: Reviews, log: Lines) -> None:
    made = guard(reviews, log)
    for _ in range(5):
        made.verdict("Bearer good")
        made.verdict("Bearer bad")
    assert len(reviews.asked) == 3
    reviews.now += 11
    made.verdict("Bearer bad")
    assert made.verdict("Bearer good").status == 200
    assert len(reviews.asked) == 4
    reviews.allowed.clear()
    reviews.now += 50
    assert made.verdict("Bearer good").status == 403


def test_while_nobody_can_be_asked_nobody_is_let_in_but_those_just_reviewed(reviews: Reviews, log: Lines) -> None:
    made = guard(reviews, log)
    made.verdict("Bearer good")
    reviews.fails = ApiError(0, "no answer from https://h: Connection refused")
    assert made.verdict("Bearer good").status == 200
    assert made.verdict("Bearer other").status == 503
    reviews.now += 61
    assert made.verdict("Bearer good").status == 503
    assert len(log.lines) == 1
    reviews.fails = None
    assert made.verdict("Bearer good").status == 200
    assert "reviewed again" in log.text()


@pytest.mark.parametrize("path", [TOKEN_REVIEWS, ACCESS_REVIEWS], ids=["TokenReview", "SubjectAccessReview"])
@pytest.mark.parametrize("status", [0, 401, 403, 404, 422, 429, 500, 503])
def test_a_review_that_fails_lets_nobody_in_is_told_once_and_is_not_remembered(
    reviews: Reviews, log: Lines, path: str, status: int
) -> None:
    original, made = reviews.create, guard(reviews, log)

    def create(asked: str, body: Object) -> Object:
        if asked == path:
            raise ApiError(status, "no")
        return original(asked, body)

    reviews.create = create  # type: ignore[method-assign]
    for _ in range(3):
        verdict = made.verdict("Bearer good")
        assert verdict.status == 503
        assert "nobody is let in until it can" in verdict.text
    assert len(log.lines) == 1
    assert log.lines[0][0] is Reason.UNREADABLE
    reviews.create = original  # type: ignore[method-assign]
    assert made.verdict("Bearer good").status == 200


def test_a_right_that_the_agent_lacks_is_named(reviews: Reviews, log: Lines) -> None:
    reviews.fails = ApiError(403, "forbidden")
    assert guard(reviews, log).verdict("Bearer good").status == 503
    assert "allow to create tokenreviews and subjectaccessreviews?" in log.text()


def test_what_is_remembered_is_bounded_and_holds_no_token(reviews: Reviews, log: Lines) -> None:
    made = guard(reviews, log)
    for number in range(MOST_REMEMBERED + 50):
        made.verdict(f"Bearer secret-{number}")
    assert len(made._known) == MOST_REMEMBERED
    assert not [key for key in made._known if b"secret" in key]
    assert "secret" not in log.text()


# --- TLS ---


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


class Served:
    """A certificate directory as the kubelet mounts a Secret, and a server that reads from it."""

    def __init__(self, directory: Path, authority: Authority, reviews: Reviews, log: Lines) -> None:
        self.directory = directory
        self.authority = authority
        self.challenge: str | None = None
        self.number = itertools.count()
        self.certificate = ServingCertificate(directory / "tls.crt", directory / "tls.key", log)
        registry = CollectorRegistry()
        paths = metrics(registry, guard(reviews, log).verdict)
        self.server = serve("127.0.0.1", 0, paths, self.certificate.wrap)
        self.url = f"https://127.0.0.1:{self.server.server_port}/metrics"

    def mount(self, certificate: bytes | None = None, key: bytes | None = None) -> None:
        """Puts a new pair in place in one step: the files are links into a directory that is replaced."""
        number = next(self.number)
        pair = self.authority.issue(f"serving-{number}", "agent", names=["127.0.0.1"])
        new = self.directory / f"..{number}"
        new.mkdir()
        (new / "tls.crt").write_bytes(pair.certificate.read_bytes() if certificate is None else certificate)
        (new / "tls.key").write_bytes(pair.key.read_bytes() if key is None else key)
        link = self.directory / "..tmp"
        link.symlink_to(new.name)
        link.rename(self.directory / "..data")
        for name in ("tls.crt", "tls.key"):
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.certificate_file))

    def ask(self, token: str = "") -> int:
        """The status of an answer; a handshake that fails is an OSError."""
        request = urllib.request.Request(self.url, headers={"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(request, timeout=5, context=self.context()) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                self.challenge = error.headers["WWW-Authenticate"]
                return error.code

    def serial(self) -> str:
        port = self.server.server_port
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            self.context().wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            found = tls.getpeercert()
            assert found is not None
            return str(found["serialNumber"])


@pytest.fixture
def served(tmp_path: Path, authority: Authority, reviews: Reviews, log: Lines) -> Iterator[Served]:
    directory = tmp_path / "tls"
    directory.mkdir()
    made = Served(directory, authority, reviews, log)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_over_tls_a_scrape_is_answered_by_its_token(served: Served) -> None:
    served.mount()
    assert [served.ask(token) for token in ("", "bad", "good")] == [401, 401, 200]
    assert served.challenge == "Bearer"
    assert served.ask("stranger") == 403
    assert served.challenge is None


def test_without_a_certificate_nothing_is_served_and_one_that_comes_later_is_taken(served: Served, log: Lines) -> None:
    assert served.certificate.health() == (
        False,
        f"metrics: not served, {served.directory / 'tls.crt'}: No such file or directory",
    )
    with pytest.raises(OSError, match=r"closed|EOF|reset"):
        served.ask("good")
    served.mount()
    assert served.ask("good") == 200
    assert served.certificate.health() == (True, "metrics: served over TLS")
    assert [str(reason) for reason, _ in log.lines] == ["Unreadable", "Accepted"]


def test_a_renewed_certificate_is_served_to_the_next_connection(served: Served) -> None:
    served.mount()
    first = served.serial()
    served.mount()
    assert served.serial() != first


@pytest.mark.parametrize("broken", ["garbage", "other key", "empty", "encrypted"])
def test_a_pair_that_cannot_be_used_leaves_the_former_one_in_force_and_is_named(
    served: Served, authority: Authority, log: Lines, broken: str
) -> None:
    served.mount()
    first = served.serial()
    encrypted = (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGbMFcGCSqGSIb3DQEFDTBKMCkG\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    key = {
        "garbage": b"no key\n",
        "other key": authority.issue("other", "x").key.read_bytes(),
        "empty": b"",
        "encrypted": encrypted,
    }[broken]
    served.mount(key=key)
    assert served.serial() == first
    ok, line = served.certificate.health()
    assert ok
    assert "with the former certificate" in line
    assert len([text for _, text in log.lines if "no certificate chain with its key in PEM form" in text]) == 1
    served.mount()
    assert served.serial() != first
    assert served.certificate.health() == (True, "metrics: served over TLS")


def test_files_that_vanish_leave_the_certificate_in_force(served: Served) -> None:
    served.mount()
    assert served.ask("good") == 200
    (served.directory / "tls.key").unlink()
    assert served.ask("good") == 200
    assert "tls.key: No such file" in served.certificate.health()[1]


def test_tls_is_1_2_or_newer_and_plain_http_gets_no_answer(served: Served) -> None:
    served.mount()
    context = served.certificate.refresh()
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", served.server.server_port), 5) as plain:
        plain.sendall(b"GET /metrics HTTP/1.0\r\nAuthorization: Bearer good\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(4096).startswith(b"HTTP/")
    assert served.ask("good") == 200


def test_clients_that_never_shake_hands_hold_up_nobody(served: Served) -> None:
    served.mount()
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", served.server.server_port), 5) for _ in range(8)]
    assert served.ask("good") == 200
    assert threading.active_count() <= before + 8 + 1
    for each in silent:
        each.close()
