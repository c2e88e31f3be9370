"""An episode in the flight recorder of a sampler: every sample from 5 s before its begin to 30 s after its pressure."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.samplerbench import BELOW_RESERVE_PAGES, BOOT, MS, SECOND, Bench

from memorypressure_agent.host.flight_reader import episodes, rings
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader

CALM_PAGES = 90_000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def calm(bench: Bench, seconds: int) -> None:
    for _ in range(10 * seconds):
        bench.round(100, CALM_PAGES)


def pressed(bench: Bench, seconds: int) -> None:
    for _ in range(50 * seconds):
        bench.round(20, BELOW_RESERVE_PAGES)


def restart(bench: Bench) -> None:
    """The next process continues the journal, a second later."""
    bench.journal.close()
    bench.journal = Journal(bench.journal.path, BOOT)
    bench.now += SECOND
    bench.sampler.take_journal(bench.journal)


def times_of(bench: Bench) -> tuple[set[int], set[int]]:
    """When samples were taken that are in the rings, and that are kept of the one episode, in milliseconds."""
    with JournalReader(bench.journal.path) as reader:
        reader.refresh()
        area = reader.flight()
    (kept,) = episodes(area).values()
    return {each.time_ns // MS for each in rings(area)}, {each.time_ns // MS for each in kept}


def test_it_is_kept_from_5_s_before_to_30_s_after(bench: Bench) -> None:
    calm(bench, 20)
    began = bench.now
    pressed(bench, 3)
    ended = bench.now
    calm(bench, 60)
    seen, kept = times_of(bench)
    assert kept >= {each for each in seen if began - 5 * SECOND <= each * MS <= ended + 30 * SECOND}
    assert max(kept) * MS < ended + 40 * SECOND, "and no longer"


@pytest.mark.parametrize("after_seconds", [0, 2, 20], ids=["under pressure", "as it clears", "when it is over"])
def test_it_is_kept_as_a_whole_by_a_sentinel_that_is_started_anew_meanwhile(bench: Bench, after_seconds: int) -> None:
    calm(bench, 20)
    began = bench.now
    pressed(bench, 10)
    calm(bench, after_seconds)
    restart(bench)
    pressed(bench, 0 if after_seconds else 10)
    ended = bench.now - after_seconds * SECOND
    calm(bench, 60)
    seen, kept = times_of(bench)
    assert kept >= {each for each in seen if began - 5 * SECOND <= each * MS <= ended + 30 * SECOND}
