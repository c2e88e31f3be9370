"""Feeds a recording to the engine, sample by sample, and tells a report what is decided."""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

from memorypressure import engine
from memorypressure.engine import EngineState, Inputs, Rules, rules_from_policy
from memorypressure.gate import gate_thresholds
from memorypressure.grants import Refusal
from memorypressure.reasons import Reason
from memorypressure.records import Decision
from memorypressure.signals import GateShut, Sample
from memorypressure.spec_values import Policy, QosClass, TakenBy, Trigger
from memorypressure.triggers import watched_lines
from memorypressure.victims import Candidate, Ranked
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.operator_steps import Announced, operator_decisions
from memorypressure_agent.replay.report import Dips, Replayed, Report
from memorypressure_agent.replay.samples import to_sample
from memorypressure_agent.replay.series import Mark, Series
from memorypressure_agent.replay.timeline import RecordedSample, read_timeline

_SOMEONE = Ranked(
    candidate=Candidate(
        "", "-", "-", priority=0, qos_class=QosClass.BEST_EFFORT, request_bytes=0, create_time_seconds=0
    ),
    relief_bytes=None,
    over_request=True,
    sufficient=True,
    containers=(),
)
"""Stands for the pod that the node would choose: a recording holds none."""

_NO_PERMIT = Refusal(Reason.MODE_NOT_ENFORCE, "a recording cannot answer an action")


def play(
    policy: Policy,
    name: str,
    file: BinaryIO,
    page_bytes_given: int,
    page_bytes_default: int,
    report: Report,
    series: Series | None = None,
) -> Replayed:
    """Replay the recording `file`, called `name` in complaints; `page_bytes_given` 0: the recording's, or the default.

    Raises `BadInputError` at the first row that cannot be used; what was decided before has been reported.
    """
    replayed = Replayed()
    rules = rules_from_policy(policy, page_bytes_given or page_bytes_default)
    state = engine.start(rules)
    announced = Announced()
    had: frozenset[str] = frozenset()
    gates = _Gates(rules)
    for recorded in read_timeline(name, file):
        sample: Sample | None
        if recorded.node_free:
            sample = gates.sample(recorded, watching=state.triggers.watching)
            if sample is None:
                replayed.open_gates += 1
                continue
        else:
            if not replayed.samples:
                page_bytes = _page_bytes(name, recorded, page_bytes_given, page_bytes_default)
                rules = replace(rules, page_bytes=page_bytes)
                replayed.page_bytes = page_bytes
                replayed.first_ns = recorded.time_ns
                replayed.notes = _notes(recorded)
                if all(zone.held is None for zone in recorded.zones):
                    rules = _by_any(rules, replayed.notes)
                replayed.lacks_low = any(zone.low is None for zone in recorded.zones)
            sample = to_sample(name, recorded, rules.page_bytes, had)
            had = had.union(recorded.figures)
            gates.info = sample.zones if isinstance(sample.zones, ZoneInfo) else None
        inputs = Inputs(sample.time_ns, sample, _NO_PERMIT, assumed_victim=_SOMEONE)
        result = engine.step(rules, state, inputs)
        state = result.state
        announced, operators = operator_decisions(rules, result, sample, announced)
        decisions = [*operators, _unnamed(result.decision)]
        for decision in decisions:
            report.decision(decision)
        _count(replayed, sample, decisions)
        if series is not None and isinstance(sample.zones, ZoneInfo):
            _draw(series, sample, sample.zones, state, decisions)
    if not replayed.samples:
        raise BadInputError(f"{name}: holds readings of whole nodes only; without one of all zones there are no lines")
    if replayed.open_gates:
        replayed.notes.append(
            f"{replayed.open_gates} readings of whole nodes were not far enough above this policy's lines "
            "to say anything, and their zones were not recorded"
        )
    for trigger in state.triggers.unknown:
        replayed.unknown.setdefault(state.triggers.of(trigger).message, []).append(trigger)
    if replayed.decided and replayed.lacks_low:
        replayed.notes.append("without the column low nothing is seen to clear: the episode lasts to the end")
    return replayed


