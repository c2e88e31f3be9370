"""The real operator as the chart's service account: its rights are enough to start, to lead, to make the policy."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import urllib3

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import NAMESPACE, Helm, find
from memorypressure_tools.ports import free_port

NAME = "memory-pressure-memory-pressure-operator"
POLICY = "/apis/memorypressure.dev/v1alpha1/memorypressurepolicies/default"


class Cluster(Protocol):
    plane: ControlPlane
    helm: Helm


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[bytes]
    log: Path
    health_port: int


@pytest.fixture
def operator(installed: Cluster, tmp_path: Path) -> Iterator[Running]:
    """`memorypressure-operator run` with the command line of the chart and a token of its service account."""
    container = find(installed.helm.template(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    health_port = free_port()
    replaced = {
        "--metrics-port": "--metrics-port=0",
        "--health-port": f"--health-port={health_port}",
        "--namespace": f"--namespace={NAMESPACE}",
    }
    words = [replaced.get(word.partition("=")[0], word) for word in container["args"]]
    token = installed.plane.token(NAMESPACE, NAME)
    kubeconfig = installed.plane.write_kubeconfig("operator-as-installed", token=token)
    log = tmp_path / "operator.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [Path(sys.executable).parent / container["command"][0], *words, "--bind-address=127.0.0.1"],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=file,
            stderr=file,
        )
    yield Running(process, log, health_port)
    process.kill()  # how it ends is not asked here
    process.wait(15)


def wait_until(operator: Running, what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert operator.process.poll() is None, operator.log.read_text(encoding="utf-8")
        assert time.monotonic() < end, f"not after 30 s: {what}\n{operator.log.read_text(encoding='utf-8')}"
        time.sleep(0.1)


def test_the_operator_starts_leads_and_makes_the_default_policy_with_the_charts_rights(
    installed: Cluster, operator: Running
) -> None:
    admin = installed.plane.admin

    def ready() -> bool:
        try:
            answer = urllib3.request("GET", f"http://127.0.0.1:{operator.health_port}/readyz", retries=False, timeout=2)
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200

    wait_until(operator, "/readyz answers 200", ready)
    wait_until(operator, "the default policy exists", lambda: admin.request("GET", POLICY).status == 200)
    policy = admin.must("GET", POLICY)
    assert policy["spec"]["mode"] == "DryRun"
    assert "finalizers" not in policy["metadata"]
    lease = admin.must("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/memory-pressure-operator")
    assert lease["spec"]["holderIdentity"]
    wait_until(operator, "the policy has a status", lambda: "status" in admin.must("GET", POLICY))
    text = operator.log.read_text(encoding="utf-8")
    assert "forbidden" not in text.lower(), text
    assert " 403" not in text, text
