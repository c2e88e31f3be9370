"""Rounds of the grant protocol: what `memorypressure.allotment` decides, carried out in the order that it demands.

The ledger first, with its resourceVersion; then each grant, with the resourceVersion of the state that was looked at;
any doubt ends the round. The rules themselves are in the core.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from memorypressure import allotment
from memorypressure.allotment import GrantWrite, NodeView, WriteKind
from memorypressure.grants import Grant, Lease
from memorypressure.ledger import Entry, Ledger, adopted
from memorypressure.orders import OrdersError, grant_from
from memorypressure.reasons import Reason
from memorypressure.spec import Limits, Mode, Policy, Share
from memorypressure_operator import atonce
from memorypressure_operator.api import Api, own_path
from memorypressure_operator.budget import Budgets, Store
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, OperatorError
from memorypressure_operator.objects import write_grant
from memorypressure_operator.reports import StateView

log = logging.getLogger(__name__)

CAPABILITY = "CgroupKill"
MOST_FAILED = 10_000
MOST_KEPT = 1500
"""Rounds over more nodes are rare, and what is kept of them is memory."""
HELD_BACK = frozenset(
    (
        Reason.COOLDOWN,
        Reason.WAITING_FOR_VICTIM,
        Reason.BUDGET_EXHAUSTED,
        Reason.FUTILE,
        Reason.NO_VICTIM,
        Reason.MOVABLE_FREE,
        Reason.LOCK_HELD,
    )
)
"""Reasons of ActionBlocked that no grant changes."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the decision loop knows of a node for its policy's round."""

    node: str
    mode: Mode  # what this policy wants there; Disabled where it is not in force
    plan_uid: str
    plan_generation: int
    plan_current: bool
    plan_newest: bool  # it was made of the policy as it is now
    reporting: bool
    under_pressure: bool
    refill_slot: bool
    held_elsewhere: bool  # another policy's ledger still counts an allowance that it may use
    victim_pending: bool = False  # a kill of its own is not over
    waits_for: str = ""  # of which other policy's allowance it has to see the end, in words


@dataclass(slots=True)
class Result:
    """What a round did and found."""

    armed: int | None = None  # nodes with an allowance; None: the round could not be ended
    again: bool = False  # something is under way: look again soon
    at_once: bool = False  # more is to be written than one pass may
    unwritten: set[str] = field(default_factory=set)  # nodes whose grant is not what was decided
    waiting: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)


class GrantMalformed(OperatorError):  # noqa: N818  named for what it is
    """A state's spec.grant is not what this operator writes; the message says why."""


def grant_of(state: StateView) -> Grant | None:
    """The grant in a state's spec; None where there is none. Raises GrantMalformed."""
    value = state.spec.get("grant")
    if value is None:
        return None
    try:
        return grant_from(value, "spec.grant")
    except OrdersError as error:
        raise GrantMalformed(f"NodeMemoryState {state.name}: {error}") from None


def shows_allowance(state: StateView) -> bool:
    """Whether the grant that the state shows may allow the node a kill; one that is not understood may."""
    try:
        grant, lease = grant_of(state), lease_of(state)
    except GrantMalformed:
        return True
    if grant is None:
        return False
    return lease is None or (lease.incarnation == grant.incarnation and grant.kills_ceiling > lease.kills_total)


def may_hold(state: StateView) -> bool:
    """Whether the node may hold an allowance: by the grant that its state shows, or by the ceiling that it has seen."""
    lease = state.status.lease
    return shows_allowance(state) or (lease is not None and lease.ceiling_seen > lease.kills_total)


def may_be_used(entry: Entry, state: StateView | None) -> bool:
    """Whether a node may use what its entry still allows: not once it reports another incarnation.

    Then the rest counts as killed, and what another policy grants that one is another allowance, of another ledger.
    """
    lease = state.status.lease if state is not None else None
    return entry.rest > 0 and (lease is None or lease.incarnation == entry.incarnation)


def lease_of(state: StateView) -> Lease | None:
    """status.lease as the core's value; None where the node has not reported one."""
    lease = state.status.lease
    return None if lease is None else Lease(lease.incarnation, lease.beat, lease.kills_total, lease.ceiling_seen)


def nearness(state: StateView) -> float:
    """Usable memory over the line, from the text that the node shows; infinity where it says nothing."""
    text = state.status.lowest.usable_to_line if state.status.lowest else ""
    try:
        return float(text.rstrip("%").strip()) / 100 if text else math.inf
    except ValueError:
        return math.inf


def held_back(state: StateView) -> bool:
    """Whether the node says that it could not use an allowance now: a node under pressure that can comes first."""
    blocked = state.status.condition("ActionBlocked")
    return blocked is not None and blocked.status == "True" and blocked.reason in HELD_BACK


