"""The one table of good and bad policies; tests/unit runs it through core, tests/integration through a real API server.

A case changes a valid policy in one place. `path` None: it must be accepted. Else it must be refused with `core` at
that path by memorypressure.spec, and by the API server with `server` there; `server` left out: with the same sentence.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

Change = Callable[[dict[str, Any]], None]

BASE: Final[dict[str, Any]] = yaml.safe_load(
    """
apiVersion: memorypressure.dev/v1alpha1
kind: MemoryPressurePolicy
metadata: {name: case}
spec:
  mode: Enforce
  priority: 5
  nodeSelector: {}
  triggers:
  - {name: reserve, type: ZoneWatermark, zoneWatermark: {line: AtomicReserve}}
  - {name: scarce, type: AvailableMemory, availableMemory: {percent: 8, atMost: 4Gi, swapFreePercent: 10}}
  - {name: stalled, type: PSI, psi: {kind: Full, thresholdPercent: 20}}
  - {name: exhausted, type: AvailableMemory, availableMemory: {percent: 5}}
  ladder:
  - {action: Taint, triggers: [reserve, scarce], taint: {}}
  - {action: Evict, triggers: [scarce, stalled], match: All, afterSeconds: 20, evict: {}}
  - {action: Kill, triggers: [reserve, exhausted], afterSeconds: 0, kill: {}}
