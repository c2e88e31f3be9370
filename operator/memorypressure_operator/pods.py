"""Pods as the operator keeps them: what matters for being a victim, read from the raw JSON.

What is not listed here is skipped by the decoder without being built. Label and owner texts repeat from pod to pod, so
they are kept once.
"""

import hashlib
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from memorypressure.protections import PROTECTED_KEY
from memorypressure.quantity import parse_quantity
from memorypressure_operator.shared import Shared, label_words, labels_of

_MIRROR = "kubernetes.io/config.mirror"
_TEMPLATE_HASH = "pod-template-hash"

MOST_OWNER_BYTES = 317
MOST_REQUEST_BYTES = (1 << 53) - 1
"""What a NodeMemoryPlan holds of a pod (crds/). The API server bounds neither owners' names nor the sum of requests."""

_traits = Shared(40_000)


def unix_seconds(text: str | None) -> float | None:
    """An API time stamp as seconds since 1970; None where there is none. Raises ValueError for anything else."""
    return None if not text else datetime.fromisoformat(text).timestamp()


class PodTraits(msgspec.Struct, frozen=True, gc=False):
    """What the pods of a workload have in common: kept once for all of them."""

    namespace: str
    phase: str
    qos_class: str
    priority: int
    request_bytes: int
    owner: str  # "Kind/name" of the controlling owner, see `_owner_text`; "" without one
    static: bool
    daemon_set: bool
    local_storage: bool
    annotated: bool  # the pod's own opt-out
    label_words: tuple[str, ...]  # key, value, key, value, ...


class PodView(msgspec.Struct, frozen=True, gc=False):
    """A pod, as far as it matters for being a victim; 110,000 of them are some 45 MiB."""

    uid: str
    name: str
    node: str
    created: float  # seconds since 1970, nan where the API server says nothing that is understood
    terminating: bool
    grace_period_seconds: int | None
    traits: PodTraits

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.traits.namespace

    @property
    def phase(self) -> str:
        """Phase of its status."""
        return self.traits.phase

    @property
    def qos_class(self) -> str:
        """QoS class of its status."""
        return self.traits.qos_class

    @property
    def priority(self) -> int:
        """Its priority, 0 where it has none."""
        return self.traits.priority

    @property
    def request_bytes(self) -> int:
        """Memory requested by all of its containers."""
        return self.traits.request_bytes

    @property
    def owner(self) -> str:
        """Kind/name of the controlling owner, "" without one."""
        return self.traits.owner

    @property
    def static(self) -> bool:
        """Whether the kubelet made it from a file."""
        return self.traits.static

    @property
    def daemon_set(self) -> bool:
        """Whether a DaemonSet owns it."""
        return self.traits.daemon_set

    @property
    def local_storage(self) -> bool:
        """Whether data of it would be lost."""
        return self.traits.local_storage

    @property
    def annotated(self) -> bool:
        """The pod's own opt-out."""
        return self.traits.annotated

    @property
    def labels(self) -> dict[str, str]:
        """Its labels; shared, never to be changed."""
        return labels_of(self.traits.label_words)

    @property
    def create_time(self) -> str:
        """Its creation, as the API writes it; "" where that is not known."""
        if math.isnan(self.created):
            return ""
        return datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

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
    resource_version: str = ""
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


class PodModel(msgspec.Struct):
    """What is decoded of a pod."""

    metadata: _PodMeta
    spec: _PodSpec
    status: _PodStatus | None = None


_pod_decoder = msgspec.json.Decoder(PodModel)


def decode_pod(raw: bytes) -> PodView:
    """The view of a pod's JSON; raises msgspec.MsgspecError or ValueError."""
    return pod_view(_pod_decoder.decode(raw))


def pod_view(pod: PodModel) -> PodView:
    """The view of a decoded pod; raises ValueError for a quantity that is none."""
    meta, spec, status = pod.metadata, pod.spec, pod.status or _PodStatus()
    owner = next((o for o in meta.owner_references or () if o.controller), None)
    annotations = meta.annotations or {}
    volumes = spec.volumes or ()
    traits = PodTraits(
        namespace=sys.intern(meta.namespace),
        phase=sys.intern(status.phase or ""),
        qos_class=sys.intern(status.qos_class or ""),
        priority=spec.priority or 0,
        request_bytes=_request_bytes(spec),
        owner=sys.intern(_workload(owner, meta.labels or {})) if owner else "",
        static=_MIRROR in annotations or (owner is not None and owner.kind == "Node"),
        daemon_set=owner is not None and owner.kind == "DaemonSet",
        # As the cluster autoscaler's drain rules: hostPath, and emptyDir unless it is memory, which is lost anyway.
        local_storage=any(
            v.host_path is not None or (v.empty_dir is not None and v.empty_dir.medium != "Memory") for v in volumes
        ),
        annotated=annotations.get(PROTECTED_KEY) == "true",
        label_words=label_words(meta.labels),
    )
    return PodView(
        uid=meta.uid,
        name=meta.name,
        node=sys.intern(spec.node_name or ""),
        created=_created(meta.creation_timestamp),
        terminating=meta.deletion_timestamp is not None,
        grace_period_seconds=meta.deletion_grace_period_seconds,
        traits=_traits.keep(traits),
    )


def _created(text: str | None) -> float:
    try:
        found = unix_seconds(text)
    except ValueError:
        found = None
    return math.nan if found is None else found


def _workload(owner: _Owner, labels: Mapping[str, str]) -> str:
    """Kind/name; a ReplicaSet of a Deployment (its name ends with the template's hash) counts as the Deployment."""
    suffix = "-" + labels.get(_TEMPLATE_HASH, "")
    if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
        return _owner_text("Deployment", owner.name.removesuffix(suffix))
    return _owner_text(owner.kind, owner.name)


def _owner_text(kind: str, name: str) -> str:
    """Kind/name; what is too long for a plan ends in a digest of it, so that it still names one owner."""
    whole = f"{kind}/{name}".encode()
    if len(whole) <= MOST_OWNER_BYTES:
        return whole.decode()
    digest = hashlib.sha256(whole).hexdigest()[:32]
    return f"{whole[: MOST_OWNER_BYTES - len(digest) - 1].decode(errors='ignore')}~{digest}"


def _request_bytes(spec: _PodSpec) -> int:
    """The pod's memory request as the kubelet counts it (KEP-753 for sidecars, KEP-2837 for pod-level requests).

    At most what a plan holds.
    """

    def memory(resources: _Resources | None) -> int | None:
        text = (resources.requests or {}).get("memory") if resources else None
        return None if text is None else parse_quantity(text)

    overhead = parse_quantity((spec.overhead or {}).get("memory", "0"))
    whole = memory(spec.resources)
    if whole is not None:
        return min(whole + overhead, MOST_REQUEST_BYTES)
    running = sum(memory(c.resources) or 0 for c in spec.containers or ())
    sidecars, starting = 0, 0
    for container in spec.init_containers or ():
        request = memory(container.resources) or 0
        if container.restart_policy == "Always":
            sidecars += request
            starting = max(starting, sidecars)
        else:
            starting = max(starting, sidecars + request)
    return min(max(running + sidecars, starting) + overhead, MOST_REQUEST_BYTES)
