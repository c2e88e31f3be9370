"""Alerts, dashboards and monitors of the chart: which alert fires when, what is asked for, what is scraped."""

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.operator_lab import wait_for
from support.prometheus import Prometheus

import dashboards
from memorypressure_tools import toolcache
from memorypressure_tools.helm import CHART, Helm, HelmError, Manifest, find

REPOSITORY = CHART.parent.parent
RULES = CHART / "files/monitoring/rules.yaml"
DASHBOARDS = sorted((CHART / "files/monitoring/dashboards").glob("*.json"))
RUNBOOKS = REPOSITORY / "docs/runbooks.md"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {r["alert"]: r for group in GROUPS for r in group["rules"] if "alert" in r}
RECORDED = {r["record"] for group in GROUPS for r in group["rules"] if "record" in r}
METRIC = re.compile(r"(?<![\w:])memorypressure_\w+")


def exported() -> set[str]:
    """The names that the reference pages list; other tests hold those pages against real expositions."""
    names: set[str] = set()
    for page in ("agent", "operator"):
        text = (REPOSITORY / f"docs/reference/{page}-metrics.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| `memorypressure_")]
        for row in rows:
            names |= set(re.findall(r"`(memorypressure_\w+)`", row.split("|")[1]))
            if "| histogram" in row:
                names |= {f"{name}_bucket" for name in re.findall(r"`(memorypressure_\w+)`", row.split("|")[1])}
    return names


def promtool(*words: str | Path) -> str:
    """What it prints; fails with that where promtool does."""
    program = toolcache.ensure(["promtool"])["promtool"]
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- alerts ---

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


