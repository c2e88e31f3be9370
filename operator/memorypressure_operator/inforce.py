"""On which nodes each policy is in force, and how: found by what was chosen when each node was last looked at."""

from collections.abc import Iterable, Mapping

from memorypressure.selection import Selection
from memorypressure.spec import Mode
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.registry import Registry


class Modes(dict[str, Mode]):
    """Nodes on which a policy is in force, and how; `disabled` of them in mode Disabled."""

    def __init__(self, chosen: Iterable[tuple[str, Mode]]) -> None:
        super().__init__(chosen)
        self.disabled = sum(mode is Mode.DISABLED for mode in self.values())


class InForce:
    """Counted anew only when a node's choice has moved. Used by the decision loop only."""

    def __init__(self, registry: Registry, memories: Mapping[str, NodeMemory]) -> None:
        self._registry = registry
        self._memories = memories
        self._chosen: dict[str, tuple[str, Mode]] = {}  # node -> policy and mode when it was last looked at
        self._found: dict[str, tuple[int, Modes]] = {}  # policy -> its nodes, and registry.nodes_version then

    def chose(self, node: str, selection: Selection) -> None:
        """A policy was found to be in force on the node; the node's memory says so already."""
        choice = selection.policy.name if selection.policy is not None else "", selection.mode
        if self._chosen.get(node) != choice:
            self._chosen[node] = choice
            self._found.clear()

    def of(self, policy: str) -> Modes:
        """The nodes on which the policy is in force; those that are gone are not among them."""
        version = self._registry.nodes_version
        known = self._found.get(policy)
        if known is not None and known[0] == version:
            return known[1]
        with self._registry.lock:
            nodes = self._registry.tables.nodes
            selections = {n: m.selection for n, m in self._memories.items() if m.selection is not None and n in nodes}
        # Who is not remembered, as at the begin of a term, is missing below: to choose for it again is news.
        self._chosen = {n: choice for n, choice in self._chosen.items() if n in selections}
        chosen = ((n, s.mode) for n, s in selections.items() if s.policy is not None and s.policy.name == policy)
        found = Modes(chosen)
        self._found[policy] = (version, found)
        return found
