"""NodeMemoryState and NodeMemoryPlan on a real API server: rules, every bound, status and spec apart."""

from typing import Any, Final

import pytest
import yaml
from support.definitions import CRDS, DRY, PLANS, STATES, changed, said
from support.node_objects import LARGEST, PLAN, STATE, plan, state

from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane


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
