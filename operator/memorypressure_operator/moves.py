"""The orders in a NodeMemoryState's spec: which mode, policy and plan are in force on a node.

When a policy or many labels change there are many states to write, and each write waits for the API server: they are
written a few at a time, before their nodes have their turn.
"""

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memorypressure.selection import select
from memorypressure.spec import Mode, Policy
from memorypressure_operator import atonce, objects
from memorypressure_operator.api import Api
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.recency import Ours
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, StateView
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

FEW = 3
"""So many moves are left to the nodes' own turns, which come at once: plan and orders are written together there."""


@dataclass(frozen=True, slots=True)
class Move:
    """A node whose state shows another mode or policy than is in force."""

    node: NodeView
    state: StateView
    policy: Policy | None
    mode: Mode
    plan: PlanView | None


def is_moved(state: StateView | None, policy: Policy | None, mode: Mode) -> bool:
    """Whether another mode or policy is in force on a node than its state shows."""
    shown = (state.spec.get("mode"), state.spec.get("policyName")) if state is not None else None
    return shown != (mode.value, policy.name if policy is not None else None)


class Moves:
    """Used by the decision loop only."""

    def __init__(self, api: Api, registry: Registry) -> None:
        self._api = api
        self._registry = registry

    def write(
        self, node: NodeView, state: StateView | None, policy: Policy | None, mode: Mode, plan: PlanView | None
    ) -> StateView | None:
        """The state with these orders, written if it does not show them; None if it could not be written now.

        Raises as `Api.request`.
        """
        ours = plan if policy is not None and plan is not None and plan.policy == policy.name else None
        wanted = objects.state_spec(node.name, mode.value, policy.name if policy else "", ours)
        same = state is not None and all(state.spec.get(key) == value for key, value in wanted.items())
        if state is not None and same and state.owner_uid == node.uid:
            return state
        stored = objects.write_state(self._api, node, state, wanted)
        if stored is not None:
            self._registry.put_state(node.name, stored, ours=Ours.MADE if state is None else Ours.CHANGED)
        return stored

    def run(self, names: deque[str], policies: Mapping[str, Policy]) -> None:
        """Takes up to 48 nodes off the queue, and writes the states of those that moved.

        What is refused is left to the node's own turn. Raises ApiUnreachable and LeaseLost; the rest stays queued.
        """
        if not names:
            return
        moves = self._moves([names.popleft() for _ in range(min(atonce.A_PASS, len(names)))], policies)
        if len(moves) <= FEW:
            self._registry.dirty.add([move.node.name for move in moves], urgent=True)
            return
        atonce.each(self._one, moves)

    def _moves(self, names: Iterable[str], policies: Mapping[str, Policy]) -> list[Move]:
        moves = []
        with self._registry.lock:
            tables = self._registry.tables
            for name in names:
                node, state = tables.nodes.get(name), tables.states.get(name)
                if node is None or state is None:
                    continue
                found = select(policies.values(), node.labels)
                if is_moved(state, found.policy, found.mode):
                    moves.append(Move(node, state, found.policy, found.mode, tables.plans.get(name)))
        return moves

    def _one(self, move: Move) -> None:
        try:
            stored = self.write(move.node, move.state, move.policy, move.mode, move.plan)
            if stored is None:  # its report came in between: its own turn comes before those of nodes that stay
                self._registry.dirty.add([move.node.name], urgent=True)
        except ApiRefused as refusal:
            log.info("node %s: not moved at once: %s", move.node.name, refusal)