def view(facts: NodeFacts, state: StateView, has_kill_step: bool) -> NodeView:
    """The node as the core wants it. `armable`: the agent can act, knows its plan and reports."""
    ready = state.status.condition("Ready")
    able = CAPABILITY in state.status.capabilities and (ready is None or ready.status != "False")
    return NodeView(
        node=facts.node,
        mode=facts.mode,
        grant=grant_of(state),
        lease=lease_of(state),
        plan_uid=facts.plan_uid,
        plan_generation=facts.plan_generation,
        armable=able and has_kill_step and facts.plan_current and facts.reporting and not facts.held_elsewhere,
        under_pressure=facts.under_pressure and not held_back(state),
        nearness=nearness(state),
        refill_slot=facts.refill_slot,
        plan_newest=facts.plan_newest,
        victim_pending=facts.victim_pending,
    )


def no_limits(limits: Limits) -> Limits:
    """The limits of a policy that is gone: nothing rises any more."""
    return replace(limits, kills_per_hour=0, max_standing_kills=Share(count=0))


def adopt(
    states: Iterable[StateView], grant_seconds: int, covered: frozenset[str] = frozenset(), *, used_before: bool
) -> Ledger:
    """The ledger where there is no ConfigMap: what nodes hold counts, unless another policy's ledger covers it.

    `covered`: incarnations in other ledgers. `used_before`: the policy had one, so kills of the last hour are lost.
    """
    entries = []
    for state in states:
        lease = lease_of(state)
        try:
            grant = grant_of(state)
        except GrantMalformed:
            grant, used_before = None, True  # nobody knows what it allowed
        if lease is None:
            used_before = used_before or (grant is not None and grant.incarnation not in covered)
            continue
        granted = grant.kills_ceiling if grant and grant.incarnation == lease.incarnation else 0
        ceiling = max(granted, lease.ceiling_seen)
        if ceiling > lease.kills_total and lease.incarnation not in covered:
            beat = max(lease.beat, grant.beat if grant and granted else 0)
            entries.append(Entry(state.name, lease.incarnation, ceiling, lease.kills_total, beat, grant_seconds))
    return adopted(entries, used_before, grant_seconds)


