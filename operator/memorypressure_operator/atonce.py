"""Requests that do not wait for one another.

An API server on two cores answers some 200 writes a second; one client that waits for each answer makes 100.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 4
A_PASS = 48
"""So many are made before other nodes have their turn: a quarter of a second."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """What `work` makes of each item, in their order, four at once. Raises what it raises, after all have ended."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="requests") as pool:
        return list(pool.map(work, items))
