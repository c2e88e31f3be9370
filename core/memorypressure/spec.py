"""A policy's JSON -> frozen values, with the defaults, the verdict and the rules' sentences of the API server.

The parts of a policy (triggers, ladder, victims, limits) have the same JSON shape in a NodeMemoryPlan; the functions
`*_from` read one part. All of them raise SpecError with every error, each with the path of its field.
"""

from collections.abc import Mapping
from typing import Any

from memorypressure.label_schema import LABEL_SELECTOR, is_subdomain
from memorypressure.quantity import parse_quantity
from memorypressure.schema import FieldError, Shape, SpecError, shown
from memorypressure.spec_schema import (
    EVICT,
    KILL,
    LADDER,
    LIMITS,
    NAME_MAX_CHARACTERS,
    NAME_TOO_LONG,
    SPEC,
    TAINT,
    TRIGGERS,
    VICTIMS,
)
from memorypressure.spec_values import (
    Action,
    AvailableMemory,
    Criterion,
    EvictSettings,
    KillSettings,
    KillUnit,
    LabelSelector,
    Limits,
    Match,
    Mode,
    NodesScope,
    Policy,
    PsiKind,
    PsiScope,
    PsiSettings,
    QosClass,
    Requirement,
    SelectorOperator,
    Share,
    Step,
    TaintEffect,
    TaintSettings,
    TakenBy,
    Trigger,
    TriggerType,
    Unprotected,
    VictimRules,
    ZoneWatermark,
)
from memorypressure.zones import Line

__all__ = [
    "API_VERSION",
    "KIND",
    "Action",
    "AvailableMemory",
    "Criterion",
    "EvictSettings",
    "FieldError",
    "KillSettings",
    "KillUnit",
    "LabelSelector",
    "Limits",
    "Line",
    "Match",
    "Mode",
    "NodesScope",
    "Policy",
    "PsiKind",
    "PsiScope",
    "PsiSettings",
    "QosClass",
    "Requirement",
    "SelectorOperator",
    "Share",
    "SpecError",
    "Step",
    "TaintEffect",
    "TaintSettings",
    "TakenBy",
    "Trigger",
    "TriggerType",
    "Unprotected",
    "VictimRules",
    "ZoneWatermark",
    "ladder_from",
    "limits_from",
    "normal_spec",
    "parse_policy",
    "policy_hints",
    "selector_from",
    "triggers_from",
    "victims_from",
]

API_VERSION = "memorypressure.dev/v1alpha1"
KIND = "MemoryPressurePolicy"

_SHORT_DWELL_ON_MIN_MS = 1000


def parse_policy(obj: Mapping[str, Any]) -> Policy:
    """The policy that a MemoryPressurePolicy object (JSON, with apiVersion, kind, metadata and spec) stands for.

    Raises SpecError with all errors: a spec passes here exactly when the API server accepts it with strict field
    validation. Of metadata only name, uid, generation and creationTimestamp are looked at, of status nothing.
    """
    spec, errors = _check_object(obj)
    if errors:
        raise SpecError(errors)
    metadata = obj["metadata"]
    return Policy(
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        generation=metadata.get("generation") or 0,
        creation_time=metadata.get("creationTimestamp") or "",
        mode=Mode(spec["mode"]),
        priority=spec["priority"],
        node_selector=_selector(spec["nodeSelector"]),
        triggers=_triggers(spec["triggers"]),
        ladder=_ladder(spec["ladder"]),
        victims=_victims(spec["victims"]),
        limits=_limits(spec["limits"]),
    )


