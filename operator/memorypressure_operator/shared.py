"""Equal values kept once: thousands of nodes and pods differ in little, and memory is what a large cluster costs."""

import sys
from collections.abc import Hashable, Mapping
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


_labels: dict[tuple[str, ...], dict[str, str]] = {}
_LABELS_KEPT = 20_000


def label_words(labels: Mapping[str, str] | None) -> tuple[str, ...]:
    """Labels as key, value, key, value, in order of the keys."""
    return tuple(sys.intern(word) for pair in sorted(labels.items()) for word in pair) if labels else ()


def labels_of(words: tuple[str, ...]) -> dict[str, str]:
    """One shared dict for equal labels. Never change what it returns."""
    found = _labels.get(words)
    if found is None:
        if len(_labels) > _LABELS_KEPT:
            _labels.clear()
        found = _labels[words] = dict(zip(words[::2], words[1::2], strict=True))
    return found
