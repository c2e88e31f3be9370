"""Which nodes may hold an allowance, by the ledgers of all policies and by what nodes show where one is not known."""

from collections.abc import Callable, Mapping

from memorypressure.ledger import Entry, Ledger
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.granting import may_be_used, may_hold, shows_allowance
from memorypressure_operator.named import Named
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import StateView


def nodes_of(store: Store) -> set[str]:
    """Nodes that the ledger names."""
    return {entry.node for entry in store.desk.ledger.entries} if store.desk is not None else set()


class Holdings:
    """Used by the decision loop only."""

    def __init__(self, budgets: Budgets, registry: Registry, clock: Callable[[], float]) -> None:
        self._budgets = budgets
        self._registry = registry
        self._indexes: dict[str, tuple[Ledger, dict[str, tuple[Entry, ...]]]] = {}
        self._named = Named(clock)
        self.unsure: dict[str, set[str]] = {}  # policy -> its nodes that may hold an allowance of an unreadable ledger

    def of(self, store: Store, node: str) -> tuple[Entry, ...]:
        """What the store's ledger holds for a node; by an index, made anew when the ledger has changed."""
        if store.desk is None:
            return ()
        ledger = store.desk.ledger
        known = self._indexes.get(store.policy)
        if known is None or known[0] is not ledger:
            index: dict[str, list[Entry]] = {}
            for entry in ledger.entries:
                index.setdefault(entry.node, []).append(entry)
            known = self._indexes[store.policy] = (ledger, {name: tuple(each) for name, each in index.items()})
        return known[1].get(node, ())

    def note(self, store: Store) -> set[str]:
        """The nodes that the ledger names now, which `lately` remembers."""
        nodes = nodes_of(store)
        self._named.note(store.policy, nodes)
        return nodes

    def lately(self, node: str, but: str) -> list[str]:
        """Policies whose ledger named the node in the last hour, without policy `but`, by name."""
        return self._named.lately(node, but)

    def is_armed(self, node: str) -> bool:
        """Whether an allowance of the node may be out: by a ledger, by one that cannot be read, by its state.

        The state counts because a ledger may be lost, and not adopted yet.
        """
        state = self._registry.tables.states.get(node)
        return (state is not None and shows_allowance(state)) or any(
            store.desk is None or any(entry.rest for entry in self.of(store, node))
            for store in self._budgets.stores.values()
        )

    def may_plan(self, node: str, grant_seconds: int) -> bool:
        """Whether a plan with this grantSeconds may be written: no grant that is out may come to hold longer by it."""
        return self.against_plan(node, grant_seconds) is None

    def against_plan(self, node: str, grant_seconds: int) -> str | None:
        """The policy whose ledger forbids such a plan, or is not read yet.

        What an agent that was replaced had left does so too: it may read the new plan before it reads that its grant
        has gone.
        """
        for name, store in self._budgets.stores.items():
            if store.desk is None:
                if not store.problem:
                    return name
                continue
            if any(entry.rest and entry.grant_seconds < grant_seconds for entry in self.of(store, node)):
                return name
        return None

    def elsewhere(self, policy: str) -> dict[str, str]:
        """Nodes that may still use an allowance of another policy's ledger, with that policy."""
        states = self._registry.tables.states
        others = ((other, store.desk) for other, store in self._budgets.stores.items() if other != policy)
        return {
            entry.node: other
            for other, desk in others
            if desk is not None
            for entry in desk.ledger.entries
            if may_be_used(entry, states.get(entry.node))
        }

    def unread(self, policy: str) -> list[str]:
        """Other policies whose ledger is not known now."""
        return sorted(other for other, store in self._budgets.stores.items() if other != policy and store.desk is None)

    def of_unread(self, policy: str, states: Mapping[str, StateView]) -> set[str]:
        """Nodes of the policy that may hold an allowance of a ledger that is not known; those of `states` judged anew.

        What a node holds it shows, or has told that it saw. A write that another leader still has under way fails when
        this one has written the state. So a node that shows and tells of none has none, whatever is in that ledger.
        """
        known = self.unsure.setdefault(policy, set())
        there = self._registry.tables.states
        known -= {node for node in known if node in states or node not in there}
        if not self.unread(policy):
            known.clear()
            return known
        mine = self._budgets.stores[policy]
        for node, state in states.items():
            if may_hold(state) and not any(may_be_used(entry, state) for entry in self.of(mine, node)):
                known.add(node)
        return known
