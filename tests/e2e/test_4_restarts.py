"""Faults in the middle of an episode: who is killed, deleted, restarted or upgraded, and when, is each test's name.

The node is filled by plain load under a policy whose line lies higher (support/e2eepisode.py): the faults meet every
state of an episode at a known time, on a node that does not thrash, and no run can be void. Each one leaves the
pressure where it is, so there has to be a kill, and what the kernel counted decides whether there was one too many.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.e2eepisode import Episode, Episodes, filling_policy, open_gate
from support.e2efaults import (
    Over,
    agent_pod,
    kill_container,
    kill_container_when_gone,
    kill_service,
    reboot,
    replace_agent,
    start_operator,
    stop_operator,
    upgrade,
)
from support.e2elab import NODE, SLOW_SECONDS

from memorypressure_tools.cluster.cluster import pod_ready
from memorypressure_tools.flood import load

pytestmark = pytest.mark.e2e

WAITING_SECONDS = 25
"""Of the Kill step, after memory is full: time for a fault in between."""
WITHOUT_OPERATOR_SECONDS = 40
"""After the kill: the container fills the node again, and cool-downs of 10 s pass."""


@dataclass(frozen=True)
class Fault:
    """What is done while the Kill step waits; what that returns is called after the kill.

    `pressure_lasts`: the killed container may fill the node again. Then there may be a second kill, by a second grant.
    `reboots`: every container is started again.
    """

    name: str
    begin: Callable[[Episode], Over]
    reboots: bool = False
    pressure_lasts: bool = False


def _as_the_victim_dies(container: str) -> Fault:
    def begin(running: Episode) -> Over:
        filler = running.running()
        assert filler is not None
        return kill_container_when_gone(running.lab, container, filler)

    return Fault(f"{container} killed as the victim dies", begin)


def _without_operator(running: Episode) -> Over:
    """The killed container comes back and fills the node; without an operator there is no second allowance."""
    stop_operator(running.lab)

    def over() -> None:
        try:
            time.sleep(WITHOUT_OPERATOR_SECONDS)
            assert running.written() == 1
        finally:
            start_operator(running.lab)

    return over


def _reboot(running: Episode) -> Over:
    """Memory is measured for the filler when everything that takes some is there again."""
    lab, before = running.lab, _restart_counts(running)
    reboot(lab)
    open_gate(lab)
    running.written_before = 0

    def all_back() -> bool:
        now = _restart_counts(running)
        return all(now.get(name, 0) > count for name, count in before.items())

    lab.cluster.wait_for("every container to run again", all_back, SLOW_SECONDS)
    lab.cluster.wait_for("the agent to be Ready", lambda: pod_ready(agent_pod(lab)), SLOW_SECONDS)
    running.fill()
    return lambda: None


def _restart_counts(running: Episode) -> dict[str, int]:
    """Of all running containers on the node."""
    found = running.lab.innocents() | running.lab.containers(load.NAMESPACE)
    return {name: count for name, (_, count) in found.items()}


def _upgrade(running: Episode) -> Over:
    return upgrade(running.lab, {"agent.podAnnotations": {"example.com/upgraded": running.policy}})


FAULTS = (
    Fault("reporter killed while the step waits", lambda running: kill_container(running.lab, "reporter")),
    _as_the_victim_dies("reporter"),
    Fault("sentinel killed while the step waits", lambda running: kill_container(running.lab, "sentinel")),
    _as_the_victim_dies("sentinel"),
    Fault("agent pod replaced while the step waits", lambda running: replace_agent(running.lab)),
    Fault("kubelet restarted while the step waits", lambda running: kill_service(running.lab, "kubelet")),
    Fault("containerd restarted while the step waits", lambda running: kill_service(running.lab, "containerd")),
    Fault("chart upgraded while the step waits", _upgrade),
    Fault("node rebooted while the step waits", _reboot, reboots=True),
    Fault("operator killed while the step waits", _without_operator, pressure_lasts=True),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_an_episode_with_a_fault_in_it_ends_by_granted_kills_of_the_right_pod_told_once(
    episodes: Episodes, fault: Fault
) -> None:
    lab = episodes.lab
    name = f"fault-{FAULTS.index(fault)}"
    with episodes.begin(filling_policy(name, after_seconds=WAITING_SECONDS)) as running:
        running.place()
        running.fill()
        running.wait_until_pressed()
        assert running.written() == 0, "the kill came before the fault"
        over = fault.begin(running)
        running.wait_for_kill()
        if not fault.pressure_lasts:
            running.close()
        over()
        running.settle()
        broken = running.broken()
        if fault.reboots:
            broken = [each for each in broken if not each.endswith("was started again")]
        assert broken == []
        assert running.written() == 1 or fault.pressure_lasts
    assert pod_ready(agent_pod(lab))
    assert lab.cluster.node_ready(NODE)
