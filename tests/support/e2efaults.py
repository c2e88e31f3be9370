"""Faults of a real node and of what runs on it.

A function that begins a fault returns at once, with a function that returns when all is there again (`Over`).
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from support.e2elab import NODE, SLOW_SECONDS, Lab

from memorypressure_tools.cluster.cluster import pod_ready
from memorypressure_tools.cluster.node import GUEST_VIEW_OF_HOST
from memorypressure_tools.flood.workloads import container_cgroups
from memorypressure_tools.helm import CHART, NAMESPACE, RELEASE, values_words

KUBELET_CONFIGURATION = "/etc/kubernetes/kubelet.yaml"
OPERATOR = "--selector=app.kubernetes.io/component=operator"
MANY_KILLS_PER_HOUR = 64

Object = dict[str, Any]
Over = Callable[[], None]


# -- the network


class ApiUnreachable:
    """A `with` block in which no packet passes between node and API server; `packets` were dropped in the last one.

    Nothing is refused and nobody is told, as behind a broken switch. The root shell and the API server's way to the
    kubelet have other ports.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.packets = 0

    def __enter__(self) -> Self:
        there, port = GUEST_VIEW_OF_HOST, self._lab.cluster.plane.port
        chains = {
            "arriving": f"prerouting priority -300; ip saddr {there} tcp sport {port}",
            "leaving": f"postrouting priority 300; ip daddr {there} tcp dport {port}",
        }
        rules = "".join(f"chain {name} {{ type filter hook {rest} counter drop; }}\n" for name, rest in chains.items())
        self._lab.node.shell.run(f"nft -f - <<'RULES'\ntable ip cut {{\n{rules}}}\nRULES")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said = self._lab.node.shell.run("nft list table ip cut && nft delete table ip cut", seconds=60)
        self.packets = sum(int(count) for count in re.findall(r"packets (\d+)", said))


# -- our processes


def agent_pod(lab: Lab) -> Object:
    """The agent's pod on the node."""
    return lab.cluster.pods("agent", NODE)[0]


def restarts(lab: Lab, container: str) -> int:
    """How often a container of the agent was started again."""
    statuses = agent_pod(lab)["status"]["containerStatuses"]
    return next(int(each["restartCount"]) for each in statuses if each["name"] == container)


def kill_container(lab: Lab, container: str) -> Over:
    """SIGKILL for all processes of a container of the agent; over when the kubelet has started it again."""
    over = _until_restarted(lab, container)
    path = container_cgroups(agent_pod(lab))[container]
    lab.node.shell.run(f"kill -9 $(cat {path}/cgroup.procs)", attempts=3)
    return over


def kill_container_when_gone(lab: Lab, container: str, victim: Object) -> Over:
    """The same in the moment in which the victim's container is empty."""
    over = _until_restarted(lab, container)
    path = container_cgroups(agent_pod(lab))[container]
    (watched,) = container_cgroups(victim).values()
    script = f"""
        (
            a=populated b=1
            while [ "$b" != 0 ] && [ -e {watched}/cgroup.events ]; do
                read -r a b < {watched}/cgroup.events || break
                usleep 10000
            done
            kill -9 $(cat {path}/cgroup.procs)
        ) > /dev/null 2>&1 &"""
    lab.node.shell.run(script)
    return over


def _until_restarted(lab: Lab, container: str) -> Over:
    """Until a container of the agent is started once more than now, and the pod is Ready."""
    before = restarts(lab, container)

    def again() -> bool:
        return restarts(lab, container) > before and pod_ready(agent_pod(lab))

    return lambda: lab.cluster.wait_for(f"the {container} to be started again", again, SLOW_SECONDS)


def replace_agent(lab: Lab) -> Over:
    """Deletes the agent's pod; over when the DaemonSet's next one is Ready."""
    old = agent_pod(lab)["metadata"]
    lab.cluster.plane.admin.must("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{old['name']}")
    return lambda: _wait_for_new_agent(lab, old["uid"])


def _wait_for_new_agent(lab: Lab, old_uid: str) -> None:
    def new() -> bool:
        pod = lab.cluster.ready_pod("agent", NODE)
        return pod is not None and pod["metadata"]["uid"] != old_uid

    lab.cluster.wait_for("a new agent to be Ready", new, SLOW_SECONDS)
    lab.agent_ready_at = time.monotonic()


