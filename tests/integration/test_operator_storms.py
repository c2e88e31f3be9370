"""The API server misbehaves before a running operator: it recovers by itself; its probes name what is wrong meanwhile.

One operator for the whole file, behind a proxy that makes the faults; behind the proxy is a real API server.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.faultproxy import FaultProxy
from support.operator_lab import GROUP, Agent, Lab, OperatorProcess, wait_for

from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.sweep import remove_namespace, remove_prefixed

RBAC = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
SLOW_BUT_HELD = (
    ("--request-timeout-seconds", "4"),
    ("--renew-timeout-seconds", "3"),
    ("--renew-deadline-seconds", "6"),
    ("--lease-seconds", "10"),
    ("--unready-seconds", "1"),
)


@dataclass
class Storm:
    """A running operator behind the proxy, with one armed node."""

    lab: Lab
    proxy: FaultProxy
    kubeconfig: Path
    operator: OperatorProcess
    node: str
    agent: Agent

    def renews(self) -> None:
        """Waits until the grant of a new beat of the node is there: everything works again."""
        self.agent.beat += 1
        self.agent.report()
        wait_for(lambda: self.lab.grant(self.node).get("beat") == self.agent.beat, "the grant is renewed")

    def healed(self) -> None:
        """The fault ends: the probes are good again, and the work is done."""
        self.proxy.heal()
        self.operator.ready()
        self.operator.leads()
        self.renews()
        assert self.operator.probe("/healthz")[0] == 200
        assert "Traceback" not in self.operator.text()

    def unready(self, pattern: str) -> dict[str, Any]:
        """The probe's facts, once /readyz fails and one of its reasons matches; /healthz stays good."""

        def named() -> dict[str, Any] | None:
            code, facts = self.operator.probe("/readyz")
            return facts if code == 503 and any(re.search(pattern, each) for each in facts["not_ready"]) else None

        facts: dict[str, Any] = wait_for(named, f"/readyz names {pattern}")
        assert self.operator.probe("/healthz")[0] == 200
        return facts


def settings() -> list[str]:
    return [word for pair in SLOW_BUT_HELD for word in pair]


def binding(lab: Lab) -> dict[str, Any]:
    return {
        "metadata": {"name": lab.prefix + "op"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": lab.home}],
    }


@pytest.fixture(scope="module")
def storm(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    admin = crds.admin
    admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "storm"}})
    crds.wait_for_service_account("storm")
    lab = Lab(crds, "storm-", "storm", tmp_path_factory.mktemp("storm"))
    admin.must("POST", f"/api/v1/namespaces/{lab.home}/serviceaccounts", {"metadata": {"name": "op"}})
    admin.must("POST", RBAC, binding(lab))
    try:
        with contextlib.closing(FaultProxy(crds)) as proxy:
            config = crds.write_kubeconfig("storm", server=proxy.url, token=crds.token(lab.home, "op"))
            operator = lab.operator(*settings(), kubeconfig=config)
            operator.ready()
            operator.leads()
            node = lab.node()
            lab.policy()
            agent = lab.agent(node)
            wait_for(lambda: lab.allowed(agent) == 1, "an allowance")
            storm = Storm(lab, proxy, config, operator, node, agent)
            yield storm
            proxy.heal()
            assert storm.operator.stop() == 0
    finally:
        lab.close()
        for namespace in ("storm", lab.home):
            remove_namespace(admin, namespace)
        remove_prefixed(admin, "storm-")


def writes_but_the_lease(method: str, path: str) -> bool:
    return method != "GET" and "/leases" not in path


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_a_storm_of_refusals_delays_and_breaks_nothing(storm: Storm, status: int) -> None:
    storm.proxy.faults.refuse = lambda method, path: status if writes_but_the_lease(method, path) else 0
    before = storm.proxy.refused
    storm.agent.beat += 1
    storm.agent.report()
    wait_for(lambda: storm.proxy.refused >= before + 2, "writes are refused and tried again")
    if status != 409:  # a conflict is daily life
        storm.unready(rf"PATCH nodememorystates fails for .*: {status}")
    assert storm.operator.probe("/healthz")[1]["leader"]
    storm.healed()


