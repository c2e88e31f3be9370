"""The load's pods in a cluster: created, replaced, ended; where their containers are in the node."""

import functools
import json
from collections.abc import Sequence
from typing import Any, Final

from memorypressure_tools.cluster.cluster import Cluster, pod_ready
from memorypressure_tools.flood import load
from memorypressure_tools.guest.shell import Shell

PODS_SECONDS: Final = 240.0


def deploy(cluster: Cluster, objects: Sequence[load.Object], names: Sequence[str]) -> None:
    """Creates the load's namespace and objects, and returns when a pod of each app in `names` is Ready and waits."""
    admin = cluster.plane.admin
    admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": load.NAMESPACE}})
    cluster.plane.wait_for_service_account(load.NAMESPACE)
    for node in cluster.nodes.values():
        if node.flood is not None:
            node.shell.run(f"rm -f {load.START_FILE}", attempts=3)
    for each in objects:
        cluster.plane.kubectl("apply", "-f", "-", stdin=json.dumps(each))
    for name in names:
        cluster.wait_for(f"a Ready pod of {name}", functools.partial(ready, cluster, name), PODS_SECONDS)


def reset(cluster: Cluster, names: Sequence[str]) -> None:
    """Replaces the pods of these apps, and returns when the new ones are Ready and wait.

    New pods, because a killed container's pod shows as Ready for a while, and is restarted later and later.
    """
    admin = cluster.plane.admin
    path = f"/api/v1/namespaces/{load.NAMESPACE}/pods"
    old = {pod["metadata"]["name"] for pod in admin.must("GET", path)["items"]}
    for node in cluster.nodes.values():
        if node.flood is not None:
            end_load(node.shell)
    admin.must("DELETE", path, {"gracePeriodSeconds": 0})

    def renewed(name: str) -> bool:
        pod = ready(cluster, name)
        return pod is not None and pod["metadata"]["name"] not in old

    for name in names:
        cluster.wait_for(f"a new Ready pod of {name}", functools.partial(renewed, name), PODS_SECONDS)


def ready(cluster: Cluster, app: str) -> dict[str, Any] | None:
    """A Ready pod of that app in the load's namespace that is not being deleted."""
    path = f"/api/v1/namespaces/{load.NAMESPACE}/pods?labelSelector=app%3D{app}"
    pods = cluster.plane.admin.must("GET", path)["items"]
    return next((dict(pod) for pod in pods if pod_ready(pod) and "deletionTimestamp" not in pod["metadata"]), None)


def end_load(shell: Shell) -> None:
    """Ends the load in the node: everything else (evidence, deletion of pods) is slow while it thrashes."""
    names = "hog stream sink"
    shell.run(f"rm -f {load.START_FILE}; killall -9 {names} 2>/dev/null; true", seconds=120, check=False, attempts=3)


def container_cgroups(pod: dict[str, Any]) -> dict[str, str]:
    """Paths of the cgroups of a pod's running containers by name: cgroupfs driver (Kubernetes, pkg/kubelet/cm)."""
    status = pod["status"]
    quality = {"Guaranteed": "", "Burstable": "burstable/", "BestEffort": "besteffort/"}[status["qosClass"]]
    base = f"/sys/fs/cgroup/kubepods/{quality}pod{pod['metadata']['uid']}"
    return {
        container["name"]: f"{base}/{container['containerID'].rsplit('/', 1)[-1]}"
        for container in status.get("containerStatuses", [])
        if "running" in container.get("state", {})
    }
