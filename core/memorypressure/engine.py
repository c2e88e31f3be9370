"""The one composition of the decision core: a sample and what is known of the node -> the next state and a decision.

Sentinel, `run`, `replay` and the tests all call `step`; none of them composes the parts by itself, so what a replay
shows is what the sentinel would have decided. Pure: no I/O, no clock.

One round:

1. the triggers' windows advance by the sample (always, also while a step waits or nothing may be done);
2. the ladder takes the triggers, the permit and what became of an earlier kill, and asks for a ranking of the
   candidates when a kill is due and nothing else speaks against it;
3. its decision comes back. The caller carries it out, and hands what became of it to a later `step` as `outcomes`.

Where kills are real, `ladder.durable(result.state.ladder)` must be in the journal before the kill is written.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from memorypressure import ladder, triggers
from memorypressure.explain import explain
from memorypressure.grants import Permit, Refusal
from memorypressure.ladder import HardLimits, LadderConfig, LadderState, Outcome
from memorypressure.reasons import Reason
from memorypressure.records import MAX_CONTAINER_CHARACTERS, Decision, Victim
from memorypressure.signals import GateShut, Sample
from memorypressure.spec_values import Action, KillUnit, Limits, Mode, Policy, Step, Trigger, VictimRules
from memorypressure.steps import StepStatus, advance_steps, readings_of
from memorypressure.triggers import TriggersState, TriggerStatus
from memorypressure.victims import Candidate, Ranked, Ranking, Usage, rank
from memorypressure.zone_values import ZoneInfo

DEFAULT_HARD_LIMITS = HardLimits()


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides on this node: the node's part of a policy, from a policy file or from orders."""

    policy_name: str
    mode: Mode
    triggers: tuple[Trigger, ...]
    ladder: tuple[Step, ...]
    victims: VictimRules
    limits: Limits
    page_bytes: int
    hard: HardLimits = DEFAULT_HARD_LIMITS
    own_pod_uid: str = ""

    @property
    def ladder_config(self) -> LadderConfig:
        """The part that the ladder takes."""
        return LadderConfig(self.mode, self.triggers, self.ladder, self.limits, self.hard)

    @property
    def kill_unit(self) -> KillUnit:
        """What dies as a whole; Pod where the ladder has no Kill step."""
        settings = next((each.kill for each in self.ladder if each.action is Action.KILL), None)
        return settings.unit if settings is not None else KillUnit.POD


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything one round may look at. `now_ns` and `sample.time_ns` are of one clock that never goes back.

    `permit` is the grant's answer at this moment, `can_kill` whether `cgroup.kill` can be written at all.
    `assumed_victim` stands for whoever would be chosen, where there is a recording and no pods.
    """

    now_ns: int
    sample: Sample
    permit: Permit | Refusal
    candidates: tuple[Candidate, ...] = ()
    usages: tuple[Usage, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    can_kill: bool = True
    lock_held: bool = False
    assumed_victim: Ranked | None = None


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is carried from round to round. `watched` are the triggers that `triggers` is the state of."""

    watched: tuple[Trigger, ...]
    triggers: TriggersState
    ladder: LadderState


@dataclass(frozen=True, slots=True)
class Result:
    """One round's outcome: the state for the next one, and what to do and why."""

    state: EngineState
    decision: Decision


def start(rules: Rules, ladder_state: LadderState | None = None) -> EngineState:
    """The state before the first sample; `ladder_state` is what a journal restored, None: a known, empty past."""
    return EngineState(rules.triggers, triggers.initial(rules.triggers), ladder_state or LadderState())


def step(rules: Rules, state: EngineState, inputs: Inputs) -> Result:
    """Advance by one sample. Rules that changed take effect with this very sample."""
    if state.watched != rules.triggers:
        state = replace(state, watched=rules.triggers, triggers=_rewatched(rules.triggers, state))
    seen = triggers.advance(rules.triggers, state.triggers, inputs.sample)
    observation = ladder.Observation(
        now_ns=inputs.now_ns,
        triggers=seen,
        permit=inputs.permit,
        rank=_ranker(rules, inputs),
        outcomes=inputs.outcomes,
        movable_free_nodes=_movable_free_nodes(inputs.sample),
        can_kill=inputs.can_kill,
        lock_held=inputs.lock_held,
    )
    next_ladder, decision = ladder.advance(rules.ladder_config, state.ladder, observation)
    if decision.action is not None:
        message = _with_figures_of_now(decision.message, rules, seen, inputs.sample)
        decision = replace(decision, message=message, victim=_named(rules, decision.victim))
    return Result(EngineState(rules.triggers, seen, next_ladder), decision)


