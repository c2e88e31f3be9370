"""`memorypressure-operator explain NODE`: which policy is in force there, and of every pod whether it may be stopped.

Reads only. It decides anew, by the operator's own rules, from what the API server holds now, and says where the stored
plan differs from that.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from memorypressure.plans import build_plan
from memorypressure.protections import DisruptionBudget
from memorypressure.reasons import Reason
from memorypressure.selection import Selection, select
from memorypressure.spec import Mode, Policy
from memorypressure_operator import tainter
from memorypressure_operator.api import Api, node_path, own_path
from memorypressure_operator.caps import capped
from memorypressure_operator.errors import NOT_UNDERSTOOD, ApiRefused, OperatorError
from memorypressure_operator.paging import listed
from memorypressure_operator.planning import Planner
from memorypressure_operator.pods import PodView, decode_pod
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import StateView, decode_state
from memorypressure_operator.settings import Settings
from memorypressure_operator.views import NodeView, decode_budget, decode_namespace, decode_node, unknown_budget

YES, SOON, NO = "yes", "soon", "no"


class ExplainError(OperatorError):
    """Nothing can be explained; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class PodLine:
    """One pod. `may_be_stopped`: yes (on the plan), soon (the plan is about to change, or its workload waits), no."""

    namespace: str
    name: str
    priority: int
    qos: str
    may_be_stopped: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that is printed."""

    node: str
    policy: str
    mode: str
    selection: str
    other_policies: Mapping[str, str]
    facts: Mapping[str, str]
    pods: tuple[PodLine, ...]


def run(settings: Settings, api: Api, node_name: str, output: str, write: Callable[[str], None] = print) -> int:
    """Prints the explanation of one node: 0. Raises ExplainError and what `Api.request` raises."""
    found = explain(settings, api, node_name)
    write(json.dumps(asdict(found), indent=2) if output == "json" else text(found))
    return 0


def explain(settings: Settings, api: Api, node_name: str) -> Explanation:
    """The explanation of one node."""
    try:
        node = decode_node(api.get(node_path(node_name)).body)
    except ApiRefused as refusal:
        if refusal.not_found:
            raise ExplainError(f"there is no node {node_name}; kubectl get nodes lists them") from None
        raise
    registry = Registry(lambda: 0.0, 0.0)
    _policies(api, registry)
    entries = registry.tables.policies.values()
    valid = {each.name: capped(each.policy, settings) for each in entries if each.policy is not None}
    selection = select(valid.values(), node.labels)
    others = {
        entry.name: _other(entry.policy, entry.error, selection, node.labels)
        for entry in entries
        if selection.policy is None or entry.name != selection.policy.name
    }
    state = _one(api, "nodememorystates", node_name)
    plan = _one(api, "nodememoryplans", node_name)
    view = None if state is None else decode_state(json.dumps(state).encode())
    pods = _pods(api, registry, node_name)
    lines: list[PodLine] = []
    if selection.policy is not None:
        protected = settings.protected
        planner = Planner(registry, settings.namespace, lambda _: 1.0, protected_namespaces=protected)
        lines = _judged(planner, selection.policy, node_name, pods, plan)
    return Explanation(
        node=node_name,
        policy=selection.policy.name if selection.policy else "",
        mode=selection.mode.value,
        selection=selection.message,
        other_policies=others,
        facts=_facts(node, selection, view, plan),
        pods=tuple(sorted(lines, key=lambda each: (_ORDER[each.may_be_stopped], each.namespace, each.name))),
    )


_ORDER = {YES: 0, SOON: 1, NO: 2}


def _policies(api: Api, registry: Registry) -> None:
    answer = api.get(own_path("memorypressurepolicies")).json()
    for item in answer["items"]:
        registry.put_policy({"apiVersion": answer["apiVersion"], "kind": "MemoryPressurePolicy", **item})


def _other(policy: Policy | None, error: str, selection: Selection, labels: Mapping[str, str]) -> str:
    if policy is None:
        return f"not carried out: {error}"
    if not policy.node_selector.matches(labels):
        return "its nodeSelector does not match the node"
    if policy.mode is Mode.DISABLED:
        return "its mode is Disabled"
    if policy.name in selection.tied:
        return f"tied at priority {policy.priority}; age, then name decide"
    return f"superseded: priority {policy.priority}"


def _one(api: Api, plural: str, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.get(own_path(plural, name)).json()
    except ApiRefused as refusal:
        if refusal.not_found:
            return None
        raise
    return found


def _pods(api: Api, registry: Registry, node: str) -> list[PodView]:
    """The node's pods; all pods of their namespaces, the namespaces and their budgets go into the registry."""
    here = [decode_pod(raw) for raw in listed(api, "/api/v1/pods", fieldSelector=f"spec.nodeName={node}")]
    namespaces = {pod.namespace for pod in here}
    for raw in listed(api, "/api/v1/namespaces"):
        name = json.loads(raw)["metadata"]["name"]
        if name in namespaces:
            with contextlib.suppress(*NOT_UNDERSTOOD):  # as one that is not known
                registry.put_namespace(name, decode_namespace(raw))
    for raw in listed(api, "/apis/policy/v1/poddisruptionbudgets"):
        meta = json.loads(raw)["metadata"]
        if meta["namespace"] in namespaces:
            registry.put_budget((meta["namespace"], meta["name"]), _budget(meta["namespace"], raw))
    for namespace in sorted(namespaces):
        for raw in listed(api, f"/api/v1/namespaces/{namespace}/pods"):
            pod = decode_pod(raw)
            registry.put_pod(pod.uid, pod)
    return here


