"""What the operator does to pods and nodes, and what it leaves alone, on the real API server.

Most run at the same time, together with those of test_operator_orders.py and test_operator_path.py, by
support.operatorcases; those that count what one operator did, or start one with other options, have one of their own.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.atonce import Running
from support.operator_lab import GROUP, Agent, Lab, wait_for
from support.operatorcases import cases

from memorypressure_tools import toolcache
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane


@pytest.fixture(scope="module")
def running(acting: Running[Lab]) -> Running[Lab]:
    return acting


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


def top(*pods: dict[str, Any], megabytes: int = 500) -> list[dict[str, Any]]:
    """status.topPods, largest first."""
    return [
        {"uid": pod["metadata"]["uid"], "reliefBytes": (megabytes - 10 * index) << 20, "overRequest": True}
        for index, pod in enumerate(pods)
    ]


def budget(lab: Lab, name: str, app: str, allowed: int) -> None:
    """A PodDisruptionBudget whose status allows so many disruptions."""
    path = f"/apis/policy/v1/namespaces/{lab.namespace}/poddisruptionbudgets"
    minimum = 10 if allowed == 0 else 0
    spec = {"minAvailable": minimum, "selector": {"matchLabels": {"app": app}}}
    lab.admin.must("POST", path, {"metadata": {"name": name}, "spec": spec})

    def settled() -> bool:
        status = lab.admin.must("GET", f"{path}/{name}").get("status", {})
        return status.get("observedGeneration") == 1 and (status.get("disruptionsAllowed", 0) > 0) == (allowed > 0)

    wait_for(settled, f"budget {name} is computed")


def ready_node(lab: Lab, **policy: Any) -> tuple[str, Agent]:
    node = lab.node()
    lab.policy(**policy)
    return node, lab.agent(node)


def test_an_eviction_that_a_budget_refuses_goes_to_the_next_pod(lab: Lab) -> None:
    operator = lab.running()
    node, agent = ready_node(lab)
    held, free = lab.workload(node, "held"), lab.workload(node, "free")
    budget(lab, "held", "held", 0)
    wait_for(lambda: lab.planned(node) == {"free-0", "free-1"}, "pods whose budget allows nothing are off the plan")
    agent.press("low", top=top(held[0], free[0]))
    with lab.reporting(agent):
        wait_for(lambda: lab.evicted(free[0]), "the next pod is evicted")
        told = wait_for(lambda: lab.events("DisruptionBudget", kind="Pod"), "the refusal is told")
    assert not lab.evicted(held[0])
    assert told[0]["regarding"]["name"] == "held-0"
    assert operator.metric("memorypressure_actions_denied_total", action="Evict", reason="DisruptionBudget") == 1
    wait_for(lambda: lab.figure("actions", "evictions") == 1, "one eviction is counted")


@cases
def test_two_budgets_on_one_pod_are_a_refusal_not_a_failure(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab)
    held, free = lab.workload(node, "held"), lab.workload(node, "free")
    budget(lab, "one", "held", 1)
    budget(lab, "two", "held", 1)
    agent.press("low", top=top(held[0], free[0]))
    with lab.reporting(agent):
        wait_for(lambda: lab.evicted(free[0]), "the next pod is evicted")
    assert not lab.evicted(held[0])


@cases
def test_one_victim_at_a_time_then_the_cool_down_then_the_next(lab: Lab) -> None:
    operator = lab.running()
    node, agent = ready_node(lab, limits={"cooldownSeconds": 10, "maxVictimsPerEpisode": 2})
    pods = lab.workload(node, "web", replicas=4)
    agent.press("low", top=top(*pods))
    with lab.reporting(agent):
        wait_for(lambda: lab.evicted(pods[0]), "the first")
        assert [lab.evicted(pod) for pod in pods] == [True, False, False, False]
        wait_for(lambda: lab.evicted(pods[1]), "the second, after the cool-down")
        told = re.compile(rf"{node}\b.*EpisodeLimit|EpisodeLimit.*{node}\b")
        wait_for(lambda: told.search(operator.text()), "the episode's limit is reached", 20)
    assert [lab.evicted(pod) for pod in pods] == [True, True, False, False]
    ledger = json.loads(lab.admin.must("GET", lab.ledger_path())["data"]["evictions"])
    assert len(ledger["records"]) == 2


@cases
def test_a_pod_that_outlives_its_grace_is_deleted_again_with_a_shorter_one(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(
        lab, ladder=[{"action": "Evict", "triggers": ["low"], "afterSeconds": 0, "evict": {"gracePeriodSeconds": 2}}]
    )
    pods = lab.workload(node, "stuck")
    path = f"/api/v1/namespaces/{lab.namespace}/pods/stuck-0"
    lab.admin.must("PATCH", path, {"metadata": {"finalizers": ["example.com/stuck"]}}, MERGE_PATCH)
    agent.press("low", top=top(pods[0]))
    with lab.reporting(agent):
        wait_for(lambda: lab.evicted(pods[0]), "evicted")
        found = wait_for(lambda: lab.events("WaitEnded", kind="Pod"), "the second delete is told", 40)
    assert "deleted again with 1 s" in found[0]["note"]
    meta = lab.admin.must("GET", path)["metadata"]
    assert meta["deletionGracePeriodSeconds"] <= 1
    lab.admin.must("PATCH", path, {"metadata": {"finalizers": None}}, MERGE_PATCH)


@cases
def test_a_killed_pod_is_evicted_afterwards_also_when_no_eviction_is_left(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab, limits={"evictionsPerHour": 0})
    pods = lab.workload(node, "web")
    agent.press("reserve", top=top(pods[0]))
    with lab.reporting(agent):
        wait_for(lambda: lab.allowed(agent) == 1, "it may kill")
        agent.kill(pods[0])
        wait_for(lambda: lab.evicted(pods[0]), "the killed pod is evicted")
        killed = wait_for(lambda: lab.events("Killed", kind="Pod"), "the kill is explained")
    note = killed[0]["note"]
    for words in (f"on node {node}", "0/Normal", "41% of AtomicReserve", "free 20.0 MiB, min 45.0 MiB"):
        assert words in note
    assert "117.7 MiB came back" in note
    assert "exit code 137" in note
    assert lab.events("Killed", kind="Node")
    assert not lab.evicted(pods[1])
    wait_for(lambda: lab.figure("actions", "kills") == 1, "the kill is counted")
    assert lab.get_policy()["status"]["actions"]["evictions"] == 0, "a clean-up is none"


@cases
def test_a_node_that_says_it_killed_a_protected_pod_does_not_get_it_evicted(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab)
    pods = lab.workload(node, "kept")
    path = f"/api/v1/namespaces/{lab.namespace}/pods/kept-0"
    mark = {"metadata": {"annotations": {"memorypressure.dev/protected": "true"}}}
    lab.admin.must("PATCH", path, mark, MERGE_PATCH)
    wait_for(lambda: "kept-0" not in lab.planned(node), "the protected pod is off the plan")
    agent.press("reserve")
    with lab.reporting(agent):
        wait_for(lambda: lab.allowed(agent) == 1, "it may kill")
        agent.kill(pods[0])
        wait_for(lambda: lab.events("Annotated", kind="Pod"), "why it stays is told")
    assert not lab.evicted(pods[0])


@cases
def test_a_killed_pod_with_a_budget_stays_and_its_eviction_is_tried_again(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab, limits={"evictionsPerHour": 0})
    pods = lab.workload(node, "held")
    budget(lab, "held", "held", 0)
    agent.press("reserve")
    with lab.reporting(agent):
        wait_for(lambda: lab.allowed(agent) == 1, "it may kill")
        agent.kill(pods[0])
        wait_for(lambda: lab.events("DisruptionBudget", kind="Pod"), "the refusal is told")
        assert not lab.evicted(pods[0])
        assert lab.our_taints(node)
        lab.admin.must("DELETE", f"/apis/policy/v1/namespaces/{lab.namespace}/poddisruptionbudgets/held")
        wait_for(lambda: lab.evicted(pods[0]), "the next try succeeds", 40)


@cases
def test_dry_run_tells_once_an_episode_and_touches_nothing(lab: Lab) -> None:
    operator = lab.running()
    node, agent = ready_node(lab, mode="DryRun")
    pods = lab.workload(node, "web")
    before = lab.admin.must("GET", f"/api/v1/nodes/{node}")["spec"]
    agent.press("low", "reserve", top=top(*pods))
    with lab.reporting(agent):
        wait_for(lambda: lab.events("WouldTaint", kind="Node"), "WouldTaint")
        wait_for(lambda: lab.events("WouldEvict", kind="Pod"), "WouldEvict")
        agent.kill(pods[0], mode="DryRun")
        wait_for(lambda: lab.events("WouldKill", kind="Pod"), "WouldKill")
        wait_for(lambda: lab.figure("actions", "dryRun") == 3, "three would-be actions are counted")
    assert lab.admin.must("GET", f"/api/v1/nodes/{node}")["spec"] == before
    assert not any(lab.evicted(pod) for pod in pods)
    assert len(lab.events("WouldEvict", kind="Pod")) == 1
    assert lab.grant(node) == {}
    assert lab.admin.request("GET", lab.ledger_path()).status == 404
    assert (
        operator.metric(
            "memorypressure_actions_total", policy=lab.prefix + "p", action="Evict", mode="DryRun", result="Success"
        )
        == 1
    )


def test_dry_run_only_makes_enforce_a_dry_run(lab: Lab) -> None:
    lab.running("--dry-run-only")
    node, agent = ready_node(lab)
    pods = lab.workload(node, "web")
    agent.press("low", top=top(*pods))
    with lab.reporting(agent):
        wait_for(lambda: lab.events("WouldEvict", kind="Pod"), "WouldEvict")
    state = lab.state(node)
    assert state is not None
    assert state["spec"]["mode"] == "DryRun"
    assert not any(lab.evicted(pod) for pod in pods)
    wait_for(lambda: "--dry-run-only" in lab.condition("Ready").get("message", ""), "the policy says so")


@cases
def test_protected_pods_are_neither_planned_nor_evicted(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab)
    guarded = f"{lab.namespace}-guarded"
    lab.admin.must(
        "POST",
        "/api/v1/namespaces",
        {"metadata": {"name": guarded, "labels": {"memorypressure.dev/protected": "true"}}},
    )
    lab.plane.wait_for_service_account(guarded)
    static = lab.pod(node, "static", annotations={"kubernetes.io/config.mirror": "x"})
    unmanaged = lab.pod(node, "unmanaged")
    single = lab.workload(node, "single", replicas=1)[0]
    disk = lab.workload(node, "disk", spec={"volumes": [{"name": "d", "emptyDir": {}}]})
    opted = lab.workload(node, "opted", annotations={"memorypressure.dev/protected": "true"})
    space = lab.pod(node, "space", namespace=guarded)
    daemons = lab.workload(node, "daemon")
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": True}
    uid = make_daemon_set(lab)
    for pod in daemons:
        path = f"/api/v1/namespaces/{lab.namespace}/pods/{pod['metadata']['name']}"
        lab.admin.must("PATCH", path, {"metadata": {"ownerReferences": [{**owner, "uid": uid}]}}, MERGE_PATCH)
    web = lab.workload(node, "web")
    wait_for(lambda: lab.planned(node) == {"web-0", "web-1"}, "only the ordinary pods are planned")
    everything = [static, unmanaged, single, *disk, *opted, space, *daemons]
    agent.press("low", top=top(*everything[:9], web[0]))
    with lab.reporting(agent):
        wait_for(lambda: lab.evicted(web[0]), "the ordinary pod is evicted")
    assert [pod["metadata"]["name"] for pod in everything if lab.evicted(pod)] == []


def make_daemon_set(lab: Lab) -> str:
    """The UID of a DaemonSet that runs nowhere."""
    template = {
        "metadata": {"labels": {"app": "d"}},
        "spec": {"nodeSelector": {"none": "x"}, "containers": [{"name": "main", "image": "none"}]},
    }
    spec = {"selector": {"matchLabels": {"app": "d"}}, "template": template}
    body = {"metadata": {"name": "d"}, "spec": spec}
    made = lab.admin.must("POST", f"/apis/apps/v1/namespaces/{lab.namespace}/daemonsets", body)
    return str(made["metadata"]["uid"])


@cases
def test_a_workload_moves_to_the_node_under_pressure_when_the_armed_one_has_taken_its_new_plan(lab: Lab) -> None:
    lab.running()
    nodes = [lab.node("n1"), lab.node("n2")]
    lab.policy(limits={"maxVictimsPerWorkload": 1})
    lab.workload(nodes[0], "web")
    lab.workload(nodes[1], "web", first=2)
    wait_for(lambda: sorted(map(len, map(lab.planned, nodes))) == [0, 2], "web is on one plan")
    calm = next(node for node in nodes if not lab.planned(node))
    armed = next(node for node in nodes if node != calm)
    holder = lab.agent(armed)
    wait_for(lambda: lab.allowed(holder) == 1, "the holder is armed")
    holder.report(obeys=False)
    agent = lab.agent(calm)
    agent.press("low")
    with lab.reporting(agent, holder):
        wait_for(lambda: not lab.planned(armed), "the armed node's plan loses the workload")
        time.sleep(3)
        assert not lab.planned(calm), "the armed node may still kill by its old plan"
        holder.obeys = True
        wait_for(lambda: len(lab.planned(calm)) == 2, "the node under pressure gets the place")
        assert not lab.planned(armed)


@cases
def test_foreign_taints_survive_edits_at_the_same_time(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab)
    path = f"/api/v1/nodes/{node}"
    agent.press("low")
    with lab.reporting(agent, every_seconds=0.1):
        for number in range(25):
            taint = {"key": f"example.com/t{number}", "effect": "PreferNoSchedule"}
            taints = lab.taints(node)
            guard = {"op": "test", "path": "/spec/taints", "value": taints or None}
            change = {"op": "replace" if taints else "add", "path": "/spec/taints", "value": [*taints, taint]}
            answer = lab.admin.request("PATCH", path, [guard, change], "application/json-patch+json")
            assert answer.status in (200, 422)
            if answer.status == 422:
                wait_for(lambda t=taint: add_taint(lab, node, t), "the foreign taint")
        wait_for(lambda: lab.our_taints(node), "our taint")
    assert {taint["key"] for taint in lab.taints(node)} == {
        "memorypressure.dev/pressure",
        *(f"example.com/t{number}" for number in range(25)),
    }


def add_taint(lab: Lab, node: str, taint: dict[str, str]) -> bool:
    taints = lab.taints(node)
    patch = [
        {"op": "test", "path": "/spec/taints", "value": taints or None},
        {"op": "add", "path": "/spec/taints", "value": [*taints, taint]},
    ]
    return lab.admin.request("PATCH", f"/api/v1/nodes/{node}", patch, "application/json-patch+json").status == 200


@cases
def test_the_taint_goes_when_the_policy_goes(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab)
    agent.press("low")
    with lab.reporting(agent):
        wait_for(lambda: lab.our_taints(node), "our taint")
        lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/{lab.prefix}p")
        wait_for(lambda: not lab.our_taints(node), "lifted with its policy")
    state = lab.state(node)
    assert state is not None
    assert state["spec"]["mode"] == "Disabled"
    assert "policyName" not in state["spec"]


def test_a_stale_report_acts_on_nothing_after_a_restart(lab: Lab) -> None:
    first = lab.running()
    node, agent = ready_node(lab)
    pods = lab.workload(node, "web")
    assert first.stop() == 0
    agent.press("low", top=top(*pods))
    second = lab.running(identity="two")
    wait_for(lambda: lab.figure("nodes", "underPressure") == 1, "the report was read")
    wait_for(lambda: "SampleStale" in second.text() or second.probe("/readyz")[0] == 200, "a pass")
    assert not any(lab.evicted(pod) for pod in pods)
    assert not lab.our_taints(node)
    agent.report()
    wait_for(lambda: lab.our_taints(node) and lab.evicted(pods[0]), "acts on a fresh report")


@cases
def test_another_policy_arms_the_node_only_after_the_first_ones_allowance_is_released(lab: Lab) -> None:
    lab.running()
    node, agent = ready_node(lab)
    wait_for(lambda: lab.allowed(agent) == 1, "armed by the first")
    agent.obey(lab.state(node) or {})
    lab.policy("q", priority=5)
    wait_for(lambda: (lab.state(node) or {})["spec"]["policyName"] == lab.prefix + "q", "the second is in force")
    wait_for(lambda: lab.allowed(agent) <= 0, "the first one's allowance is withdrawn")
    agent.obey(lab.state(node) or {})
    wait_for(lambda: lab.allowed(agent) == 1, "armed by the second, after the acknowledgement")
    wait_for(lambda: lab.figure("exposure", "standingKills", "p") == 0, "the first ledger lets go")
    entries = json.loads(lab.admin.must("GET", lab.ledger_path("q"))["data"]["ledger"])["entries"]
    assert [entry["node"] for entry in entries] == [node]


@pytest.mark.needs("promtool")
@cases
def test_metrics_are_what_prometheus_wants(lab: Lab) -> None:
    operator = lab.running()
    node, _ = ready_node(lab)
    wait_for(lambda: lab.state(node), "a state")
    text = operator.metrics()
    names = set(re.findall(r"^# TYPE (\S+) counter", text, re.MULTILINE))
    assert all(name.endswith("_total") for name in names)
    promtool = toolcache.ensure(["promtool"])["promtool"]
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert 'memorypressure_build_info{component="operator",version="' in text
    assert operator.metric("memorypressure_operator_leader") == 1
    for resource in ("pods", "nodes", "nodememorystates", "nodememoryplans", "namespaces", "poddisruptionbudgets"):
        assert operator.metric("memorypressure_operator_stream_synced", resource=resource) == 1
