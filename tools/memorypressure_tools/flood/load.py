"""The pods of a flood as objects: hog, reader, receiver, bystander, budget. They wait for a file of the node."""

from collections.abc import Mapping
from typing import Any, Final

from memorypressure_tools.cluster.loadimage import LOAD

NAMESPACE: Final = "load"
NODE: Final = "node-1"
"""The node that is flooded."""
GATE_DIRECTORY: Final = "/run/go"
START_FILE: Final = f"{GATE_DIRECTORY}/start"
"""The load of a node begins when this is there; cluster/files/gate.sh tells the pods."""
NODE_ADDRESS: Final = "10.0.2.15"
GATE_PORT: Final = 4242
FIRST_PORT: Final = 20000
PORTS: Final = 16
RECEIVE_KIB: Final = 3072
"""Of each socket; the kernel doubles it. All of them hold about 96 MB: a burst that reclaim can still give."""

Object = dict[str, Any]


def pod_spec(  # noqa: PLR0913 -- a pod has many parts
    command: str,
    *,
    node: str,
    requests: Mapping[str, str],
    limits: Mapping[str, str] | None = None,
    host_network: bool = False,
    capabilities: tuple[str, ...] = (),
    priority_class: str = "",
    restart: str = "Always",
    waits: bool = True,
    reads_data: bool = False,
) -> Object:
    """A pod's spec whose one container runs the command when the node's start file is there.

    It asks the node over TCP: a pod with a hostPath would be protected, as one with local storage.
    """
    ask = f'until [ "$(nc -w 1 {NODE_ADDRESS} {GATE_PORT} < /dev/null 2>/dev/null)" = go ]; do sleep 0.2; done'
    script = f"{ask}; exec {command}" if waits else f"exec {command}"
    container: Object = {
        "name": "main",
        "image": LOAD,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "resources": {"requests": dict(requests), **({"limits": dict(limits)} if limits else {})},
    }
    if reads_data:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data", "readOnly": True}]
    data = {"name": "data", "hostPath": {"path": "/data", "type": "Directory"}}
    if capabilities:
        container["securityContext"] = {"capabilities": {"add": list(capabilities)}}
    return {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "restartPolicy": restart,
        "hostNetwork": host_network,
        **({"priorityClassName": priority_class} if priority_class else {}),
        "containers": [container],
        **({"volumes": [data]} if reads_data else {}),
    }


def hog_spec(node: str, mebibytes: int, *, request: str = "400Mi") -> Object:
    """Anonymous memory with random writes. Its request decides its share of the swap, so it has to have one."""
    return pod_spec(f"hog {mebibytes}", node=node, requests={"memory": request, "cpu": "10m"})


def stream_spec(node: str) -> Object:
    """Endless sequential reads: clean page cache, which reclaim gives back and the reader takes again."""
    requests = {"memory": "10Mi", "cpu": "10m"}
    return pod_spec("stream /data/data 300", node=node, requests=requests, reads_data=True)


def sink_spec(node: str) -> Object:
    """The slow receiver of the flood, in the node's network, critical for the node."""
    command = f"sink {PORTS} {FIRST_PORT} {RECEIVE_KIB} 1500 400 100000"
    return pod_spec(
        command,
        node=node,
        requests={"memory": "20Mi", "cpu": "10m"},
        host_network=True,
        capabilities=("NET_ADMIN", "IPC_LOCK"),
        priority_class="system-node-critical",
    )


def idle_spec(node: str, *, memory: str = "10Mi") -> Object:
    """A bystander that does nothing."""
    return pod_spec("sleep 1000000", node=node, requests={"memory": memory, "cpu": "5m"}, waits=False)


def deployment(name: str, spec: Object, *, replicas: int = 1, namespace: str = NAMESPACE) -> Object:
    """A Deployment of that pod, with label app=NAME; `Recreate`, so that a change does not need the memory twice."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def budget(name: str, *, namespace: str = NAMESPACE) -> Object:
    """A PodDisruptionBudget that allows no disruption of the pods with label app=NAME."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}},
    }


def policy(name: str = "flood", *, mode: str = "Enforce", **changes: Any) -> Object:
    """A policy for floods of `NODE`: the default's trigger that matters here; the hog, a single replica, is fair game.

    It is for that node alone: one allowance is all that may stand, and of two nodes the idle one might have it.
    `changes` replace fields of the spec whole.
    """
    spec: Object = {
        "mode": mode,
        "priority": 100,
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
        "triggers": [
            {
                "name": "reserve",
                "type": "ZoneWatermark",
                "zoneWatermark": {
                    "line": "AtomicReserve",
                    "nodes": "AnyNode",
                    "marginPercent": 50,
                    "belowMilliseconds": 15,
                    "withinMilliseconds": 50,
                    "takenBy": "Buffers",
                },
            },
        ],
        "ladder": [
            {"action": "Taint", "triggers": ["reserve"], "taint": {"effect": "NoSchedule", "holdSeconds": 30}},
            {"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0, "kill": {"unit": "Pod"}},
        ],
        "victims": {
            "order": ["OverRequest", "Priority", "Relief"],
            "minRelief": "64Mi",
            "minAgeSeconds": 0,
            "unprotected": ["SingletonWorkloads"],
        },
        # Floods that follow each other within two minutes are one episode: make e2e RUNS=20.
        "limits": {
            "cooldownSeconds": 30,
            "grantSeconds": 180,
            "maxStandingKills": 1,
            "killsPerHour": 100,
            "maxVictimsPerEpisode": 50,
        },
    }
    return {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {"name": name},
        "spec": {**spec, **changes},
    }