# --- dashboards ---


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title of the panel and expression, with the variables replaced as Grafana does."""
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], re.sub(r"\$(cluster|node|policy)", ".*", expression)


@pytest.fixture(scope="module", params=DASHBOARDS, ids=lambda path: path.stem)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(request.param.read_text(encoding="utf-8"))
    return value


def test_the_dashboards_are_what_their_script_makes() -> None:
    assert dashboards.main(["--check"]) == 0
    assert [path.stem for path in DASHBOARDS] == ["fleet", "node", "policy"]


def test_a_dashboard_follows_the_rules_of_grafanas_linter(board: dict[str, Any]) -> None:
    assert board["editable"] is False
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert "cluster" in variables
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in board["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            expression = target["expr"]
            used = set(re.findall(r"\$(\w+)", expression)) - {"__rate_interval"}
            assert used <= set(variables), panel["title"]
            assert 'job="memory-pressure-' in expression or 'job=~"memory-pressure-' in expression
            assert 'cluster=~"$cluster"' in expression
            for counter in re.finditer(r"memorypressure_\w+_(total|bucket)\b", expression):
                before = expression[: counter.start()]
                assert re.search(r"(rate|increase)\($", before), f"{panel['title']}: {counter[0]} as it stands"


def test_the_panels_of_a_dashboard_do_not_overlap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, place["y"]) for x in range(place["x"], place["x"] + place["w"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.needs("promtool")
def test_every_query_of_a_dashboard_is_one_and_asks_for_what_is_exported(board: dict[str, Any], tmp_path: Path) -> None:
    found = list(queries(board))
    assert {name for _, expression in found for name in METRIC.findall(expression)} <= exported()
    rules = [{"record": f"q:{number}", "expr": expression} for number, (_, expression) in enumerate(found)]
    for number, rule in enumerate(rules):
        rule["record"] = f"query:number_{number}"
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


EXPOSITIONS = REPOSITORY / "tests/fixtures/metrics"
WITHOUT_DATA = {"Sources that cannot be read"}
"""The panel of a node that is well."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real server with our rules, which scrapes an agent's and an operator's exposition under the jobs' names."""
    directory = tmp_path_factory.mktemp("prometheus")
    for job, file in (("agent", "agent-two-nodes.txt"), ("operator", "operator-one-policy.txt")):
        shutil.copy(EXPOSITIONS / file, directory / f"{job}.txt")
    handler = functools.partial(Exposition, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        jobs = [
            {
                "job_name": f"memory-pressure-{job}",
                "metrics_path": f"/{job}.txt",
                "static_configs": [
                    {
                        "targets": [f"127.0.0.1:{server.server_port}"],
                        "labels": {"cluster": "one", **({"node": "n1"} if job == "agent" else {})},
                    }
                ],
            }
            for job in ("agent", "operator")
        ]
        started = Prometheus(directory, jobs, (RULES,))
        yield started
        started.close()
        server.shutdown()


class Exposition(SimpleHTTPRequestHandler):
    """Serves files as expositions."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the parent's name
        """Nothing."""


def test_a_real_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    wait_for(lambda: prometheus.query("count(up == 1) == 2"), "both jobs are scraped")
    wait_for(lambda: prometheus.unhealthy_rules() is not None, "all rules were evaluated")
    assert prometheus.unhealthy_rules() == []
    assert prometheus.query('count(ALERTS{alertname="MemoryPressurePolicyConflict"})') == [1.0]


def test_a_real_prometheus_has_data_for_every_panel(prometheus: Prometheus, board: dict[str, Any]) -> None:
    wait_for(lambda: prometheus.query("count_over_time(memorypressure_build_info[1m]) > 2"), "some scrapes")
    for title, expression in queries(board):
        assert prometheus.refusal(expression) == "", title
        if title not in WITHOUT_DATA and not expression.endswith("> 0"):
            assert prometheus.query(expression), f"{title}: {expression}"


def test_the_dashboards_are_a_config_map_for_grafanas_sidecar(helm: Helm) -> None:
    values = {
        "monitoring.dashboards": {"enabled": True, "labels": {"grafana_dashboard": "yes"}, "annotations": {"f": "g"}}
    }
    maps = [
        m for m in helm.template(values) if m["kind"] == "ConfigMap" and m["metadata"]["name"].endswith("dashboards")
    ]
    (found,) = maps
    assert found["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert found["metadata"]["annotations"] == {"f": "g"}
    assert {name: json.loads(text) for name, text in found["data"].items()} == {
        f"memory-pressure-{path.name}": json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS
    }


# --- monitors ---

FULL = "memory-pressure-memory-pressure-operator"
SECURE = {"agent.metrics.secure.enabled": True, "agent.metrics.secure.secretName": "own-tls"}
TOKEN = {"name": "scraper", "key": "token"}


def labels_of_pods(manifests: list[Manifest], kind: str) -> dict[str, str]:
    labels: dict[str, str] = find(manifests, kind)["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize(("component", "workload"), [("agent", "DaemonSet"), ("operator", "Deployment")])
@pytest.mark.parametrize(("kind", "value"), [("PodMonitor", "podMonitor"), ("ServiceMonitor", "serviceMonitor")])
def test_a_monitor_selects_its_component_and_names_the_job_that_alerts_look_for(
    helm: Helm, component: str, workload: str, kind: str, value: str
) -> None:
    given = {
        "enabled": True,
        "labels": {"release": "p"},
        "interval": "30s",
        "scrapeTimeout": "10s",
        "sampleLimit": 300,
        "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
        "metricRelabelings": [{"action": "labeldrop", "regex": "x"}],
    }
    manifests = helm.template({f"{component}.metrics.{value}": given})
    monitor = find(manifests, kind)
    assert monitor["metadata"]["labels"]["release"] == "p"
    spec = monitor["spec"]
    assert spec["namespaceSelector"]["matchNames"] == ["memory-pressure"]
    assert spec["sampleLimit"] == 300
    selector = spec["selector"]["matchLabels"].items()
    if kind == "PodMonitor":
        selected = labels_of_pods(manifests, workload)
        ports = find(manifests, workload)["spec"]["template"]["spec"]["containers"][-1]["ports"]
    else:
        service = find(manifests, "Service", f"{FULL}{'-agent' if component == 'agent' else ''}-metrics")
        selected, ports = service["metadata"]["labels"], service["spec"]["ports"]
    assert selector <= selected.items()
    other = labels_of_pods(manifests, "Deployment" if component == "agent" else "DaemonSet")
    assert not selector <= other.items()
    (endpoint,) = spec["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
    assert endpoint["port"] in {port["name"] for port in ports}
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("30s", "10s")
    assert endpoint["metricRelabelings"] == given["metricRelabelings"]
    node = [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}]
    assert endpoint["relabelings"] == [
        {"targetLabel": "job", "replacement": f"memory-pressure-{component}"},
        *(node if component == "agent" else []),
        *given["relabelings"],
    ]
    assert f'job="memory-pressure-{component}"' in RULES.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", ["podMonitor", "serviceMonitor"])
def test_a_monitor_of_secure_metrics_has_their_certificates_name_and_a_token(helm: Helm, value: str) -> None:
    given = {"enabled": True, "tokenSecret": TOKEN}
    manifests = helm.template({**SECURE, f"agent.metrics.{value}": given})
    spec = find(manifests, value[0].upper() + value[1:])["spec"]
    (endpoint,) = spec.get("podMetricsEndpoints", spec.get("endpoints"))
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {
        "serverName": f"{FULL}-agent-metrics.memory-pressure.svc",
        "ca": {"secret": {"name": "own-tls", "key": "ca.crt"}},
    }
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": TOKEN}
    assert "bearerTokenFile" not in endpoint


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"agent.metrics.serviceMonitor.enabled": True, "agent.metrics.podMonitor.enabled": True},
            "agent.metrics.serviceMonitor and agent.metrics.podMonitor are both enabled",
        ),
        (
            {"operator.metrics.serviceMonitor.enabled": True, "operator.service.enabled": False},
            "operator.metrics.serviceMonitor.enabled=true needs operator.service.enabled=true",
        ),
        ({**SECURE, "agent.metrics.podMonitor.enabled": True}, "needs agent.metrics.podMonitor.tokenSecret"),
        ({"agent.metrics.podMonitor": {"tokenSecret": {"name": "x"}}}, "tokenSecret"),
    ],
)
def test_monitors_that_cannot_work_are_refused_with_a_sentence(helm: Helm, values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=re.escape(words)):
        helm.template(values)


def test_without_prometheus_operator_nothing_of_it_is_rendered(helm: Helm) -> None:
    assert not {m["kind"] for m in helm.template()} & {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


def test_objects_of_the_user_are_rendered_with_the_charts_values(helm: Helm) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-x"}}
    text = 'apiVersion: v1\nkind: LimitRange\nmetadata:\n  name: {{ include "mpo.fullname" . }}'
    manifests = helm.template({"extraObjects": [body, text]})
    assert find(manifests, "Secret")["metadata"]["name"] == "memory-pressure-x"
    assert find(manifests, "LimitRange")["metadata"]["name"] == FULL


def test_the_values_of_the_how_to_make_monitors_rules_and_dashboards(helm: Helm, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/how-to/scrape-the-metrics.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(# monitoring.yaml;.*?)```", text, re.DOTALL)
    assert block is not None
    file = tmp_path / "monitoring.yaml"
    file.write_text(block[1], encoding="utf-8")
    kinds = [manifest["kind"] for manifest in helm.template(file)]
    assert [kinds.count(kind) for kind in ("PodMonitor", "PrometheusRule", "ConfigMap")] == [2, 1, 2]
