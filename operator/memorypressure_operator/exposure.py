"""What a policy's status shows of its worst hour: what it bounds, and what it tells of a ledger that is gone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memorypressure.ledger import max_standing
from memorypressure.reasons import Reason
from memorypressure.spec import Limits, Share
from memorypressure_operator.tables import PolicyEntry


def within_shown(limits: Limits, nodes: int, standing: int, status: Mapping[str, Any]) -> Limits:
    """The limits, lowered where the status shows a lesser worst hour: no hour sees more kills than a user could read.

    What is out already (`standing` kills) is not taken back for it.
    """
    most = max_standing(limits, nodes)
    over = most + limits.kills_per_hour - int((status.get("exposure") or {}).get("worstCaseHour") or 0)
    if over <= 0:
        return limits
    refills = max(0, limits.kills_per_hour - over)
    allowed = max(most + limits.kills_per_hour - over - refills, standing)
    return replace(limits, kills_per_hour=refills, max_standing_kills=Share(count=min(most, allowed)))


def had_ledger(entry: PolicyEntry | None) -> bool:
    """Whether the policy's own status says that it was enforced before: then it had a ledger, which is lost now.

    A ledger is written before the first status that shows a worst case, so a new policy is told from a robbed one.
    """
    if entry is None:
        return True
    exposure = entry.status.get("exposure") or {}
    broken = any(each.get("reason") == Reason.LEDGER_INVALID for each in entry.status.get("conditions") or ())
    return broken or bool(exposure.get("worstCaseHour"))
