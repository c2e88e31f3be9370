"""The short way of a round near a line: it must say what the whole step says, or say nothing."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from memorypressure import engine
from memorypressure.engine import Inputs, Result, Rules
from memorypressure.grants import Permit
from memorypressure.ladder import LadderState, Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.rest import at_rest
from memorypressure.signals import Absent, GateShut, MemInfo, Psi, PsiLine, Sample, Unknown
from memorypressure.spec import parse_policy
from memorypressure.spec_values import Mode
from memorypressure.victims import Candidate, ContainerUsage, Usage
from memorypressure.zone_values import Zone, ZoneInfo

MS = 1_000_000
GIB = 1 << 30
POLICY = parse_policy(
    {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {"name": "test"},
        "spec": {
            "mode": "Enforce",
            "nodeSelector": {},
            "triggers": [
                {"name": "reserve", "type": "ZoneWatermark", "zoneWatermark": {"line": "AtomicReserve"}},
                {
                    "name": "starving",
                    "type": "ZoneWatermark",
                    "zoneWatermark": {
                        "line": "Low",
                        "nodes": "AllNodes",
                        "belowMilliseconds": 100,
                        "withinMilliseconds": 200,
                    },
                },
                {"name": "scarce", "type": "AvailableMemory", "availableMemory": {"percent": 5}},
                {"name": "stalled", "type": "PSI", "psi": {"kind": "Full", "thresholdPercent": 20}},
            ],
            "ladder": [{"action": "Kill", "triggers": ["reserve", "scarce"], "afterSeconds": 0}],
            "limits": {"cooldownSeconds": 10},
        },
    }
)
CANDIDATE = Candidate("u1", "shop", "web", 0, "Burstable", 0, 0)
USAGE = Usage("u1", (ContainerUsage("c", GIB, GIB, 3),), 600)


def zones(*free: int) -> ZoneInfo:
    zone = Zone(0, "Normal", 0, 0, True, 10_000, 12_500, 15_000, 1 << 20)
    return ZoneInfo(tuple([replace(zone, node=node, free_pages=pages) for node, pages in enumerate(free)]), 4096, 0)


def memory(available: int) -> MemInfo:
    return MemInfo(100 * GIB, available * GIB, 0, 0, 0)


CALM = zones(90_000, 90_000)
SHORT_READING = st.sampled_from(
    [None, None, None, None, memory(50), memory(1), Unknown("x"), Absent(Reason.NOT_PRESENT, "y")]
)
STALLS = st.sampled_from(
    [None, None, None, Psi(PsiLine(0, 0, 0, 0), PsiLine(0, 0, 0, 0)), Absent(Reason.NOT_PRESENT, "z")]
)
ZONES = st.sampled_from(
    [GateShut(CALM, ((0, 90_000), (1, 90_000)), clear_lines=False)] * 6
    + [
        GateShut(CALM, ((0, 90_000), (1, 90_000)), clear_lines=True),
        GateShut(zones(90_000), ((0, 90_000),), clear_lines=False),
    ]
    + [CALM, CALM, zones(2000, 90_000), zones(11_000, 12_000), Unknown("line 1")]
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([10, 10, 10, 17, 100, 240, 1000, 3500, 11_000, 70_000, 4_000_000]), ZONES, SHORT_READING, STALLS
    ),
    min_size=3,
    max_size=40,
)


def inputs(sample: Sample, before: Result | None) -> Inputs:
    outcomes: tuple[Outcome, ...] = ()
    if before is not None and before.state.ladder.kill is not None:
        outcomes = (Outcome(OutcomeKind.GONE, before.state.ladder.kill.number, sample.time_ns),)
    return Inputs(sample.time_ns, sample, Permit(9), (CANDIDATE,), (USAGE,), outcomes)


def compare(rules: Rules, steps: list[tuple[int, object, object, object]]) -> int:
    """How often the short way answered; every answer is checked against the whole step's."""
    state = engine.start(rules, LadderState(clear_since_ns=0))
    before: Result | None = None
    answered, now = 0, 10**13
    for milliseconds, zone, short, stalls in steps:
        now += milliseconds * MS
        sample = Sample(now, zone, short, stalls, stalls)  # type: ignore[arg-type]
        given_inputs = inputs(sample, before)
        after = engine.step(rules, state, given_inputs)
        if before is not None and not given_inputs.outcomes:
            quick = at_rest(rules, before, sample, now)
            if quick is not None:
                answered += 1
                assert quick.state == after.state
                assert replace(quick.decision, time_ns=0, inputs=()) == replace(after.decision, time_ns=0, inputs=())
        before, state = after, after.state
    return answered


