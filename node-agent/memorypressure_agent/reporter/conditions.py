"""The node's conditions: Ready, UnderPressure, ActionBlocked. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode
from memorypressure.steps import worst_cause
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.view import View, rfc3339_seconds

MOST_MESSAGE: Final = 4096

_GRANT_REASONS: Final = frozenset(
    (
        Reason.NO_GRANT,
        Reason.WRONG_INCARNATION,
        Reason.CEILING_REACHED,
        Reason.GRANT_EXPIRED,
        Reason.PLAN_MISMATCH,
        Reason.NO_ORDERS,
    )
)
_BUDGET_REASONS: Final = frozenset((Reason.EPISODE_LIMIT, Reason.AGENT_LIMIT, Reason.BUDGET_EXHAUSTED))
_VICTIM_REASONS: Final = frozenset((Reason.NO_VICTIM, Reason.TOO_SMALL))
_BLOCKING_REASONS: Final = frozenset(
    (
        Reason.COOLDOWN,
        Reason.WAITING_FOR_VICTIM,
        Reason.FUTILE,
        Reason.MOVABLE_FREE,
        Reason.CAPABILITY_MISSING,
        Reason.LOCK_HELD,
        Reason.DRY_RUN,
        Reason.NO_FIGURES,
        Reason.KILLED_BEFORE,
    )
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `changed` is RFC 3339."""

    type: str
    status: str
    reason: Reason
    message: str
    changed: str = ""

    def to_json(self) -> dict[str, Any]:
        """The API's shape."""
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason.value,
            "message": self.message[:MOST_MESSAGE],
            "lastTransitionTime": self.changed,
        }


def conditions_of(view: View, link: LinkState, before: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions now; one whose status is as before keeps its time."""
    times = {condition.type: (condition.status, condition.changed) for condition in before}
    found = []
    for condition in (_ready(view, link), _under_pressure(view, link), _action_blocked(view)):
        status, changed = times.get(condition.type, ("", ""))
        stamp = changed if status == condition.status and changed else rfc3339_seconds(view.unix_ns)
        found.append(Condition(condition.type, condition.status, condition.reason, condition.message, stamp))
    return tuple(found)


def conditions_from(status: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The conditions that an object holds; those that cannot be read are left out and begin anew."""
    found = []
    for each in status.get("conditions") or ():
        try:
            reason = Reason(each["reason"])
            found.append(
                Condition(each["type"], each["status"], reason, each.get("message", ""), each["lastTransitionTime"])
            )
        except (KeyError, TypeError, ValueError):
            continue
    return tuple(found)


def _ready(view: View, link: LinkState) -> Condition:
    kind = "Ready"
    if view.problem:
        return Condition(kind, "False", view.problem_reason, view.problem)
    if view.silent:
        return Condition(kind, "False", Reason.SENTINEL_SILENT, "the sentinel writes no status; is its container up?")
    if view.zones_problem:
        return Condition(kind, "False", Reason.UNREADABLE, view.zones_problem)
    if link.reason in (Reason.ORDERS_INVALID, Reason.ACTION_FAILED):
        return Condition(kind, "False", link.reason, link.message)
    orders = view.status["orders"]
    if orders["standing"] == "Invalid":
        return Condition(kind, "False", Reason.ORDERS_INVALID, f"the sentinel refuses its orders: {orders['message']}")
    missing = _missing(view)
    if orders["standing"] == "None":
        message = f"observing only: {link.message or orders['message']}{missing}"
        return Condition(kind, "True", Reason.NO_ORDERS, message)
    message = f"policy {orders['policyName']} (generation {orders['policyGeneration']}) in mode {orders['mode']}"
    return Condition(kind, "True", Reason.ACCEPTED, f"{message}{missing}")


def _missing(view: View) -> str:
    """The sources that are not there or not readable, with their reasons: an agent can do without each of them."""
    found = [
        f"{source['name']} ({source['message'] or source['reason']})"
        for source in view.status["sources"]
        if not source["up"]
    ]
    return f"; without {', '.join(found)}" if found else ""


def _under_pressure(view: View, link: LinkState) -> Condition:
    kind = "UnderPressure"
    if view.silent:
        return Condition(kind, "Unknown", Reason.SENTINEL_SILENT, "the sentinel writes no status")
    active = view.active_triggers
    if active:
        cause = Reason(view.status["decision"]["cause"])
        if cause is Reason.NO_PRESSURE and link.orders is not None:  # active, and in no step of the ladder
            cause = worst_cause(link.orders.triggers, tuple(each["name"] for each in active))
        message = "; ".join(f"{each['name']}: {each['message']}" for each in active)
        return Condition(kind, "True", cause, message)
    unknown = [each for each in view.status["triggers"] if each["status"] == "Unknown"]
    message = "; ".join(f"{each['name']}: {each['message']}" for each in unknown)
    # A trigger that only reports, on a node without its source (PSI is often off), must not hide what is known.
    steps = None if link.orders is None else {name for step in link.orders.ladder for name in step.triggers}
    if any(steps is None or each["name"] in steps for each in unknown):
        return Condition(kind, "Unknown", Reason.SIGNAL_UNKNOWN, message)
    beside = f"; in no step, and not known: {message}" if unknown else ""
    return Condition(kind, "False", Reason.NO_PRESSURE, f"no trigger is active{beside}")


def _action_blocked(view: View) -> Condition:
    kind = "ActionBlocked"
    if view.silent:
        return Condition(kind, "Unknown", Reason.SENTINEL_SILENT, "the sentinel writes no status")
    status = view.status
    if status["orders"]["mode"] == Mode.ENFORCE.value:
        if status["lockHeld"]:
            return Condition(kind, "True", Reason.LOCK_HELD, "another sentinel on this node holds the lock")
        why = status["capabilities"].get("CgroupKill", "")
        if why:
            return Condition(kind, "True", Reason.CAPABILITY_MISSING, f"nothing can be killed here: {why}")
    reason, message = Reason(status["decision"]["reason"]), str(status["decision"]["message"])
    if reason in _GRANT_REASONS and view.active_triggers:
        return Condition(kind, "True", Reason.NO_GRANT, message)
    if reason in _BUDGET_REASONS:
        return Condition(kind, "True", Reason.BUDGET_EXHAUSTED, message)
    if reason in _VICTIM_REASONS:
        return Condition(kind, "True", Reason.NO_VICTIM, message)
    if reason in _BLOCKING_REASONS:
        return Condition(kind, "True", reason, message)
    return Condition(kind, "False", Reason.NO_PRESSURE, "no due step is held back")
