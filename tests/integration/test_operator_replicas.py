"""One after the other and beside each other: restarts, two operators and one Lease, `cleanup` and what follows it."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.operator_lab import Lab, OperatorProcess, wait_for

from memorypressure_operator.settings import Settings
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


def test_what_was_told_is_not_told_again_after_a_restart(lab: Lab) -> None:
    first = lab.running()
    node, agent = lab.armed_node()
    pods = lab.workload(node, "web")
    agent.press("reserve")
    agent.kill(pods[0])
    wait_for(lambda: len(lab.events("Killed")) == 2, "the kill is told on pod and node")
    wait_for(lambda: lab.events("MemoryPressureStarted"), "pressure is told")
    wait_for(lambda: lab.get_policy()["status"]["actions"]["kills"] == 1, "the kill is counted")
    counts = wait_for(lab.kept_counts, "the counts are kept")
    before = {(event["metadata"]["name"], event["metadata"]["resourceVersion"]) for event in lab.events()}
    first.kill()
    second = lab.running(identity="two")
    agent.report()
    wait_for(lambda: lab.our_taints(node), "the second has looked at the node")
    agent.report()
    time.sleep(1)
    after = {(event["metadata"]["name"], event["metadata"]["resourceVersion"]) for event in lab.events()}
    assert before <= after
    assert len(lab.events("Killed")) == 2
    assert len(lab.events("MemoryPressureStarted")) == 1
    assert lab.get_policy()["status"]["actions"]["kills"] == 1, "the same kill is counted once"
    assert lab.kept_counts() == counts
    assert second.stop() == 0


def test_a_pod_killed_while_no_operator_ran_is_evicted_also_on_a_node_whose_clock_is_an_hour_slow(lab: Lab) -> None:
    first = lab.running()
    node, agent = lab.armed_node()
    pod, other = lab.workload(node, "web")
    wait_for(lambda: len(lab.planned(node)) == 2, "planned")
    assert first.stop() == 0
    agent.clock_ahead_seconds = -4000.0
    agent.kill(pod)
    lab.running(identity="two")
    agent.report()
    wait_for(lambda: lab.evicted(pod), "the killed pod is evicted")
    assert not lab.evicted(other)
    told = {"Killed", "EvictedForMemory"}
    wait_for(lambda: {event["reason"] for event in lab.events(kind="Pod")} == told, "told on the pod")


def test_of_two_operators_one_acts_whether_the_other_is_dead_asleep_or_awake_again(lab: Lab) -> None:
    first = lab.running()
    second = lab.operator(identity="two")
    second.ready()
    assert not second.probe("/healthz")[1]["leader"]
    lease_path = f"/apis/coordination.k8s.io/v1/namespaces/{lab.home}/leases/memory-pressure-operator"
    assert lab.admin.must("GET", lease_path)["spec"]["holderIdentity"] == "one"
    looks = "memorypressure_operator_reconcile_duration_seconds_count"
    before = first.metric(looks)
    first.child.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    second.leads()
    assert time.monotonic() - stopped > 2, "the Lease lasts longer than its holder may act"
    node = lab.node()
    lab.policy()
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "the second acts")
    first.child.send_signal(signal.SIGCONT)
    agent.press("low")
    with lab.reporting(agent, every_seconds=0.3):
        wait_for(lambda: lab.our_taints(node), "the second goes on")
        time.sleep(1)
    assert not first.probe("/healthz")[1]["leader"]
    assert first.metric(looks) <= before + 1, "it watches and never acts; it may have been stopped within a look"
    second.kill()
    first.leads()
    spec = lab.admin.must("GET", lease_path)["spec"]
    assert spec["holderIdentity"] == "one"
    assert spec["leaseTransitions"] == 2
    assert first.stop() == 0
    assert lab.admin.must("GET", lease_path)["spec"].get("holderIdentity", "") == "", "given back"


@pytest.mark.soak
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_at_default_times_the_other_operator_taints_within_twenty_seconds_of_the_first_ones_end(
    lab: Lab, end: signal.Signals
) -> None:
    """The bar is the limit of the wait; `make bench` measures it (operator_reacts.py)."""
    made = Settings()
    times = {
        "--lease-seconds": made.lease_seconds,
        "--renew-deadline-seconds": made.renew_deadline_seconds,
        "--request-timeout-seconds": made.request_timeout_seconds,
        "--renew-timeout-seconds": made.renew_timeout_seconds,
        "--renew-seconds": made.renew_seconds,
    }
    words = [word for name, value in times.items() for word in (name, str(value))]
    first = lab.running(*words)
    lab.operator(*words, identity="two").ready()
    node, agent = lab.armed_node()
    with lab.reporting(agent):
        first.child.send_signal(end)
        agent.press("low")
        wait_for(lambda: lab.our_taints(node), "the other acts", 20)
    first.kill()


def test_with_two_operators_each_grant_is_given_once(lab: Lab) -> None:
    """The Lease is edited back and forth, so that both believe in it in turn; the ledger's version is the fence."""
    one, two = lab.running(), lab.operator(identity="two")
    two.ready()
    nodes = [lab.node(f"n{number}") for number in range(4)]
    lab.policy(limits={"maxStandingKills": 2})
    agents = [lab.agent(node) for node in nodes]
    lease_path = f"/apis/coordination.k8s.io/v1/namespaces/{lab.home}/leases/memory-pressure-operator"
    for number in range(8):
        lab.admin.must("PATCH", lease_path, {"spec": {"holderIdentity": ("one", "two")[number % 2]}}, MERGE_PATCH)
        for agent in agents:
            agent.beat += 1
            agent.report()
        time.sleep(0.4)
        assert sum(max(0, lab.allowed(agent)) for agent in agents) <= 2
    wait_for(lambda: sum(max(0, lab.allowed(agent)) for agent in agents) == 2, "the two allowances are out")
    assert one.stop() == 0
    assert two.stop() == 0


