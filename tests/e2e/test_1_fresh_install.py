"""A fresh install on a node that is flooded: the default policy reports what it would do, and touches nothing."""

import re

import pytest
from support.e2elab import NODE, Lab

from memorypressure_tools.flood.observer import Observer
from memorypressure_tools.flood.run import Result
from memorypressure_tools.flood.verdict import Outcome

pytestmark = pytest.mark.e2e


def _value(metrics: str, name: str, *labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    lines = [line for line in metrics.splitlines() if re.match(rf"{name}(\{{|\s)", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


def test_a_flood_is_recorded_as_what_would_be_done_and_nothing_is_touched(lab: Lab) -> None:
    policies = lab.items("/apis/memorypressure.dev/v1alpha1/memorypressurepolicies")
    assert [(each["metadata"]["name"], each["spec"]["mode"]) for each in policies] == [("default", "DryRun")]
    before = lab.innocents()
    seen: dict[str, object] = {}

    def after(result: Result, observer: Observer) -> None:
        def told() -> bool:
            return bool(lab.events("WouldKill", "Pod")) and lab.status()["recentActions"] != []

        lab.cluster.wait_for("the Events of what would have been done", told, 120)
        seen["taints"] = {each.now for each in observer.changes if each.what == "taint"}

    result = lab.flood("dry-run", after, age_seconds=65)

    assert result.verdict.outcome is Outcome.NOTHING_KILLED, result.verdict.why
    assert seen["taints"] == {"none"}
    assert lab.innocents() == before
    kills = [each for each in lab.status()["recentActions"] if each["action"] == "Kill"]
    assert kills != []
    assert {each["mode"] for each in kills} == {"DryRun"}
    assert {each["pod"]["name"].rsplit("-", 2)[0] for each in kills} == {"hog"}
    assert {each["reason"] for each in kills} == {"AtomicReserveBreached"}
    deleted = [each for each in result.document["changes"] if "deleting" in each["now"] or each["now"] == "gone"]
    assert deleted == []
    _can_be_read(lab)


def _can_be_read(lab: Lab) -> None:
    """By people, in `kubectl describe`; by dashboards, in the metrics."""
    # An episode is over when the node has been clear for two minutes; it can be read before.
    lab.cluster.wait_for("the episode in the node's state", lambda: lab.status().get("recentEpisodes"), 200)
    described = lab.cluster.plane.kubectl("describe", "nms", NODE).stdout
    for words in ("Recent Episodes", "Recent Actions", "DryRun", "AtomicReserveBreached", "hog-"):
        assert words in described, described
    (event,) = lab.events("WouldKill", "Pod")[:1]
    assert "would be killed for memory pressure on node node-1" in event["note"]
    assert lab.events("WouldKill", "Node") != []
    assert lab.events("Killed", "Pod") + lab.events("Tainted", "Node") + lab.events("EvictedForMemory", "Pod") == []
    metrics = lab.metrics()
    assert _value(metrics, "memorypressure_actions_total", 'action="Kill"', 'mode="DryRun"', 'result="Success"') >= 1
    assert _value(metrics, "memorypressure_actions_total", 'mode="Enforce"') == 0
    assert _value(metrics, "memorypressure_zone_below_line_episodes_total", 'line="AtomicReserve"') >= 1
    assert _value(metrics, "memorypressure_agent_source_up", 'source="kernel_log"') == 1
    assert "memorypressure_page_allocation_failures_total{" in metrics
    policy = lab.get("/apis/memorypressure.dev/v1alpha1/memorypressurepolicies/default")
    assert policy["status"]["actions"]["dryRun"] >= 1
    assert policy["status"]["actions"]["kills"] + policy["status"]["actions"]["evictions"] == 0
