"""The default policy: made once, whoever ends in between, and never again after a user changed or deleted it."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.operator_lab import GROUP, Lab, wait_for

from memorypressure_operator import defaults
from memorypressure_operator.api import Answer, Api, Credentials
from memorypressure_operator.defaults import INTENT, MARK, Created
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


def config_map(lab: Lab, text: str) -> str:
    path = f"/api/v1/namespaces/{lab.home}/configmaps"
    lab.admin.must("POST", path, {"metadata": {"name": "default-policy"}, "data": {"policy.yaml": text}})
    return f"{path}/default-policy"


def policy_text(lab: Lab, mode: str = "DryRun") -> str:
    body: dict[str, Any] = {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {"name": lab.prefix + "default"},
        "spec": {
            "mode": mode,
            "nodeSelector": {"matchLabels": {"lab": "none"}},
            "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
            "ladder": [{"action": "Taint", "triggers": ["low"]}],
        },
    }
    return json.dumps(body)


def test_the_default_policy_is_made_once_and_stays_deleted(lab: Lab) -> None:
    path = config_map(lab, policy_text(lab))
    name = f"{GROUP}/memorypressurepolicies/{lab.prefix}default"
    first = lab.running("--default-policy-configmap", "default-policy")
    wait_for(lambda: lab.admin.request("GET", name).status == 200, "the policy")
    wait_for(lambda: "memorypressure.dev/created" in str(lab.admin.must("GET", path)["metadata"]), "the mark")
    lab.admin.must("DELETE", name)
    assert first.stop() == 0
    second = lab.running("--default-policy-configmap", "default-policy", identity="two")
    wait_for(lambda: second.metric("memorypressure_operator_policies", mode="DryRun") >= 0, "running")
    time.sleep(1)
    assert lab.admin.request("GET", name).status == 404


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "not YAML"), ('{"kind": "X"}', "apiVersion: must be"), ("BADMODE", "spec.mode")],
)
def test_a_wrong_default_policy_is_named_and_nothing_is_made(lab: Lab, text: str, expected: str) -> None:
    config_map(lab, policy_text(lab, mode="Kill") if text == "BADMODE" else text)
    operator = lab.running("--default-policy-configmap", "default-policy")
    line = wait_for(
        lambda: next((line for line in operator.text().splitlines() if "no default policy" in line), None),
        "the message",
    )
    assert f"{lab.home}/default-policy" in line
    assert expected in line


@pytest.mark.parametrize("text", ["a: 2026-13-45", "a: " + "9" * 5000, "[" * 5000])
def test_yaml_that_breaks_its_parser_is_named_like_any_other(
    lab: Lab, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    config_map(lab, text)
    assert defaults.create_once(Mortal(lab), lab.home, "default-policy") is Created.INVALID
    assert f"ConfigMap {lab.home}/default-policy, key policy.yaml: not YAML" in caplog.text


class Ends(BaseException):
    """The operator's process ends."""


class Mortal(Api):
    """The real API server, until a request after which, or before which, the operator ends or hears nothing."""

    def __init__(self, lab: Lab, ends: tuple[str, str] = ("", ""), error: BaseException | None = None) -> None:
        super().__init__(Credentials(str(lab.plane.kubeconfig), 60, lambda: 0.0), 5.0)
        self._ends, self._error = ends, error

    def request(self, method: str, path: str, **arguments: Any) -> Answer:
        when, what = self._ends
        error = self._error if f"{method} {path.rsplit('/', 1)[-1]}" == what else None
        if error is not None and when == "before":
            raise error
        answer = super().request(method, path, **arguments)
        if error is not None:
            raise error
        return answer


POST, PATCH = "POST memorypressurepolicies", "PATCH default-policy"
CASES = {
    "before it is made": (("after", PATCH), Ends(), "does nothing"),  # the first PATCH is that of the intent
    "as it is asked for": (("before", POST), Ends(), "does nothing"),
    "after it was made": (("after", POST), Ends(), "does nothing"),
    "not hearing that it was made": (("after", POST), ApiUnreachable("no answer"), "does nothing"),
    "after it was made, and a user changes it": (("after", POST), Ends(), "changes it"),
    "after it was made, and a user deletes it": (("after", POST), Ends(), "deletes it"),
}


@pytest.mark.parametrize(("ends", "error", "user"), CASES.values(), ids=CASES.keys())
def test_it_is_made_once_wherever_the_operator_ended(
    lab: Lab, ends: tuple[str, str], error: BaseException, user: str
) -> None:
    path = config_map(lab, policy_text(lab))
    name = f"{GROUP}/memorypressurepolicies/{lab.prefix}default"
    with pytest.raises(type(error)):
        defaults.create_once(Mortal(lab, ends, error), lab.home, "default-policy")
    there = lab.admin.request("GET", name).status == 200
    assert there == (ends == ("after", POST))
    if there and user == "changes it":
        lab.admin.must("PATCH", name, {"spec": {"priority": 7}}, MERGE_PATCH)
    if there and user == "deletes it":
        lab.admin.must("DELETE", name)
    again = defaults.create_once(Mortal(lab), lab.home, "default-policy")
    assert again is (Created.BEFORE if there else Created.CREATED)
    found = lab.admin.request("GET", name)
    assert found.status == (404 if there and user == "deletes it" else 200)
    if there and user == "changes it":
        assert found.body["spec"]["priority"] == 7
    annotations = lab.admin.must("GET", path)["metadata"]["annotations"]
    assert MARK in annotations
    assert INTENT not in annotations
    assert defaults.create_once(Mortal(lab), lab.home, "default-policy") is Created.BEFORE


def test_where_the_server_has_forgotten_it_counts_as_made_and_the_log_says_what_to_do(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    path = config_map(lab, policy_text(lab))
    lab.admin.must("PATCH", path, {"metadata": {"annotations": {INTENT: "1"}}}, MERGE_PATCH)
    with caplog.at_level(logging.WARNING):
        assert defaults.create_once(Mortal(lab), lab.home, "default-policy") is Created.BEFORE
    assert "kubectl create it" in caplog.text
    assert lab.admin.request("GET", f"{GROUP}/memorypressurepolicies/{lab.prefix}default").status == 404


def test_a_refusal_is_no_doubt(lab: Lab) -> None:
    """Rights that come an hour later still make it: nothing is left of the attempts that were refused."""
    path = config_map(lab, policy_text(lab))
    refused = ApiRefused(403, "Forbidden", "no")
    with pytest.raises(ApiRefused):
        defaults.create_once(Mortal(lab, ("before", POST), refused), lab.home, "default-policy")
    assert INTENT not in (lab.admin.must("GET", path)["metadata"].get("annotations") or {})
    assert defaults.create_once(Mortal(lab), lab.home, "default-policy") is Created.CREATED
