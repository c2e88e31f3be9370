"""What is not understood, and what is taken back in the middle of an episode, from end to end: nobody is killed by it.

Ledgers, orders and journals that were damaged, edited or are of another version; plans beyond the limit; a policy that
is changed or deleted while a kill is due. Each case has nodes of its own; they run at the same time, together with
those of test_grants.py (support.pathcases).
"""

import json
import re
import time
import zlib
from typing import Any

from support.operator_lab import GROUP, Object, wait_for
from support.pathcases import cases
from support.pathlab import LONG_SECONDS, SETTLED_SECONDS, PathLab, PathNode

from memorypressure_agent.host import journal_format
from memorypressure_tools.apiclient import MERGE_PATCH

HOLD_SECONDS = 10
KILL_AFTER_SECONDS = 15
TAINT_THEN_KILL: list[Object] = [
    {"action": "Taint", "triggers": ["reserve"], "taint": {"effect": "NoSchedule", "holdSeconds": HOLD_SECONDS}},
    {"action": "Kill", "triggers": ["reserve"], "afterSeconds": KILL_AFTER_SECONDS},
]


def nobody_died(node: PathNode, seconds: float = SETTLED_SECONDS) -> None:
    """After some more time."""
    time.sleep(seconds)
    assert (node.kills(), node.dead()) == (0, 0)


@cases
def test_an_edited_ledger_disarms_and_says_what_to_do_and_a_deleted_one_grants_nothing_for_long(lab: PathLab) -> None:
    case = lab.path_policy("ledger")
    node = lab.path_node(case)
    node.armed()
    edited = lab.ledger(case)
    edited["entries"][0]["counted"] = 1
    lab.admin.must("PATCH", lab.ledger_path(case), {"data": {"ledger": json.dumps(edited)}}, MERGE_PATCH)
    lab.edit_policy(case, limits={"maxStandingKills": 2, "maxVictimsPerEpisode": 2})  # has it write, and so read
    wait_for(lambda: lab.condition("Ready", case).get("reason") == "LedgerInvalid", "the policy says so", LONG_SECONDS)
    message = lab.condition("Ready", case)["message"]
    assert f"ConfigMap {lab.home}/memory-pressure-ledger-{lab.prefix}{case}: data.ledger.digest" in message
    assert "delete the ConfigMap to begin anew" in message
    wait_for(lambda: node.grant() == {}, "what was granted is withdrawn")
    wait_for(lambda: node.status("permit").get("reason") == "NoGrant", "also at the node")
    node.flood()
    wait_for(lambda: node.condition("ActionBlocked").get("reason") == "NoGrant", "the node says so", LONG_SECONDS)
    nobody_died(node)
    lab.admin.must("DELETE", lab.ledger_path(case))
    wait_for(lambda: lab.condition("Ready", case).get("status") == "True", "it goes on with a new one", LONG_SECONDS)
    assert "nothing is granted in its first" in lab.condition("Ready", case)["message"]
    assert lab.ledger(case)["quarantineNanoseconds"] > 3600 * 10**9
    nobody_died(node, 3 * SETTLED_SECONDS)
    assert node.grant().get("killsCeiling", 0) == 0


