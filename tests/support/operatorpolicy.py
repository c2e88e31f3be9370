"""A policy with every step, for tests of what the operator decides."""

from typing import Any

from memorypressure.spec import Policy, parse_policy


def policy(**changes: Any) -> Policy:
    spec: dict[str, Any] = {
        "mode": "Enforce",
        "nodeSelector": {},
        "triggers": [
            {"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}},
            {"name": "min", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}},
        ],
        "ladder": [
            {"action": "Taint", "triggers": ["low"], "taint": {"effect": "NoSchedule", "holdSeconds": 300}},
            {"action": "Evict", "triggers": ["low", "min"], "afterSeconds": 20, "evict": {"gracePeriodSeconds": 10}},
            {"action": "Kill", "triggers": ["min"], "afterSeconds": 0},
        ],
        **changes,
    }
    return parse_policy(
        {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "p", "uid": "u", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
        }
    )
