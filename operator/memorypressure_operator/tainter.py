"""The operator's own taint: when it goes on and off, and the patch that cannot touch anybody else's."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from memorypressure.reasons import Reason
from memorypressure.spec import Mode, Step
from memorypressure_operator.api import JSON_PATCH, Api, node_path
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.views import NodeView, Taint, decode_node

log = logging.getLogger(__name__)

KEY = "memorypressure.dev/pressure"
_TRIES = 4


@dataclass(frozen=True, slots=True)
class TaintInput:
    """All that the decision looks at. Times in seconds; `clear_seconds` None: the step's triggers match now."""

    taints: tuple[Taint, ...]
    mode: Mode
    step: Step | None
    matches: bool
    fresh: bool
    silent: bool
    clear_seconds: float | None
    silent_seconds: float
    beat_limit_seconds: float
    killed_seconds: float | None = None
    """Since the node's last kill for a trigger of the step; None: there was none. A kill ends the pressure often before
    the report of it arrives, and its pod's successor is to stay away all the same."""


@dataclass(frozen=True, slots=True)
class TaintDecision:
    """`effect` is what the taint shall be, None for no taint; `reason` tells what changes, or why nothing does."""

    effect: str | None
    changes: bool
    reason: Reason
    message: str
    again_seconds: float | None = None


def decide(given: TaintInput) -> TaintDecision:
    """Whether our taint goes on, stays, changes its effect or goes."""
    ours = [taint for taint in given.taints if taint.key == KEY]
    effect = ours[0].effect if ours else None
    if given.step is None or given.step.taint is None or given.mode is Mode.DISABLED:
        return _lift(effect, "no policy with a Taint step is in force")
    wanted = given.step.taint.effect.value
    if given.mode is Mode.DRY_RUN:
        if given.matches and given.fresh and effect is None:
            return TaintDecision(None, False, Reason.WOULD_TAINT, f"would be tainted {KEY}:{wanted}")
        return _lift(effect, "the policy runs as DryRun")
    hold = given.step.taint.hold_seconds
    after_kill = given.killed_seconds is not None and given.killed_seconds < hold and not given.silent
    if (given.matches and given.fresh) or (after_kill and effect is None):
        if [taint.effect for taint in ours] == [wanted]:
            return TaintDecision(wanted, False, Reason.TAINTED, "")
        why = "" if given.matches else f", after a kill that was reported {given.killed_seconds:.0f} s ago"
        return TaintDecision(wanted, True, Reason.TAINTED, f"tainted {KEY}:{wanted}{why}")
    if effect is None:
        return TaintDecision(None, False, Reason.NO_PRESSURE, "")
    if given.silent:
        left = given.beat_limit_seconds + hold - given.silent_seconds
        if left <= 0:
            return _lift(effect, f"no report for {given.silent_seconds:.0f} s, three heartbeats and the hold time")
    elif given.clear_seconds is not None:
        left = hold - min(given.clear_seconds, hold if given.killed_seconds is None else given.killed_seconds)
        if left <= 0:
            return _lift(effect, _clear(given.clear_seconds, given.killed_seconds))
    else:
        left = given.beat_limit_seconds - given.silent_seconds
    return TaintDecision(effect, False, Reason.STEP_NOT_DUE, "held", again_seconds=max(0.1, left))


def _clear(clear_seconds: float, killed_seconds: float | None) -> str:
    """The time that counted: a kill can end the pressure before a report has told of it."""
    if killed_seconds is not None and killed_seconds < clear_seconds:
        return f"clear since a kill that was reported {killed_seconds:.0f} s ago"
    return f"clear for {clear_seconds:.0f} s"


def _lift(effect: str | None, why: str) -> TaintDecision:
    if effect is None:
        return TaintDecision(None, False, Reason.NO_PRESSURE, why)
    return TaintDecision(None, True, Reason.UNTAINTED, f"taint {KEY}:{effect} lifted: {why}")


def patch(taints: tuple[Taint, ...], effect: str | None) -> list[dict[str, Any]]:
    """JSON patch from the list as seen to the list with exactly our taint (or none); [] when nothing changes.

    Its first operation tests the whole list as seen: if anybody changed a taint meanwhile, nothing is applied.
    """
    if [taint.effect for taint in taints if taint.key == KEY] == ([effect] if effect else []):
        return []
    before: list[Any] = list(msgspec.to_builtins(taints))
    after = [entry for entry in before if entry["key"] != KEY]
    if effect is not None:
        after.append({"key": KEY, "effect": effect})
    test = {"op": "test", "path": "/spec/taints", "value": before or None}  # null: the list is absent
    if not after:
        return [test, {"op": "remove", "path": "/spec/taints"}]
    return [test, {"op": "replace" if before else "add", "path": "/spec/taints", "value": after}]


class TaintOutcome(StrEnum):
    """How a change of our taint ended."""

    DONE = "Done"
    UNCHANGED = "Unchanged"
    GONE = "Gone"
    REPLACED = "Replaced"
    CONTENDED = "Contended"


def apply(api: Api, node: NodeView, effect: str | None) -> TaintOutcome:
    """Makes our taint on the node what `effect` says. Raises ApiUnreachable and ApiRefused beyond the outcomes."""
    seen = node
    for _ in range(_TRIES):
        operations = patch(seen.taints, effect)
        if not operations:
            return TaintOutcome.UNCHANGED
        guard = {"op": "test", "path": "/metadata/uid", "value": node.uid}
        try:
            api.request("PATCH", node_path(node.name), body=[guard, *operations], content_type=JSON_PATCH)
            return TaintOutcome.DONE
        except ApiRefused as refusal:
            if refusal.not_found:
                return TaintOutcome.GONE
            if not refusal.conflict and not refusal.test_failed:  # else the list has changed
                raise
        try:
            seen = decode_node(api.get(node_path(node.name)).body)
        except ApiRefused as refusal:
            if refusal.not_found:
                return TaintOutcome.GONE
            raise
        if seen.uid != node.uid:
            return TaintOutcome.REPLACED
    log.warning("node %s: taints change faster than they can be patched; tried again later", node.name)
    return TaintOutcome.CONTENDED
