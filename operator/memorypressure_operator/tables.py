"""The tables of the registry: every object of the cluster that a decision looks at, by key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memorypressure.protections import DisruptionBudget
from memorypressure.spec import Policy
from memorypressure_operator.pods import PodView
from memorypressure_operator.reports import PlanView, StateView
from memorypressure_operator.views import NodeView


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy object: parsed, or with the reason why not."""

    name: str
    uid: str
    generation: int
    resource_version: str
    policy: Policy | None
    error: str
    status: Mapping[str, Any]


@dataclass(slots=True)
class Tables:
    """All objects, by key; read under the registry's lock."""

    nodes: dict[str, NodeView] = field(default_factory=dict)
    states: dict[str, StateView] = field(default_factory=dict)
    plans: dict[str, PlanView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    pods_by_node: dict[str, dict[str, PodView]] = field(default_factory=dict)
    workload_nodes: dict[str, dict[str, int]] = field(default_factory=dict)  # workload -> its pods on each node
    holders: dict[str, set[str]] = field(default_factory=dict)  # workload -> nodes whose stored plan names its pods
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    budgets: dict[tuple[str, str], DisruptionBudget] = field(default_factory=dict)
    budgets_by_namespace: dict[str, dict[str, DisruptionBudget]] = field(default_factory=dict)
    policies: dict[str, PolicyEntry] = field(default_factory=dict)


SINKS: dict[str, tuple[str, str, str]] = {
    "nodes": ("nodes", "put_node", "remove_node"),
    "nodememorystates": ("states", "put_state", "remove_state"),
    "nodememoryplans": ("plans", "put_plan", "remove_plan"),
    "pods": ("pods", "put_pod", "remove_pod"),
    "namespaces": ("namespaces", "put_namespace", "remove_namespace"),
    "poddisruptionbudgets": ("budgets", "put_budget", "remove_budget"),
}
"""Resource -> its table and the methods of the registry that feed it."""
