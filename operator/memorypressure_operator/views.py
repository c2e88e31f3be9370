"""Nodes, namespaces and PodDisruptionBudgets as the operator keeps them: the few fields needed, from the raw JSON."""

import logging
import sys
from typing import Any

import msgspec

from memorypressure.protections import DisruptionBudget
from memorypressure.spec import LabelSelector, SpecError, selector_from
from memorypressure_operator.shared import label_words, labels_of

log = logging.getLogger(__name__)


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


class _NodeMeta(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    resource_version: str = ""
    labels: dict[str, str] | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str


class _NodeSpec(msgspec.Struct):
    taints: list[Taint] | None = None


class _NodeStatus(msgspec.Struct):
    conditions: list[_Condition] | None = None


class NodeModel(msgspec.Struct):
    """What is decoded of a node."""

    metadata: _NodeMeta
    spec: _NodeSpec
    status: _NodeStatus | None = None


_node_decoder = msgspec.json.Decoder(NodeModel)


def decode_node(raw: bytes) -> NodeView:
    """The view of a node's JSON; raises msgspec.MsgspecError. `ready` is false only where the node says so."""
    return node_view(_node_decoder.decode(raw))


def node_view(node: NodeModel) -> NodeView:
    """The view of a decoded node."""
    conditions = (node.status.conditions if node.status else None) or ()
    return NodeView(
        name=sys.intern(node.metadata.name),
        uid=sys.intern(node.metadata.uid),
        labels={sys.intern(k): sys.intern(v) for k, v in (node.metadata.labels or {}).items()},
        taints=tuple(node.spec.taints or ()),
        ready=all(c.status == "True" for c in conditions if c.type == "Ready"),
    )


# --- namespaces and budgets -----------------------------------------------------------------------------------------


class _NamespaceMeta(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str = ""
    labels: dict[str, str] | None = None


class NamespaceModel(msgspec.Struct):
    """What is decoded of a namespace."""

    metadata: _NamespaceMeta


_namespace_decoder = msgspec.json.Decoder(NamespaceModel)


def decode_namespace(raw: bytes) -> dict[str, str]:
    """The labels of a namespace's JSON; raises msgspec.MsgspecError."""
    return namespace_view(_namespace_decoder.decode(raw))


def namespace_view(namespace: NamespaceModel) -> dict[str, str]:
    """The labels of a decoded namespace."""
    return labels_of(label_words(namespace.metadata.labels))


class _BudgetMeta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str
    generation: int = 0
    resource_version: str = ""


class _BudgetSpec(msgspec.Struct):
    selector: Any = None


class _BudgetStatus(msgspec.Struct, rename="camel"):
    disruptions_allowed: int = 0
    observed_generation: int = 0


class BudgetModel(msgspec.Struct):
    """What is decoded of a PodDisruptionBudget."""

    metadata: _BudgetMeta
    spec: _BudgetSpec
    status: _BudgetStatus | None = None


_budget_decoder = msgspec.json.Decoder(BudgetModel)


def decode_budget(raw: bytes) -> DisruptionBudget:
    """The core's value for a PodDisruptionBudget's JSON; raises msgspec.MsgspecError."""
    return budget_view(_budget_decoder.decode(raw))


def unknown_budget(namespace: str) -> DisruptionBudget:
    """What a PodDisruptionBudget that is not understood counts as: it covers the namespace, and allows nothing."""
    return DisruptionBudget(namespace, LabelSelector(), disruptions_allowed=0, current=False)


def budget_view(budget: BudgetModel) -> DisruptionBudget:
    """The core's value for a decoded PodDisruptionBudget: one whose selector is not understood covers its namespace."""
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