def normal_spec(obj: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of the object's spec as the API server stores it: defaults filled in, nulls gone. Raises SpecError."""
    spec, errors = _check_object(obj)
    if errors:
        raise SpecError(errors)
    normal: dict[str, Any] = spec
    return normal


def triggers_from(value: Any, path: str = "triggers") -> tuple[Trigger, ...]:
    """The triggers of a policy's or plan's `triggers` list."""
    return _triggers(_checked(TRIGGERS, value, path))


def ladder_from(value: Any, path: str = "ladder") -> tuple[Step, ...]:
    """The steps of a policy's or plan's `ladder` list, each with the settings of its action."""
    return _ladder(_checked(LADDER, value, path))


def victims_from(value: Any, path: str = "victims") -> VictimRules:
    """The victim rules of a policy's or plan's `victims` object."""
    return _victims(_checked(VICTIMS, value, path))


def limits_from(value: Any, path: str = "limits") -> Limits:
    """The limits of a policy's or plan's `limits` object."""
    return _limits(_checked(LIMITS, value, path))


def selector_from(value: Any, path: str = "selector") -> LabelSelector:
    """A label selector from its JSON, such as a PodDisruptionBudget's."""
    return _selector(_checked(LABEL_SELECTOR, value, path))


def policy_hints(policy: Policy) -> tuple[FieldError, ...]:
    """What is allowed but hardly meant: steps that can never be taken, kills on ordinary dips."""
    hints = []
    actions = [step.action for step in policy.ladder]
    limits = policy.limits
    if Action.EVICT in actions and limits.evictions_per_hour == 0:
        hints.append(
            FieldError(
                "spec.limits.evictionsPerHour",
                "is 0, so the Evict step never evicts a pod",
            )
        )
    if Action.KILL in actions and limits.max_standing_kills.count == 0:
        hints.append(
            FieldError(
                "spec.limits.maxStandingKills",
                "is 0, so no node may carry out the Kill step",
            )
        )
    elif Action.KILL in actions and limits.kills_per_hour == 0:
        hints.append(
            FieldError(
                "spec.limits.killsPerHour",
                "is 0, so a node that has used its kills gets no new ones",
            )
        )
    kills_by = {name for step in policy.ladder if step.action is Action.KILL for name in step.triggers}
    for index, trigger in enumerate(policy.triggers):
        zone = trigger.zone_watermark
        if zone and trigger.name in kills_by and zone.line == "Min" and zone.below_ms < _SHORT_DWELL_ON_MIN_MS:
            hints.append(
                FieldError(
                    f"spec.triggers[{index}].zoneWatermark.belowMilliseconds",
                    f"is {zone.below_ms}: under ordinary reclaim free memory dips below Min for longer than that;"
                    f" a Kill step wants at least {_SHORT_DWELL_ON_MIN_MS}, or the line AtomicReserve",
                )
            )
    return tuple(hints)


def _check_object(obj: Any) -> tuple[Any, list[FieldError]]:
    """The normal spec of the object, and all that is wrong with it."""
    errors: list[FieldError] = []
    if not isinstance(obj, Mapping):
        return None, [
            FieldError(
                "",
                f"a policy is an object with apiVersion, kind, metadata and spec, not {shown(obj)}",
            )
        ]
    for name, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if obj.get(name) != wanted:
            given = f"not {shown(obj[name])}" if name in obj else "and is missing"
            errors.append(FieldError(name, f"must be {wanted}, {given}"))
    known = ("apiVersion", "kind", "metadata", "spec", "status")
    errors.extend(
        FieldError(str(name), f"unknown field; known here: {', '.join(known)}") for name in obj if name not in known
    )
    errors.extend(_name_errors(obj.get("metadata")))
    errors.extend(_written_by_the_server_errors(obj.get("metadata")))
    spec: Any = None
    if obj.get("spec") is None:
        errors.append(FieldError("spec", "is required"))
    else:
        spec = SPEC.check(obj["spec"], "spec", errors)
    return spec, errors


def _name_errors(metadata: Any) -> list[FieldError]:
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if name is None or name == "":
        return [FieldError("metadata.name", "is required")]
    if not isinstance(name, str):
        return [FieldError("metadata.name", f"must be text, not {shown(name)}; put it in quotes")]
    if not is_subdomain(name):
        return [
            FieldError(
                "metadata.name",
                f"must be lower-case letters, digits, '-' and '.', with a letter or digit at both ends,"
                f" not {shown(name)}",
            )
        ]
    if len(name) > NAME_MAX_CHARACTERS:
        return [FieldError("metadata.name", NAME_TOO_LONG)]
    return []


def _written_by_the_server_errors(metadata: Any) -> list[FieldError]:
    if not isinstance(metadata, Mapping):
        return []
    errors = [
        FieldError(f"metadata.{name}", f"must be text, not {shown(metadata[name])}; put it in quotes or leave it out")
        for name in ("uid", "creationTimestamp")
        if not isinstance(metadata.get(name), str | None)
    ]
    generation = metadata.get("generation")
    if isinstance(generation, bool) or not isinstance(generation, int | None):
        message = f"must be a whole number, not {shown(generation)}; leave it out"
        errors.append(FieldError("metadata.generation", message))
    return errors


def _checked(shape: Shape, value: Any, path: str) -> Any:
    errors: list[FieldError] = []
    checked = shape.check(value, path, errors)
    if errors:
        raise SpecError(errors)
    return checked


# From here on values are checked and complete: every default is there, every enumeration known.


def _triggers(items: list[dict[str, Any]]) -> tuple[Trigger, ...]:
    return tuple(_trigger(item) for item in items)


def _trigger(item: dict[str, Any]) -> Trigger:
    kind = TriggerType(item["type"])
    match kind:
        case TriggerType.ZONE_WATERMARK:
            zone = item["zoneWatermark"]
            watermark = ZoneWatermark(
                line=Line(zone["line"]),
                nodes=NodesScope(zone["nodes"]),
                margin_percent=zone["marginPercent"],
                below_ms=zone["belowMilliseconds"],
                within_ms=zone["withinMilliseconds"],
                taken_by=TakenBy(zone["takenBy"]),
            )
            return Trigger(item["name"], kind, zone_watermark=watermark)
        case TriggerType.AVAILABLE_MEMORY:
            memory = item["availableMemory"]
            available = AvailableMemory(
                percent=memory["percent"],
                at_most_bytes=parse_quantity(memory["atMost"]) if "atMost" in memory else None,
                swap_free_percent=memory.get("swapFreePercent"),
                at_least_bytes=parse_quantity(memory["atLeast"]) if "atLeast" in memory else None,
            )
            return Trigger(item["name"], kind, available_memory=available)
        case TriggerType.PSI:
            psi = item["psi"]
            settings = PsiSettings(
                scope=PsiScope(psi["scope"]),
                kind=PsiKind(psi["kind"]),
                window_seconds=psi["windowSeconds"],
                threshold_percent=psi["thresholdPercent"],
            )
            return Trigger(item["name"], kind, psi=settings)


def _ladder(items: list[dict[str, Any]]) -> tuple[Step, ...]:
    return tuple(_step(item) for item in items)


def _step(item: dict[str, Any]) -> Step:
    action = Action(item["action"])
    taint = evict = kill = None
    # The server puts no defaults into settings that are not there, so an absent object is checked as an empty one.
    match action:
        case Action.TAINT:
            settings = _checked(TAINT, item.get("taint", {}), "taint")
            taint = TaintSettings(TaintEffect(settings["effect"]), settings["holdSeconds"])
        case Action.EVICT:
            evict = EvictSettings(_checked(EVICT, item.get("evict", {}), "evict")["gracePeriodSeconds"])
        case Action.KILL:
            kill = KillSettings(KillUnit(_checked(KILL, item.get("kill", {}), "kill")["unit"]))
    return Step(
        action=action,
        triggers=tuple(item["triggers"]),
        match=Match(item["match"]),
        after_seconds=item.get("afterSeconds", 0),
        taint=taint,
        evict=evict,
        kill=kill,
    )


def _victims(item: dict[str, Any]) -> VictimRules:
    return VictimRules(
        order=tuple(Criterion(word) for word in item["order"]),
        max_priority=item["maxPriority"],
        qos_classes=frozenset(QosClass(word) for word in item["qosClasses"]),
        pod_selector=_selector(item["podSelector"]),
        namespace_selector=_selector(item["namespaceSelector"]),
        min_relief_bytes=parse_quantity(item["minRelief"]),
        min_age_seconds=item["minAgeSeconds"],
        unprotected=frozenset(Unprotected(word) for word in item["unprotected"]),
    )


def _limits(item: dict[str, Any]) -> Limits:
    return Limits(
        cooldown_seconds=item["cooldownSeconds"],
        max_victims_per_episode=item["maxVictimsPerEpisode"],
        max_victims_per_workload=_share(item["maxVictimsPerWorkload"]),
        max_concurrent_nodes=_share(item["maxConcurrentNodes"]),
        evictions_per_hour=item["evictionsPerHour"],
        kills_per_hour=item["killsPerHour"],
        max_standing_kills=_share(item["maxStandingKills"]),
        grant_seconds=item["grantSeconds"],
    )


def _share(value: int | str) -> Share:
    return Share(count=value) if isinstance(value, int) else Share(percent=int(value.removesuffix("%")))


def _selector(item: dict[str, Any]) -> LabelSelector:
    return LabelSelector(
        match_labels=tuple(sorted(item.get("matchLabels", {}).items())),
        match_expressions=tuple(
            Requirement(
                key=expression["key"],
                operator=SelectorOperator(expression["operator"]),
                values=frozenset(expression.get("values", ())),
            )
            for expression in item.get("matchExpressions", ())
        ),
    )
