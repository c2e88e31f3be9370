"""The whole decision loop with one node under pressure, on an API server in memory."""

import json
from typing import Any

from support.fakecluster import Clock, FakeCluster

from memorypressure.reasons import Reason
from memorypressure_operator import settings as settings_module
from memorypressure_operator.events import Event
from memorypressure_operator.health import Health
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import decode_pod
from memorypressure_operator.reconcile import DecisionLoop
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import decode_state
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import NodeView

NODE = "n"
SINCE = "2026-01-01T00:00:00Z"


class Leads:
    term = 1

    def holds(self) -> bool:
        return True


class World:
    """The whole decision loop, one node under pressure with three pods, and a clock that a test moves."""

    def __init__(self, victims: int = 1, *, taint: bool = False, **limits: Any) -> None:
        self.clock, self.cluster = Clock(), FakeCluster()
        self.events: list[Event] = []
        self.registry = Registry(self.clock, 0.0)
        for name in SINKS:
            self.registry.mark_synced(name)
        self.loop = self.operator()
        self.cluster.policies = [policy(victims, taint=taint, **limits)]
        self.registry.put_namespace("ns", {})
        self.registry.put_node(NODE, NodeView(NODE, "uid-n", {}, (), ready=True))
        for uid in ("a", "b", "c"):
            self.cluster.add(uid)
        meta = {"name": NODE, "uid": "s", "generation": 1, "resourceVersion": "0"}
        owners = [{"kind": "Node", "uid": "uid-n"}]
        self.kills_total, self.beat = 0, 0
        self.actions: list[dict[str, Any]] = []
        self.cluster.states[NODE] = {"metadata": {**meta, "ownerReferences": owners}, "spec": {"nodeName": NODE}}
        self.pressed = self.waits = False
        self.run(3)

    def operator(self) -> DecisionLoop:
        """The loop of a process that begins."""
        made = settings_module.parse({"namespace": "own"}, {})
        parts: Any = (self.cluster, Leads(), self)
        self.health = Health(self.clock, 60)
        return DecisionLoop(made, parts[0], self.registry, parts[1], parts[2], Metrics(), self.health, self.clock)

    def tell(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def report(self) -> None:
        """The node's next report: its count of kills, what it did, its pods with figures."""
        self.beat += 1
        spec = self.cluster.states[NODE]["spec"]
        seen = (spec.get("grant") or {}).get("killsCeiling") or 0
        lease = {"incarnation": "i", "beat": self.beat, "killsTotal": self.kills_total, "ceilingSeen": seen}
        self.cluster.version += 1
        self.cluster.states[NODE]["metadata"]["resourceVersion"] = str(self.cluster.version)
        self.cluster.states[NODE]["status"] = {
            "lease": lease,
            "lastReportTime": f"t{self.beat}",
            "observedGeneration": self.cluster.states[NODE]["metadata"]["generation"],
            "capabilities": ["CgroupKill"],
            "activeTriggers": [{"name": "low", "since": SINCE}] if self.pressed else [],
            "topPods": [{"uid": uid, "reliefBytes": 900 << 20, "overRequest": True} for uid in self.cluster.pods],
            "recentActions": self.actions,
            "conditions": [{"type": "ActionBlocked", "status": "True", "reason": "WaitingForVictim"}] * self.waits,
        }
        self.registry.put_state(NODE, decode_state(json.dumps(self.cluster.states[NODE]).encode()))

    def kills(self, uid: str) -> None:
        """The node kills a pod, and tells at first only that it has killed."""
        self.kills_total += 1
        self.report()

    def tells(self, uid: str) -> None:
        """The kill has ended, and the node tells of it."""
        pod = {"uid": uid, "namespace": "ns", "name": uid}
        kill = {"id": f"k-{uid}", "time": SINCE, "action": "Kill", "mode": "Enforce", "result": "Success", "pod": pod}
        self.actions.append(kill)
        self.report()

    def gone(self, uid: str) -> None:
        del self.cluster.pods[uid]
        self.registry.remove_pod(uid)

    def run(self, seconds: float, step: float = 0.25) -> None:
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            for uid, body in self.cluster.pods.items():
                self.registry.put_pod(uid, decode_pod(json.dumps(body).encode()))
            self.report()
            self.loop.once()
            self.clock.now += step

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the policy's status."""
        return next(each for each in self.cluster.policies[0]["status"]["conditions"] if each["type"] == kind)

    @property
    def ceiling(self) -> int:
        return int((self.cluster.states[NODE]["spec"].get("grant") or {}).get("killsCeiling") or 0)

    @property
    def planned(self) -> list[str]:
        return sorted(pod["uid"] for pod in self.cluster.plans[NODE]["spec"]["pods"])

    @property
    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


def policy(victims: int, *, taint: bool = False, **limits: Any) -> dict[str, Any]:
    meta = {"name": "p", "uid": "u", "generation": 1, "creationTimestamp": SINCE}
    spec: dict[str, Any] = {
        "mode": "Enforce",
        "nodeSelector": {},
        "triggers": [{"name": "low", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}}],
        "ladder": [
            {"action": "Evict", "triggers": ["low"], "afterSeconds": 20, "evict": {"gracePeriodSeconds": 4}},
            {"action": "Kill", "triggers": ["low"], "afterSeconds": 0},
        ],
        "limits": {
            "cooldownSeconds": 10,
            "maxVictimsPerEpisode": victims,
            "maxVictimsPerWorkload": 3,
            "killsPerHour": 9,
            "evictionsPerHour": 9,
            **limits,
        },
    }
    if taint:
        spec["ladder"].insert(0, {"action": "Taint", "triggers": ["low"]})
    return {"metadata": meta, "spec": spec}
