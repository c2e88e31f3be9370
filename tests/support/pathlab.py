"""The whole path in a test: nodes whose sentinel and reporter are the real processes, on a lab with the real operator.

A `PathNode` has its own machine (files that follow a capture), its own journal and orders, and real processes in a real
cgroup v2 tree for its pods. `Versions` keeps every version of some objects that the API server showed.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import urllib3

from memorypressure.grants import Grant
from memorypressure_agent.host.clocks import boot_ns, read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.standin import KubeletStandIn
from support.operator_lab import GROUP, Lab, Object, OperatorProcess, wait_for
from support.sentinellab import MEMORY_USER, SCRIPT, RealPods, SentinelLab, cgroup2_mount

COOLDOWN_SECONDS = 10.0
"""The shortest that the API and the sentinel's own command line allow."""
BEHIND_A_REPORT_SECONDS = 30.0
"""A transition waits up to 5 s for its report, a refill some rounds of the operator; the rest is a busy machine."""


class PathLab(Lab):
    """A lab whose nodes run real agents."""

    def __init__(self, plane: ControlPlane, prefix: str, namespace: str, directory: Path) -> None:
        super().__init__(plane, prefix, namespace, directory)
        self.nodes: list[PathNode] = []
        self.operators: list[OperatorProcess] = []
        self._token = self._agent_token()

    def _agent_token(self) -> Path:
        """A token file with the agent's rights in the chart's ClusterRole."""
        group = "memorypressure.dev"
        rules = [
            {"apiGroups": [group], "resources": ["nodememorystates"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [group], "resources": ["nodememoryplans"], "verbs": ["get"]},
            {"apiGroups": [group], "resources": ["nodememorystates/status"], "verbs": ["patch"]},
        ]
        rbac, name = "/apis/rbac.authorization.k8s.io/v1", f"{self.prefix}agent"
        account = {"kind": "ServiceAccount", "name": "agent", "namespace": self.home}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        self.admin.must("POST", f"/api/v1/namespaces/{self.home}/serviceaccounts", {"metadata": {"name": "agent"}})
        self.admin.must("POST", f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": rules})
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [account]}
        self.admin.must("POST", f"{rbac}/clusterrolebindings", binding)
        file = self.directory / "agent-token"
        file.write_text(self.plane.token(self.home, "agent"), encoding="ascii")
        return file

    def close(self) -> None:
        """Ends operators first: what they see of ending nodes is nothing to act upon."""
        for process in self.processes:
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)
                process.kill()
        for node in self.nodes:
            node.close()
        super().close()

    def path_policy(self, case: str, *, mode: str = "Enforce", ladder: list[Object] | None = None, **limits: Any) -> str:
        """The name of a policy for the nodes of a case: kills at once on `reserve`, victims by priority."""
        self.policy(
            case,
            mode=mode,
            nodeSelector={"matchLabels": {"case": self.prefix + case}},
            triggers=[
                {
                    "name": "reserve",
                    "type": "ZoneWatermark",
                    "zoneWatermark": {"line": "AtomicReserve", "belowMilliseconds": 30, "withinMilliseconds": 50},
                }
            ],
            ladder=ladder or [{"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0}],
            victims={"order": ["Priority", "Youngest"], "minRelief": 0, "minAgeSeconds": 0},
            limits={"maxStandingKills": 1, "maxVictimsPerEpisode": 1, **limits},
        )
        return case

    def path_node(self, case: str, name: str = "", *, pods: int = 3, past_known: bool = True) -> "PathNode":
        """A node of a case with its pods, its agent started; `past_known` spares it a new journal's cool-down."""
        node = PathNode(self, case, name or case, pods)
        self.nodes.append(node)
        if past_known:
            node.machine.known_past()
        node.start_sentinel()
        node.start_reporter()
        return node

    def edit_policy(self, case: str, **spec: Any) -> None:
        """A merge patch of the policy's spec."""
        self.merge(f"{GROUP}/memorypressurepolicies/{self.prefix}{case}", {"spec": spec})

    def merge(self, path: str, body: Object) -> Object:
        answer: Object = self.admin.must("PATCH", path, body, "application/merge-patch+json")
        return answer

    def ledger(self, case: str) -> Object:
        """The ledger's content."""
        found: Object = json.loads(self.admin.must("GET", self.ledger_path(case))["data"]["ledger"])
        return found

    def entries(self, case: str) -> dict[str, Object]:
        """The ledger's entries by incarnation."""
        return {entry["incarnation"]: entry for entry in self.ledger(case)["entries"]}

    def status_of(self, case: str) -> Object:
        found: Object = self.get_policy(case).get("status") or {}
        return found


class PathNode:
    """One node with its agent; `victims` are its pods in the order in which they have to die."""

    def __init__(self, lab: PathLab, case: str, name: str, pods: int) -> None:
        mount = cgroup2_mount()
        assert mount is not None, "asked for only where real_pods() is not a reason"
        self.lab = lab
        self.name = lab.prefix + name
        self.directory = lab.directory / name
        self.directory.mkdir()
        self.pods = RealPods(mount)
        self.machine = SentinelLab(self.directory, self.pods.root)
        self.reporters: list[subprocess.Popen[bytes]] = []
        self._stand_in = KubeletStandIn(lab.admin, [self.name])
        self._stand_in.register(self.name, {"case": lab.prefix + case})
        self._stand_in.__enter__()
        self.victims = self._make_pods(name, pods)

    def _make_pods(self, app: str, count: int) -> list[Object]:
        """Running pods of one owner, each with a real process; the later ones have the higher priority."""
        lab = self.lab
        path = f"/api/v1/namespaces/{lab.namespace}/podtemplates"
        template = {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
        made = lab.admin.must("POST", path, {"metadata": {"name": app}, "template": template})
        owner = {"apiVersion": "v1", "kind": "PodTemplate", "name": app, "controller": True}
        found = []
        for number in range(count):
            container = {"name": "main", "image": "none", "resources": {"requests": {"memory": "16Mi"}}}
            meta = {
                "name": f"{app}-{number}",
                "labels": {"app": app},
                "ownerReferences": [{**owner, "uid": made["metadata"]["uid"]}],
            }
            spec = {
                "nodeName": self.name,
                "containers": [container],
                "automountServiceAccountToken": False,
                "tolerations": [{"operator": "Exists"}],
                "priorityClassName": lab.priority_class(number),
            }
            body = {"metadata": meta, "spec": spec}
            pod = lab.admin.must("POST", f"/api/v1/namespaces/{lab.namespace}/pods", body)
            self.pods.add(pod["metadata"]["uid"], f"c0de{number:02}", MEMORY_USER)
            found.append(pod)
        return found
