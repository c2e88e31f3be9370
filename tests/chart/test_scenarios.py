"""Every ci/*-values.yaml on a real API server: accepted without a warning, and as restricted as it claims to be."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import Helm, Manifest, find

SCENARIOS = (
    "cgroupfs",
    "default",
    "kill",
    "kill-fast-realtime",
    "minimal",
    "monitoring",
    "network",
    "node-in-container",
    "own-accounts",
    "own-policy",
    "private-registry",
    "secure-metrics",
)

ADDED = "securityContext.capabilities.add"


@pytest.fixture(scope="module")
def admitting(controlplane: ControlPlane) -> Iterator[dict[str, str]]:
    """A namespace for each Pod Security level, by level, in which pods can be created."""
    levels = {level: f"chart-{level}" for level in ("privileged", "restricted")}
    for level, name in levels.items():
        labels = {"pod-security.kubernetes.io/enforce": level}
        controlplane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    for name in levels.values():
        controlplane.wait_for_service_account(name)
        for account in ("agent", "operator"):
            controlplane.admin.must(
                "POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": account}}
            )
    yield levels
    for name in levels.values():
        controlplane.admin.request("DELETE", f"/api/v1/namespaces/{name}")


def pod(workload: Manifest, namespace: str, account: str) -> dict[str, Any]:
    """A pod as the workload's controller would make it."""
    template = workload["spec"]["template"]
    metadata = {**template["metadata"], "name": workload["metadata"]["name"], "namespace": namespace}
    spec = {**template["spec"], "serviceAccountName": account}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def create(plane: ControlPlane, body: dict[str, Any]) -> tuple[int, str]:
    path = f"/api/v1/namespaces/{body['metadata']['namespace']}/pods?dryRun=All&fieldValidation=Strict"
    answer = plane.admin.request("POST", path, body)
    return answer.status, answer.body.get("message", "")


def test_the_list_of_scenarios_is_that_of_ci(scenarios: dict[str, Path]) -> None:
    assert sorted(scenarios) == sorted(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_api_server_accepts_every_object_of_the_scenario(
    helm: Helm, controlplane: ControlPlane, admitting: dict[str, str], scenarios: dict[str, Path], scenario: str
) -> None:
    manifests = helm.template(scenarios[scenario], namespace=admitting["privileged"])
    for each in manifests:
        if each["kind"] == "Pod":  # the API server looks a pod's account up, and a dry run makes none
            each["spec"]["serviceAccountName"] = "operator"
    # Helm sends no field that the API server does not know: strict validation makes an error of the warning.
    words = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = controlplane.kubectl(*words, stdin=yaml.safe_dump_all(manifests))
    assert len(done.stdout.splitlines()) == len(manifests)
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_the_operators_pods_pass_the_restricted_pod_security_standard(
    helm: Helm, controlplane: ControlPlane, admitting: dict[str, str], kind: str
) -> None:
    workload = find(helm.template(), kind)
    assert create(controlplane, pod(workload, admitting["restricted"], "operator")) == (201, "")
    workload["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsUser"] = 0
    status, message = create(controlplane, pod(workload, admitting["restricted"], "operator"))
    assert (status, "runAsUser=0" in message) == (403, True)


@pytest.mark.parametrize(
    ("profile", "violations"),
    [
        ("Observe", ['restricted volume types (volume "pods-cgroup" uses restricted volume type "hostPath")']),
        (
            "KillFast",
            [
                "host namespaces (hostPID=true)",
                f'unrestricted capabilities (container "sentinel" must not include "IPC_LOCK" in {ADDED})',
                'restricted volume types (volume "pods-cgroup" uses restricted volume type "hostPath")',
                'runAsNonRoot != true (container "sentinel" must not set securityContext.runAsNonRoot=false)',
                'runAsUser=0 (container "sentinel" must not set runAsUser=0)',
            ],
        ),
    ],
)
def test_an_agent_deviates_from_restricted_by_what_its_profile_needs_only(
    helm: Helm, controlplane: ControlPlane, admitting: dict[str, str], profile: str, violations: list[str]
) -> None:
    workload = find(helm.template({"agent.profile": profile}), "DaemonSet")
    assert create(controlplane, pod(workload, admitting["privileged"], "agent")) == (201, "")
    status, message = create(controlplane, pod(workload, admitting["restricted"], "agent"))
    assert status == 403
    found = message.split('violates PodSecurity "restricted:latest": ', 1)[1]
    assert sorted(re.split(r"(?<=\)), ", found)) == sorted(violations)


def test_the_default_policies_of_the_scenarios_are_accepted_by_the_definition(
    rendered: dict[str, list[Manifest]], crds: ControlPlane
) -> None:
    path = "/apis/memorypressure.dev/v1alpha1/memorypressurepolicies?dryRun=All&fieldValidation=Strict"
    accepted = []
    for scenario, manifests in rendered.items():
        for configuration in (m for m in manifests if "policy.yaml" in m.get("data", {})):
            crds.admin.must("POST", path, yaml.safe_load(configuration["data"]["policy.yaml"]))
            accepted.append(scenario)
    assert sorted(accepted) == sorted(set(SCENARIOS) - {"minimal"})
