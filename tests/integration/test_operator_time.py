"""What takes the operator minutes, on the real API server: its own clock runs sixty times as fast as everybody else's.

The whole operator but kopf runs in this process: it lists the policies itself, each minute of its own.
"""

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.operator_lab import Lab, wait_for

from memorypressure_operator import settings as settings_module
from memorypressure_operator.api import Api, connect
from memorypressure_operator.main import Operator, boot_seconds
from memorypressure_tools.controlplane import ControlPlane

SPEED = 60
FLAGS = {
    "lease_seconds": "300",
    "renew_deadline_seconds": "200",
    "renew_seconds": "0.5",
    "stream_read_timeout_seconds": "3600",  # a minute between two bookmarks is an hour of its own
    "bind_address": "127.0.0.1",
}


@contextlib.contextmanager
def hurried(lab: Lab) -> Iterator[Operator]:
    """An operator that lives through a minute each second."""
    flags = FLAGS | {"kubeconfig": str(lab.plane.kubeconfig), "namespace": lab.home, "identity": "hurried"}
    made = settings_module.parse(flags, {})
    api: Api = connect(made.kubeconfig, made.request_timeout_seconds, made.token_reload_seconds, time.monotonic)
    operator = Operator(made, api, clock=lambda: boot_seconds() * SPEED)
    operator.start()
    try:
        wait_for(lambda: operator.registry.complete() and operator.leader.holds(), "it leads")
        yield operator
        assert operator.failed() == []
    finally:
        operator.stop()
        gc.unfreeze()  # what it did to its memory is this process's


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


def test_the_taint_of_a_node_that_falls_silent_goes_after_three_beats_and_the_hold_time(lab: Lab) -> None:
    node = lab.node()
    lab.policy(ladder=[{"action": "Taint", "triggers": ["low"], "taint": {"holdSeconds": 60}}])
    with hurried(lab):
        agent = lab.agent(node)
        agent.press("low")
        with lab.reporting(agent, every_seconds=0.2):
            wait_for(lambda: lab.our_taints(node), "it is tainted")
        assert lab.our_taints(node), "silence alone lifts nothing"
        wait_for(lambda: not lab.our_taints(node), "it is lifted although the last report tells of pressure")
        lifted = wait_for(lambda: lab.events("Untainted", kind="Node"), "the Event")[0]["note"]
    seconds = float(lifted.partition("no report for ")[2].partition(" s")[0])
    assert seconds >= 3 * 60 + 60, "grantSeconds is 180: a beat each 60 s"


def test_what_a_silent_node_may_have_used_counts_as_killed_before_another_gets_it(lab: Lab) -> None:
    silent, other = lab.node("silent"), lab.node("other")
    lab.policy(limits={"maxStandingKills": 1, "killsPerHour": 1})
    with hurried(lab) as operator:
        began = operator.clock()
        first = lab.agent(silent)
        wait_for(lambda: lab.allowed(first) == 1, "the only allowance")
        second = lab.agent(other)
        second.press("reserve")
        with lab.reporting(second, every_seconds=0.2):
            wait_for(lambda: lab.allowed(first) == 0, "it is withdrawn, for the other is under pressure")
            wait_for(lambda: lab.allowed(second) == 1, "and given to the other")
            waited = operator.clock() - began
        assert waited >= 1.1 * 180, "as long as the silent node may use it"
        ledger = json.loads(lab.admin.must("GET", lab.ledger_path())["data"]["ledger"])
        assert sum(ledger["buckets"]) == 1, "it may have killed"
        assert [entry["node"] for entry in ledger["entries"]] == [other]
        assert lab.get_policy()["status"]["exposure"]["worstCaseHour"] == 2