def ranking(rules: Rules, inputs: Inputs, pressed_nodes: frozenset[int]) -> Ranking:
    """The candidates in the order in which they would be stopped, to relieve these NUMA nodes (empty: the machine)."""
    return rank(
        rules.victims,
        rules.kill_unit,
        inputs.candidates,
        inputs.usages,
        pressed_nodes,
        _deficit_pages(inputs.sample, pressed_nodes) * rules.page_bytes,
        rules.own_pod_uid,
    )


def step_statuses(rules: Rules, state: EngineState, now_ns: int) -> tuple[StepStatus, ...]:
    """When each step of the ladder is due, those of the operator (Taint, Evict) too; for displays and replay."""
    return advance_steps(rules.ladder, state.ladder.timers, readings_of(state.triggers), now_ns)[1]


def trigger_message(trigger: Trigger, state: TriggersState, sample: Sample) -> str:
    """What the trigger says at this sample: `TriggerState.message` holds the figures of when its status changed."""
    of = state.of(trigger.name)
    if of.status is not TriggerStatus.ACTIVE or of.since_ns == sample.time_ns:
        return of.message
    return f"active for {(sample.time_ns - of.since_ns) // 1_000_000} ms; now {explain(trigger, sample)}"


def rules_from_policy(policy: Policy, page_bytes: int) -> Rules:
    """The rules of a whole policy, for one machine without a cluster."""
    return Rules(
        policy.name, policy.mode, policy.triggers, policy.ladder, policy.victims, policy.limits, page_bytes=page_bytes
    )


def _with_figures_of_now(message: str, rules: Rules, seen: TriggersState, sample: Sample) -> str:
    """The message of an action with the figures of the sample it is decided at, not of when the trigger began."""
    for trigger in rules.triggers:
        message = message.replace(seen.of(trigger.name).message, trigger_message(trigger, seen, sample))
    return message


def _named(rules: Rules, victim: Victim | None) -> Victim | None:
    """The victim, with its container's id where the policy kills one container of a pod."""
    if victim is None or rules.kill_unit is not KillUnit.CONTAINER or not victim.containers:
        return victim
    container = victim.containers[0].partition("/")[0]  # CRI-O: without the nested cgroup
    return replace(victim, pod=replace(victim.pod, container=container[:MAX_CONTAINER_CHARACTERS]))


def _rewatched(watched: tuple[Trigger, ...], state: EngineState) -> TriggersState:
    """The triggers' state for other triggers: those that did not change keep their windows."""
    kept = dict(zip(state.watched, state.triggers.triggers, strict=True))
    fresh = triggers.initial(watched).triggers
    merged = tuple(kept.get(trigger, new) for trigger, new in zip(watched, fresh, strict=True))
    return replace(state.triggers, triggers=merged)


def _ranker(rules: Rules, inputs: Inputs) -> Callable[[frozenset[int]], Ranking]:
    assumed = inputs.assumed_victim
    if assumed is not None:
        return lambda _pressed: Ranking((assumed,), (), assumed, Reason.KILLED, "pods are not recorded", 0)
    return lambda pressed: ranking(rules, inputs, pressed)


def _info(sample: Sample) -> ZoneInfo | None:
    """The zones of the sample; behind a shut gate those of the last full reading."""
    if isinstance(sample.zones, GateShut):
        return sample.zones.info
    return sample.zones if isinstance(sample.zones, ZoneInfo) else None


def _movable_free_nodes(sample: Sample) -> frozenset[int]:
    info = _info(sample)
    return frozenset(node.number for node in info.nodes if node.movable_above_low) if info else frozenset()


def _deficit_pages(sample: Sample, pressed_nodes: frozenset[int]) -> int:
    """What the pressed NUMA nodes (empty: all) lack to High."""
    info = _info(sample)
    if info is None:
        return 0
    return sum(node.lacking_pages() for node in info.counted_nodes if not pressed_nodes or node.number in pressed_nodes)
