"""Which nodes a policy's ledger named within the hour: a kill of such a node may be one that it allowed."""

import math
from collections.abc import Callable, Iterable

HOUR_SECONDS = 3600.0
KEPT = 1000


class Named:
    """Policy -> node -> when its ledger named it last. Old ones are forgotten when they have become many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: dict[str, dict[str, float]] = {}
        self._kept: dict[str, int] = {}

    def note(self, policy: str, nodes: Iterable[str]) -> None:
        """The policy's ledger names these now."""
        known, now = self._at.setdefault(policy, {}), self._clock()
        known.update(dict.fromkeys(nodes, now))
        if len(known) > self._kept.get(policy, KEPT):
            known = self._at[policy] = {node: at for node, at in known.items() if at > now - HOUR_SECONDS}
            self._kept[policy] = 2 * len(known) + KEPT

    def lately(self, node: str, but: str) -> list[str]:
        """Policies whose ledger named the node in the last hour, without policy `but`, by name."""
        since = self._clock() - HOUR_SECONDS
        return sorted(name for name, at in self._at.items() if name != but and at.get(node, -math.inf) > since)
