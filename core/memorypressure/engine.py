"""The one composition of the decision core: a sample and what is known of the node -> the next state and a decision.

Sentinel, `run`, `replay` and the tests all call `step`; none of them composes the parts by itself, so what a replay
shows is what the sentinel would have decided. Pure: no I/O, no clock.

One round:

1. the triggers' windows advance by the sample (always, also while a step waits or nothing may be done);
2. the candidates are ranked for the pressed NUMA nodes, when a trigger of the Kill step is active;
3. the ladder takes all of that, the permit and what became of earlier actions, and says what to do and why.

The caller carries out `Result.decision` and hands what became of it to the next `step` as `Inputs.outcomes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memorypressure.grants import Permit, Refusal
    from memorypressure.ladder import LadderState, Outcome
    from memorypressure.records import Decision
    from memorypressure.signals import Sample
    from memorypressure.spec_values import Limits, Mode, Policy, Step, Trigger, VictimRules
    from memorypressure.triggers import TriggersState
    from memorypressure.victims import Candidate, Ranking, Usage


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides on this node: the node's part of a policy, from a policy file or from orders."""

    policy_name: str
    mode: Mode
    triggers: tuple[Trigger, ...]
    ladder: tuple[Step, ...]
    victims: VictimRules
    limits: Limits
    page_bytes: int = 4096


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything one round may look at. Times are monotonic nanoseconds of the sample's clock."""

    now_ns: int
    """When the round runs: `now_ns - sample.time_ns` is the sample's age."""
    sample: Sample
    permit: Permit | Refusal
    candidates: tuple[Candidate, ...] = ()
    usages: tuple[Usage, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is carried from round to round; opaque to callers."""

    rules: Rules
    triggers: TriggersState
    ladder: LadderState


@dataclass(frozen=True, slots=True)
class Result:
    """One round's outcome: the state for the next one, what to do and why, and what displays show."""

    state: EngineState
    decision: Decision
    triggers: TriggersState
    ranking: Ranking | None
    """None while no candidate had to be ranked."""


def start(rules: Rules) -> EngineState:
    """The state before the first sample: no window holds anything, no episode runs."""
    raise NotImplementedError


def step(rules: Rules, state: EngineState, inputs: Inputs) -> Result:
    """Advance by one sample. Other rules than the state's take effect with this very sample (invariant 8)."""
    raise NotImplementedError


def rules_from_policy(policy: Policy, page_bytes: int) -> Rules:
    """The rules of a whole policy, for one machine without a cluster."""
    return Rules(
        policy.name, policy.mode, policy.triggers, policy.ladder, policy.victims, policy.limits, page_bytes=page_bytes
    )
