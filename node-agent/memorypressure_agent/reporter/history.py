"""Actions and episodes on their way from the journal to the API: none is lost, none leaves before it was seen there.

The status has room for ten of each. What has not been reported yet comes first, oldest first; what a write brought new
is shown in the next one too.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

SHOWN: Final = 10
NEW_IN_A_WRITE: Final = 5
"""Half of what is shown is new in a write, so each record is shown in two writes at least."""
KEPT: Final = 1024

Record = dict[str, Any]


class History:
    """Records of one kind by id, in the order of their first appearance; a later record of an id replaces it."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._unreported: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Takes a record from the journal; one that is known and unchanged is nothing new."""
        identity = str(record["id"])
        if self._records.get(identity) == record:
            return
        self._records[identity] = record
        self._unreported[identity] = record
        while len(self._records) > KEPT:
            oldest = next(iter(self._records))
            if oldest in self._unreported:
                break
            del self._records[oldest]

    def seed(self, reported: Iterable[Mapping[str, Any]]) -> None:
        """Counts what the API already holds (newest first) as reported, so that a restart reports nothing anew."""
        known = {str(each["id"]): dict(each) for each in reversed(list(reported)) if "id" in each}
        earlier = {identity: entry for identity, entry in known.items() if identity not in self._records}
        self._records = earlier | self._records
        for identity, entry in known.items():
            if self._unreported.get(identity) == entry:
                del self._unreported[identity]

    @property
    def unreported(self) -> int:
        """How many records the API has not seen."""
        return len(self._unreported)

    def window(self) -> list[Record]:
        """What the next write shows, newest first: the oldest unreported records and what was shown before them."""
        order = list(self._records)
        if not self._unreported:
            shown = order[-SHOWN:]
        else:
            new = list(self._unreported)[:NEW_IN_A_WRITE]
            last = max(order.index(identity) for identity in new)
            chosen = set(order[max(0, last + 1 - SHOWN) : last + 1]) | set(new)
            shown = [identity for identity in order if identity in chosen][-SHOWN:]
            missing = [identity for identity in new if identity not in shown]
            shown = missing + shown[len(missing) :]
        return [self._records[identity] for identity in reversed(shown)]

    def reported(self, window: Iterable[Record]) -> None:
        """Counts the records of a write that succeeded as reported."""
        for record in window:
            identity = str(record["id"])
            if self._unreported.get(identity) == record:
                del self._unreported[identity]
