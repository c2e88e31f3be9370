"""Taint and Evict as decisions, for one machine without an operator: when it would do them, once in an episode."""

from __future__ import annotations

from dataclasses import dataclass

from memorypressure import engine
from memorypressure.engine import Rules
from memorypressure.reasons import Reason
from memorypressure.records import Decision
from memorypressure.signals import Sample
from memorypressure.spec_values import Action, Mode
from memorypressure.steps import StepStatus, worst_cause


@dataclass(frozen=True, slots=True)
class Announced:
    """The operator's steps that were told in an episode."""

    episode: int = 0
    actions: frozenset[Action] = frozenset()


def operator_decisions(
    rules: Rules, result: engine.Result, sample: Sample, announced: Announced
) -> tuple[Announced, tuple[Decision, ...]]:
    """What the operator would do now and has not been told of in this episode, in the ladder's order."""
    node = result.decision
    if rules.mode is Mode.DISABLED or not node.episode:
        return announced, ()
    if announced.episode != node.episode:
        announced = Announced(node.episode)
    statuses = engine.step_statuses(rules, result.state, node.time_ns)
    due = [
        status
        for status in statuses
        if status.due and status.step.action is not Action.KILL and status.step.action not in announced.actions
    ]
    if not due:
        return announced, ()
    told = announced.actions.union(status.step.action for status in due)
    return Announced(node.episode, told), tuple(_decision(rules, result, sample, status) for status in due)


def _decision(rules: Rules, result: engine.Result, sample: Sample, status: StepStatus) -> Decision:
    node = result.decision
    state = result.state.triggers
    because = "; ".join(
        engine.trigger_message(trigger, state, sample) for trigger in rules.triggers if trigger.name in status.active
    )
    if status.step.action is Action.TAINT:
        effect = status.step.taint.effect if status.step.taint else "NoSchedule"
        reason, message = Reason.WOULD_TAINT, f"the operator would taint the node ({effect}): {because}"
    else:
        reason, message = Reason.WOULD_EVICT, f"the operator would evict a pod: {because}"
    return Decision(
        time_ns=node.time_ns,
        phase=node.phase,
        action=status.step.action,
        mode=Mode.DRY_RUN,
        reason=reason,
        message=message,
        episode=node.episode,
        cause=worst_cause(rules.triggers, status.active),
        inputs=(("active", status.active),),
    )
