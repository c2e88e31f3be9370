"""The API server's own type checking of the admission policies' expressions, as a check of what the chart renders."""

import time
from typing import Any, Protocol

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import Helm, find

NAME = "memory-pressure-memory-pressure-operator"
PATH = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"


class Cluster(Protocol):
    plane: ControlPlane
    helm: Helm


def warnings_of(plane: ControlPlane, name: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """What the controller manager found in a new admission policy with that spec."""
    plane.admin.must("POST", PATH, {"metadata": {"name": name}, "spec": spec})
    end = time.monotonic() + 30
    while time.monotonic() < end:
        status = plane.admin.must("GET", f"{PATH}/{name}").get("status", {})
        if "typeChecking" in status:
            found: list[dict[str, Any]] = status["typeChecking"].get("expressionWarnings", [])
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} was not type-checked within 30 s")


def test_type_checking_finds_a_typing_error_and_nothing_in_the_charts_policies(installed: Cluster) -> None:
    rendered = [m for m in installed.helm.template() if m["kind"] == "ValidatingAdmissionPolicy"]
    assert len(rendered) == 5
    # The typing error first: the controller manager learns of new kinds every 30 s, and skips kinds that it does not
    # know. Once it finds the error it knows them, and the copies of the chart's policies are really checked.
    agent = find(rendered, "ValidatingAdmissionPolicy", f"{NAME}-agent-own-node")["spec"]
    wrong = {**agent, "variables": [], "validations": [{"expression": "object.spec.nodeNmae == ''"}]}
    found: list[dict[str, Any]] = []
    end = time.monotonic() + 45
    for attempt in range(1000):
        found = warnings_of(installed.plane, f"typing-error-{attempt}", wrong)
        if found:
            break
        assert time.monotonic() < end, "the typing error was never found"
        time.sleep(1)
    assert "undefined field 'nodeNmae'" in found[0]["warning"]
    assert "Kind=NodeMemoryState" in found[0]["warning"]
    for manifest in rendered:
        assert warnings_of(installed.plane, f"copy-of-{manifest['metadata']['name']}", manifest["spec"]) == []
