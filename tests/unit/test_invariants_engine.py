"""What holds at every moment, through the whole core, from a real machine's zoneinfo to a decision."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from memorypressure import engine
from memorypressure.engine import EngineState, Inputs, Result, Rules
from memorypressure.grants import Permit, Refusal
from memorypressure.reasons import Reason
from memorypressure.signals import Absent, Sample, Unknown
from memorypressure.spec import parse_policy
from memorypressure.spec_values import Action, Mode
from memorypressure.victims import Candidate, ContainerUsage, Usage
from memorypressure.zone_values import ZoneInfo
from memorypressure.zones import parse_zoneinfo

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests" / "fixtures" / "captures"
MS = 1_000_000
START = 10**15
ABSENT = Absent(Reason.NOT_PRESENT, "not in this test")
CANDIDATE = Candidate("u1", "shop", "web", 0, "Burstable", 0, 0)
PERMIT = Permit(1)
USAGE = Usage("u1", (ContainerUsage("c", 1 << 40, 1 << 40, 3),), 600)


def zones(name: str) -> ZoneInfo:
    return parse_zoneinfo(next(CAPTURES.rglob(f"*{name}*")).read_bytes(), 4096)


def rules(mode: Mode = Mode.ENFORCE) -> Rules:
    policy = parse_policy(yaml.safe_load((ROOT / "crds" / "samples" / "default.yaml").read_text()))
    return replace(engine.rules_from_policy(policy, 4096), mode=mode)


def seen_above_min(reading: ZoneInfo | Unknown, used: Rules, now_ns: int) -> EngineState:
    """The state after the same machine was seen with 20,000 pages more free, none of which anybody claims since."""
    state = engine.start(used)
    if not isinstance(reading, ZoneInfo):
        return state
    free = tuple(replace(zone, free_pages=zone.free_pages + 20_000) for zone in reading.zones if zone.managed_pages)
    sample = Sample(now_ns, replace(reading, zones=free), ABSENT, ABSENT, ABSENT)
    return engine.step(used, state, Inputs(now_ns, sample, PERMIT, (CANDIDATE,), (USAGE,))).state


def run(
    reading: ZoneInfo | Unknown,
    used: Rules,
    permit: Permit | Refusal = PERMIT,
    candidates: tuple[Candidate, ...] = (CANDIDATE,),
    samples: int = 12,
    state: EngineState | None = None,
    start_ns: int = START,
) -> list[Result]:
    if state is None:
        state = seen_above_min(reading, used, start_ns - 10 * MS)
    results = []
    for index in range(samples):
        now_ns = start_ns + index * 10 * MS
        sample = Sample(now_ns, reading, ABSENT, ABSENT, ABSENT)
        result = engine.step(used, state, Inputs(now_ns, sample, permit, candidates, (USAGE,)))
        results.append(result)
        state = result.state
    return results


def test_below_the_reserve_for_long_enough_kills_the_best_victim_once() -> None:
    results = run(zones("below-half"), rules())
    kills = [result for result in results if result.decision.action is Action.KILL]
    assert len(kills) == 1
    assert kills[0].decision.cause is Reason.ATOMIC_RESERVE_BREACHED
    assert kills[0].decision.to_json()["inputs"]["neededBytes"] > 0
    assert results[-1].decision.reason is Reason.WAITING_FOR_VICTIM
    assert results.index(kills[0]) >= 2, "one or two samples never act"


def test_invariant_2_without_a_grant_or_a_candidate_nothing_is_killed() -> None:
    refused = run(zones("below-half"), rules(), Refusal(Reason.NO_GRANT, "none"))
    assert {result.decision.action for result in refused} == {None}
    assert refused[-1].decision.reason is Reason.NO_GRANT
    alone = run(zones("below-half"), rules(), candidates=())
    assert alone[-1].decision.reason is Reason.NO_VICTIM


def test_invariant_1_what_is_not_understood_never_acts() -> None:
    results = run(Unknown("line 3: 'min x'"), rules())
    assert {result.decision.action for result in results} == {None}
    assert results[-1].decision.reason is Reason.SIGNAL_UNKNOWN


def test_invariant_3_dry_run_decides_as_enforce_up_to_the_first_action() -> None:
    enforced = run(zones("below-half"), rules())
    dry = run(zones("below-half"), rules(Mode.DRY_RUN), Refusal(Reason.MODE_NOT_ENFORCE, "DryRun"))
    at = next(index for index, result in enumerate(enforced) if result.decision.action)
    assert [result.decision.action for result in dry[: at + 1]] == [
        result.decision.action for result in enforced[: at + 1]
    ]
    assert dry[at].decision.victim == enforced[at].decision.victim
    assert not any(result.decision.acts for result in dry)
    assert {result.decision.action for result in dry[at + 1 :]} == {None}


def test_invariant_8_other_limits_keep_the_windows_and_another_trigger_begins_anew() -> None:
    used = rules()
    before = run(zones("below-half"), used, samples=2)[-1]
    assert before.decision.action is None
    later = START + 20 * MS
    same = replace(used, limits=replace(used.limits, cooldown_seconds=10))
    kept = run(zones("below-half"), same, samples=3, state=before.state, start_ns=later)
    assert any(result.decision.action for result in kept)
    reserve = next(each for each in used.triggers if each.name == "reserve")
    assert reserve.zone_watermark is not None
    changed = replace(reserve, zone_watermark=replace(reserve.zone_watermark, margin_percent=10))
    triggers = tuple(changed if each.name == "reserve" else each for each in used.triggers)
    anew = run(zones("below-half"), replace(used, triggers=triggers), samples=2, state=before.state, start_ns=later)
    assert not any(result.decision.action for result in anew)


@pytest.mark.parametrize("mode", list(Mode))
def test_an_idle_machine_has_no_pressure(mode: Mode) -> None:
    idle = next(path for path in sorted(CAPTURES.rglob("*zoneinfo*")) if "below" not in path.name)
    results = run(parse_zoneinfo(idle.read_bytes(), 4096), rules(mode))
    assert {result.decision.action for result in results} == {None}
