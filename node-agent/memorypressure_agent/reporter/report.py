"""The node's report: from the sentinel's status to `NodeMemoryState.status`, as a merge patch. Pure.

Every field of ours is in every patch; what there is nothing to say about is null, which removes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memorypressure.grants import NodeGrants
from memorypressure.reasons import Reason
from memorypressure.records import rfc3339
from memorypressure.spec_values import Mode
from memorypressure.version import VERSION
from memorypressure_agent.reporter.link import LinkState

SILENT_NS: Final = 10_000_000_000
"""A sentinel that has written no status for so long is not well: it writes one a second."""
MOST_TEXT: Final = 1024
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
_BLOCKING_REASONS: Final = frozenset(
    (
        Reason.COOLDOWN,
        Reason.NO_VICTIM,
        Reason.FUTILE,
        Reason.MOVABLE_FREE,
        Reason.CAPABILITY_MISSING,
        Reason.LOCK_HELD,
        Reason.DRY_RUN,
        Reason.NO_FIGURES,
    )
)

Record = Mapping[str, Any]


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


@dataclass(frozen=True, slots=True)
class View:
    """What the journal said at one moment. `status` is the sentinel's object (`sentinel.status`), empty at first."""

    status: Mapping[str, Any]
    grants: NodeGrants | None
    unix_ns: int
    boot_ns: int
    problem: str = ""
    """Why the journal cannot be read; empty when it can."""

    @property
    def silent(self) -> bool:
        """Whether the sentinel has stopped writing, or never began."""
        return bool(self.problem) or not self.status or self.boot_ns - self.status["writtenBootNs"] > SILENT_NS

    @property
    def active_triggers(self) -> list[Mapping[str, Any]]:
        """The triggers that are active; none while the sentinel is silent."""
        if self.silent:
            return []
        return [trigger for trigger in self.status["triggers"] if trigger["status"] == "Active"]


