"""The episode of a node: clear -> suspected -> pressure -> acting -> waiting -> cooling down -> (pressure | clear).

The node itself only kills; when taint and eviction are due: `steps`. One `advance` per sample, with what became of
earlier kills. Times are nanoseconds of one clock that never goes back and survives the process: CLOCK_BOOTTIME where
`durable` is kept.

**Before a Kill decision is carried out, `durable(state)` must be in the journal.** A process that dies between there
and `cgroup.kill` finds itself waiting for that victim when it comes back.
"""

from dataclasses import replace

from memorypressure.grants import Permit
from memorypressure.ladder_inputs import HardLimits, LadderConfig, Observation, Outcome, OutcomeKind
from memorypressure.ladder_state import Episode, Kill, LadderState, durable, initial, restored
from memorypressure.reasons import Reason
from memorypressure.records import Decision, Input, Phase
from memorypressure.refusals import node_refusal, pressed_nodes, refusal, stale
from memorypressure.spec_values import Action, Mode, Trigger
from memorypressure.steps import StepStatus, advance_steps, readings_of, worst_cause
from memorypressure.triggers import TriggerState, TriggerStatus
from memorypressure.victims import Ranking

__all__ = [
    "Episode",
    "HardLimits",
    "Kill",
    "LadderConfig",
    "LadderState",
    "Observation",
    "Outcome",
    "OutcomeKind",
    "advance",
    "durable",
    "initial",
    "restored",
]

_NS = 1_000_000_000
EPISODE_CLEAR_NS = 120 * _NS
WAIT_NS = 10 * _NS
LONGEST_WAIT_NS = 30 * _NS
STILL_FALLING_NS = 3 * _NS
"""Memory of the victim that fell this recently still falls; its figures are read about once a second."""
FUTILE_WITHIN_NS = 600 * _NS
FUTILE_CALM_NS = 60 * _NS
FUTILE_PAUSE_NS = 1800 * _NS
HOUR_NS = 3600 * _NS
MAX_SILENCE_NS = 10 * _NS
"""After a longer time without a sample nothing is known of it: it counts as neither clear nor calm."""


def advance(config: LadderConfig, state: LadderState, seen: Observation) -> tuple[LadderState, Decision]:
    """The state after one sample and what to do. `seen.now_ns` never goes back."""
    state = _after_outcomes(config, state, seen)
    state = _cooled(config, state, seen.now_ns)
    state = _episode(config, state, seen)
    timers, statuses = advance_steps(config.ladder, state.timers, readings_of(seen.triggers), seen.now_ns)
    status = next((each for each in statuses if each.step.action is Action.KILL), None)
    state = replace(state, timers=timers, last_ns=seen.now_ns, phase=_phase(state, config, seen))
    if status is None or not status.due:
        return state, _decision(config, state, seen, *_not_due(config, seen, status), status=status)
    return _due(config, state, seen, status)


def _due(
    config: LadderConfig, state: LadderState, seen: Observation, status: StepStatus
) -> tuple[LadderState, Decision]:
    """The decision while the Kill step is due: the reasons against a kill in a fixed order, then the victim."""
    enforce = config.effective_mode is Mode.ENFORCE
    pressed, refused = pressed_nodes(config, seen, status)
    refused = refusal(config, state, seen) or refused
    if refused is None and enforce:
        refused = node_refusal(seen)
    refused = refused or stale(seen)
    if refused is not None:
        return state, _decision(config, state, seen, *refused, status=status)
    if seen.rank is None and not enforce:
        state = _acting(state, seen.now_ns, "", enforce=False)
        message = f"would kill a pod: {_because(seen, status)}"
        decision = _decision(config, state, seen, Reason.WOULD_KILL, message, status=status)
        return state, replace(decision, action=Action.KILL, action_number=state.actions)
    ranking = seen.rank(pressed) if seen.rank is not None else None
    if ranking is None or ranking.chosen is None:
        reason = ranking.reason if ranking else Reason.NO_VICTIM
        message = ranking.message if ranking else "no candidates are known"
        return state, _decision(config, state, seen, reason, message, status=status, ranking=ranking)
    victim = ranking.chosen.victim
    state = _acting(state, seen.now_ns, victim.pod.uid, enforce=enforce)
    pod = f"{victim.pod.namespace}/{victim.pod.name}"
    reason = Reason.KILLED if enforce else Reason.WOULD_KILL
    message = f"{'kill' if enforce else 'would kill'} {pod}, {ranking.message}: {_because(seen, status)}"
    decision = _decision(config, state, seen, reason, message, status=status, ranking=ranking)
    return state, replace(decision, action=Action.KILL, victim=victim, action_number=state.actions)


