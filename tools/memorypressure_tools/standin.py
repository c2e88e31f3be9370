"""A small stand-in for the kubelets of nodes that have none: it renews their Leases and ends their deleted pods.

For the demo and for tests on a control plane without machines. It starts nothing: a pod bound to one of its nodes is
reported as running, and one that was deleted is gone after its grace period, but after `longest_grace_seconds` at most.
"""

import datetime as dt
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from memorypressure_tools.apiclient import MERGE_PATCH, STRATEGIC_PATCH, ApiClient

LEASE_SECONDS: Final = 40
ROUND_SECONDS: Final = 0.5
LEASE_ROUND_SECONDS: Final = 10.0

Object = dict[str, Any]


def _now(micro: bool = False) -> str:
    now = dt.datetime.now(dt.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


class KubeletStandIn:
    """Keeps the Leases of `nodes` fresh and their pods' status moving while it runs; use it as a `with` block."""

    def __init__(self, client: ApiClient, nodes: Sequence[str], *, longest_grace_seconds: float = 3.0) -> None:
        self._client = client
        self._nodes = tuple(nodes)
        self._longest_grace_seconds = longest_grace_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet-stand-in", daemon=True)
        self._first_seen: dict[str, float] = {}
        self.errors: list[str] = []

    def register(self, name: str, labels: Mapping[str, str] | None = None, memory: str = "512Mi") -> Object:
        """A Node object, created if it is not there; the controller manager's not-ready taint goes with Ready."""
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})},
            },
        }
        answer = self._client.request("POST", "/api/v1/nodes", node)
        if answer.status not in (201, 409):
            raise RuntimeError(f"node {name}: HTTP {answer.status}: {answer.body}")
        self._ready(name, memory)
        self._renew(name)
        found: Object = self._client.must("GET", f"/api/v1/nodes/{name}")
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        renewed_at = float("-inf")
        while not self._stopping.wait(ROUND_SECONDS):
            try:
                if time.monotonic() - renewed_at >= LEASE_ROUND_SECONDS:
                    for name in self._nodes:
                        self._renew(name)
                    renewed_at = time.monotonic()
                for name in self._nodes:
                    self._tend_pods(name)
            except Exception as error:  # noqa: BLE001 -- the API server may be away for a while; the next round tries again
                self.errors.append(f"{type(error).__name__}: {error}")

    def _ready(self, name: str, memory: str) -> None:
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "StandIn",
            "message": "kept ready by a stand-in; no kubelet runs here",
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": _now(),
        }
        size = {"memory": memory, "cpu": "2", "pods": "110"}
        body = {"status": {"conditions": [condition], "capacity": size, "allocatable": size}}
        self._client.must("PATCH", f"/api/v1/nodes/{name}/status", body, STRATEGIC_PATCH)

    def _renew(self, name: str) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": _now(micro=True)}
        if self._client.request("PATCH", f"{path}/{name}", {"spec": spec}, MERGE_PATCH).status == 404:
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
            self._client.must("POST", path, lease)

    def _tend_pods(self, node: str) -> None:
        pods: Object = self._client.must("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}&resourceVersion=0")
        for pod in pods["items"]:
            meta, status = pod["metadata"], pod.get("status", {})
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            if "deletionTimestamp" in meta:
                seen = self._first_seen.setdefault(meta["uid"], time.monotonic())
                grace_seconds = min(float(meta.get("deletionGracePeriodSeconds") or 0), self._longest_grace_seconds)
                if time.monotonic() - seen >= grace_seconds:
                    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
                    self._client.request("DELETE", path, options)
            elif status.get("phase") == "Pending":
                self._client.request("PATCH", f"{path}/status", {"status": _running(pod)}, STRATEGIC_PATCH)


def _running(pod: Object) -> Object:
    now = _now()
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "started": True,
            "state": {"running": {"startedAt": now}},
        }
        for container in pod["spec"]["containers"]
    ]
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("Initialized", "ContainersReady", "Ready")
    ]
    return {"phase": "Running", "startTime": now, "conditions": conditions, "containerStatuses": containers}
