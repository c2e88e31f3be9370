"""A policy's status: counts and conditions, computed from what the operator knows, written when it changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memorypressure import ledger
from memorypressure.reasons import Reason
from memorypressure.spec import Mode, Policy
from memorypressure_operator.tables import PolicyEntry

MESSAGE_MAX = 4096
COUNT_MAX = 2**31 - 1
"""Of the API's int32: a node may report any count, and none may keep the others' figures from being written."""


@dataclass(slots=True)
class Counts:
    """Numbers of nodes of one policy."""

    selected: int = 0
    effective: int = 0
    superseded: int = 0
    reporting: int = 0
    under_pressure: int = 0
    armed: int = 0

    def to_json(self) -> dict[str, int]:
        """status.nodes."""
        return {
            "selected": self.selected,
            "effective": self.effective,
            "superseded": self.superseded,
            "reporting": self.reporting,
            "underPressure": self.under_pressure,
            "armed": self.armed,
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """What a policy's status is made of."""

    counts: Counts
    dry_run: int = 0
    evictions: int = 0
    kills: int = 0
    denied: int = 0
    standing_kills: int = 0
    worst_case_hour: int = 0
    evictions_left: int = 0
    evictions_limit: int = 0
    kills_left: int = 0
    kills_limit: int = 0
    last_action_time: str = ""
    ledger_problem: str = ""
    ledger_full: bool = False  # a node is given no allowance because the ConfigMap has no room to count it
    record_full: bool = False  # the same for evictions
    quarantine_seconds: float = 0.0
    hints: tuple[str, ...] = ()
    conflict: str = ""  # with whom it ties, and where; "" = with nobody
    conflict_key: str = ""
    conflicts: int = 0  # nodes on which it ties with one of another mode
    dry_run_only: bool = False
    ungranted: Mapping[str, str] = field(default_factory=dict)  # node -> why it is given no grant yet
    unsure_nodes: int = 0  # those that may hold an allowance of one of the ledgers that cannot be read
    unread_ledgers: tuple[str, ...] = ()  # policies whose ledgers those are
    blind: tuple[str, ...] = ()  # resources of which the API server has sent nothing for long
    refused_plans: Mapping[str, str] = field(default_factory=dict)  # node -> why the API server does not take its plan
    no_candidates: bool = False  # all plans are written, and no pod is on any
    actions_used: Mapping[str, bool] = field(default_factory=dict)  # action -> whether the ladder has it


def compute(entry: PolicyEntry, facts: Facts, now: str) -> dict[str, Any]:
    """The status object. `now` (RFC 3339) becomes lastTransitionTime of conditions whose status changed."""
    before = {c.get("type"): c for c in entry.status.get("conditions") or () if isinstance(c, Mapping)}
    conditions = []
    for kind, status, reason, message in _conditions(entry, facts):
        old = before.get(kind, {})
        same = old.get("status") == status and old.get("lastTransitionTime")
        conditions.append(
            {
                "type": kind,
                "status": status,
                "observedGeneration": entry.generation,
                "lastTransitionTime": old["lastTransitionTime"] if same else now,
                "reason": str(reason),
                "message": message[:MESSAGE_MAX],
            }
        )
    result: dict[str, Any] = {
        "observedGeneration": entry.generation,
        "conditions": conditions,
        "nodes": facts.counts.to_json(),
        "actions": {
            "dryRun": facts.dry_run,
            "evictions": facts.evictions,
            "kills": facts.kills,
            "denied": facts.denied,
        },
        "exposure": {
            "standingKills": min(facts.standing_kills, COUNT_MAX),
            "worstCaseHour": min(facts.worst_case_hour, COUNT_MAX),
        },
    }
    stored = str(entry.status.get("lastActionTime") or "")
    last = max(facts.last_action_time, stored if stored <= now else "")
    return result | ({"lastActionTime": last} if last else {})


Row = tuple[str, str, Reason, str]


def _conditions(entry: PolicyEntry, facts: Facts) -> list[Row]:
    if entry.policy is None:
        return [
            ("Accepted", "False", Reason.INVALID, f"the policy is not carried out: {entry.error}"),
            ("Ready", "False", Reason.INVALID, "the policy is not valid, see condition Accepted"),
            ("Conflicted", "False", Reason.NO_OVERLAP, "the policy is not carried out"),
            ("BudgetAvailable", "Unknown", Reason.INVALID, "the policy is not carried out"),
        ]
    hints = "; ".join(facts.hints)
    accepted = ("Accepted", "True", Reason.ACCEPTED, f"valid; {hints}" if hints else "the policy is valid")
    return [accepted, _ready(entry.policy, facts), _conflicted(facts), _budget(entry.policy, facts)]


