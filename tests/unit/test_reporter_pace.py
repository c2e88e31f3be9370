"""When the reporter writes the status: the rates of the API, back-off, jitter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure_agent.reporter.pace import (
    LONGEST_BACKOFF_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    MOST_STRETCH,
    Pace,
    Wish,
    backoff_seconds,
    due,
    failed,
    succeeded,
)

NOTHING = Wish(transition=False, action=False, under_pressure=False, beat_seconds=None)
TRANSITION = Wish(transition=True, action=False, under_pressure=False, beat_seconds=None)
ACTION = Wish(transition=True, action=True, under_pressure=True, beat_seconds=None)
ACTION_AND_BEAT = Wish(transition=True, action=True, under_pressure=True, beat_seconds=5.0)
PRESSURE = Wish(transition=False, action=False, under_pressure=True, beat_seconds=None)


def beat(seconds: float) -> Wish:
    return Wish(transition=False, action=False, under_pressure=False, beat_seconds=seconds)


@pytest.mark.parametrize(
    ("pace", "now", "wish", "wanted"),
    [
        (Pace(), 0.0, NOTHING, True),
        (Pace(last_write_seconds=100), 10_000.0, NOTHING, False),
        (Pace(last_write_seconds=100), 104.9, TRANSITION, False),
        (Pace(last_write_seconds=100), 105.0, TRANSITION, True),
        (Pace(last_write_seconds=100), 100.9, ACTION, False),
        (Pace(last_write_seconds=100), 101.0, ACTION, True),
        (Pace(last_write_seconds=100), 101.0, ACTION_AND_BEAT, True),
        (Pace(last_write_seconds=100, stretch=4), 103.9, ACTION, False),
        (Pace(last_write_seconds=100, stretch=4), 104.0, ACTION, True),
        (Pace(last_write_seconds=100, failures=1, not_before_seconds=130), 129.9, ACTION, False),
        (Pace(last_write_seconds=100), 109.9, PRESSURE, False),
        (Pace(last_write_seconds=100), 110.0, PRESSURE, True),
        (Pace(last_write_seconds=100, stretch=4), 119.9, TRANSITION, False),
        (Pace(last_write_seconds=100, stretch=4), 120.0, TRANSITION, True),
        (Pace(last_write_seconds=100, stretch=4), 139.9, PRESSURE, False),
        (Pace(last_write_seconds=100, stretch=4), 140.0, PRESSURE, True),
        (Pace(last_write_seconds=100), 300.0, beat(1.9), False),
        (Pace(last_write_seconds=100), 300.0, beat(2.0), True),
        (Pace(last_write_seconds=100), 104.0, beat(3.0), False),
        (Pace(last_write_seconds=100, stretch=8), 105.0, beat(3.0), True),
        (Pace(last_write_seconds=100, failures=1, not_before_seconds=130), 129.9, beat(60.0), False),
        (Pace(last_write_seconds=100, failures=1, not_before_seconds=130), 130.0, NOTHING, True),
        (Pace(failures=3, not_before_seconds=130), 129.0, TRANSITION, False),
    ],
)
def test_a_write_is_due_at_the_rates_of_the_api(pace: Pace, now: float, wish: Wish, wanted: bool) -> None:
    assert due(pace, now, wish, jitter=0.4) is wanted


def test_beats_of_many_nodes_that_begin_together_are_reported_over_five_seconds() -> None:
    pace = Pace(last_write_seconds=0)
    first = [
        next(tenth / 10 for tenth in range(100) if due(pace, 300.0, beat(tenth / 10), node / 100))
        for node in range(101)
    ]
    assert (min(first), max(first)) == (0.0, 5.0)
    assert len(set(first)) > 40


@given(
    answers=st.lists(st.tuples(st.sampled_from(["fast", "slow", "429", "500"]), st.floats(0, 1)), max_size=40),
    retry_after=st.none() | st.floats(0, 1e9),
)
def test_whatever_the_server_does_the_next_write_is_tried_within_five_minutes_and_no_sooner_than_half_a_second(
    answers: list[tuple[str, float]], retry_after: float | None
) -> None:
    pace, now = Pace(), 1000.0
    for answer, jitter in answers:
        if answer in ("fast", "slow"):
            pace = succeeded(pace, now, 0.1 if answer == "fast" else 9.0)
            assert pace.failures == 0
            assert pace.not_before_seconds <= now
        else:
            pace = failed(pace, now, jitter, throttled=answer == "429", retry_after_seconds=retry_after)
            wait = pace.not_before_seconds - now
            assert 0.5 <= wait <= LONGEST_RETRY_AFTER_SECONDS
            assert not due(pace, now, TRANSITION, 0.0)
            assert due(pace, pace.not_before_seconds, NOTHING, 0.0)
        assert 1 <= pace.stretch <= MOST_STRETCH
        now += 1


def test_slow_answers_and_429_stretch_the_intervals_and_fast_answers_bring_them_back() -> None:
    pace = Pace(last_write_seconds=0)
    for _ in range(5):
        pace = failed(pace, 0.0, 0.5, throttled=True, retry_after_seconds=None)
    assert pace.stretch == MOST_STRETCH
    assert failed(Pace(), 0.0, 0.5, throttled=False, retry_after_seconds=None).stretch == 1
    for wanted in (4, 2, 1, 1):
        pace = succeeded(pace, 0.0, 0.1)
        assert pace.stretch == wanted
    assert succeeded(pace, 0.0, 2.1).stretch == 2


@pytest.mark.parametrize(
    ("failures", "jitter", "asked", "wanted"),
    [
        (0, 0.0, None, 0.5),
        (0, 1.0, None, 1.0),
        (3, 1.0, None, 8.0),
        (3, 0.0, None, 4.0),
        (50, 1.0, None, LONGEST_BACKOFF_SECONDS),
        (0, 0.0, 7.0, 7.0),
        (10**6, 0.0, 1e12, LONGEST_RETRY_AFTER_SECONDS),
    ],
)
def test_back_off_doubles_is_half_random_and_heeds_retry_after(
    failures: int, jitter: float, asked: float | None, wanted: float
) -> None:
    assert backoff_seconds(failures, jitter, LONGEST_BACKOFF_SECONDS, asked) == wanted
