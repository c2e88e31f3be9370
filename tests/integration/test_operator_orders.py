"""Ledger, grants, plans and states that somebody else writes, deletes or lies about; tied policies; deleted nodes.

All at the same time under one operator (support.operatorcases).
"""

import json
import time

import pytest
from support.atonce import Running
from support.operator_lab import GROUP, Lab, wait_for
from support.operatorcases import cases

from memorypressure_tools.apiclient import MERGE_PATCH


@pytest.fixture(scope="module")
def running(acting: Running[Lab]) -> Running[Lab]:
    return acting


@cases
def test_the_ledger_is_written_before_every_raise_of_a_ceiling(lab: Lab) -> None:
    lab.running()
    node, agent = lab.armed_node()
    pods = lab.workload(node, "web", replicas=3)
    seen = []
    for number, pod in enumerate(pods[:2], 1):
        agent.press("reserve")
        agent.kill(pod, identity=f"k{number}")
        wait_for(lambda n=number: lab.grant(node).get("killsCeiling") == n + 1, "the allowance is refilled")
        ledger, state = lab.admin.must("GET", lab.ledger_path()), lab.state(node)
        assert state is not None
        entry = next(e for e in json.loads(ledger["data"]["ledger"])["entries"] if e["node"] == node)
        assert entry["ceiling"] >= number + 1
        seen.append(int(ledger["metadata"]["resourceVersion"]) < int(state["metadata"]["resourceVersion"]))
    assert all(seen)
    wait_for(lambda: lab.get_policy()["status"]["actions"]["kills"] == 2, "both kills are counted")


@cases
def test_a_new_incarnation_gets_its_own_allowance_and_the_old_rest_counts_as_killed(lab: Lab) -> None:
    lab.running()
    _, agent = lab.armed_node()
    agent.incarnation = f"{int(time.time_ns()):032x}.{8:032x}"
    agent.report(beat=1, kills_total=0, ceiling_seen=0)
    wait_for(lambda: lab.allowed(agent) == 1, "the new journal is armed")
    ledger = json.loads(lab.admin.must("GET", lab.ledger_path())["data"]["ledger"])
    assert sorted(entry["lost"] for entry in ledger["entries"]) == [False, True]


@cases
def test_a_deleted_state_is_made_again_and_armed_again(lab: Lab) -> None:
    lab.running()
    node, agent = lab.armed_node()
    uid = (lab.state(node) or {})["metadata"]["uid"]
    lab.admin.must("DELETE", f"{GROUP}/nodememorystates/{node}")
    wait_for(lambda: (lab.state(node) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, "a new state")
    agent.report()
    wait_for(lambda: lab.allowed(agent) == 1, "armed again")


@cases
def test_a_plan_changed_by_hand_is_put_right(lab: Lab) -> None:
    lab.running()
    node, _ = lab.armed_node()
    lab.workload(node, "web")
    wait_for(lambda: len(lab.planned(node)) == 2, "planned")
    lab.admin.must("PATCH", f"{GROUP}/nodememoryplans/{node}", {"spec": {"pods": []}}, MERGE_PATCH)
    wait_for(lambda: len(lab.planned(node)) == 2, "put right")
    wait_for(
        lambda: lab.grant(node)["planGeneration"] == (lab.plan(node) or {})["metadata"]["generation"],
        "the grant names the newest plan",
    )


@cases
def test_tied_policies_are_told_and_run_dry(lab: Lab) -> None:
    lab.running()
    node = lab.node()
    lab.policy("a", mode="Enforce")
    lab.policy("b", mode="DryRun")
    for name in ("a", "b"):
        wait_for(lambda n=name: lab.condition("Conflicted", n).get("status") == "True", "both are Conflicted")
    wait_for(lambda: len(lab.events("EqualPriorityOverlap", kind="MemoryPressurePolicy")) == 2, "both are told")
    wait_for(lambda: (lab.state(node) or {"spec": {}})["spec"].get("mode") == "DryRun", "DryRun until resolved")
    lab.admin.must("PATCH", f"{GROUP}/memorypressurepolicies/{lab.prefix}a", {"spec": {"priority": 5}}, MERGE_PATCH)
    wait_for(lambda: (lab.state(node) or {})["spec"]["mode"] == "Enforce", "resolved")
    wait_for(lambda: lab.condition("Conflicted", "b").get("status") == "False", "no conflict any more")


@cases
def test_a_kill_under_a_policy_that_another_has_replaced_since_is_cleaned_up_on_the_first_ones_ledger(lab: Lab) -> None:
    lab.running()
    node = lab.node()
    lab.policy("first")
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "an allowance")
    pods = lab.workload(node, "web")
    lab.policy("second", priority=9)
    second = lab.prefix + "second"
    wait_for(lambda: (lab.state(node) or {"spec": {}})["spec"].get("policyName") == second, "the second is in force")
    agent.press("reserve")
    agent.kill(pods[0])
    wait_for(lambda: lab.evicted(pods[0]), "its clean-up")
    records = json.loads(lab.admin.must("GET", lab.ledger_path("first"))["data"]["evictions"])["records"]
    assert [(record[3], record[4]) for record in records] == [(pods[0]["metadata"]["uid"], True)]
    assert not lab.evicted(pods[1])


@cases
def test_objects_of_a_deleted_node_go_and_a_node_of_the_same_name_gets_its_own(lab: Lab) -> None:
    lab.running()
    lab.policy()
    name = lab.prefix + "again"
    body = {"metadata": {"name": name, "labels": {"lab": lab.prefix.rstrip("-")}}}
    lab.admin.must("POST", "/api/v1/nodes", body)
    wait_for(lambda: lab.plan(name) and lab.state(name), "plan and state")
    lab.admin.must("DELETE", f"/api/v1/nodes/{name}")
    wait_for(lambda: lab.plan(name) is None and lab.state(name) is None, "both are gone with the node", 60)
    made = lab.admin.must("POST", "/api/v1/nodes", body)

    def owners() -> set[str]:
        found = (lab.plan(name), lab.state(name))
        return {each["metadata"]["ownerReferences"][0]["uid"] if each else "" for each in found}

    wait_for(lambda: owners() == {made["metadata"]["uid"]}, "both belong to the new node")
    lab.admin.must("DELETE", f"/api/v1/nodes/{name}")
