"""How long the operator takes: 30 nodes moved by each kind of change, and another replica in its place.

    .venv/bin/python tests/bench/operator_reacts.py

On a real API server with the operator's default settings. Prints one JSON object a line. The baseline of the moves is
what the same number of the same writes takes one after the other, by a client that knows what to write.
"""

import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]

from support.operator_lab import GROUP, Lab, OperatorProcess, wait_for  # noqa: E402

from memorypressure_tools.apiclient import MERGE_PATCH  # noqa: E402
from memorypressure_tools.controlplane import ControlPlane, Options  # noqa: E402

NODES = 30
MOVE_LIMIT_SECONDS = 2.0
TAKEOVER_LIMIT_SECONDS = 20.0
POLICY = "memorypressurepolicies/bench-p"


def row(name: str, value: float, limit: float | None = None) -> None:
    """Prints one measured value."""
    print(json.dumps({"name": name, "value": round(value, 3), "unit": "s", "limit": limit}), flush=True)


@contextlib.contextmanager
def cluster() -> Iterator[Lab]:
    """A control plane with our definitions and 30 nodes."""
    with ControlPlane(Options(controller_manager=False, scheduler=False)) as plane, tempfile.TemporaryDirectory() as at:
        files = [word for file in sorted((TESTS.parent / "crds").glob("*.yaml")) for word in ("-f", str(file))]
        plane.kubectl("apply", "--server-side", *files)
        plane.kubectl("wait", "--for=condition=Established", *files)
        plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "w"}})
        lab = Lab(plane, "bench-", "w", Path(at))
        for number in range(NODES):
            meta = {"name": f"bench-{number:02d}", "labels": {"lab": "bench"}}
            plane.admin.must("POST", "/api/v1/nodes", {"metadata": meta})
        try:
            yield lab
        finally:
            lab.close()


def modes(lab: Lab) -> list[str]:
    """The modes of all states."""
    items = lab.admin.must("GET", f"{GROUP}/nodememorystates")["items"]
    return [item["spec"]["mode"] for item in items]


def moved(lab: Lab, change: Callable[[], object], mode: str) -> float:
    """Seconds from the change until every node is in the mode."""
    started = time.monotonic()
    change()
    wait_for(lambda: modes(lab) == [mode] * NODES, f"all nodes in mode {mode}", 60)
    return time.monotonic() - started


def edit(lab: Lab, mode: str) -> Callable[[], object]:
    """Sets the policy's mode."""
    return lambda: lab.admin.must("PATCH", f"{GROUP}/{POLICY}", {"spec": {"mode": mode}}, MERGE_PATCH)


def relabel(lab: Lab, value: str) -> Callable[[], None]:
    """Sets the label of all nodes that the policy selects."""

    def change() -> None:
        for number in range(NODES):
            body = {"metadata": {"labels": {"lab": value}}}
            lab.admin.must("PATCH", f"/api/v1/nodes/bench-{number:02d}", body, MERGE_PATCH)

    return change


def moves(lab: Lab) -> None:
    """All kinds of changes that move 30 nodes."""
    row("move_30_new_policy", moved(lab, lambda: lab.policy(mode="DryRun"), "DryRun"), MOVE_LIMIT_SECONDS)
    time.sleep(3)  # the plans' tokens are back
    row("move_30_to_enforce", moved(lab, edit(lab, "Enforce"), "Enforce"), MOVE_LIMIT_SECONDS)
    time.sleep(3)
    row("move_30_to_dry_run", moved(lab, edit(lab, "DryRun"), "DryRun"), MOVE_LIMIT_SECONDS)
    time.sleep(3)
    row("move_30_by_labels_away", moved(lab, relabel(lab, "other"), "Disabled"), MOVE_LIMIT_SECONDS)
    time.sleep(3)
    row("move_30_by_labels_back", moved(lab, relabel(lab, "bench"), "DryRun"), MOVE_LIMIT_SECONDS)
    time.sleep(3)
    delete = moved(lab, lambda: lab.admin.must("DELETE", f"{GROUP}/{POLICY}"), "Disabled")
    row("move_30_policy_deleted", delete, MOVE_LIMIT_SECONDS)
    started = time.monotonic()
    for number in range(NODES):
        path = f"{GROUP}/nodememorystates/bench-{number:02d}"
        lab.admin.must("PATCH", path, {"metadata": {"labels": {"baseline": "x"}}}, MERGE_PATCH)
    row("baseline_30_writes_alone", time.monotonic() - started)


def replica(lab: Lab, name: str) -> OperatorProcess:
    """An operator with default times."""
    ports = ["--bind-address", "127.0.0.1", "--metrics-port", "0", "--health-port", "0"]
    words = ["--kubeconfig", str(lab.plane.kubeconfig), "--namespace", lab.home, "--identity", name]
    process = OperatorProcess(lab.directory / f"{name}.log", [*words, *ports])
    lab.processes.append(process)
    process.ready()
    return process


def main() -> None:
    """Moves, then three replicas one after the other."""
    with cluster() as lab:
        first = replica(lab, "first")
        first.leads()
        wait_for(lambda: modes(lab) == ["Disabled"] * NODES, "a state for every node")
        moves(lab)
        second = replica(lab, "second")
        started = time.monotonic()
        first.child.send_signal(signal.SIGKILL)
        second.leads(60)
        row("takeover_after_sigkill", time.monotonic() - started, TAKEOVER_LIMIT_SECONDS)
        third = replica(lab, "third")
        started = time.monotonic()
        second.child.send_signal(signal.SIGTERM)
        third.leads(60)
        row("takeover_after_sigterm", time.monotonic() - started, TAKEOVER_LIMIT_SECONDS)


if __name__ == "__main__":
    main()
