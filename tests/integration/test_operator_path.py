"""The operator's ordinary path on the real API server: objects, grants, taint, eviction, status, Events.

The cases run at the same time, under one operator (support.operatorcases).
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.atonce import Running
from support.operator_lab import Lab, wait_for
from support.operatorcases import cases

from memorypressure_tools.apiclient import MERGE_PATCH


@pytest.fixture(scope="module")
def running(acting: Running[Lab]) -> Running[Lab]:
    return acting


@cases
def test_a_node_without_a_policy_has_a_disabled_state_owned_by_the_node(lab: Lab) -> None:
    node = lab.node()
    lab.running()
    state = wait_for(lambda: lab.state(node), "a state")
    uid = lab.admin.must("GET", f"/api/v1/nodes/{node}")["metadata"]["uid"]
    assert state["spec"] == {"nodeName": node, "mode": "Disabled"}
    assert [owner["uid"] for owner in state["metadata"]["ownerReferences"]] == [uid]
    assert lab.plan(node) is None


@cases
def test_a_policy_becomes_a_plan_a_state_and_a_status_and_stays_untouched_itself(lab: Lab) -> None:
    node = lab.node()
    lab.workload(node, "web")
    lab.running()
    made = lab.policy()
    wait_for(lambda: lab.planned(node) == {"web-0", "web-1"}, "both pods on the plan")
    plan = lab.plan(node)
    assert plan is not None
    state = wait_for(
        lambda: (lab.state(node) or {"spec": {}})["spec"].get("plan") and lab.state(node), "the plan's name"
    )
    assert state["spec"]["mode"] == "Enforce"
    assert state["spec"]["policyName"] == made["metadata"]["name"]
    assert state["spec"]["plan"] == {"uid": plan["metadata"]["uid"], "generation": plan["metadata"]["generation"]}
    wait_for(lambda: lab.figure("nodes", "effective") == 1, "the node is counted")
    ready = lab.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ReportMissing"), "no agent has reported"
    status = lab.get_policy()["status"]
    assert set(status["actions"].values()) == {0}
    assert status["exposure"] == {"standingKills": 0, "worstCaseHour": 6}
    meta = lab.get_policy()["metadata"]
    assert "finalizers" not in meta
    assert "annotations" not in meta
    assert meta["generation"] == 1
    lab.agent(node)
    lab.plane.kubectl("wait", f"mpp/{made['metadata']['name']}", "--for=condition=Ready", "--timeout=20s")


@cases
def test_a_node_is_armed_only_after_the_ledger_was_written(lab: Lab) -> None:
    node = lab.node()
    lab.workload(node, "web")
    lab.running()
    lab.policy()
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "an allowance of one kill")
    ledger = lab.admin.must("GET", lab.ledger_path())
    state = lab.state(node)
    assert state is not None
    assert int(ledger["metadata"]["resourceVersion"]) < int(state["metadata"]["resourceVersion"])
    assert f'"{agent.incarnation}"' in ledger["data"]["ledger"]
    wait_for(
        lambda: lab.figure("exposure", "standingKills") == 1,
        "the exposure is shown",
    )
    assert lab.get_policy()["status"]["nodes"]["armed"] == 1


@cases
def test_pressure_taints_and_evicts_and_the_taint_goes_after_the_hold_time(lab: Lab) -> None:
    node = lab.node()
    pods = lab.workload(node, "web")
    operator = lab.running()
    lab.policy()
    agent = lab.agent(node)
    wait_for(lambda: lab.planned(node), "a plan")
    foreign = {"key": "example.com/foreign", "effect": "NoSchedule", "value": "x"}
    lab.admin.must("PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": [foreign]}}, MERGE_PATCH)
    top = [{"uid": pods[1]["metadata"]["uid"], "reliefBytes": 500 << 20, "overRequest": True}]
    started = time.monotonic()
    agent.press("low", top=top)
    with lab.reporting(agent):
        wait_for(lambda: lab.our_taints(node), "our taint")
        print(f"tainted after {time.monotonic() - started:.2f} s")
        assert foreign in lab.taints(node)
        wait_for(lambda: lab.evicted(pods[1]), "the pod that brings most is evicted")
        print(f"evicted after {time.monotonic() - started:.2f} s")
        assert not lab.evicted(pods[0])
        wait_for(lambda: lab.events("EvictedForMemory", kind="Pod"), "an Event on the pod")
        wait_for(lambda: lab.events("Tainted", kind="Node"), "an Event on the node")
        wait_for(lambda: lab.figure("actions", "evictions") == 1, "the eviction is counted")
        assert lab.get_policy()["status"]["lastActionTime"]
    agent.clear()
    cleared = time.monotonic()
    wait_for(lambda: not lab.our_taints(node), "the taint is lifted", 30)
    assert time.monotonic() - cleared > 9
    assert foreign in lab.taints(node)
    assert (
        operator.metric(
            "memorypressure_actions_total", policy=lab.prefix + "p", action="Evict", mode="Enforce", result="Success"
        )
        == 1
    )
    wait_for(lambda: lab.events("MemoryPressureCleared"), "the end of pressure is told")


def explained(lab: Lab, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `explain`."""
    command = [str(Path(sys.executable).parent / "memorypressure-operator"), "explain", *arguments]
    places = ["--kubeconfig", str(lab.plane.kubeconfig), "--namespace", lab.home]
    done = subprocess.run([*command, *places], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@cases
def test_explain_says_of_every_pod_of_a_node_whether_it_may_be_stopped_and_why(lab: Lab) -> None:
    node, other = lab.node(), lab.node("n2")
    lab.policy(limits={"maxVictimsPerWorkload": 1, "maxStandingKills": 1})
    lab.policy("low", priority=-5)
    lab.workload(node, "web")
    lab.pod(node, "bare")
    lab.workload(node, "shy", annotations={"memorypressure.dev/protected": "true"})
    lab.workload(node, "wide", replicas=1)
    lab.workload(other, "wide", replicas=1, first=1)
    lab.running()
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "an allowance")
    wait_for(lambda: len(lab.planned(node) | lab.planned(other)) == 3, "plans")
    code, found = explained(lab, node, "--output", "json")
    assert code == 0, found
    facts = json.loads(found)
    assert (facts["policy"], facts["mode"]) == (lab.prefix + "p", "Enforce")
    assert facts["other_policies"][lab.prefix + "low"] == "superseded: priority -5"
    assert facts["facts"]["grant"] == "kills left: 1; done by this journal: 0"
    pods = {pod["name"]: (pod["may_be_stopped"], pod["reason"]) for pod in facts["pods"]}
    wide = ("yes", "OnPlan") if "wide-0" in lab.planned(node) else ("soon", "WorkloadLimit")
    assert pods == {
        "web-0": ("yes", "OnPlan"),
        "web-1": ("yes", "OnPlan"),
        "bare": ("no", "UnmanagedPod"),
        "shy-0": ("no", "Annotated"),
        "shy-1": ("no", "Annotated"),
        "wide-0": wide,
    }
    code, found = explained(lab, node)
    assert code == 0
    assert "may be stopped" in found
    assert "UnmanagedPod" in found
    assert explained(lab, "no-such-node") == (
        1,
        "memorypressure-operator: there is no node no-such-node; kubectl get nodes lists them\n",
    )
