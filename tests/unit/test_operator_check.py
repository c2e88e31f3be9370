"""`memorypressure-operator check`: which nodes count, what is said of each part, and for how long it waits."""

import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from memorypressure_operator import check
from memorypressure_operator.errors import ApiUnreachable

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
GROUP = "/apis/memorypressure.dev/v1alpha1"


class Cluster:
    """An Api that holds lists, two objects a page."""

    def __init__(self, **lists: list[dict[str, Any]]) -> None:
        self.lists = {
            f"{GROUP}/memorypressurepolicies": lists.get("policies", []),
            f"{GROUP}/nodememorystates": lists.get("states", []),
            "/api/v1/nodes": lists.get("nodes", []),
        }
        self.away = False

    def get(self, path: str, *, query: dict[str, str]) -> SimpleNamespace:
        if self.away:
            raise ApiUnreachable("connection refused")
        at = int(query.get("continue", "0"))
        page, rest = self.lists[path][at : at + 2], self.lists[path][at + 2 :]
        body = {"metadata": {"continue": str(at + 2)} if rest else {}, "items": page}
        return SimpleNamespace(body=json.dumps(body).encode())


def node(name: str, ready: str = "True", **labels: str) -> dict[str, Any]:
    given = {"kubernetes.io/os": "linux", **{key.replace("_", "-"): value for key, value in labels.items()}}
    return {"metadata": {"name": name, "labels": given}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def state(name: str, age_seconds: float | None, policy: str = "") -> dict[str, Any]:
    told = None if age_seconds is None else (NOW - dt.timedelta(seconds=age_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"nodeName": name} | ({"policyName": policy} if policy else {})
    return {"metadata": {"name": name}, "spec": spec, "status": {"lastReportTime": told} if told else {}}


def policy(name: str, status: str = "True", **limits: int) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "reason": "LedgerInvalid", "message": "data.ledger is not JSON"}
    return {
        "metadata": {"name": name},
        "spec": {"mode": "Enforce", "limits": limits},
        "status": {"conditions": [condition]},
    }


def said(cluster: Cluster) -> list[tuple[bool, str]]:
    return [(each.ok, each.text) for each in check.look(cluster, "", NOW)]  # type: ignore[arg-type]


def test_every_machine_that_is_ready_has_to_have_reported_within_the_grants_time() -> None:
    nodes = [
        node("fresh"),
        node("old"),
        node("slow"),
        node("new"),
        node("unknown"),
        node("down", "False"),
        node("virtual", type="virtual-kubelet"),
        {**node("windows"), "metadata": {"name": "windows", "labels": {"kubernetes.io/os": "windows"}}},
    ]
    states = [state("fresh", 890), state("old", 910), state("slow", 3000, "long"), state("new", None)]
    cluster = Cluster(nodes=nodes, states=states, policies=[policy("long", grantSeconds=3600)])
    silent = "old (last report 2026-11-25T11:44:50Z), new (never reported), unknown (no NodeMemoryState)"
    assert said(cluster) == [
        (True, "policy long in mode Enforce"),
        (False, f"agents: 2 of 5 nodes report; not: {silent}"),
    ]


def test_of_many_silent_nodes_ten_are_named() -> None:
    cluster = Cluster(nodes=[node(f"n{number:02}") for number in range(25)])
    ((_, _), (ok, text)) = said(cluster)
    assert not ok
    assert text.startswith("agents: 0 of 25 nodes report; not: n00 (no NodeMemoryState), n01")
    assert text.endswith("n09 (no NodeMemoryState) and 15 more")


def test_a_policy_that_is_not_carried_out_is_named_with_its_reason() -> None:
    assert said(Cluster(policies=[policy("p", "False")]))[0] == (
        False,
        "policy p in mode Enforce: LedgerInvalid: data.ledger is not JSON",
    )


def test_states_of_no_node_are_named_for_they_stay_for_ever() -> None:
    owned = {**state("going", 5), "metadata": {"name": "going", "ownerReferences": [{"kind": "Node"}]}}
    cluster = Cluster(nodes=[node("a")], states=[state("a", 5), state("b", 5), owned])
    assert said(cluster)[-1] == (True, "1 NodeMemoryStates of no node, nobody looks at them: kubectl delete nms b")


def test_an_api_server_that_is_away_is_said_and_waited_for() -> None:
    cluster, lines, now = Cluster(nodes=[node("a")]), [], 0.0
    cluster.away = True

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now >= 6:
            cluster.away = False
            cluster.lists[f"{GROUP}/nodememorystates"] = [
                {**state("a", 0), "status": {"lastReportTime": dt.datetime.now(dt.UTC).isoformat()}}
            ]

    assert check.run(cluster, "", 60, lines.append, clock=lambda: now, sleep=sleep) == 0  # type: ignore[arg-type]
    assert lines == ["ok  no policy yet: nothing is decided", "ok  agents: 1 of 1 nodes report"]
    assert now == 6


def test_when_the_time_is_over_it_says_what_is_not_well() -> None:
    cluster, lines = Cluster(nodes=[node("a")]), []
    assert check.run(cluster, "", 0, lines.append) == 1  # type: ignore[arg-type]
    assert lines[1] == "NOT agents: 0 of 1 nodes report; not: a (no NodeMemoryState)"


@pytest.fixture
def metrics() -> Iterator[tuple[str, list[str]]]:
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = texts[-1].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the parent's name
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics", texts
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_the_operator_has_to_lead_by_its_own_metrics(metrics: tuple[str, list[str]]) -> None:
    url, texts = metrics
    for value, ok, words in (("1.0", True, "the operator leads"), ("0.0", False, "does not hold the Lease yet")):
        texts.append(f"# TYPE memorypressure_operator_leader gauge\nmemorypressure_operator_leader {value}\n")
        found = check.look(Cluster(), url, NOW)[-1]  # type: ignore[arg-type]
        assert found.ok is ok
        assert words in found.text
    found = check.look(Cluster(), "http://127.0.0.1:1/metrics", NOW)[-1]  # type: ignore[arg-type]
    assert (found.ok, "Connection refused" in found.text) == (False, True)
