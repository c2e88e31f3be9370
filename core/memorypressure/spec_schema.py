"""The shape of a MemoryPressurePolicy: the same fields, defaults, bounds and rules as crds/memorypressurepolicies.yaml.

A unit test compares this declaration with the CRD, field by field and sentence by sentence.
"""

import re
from collections.abc import Callable
from typing import Any

from memorypressure.label_schema import LABEL_SELECTOR
from memorypressure.quantity import QuantityError, parse_quantity_exact
from memorypressure.schema import Choice, Integer, IntOrText, ListOf, Member, Object, Rule, Text, one_of
from memorypressure.spec_values import (
    Action,
    Criterion,
    KillUnit,
    Match,
    Mode,
    NodesScope,
    PsiKind,
    PsiScope,
    QosClass,
    TaintEffect,
    TakenBy,
    TriggerType,
    Unprotected,
)

NAME_MAX_CHARACTERS = 63
NAME_TOO_LONG = "a policy name has at most 63 characters"
FIRST_SYSTEM_CRITICAL_PRIORITY = 2_000_000_000  # scheduling.SystemCriticalPriority of Kubernetes
HARD_AVAILABLE_PERCENT = 5
HARD_LINES = ("Min", "AtomicReserve")

_MIB, _PIB = 2**20, 2**50
_TRIGGER_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SHARE = re.compile("([1-9][0-9]?|100)%", re.ASCII)


def _quantity_between(low: int, high: int, zero: bool) -> Callable[[Any], bool]:
    """Whether a number or text is a quantity from low to high bytes, or 0 where that is allowed."""

    def holds(value: Any) -> bool:
        if isinstance(value, str) and not value[:1].isdecimal():
            return False
        try:
            exact = parse_quantity_exact(value)
        except QuantityError:
            return False
        return low <= exact <= high or (zero and exact == 0)

    return holds


def _share_from(low: int) -> Callable[[Any], bool]:
    """Whether a value is a number from low to 100000, or a text from 1% to 100%."""
    return lambda value: _SHARE.fullmatch(value) is not None if isinstance(value, str) else low <= value <= 100_000


def _share(name: str, low: int) -> Member:
    rule = Rule(
        f"{name} is a number from {low} to 100000 or a share from 1% to 100%",
        _share_from(low),
    )
    return Member(IntOrText(4, (rule,)), default="10%")


def _only_with(field: str, discriminator: str, word: str, says: str) -> Rule:
    return Rule(
        says,
        lambda value: field not in value or value[discriminator] == word,
        field,
        (discriminator,),
    )


def _union(field: str, word: str) -> Rule:
    return Rule(
        f"{field} is set exactly when type is {word}",
        lambda trigger: (trigger["type"] == word) == (field in trigger),
        field,
        ("type", field),
    )


def _is_soft(trigger: dict[str, Any]) -> bool:
    """Whether a trigger alone is no reason to kill."""
    if "zoneWatermark" in trigger and trigger["zoneWatermark"]["line"] not in HARD_LINES:
        return True
    if "availableMemory" in trigger and trigger["availableMemory"]["percent"] > HARD_AVAILABLE_PERCENT:
        return True
    return bool(trigger["type"] == TriggerType.PSI)


def _kill_is_hard(spec: dict[str, Any]) -> bool:
    soft = {trigger["name"] for trigger in spec["triggers"] if _is_soft(trigger)}
    return all(
        not soft.issuperset(step["triggers"]) if step["match"] == Match.ALL else soft.isdisjoint(step["triggers"])
        for step in spec["ladder"]
        if step["action"] == Action.KILL
    )


def _references_resolve(spec: dict[str, Any]) -> bool:
    known = {trigger["name"] for trigger in spec["triggers"]}
    return all(known.issuperset(step["triggers"]) for step in spec["ladder"])


def _actions(ladder: list[dict[str, Any]]) -> list[str]:
    return [step["action"] for step in ladder]