def test_watches_that_are_cut_go_on_where_they_were(storm: Storm) -> None:
    restarts = storm.operator.metrics().count("stream_restarts_total")
    assert storm.proxy.cut() >= 6
    late = storm.lab.node("late")
    wait_for(lambda: storm.lab.state(late), "what changed meanwhile is seen")
    assert storm.operator.metrics().count("stream_restarts_total") == restarts
    storm.healed()


def test_what_was_deleted_while_a_watch_was_expired_is_missed_in_the_new_list(storm: Storm) -> None:
    pods = storm.lab.workload(storm.node, "web", replicas=3)
    wait_for(lambda: len(storm.lab.planned(storm.node)) == 3, "planned")
    storm.proxy.faults.refuse = lambda _method, path: 503 if path.startswith("/api/v1/pods?") else 0
    storm.proxy.cut()
    storm.unready(r"WATCH pods fails for .*: 503")
    meta = pods[0]["metadata"]
    storm.lab.admin.must(
        "DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", {"gracePeriodSeconds": 0}
    )
    expired = {"pods"}
    storm.proxy.heal()
    storm.proxy.faults.expired = expired
    wait_for(lambda: not expired, "the watch was told that it has expired")
    wait_for(lambda: meta["name"] not in storm.lab.planned(storm.node), "the deleted pod goes from the plan")
    assert (
        storm.operator.metric("memorypressure_operator_stream_restarts_total", resource="pods", reason="Expired") >= 1
    )
    storm.healed()


def test_with_two_seconds_a_call_the_lease_is_held_and_the_work_done(storm: Storm) -> None:
    storm.proxy.faults.delay_seconds = 2.0
    storm.agent.beat += 1
    storm.agent.report()
    wait_for(lambda: storm.lab.grant(storm.node).get("beat") == storm.agent.beat, "the grant is renewed, slowly")
    held = [storm.operator.probe("/healthz") for _ in range(8) if not time.sleep(0.5)]
    assert all(code == 200 and facts["leader"] for code, facts in held)
    storm.healed()


def test_rights_that_are_taken_away_are_named_and_taken_up_again(storm: Storm) -> None:
    admin = storm.lab.admin
    admin.must("DELETE", f"{RBAC}/{storm.lab.prefix}op")
    facts = storm.unready(r"(GET|PUT) leases fails for .*: 403 Forbidden")
    assert not facts["problems"]
    wait_for(lambda: not storm.operator.probe("/healthz")[1]["leader"], "without rights the Lease runs out")
    admin.must("POST", RBAC, binding(storm.lab))
    storm.healed()


def test_a_state_edited_by_hand_is_put_right(storm: Storm) -> None:
    path = f"{GROUP}/nodememorystates/{storm.node}"
    storm.lab.admin.must("PATCH", path, {"spec": {"mode": "Disabled", "policyName": "nobody"}}, MERGE_PATCH)

    def right() -> bool:
        spec = (storm.lab.state(storm.node) or {"spec": {}})["spec"]
        return bool(spec.get("mode") == "Enforce" and spec.get("policyName") == "storm-p")

    wait_for(right, "the orders are as they were")
    storm.healed()


