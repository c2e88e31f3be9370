"""What the sentinel tells the reporter: gauges, counters and the inputs of conditions, as JSON.

Once a second while something goes on, else every 4 s.

The journal's `status` area holds one object. Times are nanoseconds since 1970, for people; bytes and seconds as named.
Members whose source is not there are null, never 0:

    writtenUnixNs, writtenBootNs, agentVersion, pid, startedUnixNs
    capabilities     {PSI, CgroupKill, ProcessMrelease, MemoryLocked, Realtime}: '' where it is there, else why not
    sources          [{name, up, absent, reason, message}]; absent: this machine has no such thing (no swap, no PSI),
                     which is no fault. Names: zoneinfo, boost, vmstat_node<N>, meminfo, swap, psi_node, psi_pods,
                     vmstat
    orders           {standing: None|Valid|Invalid, reason, message, policyName, policyGeneration, planUID,
                      planGeneration, mode (the effective one)}
    permit           {allowed, reason, message}
    lockHeld         whether another sentinel acts on this node
    phase, episode   of the ladder; {number, cause, worst, victims, wouldHave} or null
    decision         {reason, message, cause}: the last one
    triggers         [{name, status: Active|Clear|Unknown, sinceUnixNs, message, numaNodes, holds}]
    zones            [{numaNode, zone, counted, managedBytes, freeBytes, freeCmaBytes, minBytes, lowBytes, highBytes,
                      reserveBytes, floorBytes, lowmemReserveBytes, boostBytes, errorBytes}]; counted zones have lines
    lowest           {numaNode, zone, line, usableToLine, freeToMin, headroomBytes} of the zone nearest to its line
    memory           {totalBytes, availableBytes, swapTotalBytes, swapFreeBytes, hugetlbBytes}
    vmstat           counters of /proc/vmstat as the kernel names them, those that it has: allocstall_<zone>, oom_kill
    psi              {node|pods: {some|full: {avg10, avg60, avg300, totalSeconds}}}
    topPods          [{uid, namespace, name, reliefBytes, overRequest}], largest first, at most 10, near a line only
    counters         {rounds, fullReads, gateReads, kills, shadowKills, killsFailed, freedBytes, refusals {reason: n},
                      ended [{policy, mode, result, count}]}
    belowLine        [{numaNode, zone, line, seconds, episodes}]
    killLatency      a histogram like lag: from the count of a kill to its empty cgroup; of the newest
                      one last {action, seconds, unixNs}
    loop             {periodSeconds, lag {buckets [[le, cumulative count]], sum, count, worst}}
    helper           {near, listKept, logLinesLost}, figures {ageSeconds, failures}
    leftOut          names of what had no room and was shortened or left out; there only then
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from memorypressure.grants import Permit
from memorypressure.records import action_id
from memorypressure.signals import MemInfo, Psi, PsiLine
from memorypressure.triggers import TriggerState, watched_lines
from memorypressure.version import VERSION
from memorypressure.victims import Usage
from memorypressure.zone_values import CountedZone, Line, NumaNode, Zone, ZoneInfo
from memorypressure_agent.host.sources import SourceState
from memorypressure_agent.sentinel.counters import Counts, LastKill
from memorypressure_agent.sentinel.orders_file import OrdersRead
from memorypressure_agent.sentinel.readings import Readings
from memorypressure_agent.sentinel.sampler import View

MOST_TOP_PODS: Final = 10
SHORT_TEXT: Final = 120
"""Characters of a message where there is little room."""


@dataclass(frozen=True, slots=True)
class Times:
    """The moment of a status, and how boot-time stamps become times for people."""

    unix_ns: int
    boot_ns: int
    started_unix_ns: int
    pid: int

    def unix_of(self, boot_ns: int) -> int:
        """A boot-time stamp as nanoseconds since 1970."""
        return boot_ns + self.unix_ns - self.boot_ns


def build(
    view: View,
    readings: Readings,
    counts: Counts,
    times: Times,
    sources: tuple[SourceState, ...],
    usages: tuple[Usage, ...],
) -> dict[str, Any]:
    """The status but for capabilities, loop, helper and belowLine, which their owners add."""
    state = view.result.state
    decision = view.result.decision
    episode = state.ladder.running
    info = view.info
    near = state.triggers.watching or bool(state.triggers.active)
    return {
        "writtenUnixNs": times.unix_ns,
        "writtenBootNs": times.boot_ns,
        "agentVersion": VERSION,
        "pid": times.pid,
        "startedUnixNs": times.started_unix_ns,
        "sources": [
            {
                "name": each.name,
                "up": each.up,
                "absent": each.absent,
                "reason": each.reason,
                "message": each.message,
            }
            for each in sources
        ],
        "orders": _orders(view.orders, view),
        "permit": {
            "allowed": isinstance(view.permit, Permit),
            "reason": view.permit.reason,
            "message": view.permit.message,
        },
        "lockHeld": view.lock_held,
        "phase": state.ladder.phase,
        "episode": None
        if episode is None
        else {
            "number": episode.number,
            "cause": episode.cause,
            "worst": episode.worst,
            "victims": episode.victims,
            "wouldHave": episode.would_have,
        },
        "decision": {
            "reason": decision.reason,
            "message": decision.message,
            "cause": decision.cause,
        },
        "triggers": [_trigger(trigger, times) for trigger in state.triggers.triggers],
        "zones": _zones(info) if info is not None else None,
        "lowest": _lowest(info, view) if info is not None else None,
        "memory": _memory(readings.memory),
        "psi": {"node": _psi(readings.psi_node), "pods": _psi(readings.psi_pods)},
        "topPods": _top_pods(view, usages) if near else [],
        "counters": {
            "rounds": counts.rounds,
            "fullReads": readings.full_reads,
            "gateReads": readings.gate_reads,
            "kills": counts.kills,
            "shadowKills": counts.shadow_kills,
            "killsFailed": counts.kills_failed,
            "freedBytes": counts.freed_bytes,
            "refusals": dict(counts.refusals),
            "ended": [
                {"policy": policy, "mode": mode, "result": result, "count": count}
                for (policy, mode, result), count in sorted(counts.ended.items())
            ],
        },
    }


def last_kill(last: LastKill | None, incarnation: str, times: Times) -> dict[str, Any] | None:
    """Id, latency and end of the kill that was counted last; None before the first."""
    if last is None:
        return None
    return {
        "action": action_id(incarnation, last.action_number),
        "seconds": last.latency_ns / 1e9,
        "unixNs": times.unix_ns - (times.boot_ns - last.ended_ns),
    }


def with_less_and_less(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The status whole, then with ever less in it, of the same shape: for a machine whose zones have no room.

    What decides readiness and conditions (orders, permit, triggers, capabilities, lease) stays to the end.
    """
    yield values
    left_out: list[str] = []
    for name, lesser in (
        ("figures", {**values["figures"], "failures": []}),
        ("belowLine", [entry for entry in values["belowLine"] if entry["episodes"]]),
        ("zones", [zone for zone in values["zones"] or [] if zone["counted"]] or None),
        ("belowLine", []),
        ("topPods", []),
        ("zones", None),
        ("sources", [{**each, "message": each["message"][:SHORT_TEXT]} for each in values["sources"]]),
        ("triggers", [{**each, "message": each["message"][:SHORT_TEXT]} for each in values["triggers"]]),
        ("orders", {**values["orders"], "message": values["orders"]["message"][:SHORT_TEXT]}),
        ("decision", {**values["decision"], "message": values["decision"]["message"][:SHORT_TEXT]}),
        ("permit", {**values["permit"], "message": values["permit"]["message"][:SHORT_TEXT]}),
        ("episode", values["episode"] and {**values["episode"], "worst": values["episode"]["worst"][:SHORT_TEXT]}),
        ("sources", [{**each, "message": ""} for each in values["sources"]]),
    ):
        left_out = left_out if name in left_out else [*left_out, name]
        values = {**values, name: lesser, "leftOut": left_out}
        yield values


