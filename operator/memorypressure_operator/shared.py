"""Equal values kept once: thousands of nodes and pods differ in little, and memory is what a large cluster costs."""

from collections.abc import Hashable
from typing import Any, TypeVar

Value = TypeVar("Value", bound=Hashable)


class Shared:
    """Gives back the first of equal values. It forgets them all when there are `limit`: then new ones are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[Any, Any] = {}

    def keep(self, value: Value) -> Value:
        """An equal value, perhaps an earlier one; never change what it holds."""
        if len(self._kept) >= self._limit:
            self._kept.clear()
        found: Value = self._kept.setdefault(value, value)
        return found
