"""One node as a pass of the decision loop sees it, and how old what it knows of the node is."""

from dataclasses import dataclass

from memorypressure.spec import Mode, Policy
from memorypressure_operator import pressure
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import PodView
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, StateView
from memorypressure_operator.views import NodeView

DEFAULT_GRANT_SECONDS = 900
BEATS_MISSED = 3


@dataclass(frozen=True, slots=True)
class Look:
    """One node as a pass sees it; the registry may move on meanwhile."""

    node: NodeView
    memory: NodeMemory
    policy: Policy | None
    mode: Mode
    pods: dict[str, PodView]
    plan: PlanView | None
    state: StateView
    now_ns: int


def is_fresh(registry: Registry, node: str, now_ns: int) -> bool:
    """Whether the node's last report is young enough to act upon."""
    changed = registry.changed_at.get(node)
    return pressure.fresh(None if changed is None else int(changed * pressure.NS), now_ns)


def observe_reaction(metrics: Metrics, memory: NodeMemory, now: float) -> None:
    """Measures the first act after hearing of pressure."""
    if memory.pressed_at is not None:
        metrics.reaction_seconds.observe(max(0.0, now - memory.pressed_at))
        memory.pressed_at = None


def silent_after_seconds(policy: Policy | None) -> float:
    """Three heartbeats: a node reports three times in grantSeconds, also where no policy is in force."""
    grant_seconds = policy.limits.grant_seconds if policy else DEFAULT_GRANT_SECONDS
    return BEATS_MISSED * grant_seconds / 3


def is_silent(registry: Registry, node: str, policy: Policy | None, now: float) -> bool:
    """Whether the node has missed three heartbeats, or was never heard of."""
    at = registry.reported_at.get(node)
    return at is None or now - at > silent_after_seconds(policy)