def _bound(message: str) -> IntOrText:
    return IntOrText(32, (Rule(message, _quantity_between(_MIB, _PIB, zero=False)),))


ZONE_WATERMARK = Object(
    {
        "line": Member(Choice(("High", "Low", "Min", "AtomicReserve")), required=True),
        "nodes": Member(one_of(NodesScope), default=NodesScope.ANY_NODE),
        "marginPercent": Member(Integer(0, 400), default=0),
        "belowMilliseconds": Member(Integer(10, 60_000), default=30),
        "withinMilliseconds": Member(Integer(10, 60_000), default=50),
        "takenBy": Member(one_of(TakenBy), default=TakenBy.ANY),
    },
    (
        Rule(
            "withinMilliseconds must be at least belowMilliseconds",
            lambda value: value["withinMilliseconds"] >= value["belowMilliseconds"],
            "withinMilliseconds",
            ("withinMilliseconds", "belowMilliseconds"),
        ),
        Rule(
            "takenBy Buffers needs line Min or AtomicReserve",
            lambda value: value["takenBy"] != TakenBy.BUFFERS or value["line"] in HARD_LINES,
            "takenBy",
            ("takenBy", "line"),
        ),
    ),
)

AVAILABLE_MEMORY = Object(
    {
        "percent": Member(Integer(1, 99), required=True),
        "atLeast": Member(_bound("atLeast must be a quantity from 1Mi to 1Pi, for example 100Mi")),
        "atMost": Member(_bound("atMost must be a quantity from 1Mi to 1Pi, for example 4Gi")),
        "swapFreePercent": Member(Integer(1, 100)),
    }
)

PSI = Object(
    {
        "scope": Member(one_of(PsiScope), default=PsiScope.NODE),
        "kind": Member(one_of(PsiKind), required=True),
        "windowSeconds": Member(Integer(10, 300, choices=(10, 60, 300)), default=10),
        "thresholdPercent": Member(Integer(1, 100), required=True),
    }
)

TRIGGERS = ListOf(
    Object(
        {
            "name": Member(
                Text(
                    63,
                    1,
                    _TRIGGER_NAME,
                    "a name of lower-case letters, digits and '-' such as low-memory",
                ),
                required=True,
            ),
            "type": Member(one_of(TriggerType), required=True),
            "zoneWatermark": Member(ZONE_WATERMARK),
            "availableMemory": Member(AVAILABLE_MEMORY),
            "psi": Member(PSI),
        },
        (
            _union("zoneWatermark", TriggerType.ZONE_WATERMARK),
            _union("availableMemory", TriggerType.AVAILABLE_MEMORY),
            _union("psi", TriggerType.PSI),
        ),
    ),
    max_items=16,
    min_items=1,
    unique="name",
)

TAINT = Object(
    {
        "effect": Member(one_of(TaintEffect), default=TaintEffect.NO_SCHEDULE),
        "holdSeconds": Member(Integer(10, 86_400), default=300),
    }
)
EVICT = Object({"gracePeriodSeconds": Member(Integer(1, 600), default=10)})
KILL = Object({"unit": Member(one_of(KillUnit), default=KillUnit.POD)})

LADDER = ListOf(
    Object(
        {
            "action": Member(one_of(Action), required=True),
            "triggers": Member(
                ListOf(Text(63, 1), max_items=16, min_items=1, unique="set"),
                required=True,
            ),
            "match": Member(one_of(Match), default=Match.ANY),
            "afterSeconds": Member(Integer(0, 3600)),
            "taint": Member(TAINT),
            "evict": Member(EVICT),
            "kill": Member(KILL),
        },
        (
            Rule(
                "afterSeconds is required for Evict and Kill",
                lambda step: step["action"] == Action.TAINT or "afterSeconds" in step,
                "afterSeconds",
                ("action", "afterSeconds"),
            ),
            _only_with("taint", "action", Action.TAINT, "taint goes only with action Taint"),
            _only_with("evict", "action", Action.EVICT, "evict goes only with action Evict"),
            _only_with("kill", "action", Action.KILL, "kill goes only with action Kill"),
        ),
    ),
    max_items=3,
    min_items=1,
    rules=(
        Rule(
            "each action can appear only once",
            lambda ladder: len(set(_actions(ladder))) == len(ladder),
        ),
        Rule(
            "Taint is the first step",
            lambda ladder: Action.TAINT not in _actions(ladder)[1:],
        ),
        Rule(
            "Kill is the last step",
            lambda ladder: Action.KILL not in _actions(ladder)[:-1],
        ),
    ),
)

