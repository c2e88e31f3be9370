"""What the operator knows of allowances: nodes' reports and its own writes go in, the ledger is what comes out.

The reasons why this is safe are told in `allotment`, which decides on top of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from memorypressure.book import Book
from memorypressure.grants import Grant, Lease
from memorypressure.ledger import Entry, Ledger, aged
from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as one version of its NodeMemoryState shows it, with what the operator knows besides.

    `mode` is what this policy wants there now: Disabled when it is not in force any more. `armable`: its plan is
    written, its agent is able to act, reported within three beats, and may use no allowance of another policy's ledger.
    `nearness` is usable memory over the line: lower is nearer. `refill_slot`: maxConcurrentNodes leaves it a place.
    `plan_newest`: its plan was made of the policy as it is now; until then it keeps what it has, and is given no more.
    `victim_pending`: a kill of its own is not over; until then, too.
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
    plan_newest: bool = True
    victim_pending: bool = False


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


def opened(ledger: Ledger, now_ns: int) -> Desk:
    """The desk after the ledger was read from the API server: at start, and after every conflict."""
    return Desk(ledger, now_ns)


def settled(desk: Desk, views: Sequence[NodeView], absent: frozenset[str], now_ns: int) -> Desk:
    """The desk after everything that nodes report was counted. ValueError if `now_ns` went back.

    `views` are all nodes of the policy and all that its ledger names. `absent` are nodes of which the API server itself
    said in this round that they have no NodeMemoryState.
    """
    book = Book(aged(desk.ledger, now_ns - desk.now_ns))
    by_node = {view.node: view for view in views}
    for view in views:
        _report(book, view)
    entries = book.entries()
    seen = {each.incarnation: _last_echo(each, by_node.get(each.node), desk.seen, now_ns) for each in entries}
    closings = {
        incarnation: closing
        for incarnation, closing in desk.closings.items()
        if incarnation in seen and not _reopened(closing, book.entry(incarnation), by_node)
    }
    for before in entries:
        node_view = by_node.get(before.node)
        closing = closings.get(before.incarnation)
        after = _acknowledged(before, closing, node_view)
        closed = closing is not None or (node_view is None and before.node in absent)
        if closed and _is_over(seen[before.incarnation], after, now_ns):
            book.spend(after.rest)
            after = replace(after, counted=max(after.counted, after.ceiling))
        book.put(after)
        if not after.rest and not _claims_more(after, node_view):
            book.drop(after.incarnation)
    known = {entry.incarnation for entry in book.entries()}
    return Desk(
        book.ledger(),
        now_ns,
        {incarnation: each for incarnation, each in seen.items() if incarnation in known},
        {incarnation: closing for incarnation, closing in closings.items() if incarnation in known},
    )


def has_run_out(desk: Desk, entry: Entry, now_ns: int) -> bool:
    """Whether the entry's last grant holds no longer: only then it matters whether its node's state is `absent`."""
    seen = desk.seen.get(entry.incarnation)
    return seen is not None and _is_over(seen, entry, now_ns)


def _is_over(seen: Seen, entry: Entry, now_ns: int) -> bool:
    return (now_ns - seen.since_ns) * 10 >= entry.grant_seconds * _NS * 11


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


def replaced(desk: Desk, views: Sequence[NodeView], now_ns: int) -> Desk:
    """The desk after this process certainly wrote grants of another policy into the states that these views are of.

    Such a write closes what other incarnations hold than the one that reports: the state shows no grant of theirs, and
    every write that is under way fails. What they had left counts as killed; no beat was echoed to them after `now_ns`.
    """
    by_node = {view.node: view for view in views if view.lease is not None}
    entries, seen, closings = list(desk.ledger.entries), dict(desk.seen), dict(desk.closings)
    for index, entry in enumerate(entries):
        view = by_node.get(entry.node)
        if view is None or view.lease is None or view.lease.incarnation == entry.incarnation:
            continue
        if entry.rest and entry.incarnation not in closings:
            entries[index] = replace(entry, lost=True)
            seen[entry.incarnation] = replace(_last_echo(entry, view, seen, now_ns), since_ns=now_ns)
            closings[entry.incarnation] = Closing(entry.incarnation, entry.counted, None)
    if len(closings) == len(desk.closings):
        return desk
    return replace(desk, ledger=replace(desk.ledger, entries=tuple(entries)), seen=seen, closings=closings)


def _report(book: Book, view: NodeView) -> None:
    """Takes in a node's report: its kills, what it holds without our knowing, and the end of incarnations."""
    lease = view.lease
    if lease is None:
        return
    entry = book.entry(lease.incarnation)
    granted = view.grant.kills_ceiling if view.grant and view.grant.incarnation == lease.incarnation else 0
    if entry is None and max(granted, lease.ceiling_seen) > lease.kills_total:
        beat = max(lease.beat, view.grant.beat if view.grant and granted else 0)
        entry = Entry(view.node, lease.incarnation, 0, lease.kills_total, beat, _LONGEST_GRANT_SECONDS)
    if entry is not None:
        book.spend(lease.kills_total - entry.counted)
        counted = max(entry.counted, lease.kills_total)
        ceiling = max(entry.ceiling, granted, 0 if entry.ceiling else lease.ceiling_seen)
        if (counted, ceiling) != (entry.counted, entry.ceiling):
            entry = replace(entry, counted=counted, ceiling=ceiling)
        book.put(entry)
    for other in book.of_node(view.node):
        if other.incarnation != lease.incarnation and not other.lost:
            book.put(replace(other, lost=True))


_LONGEST_GRANT_SECONDS = 3600
"""Assumed for a grant that the ledger does not know: the API's maximum."""


def _claims_more(entry: Entry, view: NodeView | None) -> bool:
    """Whether the node, as last heard, still holds an allowance that was counted as killed when it ran out.

    Its entry stays, so that the same allowance is not counted again; it goes with the node's next report or the node.
    """
    lease = view.lease if view is not None else None
    return lease is not None and lease.incarnation == entry.incarnation and lease.ceiling_seen > lease.kills_total


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


def _acknowledged(entry: Entry, closing: Closing | None, view: NodeView | None) -> Entry:
    """The entry without what the node has promised not to use: by a beat later than any that echoed more.

    The view shows no reopening.
    """
    lease = view.lease if view is not None else None
    if closing is None or closing.beat is None or lease is None:
        return entry
    if lease.incarnation != closing.incarnation or lease.beat <= closing.beat:
        return entry
    return replace(entry, ceiling=min(entry.ceiling, max(closing.limit, lease.ceiling_seen)))