def _because(seen: Observation, status: StepStatus) -> str:
    return "; ".join(trigger.message for trigger in seen.triggers.triggers if trigger.name in status.active)


def _acting(state: LadderState, now_ns: int, uid: str, enforce: bool) -> LadderState:
    """The state in which a kill was decided, really or in DryRun."""
    number = state.actions + 1
    episode = state.running
    if not enforce:
        if episode is not None:
            episode = replace(episode, would_have=episode.would_have + 1)
        return replace(state, actions=number, episode=episode, shadow_kills=(*state.shadow_kills, now_ns))
    futile = bool(state.kills) and not state.calm and now_ns - state.kills[-1] <= FUTILE_WITHIN_NS
    if episode is not None:
        episode = replace(episode, victims=episode.victims + 1, futile=episode.futile or futile)
    return replace(
        state,
        phase=Phase.ACTING,
        actions=number,
        episode=episode,
        kill=Kill(number, uid, now_ns, fell_ns=now_ns),
        kills=(*state.kills, now_ns),
        calm=False,
        futile_until_ns=now_ns + FUTILE_PAUSE_NS if futile else state.futile_until_ns,
    )


def _after_outcomes(config: LadderConfig, state: LadderState, seen: Observation) -> LadderState:
    """The state after the reports about the kill under way, and after its wait ran out."""
    for outcome in seen.outcomes:
        kill = state.kill
        if kill is None or outcome.action_number != kill.number:
            continue
        match outcome.kind:
            case OutcomeKind.WRITTEN:
                state = replace(state, kill=replace(kill, written=True))
            case OutcomeKind.PROGRESS:
                state = replace(state, kill=_progressed(kill, outcome))
            case OutcomeKind.GONE:
                state = _ended(state, max(outcome.time_ns, kill.decided_ns), config.cooldown_ns)
            case OutcomeKind.FAILED:
                state = _ended(state, max(outcome.time_ns, kill.decided_ns), config.hard.min_cooldown_seconds * _NS)
    kill = state.kill
    if kill is not None and _wait_is_over(kill, seen.now_ns):
        state = _ended(state, seen.now_ns, config.cooldown_ns)
    return state


def _progressed(kill: Kill, outcome: Outcome) -> Kill:
    now_bytes = outcome.memory_bytes
    if now_bytes is None or (kill.lowest_bytes is not None and now_bytes >= kill.lowest_bytes):
        return kill
    return replace(kill, lowest_bytes=now_bytes, fell_ns=outcome.time_ns)


def _wait_is_over(kill: Kill, now_ns: int) -> bool:
    waited_ns = now_ns - (kill.decided_ns if kill.resumed_ns is None else kill.resumed_ns)
    falling = kill.lowest_bytes is not None and now_ns - kill.fell_ns <= STILL_FALLING_NS
    return waited_ns >= (LONGEST_WAIT_NS if falling else WAIT_NS)


def _ended(state: LadderState, end_ns: int, cooldown_ns: int) -> LadderState:
    """The state after a kill's end; the cool-down begins here, and whatever ran longer goes on."""
    return replace(
        state,
        kill=None,
        ended_ns=end_ns,
        cooldown_until_ns=max(state.cooldown_until_ns, end_ns + cooldown_ns),
    )


def _cooled(config: LadderConfig, state: LadderState, now_ns: int) -> LadderState:
    """The state with what the last hour no longer holds gone, and the first cool-down of a new journal set."""
    hour_ago_ns = now_ns - HOUR_NS
    if state.kills or state.shadow_kills:
        kills = tuple(time_ns for time_ns in state.kills if time_ns > hour_ago_ns)
        shadow = tuple(time_ns for time_ns in state.shadow_kills if time_ns > hour_ago_ns)
        if (kills, shadow) != (state.kills, state.shadow_kills):
            state = replace(state, kills=kills, shadow_kills=shadow)
    if state.born_ns is None:
        return state
    until_ns = max(state.cooldown_until_ns, state.born_ns + config.cooldown_ns)
    return replace(state, cooldown_until_ns=until_ns, born_ns=state.born_ns if now_ns < until_ns else None)


