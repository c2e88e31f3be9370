"""The real sentinel and reporter as the chart starts them: the rights and the node-bound token are enough to report."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import NAMESPACE, Helm, find

NAME = "memory-pressure-memory-pressure-operator"
NODE = "reporting"
STATE = f"/apis/memorypressure.dev/v1alpha1/nodememorystates/{NODE}"


class Cluster(Protocol):
    plane: ControlPlane
    helm: Helm


@dataclass(frozen=True, slots=True)
class Started:
    """A container's process."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def agent_pod(installed: Cluster) -> dict[str, Any]:
    """A pod on its own Node, and the Node's state as the operator makes it."""
    admin = installed.plane.admin
    node = admin.must("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
    owner = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node["metadata"]["uid"]}
    state = {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "NodeMemoryState",
        "metadata": {"name": NODE, "ownerReferences": [owner]},
        "spec": {"nodeName": NODE, "mode": "Disabled"},
    }
    admin.must("POST", STATE.rpartition("/")[0], state)
    spec = {
        "nodeName": NODE,
        "serviceAccountName": f"{NAME}-agent",
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "none"}],
    }
    body = {"metadata": {"name": "agent-reporting"}, "spec": spec}
    pod: dict[str, Any] = admin.must("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body)
    return pod


@pytest.fixture
def containers(installed: Cluster, agent_pod: dict[str, Any], tmp_path: Path) -> Iterator[dict[str, Started]]:
    """Both containers' command lines as rendered, with this machine's paths in place of the pod's mounts."""
    plane = installed.plane
    spec = find(installed.helm.template(), "DaemonSet")["spec"]["template"]["spec"]
    for directory in ("orders", "journal", "cgroup"):
        (tmp_path / directory).mkdir()
    (tmp_path / "cgroup/kubepods.slice").mkdir()
    (tmp_path / "token").write_text(plane.token(NAMESPACE, f"{NAME}-agent", "agent-reporting"), encoding="utf-8")
    server = [f"--server={plane.url}", f"--token-file={tmp_path / 'token'}"]
    server += [f"--ca-file={plane.authority.certificate_file}", "--metrics-address=127.0.0.1"]
    replaced = {
        "/run/orders": str(tmp_path / "orders"),
        "/run/journal": str(tmp_path / "journal"),
        "/host/cgroup": str(tmp_path / "cgroup"),
        "$(POD_UID)": agent_pod["metadata"]["uid"],
        "$(NODE_NAME)": NODE,
        "--metrics-port=9464": "--metrics-port=0",
    }
    started: dict[str, Started] = {}
    for container in spec["containers"]:
        words = " ".join([*container["args"], *(server if container["name"] == "reporter" else [])])
        for inside, outside in replaced.items():
            words = words.replace(inside, outside)
        program = Path(sys.executable).parent / container["command"][0]
        log = tmp_path / f"{container['name']}.log"
        with log.open("wb") as file:
            process = subprocess.Popen([program, *words.split()], env=dict(os.environ), stdout=file, stderr=file)
        started[container["name"]] = Started(process, log)
    yield started
    for one in started.values():
        one.process.terminate()
    for one in started.values():
        try:
            one.process.wait(15)
        finally:
            one.process.kill()


def wait_until(containers: dict[str, Started], what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        for name, started in containers.items():
            assert started.process.poll() is None, f"{name} has ended:\n{started.text()}"
        said = "".join(started.text() for started in containers.values())
        assert time.monotonic() < end, f"not after 30 s: {what}\n{said}"
        time.sleep(0.1)


def test_a_nodes_agent_reports_with_the_charts_command_lines_rights_and_token(
    installed: Cluster, containers: dict[str, Started]
) -> None:
    admin = installed.plane.admin
    wait_until(containers, "the status holds a lease", lambda: "lease" in admin.must("GET", STATE).get("status", {}))
    status = admin.must("GET", STATE)["status"]
    assert status["lease"]["killsTotal"] == 0
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert conditions["UnderPressure"] in {"False", "Unknown", "True"}
    assert "forbidden" not in containers["reporter"].text().lower()