class _Gates:
    """Readings of whole nodes as this policy takes them: shut by its own lines, from the last reading of all zones."""

    def __init__(self, rules: Rules) -> None:
        self._watched = watched_lines(rules.triggers) or ((Line.ATOMIC_RESERVE, 0),)
        self.info: ZoneInfo | None = None

    def sample(self, recorded: RecordedSample, *, watching: bool) -> Sample | None:
        """The sample of shut gates; None where a node was not above its gate, or nothing is known of its zones."""
        info = self.info
        if info is None:
            return None
        thresholds = dict(gate_thresholds(info, self._watched, clear_lines=watching))
        if thresholds.keys() != dict(recorded.node_free).keys():
            return None
        if any(free <= thresholds[node] for node, free in recorded.node_free):
            return None
        return Sample(recorded.time_ns, GateShut(info, recorded.node_free, watching), None, None, None)


def _page_bytes(name: str, recorded: RecordedSample, given: int, default: int) -> int:
    column = int(recorded.figures.get("page_size", 0))
    if column and given and column != given:
        raise BadInputError(
            f"{name}:{recorded.line_number}: column 'page_size' says {column}, --page-size {given}; omit the option"
        )
    return column or given or default


def _notes(recorded: RecordedSample) -> list[str]:
    """What in the recording makes a replay say less than the node would."""
    notes = []
    unsized = sorted({zone.node for zone in recorded.zones if zone.name == "DMA" and zone.managed is None})
    if unsized and any(zone.name != "DMA" for zone in recorded.zones):
        notes.append("zone DMA counts, because no column says how large it is (managed); below 16 MiB it would not")
    return notes


def _by_any(rules: Rules, notes: list[str]) -> Rules:
    """The rules without asking who took the pages, which is not recorded; a replay acts on nobody and says so."""
    names = ", ".join(each.name for each in rules.triggers if each.asks_who_took)
    if not names:
        return rules
    notes.append(f"without the column held nobody knows who took pages: takenBy is taken as Any (trigger {names})")
    return replace(rules, triggers=tuple(map(_trigger_by_any, rules.triggers)))


def _trigger_by_any(trigger: Trigger) -> Trigger:
    zone = trigger.zone_watermark
    return trigger if zone is None else replace(trigger, zone_watermark=replace(zone, taken_by=TakenBy.ANY))


def _unnamed(decision: Decision) -> Decision:
    """The decision without the stand-in's name."""
    if decision.victim is None:
        return decision
    message = decision.message.replace("would kill -/-, pods are not recorded", "would kill the first pod in order", 1)
    return replace(decision, victim=None, message=message)


def _count(replayed: Replayed, sample: Sample, decisions: list[Decision]) -> None:
    elapsed_ns = sample.time_ns - replayed.last_ns if replayed.samples else 0
    replayed.samples += 1
    replayed.last_ns = sample.time_ns
    if isinstance(sample.zones, ZoneInfo):
        if not replayed.zones:
            replayed.zones = tuple(
                f"{node.number}/{counted.zone.name}" for node in sample.zones.counted_nodes for counted in node.counted
            )
        for node in sample.zones.counted_nodes:
            dips = replayed.dips.setdefault(node.number, Dips())
            dips.add(elapsed_ns, below=node.below(Line.ATOMIC_RESERVE))
    elif isinstance(sample.zones, GateShut):
        for dips in replayed.dips.values():
            dips.add(elapsed_ns, below=False)
    for decision in decisions:
        if decision.action is not None:
            replayed.decided.setdefault(decision.action, []).append(decision.time_ns)


def _draw(series: Series, sample: Sample, zones: ZoneInfo, state: EngineState, decisions: list[Decision]) -> None:
    seconds = sample.time_ns / 1e9
    series.add(seconds, zones, state.triggers)
    series.marks.extend(
        Mark(seconds, f"{decision.action} ({decision.cause})") for decision in decisions if decision.action is not None
    )
