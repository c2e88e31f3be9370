"""Frozen policy values -> the JSON they were read from, with every default written out: what plans and orders carry.

`triggers_from(triggers_json(x)) == x`, and likewise for the other parts. Quantities come out as bytes.
"""

from typing import Any

from memorypressure.spec_values import (
    Action,
    LabelSelector,
    Limits,
    Share,
    Step,
    Trigger,
    VictimRules,
)


def triggers_json(triggers: tuple[Trigger, ...]) -> list[dict[str, Any]]:
    """A policy's or plan's `triggers`."""
    return [_trigger(trigger) for trigger in triggers]


def ladder_json(ladder: tuple[Step, ...]) -> list[dict[str, Any]]:
    """A policy's or plan's `ladder`."""
    return [_step(step) for step in ladder]


def victims_json(rules: VictimRules) -> dict[str, Any]:
    """A policy's or plan's `victims`; sets come out sorted."""
    return {
        "order": [criterion.value for criterion in rules.order],
        "maxPriority": rules.max_priority,
        "qosClasses": sorted(qos.value for qos in rules.qos_classes),
        "podSelector": selector_json(rules.pod_selector),
        "namespaceSelector": selector_json(rules.namespace_selector),
        "minRelief": rules.min_relief_bytes,
        "minAgeSeconds": rules.min_age_seconds,
        "unprotected": sorted(group.value for group in rules.unprotected),
    }


def limits_json(limits: Limits) -> dict[str, Any]:
    """A policy's or plan's `limits`."""
    return {
        "cooldownSeconds": limits.cooldown_seconds,
        "maxVictimsPerEpisode": limits.max_victims_per_episode,
        "maxVictimsPerWorkload": _share(limits.max_victims_per_workload),
        "maxConcurrentNodes": _share(limits.max_concurrent_nodes),
        "evictionsPerHour": limits.evictions_per_hour,
        "killsPerHour": limits.kills_per_hour,
        "maxStandingKills": _share(limits.max_standing_kills),
        "grantSeconds": limits.grant_seconds,
    }


def selector_json(selector: LabelSelector) -> dict[str, Any]:
    """A label selector; `{}` for the one that matches everything."""
    out: dict[str, Any] = {}
    if selector.match_labels:
        out["matchLabels"] = dict(selector.match_labels)
    if selector.match_expressions:
        out["matchExpressions"] = [
            {
                "key": each.key,
                "operator": each.operator.value,
                **({"values": sorted(each.values)} if each.values else {}),
            }
            for each in selector.match_expressions
        ]
    return out


def _trigger(trigger: Trigger) -> dict[str, Any]:
    out: dict[str, Any] = {"name": trigger.name, "type": trigger.type.value}
    if trigger.zone_watermark is not None:
        zone = trigger.zone_watermark
        out["zoneWatermark"] = {
            "line": zone.line.value,
            "nodes": zone.nodes.value,
            "marginPercent": zone.margin_percent,
            "belowMilliseconds": zone.below_ms,
            "withinMilliseconds": zone.within_ms,
            "takenBy": zone.taken_by.value,
        }
    if trigger.available_memory is not None:
        memory = trigger.available_memory
        out["availableMemory"] = {"percent": memory.percent}
        if memory.at_least_bytes is not None:
            out["availableMemory"]["atLeast"] = memory.at_least_bytes
        if memory.at_most_bytes is not None:
            out["availableMemory"]["atMost"] = memory.at_most_bytes
        if memory.swap_free_percent is not None:
            out["availableMemory"]["swapFreePercent"] = memory.swap_free_percent
    if trigger.psi is not None:
        out["psi"] = {
            "scope": trigger.psi.scope.value,
            "kind": trigger.psi.kind.value,
            "windowSeconds": trigger.psi.window_seconds,
            "thresholdPercent": trigger.psi.threshold_percent,
        }
    return out


def _step(step: Step) -> dict[str, Any]:
    out: dict[str, Any] = {
        "action": step.action.value,
        "triggers": list(step.triggers),
        "match": step.match.value,
    }
    if step.action is not Action.TAINT or step.after_seconds:
        out["afterSeconds"] = step.after_seconds
    if step.taint is not None:
        out["taint"] = {"effect": step.taint.effect.value, "holdSeconds": step.taint.hold_seconds}
    if step.evict is not None:
        out["evict"] = {"gracePeriodSeconds": step.evict.grace_period_seconds}
    if step.kill is not None:
        out["kill"] = {"unit": step.kill.unit.value}
    return out


def _share(share: Share) -> int | str:
    return share.count if share.count is not None else f"{share.percent}%"
