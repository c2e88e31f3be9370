"""What speaks against a kill while the Kill step is due, in a fixed order; and which NUMA nodes it is to relieve."""

from memorypressure.grants import Permit, Refusal
from memorypressure.ladder_inputs import LadderConfig, Observation
from memorypressure.ladder_state import LadderState
from memorypressure.reasons import Reason
from memorypressure.spec_values import Action, Match, Mode
from memorypressure.steps import StepStatus
from memorypressure.zone_values import Line

_NS = 1_000_000_000
MAX_SAMPLE_AGE_NS = 50_000_000


def refusal(config: LadderConfig, state: LadderState, seen: Observation) -> tuple[Reason, str] | None:
    """What speaks against a kill in any mode, but for the sample's age."""
    if config.effective_mode is Mode.DISABLED:
        return Reason.MODE_DISABLED, "the policy's mode is Disabled"
    return _pause(state, seen.now_ns, seen.triggers.time_ns) or _used_up(config, state, seen.now_ns)


def stale(seen: Observation) -> tuple[Reason, str] | None:
    """Whether the sample is too old: asked last, when a fresh one would be acted on."""
    sample_ns = seen.triggers.time_ns
    if sample_ns is None or not 0 <= seen.now_ns - sample_ns <= MAX_SAMPLE_AGE_NS:
        return Reason.SAMPLE_STALE, "the sample is not from the last 50 ms; a fresh one is taken first"
    return None


def may_kill_soon(config: LadderConfig, state: LadderState, permit: Permit | Refusal, now_ns: int) -> bool:
    """Whether the next samples could end in a kill, or in DryRun's: only then they are worth more than 2 % of a core.

    Not without a Kill step or a permit, nor in a wait, a cool-down or a pause. Figures that are too old come anew.
    """
    mode = config.effective_mode
    if mode is Mode.DISABLED or all(step.action is not Action.KILL for step in config.ladder):
        return False
    if _pause(state, now_ns, None) is not None or _used_up(config, state, now_ns) is not None:
        return False
    return mode is Mode.DRY_RUN or isinstance(permit, Permit) or permit.reason is Reason.NO_FIGURES


def _pause(state: LadderState, now_ns: int, sample_ns: int | None) -> tuple[Reason, str] | None:
    """One victim at a time, and the lines read afresh after it."""
    if state.kill is not None:
        waited_ns = now_ns - state.kill.decided_ns
        return Reason.WAITING_FOR_VICTIM, f"the last victim is not gone after {waited_ns // 1_000_000} ms"
    if now_ns < state.cooldown_until_ns:
        left = -(-(state.cooldown_until_ns - now_ns) // _NS)
        return Reason.COOLDOWN, f"{left} s of the cool-down are left"
    if state.ended_ns is not None and sample_ns is not None and sample_ns <= state.ended_ns:
        return Reason.SAMPLE_STALE, "the lines have not been read since the last victim's end"
    return None


def _used_up(config: LadderConfig, state: LadderState, now_ns: int) -> tuple[Reason, str] | None:
    """What the episode, the hour or DryRun's one action leave no room for."""
    running = state.running
    if now_ns < state.futile_until_ns:
        left = -(-(state.futile_until_ns - now_ns) // _NS)
        return Reason.FUTILE, f"TWO KILLS DID NOT HELP: the node was not clear for 60 s between; no kill for {left} s"
    if running is not None and running.victims >= config.limits.max_victims_per_episode:
        return Reason.EPISODE_LIMIT, f"{running.victims} victims in this episode, maxVictimsPerEpisode is reached"
    if len(state.kills) >= config.hard.kills_per_hour:
        return Reason.AGENT_LIMIT, f"{len(state.kills)} kills in the last hour, the agent's own limit"
    if config.effective_mode is Mode.DRY_RUN:
        if running is not None and running.would_have:
            return Reason.DRY_RUN, "assumes that the kill it would have done in this episode worked"
        shadow_budget = min(config.limits.kills_per_hour, config.hard.kills_per_hour)
        if len(state.shadow_kills) >= shadow_budget:
            return Reason.BUDGET_EXHAUSTED, f"would have killed {len(state.shadow_kills)} times in the last hour"
    return None


def node_refusal(seen: Observation) -> tuple[Reason, str] | None:
    """What speaks against doing it on this node, in Enforce only."""
    if seen.lock_held:
        return Reason.LOCK_HELD, "another sentinel acts on this node"
    if not seen.can_kill:
        return Reason.CAPABILITY_MISSING, "cgroup.kill cannot be written"
    if isinstance(seen.permit, Refusal):
        return seen.permit.reason, seen.permit.message
    return None


def pressed_nodes(
    config: LadderConfig, seen: Observation, status: StepStatus
) -> tuple[frozenset[int], tuple[Reason, str] | None]:
    """The NUMA nodes to relieve, empty for the whole machine; or why the step's condition does not kill now.

    An active trigger must hold at this very sample too. With `Any` one is enough, with `All` every one must.
    """
    settings = {trigger.name: trigger.zone_watermark for trigger in config.triggers}
    active = [seen.triggers.of(name) for name in status.active]
    holding = [trigger for trigger in active if trigger.holds]
    if not holding or (status.step.match is Match.ALL and len(holding) < len(active)):
        return frozenset(), (Reason.NOT_HOLDING, "active, but not true at this sample")
    nodes: frozenset[int] = frozenset()
    whole_machine = False
    for trigger in holding:
        zone = settings.get(trigger.name)
        if zone is None:
            whole_machine = True
            continue
        atomic = zone.line is Line.ATOMIC_RESERVE
        nodes |= trigger.nodes - seen.movable_free_nodes if atomic else trigger.nodes
    if not nodes and not whole_machine:
        message = "a Movable zone of the pressed NUMA nodes is above its low: a kill need not free what atomics lack"
        return frozenset(), (Reason.MOVABLE_FREE, message)
    return nodes, None
