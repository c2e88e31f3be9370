"""What the API server lets agent and operator do: one table of attempts, by real node-bound tokens, run twice.

First against the chart as it is installed: RBAC and admission policies together. Then with both service accounts bound
to cluster-admin, so that whatever is still refused is refused by the policies: the second wall stands by itself.
"""

# ruff: noqa: E501 -- the tables have one row an attempt

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pytest

from memorypressure_tools.apiclient import MERGE_PATCH, STRATEGIC_PATCH, Answer, ApiClient
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import NAMESPACE

NAME = "memory-pressure-memory-pressure-operator"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
GROUP = "/apis/memorypressure.dev/v1alpha1"
STATES, PLANS, POLICIES = f"{GROUP}/nodememorystates", f"{GROUP}/nodememoryplans", f"{GROUP}/memorypressurepolicies"
NODES = "/api/v1/nodes"
OURS = {"key": "memorypressure.dev/pressure", "value": "early", "effect": "NoSchedule"}
FOREIGN = {"key": "dedicated", "value": "x", "effect": "NoSchedule"}
DRY = "dryRun=All"

Who = Literal["agent", "agent without pod", "agent of an unscheduled pod", "operator", "administrator"]
# What an attempt ends in: "allowed", "RBAC", another status code as text, or words of the policy that refuses it.
ALLOWED, RBAC = "allowed", "RBAC"

OTHER_NODE = "the agent on node node-a may not write the NodeMemoryState of node-b"
STATUS_ONLY = "the memory-pressure agent may write only the status of the NodeMemoryState of its own node"
UNBOUND = "the memory-pressure agent needs the token of a pod that is bound to a node"
TAINTS_ONLY = "the memory-pressure operator may only update the taints of nodes"
FOREIGN_TAINTS = "the memory-pressure operator may change only taints whose key starts with memorypressure.dev/"
NODE_REST = "the memory-pressure operator may change nothing of a node but its own taints"
BY_UID = "an eviction by the memory-pressure operator names the pod by UID"


class Cluster(Protocol):
    plane: ControlPlane


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and its two verdicts: with the chart's rights, and with all rights (None: not asked there)."""

    who: Who
    what: str
    method: str
    path: str
    chart: str
    wide: str | None
    body: Any = None
    content_type: str = field(default="application/json")

    def __str__(self) -> str:
        return f"{self.who}: {self.what}"


def state(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "NodeMemoryState",
        "metadata": {"name": name},
        "spec": {"nodeName": name, "mode": "Disabled", **spec},
    }


def plan(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "NodeMemoryPlan",
        "metadata": {"name": name},
        "spec": {"nodeName": name},
    }


REPORT = {"status": {"agentVersion": "0.1.0"}}


def applied(name: str) -> str:
    return json.dumps(
        {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "NodeMemoryState", "metadata": {"name": name}} | REPORT
    )


def policy(name: str, mode: str = "DryRun", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {"name": name},
        "spec": {
            "mode": mode,
            "nodeSelector": {"matchLabels": {"pool": "a"}},
            "triggers": [{"name": "low", "type": "AvailableMemory", "availableMemory": {"percent": 2}}],
            "ladder": [{"action": "Taint", "triggers": ["low"]}],
            **spec,
        },
    }


def eviction(namespace: str, name: str, uid: str | None = "real") -> dict[str, Any]:
    """An Eviction; the UID `real` is replaced by the pod's before it is sent."""
    options: dict[str, Any] = {"gracePeriodSeconds": 1}
    if uid is not None:
        options["preconditions"] = {"uid": uid}
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": options,
    }


def pods(namespace: str, name: str, query: str = DRY) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}?{query}"


def evict(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}/eviction?{DRY}"


