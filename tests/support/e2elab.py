"""A cluster with the load of a flood, bystanders of every kind, and what is asked of them before and after."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from memorypressure_tools.cluster.cluster import Cluster
from memorypressure_tools.flood import load
from memorypressure_tools.flood.observer import TAINT, Change, Observer
from memorypressure_tools.flood.run import FloodRun, Result, Scenario
from memorypressure_tools.flood.series import repeat
from memorypressure_tools.flood.workloads import deploy, end_load, reset
from memorypressure_tools.helm import NAMESPACE as OUR_NAMESPACE

NODE = load.NODE
GUARDED = "guarded"
GUARDED_MIB = 68
HOG_MIB = 540
"""With the guarded pod's as much as the floods of the demo have alone."""
STATIC = "static"
BYSTANDERS = "default"
"""The namespace of the pods that nobody may stop; the load's pods are replaced for every run."""
LOW_PRIORITY = "e2e-low"
APPS = ("hog", "stream", "sink")
POLICIES = "/apis/memorypressure.dev/v1alpha1/memorypressurepolicies"
STATE = f"/apis/memorypressure.dev/v1alpha1/nodememorystates/{NODE}"
FIRST_COOLDOWN_SECONDS = 60.0
"""A sentinel with a new journal kills nothing for so long: the one before it may have been in a cool-down."""
CALM_SECONDS = 65.0
"""Between two kills: with less than 60 s of clear the second is futile, and there is no kill for 30 minutes."""
SLOW_SECONDS = 240.0
"""Bound of waits for what a thrashing node has to do."""


