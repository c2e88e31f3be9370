"""The operator's side of the grant protocol (DESIGN 6): who may kill how often, decided in rounds; pure.

A round, for one policy:

1. `settled`: what nodes report goes into the ledger: kills, new incarnations, acknowledged and expired allowances.
2. `decide`: grants to lower, to renew and to raise, and the ledger with which the raises are covered.
3. The caller, in this order: writes the ledger's ConfigMap **with its resourceVersion** if `Round.write_ledger_first`
   (a conflict or any doubt ends the round: read it again, `opened`); then writes the grants, each **with the
   resourceVersion of the NodeMemoryState that its view was read from** (a conflict: next round), and calls `noted` for
   each that is certain to be done. Only then may a plan with a longer grantSeconds be written.

Why nothing is given out twice, with two leaders, pauses at any point and old caches:

- A ceiling in a state's spec only rises after a ledger write, and that fails if another leader wrote one meanwhile.
- An allowance leaves the ledger only after this process itself replaced the grant in the state (a *closing*), which
  makes every write that another leader still has under way fail. After that either the node acknowledges by a beat
  later than any that was echoed (see `grants`), or 1.1 x grantSeconds have passed since this process first saw the last
  echoed beat, which then is too old for the node. In the second case the rest counts as killed: a node that is cut off
  may have used it.
- An object that is gone counts as closed while the API server itself (not a cache) says so: `absent`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from memorypressure.grants import Grant, Lease
from memorypressure.ledger import MAX_ENTRIES, Entry, Ledger, aged, max_standing, room, spend, with_entry, without_entry
from memorypressure.reasons import Reason
from memorypressure.spec_values import Limits, Mode

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as one version of its NodeMemoryState shows it, with what the operator knows besides.

    `mode` is what this policy wants there now: Disabled when it is not in force any more. `armable`: its plan is
    written, its agent is able to act, reported within three beats, and holds no allowance of another policy's ledger.
    `nearness` is usable memory over the line: lower is nearer. `refill_slot`: maxConcurrentNodes leaves it a place.
    """

    node: str
    mode: Mode
    grant: Grant | None
    lease: Lease | None
    plan_uid: str
    plan_generation: int
    armable: bool
    under_pressure: bool = False
    nearness: float = math.inf
    refill_slot: bool = True


class WriteKind(StrEnum):
    """What a grant's writing does to what the node may do. Raise needs the ledger written first."""

    LOWER = "Lower"
    RENEW = "Renew"
    RAISE = "Raise"


@dataclass(frozen=True, slots=True)
class GrantWrite:
    """The grant to put into a node's state, None to take it away; `reason` for log and metrics."""

    node: str
    kind: WriteKind
    grant: Grant | None
    reason: Reason
    closes: tuple["Closing", ...] = ()