def _orders(read: OrdersRead, view: View) -> dict[str, Any]:
    orders = read.orders
    return {
        "standing": read.standing,
        "reason": read.reason,
        "message": read.message,
        "mode": view.rules.mode,
        "policyName": orders.policy_name if orders else None,
        "policyGeneration": orders.policy_generation if orders else None,
        "planUID": orders.plan_uid if orders else None,
        "planGeneration": orders.plan_generation if orders else None,
    }


def _trigger(trigger: TriggerState, times: Times) -> dict[str, Any]:
    return {
        "name": trigger.name,
        "status": trigger.status,
        "sinceUnixNs": times.unix_of(trigger.since_ns),
        "message": trigger.message,
        "numaNodes": sorted(trigger.nodes),
        "holds": trigger.holds,
    }


def _zones(info: ZoneInfo) -> list[dict[str, Any]]:
    counted = {(each.zone.node, each.zone.name): each for node in info.nodes for each in node.counted}
    page = info.page_size_bytes
    return [_zone(zone, counted.get((zone.node, zone.name)), page) for zone in info.zones if zone.managed_pages > 0]


def _zone(zone: Zone, counted: CountedZone | None, page: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "numaNode": zone.node,
        "zone": zone.name,
        "counted": counted is not None,
        "managedBytes": zone.managed_pages * page,
        "freeBytes": zone.free_pages * page,
        "freeCmaBytes": zone.free_cma_pages * page,
        "minBytes": zone.min_pages * page,
        "lowBytes": zone.low_pages * page,
        "highBytes": zone.high_pages * page,
        "boostBytes": zone.boost_pages * page if zone.boost_known else None,
        "errorBytes": zone.error_pages * page,
    }
    if counted is not None:
        lines = counted.lines
        found["reserveBytes"] = lines.atomic_reserve * page
        found["floorBytes"] = lines.atomic_floor * page
        found["lowmemReserveBytes"] = counted.protection_pages * page
    return found


