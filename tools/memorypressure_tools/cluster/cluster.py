"""The cluster: control plane, nodes, the chart by Helm, the operator. A `with` block, or `start` and `stop`."""

import contextlib
import functools
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from memorypressure_tools import chartoperator, toolcache
from memorypressure_tools.cluster import apicheck, nodeimage
from memorypressure_tools.cluster.node import GUEST_VIEW_OF_HOST, Node, NodeOptions
from memorypressure_tools.controlplane import ControlPlane, ControlPlaneError, Options
from memorypressure_tools.guest import images, kernel, packages, programs
from memorypressure_tools.guest.machine import FloodCard
from memorypressure_tools.guest.running import free_port
from memorypressure_tools.helm import CHART, NAMESPACE, RELEASE, Helm, values_words
from memorypressure_tools.images import build as image_build
from memorypressure_tools.processes import Child

REPOSITORY: Final = toolcache.TOOLS_DIRECTORY.parent
NODE_READY_SECONDS: Final = 300.0
AGENT_READY_SECONDS: Final = 300.0
OPERATOR_READY_SECONDS: Final = 300.0
NODE_GRACE_SECONDS: Final = 40
"""Kubernetes' default: a node that is silent for so long is NotReady."""
POLL_SECONDS: Final = 0.3
EVIDENCE: Final = Path("build/evidence")
"""What a cluster showed when something went wrong in it, a file each."""
OPERATOR_LOG_BYTES: Final = 50_000
TOOLS: Final = (*toolcache.CONTROL_PLANE, "helm", *toolcache.NODE_TOOLS)
PACKAGES: Final = (*packages.GUEST, *packages.NODE, *packages.IMAGES)
OPERATOR_TOKEN_SECONDS: Final = 24 * 3600
ELSEWHERE: Final = "memorypressure.dev/operator-runs-as-a-process"
"""With one node the operator's pod asks for a node with this label, which none has: the process takes its place."""

Say = Callable[[str], None]


class ClusterError(Exception):
    """The cluster could not be made, or something that had to be seen in it did not come; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What may differ between clusters."""

    nodes: int = 1
    kernel_series: str = kernel.DEFAULT_SERIES
    #: of the first node, which is the one that is flooded
    node: NodeOptions = field(default_factory=NodeOptions)
    #: of the second node, which runs the operator and nothing else
    idle_node: NodeOptions = field(default_factory=NodeOptions)
    #: values of the chart, on top of profile KillFast, realtime, the kernel log and the cgroupfs driver
    values: Mapping[str, Any] = field(default_factory=dict)
    #: False: neither chart nor operator
    install: bool = True


def prepare() -> list[str]:
    """Installs the Debian packages that are missing, as root; what this machine lacks then, one line each."""
    missing = toolcache.missing(TOOLS)
    lacking = [
        f"{why}; to build {', '.join(name for name, each in missing.items() if each == why)}"
        for why in dict.fromkeys(missing.values())
    ]
    try:
        packages.ensure(PACKAGES)
    except toolcache.ToolMissingError as error:
        lacking.append(str(error))
    lacking += image_build.missing()
    return list(dict.fromkeys(lacking))


