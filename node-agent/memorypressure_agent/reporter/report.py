"""The node's report: from the sentinel's status to `NodeMemoryState.status`, and the patch that puts it there. Pure.

A report is the whole status; what there is nothing to say about is not in it. It is for one object: a JSON patch tests
the UID in the same step. (A merge patch with `metadata.uid` would not: for the status of a custom resource the server
takes all metadata from the stored object before it compares anything; apiextensions-apiserver 1.37,
`registry/customresource/status_strategy.go`.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memorypressure.grants import NodeGrants
from memorypressure.reasons import Reason
from memorypressure.records import (
    MAX_CONTAINER_CHARACTERS,
    EpisodeOutcome,
    RecordError,
    action_record_from,
    unix_ns_from,
)
from memorypressure.spec_values import Mode
from memorypressure.version import VERSION
from memorypressure_agent.reporter.conditions import Condition
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.view import View, rfc3339_seconds

MOST_TEXT: Final = 1024
MOST_NAME: Final = 64
MOST_OF_POD: Final = {"uid": 64, "namespace": 63, "name": 253, "container": MAX_CONTAINER_CHARACTERS}
MOST_ACTIONS: Final = 1_000_000
MOST_ZONES: Final = 64
MOST_TRIGGERS: Final = 16
MOST_TOP_PODS: Final = 10
_MOST_COUNT: Final = (1 << 53) - 1
Record = dict[str, Any]


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
