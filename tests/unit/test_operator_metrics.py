"""The operator's metrics: a golden exposition, names, labels and helps, the reference, what goes with a policy."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from memorypressure.reasons import Reason
from memorypressure.version import VERSION
from memorypressure_operator.health import Health
from memorypressure_operator.metrics import DENIALS, MODES, STREAMS, Ages, Metrics

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "fixtures/metrics/operator-one-policy.txt"
REFERENCE = TESTS.parent / "docs/reference/operator-metrics.md"

MAIN = {
    "memorypressure_build_info": {"version", "component"},
    "memorypressure_operator_policies": {"mode"},
    "memorypressure_operator_policy_conflicts": {"policy"},
    "memorypressure_operator_nodes": {"policy", "state"},
    "memorypressure_node_tainted": {"node"},
    "memorypressure_operator_budget_remaining": {"policy", "action"},
    "memorypressure_operator_budget_limit": {"policy", "action"},
    "memorypressure_operator_reconcile_errors_total": {"reason"},
    "memorypressure_operator_reconcile_duration_seconds_count": set(),
    "memorypressure_operator_plan_staleness_seconds": set(),
    "memorypressure_actions_total": {"policy", "action", "mode", "result"},
    "memorypressure_actions_denied_total": {"action", "reason"},
    "memorypressure_operator_last_event_timestamp_seconds": {"resource"},
    "memorypressure_operator_last_pass_timestamp_seconds": set(),
    "memorypressure_operator_last_node_report_timestamp_seconds": set(),
    "memorypressure_operator_api_requests_total": {"method", "code"},
}


def metrics() -> Metrics:
    """An operator with one policy, at boot time 1,000 and wall time 1,790,000,000."""
    made = Metrics()
    health = Health(lambda: 1000.0, 60)
    health.last_policy_event, health.last_reconcile, health.last_node_report = 990.0, 999.5, 995.0
    health.heard.update(dict.fromkeys(STREAMS, 980.0))
    made.registry.register(Ages(health, lambda: 1_790_000_000.0))
    made.add_policy("default")
    made.set_policies(["DryRun", "Enforce"])
    counts = ("Selected", "Effective", "Superseded", "Reporting", "UnderPressure", "Armed")
    made.set_nodes("default", {name: number for number, name in enumerate(counts)})
    made.conflicts.labels("default").set(2)
    for action, limit, left in (("Evict", 20, 18), ("Kill", 5, 5)):
        made.budget_limit.labels("default", action).set(limit)
        made.budget_remaining.labels("default", action).set(left)
    made.exposure.labels("default", "Standing").set(3)
    made.exposure.labels("default", "WorstCaseHour").set(8)
    made.ledger_valid.labels("default").set(1)
    made.set_tainted(frozenset({"worker-7"}))
    made.actions.labels("default", "Evict", "Enforce", "Success").inc(2)
    made.denied.labels("Evict", Reason.DISRUPTION_BUDGET).inc()
    made.observe_request("PATCH", "200", 0.012)
    made.observe_request("PATCH", "none", 5.0)
    made.reconcile_seconds.observe(0.004)
    made.reaction_seconds.observe(0.03)
    return made


def exposition(made: Metrics | None = None) -> str:
    """What is served, without the process's and the interpreter's own metrics."""
    text = generate_latest((made or metrics()).registry).decode()
    kept = [line for line in text.splitlines() if re.match(r"(# (HELP|TYPE) )?memorypressure_", line)]
    return "\n".join(kept) + "\n"


def families() -> Iterator[Any]:
    yield from parse_text(exposition())


def test_the_exposition_of_an_operator_with_one_policy_is_the_golden_one() -> None:
    text = exposition().replace(f'version="{VERSION}"', 'version="0"')
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "if that is wanted: UPDATE_GOLDEN=1, and look at the difference"


@pytest.mark.parametrize(("name", "labels"), MAIN.items())
def test_the_main_metrics_of_the_api_are_there_with_their_labels(name: str, labels: set[str]) -> None:
    found = [sample for family in families() for sample in family.samples if sample.name == name]
    assert found
    assert {frozenset(sample.labels) for sample in found} == {frozenset(labels)}


def test_the_reference_names_every_metric_and_no_other() -> None:
    table = [line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| `memory")]
    documented = {name for line in table for name in re.findall(r"`(memorypressure_\w+)`", line.split("|")[1])}
    exported = {f"{each.name}_total" if each.type == "counter" else each.name for each in families()}
    assert documented == exported


def test_names_and_helps_follow_the_rules_and_nothing_names_a_pod_and_a_node_only_its_taint() -> None:
    for family in families():
        assert re.fullmatch(r"memorypressure_[a-z0-9_]*[a-z0-9]", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert len(family.documentation) > 30, family.name
        labels = {label for sample in family.samples for label in sample.labels}
        allowed = {"node"} if family.name == "memorypressure_node_tainted" else set()
        assert not labels & {"node", "pod", "namespace", "uid"} - allowed, family.name


def test_both_formats_say_the_same() -> None:
    made = metrics()
    classic = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(exposition(made))
        for sample in family.samples
    }
    modern = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(generate_openmetrics(made.registry).decode())
        for sample in family.samples
        if sample.name.startswith("memorypressure_")
    }
    assert classic == modern


def test_what_can_happen_is_there_as_0_before_it_does() -> None:
    made = Metrics()
    text = exposition(made)
    for mode in MODES:
        assert f'memorypressure_operator_policies{{mode="{mode}"}} 0.0' in text
    for reason in DENIALS:
        assert f'memorypressure_actions_denied_total{{action="Evict",reason="{reason}"}} 0.0' in text
    for resource in STREAMS:
        assert f'memorypressure_operator_stream_synced{{resource="{resource}"}} 0.0' in text
    made.add_policy("p")
    line = 'memorypressure_actions_total{action="Taint",mode="Enforce",policy="p",result="Success"} 0.0'
    assert line in exposition(made)


def test_the_gauges_of_a_policy_go_with_it_and_its_counters_stay() -> None:
    made = metrics()
    made.remove_policy("default")
    left = [line for line in exposition(made).splitlines() if 'policy="default"' in line]
    assert left
    assert all(line.startswith("memorypressure_actions_total") for line in left)


def test_a_part_that_never_did_anything_has_no_time_stamp() -> None:
    made = Metrics()
    made.registry.register(Ages(Health(lambda: 5.0, 60), lambda: 100.0))
    assert not [line for line in exposition(made).splitlines() if re.match(r"memorypressure_operator_last_", line)]


def test_a_node_has_a_series_while_it_is_tainted() -> None:
    made = Metrics()
    for names in (frozenset({"a", "b"}), frozenset({"b", "c"}), frozenset[str]()):
        made.set_tainted(names)
        text = exposition(made)
        assert set(re.findall(r'^memorypressure_node_tainted{node="(.)"} 1.0$', text, re.MULTILINE)) == names
        assert f"memorypressure_operator_nodes_tainted {len(names)}.0" in text
