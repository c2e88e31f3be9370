"""The three definitions on a real API server: verdicts, messages, columns, explanations, selectors, waiting."""

import copy
import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.node_objects import LARGEST, PLAN, STATE, plan, state
from support.policy_cases import BASE, CASES, GONE, KILL_SAYS, Case, put

from memorypressure.spec import SpecError, normal_spec
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.policy_file import load_policy
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane

CRDS: Final = Path(__file__).parents[2] / "crds"
GROUP: Final = "/apis/memorypressure.dev/v1alpha1"
POLICIES: Final = f"{GROUP}/memorypressurepolicies"
STATES: Final = f"{GROUP}/nodememorystates"
PLANS: Final = f"{GROUP}/nodememoryplans"
STRICT: Final = "fieldValidation=Strict"
DRY: Final = f"dryRun=All&{STRICT}"
INCOMPLETE: Final = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid;"
    " correct the existing errors to complete validation"
)


def said(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Field and message of everything the server complains about; decoding errors name the field in the message."""
    causes = body.get("details", {}).get("causes", [])
    return [(cause.get("field", ""), cause["message"]) for cause in causes] or [("", body["message"])]


def changed(base: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    obj = copy.deepcopy(base)
    for path, value in changes:
        put(obj, path, value)
    return obj


# Policies: core and server.


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_server_has_the_verdict_defaults_and_sentences_of_core(crds: ControlPlane, case: Case) -> None:
    policy = case.policy()
    answer = crds.admin.request("POST", f"{POLICIES}?{DRY}", policy)
    if case.accepted:
        assert answer.status == 201, answer.body["message"]
        assert answer.body["spec"] == normal_spec(policy)
        return
    assert answer.status in (400, 422), answer
    wanted = case.server or case.core
    if answer.status == 400:
        assert wanted in answer.body["message"]
    else:
        at = case.server_path or case.path
        assert [message for field, message in said(answer.body) if field == at and wanted in message], answer.body


SCALARS: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.sampled_from([0.5, "", "x", "10%", "64Mi", "1Gi", "reserve", "Any", "Min", "PSI", "Kill", 1, 10, 60, 300])
)
VALUES: Final = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["pool", "x"]), SCALARS)


def paths_of(node: Any, path: str) -> list[str]:
    inner = (
        [paths_of(value, f"{path}.{key}") for key, value in node.items()]
        if isinstance(node, dict)
        else [paths_of(value, f"{path}[{index}]") for index, value in enumerate(node)]
        if isinstance(node, list)
        else []
    )
    return [path, *(found for paths in inner for found in paths)]


FULL: Final = {**BASE, "spec": normal_spec(BASE)}
PATHS: Final = tuple(path for path in paths_of(FULL["spec"], "spec") if path != "spec")


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from(PATHS), VALUES | st.just(GONE)), min_size=1, max_size=2, unique_by=lambda c: c[0]
    )
)
def test_server_and_core_agree_on_any_change_of_a_policy(crds: ControlPlane, changes: list[tuple[str, Any]]) -> None:
    try:
        policy = changed(FULL, *changes)
    except (KeyError, IndexError, TypeError, AttributeError):  # the first change removed the place of the second
        return
    answer = crds.admin.request("POST", f"{POLICIES}?{DRY}", policy)
    try:
        spec: dict[str, Any] | None = normal_spec(policy)
    except SpecError:
        spec = None
    assert (answer.status == 201) is (spec is not None), answer.body
    assert spec is None or answer.body["spec"] == spec


def test_kubectl_takes_numbers_written_with_a_point_as_core_does(crds: ControlPlane) -> None:
    zone = {"line": "Min", "belowMilliseconds": 40.0, "withinMilliseconds": 90.0}
    policy = changed(BASE, ("spec.priority", 7.0), ("spec.triggers[0].zoneWatermark", zone))
    made = crds.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=yaml.safe_dump(policy))
    assert json.loads(made.stdout)["spec"] == normal_spec(policy)


# As written in a file: numbers, booleans and nulls that YAML's readers disagree about, and documents of nothing.
WRITTEN: Final = (
    *(("PRIORITY", word) for word in ("1e2", "0.1e1", "+5", "-0", "0x1F", "0o17", "017", "08", "0b11", "1_00", "5.")),
    *(("PRIORITY", word) for word in ("1:30", "!!str 5", "'5'", ".inf", ".nan", "1e400", "9007199254740993", "yes")),
    *(("PRIORITY", word) for word in ("18446744073709551616", "~", "Null", "", "nil", "0x", "1e", ".5e1", "&a 5")),
    *(("{}", f"{{matchLabels: {{a: {word}}}}}") for word in ("y", "N", "on", "x", "1e3", "2026-01-01", "~", "é", "''")),
    *(("{}", word) for word in ("{matchLabels: &a {b: c}, matchLabels: *a}", "{matchExpressions: [~]}", "!!map {}")),
    ("---", "---\n---"),
    ("# end", "---"),
)
FILE: Final = """\
---
apiVersion: memorypressure.dev/v1alpha1
kind: MemoryPressurePolicy
metadata: {name: written}
spec:
  priority: PRIORITY
  nodeSelector: {}
  triggers: [{name: reserve, type: ZoneWatermark, zoneWatermark: {line: Min}}]
  ladder: [{action: Kill, triggers: [reserve], afterSeconds: 0}]
# end
"""


@pytest.mark.parametrize(("place", "written"), WRITTEN)
def test_a_file_is_read_as_kubectl_reads_it(crds: ControlPlane, tmp_path: Path, place: str, written: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(FILE.replace(place, written, 1).replace("PRIORITY", "3"), encoding="utf-8")
    made = crds.kubectl("create", "--dry-run=server", "-o", "json", "-f", str(path), check=False)
    try:
        read = load_policy(path).policy
    except BadInputError:
        assert "matchLabels: *a" in written or made.returncode != 0, made.stdout
        return
    assert made.returncode == 0, made.stderr
    spec = json.loads(made.stdout)["spec"]
    assert (read.priority, dict(read.node_selector.match_labels)) == (
        spec["priority"],
        spec["nodeSelector"].get("matchLabels", {}),
    )


@pytest.mark.parametrize("file", sorted((CRDS / "samples").glob("*.yaml")), ids=lambda file: file.stem)
def test_samples_are_accepted_as_they_are(crds: ControlPlane, file: Path) -> None:
    made = crds.kubectl("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", str(file))
    sample = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert json.loads(made.stdout)["spec"] == normal_spec(sample)


# What a user of kubectl reads.

KUBECTL_SAYS: Final[tuple[tuple[str, tuple[tuple[str, Any], ...], str], ...]] = (
    (
        "unknown trigger",
        (("spec.ladder[0].triggers", ["resrve"]),),
        "spec.ladder: Invalid value: ladder refers to a trigger that spec.triggers does not define",
    ),
    ("soft kill", (("spec.ladder[2].triggers", ["stalled"]),), f"spec.ladder: Invalid value: {KILL_SAYS}"),
    (
        "union",
        (("spec.triggers[2].psi", GONE),),
        "spec.triggers[2].psi: Invalid value: psi is set exactly when type is PSI",
    ),
    (
        "no afterSeconds",
        (("spec.ladder[1].afterSeconds", GONE),),
        "spec.ladder[1].afterSeconds: Invalid value: afterSeconds is required for Evict and Kill",
    ),
    (
        "critical pods",
        (("spec.victims.maxPriority", 2_000_000_000),),
        (
            "spec.victims.maxPriority: Invalid value: 2000000000:"
            " maxPriority must be below 2000000000, where system-critical pods begin"
        ),
    ),
    (
        "quantity",
        (("spec.victims.minRelief", "64 MB"),),
        (
            'spec.victims.minRelief: Invalid value: "64 MB":'
            " minRelief must be 0 or a quantity from 1Mi to 1Pi, for example 64Mi"
        ),
    ),
    (
        "share",
        (("spec.limits.maxConcurrentNodes", "150%"),),
        (
            'spec.limits.maxConcurrentNodes: Invalid value: "150%":'
            " maxConcurrentNodes is a number from 1 to 100000 or a share from 1% to 100%"
        ),
    ),
)


@pytest.mark.parametrize(("changes", "line"), [pytest.param(*row[1:], id=row[0]) for row in KUBECTL_SAYS])
def test_kubectl_prints_one_readable_line(crds: ControlPlane, changes: tuple[tuple[str, Any], ...], line: str) -> None:
    done = crds.kubectl("create", "-f", "-", stdin=json.dumps(changed(BASE, *changes)), check=False)
    assert done.returncode == 1
    assert done.stderr == f'The MemoryPressurePolicy "case" is invalid: {line}\n'


def test_kubectl_names_the_words_of_a_misspelt_choice_and_says_that_rules_wait(crds: ControlPlane) -> None:
    done = crds.kubectl("create", "-f", "-", stdin=json.dumps(changed(BASE, ("spec.mode", "enforce"))), check=False)
    assert done.stderr.splitlines() == [
        'The MemoryPressurePolicy "case" is invalid: ',
        '* spec.mode: Unsupported value: "enforce": supported values: "Disabled", "DryRun", "Enforce"',
        f"* {INCOMPLETE}",
    ]


def test_kubectl_refuses_a_field_that_is_not_there(crds: ControlPlane) -> None:
    wrong = changed(BASE, ("spec.triggers[0].zoneWatermark.watermark", "Min"))
    done = crds.kubectl("create", "-f", "-", stdin=json.dumps(wrong), check=False)
    assert 'unknown field "spec.triggers[0].zoneWatermark.watermark"' in done.stderr


EXPLAINED: Final = (
    ("mpp.spec.ladder", ("mildest first", "afterSeconds", "enum: Taint, Evict, Kill")),
    ("mpp.spec.mode", ("writes to no cgroup, pod or node", "Default DryRun")),
    ("mpp.spec.triggers.zoneWatermark.line", ("half of min", "lowmem reserve")),
    ("mpp.spec.limits.maxStandingKills", ("without asking first", "Default 10%")),
    ("nms.spec.grant", ("allowance to kill", "killsCeiling")),
    ("nmp.spec.pods", ("at most 250", "requestBytes")),
)


@pytest.mark.parametrize(("field", "words"), EXPLAINED, ids=[field for field, _ in EXPLAINED])
def test_kubectl_explains_fields(crds: ControlPlane, field: str, words: tuple[str, ...]) -> None:
    text = " ".join(crds.kubectl("explain", field).stdout.split())
    assert [word for word in words if word not in text] == []


# Objects of a node.


@pytest.mark.parametrize(("path", "obj"), [(STATES, STATE), (PLANS, PLAN)], ids=["state", "plan"])
def test_a_complete_object_of_a_node_is_accepted(crds: ControlPlane, path: str, obj: dict[str, Any]) -> None:
    answer = crds.admin.request("POST", f"{path}?{DRY}", obj)
    assert answer.status == 201, answer.body
    assert answer.body["spec"] == obj["spec"]


@pytest.mark.parametrize(
    ("path", "obj"),
    [(STATES, {**STATE, "spec": {"nodeName": "worker-7", "mode": "Disabled"}}), (PLANS, plan("worker-7"))],
    ids=["state", "plan"],
)
def test_a_node_without_a_policy_has_its_objects_too(crds: ControlPlane, path: str, obj: dict[str, Any]) -> None:
    bare = {**obj, "spec": {key: value for key, value in obj["spec"].items() if key in ("nodeName", "mode")}}
    answer = crds.admin.request("POST", f"{path}?{DRY}", bare)
    assert answer.status == 201, answer.body
    assert answer.body["spec"] == bare["spec"]


TOGETHER: Final = "policy, triggers, ladder, victims and limits are set together or not at all"
NODE_SAYS: Final[tuple[tuple[str, dict[str, Any], str, str], ...]] = (
    (STATES, {"nodeName": "other"}, "spec.nodeName", "the name of a NodeMemoryState is the name of its node"),
    (PLANS, {"nodeName": "other"}, "spec.nodeName", "the name of a NodeMemoryPlan is the name of its node"),
    (PLANS, {"policy": None}, "spec.policy", TOGETHER),
    (PLANS, {"triggers": None}, "spec.policy", TOGETHER),
    (PLANS, {"ladder": None}, "spec.policy", TOGETHER),
    (PLANS, {"victims": None}, "spec.policy", TOGETHER),
    (PLANS, {"limits": None}, "spec.policy", TOGETHER),
    (
        PLANS,
        dict.fromkeys(("policy", "triggers", "ladder", "victims", "limits")),
        "spec.pods",
        "a plan without a policy has no pods",
    ),
    (
        PLANS,
        {"pods": [{**PLAN["spec"]["pods"][0], "priority": 2_000_000_000}]},
        "spec.pods[0].priority",
        "a system-critical pod is never on a plan",
    ),
    (PLANS, {"pods": PLAN["spec"]["pods"] * 251}, "spec.pods", "must have at most 250 items"),
    (STATES, {"mode": None}, "spec.mode", "Required value"),
    (STATES, {"mode": "enforce"}, "spec.mode", "Unsupported value"),
    (STATES, {"grant": {"beat": 1}}, "spec.grant.incarnation", "Required value"),
)


@pytest.mark.parametrize(("path", "spec", "field", "sentence"), NODE_SAYS)
def test_rules_of_a_nodes_objects(
    crds: ControlPlane, path: str, spec: dict[str, Any], field: str, sentence: str
) -> None:
    make = state if path == STATES else plan
    answer = crds.admin.request("POST", f"{path}?{DRY}", make("worker-7", **spec))
    assert answer.status == 422
    assert [message for at, message in said(answer.body) if at == field and sentence in message], said(answer.body)


def bounds_of(schema: dict[str, Any], value: Any, path: str) -> list[tuple[str, Any]]:
    """For every bounded field of the value: its path and something just outside the bound."""
    found: list[tuple[str, Any]] = []
    if "enum" in schema:
        found.append((path, "Nonsense"))
    if "minimum" in schema:
        found.extend([(path, schema["minimum"] - 1), (path, schema["maximum"] + 1)])
    if "maxLength" in schema:
        found.append((path, "x" * (schema["maxLength"] + 1)))
    if schema.get("minLength"):
        found.append((path, ""))
    if "pattern" in schema:
        found.append((path, "not it"))
    if schema.get("format") == "date-time":
        found.append((path, "yesterday"))
    if isinstance(value, list):
        found.append((path, [value[0]] * (schema["maxItems"] + 1)))
        found.extend(bounds_of(schema["items"], value[0], f"{path}[0]"))
    if isinstance(value, dict):
        assert set(value) == set(schema["properties"]), f"{path} is not complete in the test's object"
        for name, inner in schema["properties"].items():
            found.extend(bounds_of(inner, value[name], f"{path}.{name}"))
    return found


def schema_of(kind: str, part: str) -> dict[str, Any]:
    crd = yaml.safe_load((CRDS / f"{kind}.yaml").read_text(encoding="utf-8"))
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]
    return schema


def test_every_bound_of_a_state_holds_in_its_spec(crds: ControlPlane) -> None:
    for at, value in bounds_of(schema_of("nodememorystates", "spec"), STATE["spec"], "spec"):
        answer = crds.admin.request("POST", f"{STATES}?{DRY}", changed(STATE, (at, value)))
        assert answer.status == 422, (at, value)
        assert any(field.startswith(at) for field, _ in said(answer.body)), (at, said(answer.body))


def test_every_bound_of_a_state_holds_in_its_status(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", STATES, state(name))
    path = f"{STATES}/{name}/status?{DRY}"
    crds.admin.must("PATCH", path, {"status": STATE["status"]}, MERGE_PATCH)
    for at, value in bounds_of(schema_of("nodememorystates", "status"), STATE["status"], "status"):
        body = {"status": changed(STATE, (at, value))["status"]}
        answer = crds.admin.request("PATCH", path, body, MERGE_PATCH)
        assert answer.status == 422, (at, value)
        assert any(field.startswith(at) for field, _ in said(answer.body)), (at, said(answer.body))


def test_every_bound_of_a_plans_own_fields_holds(crds: ControlPlane) -> None:
    schema = schema_of("nodememoryplans", "spec")
    for name in ("nodeName", "policy", "pods"):
        for at, value in bounds_of(schema["properties"][name], PLAN["spec"][name], f"spec.{name}"):
            answer = crds.admin.request("POST", f"{PLANS}?{DRY}", changed(PLAN, (at, value)))
            assert answer.status == 422, (at, value)
            assert any(field.startswith(at) for field, _ in said(answer.body)), (at, said(answer.body))


def test_the_node_of_an_object_cannot_be_changed(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    for path, make in ((STATES, state), (PLANS, plan)):
        crds.admin.must("POST", path, make(name))
        answer = crds.admin.request("PATCH", f"{path}/{name}", {"spec": {"nodeName": "other"}}, MERGE_PATCH)
        assert ("spec.nodeName", 'Invalid value: "other": nodeName cannot be changed') in said(answer.body)


def test_a_status_write_leaves_the_spec_alone_and_a_spec_write_the_status(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    created = crds.admin.must("POST", STATES, state(name))
    assert "status" not in created
    both = {"spec": {"mode": "Enforce"}, "status": {"agentVersion": "9"}}
    after = crds.admin.must("PATCH", f"{STATES}/{name}/status", both, MERGE_PATCH)
    assert (after["spec"]["mode"], after["status"]["agentVersion"]) == ("DryRun", "9")
    assert after["metadata"]["generation"] == 1
    after = crds.admin.must("PATCH", f"{STATES}/{name}", {**both, "status": {"agentVersion": "10"}}, MERGE_PATCH)
    assert (after["spec"]["mode"], after["status"]["agentVersion"]) == ("Enforce", "9")
    assert after["metadata"]["generation"] == 2


def test_counters_are_exact_up_to_their_bound(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", STATES, state(name))
    lease = {**STATE["status"]["lease"], "beat": LARGEST}
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": {"lease": lease}}, MERGE_PATCH)
    assert crds.admin.must("GET", f"{STATES}/{name}")["status"]["lease"] == lease


# Columns, selectors, names, waiting.

STATUS: Final[dict[str, Any]] = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": kind,
            "status": value,
            "lastTransitionTime": "2026-05-01T09:59:00Z",
            "reason": reason,
            "message": "as it is",
        }
        for kind, value, reason in (("Ready", "True", "Reconciled"), ("Conflicted", "False", "NoOverlap"))
    ],
    "nodes": {"selected": 44, "effective": 42, "superseded": 2, "reporting": 41, "underPressure": 1, "armed": 5},
    "actions": {"dryRun": 6, "evictions": 4, "kills": 3, "denied": 2},
    "exposure": {"standingKills": 5, "worstCaseHour": 10},
    "lastActionTime": "2026-05-01T09:59:10Z",
}


def cells(crds: ControlPlane, kind: str, name: str, *words: str) -> dict[str, str]:
    """The columns that kubectl prints for one object, by their heading; none of the cells may hold a blank."""
    lines = crds.kubectl("get", kind, name, *words).stdout.splitlines()
    heads, values = lines[0].split(), lines[1].split()
    assert len(heads) == len(values), lines
    return dict(zip(heads, values, strict=True))


def test_columns_of_a_policy(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}default"
    crds.admin.must("POST", POLICIES, changed(BASE, ("metadata.name", name)))
    crds.admin.must("PATCH", f"{POLICIES}/{name}/status", {"status": STATUS}, MERGE_PATCH)
    narrow = cells(crds, "mpp", name)
    age, last = narrow.pop("AGE"), narrow.pop("LAST-ACTION")
    assert age.endswith("s")
    assert last.endswith(("d", "y", "h")) or "y" in last
    assert narrow == {
        "NAME": name,
        "MODE": "Enforce",
        "PRIORITY": "5",
        "NODES": "42",
        "PRESSURE": "1",
        "READY": "True",
        "REASON": "Reconciled",
    }
    wide = cells(crds, "mpp", name, "-o", "wide")
    assert {key: wide[key] for key in ("CONFLICTED", "EVICTIONS", "KILLS", "DENIED")} == {
        "CONFLICTED": "False",
        "EVICTIONS": "4",
        "KILLS": "3",
        "DENIED": "2",
    }


def test_columns_of_a_state(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", STATES, state(name))
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": STATE["status"]}, MERGE_PATCH)
    narrow = cells(crds, "nms", name)
    assert list(narrow) == ["NAME", "POLICY", "MODE", "PRESSURE", "REASON", "ZONE", "FREE/MIN", "LAST-ACTION", "AGE"]
    shown = [narrow[key] for key in ("POLICY", "MODE", "PRESSURE", "REASON", "ZONE", "FREE/MIN")]
    assert shown == ["default", "DryRun", "True", "AtomicReserveBreached", "0/Normal", "46%"]
    wide = cells(crds, "nms", name, "-o", "wide")
    shown = [wide[key] for key in ("TRIGGERS", "PSI-FULL10", "GRANT-EXPIRES", "AGENT")]
    assert shown == ["reserve,scarce", "12.5%", "2026-05-01T10:15:00Z", "0.1.0"]
    assert wide["REPORTED"]


def test_columns_of_a_plan(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", PLANS, plan(name))
    narrow = cells(crds, "nmp", name)
    assert narrow.pop("AGE").endswith("s")
    assert narrow == {"NAME": name, "POLICY": "default", "POLICY-GEN": "2", "PLAN-GEN": "1"}
    wide = cells(crds, "nmp", name, "-o", "wide")
    assert [wide[key] for key in ("COOLDOWN", "EPISODE-MAX", "GRANT")] == ["60", "3", "900"]


def test_selected_fields_category_and_short_names(crds: ControlPlane, prefix: str) -> None:
    gpu = prefix.strip("-")
    crds.admin.must("POST", STATES, state(f"{prefix}1", policyName=gpu))
    crds.admin.must("POST", STATES, state(f"{prefix}2", policyName=gpu, mode="Enforce"))
    crds.admin.must("POST", STATES, state(f"{prefix}3"))
    crds.admin.must("POST", PLANS, plan(f"{prefix}1", policy={"name": gpu, "generation": 1}))
    crds.admin.must("POST", POLICIES, changed(BASE, ("metadata.name", f"{prefix}p"), ("spec.mode", "Disabled")))

    def names(kind: str, *words: str) -> list[str]:
        lines = crds.kubectl("get", kind, "-o", "name", *words).stdout.split()
        return [line.rsplit("/", 1)[1] for line in lines if line.rsplit("/", 1)[1].startswith(prefix)]

    assert names("nms", "--field-selector", f"spec.policyName={gpu}") == [f"{prefix}1", f"{prefix}2"]
    assert names("nms", "--field-selector", f"spec.policyName={gpu},spec.mode=Enforce") == [f"{prefix}2"]
    assert names("nmp", "--field-selector", f"spec.policy.name={gpu}") == [f"{prefix}1"]
    assert names("mpp", "--field-selector", "spec.mode=Disabled") == [f"{prefix}p"]
    assert names("mpp", "--field-selector", "spec.mode=Enforce") == []
    everything = crds.kubectl("get", "memorypressure", "-o", "name").stdout
    assert {line.split("/")[0] for line in everything.split() if prefix in line} == {
        f"{plural}.memorypressure.dev" for plural in ("memorypressurepolicy", "nodememorystate", "nodememoryplan")
    }


def test_kubectl_waits_for_conditions(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", STATES, state(name))
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": STATE["status"]}, MERGE_PATCH)
    crds.kubectl("wait", f"nms/{name}", "--for=condition=UnderPressure", "--timeout=5s")
    still = crds.kubectl("wait", f"nms/{name}", "--for=condition=UnderPressure=false", "--timeout=1s", check=False)
    assert still.returncode == 1
    clear = {**STATE["status"]["conditions"][0], "status": "False", "reason": "NoPressure"}
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": {"conditions": [clear]}}, MERGE_PATCH)
    crds.kubectl("wait", f"nms/{name}", "--for=condition=UnderPressure=false", "--timeout=5s")


# Cost: the bounds without which the server would refuse the rules.

NEEDED: Final = (
    ("triggers", "maxItems"),
    ("ladder", "maxItems"),
    ("ladder.items.triggers", "maxItems"),
    ("nodeSelector.matchLabels", "maxProperties"),
)


@pytest.mark.parametrize(("place", "bound"), NEEDED)
def test_rules_are_cheap_only_because_of_bounds(crds: ControlPlane, place: str, bound: str) -> None:
    crd = yaml.safe_load((CRDS / "memorypressurepolicies.yaml").read_text(encoding="utf-8"))
    crd["spec"]["group"] = "bounds.example.com"
    crd["metadata"]["name"] = "memorypressurepolicies.bounds.example.com"
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All"
    assert crds.admin.request("POST", path, crd).status == 201
    node = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for step in place.split("."):
        node = node["items"] if step == "items" else node["properties"][step]
    del node[bound]
    answer = crds.admin.request("POST", path, crd)
    assert answer.status == 422
    assert "exceeds budget" in answer.body["message"]
