"""What the API server lets agent and operator do: one table of attempts, by real node-bound tokens, run twice.

First against the chart as it is installed: RBAC and admission policies together. Then with both service accounts bound
to cluster-admin, so that whatever is still refused is refused by the policies: the second wall stands by itself.
"""

import json
import time
from typing import Any, Protocol

import pytest
from support.attempts import (
    ALLOWED,
    ATTEMPTS,
    FOREIGN,
    NAME,
    NODES,
    PLANS,
    POLICIES,
    RBAC,
    REPORT,
    STATES,
    Attempt,
    eviction,
    plan,
    policy,
    state,
)

from memorypressure_tools.apiclient import MERGE_PATCH, Answer, ApiClient
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import NAMESPACE


class Cluster(Protocol):
    plane: ControlPlane


WIDE = [attempt for attempt in ATTEMPTS if attempt.wide is not None]

Clients = dict[str, ApiClient]


def make_pod(
    plane: ControlPlane, namespace: str, name: str, node: str | None, account: str = "default", **more: Any
) -> None:
    annotations = more.pop("annotations", {})
    spec = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "none"}],
        **({"nodeName": node} if node else {"schedulerName": "nobody"}),
        **more,
    }
    body = {"metadata": {"name": name, "annotations": annotations}, "spec": spec}
    plane.admin.must("POST", f"/api/v1/namespaces/{namespace}/pods", body)


@pytest.fixture(scope="module")
def clients(installed: Cluster) -> Clients:
    """Objects to aim at, and a client for each identity."""
    plane = installed.plane
    admin = plane.admin
    for name in ("node-a", "node-b"):
        admin.must("POST", NODES, {"metadata": {"name": name}})
        # taints as a test wants them, not those that admission and controllers give to new nodes
        admin.must("PATCH", f"{NODES}/{name}", {"spec": {"taints": [FOREIGN]}}, MERGE_PATCH)
        admin.must("POST", STATES, state(name))
        admin.must("PATCH", f"{STATES}/{name}/status", {"status": {"agentVersion": "0"}}, MERGE_PATCH)
        admin.must("POST", PLANS, plan(name))
    admin.must("POST", POLICIES, policy("present"))
    labels = {"memorypressure.dev/protected": "true"}
    admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "guarded", "labels": labels}})
    for namespace in ("guarded", "kube-system", NAMESPACE):
        plane.wait_for_service_account(namespace)
    for namespace in ("default", "kube-system", "guarded"):
        make_pod(plane, namespace, "plain", "node-b")
    # Running: over the UID of a pod that is not, the server tries for ten seconds before it says 409
    running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    admin.must("PATCH", "/api/v1/namespaces/default/pods/plain/status", running, MERGE_PATCH)
    for namespace in ("default", "kube-system"):
        make_pod(plane, namespace, "critical", "node-b", priorityClassName="system-node-critical")
    make_pod(plane, "default", "protected", "node-b", annotations=labels)
    make_pod(plane, NAMESPACE, "agent-a", "node-a", f"{NAME}-agent")
    make_pod(plane, NAMESPACE, "agent-unscheduled", None, f"{NAME}-agent")
    make_pod(plane, NAMESPACE, "operator-1", "node-b", NAME)
    tokens = {
        "agent": plane.token(NAMESPACE, f"{NAME}-agent", "agent-a"),
        "agent without pod": plane.token(NAMESPACE, f"{NAME}-agent"),
        "agent of an unscheduled pod": plane.token(NAMESPACE, f"{NAME}-agent", "agent-unscheduled"),
        "operator": plane.token(NAMESPACE, NAME, "operator-1"),
    }
    return {**{who: plane.client_with_token(token) for who, token in tokens.items()}, "administrator": admin}


