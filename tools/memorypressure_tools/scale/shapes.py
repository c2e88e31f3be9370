"""The objects of the simulated cluster: what one of each kind looks like, and how the others differ from it.

Nodes and pods are stored as protobuf, so their copies are made on the bytes with replacements of the same length; our
own kinds are stored as JSON and can differ in anything.
"""

import uuid
from dataclasses import dataclass
from typing import Any, Final

Object = dict[str, Any]

GROUP: Final = "/apis/memorypressure.dev/v1alpha1"
POLICY: Final = "default"
NAMESPACES: Final = 50
GROUP_NODES: Final = 22
"""A workload's pods are spread over so many nodes, one on each: 22 nodes share 22 workloads."""
BORN_SECONDS: Final = 1_790_000_000
HASH: Final = "7d9f8b6c5d"

NODE_TEMPLATE: Final = "node-99999"
APP_TEMPLATE: Final = "app-99999"
NAMESPACE_TEMPLATE: Final = "team-99"


def identity(text: str) -> str:
    """A UID that follows from the text: every run has the same cluster."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, text))


def node_name(number: int) -> str:
    """Names have one length, so that copies keep theirs."""
    return f"node-{number:05d}"


@dataclass(frozen=True, slots=True)
class PodShape:
    """One pod of the cluster: where it runs and whose it is."""

    node: int
    slot: int

    @property
    def workload(self) -> int:
        """Number of the workload: those of one group of nodes are spread over it."""
        return self.node // GROUP_NODES * GROUP_NODES + self.slot % GROUP_NODES

    @property
    def app(self) -> str:
        """Name of the workload."""
        return f"app-{self.workload:05d}"

    @property
    def namespace(self) -> str:
        """A workload lives in one namespace."""
        return f"team-{self.workload % NAMESPACES:02d}"

    @property
    def name(self) -> str:
        """As a ReplicaSet names its pods: owner, template hash, a suffix."""
        return f"{self.app}-{HASH}-{self.node:05d}"

    @property
    def uid(self) -> str:
        """UID of the pod."""
        return identity(f"pod {self.node} {self.slot}")

    @property
    def born_seconds(self) -> int:
        """Creation time, seconds since 1970; pods of one cluster are not born in one second."""
        return BORN_SECONDS + (self.node * 131 + self.slot * 7) % 1_000_000


def node_body(name: str) -> Object:
    """A Node about as large as real ones: labels, conditions, 20 images."""
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": f"Kubelet{kind}",
            "message": f"kubelet is posting {kind}",
            "lastHeartbeatTime": "2026-11-23T16:00:00Z",
            "lastTransitionTime": "2026-11-23T16:00:00Z",
        }
        for kind, status in (
            ("Ready", "True"),
            ("MemoryPressure", "False"),
            ("DiskPressure", "False"),
            ("PIDPressure", "False"),
        )
    ]
    size = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    images = [{"names": [f"registry.example.com/image-{i}@sha256:" + "0" * 64], "sizeBytes": 123456} for i in range(20)]
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": "eu-1a",
        "node.kubernetes.io/instance-type": "m8.4xlarge",
        "pool": "general",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"volumes.kubernetes.io/attach-detach": "true"}},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"capacity": size, "allocatable": size, "conditions": conditions, "images": images},
    }


def pod_body(namespace: str, app: str, node: str) -> Object:
    """A pod of a Deployment: two containers, some 7 KB as stored, 10 KB as JSON."""

    def container(name: str) -> Object:
        return {
            "name": name,
            "image": f"registry.example.com/payments/{name}:1.2.3",
            "ports": [{"containerPort": 8080}],
            "env": [{"name": f"SETTING_{i}", "value": f"value number {i}"} for i in range(8)],
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}],
        }

    labels = {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/instance": "prod",
        "pod-template-hash": HASH,
        "team": namespace,
    }
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"{app}-{HASH}",
        "uid": identity(app),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    annotations = {"checksum/config": "a" * 64, "prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{app}-{HASH}-99999",
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {
            "nodeName": node,
            "containers": [container("checkout"), container("proxy")],
            "volumes": [{"name": "config", "configMap": {"name": "checkout"}}],
        },
    }


def pod_status() -> Object:
    """What a kubelet reports of it."""
    start = "2026-11-23T15:00:00Z"
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled", "PodReadyToStartContainers")
    containers = [
        {
            "name": name,
            "image": f"registry.example.com/payments/{name}:1.2.3",
            "imageID": f"registry.example.com/payments/{name}@sha256:" + "1" * 64,
            "containerID": "containerd://" + "2" * 64,
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": start}},
        }
        for name in ("checkout", "proxy")
    ]
    return {
        "phase": "Running",
        "startTime": start,
        "hostIP": "10.1.2.3",
        "podIP": "10.2.3.4",
        "podIPs": [{"ip": "10.2.3.4"}],
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": start} for kind in kinds],
        "containerStatuses": containers,
    }


def report(beat: int, kills_ceiling: int, node: str, *, pressed: bool, moved: int) -> Object:
    """A node's status as its reporter patches it. `moved`: figures that differ from report to report."""
    since = "2026-11-23T16:00:00Z"
    zones = (
        [
            {
                "numaNode": 0,
                "name": "Normal",
                "managedBytes": 64 << 30,
                "freeBytes": (30 << 20) + 4096 * moved,
                "minBytes": 66 << 20,
                "lowBytes": 82 << 20,
                "reserveBytes": 33 << 20,
            }
        ]
        if pressed
        else []
    )
    return {
        "observedGeneration": 1,
        "lastReportTime": f"2026-11-23T16:{moved // 60 % 60:02d}:{moved % 60:02d}Z",
        "agentVersion": "0.1.0",
        "capabilities": ["CgroupKill", "MemoryLocked", "PSI"],
        "lease": {
            "incarnation": identity(f"journal {node}").replace("-", "") + "." + identity(node).replace("-", ""),
            "beat": beat,
            "killsTotal": 0,
            "ceilingSeen": kills_ceiling,
        },
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Reconciled", "message": "", "lastTransitionTime": since},
            {
                "type": "UnderPressure",
                "status": "True" if pressed else "False",
                "reason": "AtomicReserveBreached" if pressed else "NoPressure",
                "message": f"reserve: {moved % 90}% of AtomicReserve" if pressed else "",
                "lastTransitionTime": since,
            },
        ],
        "activeTriggers": [{"name": "reserve", "since": since}] if pressed else [],
        "lowest": {
            "node": "0",
            "zone": "0/Normal",
            "line": "AtomicReserve",
            "usableToLine": f"{moved % 90 if pressed else 200 + moved % 300}%",
        },
        "zones": zones,
    }