def _budget(namespace: str, raw: bytes) -> DisruptionBudget:
    try:
        return decode_budget(raw)
    except NOT_UNDERSTOOD:
        return unknown_budget(namespace)


def _judged(
    planner: Planner, policy: Policy, node: str, pods: list[PodView], plan: dict[str, Any] | None
) -> list[PodLine]:
    result = build_plan(policy, node, pods, planner.around, planner.own)
    why = {each.uid: each for each in result.excluded}
    stored = {str(pod.get("uid")) for pod in ((plan or {}).get("spec") or {}).get("pods") or ()}
    lines = []
    for pod in pods:
        excluded = why.get(pod.uid)
        if excluded is not None:
            may, reason, message = NO, str(excluded.reason), excluded.message
            if pod.uid in stored:
                may, message = SOON, f"{message}; it is on the stored plan and leaves it with the next one"
        elif pod.uid in stored:
            may, reason, message = YES, "OnPlan", ""
        else:
            may = SOON
            reason, message = _waits(planner, policy, pod)
        lines.append(PodLine(pod.namespace, pod.name, pod.priority, str(pod.qos_class), may, reason, message))
    return lines


def _waits(planner: Planner, policy: Policy, pod: PodView) -> tuple[str, str]:
    """Why an eligible pod is not on the stored plan."""
    nodes = planner.registry.tables.workload_nodes.get(pod.workload, {})
    most = planner.allowance(policy, pod.workload)
    if len(nodes) > most:
        message = f"{pod.owner} has pods on {len(nodes)} nodes, maxVictimsPerWorkload allows candidates on {most}"
        return str(Reason.WORKLOAD_LIMIT), message
    return str(Reason.NOT_ON_PLAN), "it is eligible; the operator has not written the plan with it yet"


def _facts(
    node: NodeView, selection: Selection, state: StateView | None, plan: dict[str, Any] | None
) -> dict[str, str]:
    facts = {}
    if state is None:
        facts["state"] = "there is no NodeMemoryState; is the operator running?"
    else:
        facts |= _reported(state)
        if state.spec.get("mode") != selection.mode.value:
            facts["state"] = f"mode {state.spec.get('mode')}; the operator has not changed it yet"
    if plan is None:
        facts["plan"] = "none"
    else:
        spec = plan["spec"]
        made_of = (spec.get("policy") or {}).get("generation")
        facts["plan"] = f"generation {plan['metadata']['generation']}, {len(spec.get('pods') or ())} pods"
        facts["plan"] += f", of policy generation {made_of}" if made_of is not None else ", of no policy"
    ours = [f"{taint.key}:{taint.effect}" for taint in node.taints if taint.key == tainter.KEY]
    facts["taint"] = ours[0] if ours else "none"
    return facts


def _reported(state: StateView) -> dict[str, str]:
    status = state.status
    facts = {"reported": status.last_report_time or "never; is the agent running on the node?"}
    for kind in ("Ready", "UnderPressure", "ActionBlocked"):
        condition = status.condition(kind)
        if condition is not None:
            facts[kind] = f"{condition.status} {condition.reason}: {condition.message}".rstrip(": ")
    grant = state.spec.get("grant")
    if not isinstance(grant, Mapping):
        facts["grant"] = "none"
    elif status.lease is None or status.lease.incarnation != grant.get("incarnation"):
        facts["grant"] = "for a former journal of the node: worth nothing"
    else:
        left = int(grant.get("killsCeiling") or 0) - status.lease.kills_total
        facts["grant"] = f"kills left: {max(0, left)}; done by this journal: {status.lease.kills_total}"
    return facts


def text(found: Explanation) -> str:
    """The explanation for people: facts, then a table of all pods, those that may be stopped first."""
    lines = [f"node {found.node}: mode {found.mode}; {found.selection}"]
    width = max(map(len, [*found.facts, *found.other_policies]), default=0)
    lines += [f"  {name:<{width}}  {value}" for name, value in found.facts.items()]
    if found.other_policies:
        lines += ["other policies:", *(f"  {name:<{width}}  {why}" for name, why in found.other_policies.items())]
    if not found.policy:
        return "\n".join([*lines, "no policy is in force, so no pod may be stopped"])
    may = sum(pod.may_be_stopped == YES for pod in found.pods)
    lines.append(f"pods: {may} of {len(found.pods)} may be stopped")
    header = ("STOPPED?", "NAMESPACE", "POD", "PRIORITY", "QOS", "REASON", "WHY")
    rows = [header] + [
        (pod.may_be_stopped, pod.namespace, pod.name, str(pod.priority), pod.qos, pod.reason, pod.message)
        for pod in found.pods
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        lines.append("  " + "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)
