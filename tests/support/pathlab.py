"""The whole path in a test: nodes whose sentinel and reporter are the real processes, on a lab with the real operator.

A `PathNode` has its own machine (files that follow a capture), its own journal and orders, and real processes in a real
cgroup v2 tree for its pods.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.operator_lab import GROUP, Lab, Object, wait_for
from support.sentinellab import PAUSE, SCRIPT, RealPods, SentinelLab, cgroup2_mount, real_pods
from support.versions import Versions, ledger_of

from memorypressure_agent.host.clocks import read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.processes import Child
from memorypressure_tools.standin import KubeletStandIn
from memorypressure_tools.sweep import remove_namespace, remove_prefixed

SETTLED_SECONDS = 1.0
"""A hundred rounds of 10 ms: what was to be killed would be dead by then."""
LONG_SECONDS = 90.0
"""A transition waits up to 5 s for its report, a refill some rounds of the operator; the rest is a busy machine."""


def needs_real_pods() -> None:
    """Skips a test where no cgroup v2 tree with cgroup.kill can be made."""
    made = real_pods()
    if isinstance(made, str):
        pytest.skip(made)
    for _ in made:
        pass  # it could be made, and is gone again


class PathLab(Lab):
    """A lab whose nodes run real agents."""

    def __init__(self, plane: ControlPlane, prefix: str, namespace: str, directory: Path) -> None:
        super().__init__(plane, prefix, namespace, directory)
        self.nodes: list[PathNode] = []
        self.token_file = self._agent_token()
        self.states = Versions(plane, f"{GROUP}/nodememorystates")
        self.policies = Versions(plane, f"{GROUP}/memorypressurepolicies")
        self.ledgers = Versions(plane, f"/api/v1/namespaces/{self.home}/configmaps")

    def _agent_token(self) -> Path:
        """A token with the rights of the chart's ClusterRole for agents."""
        group = "memorypressure.dev"
        rules = [
            {"apiGroups": [group], "resources": ["nodememorystates"], "verbs": ["get", "watch"]},
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
        """Ends the operators first, so that they do not act upon the end of the nodes."""
        for process in self.processes:
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)
                process.kill()
        for node in self.nodes:
            node.close()
        for versions in (self.states, self.policies, self.ledgers):
            versions.close()
        super().close()

    def path_policy(
        self, case: str, *, mode: str = "Enforce", ladder: list[Object] | None = None, **limits: Any
    ) -> str:
        """The name of a policy for the nodes of a case; unless told otherwise it kills, and does so at once."""
        alone = ["SingletonWorkloads"]  # what is left of a workload after a kill
        watermark = {"line": "AtomicReserve", "belowMilliseconds": 30, "withinMilliseconds": 50}
        self.policy(
            case,
            mode=mode,
            nodeSelector={"matchLabels": {"case": self.prefix + case}},
            triggers=[{"name": "reserve", "type": "ZoneWatermark", "zoneWatermark": watermark}],
            ladder=ladder or [{"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0}],
            # The cgroups may have no memory figures here (cgroup v1 beside v2), so relief does not rank.
            victims={"order": ["Priority", "Youngest"], "minRelief": 0, "minAgeSeconds": 0, "unprotected": alone},
            limits={"maxStandingKills": 1, "maxVictimsPerEpisode": 1, **limits},
        )
        return case

    def path_node(self, case: str, name: str = "", *, pods: int = 2, start: bool = True) -> "PathNode":
        """A node of a case with its pods; its agent knows that there was no kill before, so no cool-down runs."""
        node = PathNode(self, case, name or case, pods)
        self.nodes.append(node)
        node.machine.known_past()
        if start:
            node.start()
        return node

    def explain(self, case: str) -> str:
        """The ends of the logs: the operators', and those of the nodes that the thread of that name made."""
        operators = [f"--- operator:\n{process.text()[-3000:]}" for process in self.processes]
        return "\n".join([*operators, *(node.tail() for node in self.nodes if node.made_by == case)])

    def edit_policy(self, case: str, **spec: Any) -> None:
        """Merges `spec` into the policy's."""
        path = f"{GROUP}/memorypressurepolicies/{self.prefix}{case}"
        self.admin.must("PATCH", path, {"spec": spec}, MERGE_PATCH)

    def get_policy(self, name: str = "p") -> Object:
        """The policy as last seen, empty before it was."""
        return self.policies.latest(self.prefix + name) or {}

    def policy_status(self, case: str) -> Object:
        """The policy's status, empty before there is one."""
        found: Object = self.get_policy(case).get("status") or {}
        return found

    def state(self, node: str) -> Object | None:
        """The NodeMemoryState as last seen."""
        return self.states.latest(node)

    def ledger(self, case: str) -> Object:
        """The ledger's content as last seen, empty while there is none."""
        found = ledger_of(self.ledgers.latest(f"memory-pressure-ledger-{self.prefix}{case}") or {})
        return {"entries": [], "buckets": [], **found}

    def entry(self, case: str, incarnation: str) -> Object:
        """The ledger's entry of an incarnation, empty where there is none."""
        entries = self.ledger(case)["entries"]
        return next((each for each in entries if each["incarnation"] == incarnation), {})


@contextlib.contextmanager
def lab_of(plane: ControlPlane, name: str, directory: Path) -> Iterator[PathLab]:
    """A lab in namespaces and under a prefix of its name; at the end all of it is removed."""
    plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    plane.wait_for_service_account(name)
    lab = PathLab(plane, f"{name}-", name, directory)
    try:
        yield lab
    finally:
        lab.close()
        remove_prefixed(plane.admin, lab.prefix)
        for namespace in (name, lab.home):
            remove_namespace(plane.admin, namespace)


class NodeAgent:
    """The agent of a node: a sentinel and a reporter as processes, on a machine, a journal and orders of their own."""

    def __init__(self, lab: PathLab, name: str, directory: Path, cgroup_root: Path) -> None:
        self.lab = lab
        self.name = name
        self.directory = directory
        self.machine = SentinelLab(directory, cgroup_root)
        self.made_by = threading.current_thread().name
        self.sentinel: Child | None = None
        self.reporter: Child | None = None

    # --- its processes ---

    def start(self) -> None:
        """Starts sentinel and reporter."""
        self.start_sentinel()
        self.start_reporter()

    def start_sentinel(self) -> None:
        """Starts the sentinel on the journal and orders that are there."""
        machine = self.machine
        roots = {"proc": machine.machine.proc, "sys": machine.machine.sys, "cgroup": machine.cgroup_root}
        self.sentinel = self._child("sentinel", *[f"--{name}-root={path}" for name, path in roots.items()])

    def start_reporter(self) -> None:
        """Starts the reporter."""
        plane = self.lab.plane
        link = [f"--server={plane.url}", f"--token-file={self.lab.token_file}"]
        link += [f"--ca-file={plane.authority.certificate_file}", f"--node-name={self.name}"]
        self.reporter = self._child("reporter", "--metrics-address=127.0.0.1", "--metrics-port=0", *link)

    def _child(self, command: str, *words: str) -> Child:
        files = [f"--orders={self.machine.orders_path}", f"--journal={self.machine.journal_path}"]
        log = self.directory / f"{command}.log"
        return Child(f"{command} of {self.name}", [SCRIPT, command, *files, *words], log, self.directory)

    def kill_sentinel(self) -> None:
        """SIGKILL."""
        assert self.sentinel is not None
        self.sentinel.stop(hard=True)

    def freeze_reporter(self) -> None:
        """Neither orders nor reports pass until `thaw_reporter`."""
        assert self.reporter is not None
        self.reporter.send(signal.SIGSTOP)

    def thaw_reporter(self) -> None:
        """Ends `freeze_reporter`."""
        assert self.reporter is not None
        self.reporter.send(signal.SIGCONT)

    def replace_journal(self) -> str:
        """Restarts the sentinel on a new journal, one that knows its past; the new incarnation."""
        self.kill_sentinel()
        self.machine.journal_path.unlink()
        incarnation = self.machine.known_past()
        self.start_sentinel()
        return incarnation

    def age_beats(self, seconds: float) -> None:
        """Makes the beats in the journal that much older, while no sentinel runs."""
        journal = Journal(str(self.machine.journal_path), read_boot_id())
        beats = tuple(replace(beat, boot_ns=beat.boot_ns - int(seconds * 1e9)) for beat in journal.grants.beats)
        journal.write_grants(replace(journal.grants, beats=beats))
        journal.close()

    def stop(self) -> None:
        """Ends both processes."""
        for child in (self.reporter, self.sentinel):
            if child is not None:
                child.stop()

    def close(self) -> None:
        """Ends both processes and closes the files."""
        self.stop()
        self.machine.close()

    # --- what is seen of it on the machine ---

    @property
    def incarnation(self) -> str:
        """Of the journal at this moment."""
        return self.machine.reader.refresh().incarnation

    def kills(self) -> int:
        """How many kills the journal counts at this moment."""
        return self.machine.kills_total()

    def status(self, part: str) -> Object:
        """A part of the sentinel's status, which it writes about once a second; empty before the first."""
        found: Object = self.machine.status().get(part) or {}
        return found

    def decides(self, reason: str, seconds: float = LONG_SECONDS) -> None:
        """Returns when the sentinel's last decision has that reason."""
        wait_for(lambda: self.status("decision").get("reason") == reason, f"{self.name} decides {reason}", seconds)

    def refuses_orders(self, words: str) -> None:
        """Returns when the sentinel's message about its orders has these words."""
        wait_for(
            lambda: words in self.status("orders").get("message", ""), f"{self.name}'s orders are refused: {words}"
        )

    def flood(self) -> None:
        """From now on the machine is as in the deepest moment of the recorded flood."""
        self.machine.flood()

    def calm(self) -> None:
        """From now on the machine is idle."""
        self.machine.calm()

    def tail(self) -> str:
        """The ends of the logs."""
        children = [child for child in (self.sentinel, self.reporter) if child is not None]
        return "\n".join(f"--- {child.name} (decides {self._last()}):\n{child.tail()}" for child in children)

    def _last(self) -> str:
        return f"{self.status('decision')}, permit {self.status('permit')}"

    # --- what is seen of it in the API ---

    def state(self) -> Object:
        """The NodeMemoryState, with empty parts where there is none."""
        return {"metadata": {}, "spec": {}, "status": {}, **(self.lab.state(self.name) or {})}

    def grant(self) -> Object:
        """The grant, empty where there is none."""
        found: Object = self.state()["spec"].get("grant") or {}
        return found

    def lease(self) -> Object:
        """The lease as reported, empty where there is none."""
        found: Object = self.state()["status"].get("lease") or {}
        return found

    def condition(self, kind: str) -> Object:
        """A condition of the report, empty where there is none."""
        return condition_of(self.state(), kind)

    def told(self, kind: str, reason: str, seconds: float = LONG_SECONDS) -> str:
        """The message of a condition, from the first version of the state that has it for that reason."""

        def found() -> list[str]:
            versions = [state for state in self.lab.states.seen() if state["metadata"]["name"] == self.name]
            conditions = [condition_of(state, kind) for state in versions]
            return [str(each["message"]) for each in conditions if each.get("reason") == reason]

        return str(wait_for(found, f"{self.name} reports {kind}: {reason}", seconds)[0])

    def reported_kills(self) -> list[Object]:
        """The kills among recentActions."""
        actions = self.state()["status"].get("recentActions", [])
        return [action for action in actions if action["action"] == "Kill" and action["mode"] == "Enforce"]

    def allowance(self) -> int:
        """Kills that the grant in the API allows and the sentinel has seen."""
        grant, reader = self.grant(), self.machine.reader
        if reader.refresh().incarnation != grant.get("incarnation"):
            return 0
        held = reader.lease()
        return held.ceiling_seen - held.kills_total if held.ceiling_seen == grant["killsCeiling"] else 0

    def armed(self, kills: int = 1, seconds: float = LONG_SECONDS) -> Object:
        """The grant, as soon as the sentinel may carry out so many kills by it."""

        def found() -> bool:
            known = self.machine.armed() and ", 0 candidates" not in self.status("orders")["message"]
            return known and self.allowance() == kills

        wait_for(found, f"{self.name} may kill {kills} times", seconds)
        return self.grant()


class PathNode(NodeAgent):
    """A Node of the API with its agent and its pods, whose processes are real."""

    def __init__(self, lab: PathLab, case: str, name: str, pods: int) -> None:
        mount = cgroup2_mount()
        assert mount is not None, "to be asked for only where there is one: see real_pods()"
        directory = lab.directory / name
        directory.mkdir()
        self.pods = RealPods(mount)
        super().__init__(lab, lab.prefix + name, directory, self.pods.root)
        self._stand_in = KubeletStandIn(lab.admin, [self.name])
        self._stand_in.register(self.name, {"case": lab.prefix + case})
        self._stand_in.__enter__()
        self.victims = [self._pod(pod) for pod in self.more_pods(name, pods)]

    def more_pods(self, app: str, count: int) -> Iterator[Object]:
        """Bodies of pods for this node, of one owner of a kind that no controller touches."""
        lab = self.lab
        container = {"name": "main", "image": "none", "resources": {"requests": {"memory": "16Mi"}}}
        template = {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}}
        path = f"/api/v1/namespaces/{lab.namespace}/podtemplates"
        made = lab.admin.must("POST", path, {"metadata": {"name": app}, "template": template})
        owner = {"apiVersion": "v1", "kind": "PodTemplate", "name": app, "controller": True}
        owner["uid"] = made["metadata"]["uid"]
        spec = {
            "nodeName": self.name,
            "containers": [container],
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
        }
        for number in range(count):
            meta = {"name": f"{app}-{number}", "labels": {"app": app}, "ownerReferences": [owner]}
            yield {"metadata": meta, "spec": spec}

    def _pod(self, body: Object) -> Object:
        """The pod; two small processes, since a cgroup with one small process is taken for the sandbox's."""
        made: Object = self.lab.admin.must("POST", f"/api/v1/namespaces/{self.lab.namespace}/pods", body)
        self.pods.add(made["metadata"]["uid"], "c0de01", PAUSE, count=2)
        return made

    def dead(self) -> int:
        """Pods whose processes have ended."""
        return len(self.pods.dead())

    def close(self) -> None:
        """Ends everything of the node that runs on this machine."""
        super().close()
        self._stand_in.__exit__(None, None, None)
        self.pods.close()


def condition_of(state: Object, kind: str) -> Object:
    """A condition in a version of a NodeMemoryState, empty where there is none."""
    found = (each for each in state.get("status", {}).get("conditions", []) if each["type"] == kind)
    return next(found, {})
