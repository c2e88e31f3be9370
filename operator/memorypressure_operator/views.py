"""The few fields that the operator keeps of other people's objects, and how they are read from the raw JSON.

What is not listed here is skipped by the decoder without being built. Label and owner texts repeat from pod to pod, so
they are interned: 110,000 pods are some 100 MiB.
"""

import logging
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from memorypressure.protections import PROTECTED_KEY, DisruptionBudget
from memorypressure.quantity import parse_quantity
from memorypressure.spec import LabelSelector, SpecError, selector_from

log = logging.getLogger(__name__)

_MIRROR = "kubernetes.io/config.mirror"
_TEMPLATE_HASH = "pod-template-hash"

_labels: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
_LABELS_KEPT = 50_000


def _interned(labels: Mapping[str, str] | None) -> dict[str, str]:
    """One shared dict for equal labels; pods of a workload differ in nothing here. Never change what it returns."""
    if not labels:
        return {}
    key = tuple(sorted((sys.intern(k), sys.intern(v)) for k, v in labels.items()))
    if len(_labels) > _LABELS_KEPT:
        _labels.clear()
    return _labels.setdefault(key, dict(key))


def unix_seconds(text: str | None) -> float | None:
    """An API time stamp as seconds since 1970; None where there is none. Raises ValueError for anything else."""
    return None if not text else datetime.fromisoformat(text).timestamp()


# --- pods -----------------------------------------------------------------------------------------------------------


