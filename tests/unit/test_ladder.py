"""The episode machine of a node: when a step is due, and what keeps a kill back."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memorypressure import ladder
from memorypressure.grants import Permit, Refusal
from memorypressure.ladder import HardLimits, LadderConfig, LadderState, Observation, Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.records import Decision, EpisodeOutcome, Phase
from memorypressure.spec_values import (
    Action,
    AvailableMemory,
    KillSettings,
    KillUnit,
    Limits,
    Match,
    Mode,
    NodesScope,
    Share,
    Step,
    Trigger,
    TriggerType,
    ZoneWatermark,
)
from memorypressure.triggers import TriggersState, TriggerState, TriggerStatus
from memorypressure.victims import Candidate, Ranked, Ranking
from memorypressure.zone_values import Line

S = 1_000_000_000
MS = 1_000_000
START = 1_000_000 * S
RESERVE = Trigger(
    "reserve", TriggerType.ZONE_WATERMARK, ZoneWatermark(Line.ATOMIC_RESERVE, NodesScope.ANY_NODE, 0, 30, 50)
)
EXHAUSTED = Trigger("exhausted", TriggerType.AVAILABLE_MEMORY, available_memory=AvailableMemory(2, None, None))
LIMITS = Limits(60, 3, Share(percent=10), Share(percent=10), 20, 5, Share(percent=10), 900)
KILL = Step(Action.KILL, ("reserve", "exhausted"), Match.ANY, 0, kill=KillSettings(KillUnit.POD))
CONFIG = LadderConfig(Mode.ENFORCE, (RESERVE, EXHAUSTED), (KILL,), LIMITS)
PERMIT = Permit(1)
A, C, U = TriggerStatus.ACTIVE, TriggerStatus.CLEAR, TriggerStatus.UNKNOWN


def ranking_of(uid: str | None = "u1") -> Ranking:
    if uid is None:
        return Ranking((), (), None, Reason.NO_VICTIM, "no candidate", 0)
    best = Ranked(Candidate(uid, "ns", "pod", 0, "Burstable", 0, 0), 100, True, True, ("c1",))
    return Ranking((best,), (), best, Reason.KILLED, "first", 50)


def triggers_state(
    time_ns: int | None, reserve: TriggerStatus = C, exhausted: TriggerStatus = C, holds: bool = True
) -> TriggersState:
    def one(name: str, status: TriggerStatus, pressed: tuple[tuple[int, int | None], ...]) -> TriggerState:
        active = status is A
        return TriggerState(
            name, status, 0 if time_ns is None else time_ns, f"{name} figures", active and holds, pressed
        )

    return TriggersState(
        (one("reserve", reserve, ((0, None),) if reserve is A else ()), one("exhausted", exhausted, ())), time_ns
    )


class Machine:
    """A ladder with a clock; `at` is one sample."""

    def __init__(self, config: LadderConfig = CONFIG, state: LadderState | None = None) -> None:
        self.config = config
        self.state = state or ladder.initial(START, unknown_past=False)
        self.now_ns = START
        self.ranked: list[frozenset[int]] = []

    def at(
        self,
        seconds: float,
        reserve: TriggerStatus = A,
        exhausted: TriggerStatus = C,
        *,
        holds: bool = True,
        age_ns: int = 0,
        permit: Permit | Refusal = PERMIT,
        uid: str | None = "u1",
        outcomes: tuple[Outcome, ...] = (),
        movable: frozenset[int] = frozenset(),
        can_kill: bool = True,
        lock_held: bool = False,
        pods_known: bool = True,
    ) -> Decision:
        def rank(nodes: frozenset[int]) -> Ranking:
            self.ranked.append(nodes)
            return ranking_of(uid)

        self.now_ns = START + int(seconds * S)
        seen = triggers_state(self.now_ns - age_ns, reserve, exhausted, holds)
        observation = Observation(
            self.now_ns, seen, permit, rank if pods_known else None, outcomes, movable, can_kill, lock_held
        )
        self.state, decision = ladder.advance(self.config, self.state, observation)
        return decision

    def kill(self, seconds: float) -> Decision:
        decision = self.at(seconds)
        assert decision.action is Action.KILL, decision
        return decision

    def gone(self, decision: Decision, seconds: float, reserve: TriggerStatus = A) -> Decision:
        outcome = Outcome(OutcomeKind.GONE, decision.action_number, START + int(seconds * S))
        return self.at(seconds, reserve, outcomes=(outcome,))

    def clear(self, start: float, end: float, step: float = 5.0) -> Decision:
        seconds = start
        while seconds < end:
            self.at(seconds, C)
            seconds += step
        return self.at(end, C)


def test_an_active_trigger_that_holds_kills_the_chosen_pod_within_the_grant() -> None:
    machine = Machine()
    assert machine.at(0, C).reason is Reason.NO_PRESSURE
    decision = machine.at(1)
    assert (decision.action, decision.reason, decision.mode) == (Action.KILL, Reason.KILLED, Mode.ENFORCE)
    assert decision.acts
    assert decision.victim is not None
    assert decision.victim.pod.uid == "u1"
    assert decision.cause is Reason.ATOMIC_RESERVE_BREACHED
    assert "reserve figures" in decision.message
    assert machine.state.phase is Phase.ACTING
    assert machine.ranked == [frozenset({0})]
    json.dumps(decision.to_json())


REFUSALS = [
    ("stale", {"age_ns": 50 * MS + 1}, Reason.SAMPLE_STALE),
    ("from the future", {"age_ns": -1}, Reason.SAMPLE_STALE),
    ("not holding now", {"holds": False}, Reason.NOT_HOLDING),
    ("unknown", {"reserve": U}, Reason.SIGNAL_UNKNOWN),
    ("clear", {"reserve": C}, Reason.NO_PRESSURE),
    ("another sentinel", {"lock_held": True}, Reason.LOCK_HELD),
    ("no capability", {"can_kill": False}, Reason.CAPABILITY_MISSING),
    ("no grant", {"permit": Refusal(Reason.NO_GRANT, "none")}, Reason.NO_GRANT),
    ("expired", {"permit": Refusal(Reason.GRANT_EXPIRED, "old")}, Reason.GRANT_EXPIRED),
    ("movable free", {"movable": frozenset({0})}, Reason.MOVABLE_FREE),
    ("no victim", {"uid": None}, Reason.NO_VICTIM),
    ("pods not known", {"pods_known": False}, Reason.NO_VICTIM),
]


@pytest.mark.parametrize(("name", "seen", "reason"), REFUSALS, ids=[name for name, _, _ in REFUSALS])
def test_nothing_is_killed_and_the_reason_is_told(name: str, seen: dict[str, object], reason: Reason) -> None:
    decision = Machine().at(1, **seen)  # type: ignore[arg-type]
    assert (decision.action, decision.reason) == (None, reason)
    assert decision.message


@given(
    reserve=st.sampled_from([A, C, U]),
    exhausted=st.sampled_from([A, C, U]),
    match=st.sampled_from(list(Match)),
    holds=st.booleans(),
    age_ms=st.integers(-10, 5000),
    permitted=st.booleans(),
    mode=st.sampled_from(list(Mode)),
)
def test_invariant_1_and_2_unknown_or_stale_input_or_a_missing_grant_never_acts(
    reserve: TriggerStatus,
    exhausted: TriggerStatus,
    match: Match,
    holds: bool,
    age_ms: int,
    permitted: bool,
    mode: Mode,
) -> None:
    config = replace(CONFIG, mode=mode, ladder=(replace(KILL, match=match),))
    permit = PERMIT if permitted else Refusal(Reason.NO_GRANT, "none")
    decision = Machine(config).at(1, reserve, exhausted, holds=holds, age_ns=age_ms * MS, permit=permit)
    known = A in (reserve, exhausted) if match is Match.ANY else (reserve, exhausted) == (A, A)
    may = known and holds and 0 <= age_ms <= 50 and mode is not Mode.DISABLED
    assert (decision.action is Action.KILL) == (may and (permitted or mode is Mode.DRY_RUN))
    assert decision.acts == (may and permitted and mode is Mode.ENFORCE)


def test_with_match_all_an_unknown_trigger_blocks() -> None:
    machine = Machine(replace(CONFIG, ladder=(replace(KILL, match=Match.ALL),)))
    assert machine.at(1, A, U).action is None
    assert machine.at(2, A, A).action is Action.KILL


def test_a_memory_trigger_relieves_the_whole_machine_and_is_not_stopped_by_movable() -> None:
    machine = Machine()
    machine.at(1, C, A, movable=frozenset({0}))
    assert machine.ranked == [frozenset()]


def test_after_seconds_counts_from_when_the_condition_became_true() -> None:
    machine = Machine(replace(CONFIG, ladder=(replace(KILL, after_seconds=20),)))
    assert machine.at(0).reason is Reason.STEP_NOT_DUE
    assert machine.at(19.9, C, A).reason is Reason.STEP_NOT_DUE, "another trigger carries the condition on"
    assert machine.at(20, C, A).action is Action.KILL


def test_invariant_5_no_second_kill_before_the_first_is_gone_and_the_cooldown_has_passed() -> None:
    machine = Machine()
    first = machine.kill(0)
    assert machine.at(1).reason is Reason.WAITING_FOR_VICTIM
    assert machine.state.phase is Phase.WAITING
    assert machine.gone(first, 2).reason is Reason.COOLDOWN
    assert machine.state.phase.value == "CoolingDown"
    assert machine.at(61.99).reason is Reason.COOLDOWN
    assert machine.at(62).action is Action.KILL


def test_a_victim_that_shrinks_is_waited_for_up_to_30_seconds() -> None:
    machine = Machine()
    first = machine.kill(0)
    for second in range(1, 30):
        progress = Outcome(OutcomeKind.PROGRESS, first.action_number, START + second * S, 1000 - second)
        assert machine.at(second, outcomes=(progress,)).reason is Reason.WAITING_FOR_VICTIM
    assert machine.at(30).reason is Reason.COOLDOWN


def test_a_victim_that_does_not_shrink_is_waited_for_10_seconds() -> None:
    machine = Machine()
    first = machine.kill(0)
    stuck = Outcome(OutcomeKind.PROGRESS, first.action_number, START, 1000)
    machine.at(1, outcomes=(stuck,))
    assert machine.at(9.9, outcomes=(replace(stuck, time_ns=START + 9 * S),)).reason is Reason.WAITING_FOR_VICTIM
    assert machine.at(10, outcomes=()).reason is Reason.COOLDOWN


def test_reports_about_another_action_change_nothing() -> None:
    machine = Machine()
    machine.kill(0)
    outcome = Outcome(OutcomeKind.GONE, 77, START)
    assert machine.at(1, outcomes=(outcome,)).reason is Reason.WAITING_FOR_VICTIM


def test_a_kill_that_failed_holds_off_for_the_agents_own_cooldown() -> None:
    machine = Machine()
    first = machine.kill(0)
    failed = Outcome(OutcomeKind.FAILED, first.action_number, START, message="ENODEV")
    assert machine.at(1, outcomes=(failed,)).reason is Reason.COOLDOWN
    assert machine.at(10).action is Action.KILL


def test_invariant_6_the_lines_are_read_afresh_between_two_kills() -> None:
    machine = Machine(replace(CONFIG, limits=replace(LIMITS, cooldown_seconds=0), hard=HardLimits(6, 0)))
    first = machine.kill(0)
    outcome = Outcome(OutcomeKind.GONE, first.action_number, START + S)
    decision = machine.at(1.01, outcomes=(outcome,), age_ns=11 * MS)
    assert decision.reason is Reason.SAMPLE_STALE
    assert machine.at(1.02).action is Action.KILL


def test_invariant_8_a_policy_change_takes_effect_at_once_but_never_shortens_a_cooldown() -> None:
    machine = Machine()
    machine.gone(machine.kill(0), 1)
    machine.config = replace(CONFIG, limits=replace(LIMITS, cooldown_seconds=10))
    assert machine.at(60).reason is Reason.COOLDOWN
    machine.config = replace(machine.config, mode=Mode.DRY_RUN)
    assert machine.at(61).reason is Reason.WOULD_KILL
    machine.config = replace(machine.config, mode=Mode.DISABLED)
    assert machine.at(62).reason is Reason.MODE_DISABLED


def test_two_kills_that_do_not_help_stop_killing_for_half_an_hour() -> None:
    machine = Machine()
    machine.gone(machine.kill(0), 1)
    machine.gone(machine.kill(70), 71)
    decision = machine.at(140)
    assert decision.reason is Reason.FUTILE
    assert "NOT HELP" in decision.message
    assert machine.at(70 + 1799).reason is Reason.FUTILE
    assert machine.at(70 + 1800).action is Action.KILL


def test_a_minute_of_clear_between_two_kills_is_not_futile() -> None:
    machine = Machine()
    machine.gone(machine.kill(0), 1)
    machine.clear(2, 63)
    machine.gone(machine.kill(70), 71)
    assert machine.at(140).reason is not Reason.FUTILE


@pytest.mark.parametrize(
    ("clear_seconds", "second_kill", "futile"),
    [(59, 70, True), (60, 70, False), (0, 600, True), (0, 601, False)],
    ids=["59 s of clear", "60 s of clear", "within 10 minutes", "after 10 minutes"],
)
def test_futile_are_two_kills_within_10_minutes_without_60_s_of_clear_between_them(
    clear_seconds: int, second_kill: int, futile: bool
) -> None:
    machine = Machine()
    machine.gone(machine.kill(0), 1)
    machine.clear(2, 2 + clear_seconds)
    machine.gone(machine.kill(second_kill), second_kill + 1)
    assert (machine.at(second_kill + 70).reason is Reason.FUTILE) is futile


def test_an_episode_ends_after_120_s_of_clear_and_no_earlier() -> None:
    machine = Machine()
    machine.gone(machine.kill(0), 1)
    machine.clear(2, 121)
    assert machine.state.running is not None
    machine.at(122, C)
    assert machine.state.running is None


def test_a_victim_whose_memory_has_not_fallen_for_3_s_is_waited_for_no_longer_than_10_s() -> None:
    for fell, reason in ((8, Reason.WAITING_FOR_VICTIM), (6, Reason.COOLDOWN)):
        machine = Machine()
        first = machine.kill(0)
        fallen = [Outcome(OutcomeKind.PROGRESS, first.action_number, START + at * S, 1000 - at) for at in (1, fell)]
        machine.at(9, outcomes=tuple(fallen))
        assert machine.at(10.5).reason is reason


def test_a_silence_is_no_calm() -> None:
    machine = Machine()
    machine.gone(machine.kill(0), 1)
    machine.at(2, C)
    machine.at(100, C)  # nothing was seen for 98 s
    machine.gone(machine.kill(101), 102)
    assert machine.at(190).reason is Reason.FUTILE


def test_an_episode_has_a_limit_and_the_next_one_starts_again() -> None:
    machine = Machine(replace(CONFIG, limits=replace(LIMITS, max_victims_per_episode=1)))
    machine.gone(machine.kill(0), 1)
    machine.clear(2, 70)
    assert machine.at(71).reason is Reason.EPISODE_LIMIT, "70 s of clear are the same episode"
    machine.clear(72, 195)
    episode = machine.state.episode
    assert episode is not None
    assert (episode.end_ns, episode.outcome) == (START + 72 * S, EpisodeOutcome.RECOVERED_AFTER_ACTION)
    assert machine.kill(200).episode == 2


def test_an_unknown_trigger_of_the_episode_does_not_end_it() -> None:
    machine = Machine()
    machine.at(0, A, permit=Refusal(Reason.NO_GRANT, ""))
    for second in range(1, 300):
        machine.at(second, U)
    assert machine.state.running is not None


def test_the_agents_own_limits_hold_against_any_policy() -> None:
    config = replace(
        CONFIG, limits=replace(LIMITS, cooldown_seconds=1, max_victims_per_episode=50), hard=HardLimits(2, 30)
    )
    machine = Machine(config)
    machine.gone(machine.kill(0), 1)
    assert machine.at(29).reason is Reason.COOLDOWN
    machine.clear(32, 100)
    machine.gone(machine.kill(101), 102)
    machine.clear(103, 200)
    assert machine.at(201).reason is Reason.AGENT_LIMIT
    machine.clear(3500, 3602)
    assert machine.at(3603).action is Action.KILL


def test_dry_run_only_on_the_command_line_lowers_enforce() -> None:
    machine = Machine(replace(CONFIG, hard=HardLimits(dry_run_only=True)))
    decision = machine.at(0)
    assert (decision.reason, decision.acts) == (Reason.WOULD_KILL, False)


def test_invariant_3_dry_run_decides_once_in_an_episode_and_then_nothing() -> None:
    machine = Machine(replace(CONFIG, mode=Mode.DRY_RUN))
    refusal = Refusal(Reason.MODE_NOT_ENFORCE, "DryRun")
    decision = machine.at(0, permit=refusal, can_kill=False, lock_held=True)
    assert (decision.action, decision.reason, decision.acts) == (Action.KILL, Reason.WOULD_KILL, False)
    for second in range(1, 200):
        assert machine.at(second, permit=refusal).reason is Reason.DRY_RUN
    machine.clear(200, 330)
    assert machine.at(331, permit=refusal).reason is Reason.WOULD_KILL
    assert machine.state.kills == ()


def test_dry_run_spends_a_shadow_budget() -> None:
    machine = Machine(replace(CONFIG, mode=Mode.DRY_RUN, limits=replace(LIMITS, kills_per_hour=1)))
    assert machine.at(0).reason is Reason.WOULD_KILL
    machine.clear(1, 125)
    assert machine.at(130).reason is Reason.BUDGET_EXHAUSTED


def test_a_recording_without_pods_decides_without_a_name() -> None:
    decision = Machine(replace(CONFIG, mode=Mode.DRY_RUN)).at(0, pods_known=False)
    assert (decision.action, decision.reason, decision.victim) == (Action.KILL, Reason.WOULD_KILL, None)


def test_a_new_journal_with_an_unknown_past_begins_with_a_cooldown() -> None:
    machine = Machine(state=ladder.initial(START, unknown_past=True))
    assert machine.at(0).reason is Reason.COOLDOWN
    machine.config = replace(CONFIG, limits=replace(LIMITS, cooldown_seconds=10))
    assert machine.at(59).reason is Reason.COOLDOWN
    assert machine.at(60).action is Action.KILL


def test_a_restart_after_the_decision_waits_for_that_victim() -> None:
    machine = Machine()
    decision = machine.kill(0)
    kept = json.loads(json.dumps(ladder.durable(machine.state)))
    again = Machine(state=ladder.restored(kept, START + 3 * S))
    assert again.at(3).reason is Reason.WAITING_FOR_VICTIM
    again.gone(decision, 4)
    assert again.at(63).reason is Reason.COOLDOWN
    assert again.at(64).action is Action.KILL
    assert again.at(65).reason is Reason.WAITING_FOR_VICTIM
    again.gone(replace(decision, action_number=2), 66)
    assert again.at(130).reason is Reason.FUTILE, "the kill before the restart counts"


def test_a_process_that_takes_over_a_kill_waits_as_long_as_the_one_that_decided_it() -> None:
    """The kubelet started the sentinel again 20 s after the kill: the wait was over before anybody had looked."""
    kept = json.loads(json.dumps(ladder.durable(_after_a_kill().state)))
    looks = Machine(state=ladder.restored(kept, START + 20 * S))
    assert looks.at(20).reason is Reason.WAITING_FOR_VICTIM
    assert looks.at(29.9).reason is Reason.WAITING_FOR_VICTIM
    assert looks.at(30).reason is Reason.COOLDOWN
    assert looks.state.ended_ns == START + 30 * S


def _after_a_kill() -> Machine:
    machine = Machine()
    machine.kill(0)
    return machine


BAD_MEMORIES: list[tuple[str, dict[str, object] | None]] = [
    ("nothing kept", None),
    ("fields missing", {"kills": []}),
    ("of another type", {**ladder.durable(LadderState()), "kills": "x"}),
    ("from the future", {**ladder.durable(LadderState()), "kills": [START + 1]}),
]


@pytest.mark.parametrize(("name", "kept"), BAD_MEMORIES, ids=[name for name, _ in BAD_MEMORIES])
def test_what_a_journal_does_not_tell_is_an_unknown_past(name: str, kept: dict[str, object] | None) -> None:
    machine = Machine(state=ladder.restored(kept, START))
    assert machine.at(0).reason is Reason.COOLDOWN


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.01, 0.5, 1, 5, 9, 11, 31, 61, 130, 700, 2000]),
        st.sampled_from([A, A, A, C, U]),
        st.sampled_from(["none", "none", "gone", "failed", "progress", "restart", "crash"]),
        st.sampled_from([10, 60, 300]),
        st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.DRY_RUN]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_invariants_5_6_and_8_hold_over_any_history_with_restarts(
    events: list[tuple[float, TriggerStatus, str, int, Mode]],
) -> None:
    """Kills lie apart by the wait's end and the cool-down that was in force at it, and no hour has more than six."""
    machine = Machine()
    kept = ladder.durable(machine.state)
    seconds = 0.0
    kills: list[float] = []
    allowed_from = 0.0
    open_kill: Decision | None = None
    waits_from = 0.0
    known = open_kill, allowed_from
    for gap, status, event, cooldown, mode in events:
        seconds += gap
        machine.config = replace(CONFIG, mode=mode, limits=replace(LIMITS, cooldown_seconds=cooldown))
        outcomes: tuple[Outcome, ...] = ()
        if event in ("restart", "crash"):
            machine.state = ladder.restored(kept, START + int(seconds * S))
            open_kill, allowed_from = known  # what ended after the last write has to end again
            waits_from = seconds
        if open_kill is not None and event in ("gone", "failed"):
            kind = OutcomeKind.GONE if event == "gone" else OutcomeKind.FAILED
            outcomes = (Outcome(kind, open_kill.action_number, START + int(seconds * S)),)
            allowed_from = seconds + (cooldown if event == "gone" else 10)
            open_kill = None
        elif open_kill is not None and seconds - waits_from >= 10:
            allowed_from = seconds + cooldown  # nothing was heard of it, so its wait ends with this sample
            open_kill = None
        decision = machine.at(seconds, status, outcomes=outcomes)
        if decision.acts:
            assert status is A
            assert open_kill is None
            assert seconds >= allowed_from - 1e-6
            kills.append(seconds)
            waits_from = seconds
            open_kill = decision
        if decision.acts or event != "crash":  # a kill is written down before cgroup.kill
            kept = json.loads(json.dumps(ladder.durable(machine.state)))
            known = open_kill, allowed_from
    for end in kills:
        assert sum(1 for each in kills if end - 3600 < each <= end) <= 6