def damaged_orders(valid: bytes) -> dict[str, tuple[bytes, str]]:
    """Name -> the damaged file, and words of the message about it."""
    value: dict[str, Any] = json.loads(valid)
    pod = value["pods"][0]
    many = [{**pod, "uid": f"{pod['uid'][:-4]}{number:04}"} for number in range(251)]
    return {
        "half-written": (valid[: len(valid) // 2], "not whole JSON"),
        "of a plan beyond the limit": (json.dumps({**value, "pods": many}).encode(), "a plan holds at most 250"),
        "larger than a file may be": (valid + b" " * (1 << 20), "orders have at most 1048576"),
        "of another version": (json.dumps({**value, "version": 2}).encode(), "this sentinel reads 1"),
    }


@cases
def test_orders_that_are_not_understood_disarm_the_node_are_told_and_are_replaced(lab: PathLab) -> None:
    case = lab.path_policy("orders", killsPerHour=0)
    node = lab.path_node(case)
    node.armed()
    node.freeze_reporter()
    valid = node.machine.orders_path.read_bytes()
    for data, words in damaged_orders(valid).values():
        node.machine.give(data)
        node.refuses_orders(words)
        assert node.status("orders")["standing"] == "Invalid"
        node.flood()
        nobody_died(node)
    node.thaw_reporter()
    assert "this sentinel reads 1" in node.told("Ready", "OrdersInvalid")
    wait_for(lambda: node.dead() == 1, "the orders are written anew, and the node is armed again", LONG_SECONDS)
    assert node.kills() == 1
    wait_for(lambda: node.condition("Ready").get("status") == "True", "that is told, too", LONG_SECONDS)


@cases
def test_a_journal_of_another_version_disarms_and_is_replaced_not_inherited(lab: PathLab) -> None:
    case = lab.path_policy("version", killsPerHour=1)
    node = lab.path_node(case)
    old = node.armed()["incarnation"]
    node.kill_sentinel()
    path, layout = node.machine.journal_path, journal_format
    header = list(layout.HEADER.unpack_from(path.read_bytes()))
    header[1] += 1
    body = layout.HEADER.pack(*header)
    with path.open("r+b") as file:
        file.write(body + layout.CRC.pack(zlib.crc32(body)))
    said = f"a journal of version {layout.VERSION + 1}; this agent writes version {layout.VERSION}"
    assert said in node.told("Ready", "Unreadable")
    wait_for(lambda: node.grant().get("killsCeiling", 0) == 0, "the grant is withdrawn")
    node.flood()
    node.start_sentinel()
    wait_for(lambda: node.machine.status() and node.incarnation != old, "a new journal")
    found = f"new journal: the one found is a journal of version {layout.VERSION + 1}"
    assert found in (node.directory / "sentinel.log").read_text()
    node.decides("Cooldown")
    assert (node.kills(), node.dead()) == (0, 0)
    wait_for(lambda: lab.entry(case, old).get("lost"), "what the old journal held counts as killed", LONG_SECONDS)
    wait_for(lambda: node.dead() == 1, "the new one gets a grant, and has its cool-down behind it", LONG_SECONDS)
    assert node.kills() == 1


@cases
def test_a_plan_beyond_the_limit_is_refused_by_the_api_and_the_operator_writes_none(lab: PathLab) -> None:
    case = lab.path_policy("plan")
    node = lab.path_node(case)
    node.armed()
    path = f"{GROUP}/nodememoryplans/{node.name}"
    pod = lab.admin.must("GET", path)["spec"]["pods"][0]
    many = [{**pod, "uid": f"{pod['uid'][:-4]}{number:04}"} for number in range(251)]
    answer = lab.admin.request("PATCH", path, {"spec": {"pods": many}}, MERGE_PATCH)
    assert answer.status == 422
    assert "spec.pods" in answer.body["message"]
    assert "250" in answer.body["message"]
    for body in node.more_pods("many", 260):
        lab.admin.must("POST", f"/api/v1/namespaces/{lab.namespace}/pods", body)
    wait_for(lambda: len(lab.planned(node.name)) == 250, "the plan is full", LONG_SECONDS)
    wait_for(
        lambda: re.search(f"node {node.name}: [0-9]+ eligible pods are not on the plan", lab.processes[0].text()),
        "in the log",
    )
    wait_for(lambda: "250 candidates" in node.status("orders")["message"], "the node takes the full plan")


def pressed(lab: PathLab, node: PathNode) -> None:
    """A flood that the operator has heard of, before the kill is due."""
    node.armed()
    node.flood()
    wait_for(lambda: lab.our_taints(node.name), "the node is tainted", KILL_AFTER_SECONDS)
    assert node.kills() == 0


@cases
def test_a_mode_that_is_lowered_while_a_kill_is_due_kills_nobody_any_more(lab: PathLab) -> None:
    case = lab.path_policy("mode", ladder=TAINT_THEN_KILL)
    node = lab.path_node(case)
    pressed(lab, node)
    lab.edit_policy(case, mode="DryRun")
    wait_for(lambda: not lab.our_taints(node.name), "the taint goes", LONG_SECONDS)
    wait_for(lambda: "WouldKill" in node.machine.reasons(), "it says what it would do", LONG_SECONDS)
    nobody_died(node)
    assert node.grant().get("killsCeiling", 0) == 0
    lab.edit_policy(case, mode="Disabled")
    node.decides("NoOrders")
    nobody_died(node)
    kill_at_once = {"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0}
    lab.edit_policy(case, mode="Enforce", ladder=[kill_at_once])
    wait_for(lambda: node.dead() == 1, "with the mode back it kills", LONG_SECONDS)
    assert node.kills() == 1


@cases
def test_the_taint_of_a_flood_that_ends_in_time_is_lifted_after_the_hold_and_nobody_was_killed(lab: PathLab) -> None:
    case = lab.path_policy("hold", ladder=TAINT_THEN_KILL)
    node = lab.path_node(case)
    pressed(lab, node)
    node.calm()
    cleared = time.monotonic()
    wait_for(lambda: not lab.our_taints(node.name), "the taint is lifted", LONG_SECONDS)
    assert time.monotonic() - cleared >= HOLD_SECONDS
    nobody_died(node)


@cases
def test_a_policy_that_is_deleted_while_a_kill_is_due_kills_nobody_any_more(lab: PathLab) -> None:
    case = lab.path_policy("deleted", ladder=TAINT_THEN_KILL)
    node = lab.path_node(case)
    pressed(lab, node)
    lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/{lab.prefix}{case}")
    wait_for(lambda: not lab.our_taints(node.name), "the taint goes", LONG_SECONDS)
    wait_for(lambda: node.state()["spec"]["mode"] == "Disabled", "the node only watches")
    wait_for(lambda: node.status("orders").get("standing") == "None", "the orders are gone")
    nobody_died(node, KILL_AFTER_SECONDS)
    assert node.grant().get("killsCeiling", 0) == 0