@given(STEPS, st.sampled_from(Mode))
def test_the_short_way_says_what_the_whole_step_says_or_nothing(
    steps: list[tuple[int, object, object, object]], mode: Mode
) -> None:
    compare(replace(engine.rules_from_policy(POLICY, 4096), mode=mode), steps)


def test_near_a_line_with_shut_gates_the_short_way_is_taken() -> None:
    shut = GateShut(CALM, ((0, 90_000), (1, 90_000)), clear_lines=False)
    absent = Absent(Reason.NOT_PRESENT, "PSI is compiled out")
    steps = [(10, CALM, memory(50), absent)] * 4 + [(10, shut, None, None)] * 90
    rules = engine.rules_from_policy(POLICY, 4096)
    assert compare(rules, steps) >= 89
    state = engine.start(rules)
    for count, (_, zone, short, stalls) in enumerate(steps):
        sample = Sample(10**13 + count * 10 * MS, zone, short, stalls, stalls)  # type: ignore[arg-type]
        state = engine.step(rules, state, inputs(sample, None)).state
    assert state.triggers.of("stalled").message == "PSI is compiled out", "the reason stays between two readings"


@given(st.lists(st.sampled_from([10, 10, 20, 100, 249, 251, 900, 2999]), min_size=1, max_size=7), st.booleans())
def test_several_readings_of_shut_gates_are_taken_in_as_if_one_after_the_other(gaps: list[int], whole: bool) -> None:
    shut = GateShut(CALM, ((0, 90_000), (1, 90_000)), clear_lines=False)
    absent = Absent(Reason.NOT_PRESENT, "PSI is compiled out")
    rules = engine.rules_from_policy(POLICY, 4096)
    result, now = None, 10**13
    state = engine.start(rules, LadderState(clear_since_ns=0))
    for _ in range(4):
        now += 100 * MS
        result = engine.step(rules, state, inputs(Sample(now, CALM, memory(50), absent, absent), None))
        state = result.state
    assert result is not None
    times = []
    for gap in gaps:
        now += gap * MS
        times.append(now)
        state = engine.step(rules, state, inputs(Sample(now, shut, None, None, None), None)).state
    newest = Sample(now, shut, None, None, None)
    if whole:
        now += 10 * MS
        newest = Sample(now, CALM, memory(50), absent, absent)
        times.append(now)
        state = engine.step(rules, state, inputs(newest, None)).state
    together = at_rest(rules, result, newest, now, tuple(times[:-1]))
    assert together is None or together.state == state
    assert together is not None or now - 10**13 > 3000 * MS, "memory was not read for 3 s"


def test_shut_gates_before_a_whole_sample_of_other_zones_are_stepped_one_after_the_other() -> None:
    absent = Absent(Reason.NOT_PRESENT, "PSI is compiled out")
    rules, now = engine.rules_from_policy(POLICY, 4096), 10**13
    state = engine.start(rules, LadderState(clear_since_ns=0))
    for _ in range(4):
        now += 100 * MS
        result = engine.step(rules, state, inputs(Sample(now, CALM, memory(50), absent, absent), None))
        state = result.state
    for other in (zones(90_000), zones(90_000, 90_000, 90_000), zones(100, 90_000), Unknown("line 1")):
        assert at_rest(rules, result, Sample(now + 20 * MS, other, None, None, None), now, (now + 10 * MS,)) is None


def test_whole_samples_of_an_idle_machine_take_the_short_way_too() -> None:
    absent = Absent(Reason.NOT_PRESENT, "PSI is compiled out")
    rules = engine.rules_from_policy(POLICY, 4096)
    assert compare(rules, [(1000, CALM, memory(50), absent)] * 20) >= 15
