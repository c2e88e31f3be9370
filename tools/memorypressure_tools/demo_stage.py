"""The stage of the demo's cluster part: what is set up for it, and what is looked for in the API server.

What is real: API server, controller manager, scheduler, Helm, the chart's rights and admission policies, node-bound
tokens, operator, reporters, sentinels, the victim and its cgroup. What is not, and is said so in the output: the
flooded node's kernel files, which follow a recording, and the kubelets, for which a stand-in renews Leases and ends
pods.
"""

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from memorypressure_tools import chartoperator
from memorypressure_tools import demo_objects as objects
from memorypressure_tools.controlplane import ControlPlane, Options
from memorypressure_tools.demo_node import FloodNode, Victim, cgroup_mount
from memorypressure_tools.helm import CHART, NAMESPACE, RELEASE, Helm, values_words
from memorypressure_tools.processes import Child
from memorypressure_tools.standin import KubeletStandIn

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CAPTURES: Final = REPOSITORY / "tests/fixtures/captures"
IDLE: Final = CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt"
FLOOD: Final = CAPTURES / "timeline-6.1-1node-flood.csv"


class NotSeenError(Exception):
    """Something that had to be seen in the API did not come."""


@dataclass(slots=True)
class Seen:
    """The steps that were seen, with the time from the start of the flood and what was read."""

    began: float = 0.0
    rows: list[tuple[float, str, str]] = field(default_factory=list)

    def note(self, what: str, why: str) -> None:
        """A line of the story, and of the table at the end."""
        seconds = time.monotonic() - self.began
        self.rows.append((seconds, what, why))
        print(f"  {seconds:+7.2f} s  {what:<34} {why}", flush=True)


