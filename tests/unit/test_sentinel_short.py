"""While a NUMA node is below Min no source or cgroup is opened anew: that allocates, and waits for reclaim then."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BELOW_RESERVE_PAGES, UID, Bench

from memorypressure_agent.sentinel import helper

OTHER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
PLENTY = 90_000


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Its helper has the test's clock, too, and turns when the test says so."""
    made = Bench(tmp_path)
    monkeypatch.setattr(helper, "boot_ns", made.clock)
    for _ in range(3):
        made.round(1000, PLENTY)
    made.helper._turn()
    yield made
    made.close()


def listed(bench: Bench) -> set[str]:
    """Containers that are held of the candidate."""
    return {container.id for usage in bench.helper.snapshot.usages for container in usage.containers}


def test_no_source_is_looked_up_and_the_list_of_cgroups_stays_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(bench.readings, "recheck", lambda: looked.append(bench.now))
    bench.round(1000, PLENTY)
    assert len(looked) == 1
    before = listed(bench)
    assert "c0de01" in before
    bench.round(1000, BELOW_RESERVE_PAGES)  # what is due in this round was begun before it was known
    looked.clear()
    bench.tree.add_container(UID, "c0de02", Memory(anon=9 * MIB))
    asked: list[int] = []
    monkeypatch.setattr(bench.helper, "_kill_capability", lambda: asked.append(bench.now) or "")
    for _ in range(60):
        bench.round(1000, BELOW_RESERVE_PAGES)
        bench.helper._turn()
    assert (looked, asked) == ([], [])
    assert listed(bench) == before
    assert bench.now - bench.helper.snapshot.time_ns < 10**9, "the figures of those that are held are read all the same"
    assert bench.helper.status()["listKept"]
    for _ in range(60):
        bench.round(1000, PLENTY)
        bench.helper._turn()
    assert looked
    assert asked
    assert listed(bench) == {*before, "c0de02"}
    assert not bench.helper.status()["listKept"]
