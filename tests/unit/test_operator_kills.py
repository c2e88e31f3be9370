"""A node's own kill that is not over: nobody else is taken there, no further kill is granted, its pod is on no plan."""

import json
from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure.reasons import Reason
from memorypressure_operator import kills
from memorypressure_operator import settings as settings_module
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.events import Event
from memorypressure_operator.health import Health
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import decode_pod
from memorypressure_operator.reconcile import DecisionLoop
from memorypressure_operator.registry import SINKS, Registry
from memorypressure_operator.reports import decode_state
from memorypressure_operator.views import NodeView

NODE = "n"
SINCE = "2026-01-01T00:00:00Z"


class Leads:
    term = 1

    def holds(self) -> bool:
        return True


class World:
    """The whole decision loop, one node under pressure with three pods, and a clock that a test moves."""

    def __init__(self, victims: int = 1) -> None:
        self.clock, self.cluster = Clock(), FakeCluster()
        self.events: list[Event] = []
        self.registry = Registry(self.clock, 0.0)
        for name in SINKS:
            self.registry.mark_synced(name)
        made = settings_module.parse({"namespace": "own"}, {})
        parts: Any = (self.cluster, Leads(), self)
        self.loop = DecisionLoop(
            made, parts[0], self.registry, parts[1], parts[2], Metrics(), Health(self.clock, 60), self.clock
        )
        self.cluster.policies = [policy(victims)]
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

    @property
    def ceiling(self) -> int:
        return int((self.cluster.states[NODE]["spec"].get("grant") or {}).get("killsCeiling") or 0)

    @property
    def planned(self) -> list[str]:
        return sorted(pod["uid"] for pod in self.cluster.plans[NODE]["spec"]["pods"])

    @property
    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


def policy(victims: int) -> dict[str, Any]:
    meta = {"name": "p", "uid": "u", "generation": 1, "creationTimestamp": SINCE}
    spec = {
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
        },
    }
    return {"metadata": meta, "spec": spec}


@pytest.fixture(autouse=True)
def _old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memorypressure_operator.telling.Teller._age_seconds", lambda *_: 0.0)


@pytest.fixture
def world() -> World:
    return World()


def test_a_node_that_tells_of_no_kill_has_one_granted(world: World) -> None:
    assert world.ceiling == 1
    assert world.planned == ["a", "b", "c"]


def test_no_further_kill_is_granted_before_the_killed_pod_has_gone(world: World) -> None:
    world.pressed = True
    world.kills("a")
    world.run(3)
    assert world.ceiling == 1, "it has told only that it killed"
    world.tells("a")
    world.run(10)
    assert world.cluster.evictions == ["a"], "lest it starts in place"
    assert world.ceiling == 1, "its containers are ending"
    world.gone("a")
    world.run(3)
    assert world.ceiling == 2


def test_a_report_that_comes_between_a_look_at_its_node_and_the_round_of_grants_raises_nothing(world: World) -> None:
    world.pressed = True
    world.run(2)
    run = world.loop.rounds.run

    def late(policies: Any) -> None:
        world.kills("a")
        run(policies)

    world.loop.rounds.run = late  # type: ignore[method-assign]
    world.report()
    world.clock.now += 1
    world.loop.once()
    assert (world.kills_total, world.ceiling) == (1, 1)


def test_a_kill_that_was_told_while_no_operator_ran_is_waited_for_as_well(world: World) -> None:
    world.pressed = True
    world.kills_total += 1
    world.tells("a")
    world.loop.memories.clear()
    world.run(5)
    assert world.cluster.evictions == ["a"]
    assert world.ceiling == 1
    world.gone("a")
    world.run(3)
    assert world.ceiling == 2


def test_a_killed_pod_that_does_not_go_leaves_its_node_without_a_grant_for_a_minute_only(world: World) -> None:
    world.kills("a")
    world.tells("a")
    world.run(kills.GRANT_WAITS_SECONDS - 5)
    assert world.ceiling == 1
    world.run(10)
    assert world.ceiling == 2
    assert world.planned == ["b", "c"], "what is ending is on no plan"


def test_a_killed_pod_is_on_no_plan_from_the_report_of_its_kill_on(world: World) -> None:
    world.cluster.answers["a"] = [no()] * 99
    world.kills("a")
    world.tells("a")
    world.run(1)
    assert world.planned == ["b", "c"]
    world.run(kills.GRANT_WAITS_SECONDS)
    assert world.ceiling == 2
    assert world.planned == ["b", "c"], "its budget keeps it, and it is to go first"


def test_a_killed_pod_that_is_to_stay_is_waited_for_no_longer(world: World) -> None:
    world.cluster.pods["a"]["metadata"]["annotations"] = {"memorypressure.dev/protected": "true"}
    world.kills("a")
    world.tells("a")
    world.run(3)
    assert world.cluster.evictions == []
    assert world.ceiling == 2


def test_nobody_is_evicted_while_the_nodes_own_kill_is_not_over() -> None:
    world = World(victims=2)
    world.cluster.answers["a"] = [no()] * 99
    world.pressed = True
    world.run(19)
    world.kills("a")
    world.run(12)
    world.tells("a")
    world.run(kills.EVICTION_WAITS_SECONDS - 2)
    assert set(world.cluster.evictions) == {"a"}
    assert Reason.WAITING_FOR_VICTIM in world.reasons
    world.run(5)
    assert set(world.cluster.evictions) == {"a", "b"}, "its wait has an end"


def test_a_kill_under_way_when_an_operator_begins_is_known_by_what_the_node_says() -> None:
    world = World(victims=2)
    world.pressed = True
    world.run(19)
    world.waits = True
    world.kills("a")
    world.loop.memories.clear()
    world.run(kills.EVICTION_WAITS_SECONDS - 2)
    assert world.cluster.evictions == []
    world.waits = False
    world.run(5)
    assert world.cluster.evictions, "its wait has an end"


def no() -> Exception:
    return ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))
