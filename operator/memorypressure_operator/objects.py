"""The writes of the two per-node kinds: plans, states and the grants in these, each on condition.

Both kinds carry an owner reference to the Node's UID, so that they go with it. A patch names what it expects to
replace; if somebody wrote meanwhile nothing is applied and the next pass looks again.
"""

from typing import Any

import msgspec

from memorypressure.grants import Grant
from memorypressure.orders import grant_json
from memorypressure_operator.api import GROUP, JSON_PATCH, MERGE_PATCH, Api, own_path
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.reports import PlanView, StateView, decode_plan, decode_state
from memorypressure_operator.views import NodeView

API_VERSION = f"{GROUP}/v1alpha1"


def owner(node: NodeView) -> list[dict[str, str]]:
    """metadata.ownerReferences of an object of this node."""
    return [{"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}]


def write_plan(api: Api, node: NodeView, before: PlanView | None, spec: dict[str, Any]) -> PlanView | None:
    """The plan as stored; None if somebody else changed it meanwhile. Raises ApiUnreachable, ApiRefused."""
    try:
        if before is None:
            body = {
                "apiVersion": API_VERSION,
                "kind": "NodeMemoryPlan",
                "metadata": {"name": node.name, "ownerReferences": owner(node)},
                "spec": spec,
            }
            return _plan(api.request("POST", own_path("nodememoryplans"), body=body).body)
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": before.uid},
            {"op": "test", "path": "/metadata/generation", "value": before.generation},
            {"op": "add", "path": "/metadata/ownerReferences", "value": owner(node)},
            {"op": "replace", "path": "/spec", "value": spec},
        ]
        path = own_path("nodememoryplans", node.name)
        return _plan(api.request("PATCH", path, body=operations, content_type=JSON_PATCH).body)
    except ApiRefused as refusal:
        if refusal.conflict or refusal.not_found or refusal.test_failed:
            return None
        raise


def state_spec(node: str, mode: str, policy: str, plan: PlanView | None) -> dict[str, Any]:
    """Spec of a NodeMemoryState without the grant; None stands for "not there"."""
    reference = {"uid": plan.uid, "generation": plan.generation} if plan is not None else None
    return {"nodeName": node, "mode": mode, "policyName": policy or None, "plan": reference}


def write_state(api: Api, node: NodeView, before: StateView | None, spec: dict[str, Any]) -> StateView | None:
    """The state as stored, its grant untouched; None if somebody wrote it meanwhile. Raises as `Api.request`."""
    try:
        if before is None:
            body = {
                "apiVersion": API_VERSION,
                "kind": "NodeMemoryState",
                "metadata": {"name": node.name, "ownerReferences": owner(node)},
                "spec": {key: value for key, value in spec.items() if value is not None},
            }
            return _state(api.request("POST", own_path("nodememorystates"), body=body).body)
        metadata = {"resourceVersion": before.resource_version, "ownerReferences": owner(node)}
        path = own_path("nodememorystates", node.name)
        answer = api.request("PATCH", path, body={"metadata": metadata, "spec": spec}, content_type=MERGE_PATCH)
        return _state(answer.body)
    except ApiRefused as refusal:
        if refusal.conflict or refusal.not_found:
            return None
        raise


def write_grant(api: Api, state: StateView, grant: Grant | None) -> StateView:
    """The state with the grant (None: without one), if nobody wrote it meanwhile. Raises as `Api.request`."""
    value = None if grant is None else grant_json(grant)
    body = {"metadata": {"resourceVersion": state.resource_version}, "spec": {"grant": value}}
    path = own_path("nodememorystates", state.name)
    return _state(api.request("PATCH", path, body=body, content_type=MERGE_PATCH).body)


def _plan(body: bytes) -> PlanView:
    try:
        return decode_plan(body)
    except msgspec.MsgspecError as error:
        raise ApiUnreachable(f"the API server's answer is no NodeMemoryPlan: {error}") from None


def _state(body: bytes) -> StateView:
    try:
        return decode_state(body)
    except msgspec.MsgspecError as error:
        raise ApiUnreachable(f"the API server's answer is no NodeMemoryState: {error}") from None