class Lab:
    """The cluster's node-1 with its load, which waits for its start file."""

    def __init__(self, cluster: Cluster, capture: Any) -> None:
        """Creates the load and returns when all of it is Ready."""
        self.cluster, self.capture = cluster, capture
        self.agent_ready_at = time.monotonic()
        self.node = cluster.nodes[NODE]
        specs = {
            # Two replicas, of which one fits on the node: a workload's only pod is protected by default.
            "hog": load.hog_spec(NODE, HOG_MIB),
            "stream": load.stream_spec(NODE),
            "sink": load.sink_spec(NODE),
        }
        kubectl = cluster.plane.kubectl
        low = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": -100}
        kubectl("apply", "-f", "-", stdin=json.dumps(low | {"metadata": {"name": LOW_PRIORITY}}))
        deployments = [load.deployment(name, spec, replicas=2 if name == "hog" else 1) for name, spec in specs.items()]
        guarded = load.deployment(GUARDED, guarded_spec(), namespace=BYSTANDERS)
        deploy(cluster, [load.budget(GUARDED, namespace=BYSTANDERS), guarded, *deployments], APPS)
        self._add_static_pod()
        self.fresh_since = time.monotonic()
        self.used = False
        self.calm_since = time.monotonic() - CALM_SECONDS
        #: floods since somebody took them, void ones too, with a verdict of their own where a test has several
        self.results: list[tuple[Result, bool | None]] = []
        #: what was seen of the API since somebody took it, a line each
        self.story: list[str] = []
        cluster.say(f"the load waits on {NODE}: {', '.join(APPS)}; beside it {', '.join(self.innocents())}")

    def _add_static_pod(self) -> None:
        spec = load.idle_spec(NODE)
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": STATIC, "namespace": BYSTANDERS},
            "spec": spec,
        }
        place = "/etc/kubernetes/manifests"
        text = json.dumps(manifest)
        self.node.shell.run(f"cat > /run/static <<'END'\n{text}\nEND\nmv /run/static {place}/static.json")
        self.cluster.wait_for(
            "the static and the guarded pod to run", lambda: len(self.containers(BYSTANDERS)) == 2, SLOW_SECONDS
        )

    # -- asked of the cluster

    def get(self, path: str) -> dict[str, Any]:
        """The object, or an empty one."""
        return self.cluster.get(path) or {}

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        return list(self.cluster.plane.admin.must("GET", path)["items"])

    def state(self) -> dict[str, Any]:
        """The node's NodeMemoryState."""
        return self.get(STATE)

    def status(self) -> dict[str, Any]:
        """Its status."""
        return dict(self.state().get("status", {}))

    def pods(self, app: str) -> list[dict[str, Any]]:
        """The load's pods of an app, those that are being deleted too."""
        return self.items(f"/api/v1/namespaces/{load.NAMESPACE}/pods?labelSelector=app%3D{app}")

    def uids(self, app: str) -> set[str]:
        """Those pods' uids."""
        return {pod["metadata"]["uid"] for pod in self.pods(app)}

    def containers(self, namespace: str) -> dict[str, tuple[str, int]]:
        """Running containers of pods bound to the node, by pod, its uid and container: id and restarts."""
        found = {}
        for pod in self.items(f"/api/v1/namespaces/{namespace}/pods?fieldSelector=spec.nodeName%3D{NODE}"):
            for each in pod["status"].get("containerStatuses", []):
                if "running" in each["state"]:
                    name = f"{namespace}/{pod['metadata']['name']} {pod['metadata']['uid']} {each['name']}"
                    found[name] = (each["containerID"], each["restartCount"])
        return found

    def innocents(self) -> dict[str, tuple[str, int]]:
        """What nobody may stop: the guarded pod, the static pod, the agent."""
        return self.containers(BYSTANDERS) | self.containers(OUR_NAMESPACE)

    def events(self, reason: str, kind: str) -> list[dict[str, Any]]:
        """The operator's Events of a reason about objects of a kind."""
        return [
            event
            for event in self.items("/apis/events.k8s.io/v1/events")
            if event["reason"] == reason
            and event["regarding"]["kind"] == kind
            and event["reportingController"] == "memorypressure.dev/operator"
        ]

    def metrics(self) -> str:
        """What the agent's reporter exports, as a scraper on the node gets it."""
        pod = self.cluster.pods("agent", NODE)[0]
        return self.node.shell.run(f"wget -q -O - http://{pod['status']['podIP']}:9464/metrics", seconds=60, attempts=3)

    def taints(self) -> list[str]:
        """The taints on the node that are ours."""
        taints = self.get(f"/api/v1/nodes/{NODE}").get("spec", {}).get("taints", [])
        return [f"{each['key']}:{each['effect']}" for each in taints if each["key"] == TAINT]

    # -- done to it

    def apply(self, policy: load.Object) -> None:
        """Creates or changes a policy and waits until the node's agent follows it."""
        self.cluster.plane.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
        name, mode = policy["metadata"]["name"], policy["spec"]["mode"]

        def followed() -> bool:
            state = self.state()
            spec, metrics = state.get("spec", {}), self.metrics()
            return (spec.get("policyName"), spec.get("mode")) == (
                name,
                mode,
            ) and f'memorypressure_agent_policy_info{{mode="{mode}",policy="{name}"}} 1.0' in metrics

        self.cluster.wait_for(f"policy {name} to be in force on {NODE}", followed, SLOW_SECONDS)

    def wait_for_allowance(self) -> None:
        """Returns when the node may kill: a grant with something left, and the first cool-down has passed."""

        def allowed() -> bool:
            state = self.state()
            grant, lease = state.get("spec", {}).get("grant"), state.get("status", {}).get("lease", {})
            return bool(grant and grant["killsCeiling"] > lease.get("killsTotal", 0))

        self.cluster.wait_for(f"an allowance to kill on {NODE}", allowed, SLOW_SECONDS)
        time.sleep(max(0.0, self.agent_ready_at + FIRST_COOLDOWN_SECONDS - time.monotonic()))

    def renew(self, *, age_seconds: float = 0.0) -> None:
        """Returns when new pods of the load wait, and are as old as that."""
        if self.used:
            reset(self.cluster, APPS)
            self.fresh_since = time.monotonic()
        self.used = True
        time.sleep(max(0.0, self.fresh_since + age_seconds - time.monotonic()))

    def keep(self, result: Result, *, passed: bool | None = None) -> None:
        """Puts a flood to the session's; the node is calm from when it told so after a kill, else the flood's end.

        `passed`: whether it did; without, that is the test's own outcome.
        """
        self.results.append((result, passed))
        killed_at = result.document["killed_at"]
        if killed_at is None:
            return
        told = [each for each in result.document["changes"] if each["what"] == "triggers" and each["at"] > killed_at]
        is_clear = bool(told) and told[-1]["now"] == "none"
        calm_at = told[-1]["at"] if is_clear else result.scenario.flood_seconds
        self.calm_since = time.monotonic() - (time.time() - (result.flood_at + calm_at))

    def wait_until_calm(self) -> None:
        """Returns when a kill would not be futile for coming too soon after the one before."""
        time.sleep(max(0.0, self.calm_since + CALM_SECONDS - time.monotonic()))

    @contextmanager
    def watching(self) -> Iterator[Observer]:
        """The API watched, and what it shows printed."""
        began = time.time()

        def told(change: Change) -> None:
            line = f"{change.at - began:+7.2f}  {change.what[:70]:70} {change.now[:120]}"
            self.story.append(line)
            with self.capture.global_and_fixture_disabled():
                self.cluster.say(line)

        with Observer(self.cluster.plane.admin, NODE, told=told) as observer:
            yield observer

    def flood(
        self,
        name: str,
        after: Callable[[Result, Observer], None],
        *,
        age_seconds: float = 0.0,
        during: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Result:
        """A valid run: void ones are repeated, counted and shown. `after` looks on while the node recovers.

        What `during` makes is entered for each run, from before the load begins until it has ended.
        """
        scenario = Scenario(name=name, hog_mib=HOG_MIB)

        def once() -> Result:
            self.renew(age_seconds=age_seconds)
            self.wait_until_calm()
            with self.watching() as observer:
                with during():
                    result = FloodRun(self.cluster, NODE, scenario, observer).run()
                    end_load(self.node.shell)
                self.keep(result)
                if result.valid:
                    after(result, observer)
                result.note(observer.changes)
            return result

        with self.capture.global_and_fixture_disabled():
            series = repeat(name, once)
            self.cluster.say(series.summary())
        return series.valid[-1]


def guarded_spec() -> load.Object:
    """A pod that every rule of a policy would choose first, if its budget allowed any disruption."""
    # Under a name of its own: what ends the load ends every `hog`.
    copied = f"/bin/busybox cp /bin/hog /tmp/{GUARDED} && exec /tmp/{GUARDED} {GUARDED_MIB} 100000"
    command = f"sh -c '{copied}'"
    requests = {"memory": "10Mi", "cpu": "5m"}
    return load.pod_spec(command, node=NODE, requests=requests, priority_class=LOW_PRIORITY, waits=False)
