"""What the journal said at one moment, for the report and its conditions; times as the API takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from memorypressure.grants import NodeGrants
from memorypressure.reasons import Reason
from memorypressure.records import rfc3339

SILENT_NS: Final = 10_000_000_000
"""A sentinel that has written no status for so long is not well: it writes one every 4 s at least."""
SEEN_SILENT_SECONDS: Final = 3.0
"""For so long the reporter must have looked at it in vain: after a suspend it may be the first of the two to run."""
_LAST_TIME_NS: Final = 253_402_300_799 * 1_000_000_000  # the end of the year 9999: RFC 3339 has four digits


@dataclass(frozen=True, slots=True)
class View:
    """What the journal said at one moment. `status` is the sentinel's object (`sentinel.status`), empty at first."""

    status: Mapping[str, Any]
    grants: NodeGrants | None
    unix_ns: int
    boot_ns: int
    problem: str = ""
    """Why the journal or the status in it cannot be used; empty when it can."""
    problem_reason: Reason = Reason.UNREADABLE
    unchanged_seconds: float = 0.0
    """For how long the reporter has been looking at this status, by a clock that stands still in a suspend."""

    @property
    def silent(self) -> bool:
        """Whether the sentinel has stopped writing, or never began."""
        if self.problem or not self.status:
            return True
        old = self.boot_ns - self.status["writtenBootNs"] > SILENT_NS
        return old and self.unchanged_seconds >= SEEN_SILENT_SECONDS

    @property
    def zones_problem(self) -> str:
        """Why the sentinel cannot use zoneinfo, by its last status; empty when it can, and without a status."""
        sources = self.status["sources"] if self.status else ()
        return next((each["message"] for each in sources if each["name"] == "zoneinfo" and not each["up"]), "")

    @property
    def active_triggers(self) -> list[Mapping[str, Any]]:
        """The triggers that are active; none while the sentinel is silent."""
        if self.silent:
            return []
        return [trigger for trigger in self.status["triggers"] if trigger["status"] == "Active"]


def rfc3339_seconds(unix_ns: int) -> str:
    """The time in whole seconds: the API's `Time` has no fractions, and a server may refuse them."""
    return rfc3339(min(max(unix_ns, 0), _LAST_TIME_NS))[:19] + "Z"
