"""The operator's side of the grant protocol (docs/concepts/grants.md): who may kill how often, decided in rounds; pure.

A round, for one policy:

1. `settled`: what nodes report goes into the ledger: kills, new incarnations, acknowledged and expired allowances.
2. `decide`: grants to lower, to renew and to raise, and the ledger with which the raises are covered.
3. The caller, in this order: writes the ledger's ConfigMap **with its resourceVersion** if `Round.write_ledger_first`
   (a conflict or any doubt ends the round: read it again, `opened`); then writes the grants, each **with the
   resourceVersion of the NodeMemoryState that its view was read from** (a conflict: next round), and calls `noted` for
   each that is certain to be done. Only then may a plan with a longer grantSeconds be written.

Why nothing is given out twice, with two leaders, pauses at any point and old caches:

- A ceiling in a state's spec only rises after a ledger write, and that fails if another leader wrote one meanwhile.
- An allowance leaves the ledger only after this process itself replaced the grant in the state (a *closing*), be it by
  that of another policy (`replaced`), which makes every write that another leader still has under way fail. After that
  either the node acknowledges by a beat later than any that was echoed (see `grants`), or 1.1 x grantSeconds have
  passed since this process first saw the last echoed beat, which then is too old for the node. In the second case the
  rest counts as killed: a node that is cut off may have used it.
- An object that is gone counts as closed while the API server itself (not a cache) says so: `absent`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from memorypressure.book import Book
from memorypressure.desk import (
    Closing,
    Desk,
    GrantWrite,
    NodeView,
    Seen,
    WriteKind,
    has_run_out,
    noted,
    opened,
    replaced,
    settled,
)
from memorypressure.grants import Grant, Lease
from memorypressure.ledger import Entry, against_raising, is_full, max_standing
from memorypressure.reasons import Reason
from memorypressure.spec_values import Limits, Mode

__all__ = [
    "Closing",
    "Desk",
    "GrantWrite",
    "NodeView",
    "Round",
    "Seen",
    "Waiting",
    "WriteKind",
    "decide",
    "has_run_out",
    "noted",
    "opened",
    "replaced",
    "settled",
]

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A node that may not kill, and why: the reason of its NoGrant."""

    node: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Round:
    """What to do now. `desk` holds the new ledger; go on with it only if the ledger is not written or was written."""

    desk: Desk
    write_ledger_first: bool
    writes: tuple[GrantWrite, ...]
    waiting: tuple[Waiting, ...]


def decide(desk: Desk, views: Sequence[NodeView], limits: Limits, nodes: int) -> Round:
    """The grants to write now, for the views that `settled` was given; `nodes` in force make up the shares.

    Nodes under pressure come first, then those nearest to their line. While every allowance is out, a node under
    pressure gets that of the calm one farthest from its line, in a later round: when it is released.
    """
    return _Allotment(desk, views, limits, nodes).round()


