"""Metrics over TLS as the chart sets them up: ports, certificate, rights, who may read, ServiceMonitor."""

from typing import Any

import pytest

from memorypressure_tools.helm import Helm, Manifest, find

NAME = "memory-pressure-memory-pressure-operator-agent"
SERVICE = f"{NAME}-metrics"
SECURE = {"agent.metrics.secure.enabled": True, "agent.metrics.secure.secretName": "own-tls"}
ISSUED = {
    "agent.metrics.secure.enabled": True,
    "agent.metrics.secure.issuerRef": {"name": "ca", "kind": "ClusterIssuer"},
}
REVIEWS = {"tokenreviews", "subjectaccessreviews"}


def reporter(manifests: list[Manifest]) -> dict[str, Any]:
    spec = find(manifests, "DaemonSet")["spec"]["template"]["spec"]
    return {**next(c for c in spec["containers"] if c["name"] == "reporter"), "podVolumes": spec["volumes"]}


def resources(manifests: list[Manifest]) -> set[str]:
    return {name for rule in find(manifests, "ClusterRole", NAME)["rules"] for name in rule["resources"]}


def kinds(manifests: list[Manifest]) -> set[str]:
    return {manifest["kind"] for manifest in manifests}


def test_by_default_metrics_are_in_clear_and_the_agent_may_review_nobody(helm: Helm) -> None:
    manifests = helm.template()
    found = reporter(manifests)
    assert not [argument for argument in found["args"] if "tls" in argument or "authorization" in argument]
    assert [port["name"] for port in found["ports"]] == ["metrics"]
    assert found["livenessProbe"]["httpGet"]["port"] == found["readinessProbe"]["httpGet"]["port"] == "metrics"
    assert not resources(manifests) & REVIEWS
    assert not kinds(manifests) & {"Certificate", "ServiceMonitor"}
    assert not [m for m in manifests if m["metadata"]["name"].endswith("-reader")]


def test_secure_metrics_have_a_certificate_probes_of_their_own_and_the_right_to_review(helm: Helm) -> None:
    manifests = helm.template(SECURE)
    found = reporter(manifests)
    assert found["args"][-4:] == [
        "--probe-port=9466",
        "--metrics-tls-cert=/run/metrics-tls/tls.crt",
        "--metrics-tls-key=/run/metrics-tls/tls.key",
        "--metrics-authorization",
    ]
    assert {port["name"]: port["containerPort"] for port in found["ports"]} == {"metrics": 9464, "probes": 9466}
    assert found["livenessProbe"]["httpGet"]["port"] == found["readinessProbe"]["httpGet"]["port"] == "probes"
    (volume,) = [volume for volume in found["podVolumes"] if volume["name"] == "metrics-tls"]
    # A certificate that is not there yet must not keep the sentinel from its work.
    assert volume["secret"] == {"secretName": "own-tls", "optional": True}
    assert {"name": "metrics-tls", "mountPath": "/run/metrics-tls", "readOnly": True} in found["volumeMounts"]
    assert resources(manifests) >= REVIEWS
    policy = find(manifests, "NetworkPolicy", NAME)
    assert [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]] == [9464, 9466]


def test_without_authorization_nobody_is_reviewed(helm: Helm) -> None:
    manifests = helm.template({**SECURE, "agent.metrics.secure.authorization": False})
    assert "--metrics-authorization" not in reporter(manifests)["args"]
    assert not resources(manifests) & REVIEWS
    assert not [m for m in manifests if m["metadata"]["name"].endswith("-reader")]


def test_those_who_may_read_get_a_right_to_one_path_and_no_more(helm: Helm) -> None:
    readers = [{"name": "prometheus", "namespace": "monitoring"}]
    manifests = helm.template({**SECURE, "agent.metrics.secure.readers": readers})
    assert find(manifests, "ClusterRole", f"{SERVICE}-reader")["rules"] == [
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
    ]
    binding = find(manifests, "ClusterRoleBinding", f"{SERVICE}-reader")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}]
    assert binding["roleRef"]["name"] == f"{SERVICE}-reader"


def test_an_issuer_makes_the_certificate_for_the_services_name(helm: Helm) -> None:
    manifests = helm.template(ISSUED)
    certificate = find(manifests, "Certificate")["spec"]
    assert certificate["dnsNames"] == [f"{SERVICE}.memory-pressure.svc"]
    assert certificate["issuerRef"] == {"name": "ca", "kind": "ClusterIssuer"}
    (volume,) = [volume for volume in reporter(manifests)["podVolumes"] if volume["name"] == "metrics-tls"]
    assert volume["secret"]["secretName"] == certificate["secretName"] == f"{SERVICE}-tls"


@pytest.mark.parametrize(("secure", "secret"), [(SECURE, "own-tls"), (ISSUED, f"{SERVICE}-tls")])
def test_a_service_monitor_trusts_the_certificates_ca_and_sends_prometheuss_own_token(
    helm: Helm, secure: dict[str, Any], secret: str
) -> None:
    manifests = helm.template({**secure, "agent.metrics.serviceMonitor.enabled": True})
    (endpoint,) = find(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["bearerTokenFile"] == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert endpoint["tlsConfig"] == {
        "serverName": f"{SERVICE}.memory-pressure.svc",
        "ca": {"secret": {"name": secret, "key": "ca.crt"}},
    }
