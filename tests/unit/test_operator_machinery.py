"""The operator's machinery without a cluster: settings, the acts on pods, Events."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure.reasons import Reason
from memorypressure_operator import api, cli, evictor, settings
from memorypressure_operator.api import Answer, Credentials, connect
from memorypressure_operator.decisionlog import DecisionLog
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, CredentialsError, SettingsError
from memorypressure_operator.events import Event, EventWriter, pod_subject
from memorypressure_operator.evictor import Outcome
from memorypressure_operator.handlers import Backoffs

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
        ({"renew_seconds": "8"}, {}, "--renew-seconds: with --renew-timeout-seconds must be below --renew-deadline"),
        ({"renew_seconds": "nan"}, {}, "--renew-seconds: nan is out of range"),
        ({"namespace": "A B"}, {}, "--namespace: 'A B' is no namespace's name"),
        (
            {"protected_namespaces": "shop,kube system"},
            {},
            "--protected-namespaces: 'kube system' is no namespace's name",
        ),
        ({"protected_namespaces": "a." + "b" * 70}, {}, "--protected-namespaces: 'a."),
        ({"lease_name": "Lease"}, {}, "--lease-name: 'Lease' is no object's name"),
        ({"counts_configmap": ""}, {}, "--counts-configmap: '' is no object's name"),
        ({"default_policy_configmap": "a/b"}, {}, "--default-policy-configmap: 'a/b' is no object's name"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        settings.parse({"namespace": "n", **flags}, environment)


def test_without_a_namespace_and_outside_a_pod_the_setting_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="--namespace: not given"):
        settings.parse({}, {})


KUBECONFIG = """
clusters: [{name: c, cluster: {server: SERVER}}]
users: [{name: u, user: USER}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("clusters: [", "while parsing a flow"),
        ("a token", "it has not the form of one, with lists of clusters, users and contexts"),
        ("[]", "it has not the form of one"),
        ("{clusters: 5, contexts: 3, current-context: x}", "it has not the form of one"),
        ("apiVersion: v1", "Expected key current-context"),
        (KUBECONFIG.replace("SERVER", "10.0.0.1:6443"), "server: '10.0.0.1:6443' is no URL such as https://"),
        (
            KUBECONFIG.replace("SERVER", "https://h").replace("USER", '{client-certificate-data: "x"}'),
            "a field that ends in -data holds no base64",
        ),
    ],
)
def test_a_kubeconfig_that_is_not_one_is_named_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "config"
    file.write_text(text.replace("USER", "{}"))
    with pytest.raises(CredentialsError, match=f"kubeconfig {re.escape(str(file))} cannot be used: .*{re.escape(why)}"):
        Credentials(str(file), 60, Clock())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--wait-seconds", "-1"], "--wait-seconds: '-1' is not a number from 0 to 86400"),
        (["check", "--wait-seconds", "nan"], "--wait-seconds: 'nan' is not a number"),
        (
            ["check", "--metrics-url", "file:///etc/passwd"],
            "--metrics-url: 'file:///etc/passwd' is no URL such as http",
        ),
        (["explain"], "explain: name the node, as in: explain worker-7"),
        (["explain", ""], "explain: name the node"),
        (["cleanup", "worker-7"], "cleanup takes no 'worker-7'"),
    ],
)
def test_a_wrong_option_of_a_command_ends_with_2_and_says_what_to_write(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    try:
        code = cli.main([*words, "--namespace", "n"], {})
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "why"), [("missing", "there is no such file"), ("", "Is a directory")])
def test_a_kubeconfig_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(CredentialsError, match=f"{name} cannot be used: {why}"):
        connect(str(tmp_path / name), 5, 60, Clock())


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
    answer = evictor.evict(api, FakeCluster().add("u"), 7)
    found = answer.outcome
    assert (found, found.spent, found.next_candidate) == (outcome, spent, goes_on)
    assert answer.retry_after_seconds == (error.retry_after_seconds if isinstance(error, ApiRefused) else 0)
    assert api.bodies[0]["deleteOptions"] == {"preconditions": {"uid": "u"}, "gracePeriodSeconds": 7}


def test_a_second_delete_never_asks_for_no_grace() -> None:
    api: Any = Refusing(None)
    evictor.delete_again(api, FakeCluster().add("u"), 0)
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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ApiRefused(404, "NotFound", 'pods "web-1" not found (GET /x)'), False),
        (ApiRefused(404, "NotFound", "the server could not find the requested resource (GET /x)"), True),
        (ApiRefused(404, "", "404 page not found (GET /x)"), True),
        (ApiRefused(403, "Forbidden", "the server could not find the requested resource"), False),
    ],
)
def test_a_kind_that_is_not_served_is_told_from_an_object_that_is_not_there(error: ApiRefused, expected: bool) -> None:
    assert error.not_served is expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1), ("60", 60), ("3600", 60), ("9" * 400, 60), ("inf", 0), ("-5", 0), ("Thu, 26 Nov 2026 10:00:00 GMT", 0)],
)
def test_no_answer_makes_us_wait_for_longer_than_a_minute(text: str, seconds: float) -> None:
    assert api._refusal("GET", "/x", 429, b"", {"Retry-After": text}).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("method", "path", "status", "causes", "expected"),
    [
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/typo/leases", 404, (), True),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/own/leases/x", 404, (), False),
        ("POST", "/apis/events.k8s.io/v1/namespaces/gone/events", 404, (), False),
        ("POST", "/apis/events.k8s.io/v1/namespaces/going/events", 403, (api.NAMESPACE_ENDS,), False),
        ("POST", "/apis/events.k8s.io/v1/namespaces/x/events", 403, (), True),
        ("POST", "/api/v1/namespaces/x/pods/p/eviction", 404, (), False),
    ],
)
def test_what_is_the_api_servers_trouble(
    method: str, path: str, status: int, causes: tuple[str, ...], expected: bool
) -> None:
    assert api._is_trouble(method, path, ApiRefused(status, "", "x", causes=causes)) is expected


def test_a_decision_log_on_a_full_disk_ends_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    found = DecisionLog("/dev/full", lambda: 1.0)
    for _ in range(3):
        found.looked("n", "1")
    assert caplog.text.count("--decision-log ends here") == 1
