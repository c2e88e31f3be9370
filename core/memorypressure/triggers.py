"""A policy's triggers over time: samples in, active, clear or unknown out.

Every window advances at every sample. The dwell is told in docs/concepts/lines-and-triggers.md; what goes beyond it is
always the rule that acts less:

- `AnyNode` has a window for each NUMA node: nodes that dip in turn do not add up. `AllNodes` has one window for "all
  judged nodes are below", and clears when one of the nodes that made it true has been above for 2 s: with a healthy
  node the rule of the 2020 patch does not hold.
- The line above which a ZoneWatermark trigger clears is never under its own line with margin.
- An unknown source ends every window. An active trigger is then Unknown, and stays so when the source is back until
  either the dwell is fulfilled again or 2 s of clear are seen. A longer gap between samples (250 ms for zones) restarts
  the windows too, but leaves an active trigger active: `holding` says whether its condition is true at this sample, and
  a kill should ask for that as well.
- `takenBy: Buffers` holds for a node where `takers` says so of its last sample above min; a node of which none is known
  does not hold. Where the kernel (or a recording) does not tell who holds pages the trigger is unknown.
- AvailableMemory and PSI have a dwell of their own: 3 of the last 5 samples, clear after 2 s of a tenth above
  (PSI: below) the threshold. Their sources move slowly and are read down to once a second, so their gap is 3 s.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from memorypressure.conditions import (
    MACHINE,
    SLOW_GAP_NS,
    BelowCache,
    Condition,
    below_line,
    memory_condition,
    psi_condition,
    zone_condition,
)
from memorypressure.dwell import EMPTY, Times, Window, restarted, with_sample
from memorypressure.explain import explain
from memorypressure.signals import Absent, GateShut, Sample, Unknown
from memorypressure.spec_values import NodesScope, PsiScope, TakenBy, Trigger, ZoneWatermark
from memorypressure.takers import Marks, marked
from memorypressure.zone_values import Line, NumaNode, Signature, ZoneInfo, signature

ZONES_GAP_NS = 250_000_000
CLEAR_NS = 2_000_000_000


class TriggerStatus(StrEnum):
    """What is known of a trigger's condition."""

    ACTIVE = "Active"
    CLEAR = "Clear"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class TriggerState:
    """A trigger after a sample; `since_ns` is when it took this status, `message` the figures at that moment.

    `nodes` are the NUMA nodes that make it true. `holds` is the condition at this one sample, without dwell.
    """

    name: str
    status: TriggerStatus
    since_ns: int
    message: str
    holds: bool = False
    pressed: tuple[tuple[int, int | None], ...] = ()
    windows: tuple[tuple[int, Window], ...] = ()

    @property
    def nodes(self) -> frozenset[int]:
        """NUMA nodes that make the trigger true and have not been clear for 2 s; empty for memory and PSI."""
        return frozenset(key for key, _ in self.pressed if key != MACHINE)

    @property
    def running(self) -> bool:
        """Whether the next samples decide something: a window is not empty, or the trigger is not proven clear."""
        return bool(self.pressed) or any(window.running for _, window in self.windows)


@dataclass(frozen=True, slots=True)
class TriggersState:
    """All triggers after a sample, in the policy's order."""

    triggers: tuple[TriggerState, ...]
    time_ns: int | None = None
    below_low: bool = False
    zone_times: Times = ()
    memory_times: Times = ()
    psi_node_times: Times = ()
    psi_pods_times: Times = ()
    zone_signature: Signature = ()
    marks: Marks = ()

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the active triggers."""
        return tuple(state.name for state in self.triggers if state.status is TriggerStatus.ACTIVE)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the triggers of which nothing is known."""
        return tuple(state.name for state in self.triggers if state.status is TriggerStatus.UNKNOWN)

    @property
    def holding(self) -> tuple[str, ...]:
        """Names of the active triggers whose condition is true at this very sample."""
        return tuple(state.name for state in self.triggers if state.status is TriggerStatus.ACTIVE and state.holds)

    @property
    def pressed_nodes(self) -> frozenset[int]:
        """NUMA nodes that make an active trigger true."""
        active = (state for state in self.triggers if state.status is TriggerStatus.ACTIVE)
        return frozenset(node for state in active for node in state.nodes)

    @property
    def watching(self) -> bool:
        """Whether sampling must stay fast: a window runs or a trigger has to be proven clear."""
        return any(state.running for state in self.triggers)

    def of(self, name: str) -> TriggerState:
        """The state of the trigger of that name; KeyError."""
        for state in self.triggers:
            if state.name == name:
                return state
        raise KeyError(name)


def initial(triggers: Iterable[Trigger]) -> TriggersState:
    """The state before the first sample: nothing is known."""
    message = "no sample has been taken yet"
    return TriggersState(tuple(TriggerState(trigger.name, TriggerStatus.UNKNOWN, 0, message) for trigger in triggers))