@dataclass(frozen=True, slots=True)
class Closing:
    """What writing a lower grant means for an incarnation: after it nothing above `limit` can be written unfenced.

    `beat`: the newest beat that any higher grant can have echoed; None when an acknowledgement cannot be told.
    """

    incarnation: str
    limit: int
    beat: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest beat echoed to an incarnation, and since when (monotonic) this process has seen it echoed."""

    beat: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Desk:
    """What one operator process knows: the ledger as it read or wrote it, aged to `now_ns`, and its own memory."""

    ledger: Ledger
    now_ns: int
    seen: Mapping[str, Seen] = field(default_factory=dict)
    closings: Mapping[str, Closing] = field(default_factory=dict)


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


def opened(ledger: Ledger, now_ns: int) -> Desk:
    """The desk after the ledger was read from the API server: at start, and after every conflict."""
    return Desk(ledger, now_ns)


def settled(desk: Desk, views: Sequence[NodeView], absent: frozenset[str], now_ns: int) -> Desk:
    """The desk after everything that nodes report was counted. ValueError if `now_ns` went back.

    `views` are all nodes of the policy and all that its ledger names. `absent` are nodes of which the API server itself
    said in this round that they have no NodeMemoryState.
    """
    ledger = aged(desk.ledger, now_ns - desk.now_ns)
    by_node = {view.node: view for view in views}
    for view in views:
        ledger = _reported(ledger, view)
    seen = {entry.incarnation: _last_echo(entry, by_node.get(entry.node), desk.seen, now_ns) for entry in ledger.entries}
    closings = {
        incarnation: closing
        for incarnation, closing in desk.closings.items()
        if incarnation in seen and not _reopened(closing, ledger.entry(incarnation), by_node)
    }
    for entry in ledger.entries:
        closing = closings.get(entry.incarnation)
        view = by_node.get(entry.node)
        if closing is not None and view is not None and _acknowledged(closing, view):
            assert view.lease is not None
            entry = replace(entry, ceiling=min(entry.ceiling, max(closing.limit, view.lease.ceiling_seen)))
            ledger = with_entry(ledger, entry)
        closed = closing is not None or (view is None and entry.node in absent)
        held_ns = now_ns - seen[entry.incarnation].since_ns
        if closed and entry.rest and held_ns * 10 >= entry.grant_seconds * _NS * 11:
            ledger = spend(ledger, entry.rest)
            entry = replace(entry, counted=entry.ceiling)
        if not entry.rest:
            ledger = without_entry(ledger, entry.incarnation)
    known = {entry.incarnation for entry in ledger.entries}
    return Desk(
        ledger,
        now_ns,
        {incarnation: each for incarnation, each in seen.items() if incarnation in known},
        {incarnation: closing for incarnation, closing in closings.items() if incarnation in known},
    )


def decide(desk: Desk, views: Sequence[NodeView], limits: Limits, nodes: int) -> Round:
    """The grants to write now, for the views that `settled` was given; `nodes` in force make up the shares.

    Nodes under pressure come first, then those nearest to their line. While every allowance is out, a node under
    pressure gets that of the calm one farthest from its line, in a later round: when it is released.
    """
    return _Allotment(desk, views, limits, nodes).round()


def noted(desk: Desk, write: GrantWrite, now_ns: int) -> Desk:
    """The desk after a grant was certainly written by this process. Not to be called for a write in doubt."""
    seen = dict(desk.seen)
    closings = dict(desk.closings)
    if write.grant is not None and write.kind is not WriteKind.LOWER:
        incarnation = write.grant.incarnation
        seen[incarnation] = Seen(write.grant.beat, now_ns)
        closings.pop(incarnation, None)
    for closing in write.closes:
        closings[closing.incarnation] = closing
    return replace(desk, seen=seen, closings=closings)


def _reported(ledger: Ledger, view: NodeView) -> Ledger:
    """The ledger with a node's report: its kills, what it holds without our knowing, and the end of incarnations."""
    lease = view.lease
    if lease is None:
        return ledger
    entry = ledger.entry(lease.incarnation)
    granted = view.grant.kills_ceiling if view.grant and view.grant.incarnation == lease.incarnation else 0
    if entry is None and max(granted, lease.ceiling_seen) > lease.kills_total:
        beat = max(lease.beat, view.grant.beat if view.grant and granted else 0)
        entry = Entry(view.node, lease.incarnation, 0, lease.kills_total, beat, _LONGEST_GRANT_SECONDS)
    if entry is not None:
        ledger = spend(ledger, lease.kills_total - entry.counted)
        entry = replace(
            entry,
            counted=max(entry.counted, lease.kills_total),
            ceiling=max(entry.ceiling, granted, 0 if entry.ceiling else lease.ceiling_seen),
        )
        ledger = with_entry(ledger, entry)
    for other in ledger.of_node(view.node):
        if other.incarnation != lease.incarnation and not other.lost:
            ledger = with_entry(ledger, replace(other, lost=True))
    return ledger


_LONGEST_GRANT_SECONDS = 3600
"""Assumed for a grant that the ledger does not know: the API's maximum."""


def _last_echo(entry: Entry, view: NodeView | None, seen: Mapping[str, Seen], now_ns: int) -> Seen:
    beat = entry.beat
    if view is not None and view.grant is not None and view.grant.incarnation == entry.incarnation:
        beat = max(beat, view.grant.beat)
    before = seen.get(entry.incarnation)
    return before if before is not None and beat <= before.beat else Seen(beat, now_ns)


def _reopened(closing: Closing, entry: Entry | None, by_node: Mapping[str, NodeView]) -> bool:
    """Whether a state shows a grant above what it was closed to: an old view, or someone else's write."""
    view = by_node.get(entry.node) if entry is not None else None
    grant = view.grant if view is not None else None
    return grant is not None and grant.incarnation == closing.incarnation and grant.kills_ceiling > closing.limit


