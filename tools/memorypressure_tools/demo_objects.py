"""The demo's objects: a policy for its flooded node, and three workloads on it."""

from typing import Any, Final

FLOOD_NODE: Final = "flood-demo"
NAMESPACE: Final = "demo"
GUARDED: Final = "web-with-budget"
MOVABLE: Final = "batch-worker"
VICTIM: Final = "memory-hog"

Object = dict[str, Any]

POLICY: Final[Object] = {
    "apiVersion": "memorypressure.dev/v1alpha1",
    "kind": "MemoryPressurePolicy",
    "metadata": {"name": "flood-demo"},
    "spec": {
        "mode": "Enforce",
        "priority": 100,
        "nodeSelector": {"matchLabels": {"demo": "flood"}},
        "triggers": [
            {
                "name": "reserve",
                "type": "ZoneWatermark",
                "zoneWatermark": {
                    "line": "AtomicReserve",
                    "nodes": "AnyNode",
                    "belowMilliseconds": 30,
                    "withinMilliseconds": 50,
                },
            }
        ],
        "ladder": [
            {"action": "Taint", "triggers": ["reserve"], "taint": {"effect": "NoSchedule", "holdSeconds": 10}},
            {"action": "Evict", "triggers": ["reserve"], "afterSeconds": 1, "evict": {"gracePeriodSeconds": 2}},
            {"action": "Kill", "triggers": ["reserve"], "afterSeconds": 10, "kill": {"unit": "Pod"}},
        ],
        # The victim's cgroup may have no memory figures here (cgroup v1 beside v2), so relief does not rank.
        "victims": {
            "order": ["Priority", "Youngest"],
            "minRelief": 0,
            "minAgeSeconds": 0,
            "unprotected": ["SingletonWorkloads", "DisruptionBudgets"],
        },
        "limits": {"cooldownSeconds": 10, "grantSeconds": 180, "maxStandingKills": 1, "killsPerHour": 2},
    },
}

BUDGET: Final[Object] = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": GUARDED, "namespace": NAMESPACE},
    "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": GUARDED}}},
}


def priority_class(name: str, value: int) -> Object:
    """A PriorityClass."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": "of the demo",
    }


def deployment(name: str, priority_class_name: str) -> Object:
    """A Deployment of one pod that wants to be on the flooded node. No container of it is ever started."""
    labels = {"app": name}
    container = {
        "name": "main",
        "image": "demo.invalid/none",
        "resources": {"requests": {"memory": "16Mi", "cpu": "10m"}, "limits": {"memory": "128Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"demo": "flood"},
                    "priorityClassName": priority_class_name,
                    "automountServiceAccountToken": False,
                    "containers": [container],
                },
            },
        },
    }


WORKLOADS: Final = ((GUARDED, "demo-first", -30), (MOVABLE, "demo-second", -20), (VICTIM, "demo-third", -10))
"""Name, priority class, priority: the lowest is asked to go first."""