def _lowest(info: ZoneInfo, view: View) -> dict[str, Any] | None:
    """The node nearest to being below a watched line, and in it the zone with most room: the one that decides."""
    watched = watched_lines(view.rules.triggers) or ((Line.ATOMIC_RESERVE, 0),)
    nearest: tuple[int, NumaNode, Line, int] | None = None
    for node in info.counted_nodes:
        for line, margin in watched:
            room = node.headroom_pages(line, margin)
            if room is not None and (nearest is None or room < nearest[0]):
                nearest = (room, node, line, margin)
    if nearest is None:
        return None
    room, node, line, margin = nearest
    zone = max(node.counted, key=lambda each: each.zone.usable_pages - each.line_pages(line, margin))
    mark = zone.line_pages(line, margin)
    least = zone.zone.min_pages
    return {
        "numaNode": node.number,
        "zone": zone.zone.name,
        "line": line,
        "usableToLine": zone.zone.usable_pages / mark if mark else None,
        "freeToMin": zone.zone.free_pages / least if least else None,
        "headroomBytes": room * info.page_size_bytes,
    }


def _memory(memory: object) -> dict[str, int] | None:
    if not isinstance(memory, MemInfo):
        return None
    return {
        "totalBytes": memory.total_bytes,
        "availableBytes": memory.available_bytes,
        "swapTotalBytes": memory.swap_total_bytes,
        "swapFreeBytes": memory.swap_free_bytes,
        "hugetlbBytes": memory.hugetlb_bytes,
    }


def _psi(psi: object) -> dict[str, Any] | None:
    if not isinstance(psi, Psi):
        return None
    return {"some": _psi_line(psi.some), "full": _psi_line(psi.full) if psi.full is not None else None}


def _psi_line(line: PsiLine) -> dict[str, float]:
    return {
        "avg10": line.avg10,
        "avg60": line.avg60,
        "avg300": line.avg300,
        "totalSeconds": line.total_us / 1e6,
    }


def _top_pods(view: View, usages: tuple[Usage, ...]) -> list[dict[str, Any]]:
    """The pods that would give most back; on the whole machine, since this is for people."""
    named = {candidate.uid: candidate for candidate in view.orders.candidates}
    found = []
    for usage in usages:
        candidate = named.get(usage.uid)
        reliefs = [each.relief_bytes for each in usage.containers if each.relief_bytes is not None]
        if candidate is None or not reliefs:
            continue
        held = sum(each.memory_bytes or 0 for each in usage.containers)
        found.append((sum(reliefs), held > candidate.request_bytes, candidate))
    found.sort(key=lambda entry: (-entry[0], entry[2].uid))
    return [
        {
            "uid": candidate.uid,
            "namespace": candidate.namespace,
            "name": candidate.name,
            "reliefBytes": relief,
            "overRequest": over,
        }
        for relief, over, candidate in found[:MOST_TOP_PODS]
    ]