def agent_attempts() -> Iterator[Attempt]:
    own, other = f"{STATES}/node-a", f"{STATES}/node-b"
    apply = "?fieldManager=agent&force=true"
    replace = [{"op": "replace", "path": "/status/agentVersion", "value": "9"}]
    for who, what, method, path, chart, wide, *rest in (
        ("agent", "read its own state", "GET", own, ALLOWED, ALLOWED),
        ("agent", "read its own plan", "GET", f"{PLANS}/node-a", ALLOWED, ALLOWED),
        ("agent", "report by merge patch", "PATCH", f"{own}/status", ALLOWED, ALLOWED, REPORT, MERGE_PATCH),
        ("agent", "report by JSON patch", "PATCH", f"{own}/status", ALLOWED, ALLOWED, replace, JSON_PATCH),
        ("agent", "report by apply", "PATCH", f"{own}/status{apply}", ALLOWED, ALLOWED, applied("node-a"), APPLY),
        ("agent", "report for another node", "PATCH", f"{other}/status", OTHER_NODE, OTHER_NODE, REPORT, MERGE_PATCH),
        ("agent", "report for another node, dry run", "PATCH", f"{other}/status?{DRY}", OTHER_NODE, OTHER_NODE, REPORT, MERGE_PATCH),
        ("agent", "report nothing for another node", "PATCH", f"{other}/status", OTHER_NODE, OTHER_NODE, {}, MERGE_PATCH),
        ("agent", "report for another node by JSON patch", "PATCH", f"{other}/status", OTHER_NODE, OTHER_NODE,
         [{"op": "add", "path": "/status", "value": {"agentVersion": "9"}}], JSON_PATCH),
        ("agent", "report for another node by apply", "PATCH", f"{other}/status{apply}", OTHER_NODE, OTHER_NODE, applied("node-b"), APPLY),
        ("agent", "replace another node's status", "PUT", f"{other}/status", RBAC, OTHER_NODE, {**state("node-b"), **REPORT}),
        ("agent", "change the mode of its own spec", "PATCH", own, RBAC, STATUS_ONLY, {"spec": {"mode": "Enforce"}}, MERGE_PATCH),
        ("agent", "give itself a grant", "PATCH", own, RBAC, STATUS_ONLY, {"spec": {"grant": None}}, MERGE_PATCH),
        ("agent", "change another node's spec", "PATCH", other, RBAC, OTHER_NODE, {"spec": {"mode": "Enforce"}}, MERGE_PATCH),
        ("agent", "label its own state", "PATCH", own, RBAC, STATUS_ONLY, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH),
        ("agent", "create a state", "POST", STATES, RBAC, "may not write the NodeMemoryState of node-c", state("node-c")),
        ("agent", "create a state by apply", "PATCH", f"{STATES}/node-c{apply}", RBAC, "may not write the NodeMemoryState of node-c",
         json.dumps(state("node-c")), APPLY),
        ("agent", "delete its own state", "DELETE", own, RBAC, STATUS_ONLY),
        ("agent", "delete another state", "DELETE", other, RBAC, OTHER_NODE),
        ("agent", "delete all states", "DELETE", STATES, RBAC, "may write only the status"),
        ("agent", "list all states", "GET", STATES, RBAC, None),
        ("agent", "change its own plan", "PATCH", f"{PLANS}/node-a", RBAC, STATUS_ONLY, {"spec": {"nodeName": "node-a"}}, MERGE_PATCH),
        ("agent", "change another plan", "PATCH", f"{PLANS}/node-b", RBAC, "may not write the NodeMemoryPlan of node-b",
         {"spec": {"nodeName": "node-b"}}, MERGE_PATCH),
        ("agent", "create a plan", "POST", PLANS, RBAC, "may not write the NodeMemoryPlan of node-c", plan("node-c")),
        ("agent", "delete its plan", "DELETE", f"{PLANS}/node-a", RBAC, STATUS_ONLY),
        ("agent", "create a policy", "POST", POLICIES, RBAC, STATUS_ONLY, policy("theirs")),
        ("agent", "arm a policy", "PATCH", f"{POLICIES}/present", RBAC, STATUS_ONLY, {"spec": {"mode": "Enforce"}}, MERGE_PATCH),
        ("agent", "write a policy's status", "PATCH", f"{POLICIES}/present/status", RBAC, STATUS_ONLY, {"status": {}}, MERGE_PATCH),
        ("agent", "create a policy named like its node", "POST", POLICIES, RBAC, STATUS_ONLY, policy("node-a")),
        ("agent", "delete a policy", "DELETE", f"{POLICIES}/present", RBAC, STATUS_ONLY),
        ("agent", "read policies", "GET", POLICIES, RBAC, None),
        ("agent", "list pods", "GET", "/api/v1/pods", RBAC, None),
        ("agent", "delete a pod", "DELETE", pods("default", "plain"), RBAC, None),
        ("agent", "evict a pod", "POST", evict("default", "plain"), RBAC, None, eviction("default", "plain")),
        ("agent", "read its node", "GET", f"{NODES}/node-a", RBAC, None),
        ("agent", "taint its node", "PATCH", f"{NODES}/node-a", RBAC, None, {"spec": {"taints": [OURS]}}, STRATEGIC_PATCH),
        ("agent", "reach the kubelet", "GET", f"{NODES}/node-a/proxy/pods", RBAC, None),
        ("agent", "read secrets", "GET", f"/api/v1/namespaces/{NAMESPACE}/secrets", RBAC, None),
        ("agent", "read the ledger", "GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps", RBAC, None),
        ("agent", "write an event", "POST", "/api/v1/namespaces/default/events", RBAC, None,
         {"metadata": {"name": "x"}, "involvedObject": {"namespace": "default"}}),
        ("agent", "take the operator's token", "POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}/token", RBAC, None,
         {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        ("agent", "take the operator's lease", "GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases", RBAC, None),
        ("agent without pod", "report", "PATCH", f"{own}/status", UNBOUND, UNBOUND, REPORT, MERGE_PATCH),
        ("agent without pod", "create a state", "POST", STATES, RBAC, UNBOUND, state("node-c")),
        ("agent without pod", "delete a state", "DELETE", own, RBAC, UNBOUND),
        ("agent of an unscheduled pod", "report", "PATCH", f"{own}/status", UNBOUND, UNBOUND, REPORT, MERGE_PATCH),
        ("administrator", "write any state", "PATCH", f"{other}/status?{DRY}", ALLOWED, ALLOWED, REPORT, MERGE_PATCH),
        ("administrator", "taint and label a node", "PATCH", f"{NODES}/node-b?{DRY}", ALLOWED, ALLOWED,
         {"metadata": {"labels": {"a": "b"}}, "spec": {"taints": [FOREIGN]}}, MERGE_PATCH),
        ("administrator", "delete a critical pod", "DELETE", pods("kube-system", "critical"), ALLOWED, ALLOWED),
    ):  # fmt: skip
        yield Attempt(who, what, method, path, chart, wide, *rest)  # type: ignore[arg-type]


def operator_attempts() -> Iterator[Attempt]:
    node = f"{NODES}/node-a"
    tainted = [FOREIGN, OURS]
    for what, method, path, chart, wide, *rest in (
        ("taint a node with our key", "PATCH", node, ALLOWED, ALLOWED,
         [{"op": "test", "path": "/spec/taints/0/key", "value": "dedicated"}, {"op": "add", "path": "/spec/taints/-", "value": OURS}], JSON_PATCH),
        ("lift our taint", "PATCH", node, ALLOWED, ALLOWED,
         [{"op": "test", "path": "/spec/taints/1/key", "value": OURS["key"]}, {"op": "remove", "path": "/spec/taints/1"}], JSON_PATCH),
        ("apply our taint alone, which drops the others", "PATCH", f"{node}?fieldManager=x&force=true&{DRY}", FOREIGN_TAINTS, FOREIGN_TAINTS,
         json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"taints": [OURS]}}), APPLY),
        ("merge our taint alone, which drops the others", "PATCH", node, FOREIGN_TAINTS, FOREIGN_TAINTS, {"spec": {"taints": [OURS]}}, MERGE_PATCH),
        ("add a foreign taint", "PATCH", node, FOREIGN_TAINTS, FOREIGN_TAINTS,
         {"spec": {"taints": [FOREIGN, {"key": "x", "effect": "NoSchedule"}]}}, MERGE_PATCH),
        ("change a foreign taint's effect", "PATCH", node, FOREIGN_TAINTS, FOREIGN_TAINTS,
         {"spec": {"taints": [{**FOREIGN, "effect": "NoExecute"}]}}, MERGE_PATCH),
        ("change a foreign taint's value", "PATCH", node, FOREIGN_TAINTS, FOREIGN_TAINTS, {"spec": {"taints": [{**FOREIGN, "value": "y"}]}}, MERGE_PATCH),
        ("remove all taints", "PATCH", node, FOREIGN_TAINTS, FOREIGN_TAINTS, {"spec": {"taints": None}}, MERGE_PATCH),
        ("taint with the kubelet's key", "PATCH", node, FOREIGN_TAINTS, FOREIGN_TAINTS,
         {"spec": {"taints": [FOREIGN, {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]}}, MERGE_PATCH),
        ("evict everything by NoExecute", "PATCH", node, "has the effect NoSchedule or PreferNoSchedule", "has the effect NoSchedule or PreferNoSchedule",
         {"spec": {"taints": [FOREIGN, {**OURS, "effect": "NoExecute"}]}}, MERGE_PATCH),
        ("label a node", "PATCH", node, NODE_REST, NODE_REST, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH),
        ("annotate a node", "PATCH", node, NODE_REST, NODE_REST, {"metadata": {"annotations": {"a": "b"}}}, MERGE_PATCH),
        ("hold a node by a finalizer", "PATCH", node, NODE_REST, NODE_REST, {"metadata": {"finalizers": ["a.example/b"]}}, MERGE_PATCH),
        ("cordon a node", "PATCH", node, NODE_REST, NODE_REST, {"spec": {"unschedulable": True}}, MERGE_PATCH),
        ("give a node another provider", "PATCH", node, NODE_REST, NODE_REST, {"spec": {"providerID": "x://1"}}, MERGE_PATCH),
        ("taint and label at once", "PATCH", node, NODE_REST, NODE_REST, {"metadata": {"labels": {"a": "b"}}, "spec": {"taints": tainted}}, MERGE_PATCH),
        ("write a node's status", "PATCH", f"{node}/status", RBAC, TAINTS_ONLY, {"status": {"phase": "Running"}}, MERGE_PATCH),
        ("replace a node", "PUT", node, RBAC, None, {"metadata": {"name": "node-a"}}),
        ("create a node", "POST", NODES, RBAC, TAINTS_ONLY, {"metadata": {"name": "node-q"}}),
        ("delete a node", "DELETE", node, RBAC, TAINTS_ONLY),
        ("delete all nodes", "DELETE", NODES, RBAC, TAINTS_ONLY),
        ("evict a pod by UID", "POST", evict("default", "plain"), ALLOWED, ALLOWED, eviction("default", "plain")),
        ("evict a pod without UID", "POST", evict("default", "plain"), BY_UID, BY_UID, eviction("default", "plain", None)),
        ("evict by the UID of a pod that was replaced", "POST", evict("default", "plain"), "409", "409",
         eviction("default", "plain", "00000000-0000-0000-0000-000000000000")),
        ("evict in kube-system", "POST", evict("kube-system", "plain"), "may not evict pods of namespace kube-system",
         "may not evict pods of namespace kube-system", eviction("kube-system", "plain")),
        ("evict an agent", "POST", evict(NAMESPACE, "agent-a"), f"may not evict pods of namespace {NAMESPACE}",
         f"may not evict pods of namespace {NAMESPACE}", eviction(NAMESPACE, "agent-a")),
        ("evict in a protected namespace", "POST", evict("guarded", "plain"), "namespace guarded is protected by the label",
         "namespace guarded is protected by the label", eviction("guarded", "plain")),
        ("delete a pod", "DELETE", pods("default", "plain"), ALLOWED, ALLOWED),
        ("delete a critical pod", "DELETE", pods("default", "critical"), "may not delete system-critical pods", "may not delete system-critical pods"),
        ("delete a protected pod", "DELETE", pods("default", "protected"), "the pod is protected by the annotation",
         "the pod is protected by the annotation"),
        ("delete in kube-system", "DELETE", pods("kube-system", "plain"), "may not delete pods of namespace kube-system",
         "may not delete pods of namespace kube-system"),
        ("delete an agent", "DELETE", pods(NAMESPACE, "agent-a"), f"may not delete pods of namespace {NAMESPACE}",
         f"may not delete pods of namespace {NAMESPACE}"),
        ("delete in a protected namespace", "DELETE", pods("guarded", "plain"), "namespace guarded is protected by the label",
         "namespace guarded is protected by the label"),
        ("delete all pods of kube-system", "DELETE", f"/api/v1/namespaces/kube-system/pods?{DRY}", RBAC, "the memory-pressure operator may not delete"),
        ("write a plan", "PATCH", f"{PLANS}/node-b?{DRY}", ALLOWED, ALLOWED, {"spec": {"nodeName": "node-b"}}, MERGE_PATCH),
        ("create a state", "POST", f"{STATES}?{DRY}", ALLOWED, ALLOWED, state("node-c")),
        ("change a state's spec", "PATCH", f"{STATES}/node-b?{DRY}", ALLOWED, ALLOWED, {"spec": {"mode": "DryRun"}}, MERGE_PATCH),
        ("report in an agent's place", "PATCH", f"{STATES}/node-b/status", RBAC, None, REPORT, MERGE_PATCH),
        ("create the default policy", "POST", f"{POLICIES}?{DRY}", ALLOWED, ALLOWED, policy("new")),
        ("write a policy's status", "PATCH", f"{POLICIES}/present/status?{DRY}", ALLOWED, ALLOWED, {"status": {}}, MERGE_PATCH),
        ("arm a user's policy", "PATCH", f"{POLICIES}/present", RBAC, None, {"spec": {"mode": "Enforce"}}, MERGE_PATCH),
        ("delete a user's policy", "DELETE", f"{POLICIES}/present", RBAC, None),
        ("write its ledger", "POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps?{DRY}", ALLOWED, ALLOWED, {"metadata": {"name": "ledger"}}),
        ("write another namespace's ConfigMap", "POST", f"/api/v1/namespaces/default/configmaps?{DRY}", RBAC, None, {"metadata": {"name": "x"}}),
        ("hold its lease", "POST", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases?{DRY}", ALLOWED, ALLOWED, {"metadata": {"name": "l"}}),
        ("hold another namespace's lease", "POST", f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?{DRY}", RBAC, None,
         {"metadata": {"name": "l"}}),
        ("list pods", "GET", "/api/v1/pods?limit=1", ALLOWED, ALLOWED),
        ("list budgets", "GET", "/apis/policy/v1/poddisruptionbudgets", ALLOWED, ALLOWED),
        ("read secrets of its namespace", "GET", f"/api/v1/namespaces/{NAMESPACE}/secrets", RBAC, None),
        ("create a pod", "POST", "/api/v1/namespaces/default/pods", RBAC, None, {"metadata": {"name": "x"}}),
        ("run a command in a pod", "POST", "/api/v1/namespaces/default/pods/plain/exec?command=id", RBAC, None),
        ("reach a kubelet", "GET", f"{node}/proxy/pods", RBAC, None),
        ("bind itself to more rights", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", RBAC, None,
         {"metadata": {"name": "x"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}}),
        ("loosen its own guard", "DELETE", f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{NAME}-pods", RBAC, None),
        ("remove a definition", "DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/memorypressurepolicies.memorypressure.dev", RBAC, None),
    ):  # fmt: skip
        yield Attempt("operator", what, method, path, chart, wide, *rest)


ATTEMPTS = [*agent_attempts(), *operator_attempts()]
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
