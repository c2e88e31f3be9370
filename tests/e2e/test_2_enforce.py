"""A policy that is enforced on a real node: the right pod is evicted, and killed when the reserve drains."""

from typing import Any

import pytest
from support.e2eaccounts import done
from support.e2elab import NODE, SLOW_SECONDS, Lab

from memorypressure_tools.flood import load
from memorypressure_tools.flood.observer import TAINT, Observer
from memorypressure_tools.flood.run import Result
from memorypressure_tools.flood.verdict import Outcome
from memorypressure_tools.flood.workloads import end_load

pytestmark = pytest.mark.e2e

TAINT_LIFTED_SECONDS = 180.0
FILLING = {
    "name": "filling",
    "type": "AvailableMemory",
    "availableMemory": {"percent": 25, "swapFreePercent": 98},
}


def test_a_node_that_fills_up_is_tainted_and_the_right_pod_is_evicted(lab: Lab) -> None:
    """The guarded pod would be first by every rule; its budget allows no disruption."""
    ladder = [
        {"action": "Taint", "triggers": ["filling"], "taint": {"effect": "NoSchedule", "holdSeconds": 20}},
        {"action": "Evict", "triggers": ["filling"], "afterSeconds": 0, "evict": {"gracePeriodSeconds": 1}},
    ]
    lab.renew()
    lab.apply(load.policy("filling", triggers=[FILLING], ladder=ladder))
    before = lab.innocents()
    hogs = {pod["metadata"]["uid"] for pod in lab.pods("hog") if pod["spec"].get("nodeName")}
    with lab.watching():
        lab.node.shell.run(f"touch {load.START_FILE}", attempts=3)

        def evicted() -> bool:
            return not hogs & lab.uids("hog")

        lab.cluster.wait_for("the hog to be evicted and gone", evicted, 180)
        assert lab.taints() == [f"{TAINT}:NoSchedule"]
        assert all(pod["spec"].get("nodeName") is None for pod in lab.pods("hog")), "a successor is on a tainted node"
        end_load(lab.node.shell)
        lab.cluster.wait_for("the taint to be lifted", lambda: lab.taints() == [], TAINT_LIFTED_SECONDS)
    events = lab.events("EvictedForMemory", "Pod")
    assert {event["regarding"]["uid"] for event in events} == hogs
    assert lab.events("Tainted", "Node") != []
    assert lab.innocents() == before
    lab.cluster.plane.kubectl("delete", "mpp", "filling")


def test_a_drained_reserve_ends_by_one_kill_that_is_explained_and_cleaned_up(lab: Lab, number: int) -> None:
    """`number` is this run's of RUNS: each has fresh pods, on a node that is calm and untainted again."""
    lab.apply(load.policy("flood"))
    lab.wait_for_allowance()

    def after(result: Result, observer: Observer) -> None:
        if result.verdict.outcome is not Outcome.KILLED:
            return
        lab.cluster.wait_for("the taint", lambda: observer.first("taint", starts=TAINT), TAINT_LIFTED_SECONDS)
        lab.cluster.wait_for("its end", lambda: observer.last("taint") == "none", TAINT_LIFTED_SECONDS)
        killed = result.document["actions"][-1]["pod"]["uid"]
        lab.cluster.wait_for("the Event of the kill", lambda: _about(lab, "Killed", killed), 60)
        # Its end is the kubelet's work, which comes late on a node that has just been thrashing.
        lab.cluster.wait_for("the killed pod to be gone", lambda: killed not in lab.uids("hog"), SLOW_SECONDS)

    assert lab.taints() == [], f"run {number} begins on a tainted node"
    before, state = lab.innocents(), lab.state()
    told = {reason: len(lab.events(reason, "Node")) for reason in ("Tainted", "Untainted")}
    result = lab.flood("drained", after)

    assert result.verdict.outcome is Outcome.KILLED, result.verdict.why
    _killed_within_its_grant(lab, result, int(state["status"]["lease"]["killsTotal"]))
    _explained_and_cleaned_up(lab, result)
    assert [reason for reason, count in told.items() if len(lab.events(reason, "Node")) <= count] == [], "not told"
    assert lab.innocents() == before
    assert lab.cluster.node_ready(NODE)


def _about(lab: Lab, reason: str, uid: str) -> list[dict[str, Any]]:
    return [each for each in lab.events(reason, "Pod") if each["regarding"]["uid"] == uid]


def _killed_within_its_grant(lab: Lab, result: Result, kills_before: int) -> None:
    (action,) = [each for each in result.document["actions"] if each["action"] == "Kill"]
    assert (action["mode"], action["reason"]) == ("Enforce", "AtomicReserveBreached")
    assert done(action), action
    assert action["pod"]["name"].startswith("hog-")
    assert action["result"] == "Incomplete" or action["freedBytes"] > 64 << 20
    assert result.document["half_back_seconds"] is not None, "by the sampler its memory did not come back"
    assert result.document["kill_writes"] == 1
    lease = lab.status()["lease"]
    assert lease["killsTotal"] - kills_before >= 1
    assert lease["killsTotal"] <= lease["ceilingSeen"]
    assert result.document["kernel_oom_kills"] == 0


def _explained_and_cleaned_up(lab: Lab, result: Result) -> None:
    action = next(each for each in result.document["actions"] if each["action"] == "Kill")
    killed = action["pod"]
    (event,) = _about(lab, "Killed", killed["uid"])
    assert "its containers end with exit code 137" in event["note"]
    if action["result"] == "Success":
        assert " MiB came back" in event["note"]
    assert [each for each in lab.events("Killed", "Node") if killed["name"] in each["note"]] != []
    assert _about(lab, "EvictedForMemory", killed["uid"]) != [], "the clean-up is not explained"
    assert killed["uid"] not in lab.uids("hog"), "the killed pod is still there"
    changes = result.document["changes"]
    tainted = [each["at"] for each in changes if each["what"] == "taint" and each["now"].startswith(TAINT)]
    lifted = [each["at"] for each in changes if each["what"] == "taint" and each["now"] == "none" and each["at"] > 0]
    assert tainted != []
    assert lifted != []
    # While the taint was there no other hog got a place: nothing ran in it between its end and the taint's.
    placed = [
        each
        for each in changes
        if each["what"].startswith("pod hog-")
        and killed["name"] not in each["what"]
        and tainted[0] < each["at"] < lifted[-1] - 0.5
        and each["now"].startswith("Running")
    ]
    assert placed == []