class _Allotment:
    """One round's working state; `decide` is its only user."""

    def __init__(self, desk: Desk, views: Sequence[NodeView], limits: Limits, nodes: int) -> None:
        self.desk = desk
        self.book = Book(desk.ledger)
        self.limits = limits
        self.nodes = nodes
        self.most = max_standing(limits, nodes)
        self.views = sorted(views, key=lambda view: (not view.under_pressure, view.nearness, view.node))
        self.writes: dict[str, GrantWrite] = {}
        self.waiting: dict[str, Waiting] = {}
        self.reopened: set[str] = set()
        self.first = False

    def round(self) -> Round:
        self._lengthen()
        wanted = [view for view in self.views if _wanted(view)]
        for view in self.views:
            self._withdraw(view, unwanted=not _wanted(view))
        self._shed([view for view in wanted if view.node not in self.writes])
        hungry = [view for view in wanted if view.node not in self.writes and not self._armed(view)]
        short: list[NodeView] = []
        limited = False  # whether one of them lacks an allowance that another node could give back
        for view in hungry:
            if self._is_given_up(view, limited) or not self._raise(view):
                short.append(view)
                limited = limited or self._is_limited(view)
        self._make_room([view for view in short if view.under_pressure and self._is_limited(view)], wanted)
        if not short:
            for view in wanted:
                if view.node not in self.writes and self._rest(view) < self.limits.max_victims_per_episode:
                    self._raise(view, quiet=True)
        for view in wanted:
            self._renew(view)
        ledger = self.book.ledger()
        if self.first:
            ledger = replace(ledger, serial=ledger.serial + 1)
        writes = tuple(self.writes[view.node] for view in self.views if view.node in self.writes)
        # A raise ends a closing before it is written: a write in doubt may be done at any later time.
        closings = {key: each for key, each in self.desk.closings.items() if key not in self.reopened}
        desk = replace(self.desk, ledger=ledger, closings=closings)
        return Round(desk, self.first, writes, tuple(self.waiting.values()))

    def _is_given_up(self, view: NodeView, limited: bool) -> bool:
        """Whether its allowance is on its way to a node under pressure, and so is not given back to it."""
        given_up = not view.under_pressure and self._is_closing(view) and limited
        if given_up:
            message = "its allowance goes to a node under pressure"
            self.waiting[view.node] = Waiting(view.node, Reason.STANDING_LIMIT, message)
        return given_up

    def _is_limited(self, view: NodeView) -> bool:
        waiting = self.waiting.get(view.node)
        return waiting is not None and waiting.reason in (Reason.STANDING_LIMIT, Reason.LEDGER_FULL)

    def _lengthen(self) -> None:
        """A longer grantSeconds makes grants that are out hold longer: the ledger must know before the plans say so."""
        for entry in self.book.entries():
            if entry.grant_seconds < self.limits.grant_seconds:
                self.book.put(replace(entry, grant_seconds=self.limits.grant_seconds))
                self.first = True

    def _entry(self, view: NodeView) -> Entry | None:
        entry = self.book.entry(view.lease.incarnation) if view.lease else None
        return None if entry is None or entry.lost else entry

    def _rest(self, view: NodeView) -> int:
        entry = self._entry(view)
        return entry.rest if entry else 0

    def _armed(self, view: NodeView) -> bool:
        """Whether the state already shows an allowance that the ledger covers and nobody withdraws."""
        entry = self._entry(view)
        return (
            entry is not None
            and entry.incarnation not in self.desk.closings
            and view.grant is not None
            and view.grant.incarnation == entry.incarnation
            and entry.counted < view.grant.kills_ceiling <= entry.ceiling
        )

    def _withdraw(self, view: NodeView, unwanted: bool) -> None:
        """Takes away what an unwanted node or a former incarnation still holds, if that is not under way already."""
        if any(
            (unwanted or entry.lost) and entry.rest and self._must_close(entry, view)
            for entry in self.book.of_node(view.node)
        ):
            self._close(view, Reason.GRANT_WITHDRAWN)
        elif view.mode is not Mode.ENFORCE and view.grant is not None and not self._is_awaited(view.grant):
            self.writes[view.node] = GrantWrite(view.node, WriteKind.LOWER, None, Reason.GRANT_WITHDRAWN)

    def _must_close(self, entry: Entry, view: NodeView) -> bool:
        closing = self.desk.closings.get(entry.incarnation)
        if closing is None:
            return True
        # Closed before the node's report was there: only a second closing can be acknowledged.
        return closing.beat is None and view.lease is not None and view.lease.incarnation == entry.incarnation

    def _is_awaited(self, grant: Grant) -> bool:
        """Whether it is the zero grant of a closing whose acknowledgement is still to come."""
        entry = self.book.entry(grant.incarnation)
        return entry is not None and bool(entry.rest) and grant.incarnation in self.desk.closings

    def _close(self, view: NodeView, reason: Reason) -> None:
        """Writes a grant that allows nothing more; it always differs from what is there, so that the version moves."""
        zero = _zero_grant(view, self._entry(view), self.desk.seen)
        grant = None if zero == view.grant else zero
        if grant is None and view.grant is None:
            return
        closes = []
        for entry in self.book.of_node(view.node):
            if zero is not None and zero.incarnation == entry.incarnation:
                closes.append(Closing(entry.incarnation, zero.kills_ceiling, zero.beat))
            else:
                closes.append(Closing(entry.incarnation, entry.counted, None))
        self.writes[view.node] = GrantWrite(view.node, WriteKind.LOWER, grant, reason, tuple(closes))

    def _shed(self, wanted: Sequence[NodeView]) -> None:
        """Withdraws from the calm and far ones while more is out than maxStandingKills."""
        over = self.book.standing - self._releasing() - self.most
        for view in reversed(wanted):
            if over <= 0:
                return
            if self._rest(view) and not self._is_closing(view):
                over -= self._rest(view)
                self._close(view, Reason.STANDING_LIMIT)

    def _make_room(self, short: Sequence[NodeView], wanted: Sequence[NodeView]) -> None:
        """Withdraws from calm nodes, farthest first, what nodes under pressure lack."""
        lacking = len(short) - self._releasing()
        for view in reversed(wanted):
            if lacking <= 0:
                return
            if not view.under_pressure and view.node not in self.writes and self._armed(view):
                lacking -= self._rest(view)
                self._close(view, Reason.STANDING_LIMIT)

    def _is_closing(self, view: NodeView) -> bool:
        return view.lease is not None and view.lease.incarnation in self.desk.closings

    def _releasing(self) -> int:
        """Allowances that are being withdrawn, before and in this round."""
        here = {closing.incarnation for write in self.writes.values() for closing in write.closes}
        return sum(
            entry.rest
            for entry in self.book.entries()
            if not entry.lost and (entry.incarnation in self.desk.closings or entry.incarnation in here)
        )

    def _raise(self, view: NodeView, quiet: bool = False) -> bool:
        """Lets the node kill once more, if the budget has room; else says why not, unless `quiet`."""
        lease = view.lease
        if lease is None:
            return False
        entry = self._entry(view)
        counted = max(lease.kills_total, entry.counted if entry else 0)
        shown = view.grant.kills_ceiling if view.grant and view.grant.incarnation == lease.incarnation else 0
        ceiling = max(counted, shown if self._armed(view) else counted) + 1
        more = ceiling - max(entry.ceiling, counted) if entry else 1
        refusal = self._refusal(view, lease, max(0, more), new=entry is None)
        if refusal is not None:
            if not quiet:
                self.waiting[view.node] = refusal
            return False
        echo = view.grant.beat if view.grant and view.grant.incarnation == lease.incarnation else 0
        beat = max(lease.beat, echo)
        self.book.put(
            Entry(
                view.node,
                lease.incarnation,
                max(ceiling, entry.ceiling if entry else 0),
                counted,
                max(beat, entry.beat if entry else 0),
                max(self.limits.grant_seconds, entry.grant_seconds if entry else 0),
            )
        )
        self.first = True
        self.reopened.add(lease.incarnation)
        grant = Grant(lease.incarnation, beat, ceiling, view.plan_uid, view.plan_generation)
        closes = tuple(
            Closing(other.incarnation, other.counted, None)
            for other in self.book.of_node(view.node)
            if other.incarnation != lease.incarnation
        )
        self.writes[view.node] = GrantWrite(view.node, WriteKind.RAISE, grant, Reason.GRANTED, closes)
        return True

    def _refusal(self, view: NodeView, lease: Lease, more: int, new: bool) -> Waiting | None:
        held = self.book.entry(lease.incarnation)
        if held is not None and (held.lost or held.counted > lease.kills_total):
            message = "its former allowance counts as killed; it must report that it has seen the end of it"
            return Waiting(view.node, Reason.NO_GRANT, message)
        if not view.plan_newest:
            return Waiting(view.node, Reason.PLAN_MISMATCH, "its plan was made of an earlier version of the policy")
        if view.victim_pending:
            return Waiting(view.node, Reason.WAITING_FOR_VICTIM, "the pod that it killed last has not gone yet")
        if more and lease.kills_total and not view.refill_slot:
            return Waiting(view.node, Reason.CONCURRENT_NODES, "maxConcurrentNodes others are being helped")
        against = against_raising(self.book, self.limits, self.nodes, more)
        if against is not None:
            return Waiting(view.node, *against)
        if new and is_full(self.book.entries_bytes):
            message = f"the ledger has no room for more than the {len(self.book.entries())} allowances that it holds"
            return Waiting(view.node, Reason.LEDGER_FULL, message)
        return None

    def _renew(self, view: NodeView) -> None:
        """Echoes the newest beat, and names the newest plan, for an allowance that stays as it is."""
        grant, lease = view.grant, view.lease
        if view.node in self.writes or not self._armed(view) or grant is None or lease is None:
            return
        beat = max(grant.beat, lease.beat)
        if (beat, view.plan_uid, view.plan_generation) != (grant.beat, grant.plan_uid, grant.plan_generation):
            renewed = replace(grant, beat=beat, plan_uid=view.plan_uid, plan_generation=view.plan_generation)
            self.writes[view.node] = GrantWrite(view.node, WriteKind.RENEW, renewed, Reason.GRANTED)


def _wanted(view: NodeView) -> bool:
    return (
        view.mode is Mode.ENFORCE
        and view.armable
        and view.lease is not None
        and bool(view.plan_uid)
        and view.plan_generation > 0
    )


def _zero_grant(view: NodeView, entry: Entry | None, seen: Mapping[str, Seen]) -> Grant | None:
    """A grant to the reporting incarnation that allows no further kill; None where it cannot be named."""
    lease = view.lease
    if lease is None:
        return None
    beats = [lease.beat]
    if view.grant is not None and view.grant.incarnation == lease.incarnation:
        beats.append(view.grant.beat)
    if entry is not None:
        beats.append(entry.beat)
    if lease.incarnation in seen:
        beats.append(seen[lease.incarnation].beat)
    plan_uid, plan_generation = view.plan_uid, view.plan_generation
    if not plan_uid or plan_generation < 1:  # another policy's plan, or none: what allows nothing may name any
        grant = view.grant
        plan_uid, plan_generation = (grant.plan_uid, grant.plan_generation) if grant is not None else ("none", 1)
    return Grant(lease.incarnation, max(beats), lease.kills_total, plan_uid, plan_generation)
