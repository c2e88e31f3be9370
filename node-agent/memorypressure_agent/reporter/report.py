"""The node's report: from the sentinel's status to `NodeMemoryState.status`, and the patch that puts it there. Pure.

A report is the whole status; what there is nothing to say about is not in it. It is for one object: a JSON patch tests
the UID in the same step. (A merge patch with `metadata.uid` would not: for the status of a custom resource the server
takes all metadata from the stored object before it compares anything; apiextensions-apiserver 1.37,
`registry/customresource/status_strategy.go`.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memorypressure.grants import NodeGrants
from memorypressure.reasons import Reason
from memorypressure.records import (
    MAX_CONTAINER_CHARACTERS,
    EpisodeOutcome,
    RecordError,
    action_record_from,
    rfc3339,
    unix_ns_from,
)
from memorypressure.spec_values import Mode
from memorypressure.steps import worst_cause
from memorypressure.version import VERSION
from memorypressure_agent.reporter.link import LinkState

SILENT_NS: Final = 10_000_000_000
"""A sentinel that has written no status for so long is not well: it writes one every 4 s at least."""
SEEN_SILENT_SECONDS: Final = 3.0
"""For so long the reporter must have looked at it in vain: after a suspend it may be the first of the two to run."""
MOST_TEXT: Final = 1024
MOST_MESSAGE: Final = 4096
MOST_NAME: Final = 64
MOST_OF_POD: Final = {"uid": 64, "namespace": 63, "name": 253, "container": MAX_CONTAINER_CHARACTERS}
MOST_ACTIONS: Final = 1_000_000
MOST_ZONES: Final = 64
MOST_TRIGGERS: Final = 16
MOST_TOP_PODS: Final = 10
_MOST_COUNT: Final = (1 << 53) - 1
_LAST_TIME_NS: Final = 253_402_300_799 * 1_000_000_000  # the end of the year 9999: RFC 3339 has four digits

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
    )
)

Record = dict[str, Any]


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
    """Why the journal or the status in it cannot be used; empty when it can."""
    problem_reason: Reason = Reason.UNREADABLE
    unchanged_seconds: float = 0.0
    """For how long the reporter has been looking at this status, by a clock that stands still in a suspend."""

    @property
    def silent(self) -> bool:
        """Whether the sentinel has stopped writing, or never began."""
        if self.problem or not self.status:
            return True
        old = self.boot_ns - self.status["writtenBootNs"] > SILENT_NS
        return old and self.unchanged_seconds >= SEEN_SILENT_SECONDS

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


def body(
    view: View,
    link: LinkState,
    now: Sequence[Condition],
    actions: Sequence[Record],
    episodes: Sequence[Record],
) -> dict[str, Any]:
    """The whole status: as much of each list and text as the CRD takes.

    Before a journal was read the lease is the one that stands there: nothing new is known about it.
    """
    status, grants = view.status, view.grants
    silent = view.silent
    triggers = view.active_triggers
    lowest = None if silent else status["lowest"]
    psi = None if silent else status["psi"]["node"]
    full = psi["full"] if psi else None
    near = bool(triggers) or (not silent and status["helper"]["near"])
    found = {
        "observedGeneration": link.generation,
        "lease": held_lease(link) if grants is None else _lease(grants),
        "lastReportTime": rfc3339_seconds(view.unix_ns),
        "agentVersion": VERSION,
        "capabilities": [] if silent else sorted(n for n, why in status["capabilities"].items() if not why)[:16],
        "conditions": [condition.to_json() for condition in now],
        "activeTriggers": [
            {"name": each["name"], "since": rfc3339_seconds(each["sinceUnixNs"])} for each in triggers[:MOST_TRIGGERS]
        ],
        "activeTriggerNames": ",".join(each["name"] for each in triggers)[:MOST_TEXT] or None,
        "lowest": None if lowest is None else _lowest(lowest),
        "psiFull10": None if full is None else f"{min(max(full['avg10'], 0.0), 100.0):.1f}%",
        "grantExpireTime": _grant_expiry(view, link),
        "zones": _zones(status["zones"]) if near and not silent and status["zones"] else None,
        "recentActions": list(actions),
        "recentEpisodes": list(episodes),
        "topPods": [] if silent else [_top_pod(pod) for pod in status["topPods"][:MOST_TOP_PODS]],
        "lastActionTime": max((record["time"] for record in actions), default=None),
    }
    return _said(found)


def patch(status: Mapping[str, Any], view: View, link: LinkState) -> list[dict[str, Any]]:
    """The JSON patch that makes `status` the status of the object that `link` saw, and of no other.

    A lease that is only handed on must still be the one that stands there.
    """
    tests = [{"op": "test", "path": "/metadata/uid", "value": link.uid}]
    if view.grants is None and "lease" in status:
        tests.append({"op": "test", "path": "/status/lease", "value": status["lease"]})
    return [*tests, {"op": "add", "path": "/status", "value": status}]


def held_lease(link: LinkState) -> dict[str, Any] | None:
    """The lease that the object holds."""
    lease = ((link.state or {}).get("status") or {}).get("lease")
    return lease if isinstance(lease, dict) else None


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _said(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }


def transition_key(status: Mapping[str, Any], link: LinkState) -> tuple[object, ...]:
    """What makes a write due by itself when it differs from the last write's: states, not figures.

    Not the object's generation: it moves with each renewal of the grant, and an answer to each would double the writes
    of the whole cluster. What renewals bring is reported with the next beat. Whose pods a node with an allowance may
    kill is a state, though: a workload's place is given to another node only after this one told that it gave it up.
    """
    orders, lease = link.orders, status.get("lease") or {}
    grant = orders.grant if orders is not None else None
    armed = grant is not None and grant.kills_ceiling > int(lease.get("killsTotal") or 0)
    return (
        link.uid,
        None if orders is None else (orders.policy_name, orders.policy_generation, orders.mode),
        status.get("activeTriggerNames"),
        tuple((each["type"], each["status"], each["reason"]) for each in status["conditions"]),
        tuple(status["capabilities"]),
        (lease.get("incarnation"), lease.get("killsTotal"), lease.get("ceilingSeen")),
        frozenset((pod.namespace, pod.workload) for pod in orders.pods) if orders is not None and armed else None,
    )


def action_entry(value: object, message: str) -> Record | None:
    """The `recentActions` entry of a record in the journal, within the CRD's limits; None if it is not understood."""
    if not isinstance(value, Mapping):
        return None
    try:
        action = action_record_from(value)
    except RecordError:
        return None
    if not 0 < len(action.id) <= MOST_NAME or action.mode is Mode.DISABLED:
        return None
    entry = {**action.to_json(), "time": value["time"]}
    pod, freed = entry.get("pod"), entry.get("freedBytes", 0)
    if pod is not None and not all(
        type(part) is str and 0 < len(part) <= MOST_OF_POD[name] for name, part in pod.items()
    ):
        return None
    if type(freed) is not int or not 0 <= freed <= _MOST_COUNT:
        return None
    return {**entry, "message": message[:MOST_TEXT]} if message else entry


