"""A round of grants at 5,000 nodes and 500 allowances, beside the same with sums made anew at every raise.

    .venv/bin/python tests/bench/granting.py

Prints one JSON object a line. `first`: nothing is out yet, 500 ceilings rise. `steady`: all are out, 4,500 nodes wait.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

from memorypressure import allotment
from memorypressure.allotment import Desk, NodeView, Round
from memorypressure.book import Book
from memorypressure.grants import Lease
from memorypressure.ledger import Ledger
from memorypressure.spec_values import Limits, Mode, Share

NODES = 5000
LIMITS = Limits(60, 3, Share(percent=10), Share(percent=10), 20, 5, Share(percent=10), 900)
ROUND_LIMIT_MILLISECONDS = 100.0


class Recomputing(Book):
    """The book without running sums, as every round was before."""

    @property
    def standing(self) -> int:
        """The sum over all entries."""
        return sum(entry.rest for entry in self._entries.values() if not entry.lost)

    @standing.setter
    def standing(self, value: int) -> None:
        """Nothing is kept."""

    @property
    def spent(self) -> int:
        """The sums over all buckets and entries."""
        return self._killed + sum(entry.rest for entry in self._entries.values() if entry.lost)


def views() -> list[NodeView]:
    """5,000 nodes that report, have a plan and no grant; a tenth is near its line."""
    return [
        NodeView(
            node=f"node-{number:05d}",
            mode=Mode.ENFORCE,
            grant=None,
            lease=Lease(f"{number:032x}.boot", 1, 0, 0),
            plan_uid="plan",
            plan_generation=1,
            armable=True,
            nearness=1.0 + number % 10,
        )
        for number in range(NODES)
    ]


def granted(seen: list[NodeView], decided: Round) -> list[NodeView]:
    """The views after the round's grants were written."""
    grants = {write.node: write.grant for write in decided.writes}
    return [replace(view, grant=grants.get(view.node, view.grant)) for view in seen]


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Median of several runs."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)


def row(name: str, value: float, limit: float | None = None) -> None:
    """Prints one measured value."""
    print(json.dumps({"name": name, "value": round(value, 2), "unit": "ms", "limit": limit}), flush=True)


def main() -> None:
    """Measures both forms, and that they decide the same."""
    empty = allotment.opened(Ledger(), 0)
    before = views()
    first = allotment.decide(empty, before, LIMITS, NODES)
    after = granted(before, first)
    desk = first.desk

    def decide(desk: Desk, seen: list[NodeView]) -> Callable[[], Round]:
        return lambda: allotment.decide(desk, seen, LIMITS, NODES)

    with mock.patch.object(allotment, "Book", Recomputing):
        if decide(empty, before)() != first:
            raise ValueError("the two forms decide differently")
        row("round_of_5000_nodes_first_with_sums_made_anew", milliseconds(decide(empty, before), 1))
        row("round_of_5000_nodes_steady_with_sums_made_anew", milliseconds(decide(desk, after), 3))
    row("round_of_5000_nodes_first", milliseconds(decide(empty, before), 5), ROUND_LIMIT_MILLISECONDS)
    row("round_of_5000_nodes_steady", milliseconds(decide(desk, after), 9), ROUND_LIMIT_MILLISECONDS)
    row("reports_of_5000_nodes_settled", milliseconds(lambda: allotment.settled(desk, after, frozenset(), 1), 9), 50.0)


if __name__ == "__main__":
    main()
