"""NodeMemoryState and NodeMemoryPlan as the operator reads them: the node's report, and its own earlier writes."""

import hashlib
import sys
from typing import Any

import msgspec

from memorypressure_operator.shared import Shared


class OwnerReference(msgspec.Struct, frozen=True):
    """One of metadata.ownerReferences."""

    kind: str = ""
    uid: str = ""


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    generation: int = 0
    resource_version: str = ""
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """One of status.conditions."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""


class ReportedLease(msgspec.Struct, frozen=True, rename="camel"):
    """status.lease: what a grant answers to."""

    incarnation: str
    beat: int
    kills_total: int
    ceiling_seen: int = 0


class ActiveTrigger(msgspec.Struct, frozen=True):
    """One of status.activeTriggers; `since` is the node's clock and only ever a name."""

    name: str
    since: str = ""


class Lowest(msgspec.Struct, frozen=True, rename="camel"):
    """The zone nearest its line, as display texts."""

    node: str | int = ""
    zone: str = ""
    line: str = ""
    usable_to_line: str = ""


class Zone(msgspec.Struct, frozen=True, rename="camel"):
    """One of status.zones, which are there while something is near a line."""

    name: str
    numa_node: int = 0
    free_bytes: int = 0
    min_bytes: int = 0


class Episode(msgspec.Struct, frozen=True):
    """One of status.recentEpisodes; `end` None while it lasts."""

    id: str = ""
    start: str = ""
    end: str | None = None


class PodReference(msgspec.Struct, frozen=True):
    """The pod of an action."""

    uid: str
    namespace: str
    name: str
    container: str | None = None


class ReportedAction(msgspec.Struct, frozen=True, rename="camel"):
    """One of status.recentActions."""

    id: str
    time: str
    action: str
    mode: str
    result: str
    reason: str = ""
    message: str = ""
    pod: PodReference | None = None
    freed_bytes: int | None = None


class TopPod(msgspec.Struct, frozen=True, rename="camel"):
    """One of status.topPods."""

    uid: str
    relief_bytes: int = 0
    over_request: bool = False


class StateStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The node's report. Fields that a node leaves out are empty."""

    observed_generation: int = 0
    lease: ReportedLease | None = None
    last_report_time: str = ""
    agent_version: str = ""
    capabilities: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    active_triggers: tuple[ActiveTrigger, ...] = ()
    lowest: Lowest | None = None
    zones: tuple[Zone, ...] = ()
    recent_episodes: tuple[Episode, ...] = ()
    recent_actions: tuple[ReportedAction, ...] = ()
    top_pods: tuple[TopPod, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, None if it was not reported."""
        return next((c for c in self.conditions if c.type == kind), None)


class StateModel(msgspec.Struct):
    """What is decoded of a NodeMemoryState."""

    metadata: _Meta
    spec: dict[str, Any]
    status: StateStatus | None = None


class StateView(msgspec.Struct, frozen=True):
    """A NodeMemoryState: our spec as it stands, and the node's status."""

    name: str
    uid: str
    generation: int
    resource_version: str
    owner_uid: str
    spec: dict[str, Any]
    status: StateStatus


_state_decoder = msgspec.json.Decoder(StateModel)


def decode_state(raw: bytes) -> StateView:
    """The view of a NodeMemoryState's JSON; raises msgspec.MsgspecError."""
    return state_view(_state_decoder.decode(raw))


def state_view(state: StateModel) -> StateView:
    """The view of a decoded NodeMemoryState."""
    meta = state.metadata
    return StateView(
        name=sys.intern(meta.name),
        uid=meta.uid,
        generation=meta.generation,
        resource_version=meta.resource_version,
        owner_uid=_node_owner(meta),
        spec=_interned(state.spec),
        status=_status(state.status) if state.status is not None else _NO_STATUS,
    )


_NO_STATUS = StateStatus()
_shared = Shared(10_000)


def _interned(spec: Any) -> Any:
    """The same with its texts kept once: UIDs of nodes and plans stand in several objects."""
    if isinstance(spec, str):
        return sys.intern(spec)
    if isinstance(spec, dict):
        return {key: _interned(value) for key, value in spec.items()}
    return spec


def _status(status: StateStatus) -> StateStatus:
    """The same with what most nodes say alike kept once."""
    conditions = tuple(
        msgspec.structs.replace(
            each, type=sys.intern(each.type), status=sys.intern(each.status), reason=sys.intern(each.reason)
        )
        for each in status.conditions
    )
    return msgspec.structs.replace(
        status,
        agent_version=sys.intern(status.agent_version),
        capabilities=_shared.keep(tuple(map(sys.intern, status.capabilities))),
        conditions=conditions,
        lowest=_shared.keep(status.lowest)
        if status.lowest is not None and not status.active_triggers
        else status.lowest,
    )


class PlanView(msgspec.Struct, frozen=True):
    """A NodeMemoryPlan, without its contents: the digest tells whether it is what it should be."""

    name: str
    uid: str
    generation: int
    owner_uid: str
    digest: str
    policy: str
    policy_generation: int
    candidates: int
    workloads: frozenset[str]


class PlanModel(msgspec.Struct):
    """What is decoded of a NodeMemoryPlan."""

    metadata: _Meta
    spec: dict[str, Any]


_plan_decoder = msgspec.json.Decoder(PlanModel)


def decode_plan(raw: bytes) -> PlanView:
    """The view of a NodeMemoryPlan's JSON; raises msgspec.MsgspecError."""
    return plan_view(_plan_decoder.decode(raw))


def plan_view(plan: PlanModel) -> PlanView:
    """The view of a decoded NodeMemoryPlan."""
    meta = plan.metadata
    pods = plan.spec.get("pods") or ()
    policy = plan.spec.get("policy") or {}
    return PlanView(
        name=sys.intern(meta.name),
        uid=sys.intern(meta.uid),
        generation=meta.generation,
        owner_uid=_node_owner(meta),
        digest=digest(plan.spec),
        policy=str(policy.get("name") or ""),
        policy_generation=int(policy.get("generation") or 0),
        candidates=len(pods),
        workloads=frozenset(
            sys.intern(f"{pod.get('namespace')}/{pod.get('workload')}") for pod in pods if pod.get("workload")
        ),
    )


def digest(spec: Any) -> str:
    """The same for equal JSON, whatever the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:32]


def _node_owner(meta: _Meta) -> str:
    return next((sys.intern(o.uid) for o in meta.owner_references if o.kind == "Node"), "")
