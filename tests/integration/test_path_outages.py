"""The grant protocol while operators and API server fail: a leader that wakes late, an outage, a plan put back by hand.

The cases stop what others need, so each has a control plane of its own; they run at the same time.
"""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.atonce import AtOnce, Running
from support.holdingproxy import HoldingProxy
from support.operator_lab import GROUP, OperatorProcess, wait_for
from support.outages import own_lab
from support.pathlab import LONG_SECONDS, SETTLED_SECONDS, PathLab, needs_real_pods
from support.versions import most_outstanding, uncovered

from memorypressure_tools import toolcache
from memorypressure_tools.apiclient import MERGE_PATCH

GRANT_SECONDS = 180
"""The shortest that the API allows."""


cases: AtOnce[Path] = AtOnce()


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running[Path]]:
    needs_real_pods()
    toolcache.ensure(toolcache.CONTROL_PLANE)  # one of the cases builds what is missing, not all
    with cases.running(request, tmp_path_factory.mktemp("outages"), lambda _: "") as started:
        yield started


def allows_a_kill(method: str, path: str, body: bytes) -> bool:
    """Whether a request gives a node leave to kill."""
    if method != "PATCH" or "/nodememorystates/" not in path or path.endswith("/status"):
        return False
    grant = json.loads(body).get("spec", {}).get("grant")
    return bool(grant and grant["killsCeiling"] > 0)


@cases
def test_the_late_write_of_a_leader_that_slept_beyond_its_lease_fails_and_the_budget_holds(directory: Path) -> None:
    with own_lab(directory, "late") as lab, contextlib.closing(HoldingProxy(lab.plane, allows_a_kill)) as proxy:
        through = lab.plane.write_kubeconfig("through-proxy", token=lab.all_rights("operator"), server=proxy.url)
        first = lab.operator(identity="first", kubeconfig=through)
        first.ready()
        first.leads()
        second = lab.operator(identity="second")
        case = lab.path_policy("leaders", killsPerHour=0)
        nodes = [lab.path_node(case, f"leaders{number}") for number in range(2)]
        wait_for(proxy.held.is_set, "the first leader sends a grant, and it is held", LONG_SECONDS)
        first.child.send_signal(signal.SIGSTOP)
        holder = wait_for(lambda: lab.ledger(case)["entries"], "the ledger was written before")[0]["node"]
        granted = next(node for node in nodes if node.name == holder)
        other = next(node for node in nodes if node.name != holder)
        assert granted.grant() == other.grant() == {}
        second.leads()
        # The only allowance of the cluster has to wander to the other node, which needs it.
        other.flood()
        wait_for(lambda: other.dead() == 1, "the node in the flood kills", LONG_SECONDS)
        assert granted.allowance() == 0
        first.child.send_signal(signal.SIGCONT)
        proxy.released.set()
        late = wait_for(lambda: [each for each in proxy.written if each.late], "the held write arrives")
        assert [each.status for each in late] == [409]
        granted.flood()
        granted.decides("CeilingReached")
        time.sleep(SETTLED_SECONDS)
        assert (granted.kills(), granted.dead(), other.kills(), other.dead()) == (0, 0, 1, 1)
        assert most_outstanding(lab.states.seen(), [node.name for node in nodes]) == 1
        wait_for(lambda: not uncovered(lab.states.seen(), lab.ledgers.seen()), "every raise has its ledger", 10)
        assert lab.policy_status(case)["exposure"]["worstCaseHour"] == 1
        wait_for(lambda: not first.probe("/healthz")[1]["leader"], "the first knows that it does not lead")
        after = [each for each in proxy.written[proxy.written.index(late[0]) + 1 :] if "/leases/" not in each.path]
        assert [each for each in after if each.status < 300] == []
        assert second.probe("/healthz")[1]["leader"]


@cases
def test_a_grant_that_names_another_plan_kills_nobody_until_the_operator_has_looked(directory: Path) -> None:
    with own_lab(directory, "plan") as lab:
        operator = lab.running()
        case = lab.path_policy("plan", killsPerHour=0)
        node = lab.path_node(case)
        old = node.armed()
        operator.child.send_signal(signal.SIGSTOP)
        try:
            path = f"{GROUP}/nodememoryplans/{node.name}"
            plan = lab.admin.must("GET", path)
            lab.admin.must("DELETE", path)
            kept = {name: plan["metadata"][name] for name in ("name", "ownerReferences")}
            made = lab.admin.must("POST", f"{GROUP}/nodememoryplans", {**plan, "metadata": kept})
            plan_named = {"uid": made["metadata"]["uid"], "generation": made["metadata"]["generation"]}
            state = f"{GROUP}/nodememorystates/{node.name}"
            lab.admin.must("PATCH", state, {"spec": {"plan": plan_named}}, MERGE_PATCH)
            wait_for(lambda: node.status("orders").get("planUID") == plan_named["uid"], "the new plan is in the orders")
            assert node.grant() == old
            node.flood()
            node.decides("PlanMismatch")
            time.sleep(SETTLED_SECONDS)
            assert (node.kills(), node.dead()) == (0, 0)
        finally:
            operator.child.send_signal(signal.SIGCONT)
        wait_for(lambda: node.dead() == 1, "the operator renews the grant for the new plan", LONG_SECONDS)
        assert node.grant()["planUID"] == plan_named["uid"]
        assert node.kills() == 1


