"""A kill that is decided, but written late: the machine slept, the process was stopped, or the journal waited."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.samplerbench import BELOW_RESERVE_PAGES, MS, SECOND, UID, Bench, calm_bench
from support.sentinellab import LIMITS


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from calm_bench(tmp_path)


def pressed(bench: Bench, journal_takes_ns: int) -> None:
    """Five samples below the reserve, with a journal that takes so long to write down that a kill is pending."""
    write = bench.journal.write_state

    def slow(state: dict[str, Any]) -> None:
        if state["pending"] is not None:
            bench.now += journal_takes_ns
        write(state)

    bench.journal.write_state = slow  # type: ignore[method-assign]
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)


def failures(bench: Bench) -> list[str]:
    """Why kills that were decided were not done, as it comes."""
    said = []
    fail = bench.helper.fail_kill

    def failed(action_number: int, message: str) -> None:
        said.append(message)
        fail(action_number, message)

    bench.helper.fail_kill = failed  # type: ignore[method-assign]
    return said


def test_a_kill_in_time_is_done_and_counted(bench: Bench) -> None:
    pressed(bench, 300 * MS)
    assert bench.tree.killed()
    assert bench.journal.grants.kills_total == 1


@pytest.mark.parametrize("late_ns", [2 * SECOND, 3600 * SECOND], ids=["two seconds", "an hour, past the grant"])
def test_a_kill_that_comes_late_is_neither_done_nor_counted(bench: Bench, late_ns: int) -> None:
    said = failures(bench)
    pressed(bench, late_ns)
    assert not bench.tree.killed()
    assert bench.journal.grants.kills_total == 0
    assert [message.split(":")[0] for message in said] == ["too late for a kill"]


def test_a_leave_that_runs_out_while_the_journal_waits_is_none(bench: Bench) -> None:
    said = failures(bench)
    beat = bench.journal.grants.beats[0]
    bench.now = beat.boot_ns + LIMITS.grant_seconds * SECOND - 250 * MS
    bench.read_figures(UID)
    pressed(bench, 300 * MS)
    assert bench.now - beat.boot_ns < LIMITS.grant_seconds * SECOND + SECOND, "the sample was fresh enough"
    (message,) = said
    assert message == "too late for a kill: beat 1 is 900 s old, grantSeconds is 900"
    assert not bench.tree.killed()
    assert bench.journal.grants.kills_total == 0