class Stage:
    """Everything that runs, in the order in which it is started; the stack ends it in the opposite order."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        print("\n== 4. a cluster: real control plane, the chart by Helm, operator and agents as processes")
        print("   not real: kubelets (a stand-in renews Leases and ends pods) and the files of node flood-demo,")
        print("   which follow the recorded flood. Its victim is a real process in a real cgroup.", flush=True)
        self.seen = Seen(time.monotonic())
        self.directory = Path(tempfile.mkdtemp(prefix="memory-pressure-demo-"))
        stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.plane = stack.enter_context(ControlPlane(Options()))
        self.children: list[Child] = []
        self.seen.note("control plane", f"Kubernetes {self._version()} at {self.plane.url}")
        self.node = _node_name(socket.gethostname())
        self.stand_in = KubeletStandIn(self.plane.admin, [self.node, objects.FLOOD_NODE])
        memory = _total_memory()
        self.stand_in.register(self.node, memory=memory)
        self.stand_in.register(objects.FLOOD_NODE, {"demo": "flood"}, memory="512Mi")
        stack.enter_context(self.stand_in)
        self._install()
        self._workloads()
        stack.callback(self._stop_children)
        self._start_operator()
        self.victim = stack.enter_context(contextlib.closing(self._victim()))
        self.flood = stack.enter_context(contextlib.closing(FloodNode(self.directory / "flood-demo", IDLE, FLOOD)))
        mount = cgroup_mount()
        self._start_agent(self.node, Path("/proc"), Path("/sys"), mount)
        self.sentinel_started = time.monotonic()
        self._start_agent(objects.FLOOD_NODE, self.flood.files.proc, self.flood.files.sys, self.cgroup_root)

    # --- what is set up ---

    def _version(self) -> str:
        return str(self.plane.admin.must("GET", "/version")["gitVersion"])

    def _install(self) -> None:
        helm = Helm(self.directory / "helm", self.plane.kubeconfig)
        values = {"agent.profile": "Kill", "agent.cgroupDriver": "cgroupfs"}
        words = values_words(values)
        helm.run("install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace", *words)
        self.seen.note(
            "helm install", f"release {RELEASE} in namespace {NAMESPACE}, profile Kill, default policy DryRun"
        )

    def _workloads(self) -> None:
        admin = self.plane.admin
        admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": objects.NAMESPACE}})
        self.plane.wait_for_service_account(objects.NAMESPACE)
        for name, class_name, value in objects.WORKLOADS:
            admin.must("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", objects.priority_class(class_name, value))
            path = f"/apis/apps/v1/namespaces/{objects.NAMESPACE}/deployments"
            admin.must("POST", path, objects.deployment(name, class_name))
        path = f"/apis/policy/v1/namespaces/{objects.NAMESPACE}/poddisruptionbudgets"
        admin.must("POST", path, objects.BUDGET)
        self.pods = {name: self._pod_of(name) for name, _, _ in objects.WORKLOADS}
        self.until("the budget's status", self._budget_current)
        self.seen.note("workloads", f"{', '.join(self.pods)} scheduled to {objects.FLOOD_NODE}")

    def _budget_current(self) -> bool:
        path = f"/apis/policy/v1/namespaces/{objects.NAMESPACE}/poddisruptionbudgets/{objects.GUARDED}"
        status = self.plane.admin.must("GET", path).get("status", {})
        return bool(status.get("currentHealthy") == 1 and status.get("observedGeneration", 0) >= 1)

    def _pod_of(
        self, app: str, namespace: str = objects.NAMESPACE, label: str = "app", node: str = ""
    ) -> dict[str, Any]:
        """The running pod with that label (on that node), as soon as there is one."""

        def found() -> dict[str, Any] | None:
            path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={label}%3D{app}"
            for pod in self.plane.admin.must("GET", path)["items"]:
                running = pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
                if running and node in ("", pod["spec"].get("nodeName")):
                    return dict(pod)
            return None

        pod: dict[str, Any] = self.until(f"a running pod of {app}", found)
        return pod

    def _token_file(self, component: str, node: str = "") -> tuple[Path, dict[str, Any]]:
        """A token of the chart's service account, bound to the component's pod (on that node), and the pod."""
        pod = self._pod_of(component, NAMESPACE, "app.kubernetes.io%2Fcomponent", node)
        meta, account = pod["metadata"], pod["spec"]["serviceAccountName"]
        path = self.directory / f"token-{component}-{node or 'any'}"
        path.write_text(self.plane.token(NAMESPACE, account, meta["name"]), encoding="ascii")
        path.chmod(0o600)
        return path, pod

    def _start_operator(self) -> None:
        token, pod = self._token_file("operator")
        kubeconfig = self.plane.write_kubeconfig("demo-operator", token=token.read_text())
        self._child("operator", chartoperator.command(pod, NAMESPACE, kubeconfig))
        self.until("the default policy", lambda: self.get("memorypressurepolicies/default"))
        self.plane.admin.must("POST", "/apis/memorypressure.dev/v1alpha1/memorypressurepolicies", objects.POLICY)
        self.seen.note(
            "operator", "created policy default (DryRun) from the chart's ConfigMap; flood-demo (Enforce) applied"
        )

    def _victim(self) -> Victim:
        self.cgroup_root = cgroup_mount() / f"memorypressure-demo-{os.getpid()}"
        victim = Victim(self.cgroup_root, self.pods[objects.VICTIM]["metadata"]["uid"])
        self.seen.note("victim", f"pid {victim.pid}, a real process, plays pod {objects.VICTIM}")
        return victim

    def _start_agent(self, node: str, proc: Path, sys_root: Path, cgroup_root: Path) -> None:
        token, pod = self._token_file("agent", node)
        place = self.directory / f"agent-{node}"
        place.mkdir()
        orders, journal, uid = place / "orders.json", place / "journal", pod["metadata"]["uid"]
        files = [f"--orders={orders}", f"--journal={journal}", f"--own-pod-uid={uid}"]
        roots = [f"--proc-root={proc}", f"--sys-root={sys_root}", f"--cgroup-root={cgroup_root}"]
        self._agent(f"sentinel-{node}", "sentinel", *files, *roots)
        link = [
            f"--server={self.plane.url}",
            f"--token-file={token}",
            f"--ca-file={self.plane.authority.certificate_file}",
        ]
        self._agent(f"reporter-{node}", "reporter", *files, *link, f"--node-name={node}", "--metrics-port=0")

    def _agent(self, name: str, subcommand: str, *arguments: str) -> None:
        self._child(name, [Path(sys.executable).with_name("memorypressure-agent"), subcommand, *arguments])

    def _child(self, name: str, command: Sequence[str | Path]) -> None:
        self.children.append(Child(name, command, self.plane.logs / f"{name}.log", self.directory))

    def _stop_children(self) -> None:
        for child in reversed(self.children):
            child.stop()

    # --- what is looked for ---

    def get(self, path: str) -> dict[str, Any] | None:
        """An object of ours by its path below the group's version; None where there is none."""
        answer = self.plane.admin.request("GET", f"/apis/memorypressure.dev/v1alpha1/{path}")
        return answer.body if answer.status == 200 else None

    def until(self, what: str, check: Callable[[], Any], seconds: float = 60.0) -> Any:
        """The first true answer of `check`. NotSeenError after that long, or at once when a process of ours ended."""
        end = time.monotonic() + seconds
        while True:
            found = check()
            if found:
                return found
            for child in self.children:
                child.check()
            if time.monotonic() > end:
                logs = "\n".join(f"--- {child.name}:\n{child.tail()}" for child in self.children)
                raise NotSeenError(f"not within {seconds:.0f} s: {what}\n{logs}")
            time.sleep(0.1)

    def condition(self, node: str, kind: str) -> dict[str, Any]:
        """A condition of the node's NodeMemoryState; {} where it was not reported."""
        state = self.get(f"nodememorystates/{node}") or {}
        found = (each for each in state.get("status", {}).get("conditions", []) if each["type"] == kind)
        return next(found, {})

    def event(self, reason: str, kind: str, name: str) -> dict[str, Any] | None:
        """An Event with that reason about that object; None where there is none."""
        for event in self.plane.admin.must("GET", "/apis/events.k8s.io/v1/events")["items"]:
            about = event.get("regarding", {})
            if event["reason"] == reason and about.get("kind") == kind and about.get("name") == name:
                return dict(event)
        return None

    def our_taint(self) -> dict[str, Any] | None:
        """Our taint on the flooded node; None where it has none."""
        taints = self.plane.admin.must("GET", f"/api/v1/nodes/{objects.FLOOD_NODE}")["spec"].get("taints", [])
        return next((dict(taint) for taint in taints if taint["key"].startswith("memorypressure.dev/")), None)

    def deleting(self, app: str) -> bool:
        """Whether the pod of that workload is on its way out, or gone."""
        meta = self.pods[app]["metadata"]
        answer = self.plane.admin.request("GET", f"/api/v1/namespaces/{objects.NAMESPACE}/pods/{meta['name']}")
        return (
            answer.status == 404
            or answer.body["metadata"]["uid"] != meta["uid"]
            or "deletionTimestamp" in answer.body["metadata"]
        )

    def armed(self) -> dict[str, Any] | None:
        """The flooded node's grant, once its sentinel has seen a ceiling above what it killed."""
        state = self.get(f"nodememorystates/{objects.FLOOD_NODE}") or {}
        grant, lease = state.get("spec", {}).get("grant"), state.get("status", {}).get("lease")
        if (
            grant
            and lease
            and grant["killsCeiling"] > lease["killsTotal"]
            and lease["ceilingSeen"] >= grant["killsCeiling"]
        ):
            return dict(grant)
        return None

    def true(self, node: str, kind: str) -> dict[str, Any] | None:
        """The condition if it is True."""
        condition = self.condition(node, kind)
        return condition if condition.get("status") == "True" else None

    def kill_reported(self) -> dict[str, Any] | None:
        """The kill of the victim as the node reports it."""
        state = self.get(f"nodememorystates/{objects.FLOOD_NODE}") or {}
        uid = self.pods[objects.VICTIM]["metadata"]["uid"]
        for action in state.get("status", {}).get("recentActions", []):
            kill = action["action"] == "Kill" and action["mode"] == "Enforce"
            done = kill and action["result"] in ("Success", "Incomplete")
            if done and action.get("pod", {}).get("uid") == uid:
                return dict(action)
        return None


def _node_name(host: str) -> str:
    name = re.sub(r"[^a-z0-9-]", "-", host.lower().split(".")[0]).strip("-")
    return name or "this-machine"


def _total_memory() -> str:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return f"{line.split()[1]}Ki"
    raise RuntimeError("/proc/meminfo has no MemTotal")
