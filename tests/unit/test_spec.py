"""core's reading of a policy: verdict, defaults, messages; and that it declares what the CRD declares."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.policy_cases import BASE, CASES, CHOICES, INTEGERS, Case, put

from memorypressure import spec_schema
from memorypressure.schema import Choice, Integer, IntOrText, ListOf, Member, Object, Shape, Text, TextMap
from memorypressure.spec import (
    Action,
    Criterion,
    EvictSettings,
    FieldError,
    KillSettings,
    KillUnit,
    LabelSelector,
    Mode,
    Policy,
    QosClass,
    Share,
    SpecError,
    TaintEffect,
    TaintSettings,
    ladder_from,
    limits_from,
    normal_spec,
    parse_policy,
    policy_hints,
    selector_from,
    triggers_from,
    victims_from,
)

CRDS = Path(__file__).parents[2] / "crds"
MINIMAL = yaml.safe_load(
    """
apiVersion: memorypressure.dev/v1alpha1
kind: MemoryPressurePolicy
metadata: {name: minimal}
spec:
  nodeSelector: {}
  triggers:
  - {name: reserve, type: ZoneWatermark, zoneWatermark: {line: AtomicReserve}}
  ladder:
  - {action: Taint, triggers: [reserve]}
  - {action: Evict, triggers: [reserve], afterSeconds: 5}
  - {action: Kill, triggers: [reserve], afterSeconds: 7}