def watched_lines(triggers: Iterable[Trigger]) -> tuple[tuple[Line, int], ...]:
    """The (line, margin in percent) of all ZoneWatermark triggers, each once: what gates and sampling look at."""
    watched = (trigger.zone_watermark for trigger in triggers)
    return tuple(dict.fromkeys((zone.line, zone.margin_percent) for zone in watched if zone is not None))


def advance(triggers: tuple[Trigger, ...], state: TriggersState, sample: Sample) -> TriggersState:
    """The state after one more sample; a sample of the same time as the last changes nothing.

    `triggers` are those that `state` was made of, by `initial`. A sample that is older than the last restarts windows.
    """
    if state.time_ns == sample.time_ns:
        return state
    zones, zone_signature = _zone_source(sample.zones, state, sample.time_ns)
    marks = _marks(sample, state, zone_signature) if any(trigger.asks_who_took for trigger in triggers) else ()
    memory = _slow_source(sample.memory, state.memory_times, sample.time_ns)
    psi_node = _slow_source(sample.psi_node, state.psi_node_times, sample.time_ns)
    psi_pods = _slow_source(sample.psi_pods, state.psi_pods_times, sample.time_ns)
    below: BelowCache = {}
    above = _above_every_line(triggers, sample.zones)
    after = []
    for trigger, before in zip(triggers, state.triggers, strict=True):
        if trigger.zone_watermark is not None:
            zone = trigger.zone_watermark
            told = zone.taken_by is not TakenBy.BUFFERS or _tell_who_took(above)
            if above is not None and told and stays_clear(zone, before, above):
                after.append(before)
                continue
            source, condition = (
                zones,
                zone_condition(zone, sample, marks, below, running=before.running),
            )
        elif trigger.available_memory is not None:
            source, condition = memory, memory_condition(trigger.available_memory, sample.memory)
        elif trigger.psi is not None and trigger.psi.scope is PsiScope.NODE:
            source, condition = psi_node, psi_condition(trigger.psi, sample.psi_node)
        elif trigger.psi is not None:
            source, condition = psi_pods, psi_condition(trigger.psi, sample.psi_pods)
        else:
            raise ValueError(f"trigger {trigger.name}: nothing is set for its type {trigger.type}")
        after.append(_next(trigger, before, source, condition, sample))
    return TriggersState(
        tuple(after),
        sample.time_ns,
        above is None
        and isinstance(sample.zones, ZoneInfo)
        and any(below_line(node, Line.LOW, 0, below) for node in sample.zones.nodes),
        zones.times,
        memory.times,
        psi_node.times,
        psi_pods.times,
        zone_signature,
        marks,
    )


def _above_every_line(
    triggers: tuple[Trigger, ...], zones: ZoneInfo | GateShut | Unknown | Absent
) -> tuple[NumaNode, ...] | None:
    """The judged nodes when all of them are plainly above all lines that triggers look at; else None."""
    if not isinstance(zones, ZoneInfo):
        return None
    margin_percent = 0
    for trigger in triggers:
        zone = trigger.zone_watermark
        if zone is not None and zone.margin_percent > margin_percent:
            margin_percent = zone.margin_percent
    return zones.counted_nodes if zones.is_above_every_line(margin_percent) else None


def stays_clear(settings: ZoneWatermark, state: TriggerState, nodes: tuple[NumaNode, ...]) -> bool:
    """Whether a zone trigger is clear, with nothing in its windows, and these are the nodes it judges.

    A sample with all nodes above every line leaves it as it is then.
    """
    if state.status is not TriggerStatus.CLEAR or state.holds or state.pressed:
        return False
    windows = state.windows
    if settings.nodes is not NodesScope.ANY_NODE:
        return len(windows) == 1 and windows[0][0] == MACHINE and windows[0][1] is EMPTY
    if len(windows) != len(nodes):
        return False
    for (key, window), node in zip(windows, nodes, strict=True):
        if key != node.number or window is not EMPTY:
            return False
    return True


def _tell_who_took(nodes: tuple[NumaNode, ...] | None) -> bool:
    return nodes is not None and None not in [node.unclaimed_pages for node in nodes]


@dataclass(frozen=True, slots=True)
class _Source:
    """The timeline of a source after the sample; `read` is False where it was not read and may still be waited for."""

    times: Times
    restarted: bool
    read: bool = True


def _marks(sample: Sample, state: TriggersState, seen: Signature) -> Marks:
    """The marks that this sample is judged by; what was marked before a change of min or size counts no more."""
    zones = sample.zones
    if isinstance(zones, GateShut):
        return state.marks
    if not isinstance(zones, ZoneInfo):
        return ()
    return marked(state.marks if seen == state.zone_signature else (), zones, sample.time_ns)


def _zone_source(
    zones: ZoneInfo | GateShut | Unknown | Absent, state: TriggersState, now_ns: int
) -> tuple[_Source, Signature]:
    if isinstance(zones, (Unknown, Absent)):
        return _Source((), restarted=True), ()
    restart = restarted(state.zone_times, now_ns, ZONES_GAP_NS)
    marks = state.zone_signature
    if isinstance(zones, ZoneInfo):
        marks = signature(zones)
        restart = restart or marks != state.zone_signature
    return _Source(with_sample(state.zone_times, now_ns, restart=restart), restart), marks


