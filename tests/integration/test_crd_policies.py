"""MemoryPressurePolicy on a real API server: verdicts, defaults and sentences are those of core; what rules cost."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.definitions import CRDS, DRY, POLICIES, changed, said
from support.policy_cases import BASE, CASES, GONE, Case

from memorypressure.spec import SpecError, normal_spec
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.policy_file import load_policy
from memorypressure_tools.controlplane import ControlPlane


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