def _ready(policy: Policy, facts: Facts) -> Row:
    counts = facts.counts
    if facts.ledger_problem:
        return ("Ready", "False", Reason.LEDGER_INVALID, disarmed(facts.ledger_problem))
    if policy.mode is Mode.DISABLED:
        return ("Ready", "True", Reason.MODE_DISABLED, "mode is Disabled: nodes only watch")
    if counts.selected == 0:
        return ("Ready", "True", Reason.RECONCILED, "spec.nodeSelector matches no node, so nothing is done")
    notes = [f"in force on {counts.effective} of {counts.selected} selected nodes, {counts.reporting} report in time"]
    unheard = counts.effective > 0 and counts.reporting == 0
    if unheard:
        notes.append(
            "without reports nobody is evicted and no further kill is allowed: do the agents' pods run "
            "(kubectl get pods -A -l app.kubernetes.io/component=agent -o wide), and what do the logs of their "
            "containers `reporter` say"
        )
    if counts.effective == 0:
        notes.append("policies of higher priority, or tied with it, have all of them (spec.priority)")
    if facts.no_candidates:
        notes.append(
            "no pod of its nodes may be stopped by spec.victims; `memorypressure-operator explain NODE` says why"
        )
    if facts.quarantine_seconds > 0:
        notes.append(_quarantine(policy))
    if facts.ungranted:
        node, why = min(facts.ungranted.items())
        notes.append(f"nothing is granted yet to {len(facts.ungranted)} nodes, such as {node}: {why}")
    if facts.unsure_nodes and facts.unread_ledgers:
        of = ", ".join(facts.unread_ledgers)
        notes.append(
            f"nothing is granted to {facts.unsure_nodes} nodes that may hold an allowance of {of}: "
            "the ledger of that policy cannot be read, its own condition Ready says why"
        )
    if facts.dry_run_only and policy.mode is Mode.ENFORCE:
        notes.append("the operator runs with --dry-run-only: Enforce is treated as DryRun")
    if facts.blind:
        what = ", ".join(facts.blind)
        notes.append(f"no kill is granted, no grant renewed and no pod evicted: the API server sends nothing of {what}")
        return ("Ready", "False", Reason.UNREADABLE, "; ".join(notes))
    if facts.refused_plans:
        node, why = min(facts.refused_plans.items())
        notes.append(f"the API server refuses the plans of {len(facts.refused_plans)} nodes, such as {node}: {why}")
        return ("Ready", "False", Reason.PLAN_REFUSED, "; ".join(notes))
    if unheard:
        return ("Ready", "False", Reason.REPORT_MISSING, "; ".join(notes))
    return ("Ready", "True", Reason.RECONCILED, "; ".join(notes))


def _conflicted(facts: Facts) -> Row:
    if not facts.conflict:
        return ("Conflicted", "False", Reason.NO_OVERLAP, "no policy of the same priority selects the same nodes")
    return ("Conflicted", "True", Reason.EQUAL_PRIORITY_OVERLAP, facts.conflict)


def _quarantine(policy: Policy) -> str:
    minutes = ledger.quarantine_seconds(policy.limits.grant_seconds) / 60
    return f"the ledger is new: nothing is granted in its first {minutes:.0f} min, and no pod is evicted"


def disarmed(why: str) -> str:
    """What it means that the ledger cannot be used."""
    return f"no kill is granted and no pod evicted: {why}"


def _budget(policy: Policy, facts: Facts) -> Row:
    if facts.ledger_problem:
        return ("BudgetAvailable", "False", Reason.LEDGER_INVALID, disarmed("see the condition Ready"))
    if facts.quarantine_seconds > 0:
        return ("BudgetAvailable", "False", Reason.LEDGER_QUARANTINE, _quarantine(policy))
    used_up = []
    if facts.actions_used.get("Evict") and facts.evictions_left <= 0:
        used_up.append(f"all {facts.evictions_limit} evictions of this hour are used")
    if facts.actions_used.get("Kill") and facts.kills_left <= 0:
        out = f"; nodes may still make {facts.standing_kills}, allowed before" if facts.standing_kills else ""
        used_up.append(f"all {facts.kills_limit} kills of this hour are made, or count as made{out}")
    if facts.record_full:
        used_up.append("the ledger's ConfigMap has no room for a further eviction of this hour")
    if facts.ledger_full:
        used_up.append("the ledger's ConfigMap has no room for a further node's allowance (lower maxStandingKills)")
    if used_up:
        return ("BudgetAvailable", "False", Reason.BUDGET_EXHAUSTED, "; ".join(used_up))
    message = f"{max(0, facts.evictions_left)} evictions and {max(0, facts.kills_left)} kills are left in this hour"
    return ("BudgetAvailable", "True", Reason.BUDGET_LEFT, message)