def killed_events(lab: PathLab) -> list[tuple[str, str]]:
    """Name and resourceVersion of our Events about kills."""
    events = lab.events("Killed")
    return sorted((event["metadata"]["name"], event["metadata"]["resourceVersion"]) for event in events)


def kills_left(operator: OperatorProcess, policy: str) -> float:
    """What the operator itself thinks is left of killsPerHour; -1 before it thinks anything."""
    try:
        return operator.metric("memorypressure_operator_budget_remaining", policy=policy, action="Kill")
    except AssertionError:
        return -1.0


@cases
def test_in_an_outage_nodes_use_up_what_they_have_and_afterwards_all_is_told_once(directory: Path) -> None:
    with own_lab(directory, "outage") as lab:
        operator = lab.running()
        case = lab.path_policy("outage", maxStandingKills=2, killsPerHour=5, maxVictimsPerEpisode=1)
        killer, expired = lab.path_node(case, "killer"), lab.path_node(case, "expired")
        killer.armed()
        expired.armed()
        lab.plane.stop_apiserver()
        try:
            killer.flood()
            wait_for(lambda: killer.dead() == 1, "without the API server it kills what it was granted")
            wait_for(lambda: killer.status("permit").get("reason") == "CeilingReached", "and not more")
            # The other's grant runs out by its own clock: its beats are made older than grantSeconds.
            assert expired.sentinel is not None
            expired.sentinel.stop()
            expired.age_beats(GRANT_SECONDS + 1)
            expired.start_sentinel()
            expired.flood()
            expired.decides("GrantExpired")
            assert killer.reporter is not None
            killer.reporter.stop()
            killer.start_reporter()
            time.sleep(SETTLED_SECONDS)
            assert (killer.kills(), killer.dead(), expired.kills(), expired.dead()) == (1, 1, 0, 0)
            assert killer.machine.orders_path.exists(), "a reporter that starts in an outage leaves the orders alone"
        finally:
            lab.plane.start_apiserver()
        wait_for(
            lambda: expired.dead() == 1, "a new beat is echoed, and its standing kill is worth something", LONG_SECONDS
        )
        wait_for(
            lambda: len(killer.reported_kills()) == len(expired.reported_kills()) == 1, "both are told", LONG_SECONDS
        )
        wait_for(lambda: len(killed_events(lab)) == 4, "by an Event on each node and each pod", LONG_SECONDS)
        wait_for(lambda: kills_left(operator, lab.prefix + case) == 3, "the budget has both", LONG_SECONDS)
        before, actions = killed_events(lab), [node.reported_kills() for node in (killer, expired)]
        operator.kill()
        again = lab.running(identity="again")
        wait_for(lambda: kills_left(again, lab.prefix + case) == 3, "the new operator has looked, and counts the same")
        time.sleep(2 * SETTLED_SECONDS)
        assert kills_left(again, lab.prefix + case) == 3
        assert killed_events(lab) == before
        assert sum(lab.ledger(case)["buckets"]) == 2
        assert [node.reported_kills() for node in (killer, expired)] == actions
        assert (
            sum(node.kills() for node in (killer, expired)) == 2 <= lab.policy_status(case)["exposure"]["worstCaseHour"]
        )


@pytest.mark.soak
def test_a_grant_runs_out_after_grant_seconds_of_real_time_without_the_api_server(tmp_path: Path) -> None:
    with own_lab(tmp_path, "runsout") as lab:
        lab.running()
        case = lab.path_policy("runsout")
        node = lab.path_node(case)
        node.armed()
        lab.plane.stop_apiserver()
        try:
            time.sleep(GRANT_SECONDS + 5)
            node.flood()
            node.decides("GrantExpired")
            time.sleep(SETTLED_SECONDS)
            assert (node.kills(), node.dead()) == (0, 0)
        finally:
            lab.plane.start_apiserver()
        wait_for(lambda: node.dead() == 1, "it is armed again when it is heard again", 2 * LONG_SECONDS)
        assert node.kills() == 1
