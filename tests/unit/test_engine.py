"""The composition: one sample in, one decision out, the same for sentinel, run and replay."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure import engine
from memorypressure.engine import EngineState, Inputs, Result, Rules
from memorypressure.grants import Permit, Refusal
from memorypressure.ladder import HardLimits, Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.signals import Absent, Sample, Unknown
from memorypressure.spec import parse_policy
from memorypressure.spec_values import Action, Mode
from memorypressure.triggers import TriggerStatus
from memorypressure.victims import Candidate, ContainerUsage, Usage
from memorypressure.zone_values import Zone, ZoneInfo

MS = 1_000_000
MIB = 1 << 20
ABSENT = Absent(Reason.NOT_PRESENT, "not part of this test")
PERMIT = Permit(5)


def rules(mode: Mode = Mode.ENFORCE, unit: str = "Pod", **zone_watermark: object) -> Rules:
    settings = {"line": "AtomicReserve", "belowMilliseconds": 30, "withinMilliseconds": 50} | zone_watermark
    policy = parse_policy(
        {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "test"},
            "spec": {
                "mode": mode.value,
                "nodeSelector": {},
                "triggers": [{"name": "reserve", "type": "ZoneWatermark", "zoneWatermark": settings}],
                "ladder": [{"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0, "kill": {"unit": unit}}],
            },
        }
    )
    return engine.rules_from_policy(policy, page_bytes=4096)


def normal(node: int, free: int, low: int = 12_500, high: int = 15_000) -> Zone:
    return Zone(node, "Normal", free, 0, True, 10_000, low, high, 1 << 20)


def sample(time_ms: int, *free: int) -> Sample:
    zones = ZoneInfo(tuple(normal(node, pages) for node, pages in enumerate(free)), 4096, 0)
    return Sample(time_ms * MS, zones, ABSENT, ABSENT, ABSENT)


def pod(uid: str, relief_mib: int, node: int = 0) -> tuple[Candidate, Usage]:
    relief = relief_mib * MIB
    container = ContainerUsage("c0ffee", relief, relief, 3, ((node, relief),))
    return Candidate(uid, "shop", f"pod-{uid}", 0, "BestEffort", 0, 0), Usage(uid, (container,), 3600)


PODS = (pod("small", 100), pod("large", 900), pod("other-node", 5000, node=1))


def inputs(taken: Sample, permit: Permit | Refusal = PERMIT, **more: object) -> Inputs:
    candidates, usages = zip(*PODS, strict=True)
    return replace(Inputs(taken.time_ns, taken, permit, candidates, usages), **more)  # type: ignore[arg-type]


def feed(using: Rules, state: EngineState, samples: list[Sample], permit: Permit | Refusal = PERMIT) -> list[Result]:
    results = []
    for taken in samples:
        result = engine.step(using, state, inputs(taken, permit))
        state = result.state
        results.append(result)
    return results


def below(start_ms: int, count: int, *free: int) -> list[Sample]:
    return [sample(start_ms + 10 * tick, *(free or (2000,))) for tick in range(count)]


def test_a_lasting_breach_kills_who_relieves_the_pressed_node_most() -> None:
    results = feed(rules(), engine.start(rules()), below(0, 4, 2000, 90_000))
    assert [result.decision.action for result in results] == [None, None, None, Action.KILL]
    decision = results[-1].decision
    assert decision.victim is not None
    assert (decision.victim.pod.uid, decision.reason, decision.acts) == ("large", Reason.KILLED, True)


@pytest.mark.parametrize(("unit", "container"), [("Pod", ""), ("Container", "c0ffee")])
def test_a_kill_names_the_container_where_it_is_of_one_alone(unit: str, container: str) -> None:
    using = rules(unit=unit)
    decision = feed(using, engine.start(using), below(0, 4, 2000, 90_000))[-1].decision
    assert decision.victim is not None
    assert decision.victim.pod.container == container
    assert decision.victim.containers == ("c0ffee",)


def test_the_message_of_a_kill_has_the_figures_of_the_sample_it_is_decided_at() -> None:
    refused = Refusal(Reason.NO_GRANT, "nothing granted")
    results = feed(rules(), engine.start(rules()), below(0, 10), refused)
    (last,) = feed(rules(), results[-1].state, [sample(100, 1234)])
    assert last.decision.action is Action.KILL
    assert "active for 70 ms; now NUMA node 0 below AtomicReserve: Normal usable 1234 pages" in last.decision.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"permit": Refusal(Reason.NO_GRANT, "nothing granted")}, Reason.NO_GRANT),
        ({"can_kill": False}, Reason.CAPABILITY_MISSING),
        ({"lock_held": True}, Reason.LOCK_HELD),
        ({"candidates": (), "usages": ()}, Reason.NO_VICTIM),
        ({"now_ns": 81 * MS}, Reason.SAMPLE_STALE),
    ],
    ids=["no grant", "no cgroup.kill", "another sentinel", "no candidates", "a sample of 51 ms ago"],
)
def test_an_obstacle_is_a_decision_with_its_reason(change: dict[str, object], reason: Reason) -> None:
    before = feed(rules(), engine.start(rules()), below(0, 3))[-1].state
    result = engine.step(rules(), before, inputs(sample(30, 2000), **change))  # type: ignore[arg-type]
    assert (result.decision.action, result.decision.reason) == (None, reason)


def test_after_a_kill_the_victim_is_waited_for_then_the_cool_down_runs() -> None:
    state = feed(rules(), engine.start(rules()), below(0, 4))[-1].state
    waiting = engine.step(rules(), state, inputs(sample(40, 2000)))
    assert waiting.decision.reason is Reason.WAITING_FOR_VICTIM
    gone = Outcome(OutcomeKind.GONE, state.ladder.actions, 45 * MS)
    after = engine.step(rules(), waiting.state, inputs(sample(50, 2000), outcomes=(gone,)))
    assert after.decision.reason is Reason.COOLDOWN


def test_other_rules_apply_to_the_very_next_sample_and_keep_the_windows_of_triggers_that_did_not_change() -> None:
    state = feed(rules(), engine.start(rules()), below(0, 3))[-1].state
    dry = engine.step(rules(Mode.DRY_RUN), state, inputs(sample(30, 2000)))
    assert (dry.decision.reason, dry.decision.acts) == (Reason.WOULD_KILL, False)


def test_a_trigger_that_changed_begins_anew() -> None:
    state = feed(rules(), engine.start(rules()), below(0, 10))[-1].state
    changed = rules(belowMilliseconds=20)
    results = feed(changed, state, below(100, 3))
    assert results[0].state.triggers.of("reserve").status is TriggerStatus.CLEAR
    assert results[0].decision.reason is not Reason.KILLED


def test_a_change_of_rules_does_not_shorten_a_cool_down() -> None:
    state = feed(rules(), engine.start(rules()), below(0, 4))[-1].state
    gone = Outcome(OutcomeKind.GONE, state.ladder.actions, 35 * MS)
    state = engine.step(rules(), state, inputs(sample(40, 2000), outcomes=(gone,))).state
    short = replace(rules(), limits=replace(rules().limits, cooldown_seconds=10))
    later = engine.step(short, state, inputs(sample(30_000, 2000)))
    assert later.state.ladder.cooldown_until_ns == state.ladder.cooldown_until_ns


def test_the_agents_own_limits_hold_whatever_the_rules_say() -> None:
    strict = replace(rules(), hard=HardLimits(dry_run_only=True))
    decision = feed(strict, engine.start(strict), below(0, 4))[-1].decision
    assert (decision.reason, decision.mode, decision.acts) == (Reason.WOULD_KILL, Mode.DRY_RUN, False)


def test_its_own_pod_is_never_ranked() -> None:
    own = replace(rules(), own_pod_uid="large")
    decision = feed(own, engine.start(own), below(0, 4))[-1].decision
    assert decision.victim is not None
    assert decision.victim.pod.uid != "large"


READINGS = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=400),
        st.one_of(st.none(), st.integers(min_value=0, max_value=30_000)),
    ),
    max_size=40,
)


def taken(readings: list[tuple[int, int | None]]) -> list[Sample]:
    samples, time_ms = [], 0
    for elapsed_ms, free in readings:
        time_ms += elapsed_ms
        unknown = Sample(time_ms * MS, Unknown("made unreadable"), ABSENT, ABSENT, ABSENT)
        samples.append(unknown if free is None else sample(time_ms, free))
    return samples


@given(READINGS)
def test_unknown_never_acts_and_a_kill_stands_on_a_sample_that_is_below(readings: list[tuple[int, int | None]]) -> None:
    samples = taken(readings)
    for given_sample, result in zip(samples, feed(rules(), engine.start(rules()), samples), strict=True):
        if result.decision.action is not None:
            assert isinstance(given_sample.zones, ZoneInfo)
            assert given_sample.zones.nodes[0].below(engine_line())


def engine_line() -> object:
    trigger = rules().triggers[0].zone_watermark
    assert trigger is not None
    return trigger.line


@given(READINGS)
def test_a_dry_run_decides_what_enforce_does_up_to_the_first_action(readings: list[tuple[int, int | None]]) -> None:
    samples = taken(readings)
    first = {}
    for mode in (Mode.ENFORCE, Mode.DRY_RUN):
        results = feed(rules(mode), engine.start(rules(mode)), samples)
        first[mode] = next((r.decision.time_ns for r in results if r.decision.action is not None), None)
        assert mode is Mode.ENFORCE or not any(result.decision.acts for result in results)
    assert first[Mode.ENFORCE] == first[Mode.DRY_RUN]


@given(READINGS)
def test_the_same_inputs_give_the_same_decisions(readings: list[tuple[int, int | None]]) -> None:
    samples = taken(readings)
    assert feed(rules(), engine.start(rules()), samples) == feed(rules(), engine.start(rules()), samples)