class Cluster:
    """A running cluster; every process of it ends with this one, however that ends."""

    def __init__(self, options: ClusterOptions | None = None, *, say: Say | None = None) -> None:
        self.options = options or ClusterOptions()
        if self.options.nodes not in {1, 2}:
            raise ClusterError(f"NODES={self.options.nodes}: one or two nodes can be made")
        self._said = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._began = time.monotonic()
        self._stack = contextlib.ExitStack()
        self.nodes: dict[str, Node] = {}
        self.operator: Child | None = None
        self.plane: ControlPlane

    def say(self, text: str) -> None:
        """A line of progress with the seconds since the beginning."""
        self._said(f"{time.monotonic() - self._began:6.1f} s  {text}")

    # -- starting

    def start(self) -> Self:
        """Returns when the nodes are Ready, a pod has reached the API server, and agents and operator work."""
        self._began = time.monotonic()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        tools = toolcache.ensure(TOOLS)
        self.kubectl, self.helm_program = tools["kubectl"], tools["helm"]
        packages.ensure(PACKAGES)
        programs.ensure()
        built = image_build.build(image_build.Request(), REPOSITORY / "build/images")
        self.images = {image.name: image.reference for image in built}
        guest_kernel = kernel.ensure(self.options.kernel_series)
        root = nodeimage.ensure(guest_kernel, [image.path for image in built])
        images.initrd(guest_kernel)
        self.say(f"images, kernel {guest_kernel.release} and the nodes' root image are there")
        names = [f"node-{number}" for number in range(1, self.options.nodes + 1)]
        addresses = _addresses(names)
        self.plane = self._stack.enter_context(_control_plane(addresses))
        self.say(f"control plane: Kubernetes {self.version()} at {self.plane.url}")
        for index, name in enumerate(names, 1):
            node = Node(
                name,
                index,
                plane=self.plane,
                address=addresses[name],
                root=root,
                kernel=guest_kernel,
                options=self.options.node if index == 1 else self.options.idle_node,
                flood=FloodCard(port=_udp_port(), sender_port=_udp_port()) if index == 1 else None,
            )
            self._stack.callback(node.stop)
            self.nodes[name] = node
        self.say(f"{', '.join(names)}: booting")
        if self.options.install:
            self._install()
        for name in names:
            self.wait_for(f"{name} to be Ready", functools.partial(self.node_ready, name), NODE_READY_SECONDS)
            self.say(f"{name}: Ready")
            apicheck.begin(self, name, self.images["agent"])
        for name in names:
            said = apicheck.prove(self, name)
            self.say(f"{name}: a pod reached the API server through its Service: {said}")
        if self.options.install:
            self._start_operator()
            self._wait_for_agents()

    def _install(self) -> None:
        self.helm = Helm(self.plane.directory / "helm", self.plane.kubeconfig)
        selector = {"kubernetes.io/hostname": "node-2"} if self.options.nodes == 2 else {ELSEWHERE: "true"}
        self.values: dict[str, Any] = {
            "agent.profile": "KillFast",
            "agent.realtime": True,
            "agent.cgroupDriver": "cgroupfs",
            "agent.kernelLog.enabled": True,
            "operator.nodeSelector": selector,
            **self.options.values,
        }
        words = values_words(self.values)
        self.helm.run("install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace", *words)
        shown = " ".join(
            f"{name}={self.values[name]}" for name in ("agent.profile", "agent.realtime", "agent.cgroupDriver")
        )
        self.say(f"helm install {RELEASE} --namespace {NAMESPACE}: {shown}")

    def _start_operator(self) -> None:
        if self.options.nodes == 2:
            self.wait_for("the operator's pod to be Ready", lambda: self.ready_pod("operator"), OPERATOR_READY_SECONDS)
            self.say("operator: the chart's pod, on node-2")
            return
        pod = self.wait_for("the operator's pod object", lambda: self.pods("operator"), OPERATOR_READY_SECONDS)[0]
        account = pod["spec"]["serviceAccountName"]
        # Not bound to the pod, which is never started: a rollout of the chart would take the token with it.
        token = self.plane.token(NAMESPACE, account, seconds=OPERATOR_TOKEN_SECONDS)
        kubeconfig = self.plane.write_kubeconfig("operator", token=token)
        self.operator_command = chartoperator.command(pod, NAMESPACE, kubeconfig)
        self.start_operator()
        self.say(f"operator: a process on this machine with the rights of service account {NAMESPACE}/{account}")

    def start_operator(self) -> None:
        """Starts the operator's process, on a cluster of one node, after `stop_operator`."""
        self.operator = Child("operator", self.operator_command, self._operator_log(), self.plane.directory)
        self._stack.callback(self.operator.stop)

    def stop_operator(self, *, hard: bool = False) -> None:
        """Ends the operator's process, on a cluster of one node."""
        if self.operator is not None:
            self.operator.stop(hard=hard)
            self.operator = None

    def _wait_for_agents(self) -> None:
        for name in self.nodes:
            self.wait_for(
                f"the agent on {name} to be Ready",
                functools.partial(self.ready_pod, "agent", name),
                AGENT_READY_SECONDS,
            )
            self.wait_for(f"the state of {name}", functools.partial(self._reported, name), AGENT_READY_SECONDS)
            self.say(f"{name}: the agent runs and reports")

    def _reported(self, node: str) -> bool:
        state = self.get(f"/apis/memorypressure.dev/v1alpha1/nodememorystates/{node}")
        return bool(state and state.get("status", {}).get("lease") and state.get("spec", {}).get("plan"))

    # -- what is asked of it

    def version(self) -> str:
        """The API server's version."""
        return str(self.plane.admin.must("GET", "/version")["gitVersion"])

    def get(self, path: str) -> dict[str, Any] | None:
        """The object at that path, or None where there is none."""
        answer = self.plane.admin.request("GET", path)
        return dict(answer.body) if answer.status == 200 else None

    def node_ready(self, name: str) -> bool:
        """Whether the node's condition Ready is True."""
        node = self.get(f"/api/v1/nodes/{name}") or {}
        conditions = node.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def pods(self, component: str, node: str = "") -> list[dict[str, Any]]:
        """The pods of agent or operator, those that are being deleted left out; with `node`, the ones on it."""
        selector = f"app.kubernetes.io%2Fcomponent%3D{component}"
        found = self.plane.admin.must("GET", f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}")["items"]
        return [
            dict(pod)
            for pod in found
            if "deletionTimestamp" not in pod["metadata"] and node in ("", pod["spec"].get("nodeName"))
        ]

    def ready_pod(self, component: str, node: str = "") -> dict[str, Any] | None:
        """The first Ready pod of agent or operator (on that node)."""
        return next((pod for pod in self.pods(component, node) if pod_ready(pod)), None)

    def wait_for(self, what: str, check: Callable[[], Any], seconds: float) -> Any:
        """The first true answer of `check`; ClusterError, which names a file of evidence, when it does not come."""
        end = time.monotonic() + seconds
        while True:
            found = check()
            if found:
                return found
            self.check()
            if time.monotonic() > end:
                raise ClusterError(f"not within {seconds:.0f} s: {what} (pods, events, logs: {self.save_evidence()})")
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raises when a process of the cluster has ended by itself."""
        self.plane.check()
        for node in self.nodes.values():
            node.machine.check()
        if self.operator is not None:
            self.operator.check()

    def save_evidence(self) -> Path:
        """Writes what is known when something went wrong: policies, states, pods, events, the ends of all logs."""
        EVIDENCE.mkdir(parents=True, exist_ok=True)
        path = EVIDENCE / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.txt"
        path.write_text(self._evidence(), encoding="utf-8")
        return path

    def _evidence(self) -> str:
        try:
            said = self._said_by_the_api()
        except (subprocess.SubprocessError, ControlPlaneError) as error:
            said = f"(the API server does not answer: {error})"
        if self.operator is not None:
            log = self._operator_log().read_text(encoding="utf-8", errors="replace")
            said += f"==== operator\n{log[-OPERATOR_LOG_BYTES:]}"
        return "\n".join([said, *(f"==== {name}\n{node.logs()}" for name, node in self.nodes.items())])

    def _operator_log(self) -> Path:
        return self.plane.logs / "operator.log"

    def _said_by_the_api(self) -> str:
        pods = self.plane.kubectl("get", "nodes,pods", "-A", "-o", "wide", check=False).stdout
        described = self.plane.kubectl("describe", "mpp,nms", check=False).stdout if self.options.install else ""
        events = self.plane.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False).stdout
        # What could not be scheduled is said once and then only counted: it would be far up.
        lines = events.splitlines()
        tail = "\n".join([*(line for line in lines[:-25] if "FailedScheduling" in line), *lines[-25:]])
        words = ["--selector=app.kubernetes.io/component", "--all-containers", "--prefix", "--tail=200"]
        ours = self.plane.kubectl("logs", "--namespace", NAMESPACE, *words, check=False)
        return f"{pods}\n{described}\n{tail}\n{ours.stdout}{ours.stderr}"

    def state(self) -> dict[str, Any]:
        """What `make cluster-shell` and `status` have to know."""
        return {
            "kubeconfig": str(self.plane.kubeconfig),
            "url": self.plane.url,
            "logs": str(self.plane.logs),
            "parts": self.plane.pids | ({"operator": self.operator.pid} if self.operator else {}),
            "nodes": {
                name: {
                    "pid": node.machine.pid,
                    "shell_port": node.shell.port,
                    "shell_token": node.shell.token,
                    "console": str(node.machine.serial_log),
                }
                for name, node in self.nodes.items()
            },
        }

    # -- ending

    def stop(self) -> None:
        """Ends every process and removes every file of this cluster; a second call does nothing."""
        self._stack.close()
        self.nodes.clear()
        self.operator = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def pod_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's condition Ready is True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _control_plane(addresses: Mapping[str, str]) -> ControlPlane:
    """A control plane whose API server finds the kubelets by node names, in an /etc/hosts that only it sees."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    # The server is started in the run directory, which is removed with it.
    mount = 'printf %s "$0" > hosts && mount --make-rprivate / && mount --bind hosts /etc/hosts && exec "$@"'
    return ControlPlane(
        Options(
            server_names=[GUEST_VIEW_OF_HOST],
            node_grace_seconds=NODE_GRACE_SECONDS,
            apiserver_wrapper=["unshare", "--mount", "sh", "-c", mount, "\n".join(lines) + "\n"],
            apiserver_flags=["--kubelet-preferred-address-types=Hostname"],
        )
    )


def _addresses(names: list[str]) -> dict[str, str]:
    """A loopback address for each node's kubelet, in a network of this start: two clusters do not meet."""
    second, third = random.randint(1, 250), random.randint(1, 250)  # noqa: S311 -- no secret
    return {name: f"127.{second}.{third}.{10 + number}" for number, name in enumerate(names, 1)}


def _udp_port() -> int:
    return free_port(socket.SOCK_DGRAM)