def test_three_hundred_pods_with_unicode_and_long_names_on_one_node(storm: Storm) -> None:
    """A plan holds the youngest 250; names of the greatest length and notes in any script are pods like others."""
    lab, admin = storm.lab, storm.lab.admin
    path = f"/api/v1/namespaces/{lab.namespace}/pods"
    owner_uid = lab.workload(storm.node, "crowd", replicas=1)[0]["metadata"]["ownerReferences"][0]["uid"]
    owner = {"apiVersion": "v1", "kind": "PodTemplate", "name": "crowd", "uid": owner_uid, "controller": True}
    for number in range(300):
        name = f"crowd-{number:03d}".ljust(253, "x") if number >= 290 else f"crowd-{number:03d}"
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": "crowd"},
                "annotations": {"note": "Speicherdruck 記憶體 الذاكرة 🧠"},
                "ownerReferences": [owner],
            },
            "spec": {
                "nodeName": storm.node,
                "containers": [{"name": "main", "image": "none"}],
                "automountServiceAccountToken": False,
                "hostname": "crowd",
                "tolerations": [{"operator": "Exists"}],
            },
        }
        if number == 0:
            continue  # made above
        admin.must("POST", path, body)

    def planned() -> set[str]:
        found = lab.planned(storm.node)
        return found if len(found) == 250 else set()

    wait_for(lambda: any(len(name) == 253 for name in planned()), "the plan holds 250 of them", 60)
    wait_for(lambda: "eligible pods are not on the plan, it holds 250" in storm.operator.text(), "the rest is told")
    storm.healed()


# --- killed at every step of an eviction ---


def _eviction(path: str, method: str) -> bool:
    return method == "POST" and path.split("?", maxsplit=1)[0].endswith("/eviction")


def _record(path: str, method: str) -> bool:
    return method == "PUT" and "/configmaps/memory-pressure-ledger-storm-e" in path


STEPS = {
    "before the eviction is recorded": ("before", _record),
    "after it was recorded": ("after", _record),
    "before it is asked for": ("before", _eviction),
    "after it was done": ("after", _eviction),
}


# What lies between the second step and the third is nothing but time.
@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[pytest.mark.soak] if step.startswith("before it") else []) for step in STEPS]
)
def test_killed_at_a_step_of_an_eviction_the_next_operator_neither_repeats_nor_forgets_it(
    storm: Storm, step: str
) -> None:
    when, matches = STEPS[step]
    lab, number = storm.lab, list(STEPS).index(step)
    lab.policy(f"e{number}", nodeSelector={"matchLabels": {"step": str(number)}}, limits={"maxStandingKills": 0})
    node = lab.node(f"step{number}", {"step": str(number), "lab": "none"})
    agent = lab.agent(node)
    pods = lab.workload(node, f"victims{number}", replicas=3)
    wait_for(lambda: len(lab.planned(node)) == 3, "planned")
    time.sleep(0.5)  # the ledger of the policy is written once when it is new
    first = storm.operator
    killed = []

    def kill(method: str, path: str) -> None:
        if matches(path, method) and not killed:
            killed.append(path)
            first.child.kill()
            if when == "before":
                raise ConnectionAbortedError("the request goes no further")

    setattr(storm.proxy.faults, when, kill)
    top = [{"uid": pod["metadata"]["uid"], "reliefBytes": 500 << 20, "overRequest": True} for pod in pods]
    agent.press("low", top=top)
    wait_for(lambda: killed, f"the operator is killed {step}")
    first.kill()
    storm.proxy.heal()
    storm.operator = lab.operator(*settings(), kubeconfig=storm.kubeconfig, identity=f"next{number}")
    storm.operator.ready()
    storm.operator.leads()
    with lab.reporting(agent):
        wait_for(lambda: any(map(lab.evicted, pods)), "a pod is evicted")
        time.sleep(2)
        assert sum(map(lab.evicted, pods)) == 1
    (told,) = [event for event in lab.events("EvictedForMemory", kind="Node") if event["regarding"]["name"] == node]
    assert f"/victims{number}" in told["note"], "told once, also where it ended before it told anything"
    ledger = lab.admin.must("GET", lab.ledger_path(f"e{number}"))["data"]
    assert json.loads(ledger["evictions"])["records"], "what may have been evicted is on record"
    agent.clear()
    storm.healed()