# --- cleanup ---


LEASE_TIMES = (
    *("--renew-deadline-seconds", "2", "--request-timeout-seconds", "2"),
    *("--renew-timeout-seconds", "1", "--renew-seconds", "0.5"),
)


def cleanup(lab: Lab, name: str, kubeconfig: Path) -> OperatorProcess:
    """The command with the short times of the lab's operators, ended."""
    words = ["--kubeconfig", str(kubeconfig), "--namespace", lab.home, "--identity", name]
    done = OperatorProcess(lab.directory / name, ["cleanup", *words, *LEASE_TIMES, "--lease-seconds", "4"])
    assert done.child.wait(30) == 0, done.text()
    done.kill()
    return done


def installation(lab: Lab, name: str) -> Path:
    """A kubeconfig with the token of a service account of its own, as each installation of the chart has one."""
    return lab.plane.write_kubeconfig(lab.prefix + name, token=lab.all_rights(name))


def test_cleanup_takes_only_our_taints_and_a_running_operator_does_not_put_them_on_again(lab: Lab) -> None:
    old = installation(lab, "old")
    operator = lab.operator(kubeconfig=old)
    operator.ready()
    operator.leads()
    node = lab.node()
    lab.policy()
    foreign = {"key": "example.com/x", "effect": "NoSchedule"}
    lab.admin.must("PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": [foreign]}}, MERGE_PATCH)
    agent = lab.agent(node)
    agent.press("low")
    with lab.reporting(agent, every_seconds=0.3):
        wait_for(lambda: lab.our_taints(node), "our taint")
        done = cleanup(lab, "cleaner", old)
        assert "one held the lease" in done.text()
        assert not operator.probe("/healthz")[1]["leader"]
        time.sleep(2)
        assert [taint["key"] for taint in lab.taints(node)] == ["example.com/x"]
        assert operator.child.poll() is None
        path = f"/apis/coordination.k8s.io/v1/namespaces/{lab.home}/leases/memory-pressure-operator"
        lease = lab.admin.must("GET", path)
        assert lease["spec"]["holderIdentity"] == "cleaner"
        assert lease["spec"]["leaseDurationSeconds"] == 120, "this installation does nothing for so long"
        again = lab.operator(identity="again", kubeconfig=installation(lab, "new"))
        again.leads()
        assert "left by an installation that has been cleaned up" in again.text(), (
            "one that comes after it waits for nothing"
        )
        wait_for(lambda: lab.our_taints(node), "and acts")
        assert not operator.probe("/healthz")[1]["leader"]
