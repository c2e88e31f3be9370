"""When a policy's round of grants runs, and for which nodes; which ledger evictions are recorded in."""

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from memorypressure.ledger import Ledger, max_standing
from memorypressure.spec import Limits, Mode, Policy, limits_from
from memorypressure_operator import exposure, kills
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.caps import for_nodes
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, LeaseLost
from memorypressure_operator.granting import Granting, NodeFacts, Result, adopt, no_limits
from memorypressure_operator.holdings import Holdings, nodes_of
from memorypressure_operator.inforce import InForce
from memorypressure_operator.look import is_silent
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, StateView
from memorypressure_operator.settings import Settings

log = logging.getLogger(__name__)

GAP_SECONDS = 0.5
WHOLE_SHARE = 0.0025
"""A round over all nodes takes so much of the time at most: in a large cluster it comes less often than one over those
that moved and those that the ledger names. What only it can do is to arm, from room that became free, nodes that have
waited quietly."""
CALM_SHARE = 0.002
"""Rounds that only answer heartbeats take so much of the time at most."""
WHOLE_SECONDS = 30.0
"""It comes at least so often, where anything moves."""
WAITING_SEEN = 20
"""How many of those, nearest their line first, the smaller rounds look at: they come before second allowances."""
SOON_SECONDS = 1.0
IDLE_SECONDS = 10.0


