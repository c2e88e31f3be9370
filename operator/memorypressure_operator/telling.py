"""From a node's report to Events and tallies: each of its actions and transitions is told once.

Agents have no right to write Events; what they did stands in their status, and the operator explains it on the objects
that people look at: the pod, the node, the policy.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from memorypressure.reasons import Reason
from memorypressure.records import ActionResult
from memorypressure_operator.events import Event, EventWriter, node_subject, pod_subject
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.pods import unix_seconds
from memorypressure_operator.reports import ReportedAction, StateStatus, StateView
from memorypressure_operator.tallies import Tally
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

_MOST_ZONES = 4
_DONE = frozenset((ActionResult.SUCCESS, ActionResult.INCOMPLETE))
"""Results after which a killed pod's containers would start again in place."""
OLD_SECONDS = 3000.0
"""Events live for an hour by default: an action older than this at first sight may have been told and forgotten."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill of the node's that the operator sees for the first time.

    `age_seconds`: since it is known here. `recent`: nor was it done long before; the pod of an old one has been running
    again for long.
    """

    action: ReportedAction
    age_seconds: float
    recent: bool


def zones_text(status: StateStatus) -> str:
    """What the report says of its lowest zone and of all that are near a line; "" where it says nothing.

    After a kill that is later than what the decision saw, which the action's own message holds.
    """
    parts = []
    lowest = status.lowest
    if lowest is not None and lowest.zone and lowest.usable_to_line:
        parts.append(f"lowest zone {lowest.zone}: {lowest.usable_to_line} of {lowest.line} usable")
    parts += [
        f"{zone.numa_node}/{zone.name} free {_mebibytes(zone.free_bytes)}, min {_mebibytes(zone.min_bytes)}"
        for zone in status.zones[:_MOST_ZONES]
    ]
    return f"; by the time of the report: {'; '.join(parts)}" if parts else ""


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _seconds(time: str) -> float | None:
    """Seconds since 1970; None for what is no time."""
    try:
        return unix_seconds(time)
    except ValueError:
        return None


class Teller:
    """Compares a report with what was seen before. Called by the leader only."""

    def __init__(
        self,
        events: EventWriter,
        tally: Callable[[str], Tally],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._events = events
        self._tally = tally
        self._wall = wall

    def report(
        self, memory: NodeMemory, node: NodeView, state: StateView, policy: str, came_seconds: float | None
    ) -> list[Kill]:
        """Tells what is new in the report; returns the new real kills, for the clean-up and the cool-down.

        `came_seconds`: since this process saw the report come; None for one that was there at first sight.
        """
        self._transition(memory, node, state)
        kills, unsure = [], set()
        current = [action for action in state.status.recent_actions if action.result != "Pending"]
        reported = _seconds(state.status.last_report_time)
        for action in reversed(current):
            if memory.actions_seen is not None and action.id in memory.actions_seen:
                continue
            at_first_sight = memory.actions_seen is None or action.id in memory.actions_unsure
            told_age_seconds = self._age_seconds(action, reported, came_seconds)
            if at_first_sight and told_age_seconds is None:
                unsure.add(action.id)
                continue
            told_age_seconds = told_age_seconds or 0.0
            # What comes in a later report is new, whatever the clocks of node and operator say.
            age_seconds = told_age_seconds if at_first_sight else 0.0
            if age_seconds <= OLD_SECONDS:
                self._action(node, action, policy, told_age_seconds, zones_text(state.status))
                if action.action == "Kill" and action.mode == "Enforce" and action.result in _DONE:
                    kill = Kill(action, age_seconds, told_age_seconds <= OLD_SECONDS)
                    kills.append(kill)
                    if not kill.recent:
                        self._left_alone(node, action, told_age_seconds)
        memory.actions_seen = frozenset(action.id for action in current) - unsure
        memory.actions_unsure = frozenset(unsure)
        return kills

    def _age_seconds(self, action: ReportedAction, reported: float | None, came_seconds: float | None) -> float | None:
        """How long ago the action was; None while only the node's next report can tell.

        `reported`: when the report was written, by its node's own clock; of one that was seen to come it does not
        matter how far off that clock is. One that was there at first sight may be as old as this machine's clock says,
        or have been written just now by a node whose clock is slow.
        """
        then = _seconds(action.time)
        if then is None:
            return 0.0
        wall = self._wall().timestamp()
        if reported is None:
            return max(0.0, wall - then)
        if came_seconds is not None:
            return max(0.0, reported + came_seconds - then)
        by_node, by_us = max(0.0, reported - then), max(0.0, wall - then)
        return None if by_node <= OLD_SECONDS < by_us else max(by_node, by_us)

    def _left_alone(self, node: NodeView, action: ReportedAction, age_seconds: float) -> None:
        """Why there is no clean-up after a kill."""
        pod = action.pod
        if pod is None:
            return
        note = (
            f"pod is not evicted after its containers were killed on node {node.name}: the report of it came "
            f"{age_seconds / 60:.0f} minutes later, they may have been running again for long"
        )
        subject, on_node = pod_subject(pod.namespace, pod.name, pod.uid), node_subject(node)
        self._events.tell(Event(f"cleanup/{pod.uid}", subject, "EvictPod", Reason.SAMPLE_STALE, note, related=on_node))

    def _action(self, node: NodeView, action: ReportedAction, policy: str, age_seconds: float, zones: str) -> None:
        dry = action.mode == "DryRun"
        denied = action.result == "Denied"
        pod = action.pod
        if policy:
            kind = "denied" if denied else "dryRun" if dry else "kills" if action.action == "Kill" else "other"
            self._tally(policy).add(
                kind, f"{node.uid}/{action.id}", age_seconds, "" if denied else action.time, anywhere=True
            )
        if action.action != "Kill" or denied:
            return
        done = action.result in _DONE
        reason = Reason.WOULD_KILL if dry else Reason.KILLED if done else Reason.ACTION_FAILED
        where = f"{pod.namespace}/{pod.name}" if pod else "unknown pod"
        container = f" (container {pod.container})" if pod and pod.container else ""
        verb = "would be killed" if dry else "was killed" if done else "could not be killed"
        freed = f"; {_mebibytes(action.freed_bytes)} came back" if action.freed_bytes is not None else ""
        exit_code = "; its containers end with exit code 137" if reason is Reason.KILLED else ""
        why = f"{action.reason}: {action.message}" if action.message else action.reason
        note = f"pod {where}{container} {verb} for memory pressure on node {node.name}: {why}{zones}{freed}{exit_code}"
        subject = pod_subject(pod.namespace, pod.name, pod.uid) if pod else None
        key = f"{node.uid}/{action.id}"
        on_node = node_subject(node)
        if subject is not None:
            self._events.tell(Event(key, subject, "KillPod", reason, note, related=on_node))
        self._events.tell(Event(key, on_node, "KillPod", reason, note, related=subject))

    def _transition(self, memory: NodeMemory, node: NodeView, state: StateView) -> None:
        condition = state.status.condition("UnderPressure")
        if condition is None or condition.status == "Unknown":
            return
        pressed = condition.status == "True"
        if memory.pressed == pressed:
            return
        before, memory.pressed = memory.pressed, pressed
        if before is None and not pressed:
            return  # nothing is known to have been before
        reason = Reason.PRESSURE_STARTED if pressed else Reason.PRESSURE_CLEARED
        note = f"{condition.reason}: {condition.message}" if condition.message else condition.reason
        note += zones_text(state.status) if pressed else ""
        key = f"{node.uid}/{condition.last_transition_time}"
        self._events.tell(Event(key, node_subject(node), "Observe", reason, note, warning=pressed))
