"""The node's side of the grant protocol: when a kill is allowed, and what a report promises."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure.grants import (
    BEATS_KEPT,
    Grant,
    Leave,
    NodeGrants,
    Permit,
    Refusal,
    beat_due,
    begin_beat,
    may_kill,
    new_journal,
    reserve,
    see_grant,
)
from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode
from memorypressure_agent.host.journal_format import newest_grants, pack_grants

S = 1_000_000_000
NOW = 5000 * S
GRANT = Grant("inc-1", 1, 1, "plan", 3)
LEAVE = Leave(Mode.ENFORCE, GRANT, "plan", 3, 900)


def journal() -> NodeGrants:
    return new_journal("inc-1", NOW)


def asked(leave: Leave | None, state: NodeGrants | None = None, boot_ns: int = NOW) -> Permit | Refusal:
    state = journal() if state is None else state
    return may_kill(see_grant(state, leave.grant if leave else None, boot_ns), leave, boot_ns)


def test_a_valid_grant_allows_as_many_kills_as_its_ceiling_leaves() -> None:
    permit = asked(replace(LEAVE, grant=replace(GRANT, kills_ceiling=3)))
    assert isinstance(permit, Permit)
    assert (permit.left, permit.reason) == (3, Reason.GRANTED)


REFUSALS = [
    ("no orders", None, 0, Reason.NO_ORDERS),
    ("dry run", replace(LEAVE, mode=Mode.DRY_RUN), 0, Reason.MODE_NOT_ENFORCE),
    ("disabled", replace(LEAVE, mode=Mode.DISABLED), 0, Reason.MODE_NOT_ENFORCE),
    ("no grant", replace(LEAVE, grant=None), 0, Reason.NO_GRANT),
    ("another journal", replace(LEAVE, grant=replace(GRANT, incarnation="inc-2")), 0, Reason.WRONG_INCARNATION),
    ("another plan", replace(LEAVE, plan_uid="other"), 0, Reason.PLAN_MISMATCH),
    ("an older plan", replace(LEAVE, plan_generation=2), 0, Reason.PLAN_MISMATCH),
    ("nothing left", replace(LEAVE, grant=replace(GRANT, kills_ceiling=0)), 0, Reason.CEILING_REACHED),
    ("as old as grantSeconds", LEAVE, 900 * S, Reason.GRANT_EXPIRED),
    ("older than the API allows", replace(LEAVE, grant_seconds=10**6), 3600 * S, Reason.GRANT_EXPIRED),
    ("a beat to come", replace(LEAVE, grant=replace(GRANT, beat=2)), 0, Reason.GRANT_EXPIRED),
    ("a beat from the future", LEAVE, -1, Reason.GRANT_EXPIRED),
]


@pytest.mark.parametrize(("name", "leave", "later_ns", "reason"), REFUSALS, ids=[each[0] for each in REFUSALS])
def test_invariant_2_without_a_valid_grant_nothing_is_killed(
    name: str, leave: Leave | None, later_ns: int, reason: Reason
) -> None:
    refusal = asked(leave, boot_ns=NOW + later_ns)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert refusal.message


def test_a_newer_generation_of_the_plan_will_do() -> None:
    assert isinstance(asked(replace(LEAVE, plan_generation=9)), Permit)


def test_a_grant_holds_to_the_last_nanosecond_of_grant_seconds() -> None:
    assert isinstance(asked(LEAVE, boot_ns=NOW + 900 * S - 1), Permit)


def test_a_kill_is_counted_before_it_is_done() -> None:
    state = reserve(see_grant(journal(), GRANT, NOW))
    refusal = may_kill(state, LEAVE, NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.CEILING_REACHED
    assert state.lease.kills_total == 1


def test_a_grant_that_was_not_seen_yet_allows_nothing() -> None:
    assert isinstance(may_kill(journal(), LEAVE, NOW), Refusal)


def test_a_beat_is_due_after_a_third_of_grant_seconds() -> None:
    assert not beat_due(journal(), NOW + 300 * S - 1, 900)
    assert beat_due(journal(), NOW + 300 * S, 900)


def test_a_lowered_ceiling_begins_a_beat_that_acknowledges_it() -> None:
    state = see_grant(journal(), GRANT, NOW)
    lowered = see_grant(state, None, NOW + 1)
    assert (lowered.beat, lowered.ceiling_seen) == (2, 0)
    assert see_grant(lowered, None, NOW + 2) == lowered


def test_a_zero_grant_is_acknowledged_once_by_a_node_that_never_saw_a_higher_one() -> None:
    zero = replace(GRANT, kills_ceiling=0)
    state = see_grant(journal(), zero, NOW)
    assert state.beat == 2
    assert see_grant(state, zero, NOW) == state


def test_an_old_beats_grant_stays_below_what_was_promised_since() -> None:
    state = begin_beat(journal(), NOW)  # beat 2: promised 0 for all grants of beat 1
    state = see_grant(state, replace(GRANT, kills_ceiling=5), NOW)
    assert (state.ceiling_seen, state.beat) == (0, 2)
    assert see_grant(state, replace(GRANT, beat=2, kills_ceiling=5), NOW).ceiling_seen == 5


GRANTS = st.one_of(
    st.none(),
    st.builds(
        Grant, st.sampled_from(["inc-1", "inc-2"]), st.integers(0, 12), st.integers(0, 5), st.just("plan"), st.just(3)
    ),
)


@given(st.lists(st.one_of(GRANTS, st.sampled_from(["beat", "kill", "restart"])), max_size=40))
def test_invariant_4_every_report_keeps_its_promise_over_any_grants_and_restarts(
    events: list[Grant | str | None],
) -> None:
    """After a report (beat n, ceiling c) only a grant that echoes a beat from n on takes kills above c."""
    state, now_ns = journal(), NOW
    promises: list[tuple[int, int]] = []
    echoed: list[Grant] = []
    leave = replace(LEAVE, grant=None)
    for event in events:
        now_ns += S
        promises.append((state.beat, max(state.ceiling_seen, state.kills_total)))
        if event == "beat":
            state = begin_beat(state, now_ns)
        elif event == "restart":
            read = newest_grants("inc-1", (pack_grants(1, state), b""))
            assert read is not None
            state = read[1]
        elif event == "kill":
            if isinstance(may_kill(state, leave, now_ns), Permit):
                state = reserve(state)
        elif event is None or isinstance(event, Grant):
            leave = replace(leave, grant=event)
            state = see_grant(state, event, now_ns)
            if event is not None and event.incarnation == "inc-1":
                echoed.append(event)
        for beat, ceiling in promises:
            later = [grant.kills_ceiling for grant in echoed if grant.beat >= beat]
            assert state.kills_total <= max([ceiling, *later])
        assert len(state.beats) <= BEATS_KEPT
