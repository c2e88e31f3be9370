"""While a NUMA node is below Min no source or cgroup is opened anew: that allocates, and waits for reclaim then."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BELOW_RESERVE_PAGES, MS, UID, Bench

from memorypressure_agent.sentinel import helper
from memorypressure_agent.sentinel.candidates import Snapshot
from memorypressure_agent.sentinel.orders_file import OrdersRead

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
    for _ in range(50):
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


def test_the_tree_is_looked_through_once_for_pods_that_become_wanted_and_held_lists_stay_held(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    refresh = bench.helper.candidates.refresh

    def recorded(*, hold: bool) -> Snapshot:
        held.append(hold)
        return refresh(hold=hold)

    monkeypatch.setattr(bench.helper.candidates, "refresh", recorded)
    for _ in range(3):
        bench.round(1000, BELOW_RESERVE_PAGES)
        bench.helper._turn()
    held.clear()
    bench.tree.add_pod(OTHER)
    bench.tree.add_container(OTHER, "c0de07", Memory(anon=9 * MIB))
    bench.helper.want(frozenset((UID, OTHER)))
    for _ in range(5):
        bench.now += 10 * MS
        bench.helper._turn()
    assert held == [True], "at once, once, and without a look at those that are held"
    assert "c0de07" in listed(bench)


def test_orders_that_are_not_there_are_looked_for_once_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.orders_path.unlink()
    for _ in range(3):
        bench.round(1000, BELOW_RESERVE_PAGES)
    looked: list[int] = []
    poll = bench.orders_file.poll

    def recorded(*, look_up: bool) -> OrdersRead | None:
        looked.append(look_up)
        return poll(look_up=look_up)

    monkeypatch.setattr(bench.orders_file, "poll", recorded)
    for _ in range(200):
        bench.round(50, BELOW_RESERVE_PAGES)
    assert len(looked) > 20
    assert 1 <= sum(looked) <= 11
