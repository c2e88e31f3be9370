"""Journals for the tests of their own: the boot that they are of, and grants as a node comes to see them."""

import mmap
from typing import Final

from memorypressure.grants import Grant, NodeGrants, see_grant
from memorypressure_agent.host import journal_format as layout
from memorypressure_agent.host.journal import Journal

BOOT: Final = "11111111-2222-3333-4444-555555555555"


def with_ceiling(journal: Journal, ceiling: int) -> NodeGrants:
    """The journal's grants after orders that allow so many kills."""
    return see_grant(journal.grants, Grant(journal.incarnation, journal.grants.beat, ceiling, "plan", 1), 0)


class Forgetful:
    """A journal's mapping in which what is written to the area of the grants is not there when it is read."""

    def __init__(self, whole: mmap.mmap) -> None:
        self._whole = whole

    def __getitem__(self, place: slice) -> bytes:
        return self._whole[place]

    def __setitem__(self, place: slice, data: bytes) -> None:
        if not layout.GRANTS_OFFSET <= place.start < layout.KILLS_OFFSET:
            self._whole[place] = data
