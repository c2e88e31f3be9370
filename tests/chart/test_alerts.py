"""Alerts of the chart: which fires when, on what metrics, and what its runbook and its values change."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.monitoring import METRIC, REPOSITORY, RULES, exported, promtool

from memorypressure_tools.helm import Helm, HelmError, find

RUNBOOKS = REPOSITORY / "docs/runbooks.md"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {r["alert"]: r for group in GROUPS for r in group["rules"] if "alert" in r}
RECORDED = {r["record"] for group in GROUPS for r in group["rules"] if "record" in r}

AGENT = '{job="memory-pressure-agent",node="n1"'
OTHER = '{job="memory-pressure-agent",node="n2"'
OPERATOR = '{job="memory-pressure-operator"'
BELOW = f'memorypressure_zone_below_line_%s_total{AGENT},numa_node="0",zone="Normal",line="AtomicReserve"}}'
HEALTHY = {
    'kube_node_info{node="n1"}': "1x60",
    'kube_node_info{node="n2"}': "1x60",
    f"up{AGENT}}}": "1x60",
    f"up{OTHER}}}": "1x60",
    f"up{OPERATOR}}}": "1x60",
    f'memorypressure_agent_source_up{AGENT},source="zoneinfo"}}': "1x60",
    f'memorypressure_agent_policy_info{AGENT},policy="p",mode="Enforce"}}': "1x60",
    f'memorypressure_trigger_active{AGENT},policy="p",trigger="reserve"}}': "0x60",
    BELOW % "episodes": "3x60",
    BELOW % "seconds": "1.5x60",
    f'memorypressure_psi_stalled_seconds_total{AGENT},scope="node",kind="full"}}': "5+1x60",
    f'memorypressure_page_allocation_failures_total{AGENT},atomic="true"}}': "2x60",
    f"memorypressure_kernel_oom_kills_total{AGENT}}}": "7x60",
    f'memorypressure_actions_total{AGENT},policy="p",action="Kill",mode="Enforce",result="Success"}}': "4x60",
    f'memorypressure_actions_total{AGENT},policy="p",action="Kill",mode="Enforce",result="Failed"}}': "1x60",
    f'memorypressure_actions_total{OPERATOR},policy="p",action="Evict",mode="DryRun",result="Success"}}': "0x60",
    f'memorypressure_operator_ledger_valid{OPERATOR},policy="p"}}': "1x60",
    f'memorypressure_operator_budget_remaining{OPERATOR},policy="p",action="Evict"}}': "0x60",
    f'memorypressure_operator_budget_limit{OPERATOR},policy="p",action="Evict"}}': "20x60",
    f'memorypressure_operator_nodes{OPERATOR},policy="p",state="UnderPressure"}}': "0x60",
    f'memorypressure_operator_policy_conflicts{OPERATOR},policy="p"}}': "0x60",
    'kube_pod_container_status_restarts_total{namespace="m",pod="a",container="sentinel"}': "1x60",
    'kube_pod_info{namespace="m",pod="a",created_by_kind="DaemonSet",created_by_name="mp-agent"}': "1x60",
    'kube_pod_info{namespace="r",pod="redis-0",created_by_kind="StatefulSet",created_by_name="redis"}': "1x60",
}
KILLS = f'memorypressure_actions_total{AGENT},policy="p",action="Kill",mode="Enforce",result='
ACTIVE = f'memorypressure_trigger_active{AGENT},policy="p",trigger="reserve"}}'
SITUATIONS: dict[str, tuple[dict[str, str | None], set[str]]] = {
    "all is well": ({}, set()),
    "a node without an agent": ({f"up{OTHER}}}": "0x60"}, {"MemoryPressureAgentMissing"}),
    "a node whose agent is not even a target": ({f"up{OTHER}}}": None}, {"MemoryPressureAgentMissing"}),
    "a sentinel that restarts": (
        {'kube_pod_container_status_restarts_total{namespace="m",pod="a",container="sentinel"}': "1+0.1x60"},
        {"MemoryPressureAgentRestarting"},
    ),
    "somebody else's container that restarts": (
        {'kube_pod_container_status_restarts_total{namespace="m",pod="a",container="web"}': "1+1x60"},
        set(),
    ),
    "a sentinel of Redis that restarts": (
        {'kube_pod_container_status_restarts_total{namespace="r",pod="redis-0",container="sentinel"}': "1+1x60"},
        set(),
    ),
    "a Windows node": ({'kube_node_info{node="w1",os_image="Windows Server 2025 Datacenter"}': "1x60"}, set()),
    "no operator": ({f"up{OPERATOR}}}": None}, {"MemoryPressureOperatorAbsent"}),
    "an unreadable source": (
        {f'memorypressure_agent_source_up{AGENT},source="zoneinfo"}}': "0x60"},
        {"MemoryPressureAgentSourceUnavailable"},
    ),
    "an edited ledger": (
        {f'memorypressure_operator_ledger_valid{OPERATOR},policy="p"}}': "0x60"},
        {"MemoryPressureLedgerInvalid"},
    ),
    "one dip": ({BELOW % "episodes": "3x53 4x7"}, {"MemoryPressureAtomicReserveBreached"}),
    "a flood on one of two nodes": (
        {BELOW % "episodes": "3+20x60", BELOW % "seconds": "0+6x60"},
        {
            "MemoryPressureAtomicReserveBreached",
            "MemoryPressureAtomicReserveSustained",
            "MemoryPressureWidespread",
        },
    ),
    "time below the Low line": (
        {(BELOW % "seconds").replace("AtomicReserve", "Low"): "0+30x60"},
        set(),
    ),
    "stalls": (
        {f'memorypressure_psi_stalled_seconds_total{AGENT},scope="node",kind="full"}}': "5+12x60"},
        {"MemoryPressureStallHigh"},
    ),
    "failed allocations": (
        {f'memorypressure_page_allocation_failures_total{AGENT},atomic="true"}}': "2x50 9x10"},
        {"MemoryPressureAllocationFailures"},
    ),
    "the kernel's killer under pressure": (
        {f"memorypressure_kernel_oom_kills_total{AGENT}}}": "7x55 8x5", ACTIVE: "0x53 1x7"},
        {"MemoryPressureKernelOOMDespitePolicy"},
    ),
    "the kernel's killer at a container's limit": (
        {f"memorypressure_kernel_oom_kills_total{AGENT}}}": "7x55 8x5"},
        set(),
    ),
    "kills that fail": ({f'{KILLS}"Failed"}}': "1x20 2+0.2x40"}, {"MemoryPressureActionsFailing"}),
    "a taint that stays": (
        {f'memorypressure_node_tainted{OPERATOR},node="n1"}}': "1x60"},
        {"MemoryPressureStuckTaint"},
    ),
    "a taint under pressure": ({f'memorypressure_node_tainted{OPERATOR},node="n1"}}': "1x60", ACTIVE: "1x60"}, set()),
    "many kills": ({f'{KILLS}"Success"}}': "4+1x60"}, {"MemoryPressureEvictionStorm"}),
    "many kills that are not seen to end": (
        {f'{KILLS}"Incomplete"}}': "4+1x60"},
        {"MemoryPressureEvictionStorm", "MemoryPressureActionsFailing"},
    ),
    "a spent budget under pressure": (
        {f'memorypressure_operator_nodes{OPERATOR},policy="p",state="UnderPressure"}}': "2x60"},
        {"MemoryPressureBudgetExhausted"},
    ),
    "a budget of nothing under pressure": (
        {
            f'memorypressure_operator_nodes{OPERATOR},policy="p",state="UnderPressure"}}': "2x60",
            f'memorypressure_operator_budget_limit{OPERATOR},policy="p",action="Evict"}}': "0x60",
        },
        set(),
    ),
    "tied policies": (
        {f'memorypressure_operator_policy_conflicts{OPERATOR},policy="p"}}': "3x60"},
        {"MemoryPressurePolicyConflict"},
    ),
    "a dry run that would evict": (
        {
            f'memorypressure_actions_total{OPERATOR},policy="p",action="Evict",mode="DryRun",'
            'result="Success"}': "0x30 1x30"
        },
        {"MemoryPressureDryRunWouldAct"},
    ),
}


@pytest.mark.needs("promtool")
def test_in_each_situation_the_right_alerts_fire_and_no_other(tmp_path: Path) -> None:
    cases = []
    for name, (changes, fire) in SITUATIONS.items():
        series = {key: value for key, value in {**HEALTHY, **changes}.items() if value is not None}
        cases.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": [{"series": key, "values": value} for key, value in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "60m",
                        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(fire)],
                    }
                ],
            }
        )
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    promtool("test", "rules", file)
    assert set().union(*(fire for _, fire in SITUATIONS.values())) == set(ALERTS), "every alert fires in some situation"


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert f"{len(ALERTS) + len(RECORDED)} rules found" in promtool(
        "check", "rules", "--lint=all", "--lint-fatal", RULES
    )


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_severity_summary_description_and_a_runbook(name: str) -> None:
    alert = ALERTS[name]
    assert re.fullmatch(r"MemoryPressure[A-Z][A-Za-z]+", name)
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert f"## {name}" in RUNBOOKS.read_text(encoding="utf-8").splitlines()


def test_every_runbook_is_of_an_alert() -> None:
    headings = re.findall(r"^## (.+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(ALERTS)


def test_rules_ask_for_metrics_that_are_exported_or_recorded_only() -> None:
    asked = {name for group in GROUPS for rule in group["rules"] for name in METRIC.findall(rule["expr"])}
    assert asked
    assert asked <= exported()
    recorded = {n for group in GROUPS for rule in group["rules"] for n in re.findall(r"\w+:\w+:\w+", rule["expr"])}
    assert recorded <= RECORDED


def test_the_rules_are_those_of_the_file_with_the_users_changes(helm: Helm) -> None:
    values = {
        "monitoring.rules.enabled": True,
        "monitoring.rules.labels": {"release": "p"},
        "monitoring.rules.alertLabels": {"team": "sre"},
        "monitoring.rules.severities": {"MemoryPressureAtomicReserveSustained": "warning"},
        "monitoring.rules.disabled": ["MemoryPressureDryRunWouldAct"],
        "monitoring.rules.runbookUrl": "https://example.com/runbooks",
    }
    rule = find(helm.template(values), "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "p"
    found = {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each}
    assert set(found) == set(ALERTS) - {"MemoryPressureDryRunWouldAct"}
    for name, alert in found.items():
        severity = "warning" if name == "MemoryPressureAtomicReserveSustained" else ALERTS[name]["labels"]["severity"]
        assert alert["labels"] == {"severity": severity, "team": "sre"}
        assert alert["annotations"].pop("runbook_url") == f"https://example.com/runbooks#{name.lower()}"
        assert alert["annotations"] == ALERTS[name]["annotations"]
        assert alert["expr"] == ALERTS[name]["expr"]


def test_an_alert_that_does_not_exist_cannot_be_left_out(helm: Helm) -> None:
    with pytest.raises(HelmError, match='there is no alert "MemoryPresure"; there are: MemoryPressureAgentMissing,'):
        helm.template({"monitoring.rules.enabled": True, "monitoring.rules.disabled": ["MemoryPresure"]})
