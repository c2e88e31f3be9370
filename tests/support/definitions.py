"""What the tests of the three definitions share: their paths, and what the server complains about."""

import copy
from pathlib import Path
from typing import Any, Final

from support.policy_cases import put

CRDS: Final = Path(__file__).parents[2] / "crds"
GROUP: Final = "/apis/memorypressure.dev/v1alpha1"
POLICIES: Final = f"{GROUP}/memorypressurepolicies"
STATES: Final = f"{GROUP}/nodememorystates"
PLANS: Final = f"{GROUP}/nodememoryplans"
DRY: Final = "dryRun=All&fieldValidation=Strict"


def said(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Field and message of everything the server complains about; decoding errors name the field in the message."""
    causes = body.get("details", {}).get("causes", [])
    return [(cause.get("field", ""), cause["message"]) for cause in causes] or [("", body["message"])]


def changed(base: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    """A copy with the values put at the paths."""
    obj = copy.deepcopy(base)
    for path, value in changes:
        put(obj, path, value)
    return obj
