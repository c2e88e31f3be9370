"""The grant protocol from end to end: real API server, operator, sentinels, reporters and victims.

Each case has a policy, nodes and a budget of its own; they run at the same time, under one operator
(support.pathcases). What needs an operator or an API server that may be stopped is in test_path_outages.py.
"""

import os
import time

from support.atonce import Running
from support.cgrouptree import MIB, CgroupTree, Memory
from support.fullfifo import drained, full_fifo, waits_in_a_write
from support.operator_lab import GROUP, wait_for
from support.pathcases import cases
from support.pathlab import LONG_SECONDS, SETTLED_SECONDS, NodeAgent, PathLab
from support.versions import most_outstanding, raises, uncovered

from memorypressure_tools.apiclient import MERGE_PATCH

COOLDOWN_SECONDS = 10


@cases
def test_ceilings_rise_only_by_a_ledger_write_with_its_resource_version(lab: PathLab) -> None:
    operator, standing = lab.processes[0], 2
    case = lab.path_policy("rise", maxStandingKills=standing, maxVictimsPerEpisode=50, killsPerHour=20)
    nodes = [lab.path_node(case, f"rise{number}") for number in range(2)]

    def conflicts() -> float:
        return operator.metric("memorypressure_operator_ledger_conflicts_total")

    def granted(ceilings: int) -> None:
        def found() -> bool:
            return sum(int(node.grant().get("killsCeiling", 0)) for node in nodes) == ceilings

        wait_for(found, f"{ceilings} kills are granted in all", LONG_SECONDS)

    granted(standing)
    before = conflicts()
    for standing in range(standing + 1, standing + 12):  # noqa: B020 -- goes on where it was
        # Somebody else writes the ledger: the operator's next write has an old resourceVersion, unless it read between.
        note = {"metadata": {"annotations": {"example.com/edited": str(standing)}}}
        lab.admin.must("PATCH", lab.ledger_path(case), note, MERGE_PATCH)
        lab.edit_policy(case, limits={"maxStandingKills": standing})
        granted(standing)
        if conflicts() > before:
            break
    assert conflicts() > before
    wait_for(lambda: sum(entry["ceiling"] for entry in lab.ledger(case)["entries"]) == standing, "the ledger has them")
    killer = nodes[0]
    killer.armed(killer.grant()["killsCeiling"])
    killer.flood()
    wait_for(lambda: killer.kills() == 1, "a kill")
    killer.calm()
    granted(standing + 1)
    wait_for(lambda: sum(lab.ledger(case)["buckets"]) == 1, "the ledger has the kill")
    wait_for(lambda: lab.policy_status(case).get("lastActionTime"), "the policy shows when it last acted")


@cases
def test_a_sentinel_killed_between_counting_and_killing_has_spent_the_kill_for_the_operator_too(lab: PathLab) -> None:
    case = lab.path_policy("crash", killsPerHour=1)
    node = lab.path_node(case, start=False)
    tree = CgroupTree(node.directory / "cgroup")
    uid = node.victims[0]["metadata"]["uid"]
    tree.add_pod(uid)
    fifo = full_fifo(tree.add_container(uid, "c0de01", Memory(anon=300 * MIB)) / "cgroup.kill")
    node.machine.cgroup_root = tree.root
    node.start()
    incarnation = node.armed()["incarnation"]
    node.flood()
    wait_for(lambda: node.kills() == 1, "the kill is counted")
    assert node.sentinel is not None
    pid = node.sentinel.pid
    wait_for(lambda: waits_in_a_write(pid), "the sentinel waits in its write to cgroup.kill")
    node.kill_sentinel()
    assert b"1" not in drained(fifo)
    node.start_sentinel()
    node.decides("WaitingForVictim")
    assert node.incarnation == incarnation
    time.sleep(SETTLED_SECONDS)
    assert node.kills() == 1
    assert drained(fifo) == b""
    wait_for(lambda: node.lease()["killsTotal"] == 1, "the reporter tells what the journal says", LONG_SECONDS)
    wait_for(lambda: sum(lab.ledger(case)["buckets"]) == 1, "the ledger counts it", LONG_SECONDS)
    wait_for(lambda: node.machine.records("action"), "the wait for the victim ends", LONG_SECONDS)
    assert [each["record"]["result"] for each in node.machine.records("action")] == ["Incomplete"]
    os.close(fifo)