class Rounds:
    """All policies' rounds. `results` holds what the last round of each found."""

    def __init__(
        self,
        granting: Granting,
        budgets: Budgets,
        holdings: Holdings,
        in_force: InForce,
        registry: Registry,
        memories: Mapping[str, NodeMemory],
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self._granting = granting
        self._budgets = budgets
        self._holdings = holdings
        self._in_force = in_force
        self._registry = registry
        self._memories = memories
        self._clock = clock
        self._settings = settings
        self._looked_version = -1  # registry.nodes_version when every node had been looked at
        self._knows = False  # whether there was such a moment in this term
        self._due: dict[str, float] = {}
        self._ran: dict[str, float] = {}
        self._limits: dict[str, Limits] = {}
        self._took: dict[str, float] = {}  # processor time of each policy's last round, in seconds
        self._moved: dict[str, set[str]] = {}  # policy -> nodes looked at since its last round
        self._whole: dict[str, tuple[float, object]] = {}  # when its next round over all is due, if this is the same
        self.results: dict[str, Result] = {}
        self.unshown = False  # a policy's status shows less than its limits allow: nothing beyond it is given

    def begin_term(self) -> None:
        """What is remembered of nodes was forgotten."""
        self._knows = False

    def knows_all(self) -> bool:
        """Whether every node was looked at in this term: before that it is not known who is being helped."""
        self._knows = self._knows or self._all_looked_at()
        return self._knows

    def gone(self, node: str) -> None:
        """The node is gone: what its ledgers name is looked at in any case."""
        for moved in self._moved.values():
            moved.discard(node)

    def touch(self, policy: str, node: str, *, calm: bool = False) -> None:
        """A node of the policy was looked at: its round, and that of every ledger that names the node, is due.

        `calm`: nothing but a heartbeat is to be answered, which may wait for others to come along.
        """
        now = self._clock()
        for name, store in self._budgets.stores.items():
            if name == policy or self._holdings.of(store, node):
                self._make_due(name, now, calm=calm)
                self._moved.setdefault(name, set()).add(node)
        if policy:
            self._make_due(policy, now, calm=calm)
            self._moved.setdefault(policy, set()).add(node)

    def _make_due(self, policy: str, now: float, *, calm: bool) -> None:
        wait = min(self._took.get(policy, 0.0) / CALM_SHARE, IDLE_SECONDS) if calm else 0.0
        self._due[policy] = min(self._due.get(policy, now + wait), now + wait)

    def ready_store(self, policy: Policy) -> Store:
        """The policy's store, read if it was not. Raises ApiUnreachable, ApiRefused."""
        store = self._budgets.store(policy.name)
        self._budgets.refresh(store, lambda: self._adopt(policy.name, policy.limits.grant_seconds))
        return store

    def ledgers(self, node: str, first: str) -> list[tuple[Store, int]]:
        """The stores that may count a kill of the node, with the kills an hour that each policy's limits allow.

        Policy `first`'s, which is in force, then those that named the node in the last hour, and no other: a kill that
        another node was allowed is not this one's to claim. A policy that is gone counts by the limits that it had, or
        by the API's defaults if this process never saw it.
        """
        found = []
        for name in (first, *self._holdings.lately(node, first)):
            store = self._budgets.stores.get(name)
            if store is None:
                continue
            nodes = len(self._in_force.of(name))
            if name != first:
                nodes = max(nodes, len(nodes_of(store)))
            limits = for_nodes(self._limits.get(name) or limits_from({}), nodes, self._settings)
            found.append((store, limits.max_standing_kills.of(nodes) + limits.kills_per_hour))
        return found

    def _has_room(self, store: Store, policy: Policy | None, in_force: int) -> bool:
        """Whether another allowance could be given to a node that waits quietly: all that a whole round is good for."""
        if policy is None or store.desk is None:
            return True
        return store.desk.ledger.standing < max_standing(for_nodes(policy.limits, in_force, self._settings), in_force)

    def run(self, policies: Mapping[str, Policy]) -> None:
        """The rounds that are due. Raises ApiUnreachable; what else the API server refuses delays one policy only."""
        if not self._all_looked_at():
            return  # a node that was not looked at yet would count as one without a policy
        for store in list(self._budgets.stores.values()):
            if store.version or store.checked_at is None:
                self._read(store)  # what others hold has to be known before a new ledger is begun
        self._forget_all_but(policies.keys() | self._budgets.stores.keys())
        now = self._clock()
        self.unshown = False
        enforced = {name for name, policy in policies.items() if policy.mode is Mode.ENFORCE}
        for name in sorted(enforced | self._budgets.stores.keys()):
            ran = self._ran.get(name)
            due = self._due.get(name, now if ran is None else ran + IDLE_SECONDS)
            if now < due or (ran is not None and now - ran < GAP_SECONDS):
                continue
            self._ran[name] = now
            self._due.pop(name, None)
            try:
                result = self._round(name, policies)
            except ApiRefused as refusal:
                log.warning("policy %s: no round of grants: %s", name, refusal)
                self._due[name] = now + SOON_SECONDS
                continue
            except (ApiUnreachable, LeaseLost):
                self._due[name] = now + SOON_SECONDS
                raise
            except Exception:
                log.exception("policy %s: no round of grants", name)  # the other policies' rounds go on
                self._due[name] = now + IDLE_SECONDS
                continue
            before = self.results.get(name)
            if result.armed is None and before is not None:
                result.armed = before.armed
            self.results[name] = result
            if result.at_once:
                self._due[name], self._ran[name] = now, now - GAP_SECONDS
            elif result.again:
                self._due[name] = now + SOON_SECONDS

    def _forget_all_but(self, known: set[str]) -> None:
        """Drops what is remembered of policies that are gone, and whose ledgers are."""
        tables: tuple[dict[str, Any], ...] = (self._due, self._ran, self._limits, self._took, self._moved, self._whole)
        for table in (*tables, self.results):
            for name in table.keys() - known:
                del table[name]

    def _read(self, store: Store) -> None:
        """Reads the ledger if that is due; one that is refused is not known, which is no other policy's trouble."""
        try:
            self._budgets.read(store)
        except ApiRefused as refusal:
            log.warning("policy %s: its ledger is not read: %s", store.policy, refusal)

    def _all_looked_at(self) -> bool:
        with self._registry.lock:
            nodes, version = self._registry.tables.nodes, self._registry.nodes_version
            if version != self._looked_version or len(self._memories) < len(nodes):
                if not nodes.keys() <= self._memories.keys():
                    return False
                self._looked_version = version
        return True

    def _round(self, name: str, policies: Mapping[str, Policy]) -> Result:
        store, policy = self._budgets.store(name), policies.get(name)
        if self._budgets.is_discarded(store):
            if policy is None:
                return Result(armed=0)
            store = self._budgets.store(name)
        if policy is not None:
            self._limits[name] = policy.limits
        limits = self._limits.get(name) or limits_from({})
        self._budgets.refresh(store, lambda: self._adopt(name, limits.grant_seconds))
        in_force = self._in_force.of(name)
        armable = len(in_force) - in_force.disabled
        if policy is not None and policy.mode is Mode.ENFORCE:
            limits = self._shown(name, store, for_nodes(limits, armable, self._settings), armable)
        else:
            limits = no_limits(limits)
        scope = (policy, len(in_force), limits, self._holdings.unread(name))
        nodes, whole = self._nodes(name, store, policy, in_force, scope)
        self._moved[name] = nodes  # also where the round fails
        began = time.thread_time()
        facts, states = self._facts(name, policies, nodes)
        result = self._granting.round(store, limits, policy, facts, states, armable)
        result.again = result.again or self.unshown
        took = self._took[name] = time.thread_time() - began
        if result.armed is not None:
            self._moved[name] = set(result.unwritten)  # who holds or withdraws an allowance comes anyway
        if whole and result.armed is not None:
            self._whole[name] = (
                self._clock() + min(took / WHOLE_SHARE, WHOLE_SECONDS),
                scope,
            )
        elif not whole:
            before = self.results.get(name)
            others = before.waiting if before is not None else {}
            quiet = {node: why for node, why in others.items() if node not in nodes and node in in_force}
            result.waiting = dict(result.waiting) | quiet  # in this order: the first of them are in the next round
        self._budgets.write_lazily(store)
        self._holdings.note(store)
        desk = store.desk
        if policy is None and desk is not None:
            nothing_left = not desk.ledger.entries and not desk.ledger.spent and not desk.ledger.quarantine_ns
            if nothing_left and not self._budgets.current_evictions(store).records:
                self._budgets.discard(store)
        return result

    def _nodes(
        self, name: str, store: Store, policy: Policy | None, in_force: Mapping[str, Mode], scope: object
    ) -> tuple[set[str], bool]:
        """The nodes of this round, and whether they are all: so it is when the `scope` is not that of the last such.

        A round over fewer decides the same for them: those that the ledger names are always among them, and all others
        are as they were when they were last looked at.
        """
        moved = self._moved.pop(name, set())
        named = self._holdings.note(store)
        again_at, former = self._whole.get(name, (0.0, None))
        before = self.results.get(name)
        unknown = store.desk is None or (named and not store.desk.seen)  # just read
        if unknown or before is None or scope != former:
            return named | in_force.keys(), True
        if self._clock() >= again_at and self._has_room(store, policy, len(in_force)):
            return named | in_force.keys(), True
        waiting = itertools.islice(before.waiting, WAITING_SEEN)
        return named | (in_force.keys() & (moved | set(waiting))), False

    def _facts(
        self, name: str, policies: Mapping[str, Policy], nodes: set[str]
    ) -> tuple[dict[str, NodeFacts], dict[str, StateView]]:
        """What is known of the nodes, not all of which may have been looked at since there are these policies."""
        with self._registry.lock:
            tables = self._registry.tables
            states = {node: tables.states[node] for node in nodes if node in tables.states}
            plans = {node: tables.plans.get(node) for node in states}
        facts = {}
        slot_free, held, now = self._slot_free(name), self._holdings.elsewhere(name), self._clock()
        unsure, recorded = self._holdings.of_unread(name, states), self._recorded(name)
        for node, state in states.items():
            memory = self._memories.get(node) or NodeMemory()
            plan = plans[node]
            selection = memory.selection
            policy = selection.policy if selection is not None else None
            here = selection is not None and policy is not None and policy.name == name
            current = plan is not None and plan.policy == name
            facts[node] = NodeFacts(
                node=node,
                mode=selection.mode if here and selection is not None else Mode.DISABLED,
                plan_uid=plan.uid if plan is not None and current else "",
                plan_generation=plan.generation if plan is not None and current else 0,
                plan_current=current,
                plan_newest=_is_newest(plan, name, policies, memory),
                reporting=not is_silent(self._registry, node, policy, now),
                under_pressure=memory.watch.pressed,
                refill_slot=slot_free or memory.has_slot(node in recorded),
                held_elsewhere=node in held or node in unsure,
                victim_pending=kills.pending(memory, state.status, now),
                waits_for=self._waits_for(node, policy, held.get(node), current) if here and policy is not None else "",
            )
        return facts, states

    def _waits_for(self, node: str, policy: Policy, holder: str | None, planned: bool) -> str:
        """Of which other policy's allowance the node has to see the end before its own may arm it; "" for none."""
        if holder is not None:
            return f"the ledger of policy {holder} still counts an allowance that it may use"
        former = None if planned else self._holdings.against_plan(node, policy.limits.grant_seconds)
        if former is None:
            return ""
        return f"its plan has a longer grantSeconds than an allowance that the ledger of policy {former} still counts"

    def in_force(self, policy: str) -> Mapping[str, Mode]:
        """The nodes on which the policy is in force."""
        return self._in_force.of(policy)

    def slots(self, name: str) -> int:
        """Nodes that count for the policy's maxConcurrentNodes; after a restart those with an eviction on record."""
        recorded = self._recorded(name)
        return sum(self._memories[node].has_slot(node in recorded) for node in self._in_force.of(name))

    def _recorded(self, name: str) -> frozenset[str]:
        store = self._budgets.stores.get(name)
        return store.evictions.nodes() if store is not None else frozenset()

    def _slot_free(self, name: str) -> bool:
        limits = self._limits.get(name)
        if limits is None:
            return False
        in_force = len(self._in_force.of(name))
        return self.slots(name) < for_nodes(limits, in_force, self._settings).max_concurrent_nodes.of(in_force)

    def _shown(self, name: str, store: Store, limits: Limits, nodes: int) -> Limits:
        """The limits, or what of them the policy's status shows."""
        with self._registry.lock:
            entry = self._registry.tables.policies.get(name)
        if store.desk is None or entry is None:
            return limits
        found = exposure.within_shown(limits, nodes, store.desk.ledger.standing, entry.status)
        self.unshown = self.unshown or found is not limits
        return found

    def _adopt(self, name: str, grant_seconds: int) -> Ledger:
        """The ledger of a policy that has no ConfigMap, from what its nodes report."""
        nodes = self._in_force.of(name)
        with self._registry.lock:
            states = [state for node, state in self._registry.tables.states.items() if node in nodes]
            entry = self._registry.tables.policies.get(name)
        others = [
            store.desk for other, store in self._budgets.stores.items() if other != name and store.desk is not None
        ]
        covered = frozenset(each.incarnation for desk in others for each in desk.ledger.entries)
        lost = bool(self._budgets.store(name).problem) or exposure.had_ledger(entry)
        return adopt(states, grant_seconds, covered, used_before=lost)


def _is_newest(plan: PlanView | None, name: str, policies: Mapping[str, Policy], memory: NodeMemory) -> bool:
    """Whether the plan was made of the policy as it is now: one that is made anew begins with generation 1 again.

    For a node that was not looked at since these are the policies it may be another that is in force by now.
    """
    policy = policies.get(name)
    if plan is None or policy is None or plan.policy_generation != policy.generation:
        return False
    return memory.plan_of in ("", policy.uid) and (memory.chosen_from is None or memory.chosen_from is policies)
