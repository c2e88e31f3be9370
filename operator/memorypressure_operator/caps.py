"""The operator's own caps: from flags, for whoever runs the operator; they can only lower what a policy allows."""

import dataclasses

from memorypressure.spec import Limits, Mode, Policy, Share
from memorypressure_operator.settings import Settings


def capped(policy: Policy, settings: Settings) -> Policy:
    """The policy with hourly limits capped; --dry-run-only turns Enforce into DryRun."""
    limits = dataclasses.replace(
        policy.limits,
        kills_per_hour=_lower(policy.limits.kills_per_hour, settings.max_kills_per_hour),
        evictions_per_hour=_lower(policy.limits.evictions_per_hour, settings.max_evictions_per_hour),
    )
    dry = settings.dry_run_only and policy.mode is Mode.ENFORCE
    return dataclasses.replace(policy, limits=limits, mode=Mode.DRY_RUN if dry else policy.mode)


def for_nodes(limits: Limits, nodes: int, settings: Settings) -> Limits:
    """The limits with shares of so many nodes in force, capped in absolute numbers."""
    return dataclasses.replace(
        limits,
        max_standing_kills=_share(limits.max_standing_kills, nodes, settings.max_standing_kills),
        max_concurrent_nodes=_share(limits.max_concurrent_nodes, nodes, settings.max_concurrent_nodes),
    )


def _lower(value: int, cap: int) -> int:
    return value if cap < 0 else min(value, cap)


def _share(share: Share, nodes: int, cap: int) -> Share:
    return share if cap < 0 else Share(count=min(share.of(nodes), cap))