@cases
def test_a_sentinel_killed_after_its_kill_goes_on_with_the_same_journal_and_cool_down(lab: PathLab) -> None:
    case = lab.path_policy("restart", maxStandingKills=2, maxVictimsPerEpisode=2, killsPerHour=0)
    node = lab.path_node(case, pods=3)
    incarnation = node.armed(2)["incarnation"]
    node.flood()
    wait_for(lambda: node.dead() == 1, "the first victim")
    first = time.monotonic()
    node.kill_sentinel()
    node.start_sentinel()
    node.decides("Cooldown")
    assert (node.incarnation, node.kills()) == (incarnation, 1)
    wait_for(lambda: node.kills() == 2, "the second kill", LONG_SECONDS)
    assert time.monotonic() - first > COOLDOWN_SECONDS - 0.5
    wait_for(lambda: node.status("permit").get("reason") == "CeilingReached", "the grant is used up")
    wait_for(lambda: node.dead() == 2, "the second victim")
    assert node.kills() == 2
    wait_for(lambda: len({action["id"] for action in node.reported_kills()}) == 2, "both are reported", LONG_SECONDS)


@cases
def test_with_a_new_journal_the_old_grant_is_worthless_and_its_rest_counts_as_killed(lab: PathLab) -> None:
    case = lab.path_policy("journal", killsPerHour=1, maxVictimsPerEpisode=3)
    node = lab.path_node(case)
    old = node.armed()["incarnation"]
    node.freeze_reporter()
    new = node.replace_journal()
    assert new != old
    node.flood()
    node.decides("WrongIncarnation")
    time.sleep(SETTLED_SECONDS)
    assert (node.kills(), node.dead()) == (0, 0)
    node.thaw_reporter()
    wait_for(lambda: node.dead() == 1, "the new journal gets a grant of its own", LONG_SECONDS)
    held = lab.entry(case, old)
    assert held["lost"]
    assert held["ceiling"] - held["counted"] == 1
    wait_for(lambda: lab.policy_status(case)["actions"]["kills"] == 1, "the operator knows of the kill", LONG_SECONDS)
    spent = {"standingKills": 0, "worstCaseHour": 2}
    wait_for(lambda: lab.policy_status(case)["exposure"] == spent, "the allowance is spent", LONG_SECONDS)
    wait_for(lambda: lab.condition("BudgetAvailable", case).get("status") == "False", "one kill and one lost make two")
    wait_for(lambda: node.status("permit").get("reason") == "CeilingReached", "the grant is used up")
    time.sleep(COOLDOWN_SECONDS)
    assert (node.kills(), node.dead()) == (1, 1)


@cases
def test_a_new_agent_under_another_policy_does_not_wait_until_the_old_ones_grant_has_run_out(lab: PathLab) -> None:
    case = lab.path_policy("former", killsPerHour=0)
    node = lab.path_node(case)
    old = node.armed()["incarnation"]
    node.freeze_reporter()
    node.replace_journal()  # the allowance is neither used nor given back any more
    lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/{lab.prefix}{case}")
    successor = lab.path_policy("successor", killsPerHour=0)
    lab.edit_policy(successor, nodeSelector={"matchLabels": {"case": lab.prefix + case}})
    node.thaw_reporter()
    node.armed()
    assert lab.entry(case, old)["ceiling"] == 1, "the former policy's ledger counts it as before"
    node.flood()
    wait_for(lambda: node.dead() == 1, "a kill under the new policy", LONG_SECONDS)
    wait_for(lambda: sum(lab.ledger(successor)["buckets"]) == 1, "its ledger has it", LONG_SECONDS)
    assert sum(lab.ledger(case)["buckets"]) == 0


