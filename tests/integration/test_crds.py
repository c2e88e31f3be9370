"""The three definitions on a real API server: verdicts, messages, columns, explanations, selectors, waiting."""

import re
from typing import Any, Final

import pytest

from memorypressure.spec import normal_spec
from memorypressure_tools.controlplane import ControlPlane
from support.policy_cases import CASES, Case

GROUP: Final = "/apis/memorypressure.dev/v1alpha1"
POLICIES: Final = f"{GROUP}/memorypressurepolicies"
STRICT: Final = "fieldValidation=Strict"
DRY: Final = f"dryRun=All&{STRICT}"


def _said(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Field and message of everything the server complains about; the field is in the message of decoding errors."""
    causes = body.get("details", {}).get("causes", [])
    return [(cause.get("field", ""), cause["message"]) for cause in causes] or [("", body["message"])]


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
    said = _said(answer.body)
    if answer.status == 400:
        assert any(wanted in message for _, message in said), said
    else:
        at = case.server_path or case.path
        assert [message for field, message in said if field == at and wanted in message], said
