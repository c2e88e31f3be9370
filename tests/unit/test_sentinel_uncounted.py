"""A kill that cannot be counted is not done: its count does not read back from the journal, or nobody could read it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import Forgetful
from support.samplerbench import BOOT, UID, Bench, calm_bench, pressed

from memorypressure_agent.host.journal import Journal


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from calm_bench(tmp_path)


def test_a_count_that_does_not_read_back_ends_the_process_before_the_kill_and_the_next_one_says_so(
    bench: Bench,
) -> None:
    whole = bench.journal._map
    bench.journal._map = Forgetful(whole)  # type: ignore[assignment]
    with pytest.raises(OSError, match="does not hold what was written to it"):
        pressed(bench)
    assert bench.tree.killed() == set()
    bench.journal._map = whole
    bench.journal.close()  # and the process is gone
    bench.journal = Journal(bench.journal.path, BOOT)
    assert bench.journal.inherited
    assert bench.journal.grants.kills_total == 0
    bench.sampler.take_journal(bench.journal)
    for _ in range(35):
        bench.round(1000, 90_000)
    assert {result for _, _, result in bench.sampler.counts.ended} == {"Failed"}
    bench.read_figures(UID)
    pressed(bench)
    assert bench.tree.killed() == {"c0de01"}, "its pod is a victim as before"
    assert bench.journal.grants.kills_total == 1


def test_nothing_is_counted_or_killed_once_the_journal_was_replaced(bench: Bench) -> None:
    path = Path(bench.journal.path)
    path.rename(path.with_name("stolen"))
    pressed(bench)
    assert bench.tree.killed() == set()
    assert bench.journal.grants.kills_total == 0