@cases
def test_a_deleted_plan_and_a_deleted_state_heal_and_the_budget_stays_as_it_is(lab: PathLab) -> None:
    case = lab.path_policy("again", killsPerHour=0, maxVictimsPerEpisode=3)
    node = lab.path_node(case)
    first = node.armed()
    lab.admin.must("DELETE", f"{GROUP}/nodememoryplans/{node.name}")
    wait_for(lambda: node.grant().get("planUID") not in (None, first["planUID"]), "the new plan is in the grant")
    wait_for(lambda: node.status("orders")["planUID"] == node.grant().get("planUID"), "and in the sentinel's orders")
    node.armed()
    uid = node.state()["metadata"]["uid"]
    lab.admin.must("DELETE", f"{GROUP}/nodememorystates/{node.name}")
    wait_for(lambda: node.state()["metadata"].get("uid") not in (None, uid), "a new state")
    assert node.armed()["incarnation"] == first["incarnation"]
    node.flood()
    wait_for(lambda: node.dead() == 1, "it kills by the new grant")
    wait_for(lambda: node.status("permit").get("reason") == "CeilingReached", "the grant is used up")
    time.sleep(COOLDOWN_SECONDS)
    assert (node.kills(), node.dead()) == (1, 1)


@cases
def test_of_two_agents_on_one_node_one_acts_and_the_other_says_that_the_lock_is_held(lab: PathLab) -> None:
    case = lab.path_policy("twice", maxStandingKills=2, killsPerHour=4)
    first = lab.path_node(case)
    first.armed()
    directory = first.directory / "second"
    directory.mkdir()
    second = NodeAgent(lab, first.name, directory, first.pods.root)
    second.machine.known_past()
    second.start()
    try:
        first.told("ActionBlocked", "LockHeld")
        second.flood()
        first.flood()
        second.decides("LockHeld")
        time.sleep(SETTLED_SECONDS)
        assert second.kills() == 0
        assert first.dead() == first.kills() <= 1
        first.stop()
        wait_for(lambda: second.kills() == 1, "it takes over when the first is gone", LONG_SECONDS)
        wait_for(lambda: first.dead() == first.kills() + 1, "and kills")
    finally:
        second.close()


@cases
def test_three_nodes_in_a_flood_kill_no_more_than_the_worst_hour_that_the_policy_shows(lab: PathLab) -> None:
    case = lab.path_policy("three", maxStandingKills=1, killsPerHour=1)
    nodes = [lab.path_node(case, f"three{number}") for number in range(3)]

    def worst() -> int:
        return int(lab.policy_status(case).get("exposure", {}).get("worstCaseHour", 0))

    wait_for(lambda: [node.allowance() for node in nodes].count(1) == 1, "one of them is armed", LONG_SECONDS)
    wait_for(lambda: worst() == 2, "the policy shows its worst hour")
    for node in nodes:
        node.flood()

    def kills() -> int:
        return sum(node.kills() for node in nodes)

    wait_for(lambda: kills() == 2, "the standing kill and the one of this hour", LONG_SECONDS)
    without = [node for node in nodes if node.kills() == 0]
    for node in without:
        node.told("ActionBlocked", "NoGrant")
    time.sleep(COOLDOWN_SECONDS)
    assert kills() == sum(node.dead() for node in nodes) == 2
    assert worst() == 2
    assert most_outstanding(lab.states.seen(), [node.name for node in nodes]) == 1


def test_no_ceiling_of_any_case_rose_before_the_ledger_was_written(running: Running[PathLab]) -> None:
    """Looks at every version of every object that the cases made."""
    states, ledgers = running.subject.states.seen(), running.subject.ledgers.seen()
    assert uncovered(states, ledgers) == []
    assert len(raises(states)) >= len(running.futures)
