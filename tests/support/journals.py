"""Journals for the tests of their own: the boot that they are of, and grants as a node comes to see them."""

from typing import Final

from memorypressure.grants import Grant, NodeGrants, see_grant
from memorypressure_agent.host.journal import Journal

BOOT: Final = "11111111-2222-3333-4444-555555555555"


def with_ceiling(journal: Journal, ceiling: int) -> NodeGrants:
    """The journal's grants after orders that allow so many kills."""
    return see_grant(journal.grants, Grant(journal.incarnation, journal.grants.beat, ceiling, "plan", 1), 0)