@pytest.fixture(scope="module")
def all_rights(clients: Clients, installed: Cluster) -> Clients:
    """The same identities, bound to cluster-admin: what is refused now, the policies refuse."""
    subjects = [{"kind": "ServiceAccount", "name": n, "namespace": NAMESPACE} for n in (NAME, f"{NAME}-agent")]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    body = {"metadata": {"name": "wide"}, "roleRef": role, "subjects": subjects}
    installed.plane.admin.must("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body)
    end = time.monotonic() + 15
    for client in (clients["agent"], clients["operator"]):
        while client.request("GET", "/api/v1/secrets?limit=1").status != 200:  # RBAC learns of it by a watch
            assert time.monotonic() < end, "the binding to cluster-admin has no effect"
            time.sleep(0.05)
    return clients


def sent(attempt: Attempt, clients: Clients) -> Answer:
    body = attempt.body
    if isinstance(body, dict) and body.get("kind") == "Eviction" and "real" in str(body["deleteOptions"]):
        where = body["metadata"]
        pod = clients["administrator"].must("GET", f"/api/v1/namespaces/{where['namespace']}/pods/{where['name']}")
        body = eviction(where["namespace"], where["name"], pod["metadata"]["uid"])
    if attempt.method == "PUT" and isinstance(body, dict):
        stored = clients["administrator"].must("GET", attempt.path.removesuffix("/status"))
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": stored["metadata"]["resourceVersion"]}}
    return clients[attempt.who].request(attempt.method, attempt.path, body, attempt.content_type)


def judge(attempt: Attempt, answer: Answer, expected: str) -> None:
    said = str(answer.body.get("message", "")) if isinstance(answer.body, dict) else str(answer.body)
    if expected == ALLOWED:
        assert answer.status in {200, 201}, said
    elif expected == RBAC:
        assert answer.status == 403, f"{answer.status}: {said}"
        assert "ValidatingAdmissionPolicy" not in said
        assert " cannot " in said  # the authorizer's sentence: User "..." cannot get resource "..."
    elif expected.isdigit():
        assert answer.status == int(expected), said
    else:
        assert answer.status == 403, f"{answer.status}: {said}"
        assert "ValidatingAdmissionPolicy" in said
        assert expected in said


def test_the_tables_hold_what_they_promise() -> None:
    assert len({str(attempt) for attempt in ATTEMPTS}) == len(ATTEMPTS) >= 90
    refused = [a for a in WIDE if a.wide not in {ALLOWED, "409"}]
    assert len([a for a in refused if a.who == "operator"]) >= 25
    assert len([a for a in refused if a.who.startswith("agent")]) >= 25


def test_the_agents_token_names_its_node(clients: Clients) -> None:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    who = clients["agent"].must("POST", path, body)["status"]["userInfo"]
    assert who["username"] == f"system:serviceaccount:{NAMESPACE}:{NAME}-agent"
    assert who["extra"]["authentication.kubernetes.io/node-name"] == ["node-a"]
    free = clients["agent without pod"].must("POST", path, body)["status"]["userInfo"]
    assert "authentication.kubernetes.io/node-name" not in free.get("extra", {})


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=str)
def test_with_the_charts_rights(clients: Clients, attempt: Attempt) -> None:
    judge(attempt, sent(attempt, clients), attempt.chart)


def test_a_report_cannot_smuggle_a_change_of_the_spec(clients: Clients) -> None:
    smuggled = {"spec": {"mode": "Enforce"}, "metadata": {"labels": {"a": "b"}}, **REPORT}
    answer = clients["agent"].request("PATCH", f"{STATES}/node-a/status", smuggled, MERGE_PATCH)
    assert answer.status == 200
    stored = clients["administrator"].must("GET", f"{STATES}/node-a")
    assert stored["spec"]["mode"] == "Disabled"
    assert "labels" not in stored["metadata"]


@pytest.mark.parametrize("attempt", WIDE, ids=str)
def test_with_all_rights_the_policies_alone_refuse(all_rights: Clients, attempt: Attempt) -> None:
    assert attempt.wide is not None
    judge(attempt, sent(attempt, all_rights), attempt.wide)


def test_nothing_that_was_refused_has_changed_anything(all_rights: Clients) -> None:
    admin = all_rights["administrator"]
    for name in ("node-a", "node-b"):
        assert admin.must("GET", f"{STATES}/{name}")["spec"] == state(name)["spec"]
        assert "pods" not in admin.must("GET", f"{PLANS}/{name}")["spec"]
        assert admin.must("GET", f"{NODES}/{name}")["spec"]["taints"] == [FOREIGN]
    for path in (f"{STATES}/node-c", f"{PLANS}/node-c", f"{NODES}/node-q", f"{POLICIES}/theirs", f"{POLICIES}/node-a"):
        assert admin.request("GET", path).status == 404
    assert admin.must("GET", f"{POLICIES}/present")["spec"]["mode"] == "DryRun"
    assert all("deletionTimestamp" not in i["metadata"] for i in admin.must("GET", "/api/v1/pods")["items"])


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        (
            policy("w1", "Enforce", nodeSelector={}),
            "mode Enforce with an empty nodeSelector acts on every node of the cluster",
        ),
        (
            policy(
                "w2",
                ladder=[{"action": "Evict", "triggers": ["low"], "afterSeconds": 1}],
                limits={"evictionsPerHour": 0},
            ),
            "the ladder has an Evict step, but limits.evictionsPerHour is 0, so nothing will be evicted",
        ),
        (
            policy(
                "w3",
                ladder=[{"action": "Kill", "triggers": ["low"], "afterSeconds": 0}],
                limits={"maxStandingKills": 0},
            ),
            "the ladder has a Kill step, but limits.maxStandingKills is 0, so nothing will be killed",
        ),
        (policy("w4", "DryRun", nodeSelector={}), None),
        (policy("w5", "Enforce"), None),
    ],
    ids=["everywhere", "no evictions", "no kills", "dry run everywhere", "enforce on some"],
)
def test_a_policys_author_is_warned_and_not_stopped(
    installed: Cluster, body: dict[str, Any], warning: str | None
) -> None:
    done = installed.plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
    assert "created" in done.stdout
    if warning:
        assert f"Warning: Validation failed for ValidatingAdmissionPolicy '{NAME}-hints'" in done.stderr
        assert warning in done.stderr
    else:
        assert done.stderr == ""
