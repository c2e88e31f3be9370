"""When the steps of a ladder are due: the same rule for the node's kill, the operator's taint and eviction, and replay.

`afterSeconds` counts from the moment a step's condition became true. With `Any` that is one active trigger after
another without a gap; with `All` the moment the last one became active. Unknown never satisfies: with `Any` an unknown
trigger is left out, with `All` it holds the step back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from memorypressure.reasons import Reason
from memorypressure.spec_values import Action, Match, Step, Trigger, TriggerType
from memorypressure.triggers import TriggersState, TriggerStatus
from memorypressure.zone_values import Line

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of a trigger and since when, in nanoseconds of the caller's clock."""

    status: TriggerStatus
    since_ns: int


@dataclass(frozen=True, slots=True)
class StepTimer:
    """Since when a step's condition has been true, None while it is not; for exactly this condition."""

    action: Action
    triggers: tuple[str, ...]
    match: Match
    since_ns: int | None


@dataclass(frozen=True, slots=True)
class StepStatus:
    """A step now. `due_ns`: when it is or becomes due, None while its condition is not true."""

    step: Step
    satisfied: bool
    due: bool
    since_ns: int | None
    due_ns: int | None
    active: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def reason(self) -> Reason:
        """Why the step is not taken, or that there is pressure and it is due."""
        if self.due:
            return Reason.PRESSURE_STARTED
        if self.satisfied:
            return Reason.STEP_NOT_DUE
        return Reason.SIGNAL_UNKNOWN if self.unknown else Reason.NO_PRESSURE


def advance_steps(
    ladder: tuple[Step, ...], timers: tuple[StepTimer, ...], readings: Mapping[str, Reading], now_ns: int
) -> tuple[tuple[StepTimer, ...], tuple[StepStatus, ...]]:
    """The timers to hand in next time, and each step's status, in the ladder's order.

    A step whose triggers or match changed starts anew. A trigger that `readings` lacks is unknown. Without earlier
    timers the times of the readings count, so a restarted operator goes on where the node's report puts it.
    """
    before = {(timer.action, timer.triggers, timer.match): timer.since_ns for timer in timers}
    next_timers = []
    statuses = []
    for step in ladder:
        known = [(name, readings.get(name)) for name in step.triggers]
        active = tuple(name for name, reading in known if reading and reading.status is TriggerStatus.ACTIVE)
        unknown = tuple(name for name, reading in known if not reading or reading.status is TriggerStatus.UNKNOWN)
        satisfied = bool(active) if step.match is Match.ANY else len(active) == len(step.triggers)
        since_ns = None
        if satisfied:
            times = [readings[name].since_ns for name in active]
            earliest_ns = min(times) if step.match is Match.ANY else max(times)
            running_ns = before.get((step.action, step.triggers, step.match))
            since_ns = min(now_ns, earliest_ns if running_ns is None else min(running_ns, earliest_ns))
        due_ns = None if since_ns is None else since_ns + step.after_seconds * _NS
        next_timers.append(StepTimer(step.action, step.triggers, step.match, since_ns))
        due = due_ns is not None and now_ns >= due_ns
        statuses.append(StepStatus(step, satisfied, due, since_ns, due_ns, active, unknown))
    return tuple(next_timers), tuple(statuses)


def readings_of(state: TriggersState) -> dict[str, Reading]:
    """The readings that the node's own trigger states give."""
    return {trigger.name: Reading(trigger.status, trigger.since_ns) for trigger in state.triggers}


def readings_from_report(names: tuple[str, ...], active_since_ns: Mapping[str, int]) -> dict[str, Reading]:
    """The readings that a node's report gives: what it does not list as active is clear, as far as a step is concerned.

    A report that is too old is no report: hand in no active trigger then.
    """
    return {
        name: Reading(TriggerStatus.ACTIVE, active_since_ns[name])
        if name in active_since_ns
        else Reading(TriggerStatus.CLEAR, 0)
        for name in names
    }


_LINE_REASONS = {
    Line.HIGH: Reason.HIGH_BREACHED,
    Line.LOW: Reason.LOW_BREACHED,
    Line.MIN: Reason.MIN_BREACHED,
    Line.ATOMIC_RESERVE: Reason.ATOMIC_RESERVE_BREACHED,
}
_WORST_FIRST = (
    Reason.ATOMIC_RESERVE_BREACHED,
    Reason.MIN_BREACHED,
    Reason.AVAILABLE_MEMORY_LOW,
    Reason.LOW_BREACHED,
    Reason.HIGH_BREACHED,
    Reason.PSI_HIGH,
)


def cause_of(trigger: Trigger) -> Reason:
    """What an active trigger says about the node: its type and line, as the reason of conditions and Events."""
    if trigger.type is TriggerType.ZONE_WATERMARK and trigger.zone_watermark is not None:
        return _LINE_REASONS[trigger.zone_watermark.line]
    return Reason.AVAILABLE_MEMORY_LOW if trigger.type is TriggerType.AVAILABLE_MEMORY else Reason.PSI_HIGH


def worst_cause(triggers: tuple[Trigger, ...], active: tuple[str, ...]) -> Reason:
    """The gravest cause among active triggers; NoPressure for none."""
    causes = {cause_of(trigger) for trigger in triggers if trigger.name in active}
    return next((reason for reason in _WORST_FIRST if reason in causes), Reason.NO_PRESSURE)
