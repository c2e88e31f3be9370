"""A node's own kills that are not over yet: what has to wait for them, and for how long. Pure.

Until a killed pod has gone, its memory is on its way back, and so is its place: who takes another pod from the node
meanwhile, or lets the node take one, takes one too many. What a node tells of a kill comes when the kill has ended;
the count in its lease, which rises before the kill is done, comes first.
"""

from collections.abc import Mapping

from memorypressure.reasons import Reason
from memorypressure_operator.memory import Killed, NodeMemory
from memorypressure_operator.pods import PodView
from memorypressure_operator.reports import StateStatus

EVICTION_WAITS_SECONDS = 30.0
"""So long no pod is evicted from a node with a kill that is not over: as long as the node waits itself."""
GRANT_WAITS_SECONDS = 60.0
"""So long no further kill is granted to it: a pod that does not go leaves its node without a guard for no longer."""


def is_waiting(status: StateStatus) -> str | None:
    """What the node says of the victim that it waits for; None while it says of none."""
    blocked = status.condition("ActionBlocked")
    if blocked is None or blocked.status != "True" or blocked.reason != Reason.WAITING_FOR_VICTIM:
        return None
    return f"the node waits for its own: {blocked.message}" if blocked.message else "the node waits for its own"


def counted(memory: NodeMemory, status: StateStatus, now: float) -> None:
    """Takes in the count of the node's kills; the first that is seen says nothing about when they were."""
    lease = status.lease
    if lease is None:
        return
    before, memory.kills_counted = memory.kills_counted, (lease.incarnation, lease.kills_total)
    if before is None or before[0] != lease.incarnation:
        memory.kills_untold = (now,) if is_waiting(status) else ()
    elif lease.kills_total > before[1]:
        memory.kills_untold += (now,) * min(lease.kills_total - before[1], 10)


def pending(memory: NodeMemory, status: StateStatus, now: float) -> bool:
    """Whether no further kill may be granted: one is not over, or the report came after the last look at the node."""
    lease = status.lease
    news = lease is not None and memory.kills_counted != (lease.incarnation, lease.kills_total)
    return news or waiting(memory, now, GRANT_WAITS_SECONDS) is not None


def told(memory: NodeMemory, uid: str, name: str, now: float) -> None:
    """Takes in a kill that the node tells of: it is over when that pod has gone."""
    memory.kills_untold = memory.kills_untold[1:]
    memory.killed = {**memory.killed, uid: Killed(name, now)}


def settle(memory: NodeMemory, pods: Mapping[str, PodView], now: float) -> None:
    """Forgets the kills that are over, and those that are waited for no longer. `pods` are those on the node."""
    if memory.killed:
        memory.killed = {
            uid: each
            for uid, each in memory.killed.items()
            if uid in pods and not pods[uid].finished and now - each.since_seconds < GRANT_WAITS_SECONDS
        }
    if memory.kills_untold:
        memory.kills_untold = tuple(at for at in memory.kills_untold if now - at < GRANT_WAITS_SECONDS)


def waiting(memory: NodeMemory, now: float, seconds: float) -> tuple[str, float] | None:
    """(why, seconds left) while a kill that is younger than `seconds` is not over; None where there is none."""
    found = [(each.since_seconds, f"its pod {each.name} has not gone") for each in memory.killed.values()]
    found += [(at, "it has not told of its end yet") for at in memory.kills_untold]
    young = [(at, why) for at, why in found if now - at < seconds]
    if not young:
        return None
    at, why = max(young)
    return f"the node's own kill is not over: {why}", seconds - (now - at)
