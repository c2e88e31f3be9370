"""What agent and operator may try on the API server, and how each attempt has to end: the table of test_admission.py."""

# ruff: noqa: E501 -- the tables have one row an attempt

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from memorypressure_tools.apiclient import MERGE_PATCH, STRATEGIC_PATCH
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
