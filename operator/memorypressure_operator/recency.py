"""What counts of versions that come in any order: events of the watches, lists, the answers to our own writes."""

from collections.abc import Iterator
from enum import Enum

from memorypressure_operator.reports import PlanView, StateView
from memorypressure_operator.tables import PolicyEntry

DELETED_KEPT = 1000
"""UIDs of deleted objects that are remembered: what was under way when they were deleted must not bring them back."""


class Ours(Enum):
    """What our own write did to the object that its answer shows."""

    MADE = "Made"
    CHANGED = "Changed"


class Deleted:
    """UIDs of deleted objects, the last ones: a UID never comes back."""

    def __init__(self) -> None:
        self._uids: dict[str, None] = {}  # the oldest first

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids

    def __iter__(self) -> Iterator[str]:
        return iter(self._uids)

    def add(self, uid: str) -> None:
        """Remembers one, and forgets the oldest in its place."""
        self._uids[uid] = None
        if len(self._uids) > DELETED_KEPT:
            del self._uids[next(iter(self._uids))]

    def discard(self, uid: str) -> None:
        """It is there all the same."""
        self._uids.pop(uid, None)


def is_late(
    known: StateView | PlanView | None, view: StateView | PlanView, ours: Ours | None, deleted: Deleted
) -> bool:
    """Whether an answer to our own write comes after the deletion; what a stream sends is there all the same.

    What we changed was known when we did: where it is not, or another has its name, it has gone. Of what we made
    the answer may be the first to tell. To pass over an answer does no harm: its stream tells the same, or later.
    """
    if ours is None:
        return False
    if known is not None:
        return known.uid != view.uid
    return ours is Ours.CHANGED or view.uid in deleted


def is_outdated(entry: PolicyEntry, known: PolicyEntry) -> bool:
    """Whether it is an earlier version of the policy that is known, or what had its name before."""
    if entry.uid == known.uid and entry.generation != known.generation:
        return entry.generation < known.generation
    return is_newer(known.resource_version, entry.resource_version)


def is_newer(one: str, other: str) -> bool:
    """Whether a resourceVersion of the same resource is certainly the later one.

    They are decimal numbers that grow with every write: promised since Kubernetes 1.35 (KEP-5504), and so with every
    API server on etcd before. Of those that are no such numbers it is not known which is later.
    """
    return _is_number(one) and _is_number(other) and int(one) > int(other)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit() and version[0] != "0"
