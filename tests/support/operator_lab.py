"""Everything that tests of the operator need around it: its process, nodes, pods, policies and simulated reports.

`Lab` lives on the session's control plane, under a prefix of the test's own. The operator runs as the real process;
agents are simulated by patching `nodememorystates/status` as administrator.
"""

import contextlib
import copy
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.operatorprocess import OperatorProcess
from support.simulatedagent import GROUP, Agent, Object
from support.waiting import WAIT_SECONDS, now, wait_for

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.standin import KubeletStandIn

__all__ = ["GROUP", "WAIT_SECONDS", "Agent", "Corner", "Lab", "Object", "OperatorProcess", "now", "wait_for"]


class Lab:
    """A test's corner of the cluster. Use as a context: everything started is stopped."""

    def __init__(self, plane: ControlPlane, prefix: str, namespace: str, directory: Path, home: str = "") -> None:
        self.plane = plane
        self.admin = plane.admin
        self.prefix = prefix
        self.namespace = namespace  # of the workloads
        self.home = home or f"{namespace}-op"  # of the operator
        self.directory = directory
        self.processes: list[OperatorProcess] = []
        self._stack = contextlib.ExitStack()
        self._numbers = 0
        assert self.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.home}}).status in (201, 409)

    def close(self) -> None:
        self._stack.close()
        for process in self.processes:
            if process.child.poll() is None:
                process.kill()
            print(
                f"--- {process.log.name}\n{process.text()[-4000:]}", file=sys.stderr
            )  # pytest shows it for a failed test

    # --- the operator ---

    def operator(
        self, *arguments: str, identity: str = "one", kubeconfig: Path | None = None, booted_seconds_before: int = 0
    ) -> OperatorProcess:
        """A started operator; quick settings, free ports."""
        self._numbers += 1
        quick = {
            "--kubeconfig": str(kubeconfig or self.plane.kubeconfig),
            "--namespace": self.home,
            "--identity": identity,
            "--bind-address": "127.0.0.1",
            "--metrics-port": "0",
            "--health-port": "0",
            "--lease-seconds": "4",
            "--renew-deadline-seconds": "2",
            "--request-timeout-seconds": "2",
            "--renew-timeout-seconds": "1",
            "--renew-seconds": "0.3",
            "--coalesce-seconds": "0.05",
            "--status-seconds": "0.3",
            "--resync-seconds": "5",
            "--backoff-seconds": "0.1",
            "--backoff-limit-seconds": "1",
        }
        words = [word for pair in quick.items() for word in pair if pair[0] not in arguments]
        log = self.directory / f"operator-{self._numbers}.log"
        process = OperatorProcess(log, [*words, *arguments], booted_seconds_before=booted_seconds_before)
        self.processes.append(process)
        return process

    def running(self, *arguments: str, identity: str = "one") -> OperatorProcess:
        """An operator that is ready and leads."""
        process = self.operator(*arguments, identity=identity)
        process.ready()
        process.leads()
        return process

    def all_rights(self, account: str) -> str:
        """A token of a new service account in the operator's namespace, which may do everything."""
        rbac, name = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", f"{self.prefix}{account}"
        self.admin.must("POST", f"/api/v1/namespaces/{self.home}/serviceaccounts", {"metadata": {"name": account}})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": self.home}
        self.admin.must("POST", rbac, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
        return self.plane.token(self.home, account)

    # --- nodes, pods, policies ---

    def node(self, name: str = "n1", labels: dict[str, str] | None = None) -> str:
        """A ready node; its kubelet is a stand-in that keeps the Lease."""
        full = self.prefix + name
        standin = KubeletStandIn(self.admin, [full])
        standin.register(full, {"lab": self.prefix.rstrip("-"), **(labels or {})})
        self._stack.enter_context(standin)
        wait_for(lambda: not self.taints(full), f"node {full} has no taints")
        return full

    def taints(self, node: str) -> list[Object]:
        return list(self.admin.must("GET", f"/api/v1/nodes/{node}")["spec"].get("taints") or [])

    def our_taints(self, node: str) -> list[Object]:
        return [taint for taint in self.taints(node) if taint["key"] == "memorypressure.dev/pressure"]

    def workload(self, node: str, name: str, replicas: int = 2, **changes: Any) -> list[Object]:
        """Running pods of one owner, a kind that no controller touches; it exists, or they would be collected."""
        path = f"/api/v1/namespaces/{self.namespace}/podtemplates"
        container = {"name": "main", "image": "none"}
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
        made = self.admin.request("POST", path, {"metadata": {"name": name}, "template": template})
        uid = (made.body if made.status == 201 else self.admin.must("GET", f"{path}/{name}"))["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "PodTemplate", "name": name, "uid": uid, "controller": True}
        first = changes.pop("first", 0)
        return [self.pod(node, f"{name}-{i}", owner=owner, **changes) for i in range(first, first + replicas)]

    def pod(
        self,
        node: str,
        name: str,
        *,
        owner: Object | None = None,
        priority: int = 0,
        memory: str = "64Mi",
        annotations: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        spec: Object | None = None,
        namespace: str | None = None,
    ) -> Object:
        """A running pod bound to the node."""
        meta: Object = {"name": name, "labels": {"app": name.rsplit("-", 1)[0], **(labels or {})}}
        if annotations:
            meta["annotations"] = annotations
        if owner:
            meta["ownerReferences"] = [owner]
        container = {"name": "main", "image": "none", "resources": {"requests": {"memory": memory}}}
        body: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {
                "nodeName": node,
                "containers": [container],
                "terminationGracePeriodSeconds": 30,
                "automountServiceAccountToken": False,
                "tolerations": [{"operator": "Exists"}],
                **(spec or {}),
            },
        }
        path = f"/api/v1/namespaces/{namespace or self.namespace}/pods"
        self.admin.must("POST", path, body)

        def running() -> Object | None:
            found: Object = self.admin.must("GET", f"{path}/{name}")
            return found if found.get("status", {}).get("phase") == "Running" else None

        return wait_for(running, f"pod {name} runs")

    def pod_now(self, pod: Object) -> Object | None:
        """The pod as it is, None when it is gone."""
        meta = pod["metadata"]
        answer = self.admin.request("GET", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
        return answer.body if answer.status == 200 and answer.body["metadata"]["uid"] == meta["uid"] else None

    def evicted(self, pod: Object) -> bool:
        found = self.pod_now(pod)
        return found is None or "deletionTimestamp" in found["metadata"]

    def policy(self, name: str = "p", *, mode: str = "Enforce", **changes: Any) -> Object:
        """A policy for this lab's nodes: Taint at once, Evict at once, Kill; changes replace parts of the spec."""
        spec: Object = {
            "mode": mode,
            "nodeSelector": {"matchLabels": {"lab": self.prefix.rstrip("-")}},
            "triggers": [
                {"name": "reserve", "type": "ZoneWatermark", "zoneWatermark": {"line": "AtomicReserve"}},
                {"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Low"}},
            ],
            "ladder": [
                {
                    "action": "Taint",
                    "triggers": ["reserve", "low"],
                    "taint": {"effect": "NoSchedule", "holdSeconds": 10},
                },
                {
                    "action": "Evict",
                    "triggers": ["reserve", "low"],
                    "afterSeconds": 0,
                    "evict": {"gracePeriodSeconds": 1},
                },
                {"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0},
            ],
            "victims": {"minAgeSeconds": 0},
            "limits": {
                "cooldownSeconds": 10,
                "maxVictimsPerWorkload": "100%",
                "maxConcurrentNodes": "100%",
                "maxStandingKills": "100%",
                "grantSeconds": 180,
            },
        }
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(spec.get(key), dict):
                spec[key] = {**spec[key], **value}
            else:
                spec[key] = copy.deepcopy(value)
        body = {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": self.prefix + name},
            "spec": spec,
        }
        return self.admin.must("POST", f"{GROUP}/memorypressurepolicies", body)

    def get_policy(self, name: str = "p") -> Object:
        return self.admin.must("GET", f"{GROUP}/memorypressurepolicies/{self.prefix}{name}")

    def figure(self, part: str, figure: str, name: str = "p") -> int | None:
        """A figure of a part of the policy's status, None before it is there."""
        found: int | None = self.get_policy(name).get("status", {}).get(part, {}).get(figure)
        return found

    def condition(self, kind: str, name: str = "p") -> Object:
        conditions = self.get_policy(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def ledger_path(self, name: str = "p") -> str:
        return f"/api/v1/namespaces/{self.home}/configmaps/memory-pressure-ledger-{self.prefix}{name}"

    # --- what the operator writes ---

    def kept_counts(self, name: str = "p") -> Object:
        """Kind -> facts of the last hour, as the operator keeps them for its successor."""
        answer = self.admin.request("GET", f"/api/v1/namespaces/{self.home}/configmaps/memory-pressure-counts")
        text = answer.body.get("data", {}).get(self.prefix + name) if answer.status == 200 else None
        return json.loads(text) if text else {}

    def state(self, node: str) -> Object | None:
        answer = self.admin.request("GET", f"{GROUP}/nodememorystates/{node}")
        return answer.body if answer.status == 200 else None

    def plan(self, node: str) -> Object | None:
        answer = self.admin.request("GET", f"{GROUP}/nodememoryplans/{node}")
        return answer.body if answer.status == 200 else None

    def planned(self, node: str) -> set[str]:
        """Names of the pods on the node's plan."""
        plan = self.plan(node)
        return {pod["name"] for pod in (plan or {"spec": {}})["spec"].get("pods") or []}

    def grant(self, node: str) -> Object:
        return ((self.state(node) or {"spec": {}})["spec"].get("grant")) or {}

    def allowed(self, agent: Agent) -> int:
        """Kills that the node's grant allows beyond those done."""
        grant = self.grant(agent.node)
        return (
            int(grant.get("killsCeiling", 0)) - agent.kills_total
            if grant.get("incarnation") == agent.incarnation
            else 0
        )

    def agent(self, node: str) -> Agent:
        """A simulated agent that has reported twice, so that the operator has seen it report."""
        wait_for(lambda: self.state(node), f"the operator makes the state of {node}")
        agent = Agent(self.admin, node)
        agent.report()
        time.sleep(0.2)
        agent.report()
        return agent

    def armed_node(self) -> tuple[str, Agent]:
        """A node with this lab's policy and an allowance, and its agent."""
        node = self.node()
        self.policy()
        agent = self.agent(node)
        wait_for(lambda: self.allowed(agent) == 1, "an allowance")
        return node, agent

    def events(self, reason: str = "", *, kind: str = "") -> list[Object]:
        """Our Events about objects of this lab, by reason and kind of object."""
        items = []
        for namespace in ("default", self.namespace):
            path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
            items += self.admin.must("GET", path)["items"]
        return [
            event
            for event in items
            if event.get("reportingController") == "memorypressure.dev/operator"
            and (
                event["regarding"]["name"].startswith(self.prefix)
                or event["regarding"].get("namespace") == self.namespace
            )
            and reason in ("", event["reason"])
            and kind in ("", event["regarding"]["kind"])
        ]

    @contextlib.contextmanager
    def reporting(self, *agents: Agent, every_seconds: float = 1.0) -> Iterator[None]:
        """Keeps the agents' reports coming, as under pressure."""
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(every_seconds):
                for agent in agents:
                    with contextlib.suppress(Exception):  # the API server may be away on purpose
                        agent.report()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)


class Corner(Lab):
    """A case's own nodes, policies and namespace in a lab whose operator it shares with other cases."""

    def __init__(self, shared: Lab, name: str) -> None:
        namespace = f"{shared.namespace}-{name}"
        shared.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        shared.plane.wait_for_service_account(namespace)
        super().__init__(shared.plane, f"{shared.prefix}{name}-", namespace, shared.directory, shared.home)
        self._operator = shared.processes[0]

    def running(self, *arguments: str, identity: str = "one") -> OperatorProcess:
        """The operator of all cases."""
        assert not arguments, "a case that wants an operator of its own is no case"
        return self._operator
