"""Dashboards and rules of the chart on a real Prometheus, and by the rules of Grafana's linter."""

import functools
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.monitoring import METRIC, REPOSITORY, RULES, exported, promtool
from support.operator_lab import wait_for
from support.prometheus import Prometheus

import dashboards
from memorypressure_tools.helm import CHART, Helm

DASHBOARDS = sorted((CHART / "files/monitoring/dashboards").glob("*.json"))


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
