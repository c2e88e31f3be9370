"""The values: every name and shape is checked, wrong combinations say what to do, and the copies are up to date."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from memorypressure_tools.helm import CHART, Helm, HelmError

sys.path.insert(0, str(CHART.parent.parent / "tools"))
import chart_readme
import sync_crds

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
# Open on purpose: a parent chart's own globals, and parts of Kubernetes objects, which the API server checks.
OPEN = {"/properties/global", "/$defs/kubernetesObject"}

SPEC: dict[str, Any] = {
    "nodeSelector": {},
    "triggers": [{"name": "low", "type": "AvailableMemory", "availableMemory": {"percent": 2}}],
    "ladder": [{"action": "Taint", "triggers": ["low"]}],
}


def error_of(helm: Helm, values: dict[str, Any]) -> str:
    with pytest.raises(HelmError) as caught:
        helm.template(values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crds": {"enabld": True}}, "at '/crds': additional properties 'enabld' not allowed"),
        ({"agents": {}}, "additional properties 'agents' not allowed"),
        ({"agent.profil": "Kill"}, "at '/agent': additional properties 'profil' not allowed"),
        ({"agent.profile": "kill"}, "at '/agent/profile': value must be one of 'Observe', 'Kill', 'KillFast'"),
        ({"agent.realtime": "yes"}, "at '/agent/realtime': got string, want boolean"),
        ({"agent.kernellog": True}, "additional properties 'kernellog' not allowed"),
        ({"agent.cgroupDriver": "auto"}, "at '/agent/cgroupDriver': value must be one of 'systemd', 'cgroupfs'"),
        ({"agent.podsCgroup": "/sys/fs/cgroup"}, "at '/agent/podsCgroup': "),
        ({"agent.podsCgroup": "/sys/fs/cgroup/system.slice"}, "at '/agent/podsCgroup': "),
        ({"agent.podsCgroup": "/etc/kubepods"}, "at '/agent/podsCgroup': "),
        ({"agent.image.digest": "sha256:1234"}, "at '/agent/image/digest': "),
        ({"agent.image.version": "1"}, "at '/agent/image': additional properties 'version' not allowed"),
        ({"agent.maxUnavailable": "0%"}, "at '/agent/maxUnavailable': "),
        ({"agent.maxUnavailable": 0}, "at '/agent/maxUnavailable': "),
        ({"agent.sentinel.resources": {"cpu": "100m", "memory": "lots"}}, "at '/agent/sentinel/resources/memory': "),
        ({"agent.sentinel.resources.gpu": 1}, "additional properties 'gpu' not allowed"),
        ({"agent.sentinel.extraArgs": "--x"}, "at '/agent/sentinel/extraArgs': got string, want array"),
        ({"agent.reporter.metricsPort": 80}, "at '/agent/reporter/metricsPort': minimum: got 80, want 1,024"),
        ({"agent.metrics.secure.secretName": "Not A Name"}, "at '/agent/metrics/secure/secretName': "),
        ({"agent.metrics.secure.readers": [{"name": "p"}]}, "missing property 'namespace'"),
        ({"agent.metrics.serviceMonitor.interval": "often"}, "at '/agent/metrics/serviceMonitor/interval': "),
        ({"agent.reporter.tokenExpirationSeconds": 60}, "minimum: got 60, want 600"),
        ({"agent.tolerations": [{"op": "Exists"}]}, "additional properties 'op' not allowed"),
        ({"operator.replicas": 2}, "at '/operator': additional properties 'replicas' not allowed"),
        ({"operator.extraEnv": [{"value": "x"}]}, "missing property 'name'"),
        (
            {"defaultPolicy.mode": "enforce"},
            "at '/defaultPolicy/mode': value must be one of 'Disabled', 'DryRun', 'Enforce'",
        ),
        ({"defaultPolicy.name": "Default"}, "at '/defaultPolicy/name': "),
        ({"defaultPolicy.spec": {**SPEC, "prio": 1}}, "additional properties 'prio' not allowed"),
        ({"defaultPolicy.spec": {**SPEC, "mode": "Enforce"}}, "additional properties 'mode' not allowed"),
        ({"defaultPolicy.spec": {"nodeSelector": {}}}, "at '/defaultPolicy/spec': missing properties"),
        (
            {"defaultPolicy.spec": {**SPEC, "ladder": [{"action": "Reboot", "triggers": ["low"]}]}},
            "at '/defaultPolicy/spec/ladder/0/action': value must be one of 'Taint', 'Evict', 'Kill'",
        ),
        ({"imagePullSecrets": [{"nam": "x"}]}, "additional properties 'nam' not allowed"),
        ({"global.imageRegistry": "https://a.example"}, "at '/global/imageRegistry': "),
        ({"admission.protectedNamespaces": ["Kube"]}, "at '/admission/protectedNamespaces/0': "),
        ({"networkPolicy.metricsFrom": [{"pods": {}}]}, "additional properties 'pods' not allowed"),
        ({"agent": None}, "at '': missing property 'agent'"),
        ({"agent.metrics.podMonitor": None}, "at '/agent/metrics': missing property 'podMonitor'"),
        ({"commonLabels": {"a": 1}}, "at '/commonLabels/a': got number, want string"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_with_its_path(helm: Helm, values: dict[str, Any], message: str) -> None:
    assert message in error_of(helm, values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"agent.realtime": True}, "agent.realtime needs agent.profile Kill or KillFast"),
        ({"agent.podsCgroup": "/sys/fs/cgroup/a/../kubepods"}, 'may not contain ".."'),
        ({"agent.serviceAccount.create": False}, "agent.serviceAccount.create=false needs agent.serviceAccount.name"),
        (
            {"operator.serviceAccount.create": False},
            "operator.serviceAccount.create=false needs operator.serviceAccount.name",
        ),
        (
            {"agent.serviceAccount.name": "x", "operator.serviceAccount.name": "x"},
            "agent.serviceAccount.name and operator.serviceAccount.name are both",
        ),
        ({"networkPolicy.enabled": False, "networkPolicy.egress.enabled": True}, "needs networkPolicy.enabled=true"),
        ({"defaultPolicy.create": False, "defaultPolicy.spec": SPEC}, "no policy would be made from it"),
        ({"operator.metricsPort": 8080}, "operator.metricsPort and operator.healthPort are both 8080"),
        ({"agent.metrics.secure.enabled": True}, "agent.metrics.secure.enabled=true needs a certificate"),
        ({"agent.metrics.secure.issuerRef": {"kind": "Issuer"}}, "agent.metrics.secure.issuerRef needs a name"),
        (
            {"agent.metrics.secure": {"enabled": True, "secretName": "s", "probePort": 9464}},
            "agent.metrics.secure.probePort and agent.reporter.metricsPort are both 9464",
        ),
        (
            {"agent.metrics.serviceMonitor.enabled": True, "agent.service.enabled": False},
            "agent.metrics.serviceMonitor.enabled=true needs agent.service.enabled=true",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_combination_fails_with_a_sentence(helm: Helm, values: dict[str, Any], sentence: str) -> None:
    assert sentence in error_of(helm, values)


@pytest.mark.parametrize(
    "setting",
    [
        "operator.healthPort=8081",
        "agent.metrics.secure.enabled=true,agent.metrics.secure.secretName=s,agent.metrics.secure.probePort=9467",
    ],
)
def test_one_port_alone_can_be_set_on_the_command_line(helm: Helm, setting: str) -> None:
    assert helm.template(None, "--set", setting)


def test_a_parent_chart_may_have_globals_of_its_own(helm: Helm) -> None:
    assert helm.template({"global.storageClass": "fast"})


def _objects(schema: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            found.append((path, schema))
        for key, child in schema.items():
            found += _objects(child, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, child in enumerate(schema):
            found += _objects(child, f"{path}/{index}")
    return found


def test_every_object_of_the_schema_is_closed() -> None:
    objects = _objects(SCHEMA)
    assert len(objects) > 40
    unbounded = {
        path for path, schema in objects if "additionalProperties" not in schema and "maxProperties" not in schema
    }
    assert unbounded == OPEN
    assert not [path for path, schema in objects if schema.get("additionalProperties") is True]


def test_schema_and_values_have_the_same_names_and_no_section_can_be_missing() -> None:
    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        return SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema

    def wrong(values: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
        found = [f"{path}.{name}" for name in values.keys() ^ schema["properties"].keys()]
        for name in values.keys() & schema["properties"].keys():
            below = resolved(schema["properties"][name])
            if values[name] and isinstance(values[name], dict) and "properties" in below:
                found += wrong(values[name], below, f"{path}.{name}")
                found += [] if name in schema.get("required", []) else [f"{path}.{name} is not required"]
        return found

    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert wrong(values, SCHEMA, "") == []


def test_every_value_is_described_in_the_readme() -> None:
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    described = set(chart_readme.documented(values))

    def leaves(node: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        if path in described or not isinstance(node, dict):
            return [path]
        return [leaf for key, child in node.items() for leaf in leaves(child, (*path, key))]

    assert set(leaves(yaml.safe_load(values), ())) == described
    assert chart_readme.main(["--check"]) == 0, "run tools/chart_readme.py"


def test_a_value_without_description_is_found() -> None:
    with pytest.raises(chart_readme.UndocumentedError, match=r"values\.yaml line 3: a\.c has no comment"):
        chart_readme.documented("a:\n  # -- text\n  c: 1\n".replace("# -- text", "# text"))


def test_the_chart_holds_crds_and_their_schema_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert sync_crds.main(["--check"]) == 0, capsys.readouterr().err


def test_a_changed_copy_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = sync_crds.wanted()
    changed = {path: text + "# edited\n" for path, text in wanted.items()}
    monkeypatch.setattr(sync_crds, "wanted", lambda: changed)
    assert sync_crds.drift() == changed


def test_the_policy_schema_in_the_values_refuses_what_the_definition_does_not_know() -> None:
    schema = sync_crds.json_schema(
        {
            "type": "object",
            "required": ["a"],
            "properties": {
                "a": {"type": "integer", "minimum": 1, "default": 2, "description": "x"},
                "b": {"x-kubernetes-int-or-string": True, "x-kubernetes-validations": [{"rule": "self != 0"}]},
                "c": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
            },
        }
    )
    assert schema == {
        "type": "object",
        "required": ["a"],
        "additionalProperties": False,
        "properties": {
            "a": {"type": "integer", "minimum": 1},
            "b": {"type": ["integer", "string"]},
            "c": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
        },
    }