class Granting:
    """Carries rounds out. `put_state` takes the API server's answer to a write into the registry."""

    def __init__(
        self,
        api: Api,
        budgets: Budgets,
        holds: Callable[[], bool],
        clock: Callable[[], float],
        put_state: Callable[[str, StateView], None],
    ) -> None:
        self._api = api
        self._budgets = budgets
        self._holds = holds
        self._clock = clock
        self._put_state = put_state
        self._known: dict[str, dict[str, tuple[StateView, NodeFacts, bool, NodeView]]] = {}  # of each last round
        self._failed: set[str] = set()  # nodes whose last write was refused: others come before them

    def _now_ns(self) -> int:
        return int(self._clock() * 1e9)

    def round(
        self,
        store: Store,
        limits: Limits,
        policy: Policy | None,
        facts: Mapping[str, NodeFacts],
        states: Mapping[str, StateView],
        in_force: int,
    ) -> Result:
        """One round of one policy. Raises ApiUnreachable and ApiRefused when the API server does not play along.

        `facts` are the nodes in force and those that the ledger names; `states` their NodeMemoryStates.
        """
        desk = store.desk
        if desk is None:
            return self._withdraw_all(facts, states) if store.problem else Result(again=True)
        kills = policy is not None and any(step.kill is not None for step in policy.ladder)
        # What another ledger covers is that one's to withdraw: counted twice, it would be released twice as late.
        elsewhere = {node for node, each in facts.items() if each.held_elsewhere}
        own = {
            each.node for each in desk.ledger.entries if each.node in elsewhere and may_be_used(each, states[each.node])
        }
        ours = [node for node in states if node in facts and (node not in elsewhere or node in own)]
        views, malformed = self._views(store.policy, ours, facts, states, has_kill_step=kills)
        now_ns = self._now_ns()
        absent = frozenset(
            entry.node
            for entry in desk.ledger.entries
            if entry.node not in states and allotment.has_run_out(desk, entry, now_ns) and self._absent(entry.node)
        )
        store.desk = desk = allotment.settled(desk, views, absent, now_ns)
        decided = allotment.decide(desk, views, limits, in_force)
        if not self._holds():
            return Result(again=True)
        if decided.write_ledger_first:
            if not self._budgets.write(store, decided.desk.ledger, self._budgets.current_evictions(store)):
                return Result(again=True)
            store.desk = replace(decided.desk, ledger=store.written or decided.desk.ledger)
        else:
            store.desk = decided.desk
        result = Result(waiting={each.node: (each.reason, each.message) for each in decided.waiting})
        if kills:
            held = (each for each in facts.values() if each.waits_for and each.mode is Mode.ENFORCE)
            result.waiting = dict(result.waiting) | {each.node: (Reason.NO_GRANT, each.waits_for) for each in held}
        result.again = bool(malformed)
        for node in malformed:
            self._take_away(states[node])
        self._write(store, decided.writes, states, result)
        written = {write.node for write in decided.writes} - result.unwritten
        replaced = [each for each in views if each.node in written]
        for other in self._budgets.stores.values() if replaced else ():
            if other is not store and other.desk is not None:
                other.desk = allotment.replaced(other.desk, replaced, self._now_ns())
        result.again = result.again or bool(result.unwritten) or bool(store.desk.closings)
        result.armed = _armed(views, (write for write in decided.writes if write.node not in result.unwritten))
        return result

    def _views(
        self,
        policy: str,
        nodes: Sequence[str],
        facts: Mapping[str, NodeFacts],
        states: Mapping[str, StateView],
        *,
        has_kill_step: bool,
    ) -> tuple[list[NodeView], list[str]]:
        """(the nodes as the core wants them, those whose grant is not understood); made anew is only what moved."""
        known, kept = self._known.get(policy, {}), dict[str, tuple[StateView, NodeFacts, bool, NodeView]]()
        views, malformed = [], []
        for node in nodes:
            before = known.get(node)
            if before is not None and before[0] is states[node] and before[1:3] == (facts[node], has_kill_step):
                kept[node] = before
                views.append(before[3])
                continue
            try:
                made = view(facts[node], states[node], has_kill_step)
            except GrantMalformed as error:
                log.error("node %s: its grant is taken away: %s", node, error)
                malformed.append(node)
                continue
            views.append(made)
            if len(nodes) <= MOST_KEPT:
                kept[node] = states[node], facts[node], has_kill_step, made
        self._known[policy] = kept
        return views, malformed

    def _absent(self, node: str) -> bool:
        """Whether the API server itself says that the node has no state."""
        try:
            self._api.get(own_path("nodememorystates", node))
        except ApiRefused as refusal:
            if refusal.not_found:
                return True
            raise
        return False

    def _write(
        self, store: Store, writes: Sequence[GrantWrite], states: Mapping[str, StateView], result: Result
    ) -> None:
        """Writes as many grants as one pass may, what is taken away first. The desk notes those certainly written."""
        failed = self._failed
        if len(failed) > MOST_FAILED:
            failed.clear()
        urgent = sorted(writes, key=lambda write: (write.kind is not WriteKind.LOWER, write.node in failed))
        now, later = urgent[: atonce.A_PASS], urgent[atonce.A_PASS :]
        result.unwritten.update(write.node for write in later)
        away = threading.Event()
        answers = atonce.each(lambda write: self._one(write, states[write.node], away), now)
        result.at_once = bool(later) and any(answers)
        for write, answer in zip(now, answers, strict=True):
            if answer is None:
                failed.add(write.node)  # it may be gone for good
                result.unwritten.add(write.node)
                continue
            failed.discard(write.node)
            if store.desk is not None:
                store.desk = allotment.noted(store.desk, write, self._now_ns())
            self._put_state(write.node, answer)
            ceiling = write.grant.kills_ceiling if write.grant else None
            log.debug("node %s: grant %s, ceiling %s (%s)", write.node, write.kind.value, ceiling, write.reason)

    def _one(self, write: GrantWrite, state: StateView, away: threading.Event) -> StateView | None:
        """The state with the grant; None where it is not certainly written. Once `away` is set nothing is sent."""
        if away.is_set() or not self._holds():
            return None
        try:
            return write_grant(self._api, state, write.grant)
        except ApiRefused as refusal:
            if not refusal.conflict and not refusal.not_found:
                log.warning("grant of node %s not written: %s", write.node, refusal)
        except ApiUnreachable as error:
            log.warning("grant of node %s in doubt: %s", write.node, error)
            away.set()
        return None

    def _withdraw_all(self, facts: Mapping[str, NodeFacts], states: Mapping[str, StateView]) -> Result:
        """Without a readable ledger nothing stays granted."""
        held = [
            state
            for node, state in states.items()
            if node in facts and facts[node].mode is not Mode.DISABLED and state.spec.get("grant") is not None
        ]
        held.sort(key=lambda state: state.name in self._failed)
        taken = atonce.each(self._take_away, held[: atonce.A_PASS])
        for state, done in zip(held, taken, strict=False):
            (self._failed.discard if done else self._failed.add)(state.name)
            if done:
                log.warning("node %s: grant withdrawn, the policy's ledger cannot be used", state.name)
        return Result(armed=0, again=True, at_once=len(held) > len(taken) and any(taken))

    def _take_away(self, state: StateView) -> bool:
        if not self._holds():
            return False
        try:
            self._put_state(state.name, write_grant(self._api, state, None))
        except ApiRefused as refusal:
            if not refusal.conflict and not refusal.not_found:
                log.warning("node %s: grant not withdrawn: %s", state.name, refusal)
            return False
        return True


def _armed(views: Iterable[NodeView], writes: Iterable[GrantWrite]) -> int:
    """Nodes that hold an allowance after these writes."""
    changed = {write.node: write.grant for write in writes}
    count = 0
    for each in views:
        grant = changed.get(each.node, each.grant)
        if grant is None or each.lease is None or each.mode is not Mode.ENFORCE:
            continue
        count += grant.incarnation == each.lease.incarnation and grant.kills_ceiling > each.lease.kills_total
    return count
