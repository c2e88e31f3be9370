"""Actions and episodes on their way from the journal to the API: none is lost, none is shown as new a second time.

The status has room for ten of each. What has not been reported yet comes first, oldest first; what a write brought new
is shown in the next one too, and once it has left the status it never comes back: the operator remembers no more than
the last status and would tell it again.

Ids are `<journal>-a<number>`, and the numbers of a journal only grow (`memorypressure.records`). So after a restart the
newest id that the API holds says what was reported before, although the status has room for the last ten only.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

SHOWN: Final = 10
NEW_IN_A_WRITE: Final = 5
"""Half of what is shown is new in a write, so each record is shown in two writes at least."""
KEPT: Final = 64
"""Reported records that are kept; those that are not reported yet are all kept: a few hundred bytes each, and a node
can make six an hour (the sentinel's own limit), in DryRun thirty."""

_NUMBERED: Final = re.compile(r"(.*[^0-9])([0-9]{1,18})")

Record = dict[str, Any]


class History:
    """Records of one kind by id, in the order of their first appearance; a later record of an id replaces it."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._unreported: dict[str, Record] = {}
        self._reported_to: dict[str, int] = {}
        """The highest number that the API held at the start, by the text before it."""
        self._seeded: dict[str, Record] = {}
        self._newest_shown = ""

    def add(self, record: Record) -> None:
        """Takes a record from the journal; one that is known and unchanged, or was reported long ago, is not new."""
        identity = str(record["id"])
        if self._records.get(identity) == record or (identity not in self._records and self._is_past(identity)):
            return
        self._records[identity] = record
        if self._seeded.get(identity) == record:
            self._unreported.pop(identity, None)  # only its earlier forms, which a journal has too, differ
        else:
            self._unreported[identity] = record
        self._forget()

    def seed(self, reported: Iterable[Mapping[str, Any]]) -> None:
        """Counts what the API already holds (newest first), and all before it, as reported: a restart repeats nothing.

        Call it once, before the first `window`; records may have been added already.
        """
        known = {str(each["id"]): dict(each) for each in reversed(list(reported)) if "id" in each}
        self._seeded = known
        self._newest_shown = next(reversed(known), "")
        for identity in known:
            start, number = _parts(identity)
            self._reported_to[start] = max(self._reported_to.get(start, -1), number)
        for identity, record in list(self._unreported.items()):
            if known[identity] == record if identity in known else self._is_past(identity):
                del self._unreported[identity]
        earlier = {identity: record for identity, record in known.items() if identity not in self._records}
        self._records = earlier | self._records
        self._forget()

    @property
    def unreported(self) -> int:
        """How many records the API has not seen."""
        return len(self._unreported)

    def window(self) -> list[Record]:
        """What the next write shows, newest first: the oldest unreported records, and what came right before them."""
        order = list(self._records)
        new = list(self._unreported)[:NEW_IN_A_WRITE]
        # Up to the newest of these, or to the newest that was shown before: an older record that changed must not push
        # it out of the status.
        reach = {*new, self._newest_shown}
        last = max((place for place, identity in enumerate(order) if identity in reach), default=-1)
        before = [identity for identity in order[: last + 1] if identity not in new]
        shown = {*new, *before[len(before) - min(len(before), SHOWN - len(new)) :]}
        return [self._records[identity] for identity in reversed(order) if identity in shown]

    def reported(self, window: Iterable[Record]) -> None:
        """Counts the records of a write that succeeded as reported."""
        for place, record in enumerate(window):
            identity = str(record["id"])
            if place == 0:
                self._newest_shown = identity
            if self._unreported.get(identity) == record:
                del self._unreported[identity]

    def _is_past(self, identity: str) -> bool:
        start, number = _parts(identity)
        return number < self._reported_to.get(start, -1)

    def _forget(self) -> None:
        """Drops the oldest records that are reported, beyond those that a window can need."""
        while len(self._records) > KEPT:
            oldest = next(iter(self._records))
            if oldest in self._unreported:
                return
            del self._records[oldest]


def _parts(identity: str) -> tuple[str, int]:
    found = _NUMBERED.fullmatch(identity)
    return (found[1], int(found[2])) if found else (identity, -1)