VICTIMS = Object(
    {
        "order": Member(
            ListOf(
                one_of(Criterion),
                max_items=4,
                min_items=1,
                rules=(
                    Rule(
                        "each criterion can appear only once",
                        lambda order: len(set(order)) == len(order),
                    ),
                ),
            ),
            default=[Criterion.OVER_REQUEST, Criterion.PRIORITY, Criterion.RELIEF],
        ),
        "maxPriority": Member(
            Integer(
                -(2**31),
                2**31 - 1,
                rules=(
                    Rule(
                        "maxPriority must be below 2000000000, where system-critical pods begin",
                        lambda priority: priority < FIRST_SYSTEM_CRITICAL_PRIORITY,
                    ),
                ),
            ),
            default=1_000_000,
        ),
        "qosClasses": Member(
            ListOf(one_of(QosClass), max_items=3, min_items=1, unique="set"),
            default=[QosClass.BEST_EFFORT, QosClass.BURSTABLE],
        ),
        "podSelector": Member(LABEL_SELECTOR, default={}),
        "namespaceSelector": Member(LABEL_SELECTOR, default={}),
        "minRelief": Member(
            IntOrText(
                32,
                (
                    Rule(
                        "minRelief must be 0 or a quantity from 1Mi to 1Pi, for example 64Mi",
                        _quantity_between(_MIB, _PIB, zero=True),
                    ),
                ),
            ),
            default="64Mi",
        ),
        "minAgeSeconds": Member(Integer(0, 86_400), default=60),
        "unprotected": Member(ListOf(one_of(Unprotected), max_items=7, unique="set"), default=[]),
    }
)

LIMITS = Object(
    {
        "cooldownSeconds": Member(Integer(10, 3600), default=60),
        "maxVictimsPerEpisode": Member(Integer(1, 50), default=3),
        "maxVictimsPerWorkload": _share("maxVictimsPerWorkload", 1),
        "maxConcurrentNodes": _share("maxConcurrentNodes", 1),
        "evictionsPerHour": Member(Integer(0, 10_000), default=20),
        "killsPerHour": Member(Integer(0, 10_000), default=5),
        "maxStandingKills": _share("maxStandingKills", 0),
        "grantSeconds": Member(Integer(180, 3600), default=900),
    }
)

SPEC = Object(
    {
        "mode": Member(one_of(Mode), default=Mode.DRY_RUN),
        "priority": Member(Integer(-1000, 1000), default=0),
        "nodeSelector": Member(LABEL_SELECTOR, required=True),
        "triggers": Member(TRIGGERS, required=True),
        "ladder": Member(LADDER, required=True),
        "victims": Member(VICTIMS, default={}),
        "limits": Member(LIMITS, default={}),
    },
    (
        Rule(
            "ladder refers to a trigger that spec.triggers does not define",
            _references_resolve,
            "ladder",
            ("triggers", "ladder"),
        ),
        Rule(
            "a Kill step needs hard triggers (ZoneWatermark with line Min or AtomicReserve, or AvailableMemory with"
            " percent up to 5): with match Any all of its triggers, with match All at least one",
            _kill_is_hard,
            "ladder",
            ("triggers", "ladder"),
        ),
    ),
)