def _slow_source(reading: object, times: Times, now_ns: int) -> _Source:
    if isinstance(reading, (Unknown, Absent)):
        return _Source((), restarted=True)
    restart = restarted(times, now_ns, SLOW_GAP_NS)
    if reading is None:
        if not times:  # nothing runs that could become too old: what was said of the source stays
            return _Source((), restarted=False, read=False)
        return _Source(() if restart else times, restart, read=False)
    return _Source(with_sample(times, now_ns, restart=restart), restart)


_NOT_PROVEN = "active before its source was unknown, and since then neither true long enough nor clear for 2 s"


def _next(
    trigger: Trigger, before: TriggerState, source: _Source, condition: Condition, sample: Sample
) -> TriggerState:
    """The trigger after the sample."""
    now = sample.time_ns
    if condition.unknown is not None:
        if not source.read and not source.restarted:
            return before
        unproven = tuple([(key, None) for key, _ in before.pressed])
        since = before.since_ns if before.status is TriggerStatus.UNKNOWN else now
        return TriggerState(before.name, TriggerStatus.UNKNOWN, since, condition.unknown, pressed=unproven)

    if before.status is TriggerStatus.CLEAR and not before.holds and not before.pressed and _rests(before, condition):
        return before
    windows = _fed(before, source, condition)
    fulfilled = tuple([key for key, window in windows if window.fulfilled(condition.needed_ns)])
    holds = any(held for _, held in condition.keys)
    if not fulfilled and not before.pressed and before.status is TriggerStatus.CLEAR:
        if windows == before.windows and holds == before.holds:
            return before
        return TriggerState(before.name, TriggerStatus.CLEAR, before.since_ns, before.message, holds, (), windows)
    pressing = condition.pressing if condition.pressing is not None and fulfilled else fulfilled
    pressed = _still_pressed(before, source, condition, pressing, now)
    lost_one = condition.pressing is not None and len(pressed) < len(before.pressed)
    pressed = () if lost_one and not fulfilled else _with_keys(pressed, pressing, condition, now)
    if not pressed:
        status = TriggerStatus.CLEAR
    elif fulfilled or before.status is TriggerStatus.ACTIVE:
        status = TriggerStatus.ACTIVE
    else:
        status = TriggerStatus.UNKNOWN
    since, message = before.since_ns, before.message
    if status is not before.status:
        evidence = f"; {condition.evidence}" if condition.evidence else ""
        since, message = now, _dwelt(windows, fulfilled) + explain(trigger, sample) + evidence
    elif status is TriggerStatus.UNKNOWN:
        message = _NOT_PROVEN
    return TriggerState(before.name, status, since, message, holds, pressed, windows)


def _dwelt(windows: tuple[tuple[int, Window], ...], fulfilled: tuple[int, ...]) -> str:
    """What made a trigger active, which the newest sample alone need not show any more."""
    held = [window for key, window in windows if key in fulfilled]
    if not held:
        return ""
    samples, milliseconds = max(window.flags.bit_count() for window in held), max(window.held_ns for window in held)
    return f"in {samples} of the last 5 samples, {milliseconds // 1_000_000} ms in all; at this one: "


def _rests(before: TriggerState, condition: Condition) -> bool:
    """Whether nothing of the condition holds and no window of the same keys runs: most samples of a node's life."""
    if len(before.windows) != len(condition.keys):
        return False
    for (key, window), (new_key, holds) in zip(before.windows, condition.keys, strict=True):
        if holds or key != new_key or window is not EMPTY:
            return False
    return True


def _fed(before: TriggerState, source: _Source, condition: Condition) -> tuple[tuple[int, Window], ...]:
    earlier = dict(before.windows)
    return tuple(
        [
            (key, earlier.get(key, EMPTY).fed(source.times, condition.within_ns, holds=holds))
            for key, holds in condition.keys
        ]
    )


def _still_pressed(
    before: TriggerState, source: _Source, condition: Condition, fulfilled: tuple[int, ...], now_ns: int
) -> tuple[tuple[int, int | None], ...]:
    """The pressed keys with the time since which each has been above, without those above for 2 s, or gone."""
    kept: list[tuple[int, int | None]] = []
    for key, above_since in before.pressed:
        above = condition.above.get(key)
        if above is None:
            continue
        since = (now_ns if above_since is None or source.restarted else above_since) if above else None
        if since is None or now_ns - since < CLEAR_NS or key in fulfilled:
            kept.append((key, since))
    return tuple(kept)


def _with_keys(
    pressed: tuple[tuple[int, int | None], ...], keys: tuple[int, ...], condition: Condition, now_ns: int
) -> tuple[tuple[int, int | None], ...]:
    known = {key for key, _ in pressed}
    joined = [(key, now_ns if condition.above.get(key) else None) for key in keys if key not in known]
    return (*pressed, *joined)