"""
)

GONE: Final = object()  # as a value: the field is taken out
T, L, V, M = "spec.triggers", "spec.ladder", "spec.victims", "spec.limits"
ZONE, MEMORY, PSI = f"{T}[0].zoneWatermark", f"{T}[1].availableMemory", f"{T}[2].psi"


@dataclass(frozen=True)
class Case:
    """One policy and what is said about it."""

    name: str
    changes: tuple[tuple[str, Any], ...]
    path: str | None = None
    core: str = ""
    server: str = ""
    server_path: str = ""  # where it is not the same as `path`

    def policy(self) -> dict[str, Any]:
        """The changed copy of BASE."""
        changed = copy.deepcopy(BASE)
        for path, value in self.changes:
            put(changed, path, value)
        return changed

    @property
    def accepted(self) -> bool:
        return self.path is None


def put(obj: dict[str, Any], path: str, value: Any) -> None:
    """Sets the field at a path such as spec.ladder[0].match, making objects on the way; GONE takes it out."""
    keys: list[Any] = []
    for part in path.split("."):
        name, _, rest = part.partition("[")
        keys.append(name)
        keys.extend(int(index.rstrip("]")) for index in rest.split("[") if rest)
    here: Any = obj
    for key in keys[:-1]:
        here = here[key] if isinstance(key, int) else here.setdefault(key, {})
    if value is GONE:
        del here[keys[-1]]
    else:
        here[keys[-1]] = copy.deepcopy(value)


def shortened(value: Any) -> str:
    """Enough of a value to name a case by it."""
    text = str(value)
    return text if len(text) <= 30 else f"{text[:4]}... of {len(text)} characters"


def good(name: str, *changes: tuple[str, Any]) -> Case:
    return Case(name, changes)


def bad(name: str, *changes: tuple[str, Any], at: str, says: str, server: str = "", server_at: str = "") -> Case:
    return Case(name, changes, at, says, server, server_at)


# Whole numbers: field, lowest, highest, and what else must be changed so that the bound itself is the only question.
INTEGERS: Final[tuple[tuple[str, int, int, tuple[tuple[str, Any], ...]], ...]] = (
    ("spec.priority", -1000, 1000, ()),
    (f"{ZONE}.marginPercent", 0, 400, ()),
    (f"{ZONE}.belowMilliseconds", 10, 60_000, ((f"{ZONE}.withinMilliseconds", 60_000),)),
    (f"{ZONE}.withinMilliseconds", 10, 60_000, ((f"{ZONE}.belowMilliseconds", 10),)),
    (f"{MEMORY}.percent", 1, 99, ()),
    (f"{MEMORY}.swapFreePercent", 1, 100, ()),
    (f"{PSI}.thresholdPercent", 1, 100, ()),
    (f"{L}[0].afterSeconds", 0, 3600, ()),
    (f"{L}[1].afterSeconds", 0, 3600, ()),
    (f"{L}[0].taint.holdSeconds", 10, 86_400, ()),
    (f"{L}[1].evict.gracePeriodSeconds", 1, 600, ()),
    (f"{V}.minAgeSeconds", 0, 86_400, ()),
    (f"{M}.cooldownSeconds", 10, 3600, ()),
    (f"{M}.maxVictimsPerEpisode", 1, 50, ()),
    (f"{M}.evictionsPerHour", 0, 10_000, ()),
    (f"{M}.killsPerHour", 0, 10_000, ()),
    (f"{M}.grantSeconds", 180, 3600, ()),
)

# One word out of a few: field, the words.
CHOICES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("spec.mode", ("Disabled", "DryRun", "Enforce")),
    (f"{T}[0].type", ("ZoneWatermark", "AvailableMemory", "PSI")),
    (f"{ZONE}.line", ("High", "Low", "Min", "AtomicReserve")),
    (f"{ZONE}.nodes", ("AnyNode", "AllNodes")),
    (f"{ZONE}.takenBy", ("Any", "Buffers")),
    (f"{PSI}.scope", ("Node", "Pods")),
    (f"{PSI}.kind", ("Some", "Full")),
    (f"{L}[0].action", ("Taint", "Evict", "Kill")),
    (f"{L}[0].match", ("Any", "All")),
    (f"{L}[0].taint.effect", ("PreferNoSchedule", "NoSchedule")),
    (f"{L}[2].kill.unit", ("Pod", "Container")),
    (f"{V}.order[0]", ("OverRequest", "Priority", "Relief", "Youngest")),
    (f"{V}.qosClasses[0]", ("BestEffort", "Burstable", "Guaranteed")),
    (
        f"{V}.unprotected[0]",
        (
            "StaticPods",
            "DaemonSetPods",
            "UnmanagedPods",
            "PodsWithLocalStorage",
            "SingletonWorkloads",
            "DisruptionBudgets",
            "AnnotatedPods",
        ),
    ),
)

# Where another word of the enumeration needs other settings beside it: the field's group, and words tried elsewhere.
_TRIED_ELSEWHERE: Final = {f"{T}[0].type", f"{L}[0].action"}

REQUIRED: Final[tuple[str, ...]] = (
    "spec",
    "spec.nodeSelector",
    T,
    L,
    f"{T}[0].name",
    f"{T}[0].type",
    f"{ZONE}.line",
    f"{MEMORY}.percent",
    f"{PSI}.kind",
    f"{PSI}.thresholdPercent",
    f"{L}[0].action",
    f"{L}[0].triggers",
)

SHARES: Final[tuple[tuple[str, int], ...]] = (
    ("maxVictimsPerWorkload", 1),
    ("maxConcurrentNodes", 1),
    ("maxStandingKills", 0),
)

SELECTORS: Final = ("spec.nodeSelector", f"{V}.podSelector", f"{V}.namespaceSelector")

KILL_SAYS: Final = (
    "a Kill step needs hard triggers (ZoneWatermark with line Min or AtomicReserve, or AvailableMemory with percent"
    " up to 5): with match Any all of its triggers, with match All at least one"
)
LABELS_SAY: Final = "every key must be a label key such as pool or example.com/pool, and every value a label value"
KEY_SAYS: Final = "key must be a label key such as pool or example.com/pool"
VALUES_SAY: Final = "values go with In and NotIn, and only with them"
VALUE_SAYS: Final = "every value must be a label value: at most 63 letters, digits, '-', '_' or '.'"
AT_LEAST_SAYS: Final = "atLeast must be a quantity from 1Mi to 1Pi, for example 100Mi"
AT_MOST_SAYS: Final = "atMost must be a quantity from 1Mi to 1Pi, for example 4Gi"
RELIEF_SAYS: Final = "minRelief must be 0 or a quantity from 1Mi to 1Pi, for example 64Mi"


def _integers() -> Iterator[Case]:
    for path, low, high, beside in INTEGERS:
        name = path.rsplit(".", 1)[1]
        says = f"must be from {low} to {high}, not "
        yield good(f"{path} {low}", *beside, (path, low))
        yield good(f"{path} {high}", *beside, (path, high))
        below, above = "should be greater than or equal to", "should be less than or equal to"
        yield bad(f"{path} under", *beside, (path, low - 1), at=path, says=f"{says}{low - 1}", server=f"{below} {low}")
        yield bad(f"{path} over", *beside, (path, high + 1), at=path, says=f"{says}{high + 1}", server=above)
        yield bad(f"{path} past 32 bits", *beside, (path, 2**40), at=path, says=f"{says}{2**40}", server=above)
        for given, seen in ((str(low), f'"{low}"'), (True, "true"), (1.5, "1.5"), ([], "[]"), ({}, "{}")):
            yield bad(
                f"{path} as {seen}",
                *beside,
                (path, given),
                at=path,
                says=f"must be a whole number, not {seen}",
                server="must be of type int",  # integer or int32
            )
        if name not in ("percent", "thresholdPercent") and path != f"{L}[1].afterSeconds":
            yield good(f"{path} null", *beside, (path, None))


def _choices() -> Iterator[Case]:
    for path, words in CHOICES:
        if path not in _TRIED_ELSEWHERE:
            for word in words:
                within = path.rsplit("[", 1)[0]
                soft = path == f"{ZONE}.line" and word in ("High", "Low")
                beside = ((f"{L}[2].triggers", ["exhausted"]),) if soft else ()
                yield good(f"{path} {word}", *beside, (within, [word]) if path.endswith("]") else (path, word))
        wrong = words[-1].lower()
        says = f'must be one of {", ".join(words)}, not "{wrong}"; did you mean {words[-1]}?'
        change: tuple[str, Any] = (path.rsplit("[", 1)[0], [wrong]) if path.endswith("]") else (path, wrong)
        yield bad(f"{path} {wrong}", change, at=path, says=says, server=f'Unsupported value: "{wrong}"')
        change = (change[0], [7] if path.endswith("]") else 7)
        says = f"must be one of {', '.join(words)}, not 7"
        yield bad(f"{path} 7", change, at=path, says=says, server="must be of type string")
    for seconds in (10, 60, 300):
        yield good(f"window of {seconds} s", (f"{PSI}.windowSeconds", seconds))
    yield bad(
        "window of 30 s",
        (f"{PSI}.windowSeconds", 30),
        at=f"{PSI}.windowSeconds",
        says="must be one of 10, 60, 300, not 30",
        server="Unsupported value: 30",
    )


def _required() -> Iterator[Case]:
    for path in REQUIRED:
        yield bad(f"no {path}", (path, GONE), at=path, says="is required", server="Required value")
        yield bad(f"{path} null", (path, None), at=path, says="is required", server="Required value")


def _shares() -> Iterator[Case]:
    for name, low in SHARES:
        path = f"{M}.{name}"
        says = f"{name} is a number from {low} to 100000 or a share from 1% to 100%"
        for value in (low, 2, 7, 100_000, "1%", "9%", "10%", "99%", "100%", None):
            yield good(f"{name} {value}", (path, value))
        for value in (low - 1, 100_001, "0%", "05%", "101%", "3", "", "10", "1.5%", "-1%", "%"):
            yield bad(f"{name} {value!r}", (path, value), at=path, says=says)
        long = "has 5 characters, at most 4 are allowed"
        yield bad(f"{name} 1000%", (path, "1000%"), at=path, says=long, server="may not be more than 4 bytes")
        says = "must be a whole number or text, not "
        # The type of such a field is two types to the server, and it names both or one of them.
        for other, seen in ((True, "true"), (0.5, "0.5"), ([], "[]")):
            yield bad(f"{name} {seen}", (path, other), at=path, says=says + seen, server="must be of type")


def _quantities() -> Iterator[Case]:
    at_most, at_least, relief = f"{MEMORY}.atMost", f"{MEMORY}.atLeast", f"{V}.minRelief"
    for path in (at_most, at_least, relief):
        for value in ("1Mi", "4Gi", "1.5Gi", "1Pi", "1048576", 1048576, 2**50, "1e9", "2E6", "1M5".replace("M5", "0M")):
            yield good(f"{path} {value!r}", (path, value))
        for value in ("3G", "5.Gi", "1099511627776k", "1048576000m", "01Gi", "0.5Pi", "1125899906842624"):
            yield good(f"{path} {value!r}", (path, value))
    for value in (0, "0", "0Mi", "0e3", "0.0"):
        yield good(f"{relief} {value!r}", (relief, value))
        yield bad(f"{at_most} {value!r}", (at_most, value), at=at_most, says=AT_MOST_SAYS)
        yield bad(f"{at_least} {value!r}", (at_least, value), at=at_least, says=AT_LEAST_SAYS)
    wrong: tuple[int | str, ...] = (
        1,
        -1,
        1048575,
        2**50 + 1,
        "64 MB",
        "64MB",
        "64mi",
        "64m",
        "64",
        "1e3",
        "100m",
        "1048575999m",
        "1.0001Pi",
        "2Pi",
        "1e40",
        "1e99999999999999999999",
        "-1Mi",
        "+1Gi",
        ".5Gi",
        "Mi",
        "-",
        "",
        "ten",
        "1Gi\n",
        "1_000Mi",
        "0x100000",
        "\u0661Gi",
        "1 Gi",
        "1KI",
        "1K",
        "NaN",
    )
    for path, says in ((at_most, AT_MOST_SAYS), (at_least, AT_LEAST_SAYS), (relief, RELIEF_SAYS)):
        for value in wrong:
            yield bad(f"{path} {value!r}", (path, value), at=path, says=says)
        text = "1" + "0" * 32
        long = "has 33 characters, at most 32 are allowed"
        yield bad(f"{path} long", (path, text), at=path, says=long, server="may not be more than 32 bytes")
        no_type = "must be a whole number or text, not "
        for other, seen in ((True, "true"), (1.5, "1.5"), ({}, "{}")):
            yield bad(f"{path} {seen}", (path, other), at=path, says=no_type + seen, server="must be of type")
        yield good(f"{path} null", (path, None))


def _selectors() -> Iterator[Case]:
    key = "example.com/pool"
    for at in SELECTORS:
        labels, expressions = f"{at}.matchLabels", f"{at}.matchExpressions"
        for given in ({}, {"pool": "a"}, {key: ""}, {"b" * 63: "b" * 63}, {f"{'a' * 253}/x": "A_b.c-1"}, {"a": None}):
            yield good(f"{at} labels {shortened(given)}", (labels, given))
        yield good(f"{at} 32 labels", (labels, {f"k{n}": "v" for n in range(32)}))
        for given in (
            {"bad key!": "x"},
            {"": "x"},
            {"/x": "x"},
            {"Example.com/x": "x"},
            {"a/b/c": "x"},
            {"b" * 64: "x"},
            {f"{'a' * 254}/x": "x"},
            {"pool": "a b"},
            {"pool": "-a"},
            {"pool": "a\n"},
            {"x-": "a"},
        ):
            yield bad(f"{at} labels {shortened(given)}", (labels, given), at=labels, says=LABELS_SAY)
        says, server = "has 64 characters, at most 63 are allowed", "may not be more than 63 bytes"
        yield bad(f"{at} long value", (labels, {"pool": "a" * 64}), at=f"{labels}.pool", says=says, server=server)
        number = (labels, {"pool": 1})
        says, server = "must be text, not 1; put it in quotes", "must be of type string"
        yield bad(f"{at} number as value", number, at=f"{labels}.pool", says=says, server=server)
        many = (labels, {f"k{n}": "v" for n in range(33)})
        says, server = "has 33 entries, at most 32 are allowed", "must have at most 32 items"
        yield bad(f"{at} 33 labels", many, at=labels, says=says, server=server)
        yield bad(
            f"{at} a list",
            (at, ["pool"]),
            at=at,
            says='must be an object with fields, not ["pool"]',
            server="must be of type object",
        )
        first = f"{expressions}[0]"
        for operator in ("In", "NotIn"):
            both = [{"key": key, "operator": operator, "values": ["a", "", "B.c"]}]
            yield good(f"{at} {operator}", (expressions, both))
            without = [{"key": key, "operator": operator}]
            empty: list[dict[str, Any]] = [{"key": key, "operator": operator, "values": []}]
            yield bad(f"{at} {operator} bare", (expressions, without), at=f"{first}.values", says=VALUES_SAY)
            yield bad(f"{at} {operator} of none", (expressions, empty), at=f"{first}.values", says=VALUES_SAY)
        for operator in ("Exists", "DoesNotExist"):
            yield good(f"{at} {operator}", (expressions, [{"key": key, "operator": operator}]))
            yield good(f"{at} {operator} []", (expressions, [{"key": key, "operator": operator, "values": []}]))
            extra = [{"key": key, "operator": operator, "values": ["a"]}]
            yield bad(f"{at} {operator} of a", (expressions, extra), at=f"{first}.values", says=VALUES_SAY)
        wrong_key = [{"key": "bad key!", "operator": "Exists"}]
        yield bad(f"{at} wrong key", (expressions, wrong_key), at=f"{first}.key", says=KEY_SAYS)
        wrong_value = [{"key": key, "operator": "In", "values": ["fine", "a b"]}]
        yield bad(f"{at} wrong value", (expressions, wrong_value), at=f"{first}.values", says=VALUE_SAYS)
        wrong_operator = [{"key": key, "operator": "Gt", "values": ["1"]}]
        yield bad(
            f"{at} operator Gt",
            (expressions, wrong_operator),
            at=f"{first}.operator",
            says='must be one of In, NotIn, Exists, DoesNotExist, not "Gt"',
            server='Unsupported value: "Gt"',
        )
        for name in ("key", "operator"):
            rest = {"key": key, "operator": "Exists"}
            del rest[name]
            at_name = f"{first}.{name}"
            yield bad(f"{at} no {name}", (expressions, [rest]), at=at_name, says="is required", server="Required value")
        yield good(f"{at} 32 of 64", (expressions, _expressions(32, 64)))
        says, server = "has 33 items, at most 32 are allowed", "must have at most 32 items"
        yield bad(f"{at} 33 expressions", (expressions, _expressions(33, 1)), at=expressions, says=says, server=server)
        says, server = "has 65 items, at most 64 are allowed", "must have at most 64 items"
        long = (expressions, _expressions(1, 65))
        yield bad(f"{at} 65 values", long, at=f"{first}.values", says=says, server=server)
        long_key = (expressions, [{"key": f"{'a' * 253}/{'b' * 63}", "operator": "Exists"}])
        yield good(f"{at} longest key", long_key)
        long_key = (expressions, [{"key": f"{'a' * 253}/{'b' * 64}", "operator": "Exists"}])
        says, server = "has 318 characters, at most 317 are allowed", "may not be more than 317 bytes"
        yield bad(f"{at} key too long", long_key, at=f"{first}.key", says=says, server=server)
        empty_key = (expressions, [{"key": "", "operator": "Exists"}])
        server = "should be at least 1 chars long"
        yield bad(f"{at} empty key", empty_key, at=f"{first}.key", says="must not be empty", server=server)
        long_value = (expressions, [{"key": key, "operator": "In", "values": ["a" * 64]}])
        says, server = "has 64 characters, at most 63 are allowed", "may not be more than 63 bytes"
        yield bad(f"{at} long listed value", long_value, at=f"{first}.values[0]", says=says, server=server)
        yield good(f"{at} null parts", (labels, None), (expressions, None))


def _expressions(count: int, values: int) -> list[dict[str, Any]]:
    return [{"key": f"k{n}", "operator": "In", "values": [f"v{m}" for m in range(values)]} for n in range(count)]


def _triggers(count: int) -> list[dict[str, Any]]:
    return [{"name": f"t{n}", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}} for n in range(count)]


def _lists() -> Iterator[Case]:
    none, few = "must have at least 1 item", "should have at least 1 items"
    step = {"action": "Kill", "afterSeconds": 1}
    names = [f"t{n}" for n in range(17)]
    yield good("16 triggers", (T, _triggers(16)), (L, [{**step, "triggers": names[:16]}]))
    says, many = "has 17 items, at most 16 are allowed", "must have at most 16 items"
    alone = (L, [{**step, "triggers": ["t0"]}])
    yield bad("17 triggers", (T, _triggers(17)), alone, at=T, says=says, server=many)
    at = f"{L}[0].triggers"
    yield bad("17 names", (T, _triggers(16)), (L, [{**step, "triggers": names}]), at=at, says=says, server=many)
    for path in (T, L, f"{L}[0].triggers", f"{V}.order", f"{V}.qosClasses"):
        yield bad(f"{path} empty", (path, []), at=path, says=none, server=few)
    for path in (T, L, f"{L}[0].triggers", f"{V}.order", f"{V}.qosClasses", f"{V}.unprotected"):
        says = 'must be a list, not "reserve"'
        yield bad(f"{path} as text", (path, "reserve"), at=path, says=says, server="must be of type array")
    four = [BASE["spec"]["ladder"][n] for n in (0, 1, 2, 2)]
    says, server = "has 4 items, at most 3 are allowed", "must have at most 3 items"
    yield bad("4 steps", (L, four), at=L, says=says, server=server)
    order = ["OverRequest", "Priority", "Relief", "Youngest"]
    yield good("every criterion", (f"{V}.order", order[::-1]))
    says, server = "has 5 items, at most 4 are allowed", "must have at most 4 items"
    yield bad("5 criteria", (f"{V}.order", [*order, "Relief"]), at=f"{V}.order", says=says, server=server)
    twice = (f"{V}.order", ["Relief", "Priority", "Relief"])
    yield bad("criterion twice", twice, at=f"{V}.order", says="each criterion can appear only once")
    classes = ["Guaranteed", "Burstable", "BestEffort"]
    yield good("every class", (f"{V}.qosClasses", classes))
    says, server = "has 4 items, at most 3 are allowed", "must have at most 3 items"
    yield bad("4 classes", (f"{V}.qosClasses", [*classes, "Burstable"]), at=f"{V}.qosClasses", says=says, server=server)
    groups = list(CHOICES[-1][1])
    yield good("every group", (f"{V}.unprotected", groups))
    yield good("no group", (f"{V}.unprotected", []))
    says, server = "has 8 items, at most 7 are allowed", "must have at most 7 items"
    eight = (f"{V}.unprotected", [*groups, "StaticPods"])
    yield bad("8 groups", eight, at=f"{V}.unprotected", says=says, server=server)
    yield bad(
        "critical pods as a group",
        (f"{V}.unprotected", ["SystemCriticalPods"]),
        at=f"{V}.unprotected[0]",
        says=f'must be one of {", ".join(groups)}, not "SystemCriticalPods"',
        server='Unsupported value: "SystemCriticalPods"',
    )
    for path, word in ((f"{V}.qosClasses", "Burstable"), (f"{V}.unprotected", "StaticPods")):
        says = f'"{word}" is there twice'
        server = f'Duplicate value: "{word}"'
        yield bad(f"{word} twice", (path, [word, word]), at=f"{path}[1]", says=says, server=server)
    twice = (f"{L}[0].triggers", ["reserve", "scarce", "reserve"])
    says, server = '"reserve" is there twice', 'Duplicate value: "reserve"'
    yield bad("name twice in a step", twice, at=f"{L}[0].triggers[2]", says=says, server=server)
    yield bad(
        "trigger twice",
        (f"{T}[3].name", "scarce"),
        (f"{L}[2].triggers", ["reserve"]),
        at=f"{T}[3].name",
        says='"scarce" is there twice',
        server="Duplicate value",
        server_at=f"{T}[3]",
    )
    for value, seen in ((None, "null"), (3, "3"), ("scarce", '"scarce"')):
        says = f"must be an object with fields, not {seen}"
        yield bad(f"trigger {seen}", (f"{T}[3]", value), at=f"{T}[3]", says=says, server="must be of type object")
    says = "must be text, not null; put it in quotes"
    null_name = (f"{L}[0].triggers", ["reserve", None])
    yield bad("null name", null_name, at=f"{L}[0].triggers[1]", says=says, server="must be of type string")
    says, server = "must not be empty", "should be at least 1 chars long"
    yield bad("empty name", (f"{L}[0].triggers", [""]), at=f"{L}[0].triggers[0]", says=says, server=server)
    says, server = "has 64 characters, at most 63 are allowed", "may not be more than 63 bytes"
    long_name = (f"{L}[0].triggers", ["a" * 64])
    yield bad("long name in a step", long_name, at=f"{L}[0].triggers[0]", says=says, server=server)


def _names() -> Iterator[Case]:
    for name in ("a", "0", "a-b", "a" * 63):
        yield good(f"trigger {name[:5]}", (f"{T}[1].name", name), (f"{L}[0].triggers", [name]), (f"{L}[1]", _evict()))
    at = f"{T}[3].name"
    kill = (f"{L}[2].triggers", ["reserve"])
    for name in ("Early", "a b", "-a", "a-", "a_b", "a.b", "é", "a\n"):
        shown = name.replace("\n", "\\n")
        says = f"must be a name of lower-case letters, digits and '-' such as low-memory, not \"{shown}\""
        yield bad(f"trigger {name!r}", (at, name), kill, at=at, says=says, server="should match")
    says, server = "has 64 characters, at most 63 are allowed", "may not be more than 63 bytes"
    yield bad("long trigger name", (at, "a" * 64), kill, at=at, says=says, server=server)
    yield bad("empty trigger name", (at, ""), kill, at=at, says="must not be empty", server="at least 1 chars long")
    says = "must be text, not 5; put it in quotes"
    yield bad("number as trigger name", (at, 5), kill, at=at, says=says, server="must be of type string")
    at = "metadata.name"
    for name in ("a", "a.b-c", "a" * 63):
        yield good(f"name {name[:5]}", (at, name))
    says = "a policy name has at most 63 characters"
    # The server cannot point a rule at metadata.name.
    yield bad("name of 64", (at, "a" * 64), at=at, says=says, server=says, server_at="<nil>")
    for name in ("Default", "a_b", "-a", "a..b"):
        says = f"must be lower-case letters, digits, '-' and '.', with a letter or digit at both ends, not \"{name}\""
        yield bad(f"name {name}", (at, name), at=at, says=says, server="a lowercase RFC 1123 subdomain must consist of")
    yield bad("no name", (at, GONE), at=at, says="is required", server="name or generateName is required")


def _evict(**fields: Any) -> dict[str, Any]:
    return {"action": "Evict", "triggers": ["reserve"], "afterSeconds": 5, **fields}


def _unions() -> Iterator[Case]:
    members = {
        "zoneWatermark": ("ZoneWatermark", {"line": "Min"}),
        "availableMemory": ("AvailableMemory", {"percent": 3}),
        "psi": ("PSI", {"kind": "Some", "thresholdPercent": 1}),
    }
    for index, (field, (word, _)) in enumerate(members.items()):
        says = f"{field} is set exactly when type is {word}"
        at = f"{T}[{index}].{field}"
        yield bad(f"{word} without {field}", (at, GONE), at=at, says=says)
        yield bad(f"{word} with {field} null", (at, None), at=at, says=says)
        for other, (_, settings) in members.items():
            if other != field:
                at = f"{T}[{index}].{other}"
                says = f"{other} is set exactly when type is {members[other][0]}"
                yield bad(f"{word} with {other}", (at, settings), at=at, says=says)
    for field, (word, settings) in members.items():
        one = [{"name": "one", "type": word, field: settings}]
        yield good(f"only a {word}", (T, one), (L, [{"action": "Taint", "triggers": ["one"]}]))


def _ladders() -> Iterator[Case]:
    taint, evict, kill = BASE["spec"]["ladder"]
    for steps in ([taint], [evict], [kill], [taint, evict], [taint, kill], [evict, kill]):
        yield good("only " + ", ".join(step["action"] for step in steps), (L, steps))
    once, first, last = "each action can appear only once", "Taint is the first step", "Kill is the last step"
    yield bad("two evictions", (L, [evict, evict]), at=L, says=once)
    yield bad("two kills", (L, [kill, kill]), at=L, says=once)
    yield bad("two taints", (L, [taint, taint]), at=L, says=once)
    yield bad("Taint second", (L, [evict, taint]), at=L, says=first)
    yield bad("Kill first", (L, [kill, evict]), at=L, says=last)
    yield bad("Kill in the middle", (L, [taint, kill, evict]), at=L, says=last)
    yield bad("upside down", (L, [kill, evict, taint]), at=L, says=first)
    says = "afterSeconds is required for Evict and Kill"
    for index in (1, 2):
        at = f"{L}[{index}].afterSeconds"
        yield bad(f"no afterSeconds in step {index}", (at, GONE), at=at, says=says)
        yield bad(f"afterSeconds null in step {index}", (at, None), at=at, says=says)
    for index, field in enumerate(("taint", "evict", "kill")):
        yield good(f"no {field} settings", (f"{L}[{index}].{field}", GONE))
        yield good(f"{field} null", (f"{L}[{index}].{field}", None))
        for other in {0, 1, 2} - {index}:
            at = f"{L}[{other}].{field}"
            says = f"{field} goes only with action {field.capitalize()}"
            yield bad(f"{field} in step {other}", (at, {}), at=at, says=says)
    unknown = "ladder refers to a trigger that spec.triggers does not define"
    for index in range(3):
        name = (f"{L}[{index}].triggers", ["resrve"])
        yield bad(f"unknown trigger in step {index}", name, at=L, says=unknown)
    yield bad("taint NoExecute", (f"{L}[0].taint.effect", "NoExecute"), at=f"{L}[0].taint.effect", **_no_execute())


def _no_execute() -> dict[str, str]:
    return {
        "says": 'must be one of PreferNoSchedule, NoSchedule, not "NoExecute"',
        "server": 'Unsupported value: "NoExecute"',
    }


def _kills() -> Iterator[Case]:
    names, match = f"{L}[2].triggers", f"{L}[2].match"
    yield bad("kill on scarce", (names, ["scarce"]), at=L, says=KILL_SAYS)
    yield bad("kill on stalls", (names, ["stalled"]), at=L, says=KILL_SAYS)
    yield bad("kill on one of which is soft", (names, ["reserve", "stalled"]), at=L, says=KILL_SAYS)
    yield bad("kill on all soft", (names, ["scarce", "stalled"]), (match, "All"), at=L, says=KILL_SAYS)
    yield bad("kill on Low", (f"{ZONE}.line", "Low"), at=L, says=KILL_SAYS)
    yield bad("kill on High", (f"{ZONE}.line", "High"), at=L, says=KILL_SAYS)
    yield bad("kill on 6 percent", (f"{T}[3].availableMemory.percent", 6), at=L, says=KILL_SAYS)
    yield good("kill on 1 percent", (f"{T}[3].availableMemory.percent", 1))
    yield good("kill on Min", (f"{ZONE}.line", "Min"))
    yield good("kill confirmed by stalls", (names, ["reserve", "stalled"]), (match, "All"))
    yield good("kill confirmed by scarcity", (names, ["scarce", "exhausted", "stalled"]), (match, "All"))
    at = f"{V}.maxPriority"
    says = "maxPriority must be below 2000000000, where system-critical pods begin"
    for value in (-(2**31), 0, 1_000_000_000, 1_999_999_999, None):
        yield good(f"maxPriority {value}", (at, value))
    yield bad("maxPriority of critical pods", (at, 2_000_000_000), at=at, says=says)
    yield bad("maxPriority of node-critical pods", (at, 2_000_001_000), at=at, says=says)
    yield bad("largest maxPriority", (at, 2**31 - 1), at=at, says=says)
    low = f"must be from {-(2**31)} to {2**31 - 1}, not "
    yield bad("maxPriority past 32 bits", (at, 2**31), at=at, says=f"{low}{2**31}", server="less than or equal to")
    under = -(2**31) - 1
    yield bad("maxPriority far under", (at, under), at=at, says=f"{low}{under}", server="greater than or equal to")
    within, below = f"{ZONE}.withinMilliseconds", f"{ZONE}.belowMilliseconds"
    says = "withinMilliseconds must be at least belowMilliseconds"
    yield good("below all the time", (below, 50))
    yield bad("below longer than the window", (below, 100), (within, 99), at=within, says=says)
    yield bad("below longer than the default window", (below, 51), at=within, says=says)
    taker, line = f"{ZONE}.takenBy", f"{ZONE}.line"
    says = "takenBy Buffers needs line Min or AtomicReserve"
    yield good("below min, taken by buffers", (taker, "Buffers"), (line, "Min"))
    yield good("below low, taken by any", (taker, "Any"), (line, "Low"), (f"{L}[2].triggers", ["exhausted"]))
    change = (taker, "Buffers"), (line, "Low"), (f"{L}[2].triggers", ["exhausted"])
    yield bad("below low, taken by buffers", *change, at=taker, says=says)


def _unknown() -> Iterator[Case]:
    for path, meant in (
        ("spec.dryRun", "; known here: mode, priority, nodeSelector, triggers, ladder, victims, limits"),
        ("spec.lader", "; did you mean ladder?"),
        (
            f"{ZONE}.zoneScope",
            "; known here: line, nodes, marginPercent, belowMilliseconds, withinMilliseconds, takenBy",
        ),
        (f"{ZONE}.withinmilliseconds", "; did you mean withinMilliseconds?"),
        (f"{MEMORY}.percnt", "; did you mean percent?"),
        (f"{L}[1].afterSecond", "; did you mean afterSeconds?"),
        (f"{L}[1].evict.gracePeriod", "; did you mean gracePeriodSeconds?"),
        (f"{V}.unprotect", "; did you mean unprotected?"),
        (f"{M}.disconnectedKills", "; known here: cooldownSeconds, maxVictimsPerEpisode, maxVictimsPerWorkload,"),
        ("spec.nodeSelector.matchLabel", "; did you mean matchLabels?"),
        ("speck", "; known here: apiVersion, kind, metadata, spec, status"),
    ):
        says = f"unknown field{meant}"
        yield bad(f"unknown {path}", (path, 1), at=path, says=says, server=f'unknown field "{path}"')
        yield bad(f"unknown {path} null", (path, None), at=path, says=says, server=f'unknown field "{path}"')


def _objects() -> Iterator[Case]:
    yield good("as it is")
    yield good("victims and limits empty", (V, {}), (M, {}))
    yield good("victims and limits null", (V, None), (M, None))
    yield good("mode null", ("spec.mode", None))
    yield good("empty lists null", (f"{V}.order", None), (f"{V}.qosClasses", None), (f"{V}.unprotected", None))
    for path in ("spec", ZONE, f"{L}[0].taint", V, M):
        says = 'must be an object with fields, not "x"'
        yield bad(f"{path} as text", (path, "x"), at=path, says=says, server="must be of type object")
    says = "must be a map of keys and values, not []"
    at = "spec.nodeSelector.matchLabels"
    yield bad("labels as a list", (at, []), at=at, says=says, server="must be of type object")


CASES: Final[tuple[Case, ...]] = (
    *_objects(),
    *_required(),
    *_integers(),
    *_choices(),
    *_shares(),
    *_quantities(),
    *_selectors(),
    *_lists(),
    *_names(),
    *_unions(),
    *_ladders(),
    *_kills(),
    *_unknown(),
)
