"""The short way of a round: what the whole step would return while nothing is going on, or None.

Near a line a round comes every 10 ms, and in nearly all of them the gates are shut and only times go on; on an idle
machine each whole sample finds every trigger as it was. Each function says what the one it stands for would say, to the
letter, or nothing; random histories compare them (`tests/unit/test_engine_at_rest.py`).
"""

from memorypressure.conditions import SLOW_GAP_NS
from memorypressure.dwell import LAST_SAMPLES, restarted
from memorypressure.engine import EngineState, Result, Rules
from memorypressure.ladder import FUTILE_CALM_NS, HOUR_NS, MAX_SILENCE_NS
from memorypressure.ladder_state import LadderState
from memorypressure.records import Phase
from memorypressure.signals import GateShut, Sample
from memorypressure.spec_values import Trigger
from memorypressure.triggers import (
    ZONES_GAP_NS,
    TriggersState,
    TriggerState,
    TriggerStatus,
    advance,
    stays_clear,
)
from memorypressure.zone_values import NumaNode, ZoneInfo


def at_rest(
    rules: Rules, before: Result, sample: Sample, now_ns: int, earlier_ns: tuple[int, ...] = ()
) -> Result | None:
    """What `engine.step` returns for a sample while nothing is going on; None: ask `step`.

    `earlier_ns`: times of samples of shut gates before this one, which are taken in with it, oldest first: of the gates
    that this one finds shut, or, before a whole sample, of the nodes that the last whole one judged.

    The decision is the one before, to the letter but for its time and the sample's age: with the same rules, and with
    neither pressure nor anything to wait for, there is nothing that could have become another. Only right under the
    rules that `before` was made with, and without outcomes of a kill. It exists because near a line it is asked every
    10 ms.
    """
    state = before.state
    if before.decision.action is not None or state.watched != rules.triggers:
        return None
    if isinstance(sample.zones, GateShut):
        seen = triggers_at_rest(rules.triggers, state.triggers, sample, earlier_ns)
    else:
        seen = triggers_unmoved(rules.triggers, state.triggers, sample, earlier_ns)
    calm = ladder_at_rest(state.ladder, now_ns) if seen is not None else None
    if seen is None or calm is None:
        return None
    return Result(EngineState(state.watched, seen, calm), before.decision)


def triggers_unmoved(
    triggers: tuple[Trigger, ...], state: TriggersState, sample: Sample, earlier_ns: tuple[int, ...] = ()
) -> TriggersState | None:
    """What `triggers.advance` returns for a whole sample that finds every trigger as it was, and none running.

    `earlier_ns`: times of shut gates before it, of the nodes that the last whole sample judged; they are taken in. That
    those are the nodes of this sample, too, is seen in the windows.
    """
    if earlier_ns:
        zones = sample.zones
        if not isinstance(zones, ZoneInfo):
            return None
        passed = after_shut_gates(triggers, state, zones.counted_nodes, earlier_ns)
        if passed is None:
            return None
        state = passed
    else:
        for of in state.triggers:
            if not _is_still(of):
                return None
    seen = advance(triggers, state, sample)
    return seen if seen.triggers == state.triggers else None


def triggers_at_rest(
    triggers: tuple[Trigger, ...], state: TriggersState, sample: Sample, earlier_ns: tuple[int, ...] = ()
) -> TriggersState | None:
    """What `triggers.advance` returns for shut gates and nothing else while no window runs; None: ask it."""
    zones = sample.zones
    if not isinstance(zones, GateShut) or not (sample.memory is sample.psi_node is sample.psi_pods is None):
        return None
    return after_shut_gates(triggers, state, zones.info.counted_nodes, (*earlier_ns, sample.time_ns))


def after_shut_gates(
    triggers: tuple[Trigger, ...], state: TriggersState, nodes: tuple[NumaNode, ...], times_ns: tuple[int, ...]
) -> TriggersState | None:
    """The state after the gates of these judged nodes were found shut at these times; None: ask `advance`.

    Only the times go on then. It is asked often near a line, and costs a tenth of `advance`.
    """
    times, now = state.zone_times, times_ns[-1]
    if not times or state.below_low or state.time_ns is None or times_ns[0] <= state.time_ns:
        return None
    for slow in (state.memory_times, state.psi_node_times, state.psi_pods_times):
        if slow and restarted(slow, now, SLOW_GAP_NS):
            return None
    for trigger, of in zip(triggers, state.triggers, strict=True):
        zone = trigger.zone_watermark
        if not (_is_still(of) if zone is None else stays_clear(zone, of, nodes)):
            return None  # memory and PSI stay as they are while they are not read
    for time_ns in times_ns:
        restart = not 0 < time_ns - times[-1] <= ZONES_GAP_NS
        times = (time_ns,) if restart else (*times[1 - LAST_SAMPLES :], time_ns)
    return TriggersState(
        state.triggers,
        now,
        below_low=False,
        zone_times=times,
        memory_times=state.memory_times,
        psi_node_times=state.psi_node_times,
        psi_pods_times=state.psi_pods_times,
        zone_signature=state.zone_signature,
        marks=state.marks,
    )


def _is_still(state: TriggerState) -> bool:
    """Whether a trigger is not active and nothing of it holds or runs."""
    still = not (state.pressed or state.holds or state.status is TriggerStatus.ACTIVE)
    for _, window in state.windows:
        still = still and not window.flags and not window.stretches
    return still


def ladder_at_rest(state: LadderState, now_ns: int) -> LadderState | None:
    """What `ladder.advance` returns while no trigger is active or runs and nothing is waited for; None: ask it.

    For the same `LadderConfig` as at the step before, and triggers of which `triggers_at_rest` says that they rest.
    """
    if (
        state.phase is not Phase.CLEAR
        or state.kill is not None
        or state.born_ns is not None
        or state.running is not None
        or state.last_ns is None
        or state.clear_since_ns is None
        or now_ns < state.cooldown_until_ns
        or not 0 <= now_ns - state.last_ns <= MAX_SILENCE_NS
        or not (state.calm or now_ns - state.clear_since_ns < FUTILE_CALM_NS)
    ):
        return None
    hour_ago_ns = now_ns - HOUR_NS
    if (state.kills and state.kills[0] <= hour_ago_ns) or (state.shadow_kills and state.shadow_kills[0] <= hour_ago_ns):
        return None
    for timer in state.timers:
        if timer.since_ns is not None:
            return None
    return LadderState(
        Phase.CLEAR,
        now_ns,
        state.timers,
        state.episode,
        state.episodes,
        state.actions,
        state.clear_since_ns,
        None,
        state.kills,
        state.shadow_kills,
        state.calm,
        state.ended_ns,
        state.cooldown_until_ns,
        state.futile_until_ns,
        None,
    )