"""
)


def errors_of(obj: Any) -> tuple[FieldError, ...]:
    with pytest.raises(SpecError) as caught:
        parse_policy(obj)
    return caught.value.errors


def changed(*changes: tuple[str, Any], base: dict[str, Any] = MINIMAL) -> dict[str, Any]:
    obj = copy.deepcopy(base)
    for path, value in changes:
        put(obj, path, value)
    return obj


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_core_has_the_verdict_of_the_table(case: Case) -> None:
    if case.accepted:
        assert isinstance(parse_policy(case.policy()), Policy)
        return
    errors = errors_of(case.policy())
    assert [one for one in errors if one.path == case.path and one.message.startswith(case.core)], errors


def test_the_cases_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_defaults_are_those_of_the_api() -> None:
    policy = parse_policy(MINIMAL)
    assert (policy.mode, policy.priority, policy.node_selector) == (Mode.DRY_RUN, 0, LabelSelector())
    zone = policy.triggers[0].zone_watermark
    assert zone is not None
    assert (zone.nodes, zone.margin_percent, zone.below_ms, zone.within_ms) == ("AnyNode", 0, 30, 50)
    assert zone.taken_by == "Any"
    taint, evict, kill = policy.ladder
    assert (taint.match, taint.after_seconds) == ("Any", 0)
    assert taint.taint == TaintSettings(TaintEffect.NO_SCHEDULE, 300)
    assert (evict.evict, evict.after_seconds) == (EvictSettings(10), 5)
    assert (kill.kill, kill.after_seconds) == (KillSettings(KillUnit.POD), 7)
    victims, limits = policy.victims, policy.limits
    assert victims.order == (Criterion.OVER_REQUEST, Criterion.PRIORITY, Criterion.RELIEF)
    assert (victims.max_priority, victims.min_relief_bytes, victims.min_age_seconds) == (1_000_000, 64 * 2**20, 60)
    assert victims.qos_classes == {QosClass.BEST_EFFORT, QosClass.BURSTABLE}
    assert victims.unprotected == frozenset()
    assert (limits.cooldown_seconds, limits.max_victims_per_episode, limits.grant_seconds) == (60, 3, 900)
    assert (limits.evictions_per_hour, limits.kills_per_hour) == (20, 5)
    tenth = Share(percent=10)
    assert (limits.max_victims_per_workload, limits.max_concurrent_nodes, limits.max_standing_kills) == (tenth,) * 3


def test_settings_that_are_there_but_empty_have_the_same_defaults_as_absent_ones() -> None:
    empty = changed(("spec.ladder[0].taint", {}), ("spec.ladder[1].evict", {}), ("spec.ladder[2].kill", {}))
    assert parse_policy(empty) == parse_policy(MINIMAL)


def test_a_step_has_the_settings_of_its_action_only() -> None:
    for step in parse_policy(BASE).ladder:
        held = {Action.TAINT: step.taint, Action.EVICT: step.evict, Action.KILL: step.kill}
        assert [action for action, settings in held.items() if settings is not None] == [step.action]


def test_the_parts_of_a_normal_spec_read_back_as_the_policy() -> None:
    policy, spec = parse_policy(BASE), normal_spec(BASE)
    assert triggers_from(spec["triggers"]) == policy.triggers
    assert ladder_from(spec["ladder"]) == policy.ladder
    assert victims_from(spec["victims"]) == policy.victims
    assert limits_from(spec["limits"]) == policy.limits
    assert normal_spec({**BASE, "spec": json.loads(json.dumps(spec))}) == spec


def test_reading_leaves_the_object_as_it_was_and_shares_nothing_with_it() -> None:
    before = copy.deepcopy(MINIMAL)
    normal_spec(MINIMAL)["victims"]["order"].append("Youngest")
    assert before == MINIMAL
    assert "Youngest" not in normal_spec(MINIMAL)["victims"]["order"]


def test_metadata_of_a_stored_object_is_kept() -> None:
    stored = changed(
        ("metadata.uid", "u-1"), ("metadata.generation", 4), ("metadata.creationTimestamp", "2026-01-01T00:00:00Z")
    )
    policy = parse_policy(stored)
    assert (policy.name, policy.uid, policy.generation) == ("minimal", "u-1", 4)
    assert policy.creation_time == "2026-01-01T00:00:00Z"


def test_all_errors_come_at_once_in_the_order_of_the_fields() -> None:
    wrong = changed(
        ("kind", "MemoryPressurePolice"),
        ("metadata.name", "Upper"),
        ("spec.mode", "enforce"),
        ("spec.triggers[0].zoneWatermark.line", "AtomicReserv"),
        ("spec.ladder[1].triggers", ["reserve", "reserve"]),
        ("spec.limits", {"cooldownSeconds": 5, "killsPerHours": 1}),
    )
    assert [str(one) for one in errors_of(wrong)] == [
        'kind: must be MemoryPressurePolicy, not "MemoryPressurePolice"',
        (
            "metadata.name: must be lower-case letters, digits, '-' and '.', with a letter or digit at both ends,"
            ' not "Upper"'
        ),
        'spec.mode: must be one of Disabled, DryRun, Enforce, not "enforce"; did you mean Enforce?',
        (
            "spec.triggers[0].zoneWatermark.line: must be one of High, Low, Min, AtomicReserve,"
            ' not "AtomicReserv"; did you mean AtomicReserve?'
        ),
        'spec.ladder[1].triggers[1]: "reserve" is there twice',
        "spec.limits.cooldownSeconds: must be from 10 to 3600, not 5",
        "spec.limits.killsPerHours: unknown field; did you mean killsPerHour?",
    ]


def test_rules_are_told_beside_errors_of_other_fields() -> None:
    wrong = changed(("spec.mode", "on"), ("spec.ladder[0].triggers", ["nothing"]))
    assert {one.path for one in errors_of(wrong)} == {"spec.mode", "spec.ladder"}


@pytest.mark.parametrize("given", [None, [], "text", 5, {}, {"kind": "Pod"}, {"spec": {}}])
def test_what_is_no_policy_at_all_is_refused(given: Any) -> None:
    assert errors_of(given)


def test_what_cannot_be_printed_is_refused_all_the_same() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, 10**5000):
        given = copy.deepcopy(MINIMAL) | {"kind": value}
        given["spec"] |= {"mode": value, "priority": value, "nodeSelector": {"matchLabels": {"a": value}}}
        found = errors_of(given)
        assert {error.path for error in found} >= {"kind", "spec.mode", "spec.priority"}
        assert {error.message for error in found if error.path == "kind"} == {
            "must be MemoryPressurePolicy, not a value too large to show"
        }


def test_kind_and_version_of_something_else_are_named() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    assert [str(one) for one in errors_of(pod)] == [
        'apiVersion: must be memorypressure.dev/v1alpha1, not "v1"',
        'kind: must be MemoryPressurePolicy, not "Pod"',
        "spec: is required",
    ]


def test_a_whole_number_with_a_point_is_a_number_as_kubectl_reads_it() -> None:
    points = changed(("spec.priority", 5.0), ("spec.limits", {"cooldownSeconds": 20.0}))
    spec = normal_spec(points)
    assert (spec["priority"], spec["limits"]["cooldownSeconds"]) == (5, 20)
    assert isinstance(spec["priority"], int)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), 1e300, True])
def test_strange_numbers_are_refused(given: float) -> None:
    assert errors_of(changed(("spec.priority", given)))[0].path == "spec.priority"


@pytest.mark.parametrize(
    ("read", "value", "path"),
    [
        (triggers_from, [{"name": "x"}], "triggers[0].type"),
        (ladder_from, [{"action": "Taint"}], "ladder[0].triggers"),
        (victims_from, {"minRelief": "lots"}, "victims.minRelief"),
        (limits_from, {"grantSeconds": 1}, "limits.grantSeconds"),
        (selector_from, {"matchLabels": 3}, "selector.matchLabels"),
    ],
)
def test_errors_in_a_part_have_its_path(read: Any, value: Any, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(value)
    assert path in {one.path for one in caught.value.errors}
    with pytest.raises(SpecError) as caught:
        read(value, "orders.part")
    assert all(one.path.startswith("orders.part") for one in caught.value.errors)


@pytest.mark.parametrize("file", sorted((CRDS / "samples").glob("*.yaml")), ids=lambda file: file.stem)
def test_samples_are_valid_dry_and_explained(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    policy = parse_policy(yaml.safe_load(text))
    assert policy.name == file.stem
    assert policy.mode is Mode.DRY_RUN
    assert policy_hints(policy) == ()
    assert text.startswith("# ")


def test_the_default_sample_writes_out_the_defaults() -> None:
    sample = yaml.safe_load((CRDS / "samples" / "default.yaml").read_text(encoding="utf-8"))
    bare = copy.deepcopy(sample)
    del bare["spec"]["victims"], bare["spec"]["limits"], bare["spec"]["mode"], bare["spec"]["priority"]
    assert parse_policy(bare) == parse_policy(sample)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("spec.limits.evictionsPerHour", 0), "spec.limits.evictionsPerHour"),
        (("spec.limits.maxStandingKills", 0), "spec.limits.maxStandingKills"),
        (("spec.limits.killsPerHour", 0), "spec.limits.killsPerHour"),
        (("spec.triggers[0].zoneWatermark.line", "Min"), "spec.triggers[0].zoneWatermark.belowMilliseconds"),
    ],
)
def test_what_is_hardly_meant_is_hinted_at(change: tuple[str, Any], path: str) -> None:
    assert [one.path for one in policy_hints(parse_policy(changed(change)))] == [path]


@pytest.mark.parametrize("field", ["evictionsPerHour", "maxStandingKills", "killsPerHour"])
def test_a_limit_of_a_step_that_is_not_there_is_no_hint(field: str) -> None:
    only_taint = changed(("spec.ladder", MINIMAL["spec"]["ladder"][:1]), (f"spec.limits.{field}", 0))
    assert policy_hints(parse_policy(only_taint)) == ()


@pytest.mark.parametrize(
    ("share", "whole", "count"),
    [(Share(3), 0, 3), (Share(0), 50, 0), (Share(None, 10), 42, 5), (Share(None, 10), 10, 1), (Share(None, 1), 1, 1)],
)
def test_a_share_is_rounded_up(share: Share, whole: int, count: int) -> None:
    assert share.of(whole) == count


SELECTOR_CASES = [
    ({}, True),
    ({"matchLabels": {"a": "1"}}, True),
    ({"matchLabels": {"a": "2"}}, False),
    ({"matchLabels": {"c": ""}}, False),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
    ({"matchExpressions": [{"key": "c", "operator": "In", "values": ["1"]}]}, False),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
    ({"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": "c", "operator": "Exists"}]}, False),
    ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, False),
    ({"matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}, True),
    ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, False),
]


@pytest.mark.parametrize(("given", "matches"), SELECTOR_CASES)
def test_label_selectors_mean_what_they_mean_to_kubernetes(given: dict[str, Any], matches: bool) -> None:
    assert selector_from(given).matches({"a": "1", "b": ""}) is matches


PATHS = (
    "spec",
    "spec.mode",
    "spec.nodeSelector",
    "spec.nodeSelector.matchLabels",
    "spec.triggers",
    "spec.triggers[0]",
    "spec.triggers[0].name",
    "spec.triggers[0].zoneWatermark",
    "spec.triggers[1].availableMemory.atMost",
    "spec.ladder",
    "spec.ladder[1]",
    "spec.ladder[1].triggers",
    "spec.ladder[2].action",
    "spec.victims",
    "spec.victims.order",
    "spec.victims.minRelief",
    "spec.limits.maxStandingKills",
    "metadata",
    "metadata.name",
    "kind",
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@given(st.sampled_from(PATHS), JSON)
def test_no_json_does_anything_but_pass_or_be_refused_with_a_path(path: str, value: Any) -> None:
    obj = changed((path, value), base=BASE)
    try:
        assert isinstance(parse_policy(obj), Policy)
    except SpecError as error:
        errors = error.errors
    else:
        return
    assert errors
    assert all(one.message for one in errors)


# What core declares, written as the CRD writes it.


def as_crd(shape: Shape, member: Member | None = None) -> dict[str, Any]:
    """The structural schema that a CRD would need to say what the shape says; without descriptions and CEL."""
    out: dict[str, Any]
    match shape:
        case Integer(low, high, choices):
            out = {"type": "integer", "format": "int32"}
            out.update({"enum": list(choices)} if choices else {"minimum": low, "maximum": high})
        case Text(max_length, min_length, pattern):
            out = {"type": "string", "maxLength": max_length}
            out.update({"minLength": min_length} if min_length else {})
            out.update({"pattern": f"^{pattern}$"} if pattern else {})
        case Choice(words):
            out = {"type": "string", "enum": list(words)}
        case IntOrText(max_length):
            out = {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "x-kubernetes-int-or-string": True,
                "maxLength": max_length,
            }
        case ListOf(items, max_items, min_items, unique):
            out = {"type": "array", "items": as_crd(items), "maxItems": max_items}
            out.update({"minItems": min_items} if min_items else {})
            kind = {"": "atomic", "set": "set"}.get(unique, "map")
            out["x-kubernetes-list-type"] = kind
            out.update({"x-kubernetes-list-map-keys": [unique]} if kind == "map" else {})
        case TextMap(max_entries, values):
            out = {"type": "object", "maxProperties": max_entries, "additionalProperties": as_crd(values)}
        case Object(members):
            out = {"type": "object", "properties": {name: as_crd(one.shape, one) for name, one in members.items()}}
            required = [name for name, one in members.items() if one.required]
            out.update({"required": required} if required else {})
            out.update({"x-kubernetes-map-type": "atomic"} if "matchLabels" in members else {})
        case _:
            raise AssertionError(shape)
    if member is not None and member.default is not None:
        out["default"] = member.default
    if shape.rules:
        out["x-kubernetes-validations"] = [
            {"message": rule.says, **({"fieldPath": f".{rule.at}"} if rule.at else {})} for rule in shape.rules
        ]
    return out


def without_words(node: Any) -> Any:
    """A schema without its descriptions and without the CEL expressions."""
    if isinstance(node, list):
        return [without_words(item) for item in node]
    if not isinstance(node, dict):
        return node
    is_rule = "rule" in node and "message" in node
    hidden = {"rule"} if is_rule else {"description"} if not isinstance(node.get("description"), dict) else set()
    return {key: without_words(value) for key, value in node.items() if key not in hidden}


def spec_of(kind: str) -> dict[str, Any]:
    crd = yaml.safe_load((CRDS / f"{kind}.yaml").read_text(encoding="utf-8"))
    spec: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def test_core_declares_every_field_bound_default_and_sentence_of_the_policy_definition() -> None:
    declared = json.loads(json.dumps(as_crd(spec_schema.SPEC)))
    assert without_words(spec_of("memorypressurepolicies")) == declared


def test_a_plan_has_triggers_ladder_victims_and_limits_in_the_shape_of_the_policy() -> None:
    policy, plan = spec_of("memorypressurepolicies")["properties"], spec_of("nodememoryplans")["properties"]
    for part in ("triggers", "ladder", "victims", "limits"):
        wanted = {key: value for key, value in policy[part].items() if (part, key) not in DEFAULTED_AS_A_WHOLE}
        assert plan[part] == wanted


# A plan says which parts it has; a policy's absent parts are the defaults.
DEFAULTED_AS_A_WHOLE = {("victims", "default"), ("limits", "default")}


def leaves(node: dict[str, Any], path: str = "spec") -> dict[str, dict[str, Any]]:
    """The schema of every field by its path, list items as [0] like in the table."""
    found = {path: node}
    for name, inner in node.get("properties", {}).items():
        found.update(leaves(inner, f"{path}.{name}"))
    if "items" in node:
        found.update(leaves(node["items"], f"{path}[0]"))
    return found


def any_index(path: str) -> str:
    return "".join("[0]" if part.isdigit() else part for part in path.replace("[", "|").replace("]", "|").split("|"))


def test_every_bound_choice_and_sentence_of_the_definition_has_a_case() -> None:
    schema = leaves(spec_of("memorypressurepolicies"))
    bounded = {path for path, node in schema.items() if "minimum" in node} - {"spec.victims.maxPriority"}
    assert {any_index(path) for path, *_ in INTEGERS} == bounded
    words = {path for path, node in schema.items() if node.get("type") == "string" and "enum" in node}
    assert {any_index(path) for path, _ in CHOICES} == {path for path in words if "matchExpressions" not in path}
    refused = {case.core for case in CASES if not case.accepted}
    sentences = {rule["message"] for node in schema.values() for rule in node.get("x-kubernetes-validations", ())}
    assert sentences <= refused
    counted = {
        f"at most {node[bound]} are allowed"
        for node in schema.values()
        for bound in ("maxItems", "maxLength", "maxProperties")
        if bound in node
    }
    assert all(any(says.endswith(limit) for says in refused) for limit in counted)
