"""Orders that name other pods while a node is short: nobody dies for want of a look at those who come first."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.cgrouptree import MIB, Memory
from support.samplerbench import BELOW_RESERVE_PAGES, MS, Bench, calm_bench
from support.sentinellab import candidate, grant_for, orders
from support.sentinelparts import OTHER, UID

from memorypressure.orders import encode
from memorypressure.reasons import Reason


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from calm_bench(tmp_path)


@pytest.fixture
def widened(bench: Bench, tmp_path: Path) -> Bench:
    """Two samples below; then orders name a second pod, which comes before the first. The next sample may kill."""
    bench.tree.add_pod(OTHER)
    bench.tree.add_container(OTHER, "c0de02", Memory(anon=300 * MIB))
    for _ in range(2):
        bench.round(20, BELOW_RESERVE_PAGES)
    grants = bench.journal.grants
    first = replace(candidate(OTHER, "b"), priority=-1000)
    new = orders(candidate(UID, "a"), first, grant=grant_for(grants.incarnation, beat=grants.beat))
    (tmp_path / "new").write_bytes(encode(new))
    (tmp_path / "new").rename(bench.orders_path)
    return bench


def test_a_kill_waits_for_the_helper_to_look_for_the_pods_that_new_orders_name(widened: Bench) -> None:
    widened.round(20, BELOW_RESERVE_PAGES)
    assert widened.reason is Reason.NO_FIGURES
    assert widened.tree.killed() == set()
    widened.helper.candidates.refresh(hold=True)
    widened.round(20, BELOW_RESERVE_PAGES)
    assert widened.tree.killed() == {"c0de02"}


def test_a_helper_that_does_not_come_to_it_is_waited_for_no_longer_than_a_fifth_of_a_second(widened: Bench) -> None:
    began = widened.now
    while not widened.tree.killed():
        widened.round(20, BELOW_RESERVE_PAGES)
        assert widened.now - began <= 240 * MS
    assert widened.now - began > 200 * MS
    assert widened.tree.killed() == {"c0de01"}


def test_a_pod_of_the_orders_that_is_not_on_the_node_is_waited_for_by_nobody(widened: Bench) -> None:
    widened.tree.pod_directory(OTHER).rename(widened.tree.root / "gone")
    widened.helper.candidates.wanted |= {OTHER}
    widened.helper.candidates.refresh(hold=True)
    widened.round(20, BELOW_RESERVE_PAGES)
    assert widened.tree.killed() == {"c0de01"}
