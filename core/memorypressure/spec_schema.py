"""The shape of a MemoryPressurePolicy: the same fields, defaults, bounds and rules as crds/memorypressurepolicies.yaml.

A unit test compares this declaration with the CRD, field by field and sentence by sentence.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from memorypressure.quantity import QuantityError, parse_quantity_exact
from memorypressure.schema import (
    Choice,
    Integer,
    IntOrText,
    ListOf,
    Member,
    Object,
    Rule,
    Text,
    TextMap,
)
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
    SelectorOperator,
    TaintEffect,
    TriggerType,
    Unprotected,
)

NAME_MAX_CHARACTERS = 63
NAME_TOO_LONG = "a policy name has at most 63 characters, because nodes are labelled with it"
FIRST_SYSTEM_CRITICAL_PRIORITY = 2_000_000_000  # scheduling.SystemCriticalPriority of Kubernetes
HARD_AVAILABLE_PERCENT = 5
HARD_LINES = ("Min", "AtomicReserve")

_MIB, _PIB = 2**20, 2**50
_TRIGGER_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SHARE = re.compile("([1-9][0-9]?|100)%", re.ASCII)
_LABEL_NAME = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)


def is_subdomain(text: str) -> bool:
    """Whether it is an RFC 1123 subdomain: what Kubernetes takes as the name of an object."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether Kubernetes takes it as a label's key: a name, optionally behind a DNS subdomain and a slash."""
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_subdomain(prefix)) and len(name) <= 63 and _LABEL_NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Whether Kubernetes takes it as a label's value."""
    return not text or (len(text) <= 63 and _LABEL_NAME.fullmatch(text) is not None)


def _words(enum: type[StrEnum]) -> Choice:
    return Choice(tuple(member.value for member in enum))


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


LABEL_SELECTOR = Object(
    {
        "matchLabels": Member(
            TextMap(
                32,
                Text(63),
                (
                    Rule(
                        "every key must be a label key such as pool or example.com/pool, and every value a label value",
                        lambda labels: all(is_label_key(key) and is_label_value(labels[key]) for key in labels),
                    ),
                ),
            )
        ),
        "matchExpressions": Member(
            ListOf(
                Object(
                    {
                        "key": Member(Text(317, min_length=1), required=True),
                        "operator": Member(_words(SelectorOperator), required=True),
                        "values": Member(ListOf(Text(63), 64)),
                    },
                    (
                        Rule(
                            "key must be a label key such as pool or example.com/pool",
                            lambda expression: is_label_key(expression["key"]),
                            "key",
                            ("key",),
                        ),
                        Rule(
                            "values go with In and NotIn, and only with them",
                            lambda expression: (
                                (expression["operator"] in (SelectorOperator.IN, SelectorOperator.NOT_IN))
                                == bool(expression.get("values"))
                            ),
                            "values",
                            ("operator", "values"),
                        ),
                        Rule(
                            "every value must be a label value: at most 63 letters, digits, '-', '_' or '.'",
                            lambda expression: all(map(is_label_value, expression.get("values", ()))),
                            "values",
                            ("values",),
                        ),
                    ),
                ),
                32,
            )
        ),
    }
)

ZONE_WATERMARK = Object(
    {
        "line": Member(Choice(("High", "Low", "Min", "AtomicReserve")), required=True),
        "nodes": Member(_words(NodesScope), default=NodesScope.ANY_NODE),
        "marginPercent": Member(Integer(0, 400), default=0),
        "belowMilliseconds": Member(Integer(10, 60_000), default=30),
        "withinMilliseconds": Member(Integer(10, 60_000), default=50),
    },
    (
        Rule(
            "withinMilliseconds must be at least belowMilliseconds",
            lambda value: value["withinMilliseconds"] >= value["belowMilliseconds"],
            "withinMilliseconds",
            ("withinMilliseconds", "belowMilliseconds"),
        ),
    ),
)

AVAILABLE_MEMORY = Object(
    {
        "percent": Member(Integer(1, 99), required=True),
        "atMost": Member(
            IntOrText(
                32,
                (
                    Rule(
                        "atMost must be a quantity from 1Mi to 1Pi, for example 4Gi",
                        _quantity_between(_MIB, _PIB, zero=False),
                    ),
                ),
            )
        ),
        "swapFreePercent": Member(Integer(1, 100)),
    }
)

PSI = Object(
    {
        "scope": Member(_words(PsiScope), default=PsiScope.NODE),
        "kind": Member(_words(PsiKind), required=True),
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
            "type": Member(_words(TriggerType), required=True),
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
        "effect": Member(_words(TaintEffect), default=TaintEffect.NO_SCHEDULE),
        "holdSeconds": Member(Integer(10, 86_400), default=300),
    }
)
EVICT = Object({"gracePeriodSeconds": Member(Integer(1, 600), default=10)})
KILL = Object({"unit": Member(_words(KillUnit), default=KillUnit.POD)})

LADDER = ListOf(
    Object(
        {
            "action": Member(_words(Action), required=True),
            "triggers": Member(
                ListOf(Text(63, 1), max_items=16, min_items=1, unique="set"),
                required=True,
            ),
            "match": Member(_words(Match), default=Match.ANY),
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
                _words(Criterion),
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
            ListOf(_words(QosClass), max_items=3, min_items=1, unique="set"),
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
        "unprotected": Member(ListOf(_words(Unprotected), max_items=7, unique="set"), default=[]),
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
        "mode": Member(_words(Mode), default=Mode.DRY_RUN),
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