def _acknowledged(closing: Closing, view: NodeView) -> bool:
    """Whether the node has promised to stay below: a later beat of the same incarnation. The view shows no reopening."""
    lease = view.lease
    return (
        lease is not None
        and lease.incarnation == closing.incarnation
        and closing.beat is not None
        and lease.beat > closing.beat
    )


class _Allotment:
    """One round's working state; `decide` is its only user."""

    def __init__(self, desk: Desk, views: Sequence[NodeView], limits: Limits, nodes: int) -> None:
        self.desk = desk
        self.ledger = desk.ledger
        self.limits = limits
        self.most = max_standing(limits, nodes)
        self.nodes = nodes
        self.views = sorted(views, key=lambda view: (not view.under_pressure, view.nearness, view.node))
        self.writes: dict[str, GrantWrite] = {}
        self.waiting: list[Waiting] = []
        self.first = False

    def round(self) -> Round:
        self._lengthen()
        wanted = [view for view in self.views if _wanted(view)]
        for view in self.views:
            self._withdraw(view, unwanted=not _wanted(view))
        self._shed([view for view in wanted if view.node not in self.writes])
        hungry = [view for view in wanted if view.node not in self.writes and not self._armed(view)]
        short = [view for view in hungry if not self._raise(view)]
        self._make_room([view for view in short if view.under_pressure], wanted)
        if not short:
            for view in wanted:
                if view.node not in self.writes and self._rest(view) < self.limits.max_victims_per_episode:
                    self._raise(view, quiet=True)
        for view in wanted:
            self._renew(view)
        if self.first:
            self.ledger = replace(self.ledger, serial=self.ledger.serial + 1)
        writes = tuple(self.writes[view.node] for view in self.views if view.node in self.writes)
        return Round(replace(self.desk, ledger=self.ledger), self.first, writes, tuple(self.waiting))

    def _lengthen(self) -> None:
        """A longer grantSeconds makes grants that are out hold longer: the ledger must know before the plans say so."""
        for entry in self.ledger.entries:
            if entry.grant_seconds < self.limits.grant_seconds:
                self.ledger = with_entry(self.ledger, replace(entry, grant_seconds=self.limits.grant_seconds))
                self.first = True

    def _entry(self, view: NodeView) -> Entry | None:
        entry = self.ledger.entry(view.lease.incarnation) if view.lease else None
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
        open_entries = [
            entry
            for entry in self.ledger.of_node(view.node)
            if (unwanted or entry.lost) and self._must_close(entry, view)
        ]
        stray = unwanted and view.grant is not None and view.mode is not Mode.ENFORCE and not self._closed_by(view)
        if open_entries or stray:
            self._close(view, Reason.GRANT_WITHDRAWN)

    def _must_close(self, entry: Entry, view: NodeView) -> bool:
        closing = self.desk.closings.get(entry.incarnation)
        if closing is None:
            return True
        # Closed before the node's report was there: only a second closing can be acknowledged.
        return closing.beat is None and view.lease is not None and view.lease.incarnation == entry.incarnation

    def _closed_by(self, view: NodeView) -> bool:
        """Whether the grant in the state is the zero grant of a closing that waits for its acknowledgement."""
        grant = view.grant
        return grant is not None and grant.incarnation in self.desk.closings

    def _close(self, view: NodeView, reason: Reason) -> None:
        """Writes a grant that allows nothing more; it always differs from what is there, so that the version moves."""
        zero = _zero_grant(view, self._entry(view), self.desk.seen)
        grant = None if zero == view.grant else zero
        if grant is None and view.grant is None:
            return
        closes = []
        for entry in self.ledger.of_node(view.node):
            own = view.lease is not None and view.lease.incarnation == entry.incarnation
            beat = None
            if own and view.lease is not None:
                beats = [view.lease.beat, entry.beat]
                beats += [view.grant.beat] if view.grant and view.grant.incarnation == entry.incarnation else []
                beats += [self.desk.seen[entry.incarnation].beat] if entry.incarnation in self.desk.seen else []
                beat = max(beats)
            closes.append(Closing(entry.incarnation, entry.counted, beat))
        self.writes[view.node] = GrantWrite(view.node, WriteKind.LOWER, grant, reason, tuple(closes))

    def _shed(self, wanted: Sequence[NodeView]) -> None:
        """Withdraws from the calm and far ones while more is out than maxStandingKills."""
        over = self.ledger.standing - self._releasing() - self.most
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
            for entry in self.ledger.entries
            if not entry.lost and (entry.incarnation in self.desk.closings or entry.incarnation in here)
        )

    def _raise(self, view: NodeView, quiet: bool = False) -> bool:
        """Lets the node kill once more, if the budget has room; else says why not, unless `quiet`."""
        lease = view.lease
        assert lease is not None
        entry = self._entry(view)
        counted = max(lease.kills_total, entry.counted if entry else 0)
        shown = view.grant.kills_ceiling if view.grant and view.grant.incarnation == lease.incarnation else 0
        ceiling = max(counted, shown if self._armed(view) else counted) + 1
        more = ceiling - max(entry.ceiling, counted) if entry else 1
        refusal = self._refusal(view, lease, max(0, more), new=entry is None)
        if refusal is not None:
            if not quiet:
                self.waiting.append(refusal)
            return False
        former = self.ledger.entry(lease.incarnation)
        if former is not None and former.lost:
            return False
        echo = view.grant.beat if view.grant and view.grant.incarnation == lease.incarnation else 0
        beat = max(lease.beat, echo)
        self.ledger = with_entry(
            self.ledger,
            Entry(
                view.node,
                lease.incarnation,
                max(ceiling, entry.ceiling if entry else 0),
                counted,
                max(beat, entry.beat if entry else 0),
                max(self.limits.grant_seconds, entry.grant_seconds if entry else 0),
            ),
        )
        self.first = True
        grant = Grant(lease.incarnation, beat, ceiling, view.plan_uid, view.plan_generation)
        closes = tuple(
            Closing(other.incarnation, other.counted, None)
            for other in self.ledger.of_node(view.node)
            if other.incarnation != lease.incarnation
        )
        self.writes[view.node] = GrantWrite(view.node, WriteKind.RAISE, grant, Reason.GRANTED, closes)
        return True

    def _refusal(self, view: NodeView, lease: Lease, more: int, new: bool) -> Waiting | None:
        ledger, limits = self.ledger, self.limits
        if ledger.quarantine_ns > 0:
            message = f"the ledger was lost; nothing is granted for {ledger.quarantine_ns // _NS} s more"
            return Waiting(view.node, Reason.LEDGER_QUARANTINE, message)
        if more and lease.kills_total and not view.refill_slot:
            return Waiting(view.node, Reason.CONCURRENT_NODES, "maxConcurrentNodes others are being helped")
        if more and self.most - ledger.standing < more:
            message = f"{ledger.standing} kills are outstanding, maxStandingKills is {self.most}"
            return Waiting(view.node, Reason.STANDING_LIMIT, message)
        if more and room(ledger, limits, self.nodes) < more:
            message = f"{ledger.spent} kills in the last hour, killsPerHour is {limits.kills_per_hour}"
            return Waiting(view.node, Reason.BUDGET_EXHAUSTED, message)
        if new and len(ledger.entries) >= MAX_ENTRIES:
            return Waiting(view.node, Reason.STANDING_LIMIT, f"the ledger holds {MAX_ENTRIES} incarnations, its limit")
        return None

    def _renew(self, view: NodeView) -> None:
        """Echoes the newest beat, and names the newest plan, for an allowance that stays as it is."""
        if view.node in self.writes or not self._armed(view):
            return
        grant, lease = view.grant, view.lease
        assert grant is not None and lease is not None
        beat = max(grant.beat, lease.beat)
        renewed = replace(grant, beat=beat, plan_uid=view.plan_uid, plan_generation=view.plan_generation)
        if renewed != grant:
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
    counted = max(lease.kills_total, entry.counted if entry else 0)
    plan_uid, plan_generation = view.plan_uid, view.plan_generation
    if not plan_uid or plan_generation < 1:
        if view.grant is None:
            return None
        plan_uid, plan_generation = view.grant.plan_uid, view.grant.plan_generation
    return Grant(lease.incarnation, max(beats), counted, plan_uid, plan_generation)