def episode_entry(value: object) -> Record | None:
    """The `recentEpisodes` entry of a record in the journal, within the CRD's limits; None if it is not understood."""
    if not isinstance(value, Mapping):
        return None
    try:
        unix_ns_from(value["start"])
        if value.get("end") is not None:
            unix_ns_from(value["end"])
        entry = {
            "id": str(value["id"]),
            "start": value["start"],
            "end": value.get("end"),
            "worst": str(value["worst"])[:MOST_TEXT],
            "reason": Reason(value["reason"]).value,
            "actions": min(value["actions"], MOST_ACTIONS),
            "outcome": EpisodeOutcome(value["outcome"]).value,
        }
    except (KeyError, TypeError, ValueError):
        return None
    if not 0 < len(entry["id"]) <= MOST_NAME or type(entry["actions"]) is not int or entry["actions"] < 0:
        return None
    return {name: member for name, member in entry.items() if member is not None}


def rfc3339_seconds(unix_ns: int) -> str:
    """The time in whole seconds: the API's `Time` has no fractions, and a server may refuse them."""
    return rfc3339(min(max(unix_ns, 0), _LAST_TIME_NS))[:19] + "Z"


def _ready(view: View, link: LinkState) -> Condition:
    kind = "Ready"
    if view.problem:
        return Condition(kind, "False", view.problem_reason, view.problem)
    if view.silent:
        return Condition(kind, "False", Reason.SENTINEL_SILENT, "the sentinel writes no status; is its container up?")
    for source in view.status["sources"]:
        if not source["up"] and source["name"] == "zoneinfo":
            return Condition(kind, "False", Reason.UNREADABLE, source["message"])
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
    if reason in _VICTIM_REASONS:
        return Condition(kind, "True", Reason.NO_VICTIM, message)
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


def grant_left(view: View, link: LinkState) -> tuple[int, int]:
    """Kills that the grant in force still allows, and its end on the boot-time clock; (0, 0) without one.

    For people: what counts is the sentinel's own reckoning.
    """
    orders, grants = link.orders, view.grants
    if orders is None or orders.grant is None or grants is None or orders.grant.incarnation != grants.incarnation:
        return 0, 0
    left = orders.grant.kills_ceiling - grants.kills_total
    began_ns = next((beat.boot_ns for beat in grants.beats if beat.number == orders.grant.beat), None)
    if orders.mode is not Mode.ENFORCE or left <= 0 or began_ns is None:
        return 0, 0
    end_ns = began_ns + orders.limits.grant_seconds * 1_000_000_000
    return (left, end_ns) if view.boot_ns < end_ns else (0, 0)


def _grant_expiry(view: View, link: LinkState) -> str | None:
    left, end_boot_ns = grant_left(view, link)
    return rfc3339_seconds(view.unix_ns - view.boot_ns + end_boot_ns) if left else None


def _lowest(lowest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node": str(lowest["numaNode"]),
        "zone": f"{lowest['numaNode']}/{lowest['zone']}",
        "line": lowest["line"][:32],
        "usableToLine": _percent(lowest["usableToLine"]),
        "freeToMin": _percent(lowest["freeToMin"]),
    }


def _percent(ratio: float | None) -> str | None:
    if ratio is None:
        return None
    return f"{max(ratio, -100.0) * 100:.0f}%" if ratio < 100 else ">9999%"


def _zones(zones: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = ("numaNode", "managedBytes", "freeBytes", "minBytes", "lowBytes", "reserveBytes")
    return [
        {"name": zone["zone"], **{name: min(zone[name], _MOST_COUNT) for name in names if name in zone}}
        for zone in zones
        if zone["counted"]
    ][:MOST_ZONES]


def _top_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    relief_bytes = min(pod["reliefBytes"], _MOST_COUNT)
    return {"uid": pod["uid"], "reliefBytes": relief_bytes, "overRequest": pod["overRequest"]}
