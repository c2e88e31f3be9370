"""The whole path in a test: nodes whose sentinel and reporter are the real processes, on a lab with the real operator.

A `PathNode` has its own machine (files that follow a capture), its own journal and orders, and real processes in a real
cgroup v2 tree for its pods. `Versions` keeps every version of some objects that the API server showed.
"""

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from support.operator_lab import GROUP, Lab, Object, wait_for
from support.sentinellab import PAUSE, SCRIPT, RealPods, SentinelLab, cgroup2_mount, real_pods

from memorypressure_agent.host.clocks import read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.processes import Child
from memorypressure_tools.standin import KubeletStandIn

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


class Versions:
    """Every version of a collection's objects from now on, by a watch that is opened anew when it ends.

    What changes while the API server is away, or between two watches, is seen once, as it is then.
    """

    def __init__(self, plane: ControlPlane, path: str) -> None:
        pair = plane.etcd_identity  # the administrator's
        self._pool = urllib3.PoolManager(
            ca_certs=str(plane.authority.certificate_file), cert_file=str(pair.certificate), key_file=str(pair.key)
        )
        self._url = f"{plane.url}{path}"
        self._closed = threading.Event()
        self._seen: list[Object] = []
        self._latest: dict[str, Object] = {}
        self._answer: urllib3.BaseHTTPResponse | None = None
        # just after its definition was made a collection answers 429 for a moment
        self._version = str(wait_for(self._listed, f"{path} can be listed"))
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._thread.start()

    def _listed(self) -> str:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self._list()
        return ""

    def _list(self) -> str:
        """Takes all objects as they are; the resourceVersion to watch from."""
        answer = self._pool.request("GET", self._url, timeout=10, retries=False)
        if answer.status != 200:
            raise urllib3.exceptions.HTTPError(f"{self._url}: {answer.status}")
        found = json.loads(answer.data)
        for item in found["items"]:
            self._take("MODIFIED", item)
        names = {item["metadata"]["name"] for item in found["items"]}
        for name in self._latest.keys() - names:
            del self._latest[name]
        return str(found["metadata"]["resourceVersion"])

    def _take(self, kind: str, item: Object) -> None:
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self._latest.pop(name, None)
        elif kind in ("ADDED", "MODIFIED"):
            if name not in self._latest or version_of(self._latest[name]) != version_of(item):
                self._seen.append(item)
            self._latest[name] = item

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._watch()
                self._version = self._list()
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
                self._closed.wait(0.2)  # the API server is away, or this was closed

    def _watch(self) -> None:
        timeout = urllib3.Timeout(connect=5, read=600)
        url = f"{self._url}?watch=1&resourceVersion={self._version}"
        self._answer = self._pool.request("GET", url, preload_content=False, timeout=timeout, retries=False)
        if self._answer.status != 200:
            raise urllib3.exceptions.HTTPError(f"{url}: {self._answer.status}")
        rest = b""
        for chunk in self._answer.stream(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return  # the version to watch from is too old
                self._take(event["type"], event["object"])

    def seen(self) -> list[Object]:
        """The versions so far; deletions are left out."""
        return list(self._seen)

    def latest(self, name: str) -> Object | None:
        """The object of that name as it was last seen; None when there is none."""
        return self._latest.get(name)

    def close(self) -> None:
        """Ends the watch; what was seen stays."""
        self._closed.set()
        connection: Any = self._answer.connection if self._answer is not None else None
        if connection is not None and connection.sock is not None:
            connection.sock.shutdown(2)  # wakes the reader
        self._thread.join(timeout=5)
        if self._answer is not None:
            self._answer.close()
        self._pool.clear()


def version_of(item: Object) -> int:
    """The object's place in the order of all writes: etcd's revision, one for all kinds."""
    return int(item["metadata"]["resourceVersion"])


def ledger_of(config_map: Object) -> Object:
    """What the ConfigMap holds; empty for one that is no ledger."""
    found: Object = json.loads(config_map.get("data", {}).get("ledger", "{}"))
    return found


def raises(states: Sequence[Object]) -> list[Object]:
    """The versions of NodeMemoryStates in which an incarnation's ceiling is higher than in the version before."""
    last: dict[str, tuple[str, int]] = {}
    found = []
    for state in states:
        grant, uid = state["spec"].get("grant"), state["metadata"]["uid"]
        now = (grant["incarnation"], grant["killsCeiling"]) if grant else ("", 0)
        before = last.get(uid, ("", 0))
        last[uid] = now
        if grant and (now[0] != before[0] or now[1] > before[1]) and now[1] > kills_reported(state):
            found.append(state)
    return found


def kills_reported(state: Object) -> int:
    """How many kills the incarnation that the grant is for has reported."""
    grant, lease = state["spec"].get("grant") or {}, state.get("status", {}).get("lease") or {}
    return int(lease["killsTotal"]) if lease.get("incarnation") == grant.get("incarnation") else 0


def uncovered(states: Sequence[Object], config_maps: Sequence[Object]) -> list[str]:
    """Raises of a ceiling that the newest ledger of an earlier version did not hold."""
    wrong = []
    for state in raises(states):
        grant = state["spec"]["grant"]
        earlier = [each for each in config_maps if version_of(each) < version_of(state)]
        newest = {each["metadata"]["name"]: each for each in sorted(earlier, key=version_of)}
        entries = [entry for each in newest.values() for entry in ledger_of(each).get("entries", [])]
        mine = [entry for entry in entries if entry["incarnation"] == grant["incarnation"]]
        if not any(entry["ceiling"] >= grant["killsCeiling"] for entry in mine):
            name = state["metadata"]["name"]
            wrong.append(f"{name}: ceiling {grant['killsCeiling']} at {version_of(state)}, ledgers hold {mine}")
    return wrong


def most_outstanding(states: Sequence[Object], nodes: Sequence[str]) -> int:
    """The most kills that the grants of these nodes allowed together at any version, beyond those reported."""
    allowed: dict[str, int] = {}
    most = 0
    for state in sorted(states, key=version_of):
        name, grant = state["metadata"]["name"], state["spec"].get("grant")
        if name in nodes:
            allowed[name] = max(0, grant["killsCeiling"] - kills_reported(state)) if grant else 0
            most = max(most, sum(allowed.values()))
    return most
