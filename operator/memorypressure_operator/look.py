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


def grant_seconds(look: Look) -> int:
    """The policy's grantSeconds: a node reports three times in it, also where no policy is in force."""
    return look.policy.limits.grant_seconds if look.policy else DEFAULT_GRANT_SECONDS


def is_silent(registry: Registry, look: Look) -> bool:
    """Whether the node has missed three heartbeats."""
    reported = registry.reported_at.get(look.node.name)
    at_ns = None if reported is None else int(reported * pressure.NS)
    return pressure.silent(at_ns, look.now_ns, grant_seconds(look))