def upgrade(lab: Lab, values: Object) -> Over:
    """`helm upgrade` with these values on top of the cluster's, the operator with it; over when the agent is new."""
    old = agent_pod(lab)["metadata"]["uid"]
    words = values_words({**lab.cluster.values, **values})
    lab.cluster.helm.run("upgrade", RELEASE, CHART, "--namespace", NAMESPACE, *words)
    if lab.cluster.operator is not None:  # a rollout would do that with the chart's own pod
        lab.cluster.stop_operator()
        lab.cluster.start_operator()
    return lambda: _wait_for_new_agent(lab, old)


def allow_many_kills(lab: Lab) -> None:
    """Raises the sentinel's own limit of kills per hour, by an upgrade where the cluster was not begun so."""
    if lab.cluster.values.get("agent.sentinel.maxKillsPerHour") == MANY_KILLS_PER_HOUR:
        return
    lab.cluster.values["agent.sentinel.maxKillsPerHour"] = MANY_KILLS_PER_HOUR
    upgrade(lab, {})()


def stop_operator(lab: Lab) -> None:
    """SIGKILL for the operator, which stays away; the chart's Deployment has no replica then."""
    if lab.cluster.operator is not None:
        lab.cluster.stop_operator(hard=True)
        return
    pod = lab.cluster.pods("operator")[0]
    (path,) = container_cgroups(pod).values()
    script = f"kill -9 $(cat {path}/cgroup.procs)"
    lab.cluster.nodes[pod["spec"]["nodeName"]].shell.run(script, attempts=3)
    lab.cluster.plane.kubectl("scale", "deployments", OPERATOR, "--namespace", NAMESPACE, "--replicas=0")
    lab.cluster.wait_for("the operator to be gone", lambda: not lab.cluster.pods("operator"), SLOW_SECONDS)


def start_operator(lab: Lab) -> None:
    """The operator again, after `stop_operator`."""
    if lab.cluster.options.nodes == 1:
        lab.cluster.start_operator()
        return
    lab.cluster.plane.kubectl("scale", "deployments", OPERATOR, "--namespace", NAMESPACE, "--replicas=1")
    lab.cluster.wait_for("the operator to be Ready", lambda: lab.cluster.ready_pod("operator"), SLOW_SECONDS)


# -- what serves the node


def kill_service(lab: Lab, program: str) -> Over:
    """SIGKILL for kubelet or containerd (not its shims); over when the next one runs and the node is Ready."""
    old = lab.node.shell.run(f"pidof {program}", attempts=3).split()
    lab.node.shell.run(f"kill -9 {' '.join(old)}", attempts=3)

    def renewed() -> bool:
        new = lab.node.shell.run(f"pidof {program}", check=False, attempts=3).split()
        return bool(new) and not set(new) & set(old)

    def over() -> None:
        lab.cluster.wait_for(f"another {program}", renewed, SLOW_SECONDS)
        lab.cluster.wait_for("the node to be Ready", lambda: lab.cluster.node_ready(NODE), SLOW_SECONDS)

    return over


def reboot(lab: Lab) -> None:
    """Pulls the node's plug and starts it again with its disks; returns when its new kubelet has said Ready."""
    path = f"/api/v1/nodes/{NODE}"
    old = lab.get(path)["status"]["nodeInfo"]["bootID"]
    lab.node.shell.run("sync", seconds=120, attempts=3)
    lab.node.reboot()
    lab.node.machine.wait()

    def up() -> bool:
        return lab.get(path)["status"]["nodeInfo"]["bootID"] != old and lab.cluster.node_ready(NODE)

    lab.cluster.wait_for("the node to be up again", up, SLOW_SECONDS)
    lab.agent_ready_at = time.monotonic()


@contextmanager
def kubelet_set(lab: Lab, **changes: Any) -> Iterator[None]:
    """A block in which the kubelet has these settings on top of its own."""
    before = lab.node.shell.read(KUBELET_CONFIGURATION)
    lab.node.shell.write(KUBELET_CONFIGURATION, json.dumps(json.loads(before) | changes, indent=1))
    kill_service(lab, "kubelet")()
    try:
        yield
    finally:
        lab.node.shell.write(KUBELET_CONFIGURATION, before)
        kill_service(lab, "kubelet")()