class PodView(msgspec.Struct, frozen=True, gc=False):
    """A pod, as far as it matters for being a victim."""

    uid: str
    namespace: str
    name: str
    node: str
    phase: str
    qos_class: str
    priority: int
    request_bytes: int
    create_time: str  # as the API writes it
    labels: dict[str, str]
    owner: str  # "Kind/name" of the controlling owner; "" without one
    static: bool
    daemon_set: bool
    local_storage: bool
    annotated: bool  # the pod's own opt-out
    terminating: bool
    grace_period_seconds: int | None

    @property
    def workload(self) -> str:
        """What limits per workload count by: namespace/Kind/name; a pod without an owner is its own workload."""
        return f"{self.namespace}/{self.owner or 'Pod/' + self.name}"

    @property
    def finished(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def counts(self) -> bool:
        """Whether it is one of its workload's pods: it runs or is about to."""
        return not self.finished and not self.terminating


class _Owner(msgspec.Struct):
    kind: str = ""
    name: str = ""
    controller: bool = False


class _Resources(msgspec.Struct):
    requests: dict[str, str] | None = None


class _Container(msgspec.Struct, rename="camel"):
    resources: _Resources | None = None
    restart_policy: str | None = None


class _EmptyDir(msgspec.Struct):
    medium: str | None = None


class _Volume(msgspec.Struct, rename="camel"):
    empty_dir: _EmptyDir | None = None
    host_path: dict[str, Any] | None = None  # not msgspec.Raw: a union with None refuses objects


class _PodMeta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str
    uid: str
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    priority: int | None = None
    volumes: list[_Volume] | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    overhead: dict[str, str] | None = None
    resources: _Resources | None = None


class _PodStatus(msgspec.Struct, rename="camel"):
    phase: str | None = None
    qos_class: str | None = None


class _Pod(msgspec.Struct):
    metadata: _PodMeta
    spec: _PodSpec
    status: _PodStatus | None = None


_pod_decoder = msgspec.json.Decoder(_Pod)


def decode_pod(raw: bytes) -> PodView:
    """The view of a pod's JSON; raises msgspec.MsgspecError or ValueError."""
    pod = _pod_decoder.decode(raw)
    meta, spec, status = pod.metadata, pod.spec, pod.status or _PodStatus()
    owner = next((o for o in meta.owner_references or () if o.controller), None)
    annotations = meta.annotations or {}
    volumes = spec.volumes or ()
    return PodView(
        uid=meta.uid,
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        node=sys.intern(spec.node_name or ""),
        phase=sys.intern(status.phase or ""),
        qos_class=sys.intern(status.qos_class or ""),
        priority=spec.priority or 0,
        request_bytes=_request_bytes(spec),
        create_time=meta.creation_timestamp or "",
        labels=_interned(meta.labels),
        owner=sys.intern(_workload(owner, meta.labels or {})) if owner else "",
        static=_MIRROR in annotations or (owner is not None and owner.kind == "Node"),
        daemon_set=owner is not None and owner.kind == "DaemonSet",
        # As the cluster autoscaler's drain rules: hostPath, and emptyDir unless it is memory, which is lost anyway.
        local_storage=any(
            v.host_path is not None or (v.empty_dir is not None and v.empty_dir.medium != "Memory") for v in volumes
        ),
        annotated=annotations.get(PROTECTED_KEY) == "true",
        terminating=meta.deletion_timestamp is not None,
        grace_period_seconds=meta.deletion_grace_period_seconds,
    )


def _workload(owner: _Owner, labels: Mapping[str, str]) -> str:
    """Kind/name; a ReplicaSet of a Deployment (its name ends with the template's hash) counts as the Deployment."""
    suffix = "-" + labels.get(_TEMPLATE_HASH, "")
    if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
        return "Deployment/" + owner.name.removesuffix(suffix)
    return f"{owner.kind}/{owner.name}"


def _request_bytes(spec: _PodSpec) -> int:
    """The pod's memory request as the kubelet counts it (KEP-753 for sidecars, KEP-2837 for pod-level requests)."""

    def memory(resources: _Resources | None) -> int | None:
        text = (resources.requests or {}).get("memory") if resources else None
        return None if text is None else parse_quantity(text)

    overhead = parse_quantity((spec.overhead or {}).get("memory", "0"))
    whole = memory(spec.resources)
    if whole is not None:
        return whole + overhead
    running = sum(memory(c.resources) or 0 for c in spec.containers or ())
    sidecars, starting = 0, 0
    for container in spec.init_containers or ():
        request = memory(container.resources) or 0
        if container.restart_policy == "Always":
            sidecars += request
            starting = max(starting, sidecars)
        else:
            starting = max(starting, sidecars + request)
    return max(running + sidecars, starting) + overhead


# --- nodes ----------------------------------------------------------------------------------------------------------


class Taint(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A node's taint, with everything the API has: a JSON patch tests the whole list."""

    key: str
    effect: str
    value: str | None = None
    time_added: str | None = None


class NodeView(msgspec.Struct, frozen=True):
    """A node."""

    name: str
    uid: str
    labels: dict[str, str]
    taints: tuple[Taint, ...]
    ready: bool


class _NodeMeta(msgspec.Struct):
    name: str
    uid: str
    labels: dict[str, str] | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str


class _NodeSpec(msgspec.Struct):
    taints: list[Taint] | None = None


class _NodeStatus(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct):
    metadata: _NodeMeta
    spec: _NodeSpec
    status: _NodeStatus | None = None


_node_decoder = msgspec.json.Decoder(_Node)


def decode_node(raw: bytes) -> NodeView:
    """The view of a node's JSON; raises msgspec.MsgspecError. `ready` is false only where the node says so."""
    node = _node_decoder.decode(raw)
    conditions = (node.status.conditions if node.status else None) or ()
    return NodeView(
        name=node.metadata.name,
        uid=node.metadata.uid,
        labels=_interned(node.metadata.labels),
        taints=tuple(node.spec.taints or ()),
        ready=all(c.status == "True" for c in conditions if c.type == "Ready"),
    )


# --- namespaces and budgets -----------------------------------------------------------------------------------------


class _NamespaceMeta(msgspec.Struct):
    name: str
    labels: dict[str, str] | None = None


class _Namespace(msgspec.Struct):
    metadata: _NamespaceMeta


_namespace_decoder = msgspec.json.Decoder(_Namespace)


def decode_namespace(raw: bytes) -> dict[str, str]:
    """The labels of a namespace's JSON; raises msgspec.MsgspecError."""
    return _interned(_namespace_decoder.decode(raw).metadata.labels)


class _BudgetMeta(msgspec.Struct):
    name: str
    namespace: str
    generation: int = 0


class _BudgetSpec(msgspec.Struct):
    selector: Any = None


class _BudgetStatus(msgspec.Struct, rename="camel"):
    disruptions_allowed: int = 0
    observed_generation: int = 0


class _Budget(msgspec.Struct):
    metadata: _BudgetMeta
    spec: _BudgetSpec
    status: _BudgetStatus | None = None


_budget_decoder = msgspec.json.Decoder(_Budget)


def decode_budget(raw: bytes) -> DisruptionBudget:
    """The core's value for a PodDisruptionBudget's JSON; raises msgspec.MsgspecError.

    A budget whose selector is not understood covers its whole namespace.
    """
    budget = _budget_decoder.decode(raw)
    meta, status = budget.metadata, budget.status or _BudgetStatus()
    selector: LabelSelector | None = None
    if budget.spec.selector is not None:
        try:
            selector = selector_from(budget.spec.selector, "spec.selector")
        except SpecError as error:
            log.warning("PodDisruptionBudget %s/%s covers the namespace: %s", meta.namespace, meta.name, error)
            selector = LabelSelector()
    return DisruptionBudget(
        namespace=meta.namespace,
        selector=selector,
        disruptions_allowed=status.disruptions_allowed,
        current=status.observed_generation >= meta.generation,
    )