def conditions(view: View, link: LinkState, before: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions now; one whose status is as before keeps its time."""
    times = {condition.type: (condition.status, condition.changed) for condition in before}
    found = []
    for condition in (_ready(view, link), _under_pressure(view), _action_blocked(view)):
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


def body(
    view: View,
    link: LinkState,
    now: Sequence[Condition],
    actions: Sequence[Record],
    episodes: Sequence[Record],
) -> dict[str, Any]:
    """The merge patch of the status subresource."""
    status, grants = view.status, view.grants
    silent = view.silent
    triggers = view.active_triggers
    lowest = None if silent else status["lowest"]
    psi = None if silent else status["psi"]["node"]
    full = psi["full"] if psi else None
    near = bool(triggers) or (not silent and status["helper"]["near"])
    return {
        "status": {
            "observedGeneration": link.generation,
            "lease": None if grants is None else _lease(grants),
            "lastReportTime": rfc3339_seconds(view.unix_ns),
            "agentVersion": VERSION,
            "capabilities": [] if silent else sorted(n for n, why in status["capabilities"].items() if not why),
            "conditions": [condition.to_json() for condition in now],
            "activeTriggers": [
                {"name": each["name"], "since": rfc3339_seconds(each["sinceUnixNs"])} for each in triggers
            ],
            "activeTriggerNames": ",".join(each["name"] for each in triggers)[:MOST_TEXT] or None,
            "lowest": None if lowest is None else _lowest(lowest),
            "psiFull10": None if full is None else f"{full['avg10']:.1f}%",
            "grantExpireTime": _grant_expiry(view, link),
            "zones": _zones(status["zones"]) if near and not silent and status["zones"] else None,
            "recentActions": [_action(record) for record in actions],
            "recentEpisodes": [_episode(record) for record in episodes],
            "topPods": [] if silent else [_top_pod(pod) for pod in status["topPods"]],
            "lastActionTime": max((record["time"] for record in actions), default=None),
        }
    }


def transition_key(patch: Mapping[str, Any], unreported: int) -> tuple[object, ...]:
    """What makes a write due by itself when it differs from the last write's: states, not figures."""
    status = patch["status"]
    lease = status["lease"] or {}
    return (
        status["observedGeneration"],
        status["activeTriggerNames"],
        tuple((each["type"], each["status"], each["reason"]) for each in status["conditions"]),
        tuple(status["capabilities"]),
        (lease.get("incarnation"), lease.get("killsTotal"), lease.get("ceilingSeen")),
        unreported,
    )


def rfc3339_seconds(unix_ns: int) -> str:
    """The time in whole seconds: the API's `Time` has no fractions, and a server may refuse them."""
    return rfc3339(unix_ns)[:19] + "Z"


def _ready(view: View, link: LinkState) -> Condition:
    kind = "Ready"
    if view.problem:
        return Condition(kind, "False", Reason.UNREADABLE, f"the journal cannot be read: {view.problem}")
    if view.silent:
        return Condition(kind, "False", Reason.SENTINEL_SILENT, "the sentinel writes no status; is its container up?")
    for source in view.status["sources"]:
        if not source["up"] and source["name"] == "zoneinfo":
            return Condition(kind, "False", Reason.UNREADABLE, source["message"])
    if link.orders is None and link.reason in (Reason.ORDERS_INVALID, Reason.ACTION_FAILED):
        return Condition(kind, "False", link.reason, link.message)
    orders = view.status["orders"]
    if orders["standing"] == "Invalid":
        return Condition(kind, "False", Reason.ORDERS_INVALID, f"the sentinel refuses its orders: {orders['message']}")
    if orders["standing"] == "None":
        return Condition(kind, "True", Reason.NO_ORDERS, f"observing only: {link.message or orders['message']}")
    message = f"policy {orders['policyName']} (generation {orders['policyGeneration']}) in mode {orders['mode']}"
    return Condition(kind, "True", Reason.ACCEPTED, message)


def _under_pressure(view: View) -> Condition:
    kind = "UnderPressure"
    if view.silent:
        return Condition(kind, "Unknown", Reason.SENTINEL_SILENT, "the sentinel writes no status")
    active = view.active_triggers
    if active:
        cause = Reason(view.status["decision"]["cause"])
        message = "; ".join(f"{each['name']}: {each['message']}" for each in active)
        return Condition(kind, "True", cause, message)
    unknown = [each for each in view.status["triggers"] if each["status"] == "Unknown"]
    if unknown:
        message = "; ".join(f"{each['name']}: {each['message']}" for each in unknown)
        return Condition(kind, "Unknown", Reason.SIGNAL_UNKNOWN, message)
    return Condition(kind, "False", Reason.NO_PRESSURE, "no trigger is active")


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
    if reason in _BLOCKING_REASONS:
        return Condition(kind, "True", reason, message)
    return Condition(kind, "False", Reason.NO_PRESSURE, "no due step is held back")


def _lease(grants: NodeGrants) -> dict[str, Any]:
    lease = grants.lease
    return {
        "incarnation": lease.incarnation,
        "beat": lease.beat,
        "killsTotal": lease.kills_total,
        "ceilingSeen": lease.ceiling_seen,
    }


def _grant_expiry(view: View, link: LinkState) -> str | None:
    """When the grant in force ends, as a time for people; None without one."""
    orders, grants = link.orders, view.grants
    if orders is None or orders.grant is None or grants is None or orders.grant.incarnation != grants.incarnation:
        return None
    if grants.kills_total >= orders.grant.kills_ceiling:
        return None
    for beat in grants.beats:
        if beat.number == orders.grant.beat:
            end_boot_ns = beat.boot_ns + orders.limits.grant_seconds * 1_000_000_000
            return rfc3339_seconds(view.unix_ns - view.boot_ns + end_boot_ns)
    return None


def _lowest(lowest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node": str(lowest["numaNode"]),
        "zone": f"{lowest['numaNode']}/{lowest['zone']}",
        "line": lowest["line"],
        "usableToLine": _percent(lowest["usableToLine"]),
        "freeToMin": _percent(lowest["freeToMin"]),
    }


def _percent(ratio: float | None) -> str | None:
    if ratio is None:
        return None
    return f"{ratio * 100:.0f}%" if ratio < 100 else ">9999%"


def _zones(zones: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = ("numaNode", "managedBytes", "freeBytes", "minBytes", "lowBytes", "reserveBytes")
    return [
        {"name": zone["zone"], **{name: zone[name] for name in names if name in zone}}
        for zone in zones
        if zone["counted"]
    ][:64]


def _action(record: Record) -> dict[str, Any]:
    fields = ("id", "time", "action", "mode", "result", "reason", "message", "pod", "freedBytes")
    action = {name: record[name] for name in fields if record.get(name) is not None}
    if "message" in action:
        action["message"] = str(action["message"])[:MOST_TEXT]
    return action


def _episode(record: Record) -> dict[str, Any]:
    fields = ("id", "start", "end", "worst", "reason", "actions", "outcome")
    episode = {name: record[name] for name in fields if record.get(name) is not None}
    if "worst" in episode:
        episode["worst"] = str(episode["worst"])[:MOST_TEXT]
    return episode


def _top_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    return {"uid": pod["uid"], "reliefBytes": pod["reliefBytes"], "overRequest": pod["overRequest"]}
