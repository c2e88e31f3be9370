"""Monitors of the chart, with and without secure metrics, and the objects that a user adds."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.monitoring import REPOSITORY, RULES

from memorypressure_tools.helm import Helm, HelmError, Manifest, find

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