def _episode(config: LadderConfig, state: LadderState, seen: Observation) -> LadderState:
    """The state with the episode begun, gone on, or ended, and the clear time that counts towards both ends."""
    now_ns = seen.now_ns
    names = config.watched
    watched = [trigger for trigger in seen.triggers.triggers if trigger.name in names]
    active = tuple(trigger.name for trigger in watched if trigger.status is TriggerStatus.ACTIVE)
    running = state.running
    if active:
        state = replace(state, clear_since_ns=None)
        cause = worst_cause(config.triggers, active)
        message = _message_of(watched, config.triggers, cause)
        if running is None:
            episode = Episode(state.episodes + 1, now_ns, cause, message, frozenset(active))
            return replace(state, episodes=episode.number, episode=episode)
        worse = worst_cause(config.triggers, (*active, *running.triggers)) is not running.cause
        triggers = running.triggers.union(active)
        if worse and cause is not running.cause:
            running = replace(running, cause=cause, worst=message)
        return replace(state, episode=replace(running, triggers=triggers))
    known = {trigger.name: trigger.status for trigger in watched}
    quiet = running is None or all(
        known.get(name, TriggerStatus.CLEAR) is TriggerStatus.CLEAR for name in running.triggers
    )
    gap = state.last_ns is not None and now_ns - state.last_ns > MAX_SILENCE_NS
    if not quiet:
        return replace(state, clear_since_ns=None)
    since_ns = now_ns if state.clear_since_ns is None or gap else state.clear_since_ns
    calm = state.calm or now_ns - since_ns >= FUTILE_CALM_NS
    if (since_ns, calm) != (state.clear_since_ns, state.calm):
        state = replace(state, clear_since_ns=since_ns, calm=calm)
    if running is not None and now_ns - since_ns >= EPISODE_CLEAR_NS:
        return replace(state, episode=replace(running, end_ns=since_ns))
    return state


def _message_of(watched: list[TriggerState], triggers: tuple[Trigger, ...], cause: Reason) -> str:
    """The message of the active trigger with that cause."""
    return next(
        (
            state.message
            for state in watched
            if state.status is TriggerStatus.ACTIVE and worst_cause(triggers, (state.name,)) is cause
        ),
        "",
    )


def _phase(state: LadderState, config: LadderConfig, seen: Observation) -> Phase:
    if state.kill is not None:
        return Phase.WAITING
    if seen.now_ns < state.cooldown_until_ns:
        return Phase.COOLING_DOWN
    if not config.watched.isdisjoint(seen.triggers.active):
        return Phase.PRESSURE
    return Phase.SUSPECTED if seen.triggers.watching else Phase.CLEAR


def _not_due(config: LadderConfig, seen: Observation, status: StepStatus | None) -> tuple[Reason, str]:
    """Why nothing is to be done while the Kill step is not due."""
    if config.effective_mode is Mode.DISABLED:
        return Reason.MODE_DISABLED, "the policy's mode is Disabled, or there is none"
    watched = config.watched
    active = [name for name in seen.triggers.active if name in watched]
    if status is not None and status.due_ns is not None:
        left_ms = (status.due_ns - seen.now_ns) // 1_000_000
        return Reason.STEP_NOT_DUE, f"the Kill step is due in {left_ms} ms if {', '.join(status.active)} stays active"
    if active:
        missing = "the ladder has no Kill step" if status is None else "the condition of the Kill step is not true"
        return Reason.STEP_NOT_DUE, f"{', '.join(active)} active; {missing}"
    unknown = [name for name in seen.triggers.unknown if name in watched]
    if unknown:
        return Reason.SIGNAL_UNKNOWN, "; ".join(f"{name}: {seen.triggers.of(name).message}" for name in unknown)
    return Reason.NO_PRESSURE, "no trigger is active"


def _decision(
    config: LadderConfig,
    state: LadderState,
    seen: Observation,
    reason: Reason,
    message: str,
    *,
    status: StepStatus | None,
    ranking: Ranking | None = None,
) -> Decision:
    sample_ns = seen.triggers.time_ns
    watched = config.watched
    active = tuple(name for name in seen.triggers.active if name in watched)
    inputs: list[tuple[str, Input]] = [
        ("active", active),
        ("unknown", tuple(name for name in seen.triggers.unknown if name in watched)),
    ]
    if sample_ns is not None:
        inputs.append(("sampleAgeMicroseconds", (seen.now_ns - sample_ns) // 1000))
    if status is not None and status.since_ns is not None:
        inputs.append(("conditionSinceNanoseconds", status.since_ns))
    if status is not None and status.due:
        permit = seen.permit
        inputs.append(("permit", str(permit.reason)))
        inputs.append(("killsLeft", permit.left if isinstance(permit, Permit) else 0))
    if ranking is not None:
        inputs.append(("neededBytes", ranking.needed_bytes))
        inputs.append(("candidates", len(ranking.order)))
        inputs.append(("excluded", len(ranking.excluded)))
    return Decision(
        time_ns=seen.now_ns,
        phase=state.phase,
        action=None,
        mode=config.effective_mode,
        reason=reason,
        message=message,
        episode=state.running.number if state.running else 0,
        cause=worst_cause(config.triggers, active),
        inputs=tuple(inputs),
    )
