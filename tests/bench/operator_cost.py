"""What the operator costs: memory and CPU while idle on a real API server, decoding pods, making a plan.

    .venv/bin/python tests/bench/operator_cost.py

Prints one JSON object a line. The baseline rows are the same interpreter with kopf, and with what else the operator
imports, and nothing done. (The file is not called operator.py: that would shadow the standard library's module.)
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]

from support.operator_lab import Lab, wait_for  # noqa: E402

from memorypressure.spec import parse_policy  # noqa: E402
from memorypressure_operator.planning import Planner  # noqa: E402
from memorypressure_operator.pods import decode_pod  # noqa: E402
from memorypressure_operator.registry import Registry  # noqa: E402
from memorypressure_tools.controlplane import ControlPlane, Options  # noqa: E402

SETTLE_SECONDS = 8.0
IDLE_SECONDS = 20.0
RSS_LIMIT_MIB = 90.0
PODS = 3000
PODS_ON_NODE = 110


def row(name: str, value: float, unit: str, limit: float | None = None) -> None:
    """Prints one measured value."""
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "limit": limit}), flush=True)


def memory_mib(pid: int, field: str) -> float:
    """A field of /proc/PID/status, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def baseline(imports: str) -> float:
    """VmRSS in MiB of a fresh interpreter after these imports."""
    text = f"import {imports}\nprint(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
    command = [sys.executable, "-c", text]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def idle() -> None:
    """An operator with one node, two pods and one policy, after its streams are complete."""
    options = Options(scheduler=False)
    with ControlPlane(options) as plane, tempfile.TemporaryDirectory() as directory:
        files = [word for file in sorted((TESTS.parent / "crds").glob("*.yaml")) for word in ("-f", str(file))]
        plane.kubectl("apply", "--server-side", *files)
        plane.kubectl("wait", "--for=condition=Established", *files)
        plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "w"}})
        plane.wait_for_service_account("w")
        lab = Lab(plane, "bench-", "w", Path(directory))
        try:
            node = lab.node()
            lab.policy()
            lab.workload(node, "web")
            operator = lab.running()
            wait_for(lambda: lab.planned(node), "a plan")
            time.sleep(SETTLE_SECONDS)
            pid = operator.child.pid
            row("operator_idle_rss", memory_mib(pid, "VmRSS"), "MiB", RSS_LIMIT_MIB)
            row("operator_idle_rss_anon", memory_mib(pid, "RssAnon"), "MiB")
            before, started = cpu_seconds(pid), time.monotonic()
            time.sleep(IDLE_SECONDS)
            share = (cpu_seconds(pid) - before) / (time.monotonic() - started)
            row("operator_idle_cpu", 100 * share, "% of a core")
        finally:
            lab.close()


def pod_json(number: int) -> bytes:
    """A pod of some 7 KB, as the API server sends it."""
    fields = {f"f:field{index}": {} for index in range(250)}
    pod = {
        "metadata": {
            "name": f"web-{number}",
            "namespace": "ns",
            "uid": f"00000000-0000-0000-0000-{number:012d}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d8"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d8", "controller": True}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": fields}],
        },
        "spec": {
            "nodeName": "n",
            "containers": [{"name": "c", "resources": {"requests": {"memory": "64Mi"}}, "env": [{"name": "A"}] * 60}],
        },
        "status": {"phase": "Running", "qosClass": "Burstable", "conditions": [{"type": "Ready"}] * 5},
    }
    return json.dumps(pod).encode()


def decoding() -> None:
    """One pod of a streaming list, from bytes to the registry."""
    raw = [pod_json(number) for number in range(PODS)]
    registry = Registry(time.monotonic, 0.2)
    started = time.process_time()
    for each in raw:
        view = decode_pod(each)
        registry.put_pod(view.uid, view)
    row("pod_decode_and_store", 1e6 * (time.process_time() - started) / PODS, "us")


def planning() -> None:
    """One node's plan with 110 eligible pods."""
    policy = parse_policy(
        {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "p"},
            "spec": {
                "nodeSelector": {},
                "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}}],
                "ladder": [{"action": "Taint", "triggers": ["low"]}],
                "limits": {"maxVictimsPerWorkload": "100%"},
            },
        }
    )
    registry = Registry(time.monotonic, 0.2)
    registry.put_namespace("ns", {})
    for number in range(PODS_ON_NODE):
        view = decode_pod(pod_json(number))
        registry.put_pod(view.uid, view)
    planner = Planner(registry, "own", lambda _: 1.0)
    rounds = 50
    started = time.process_time()
    for _ in range(rounds):
        planner.begin_pass()
        draft = planner.draft(policy, "n", registry.tables.pods_by_node["n"].values())
    if len(draft.spec["pods"]) != PODS_ON_NODE:
        raise ValueError("not every pod was planned")
    row("plan_of_110_pods", 1e3 * (time.process_time() - started) / rounds, "ms")


if __name__ == "__main__":
    row("baseline_import_kopf", baseline("kopf"), "MiB")
    row("baseline_import_all", baseline("kopf, kubernetes.client.api_client, msgspec, prometheus_client, yaml"), "MiB")
    decoding()
    planning()
    idle()
