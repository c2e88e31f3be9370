"""Metrics over TLS for those who may read them: a real reporter, a real API server's reviews, a real Prometheus."""

import itertools
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.operator_lab import Object, wait_for
from support.pathlab import PathLab, lab_of
from support.prometheus import over_tls
from support.reporterlab import ReporterNode, Wire, WrittenJournal
from support.sentinellab import candidate
from support.sentinellab import orders as orders_of

from memorypressure.spec_values import Mode
from memorypressure_tools.certificates import Authority
from memorypressure_tools.controlplane import ControlPlane

PREFIX = "secure-"
NAMESPACE = "secure"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEWS = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
READ = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


class Secured:
    """A node's reporter with TLS and authorization, and accounts of those who scrape it."""

    def __init__(self, lab: PathLab) -> None:
        self.lab = lab
        self.wire = Wire(lab.plane.port)
        self.node = ReporterNode(lab, "n1")
        self.authority = Authority(lab.directory / "metrics-pki")
        self.mounted = lab.directory / "metrics-tls"
        self.mounted.mkdir()
        self.journal = WrittenJournal(self.node.machine.journal_path)
        self.node.make_state(orders_of(candidate("8f1f6d1e", "web-0"), mode=Mode.DRY_RUN, node_name=self.node.name))
        self._issued = itertools.count()
        self.node.report(
            quick=True,
            server=self.wire.url,
            probe_port="0",
            metrics_tls_cert=str(self.mounted / "tls.crt"),
            metrics_tls_key=str(self.mounted / "tls.key"),
            metrics_authorization="",
        )
        said = wait_for(
            lambda: re.search(r"metrics on port (\d+), probes on port (\d+)", self.node.said()), "the two ports"
        )
        self.port, self.probe_port = int(said[1]), int(said[2])
        self.before = self.probe("/readyz")
        self.issue()

    def issue(self) -> None:
        """Puts another certificate in place, as cert-manager and the kubelet do."""
        pair = self.authority.issue(f"agent-{next(self._issued)}", "agent", names=["127.0.0.1"])
        for source, name in ((pair.key, "tls.key"), (pair.certificate, "tls.crt")):
            new = self.mounted / f".{name}"
            shutil.copyfile(source, new)
            new.rename(self.mounted / name)

    def account(self, name: str) -> str:
        """A new service account; its token."""
        home = self.lab.home
        self.lab.admin.must("POST", f"/api/v1/namespaces/{home}/serviceaccounts", {"metadata": {"name": name}})
        return self.lab.plane.token(home, name)

    def bind(self, account: str, rules: list[Object]) -> None:
        """Gives a service account a ClusterRole of its own."""
        name = f"{PREFIX}{account}-reads"
        subject = {"kind": "ServiceAccount", "name": account, "namespace": self.lab.home}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        self.lab.admin.must("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
        self.lab.admin.must("POST", f"{RBAC}/clusterrolebindings", binding)

    def scrape(self, token: str = "", accept: str = "") -> tuple[int, str]:
        """Status and text of /metrics."""
        headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
        context = ssl.create_default_context(cafile=str(self.authority.certificate_file))
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}/metrics", headers=headers)
        return _answer(request, context)

    def probe(self, path: str) -> tuple[int, str]:
        return _answer(urllib.request.Request(f"http://127.0.0.1:{self.probe_port}{path}"), None)

    def close(self) -> None:
        self.wire.close()
        self.journal.close()


def _answer(request: urllib.request.Request, context: ssl.SSLContext | None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=15, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def lab(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathLab]:
    with lab_of(crds, NAMESPACE, tmp_path_factory.mktemp(NAMESPACE)) as made:
        yield made


@pytest.fixture(scope="module")
def secured(lab: PathLab) -> Iterator[Secured]:
    made = Secured(lab)
    yield made
    made.close()


def test_each_who_scrapes_is_judged_by_the_api_server(secured: Secured) -> None:
    good, stranger = secured.account("prometheus"), secured.account("stranger")
    secured.bind("prometheus", READ)
    # The agent itself may not ask yet: nobody is let in, and the right that is missing is named.
    assert secured.scrape(good)[0] == 503
    assert "allow to create tokenreviews and subjectaccessreviews?" in secured.node.said()
    secured.bind("agent", REVIEWS)
    wait_for(lambda: secured.scrape(good)[0] == 200, "the agent's right is known to the API server")

    assert "memorypressure_build_info" in secured.scrape(good)[1]
    assert secured.scrape(good, "application/openmetrics-text; version=1.0.0")[1].endswith("# EOF\n")
    assert secured.scrape()[0] == 401
    assert secured.scrape("not.a.token")[0] == 401
    status, text = secured.scrape(stranger)
    assert status == 403
    assert f"system:serviceaccount:{secured.lab.home}:stranger may not get the non-resource URL /metrics" in text
    said = secured.node.said()
    assert good not in said
    assert stranger not in said
    assert "Traceback" not in said


def test_without_a_certificate_it_works_on_and_is_not_ready(secured: Secured) -> None:
    status, text = secured.before
    assert status == 503
    assert re.search(r"^NOT metrics: not served, .*tls.crt: No such file or directory$", text, re.MULTILINE)


def test_probes_are_in_clear_on_their_own_port_and_show_no_metrics(secured: Secured) -> None:
    assert secured.probe("/healthz")[0] == 200
    wait_for(lambda: secured.probe("/readyz")[0] == 200, "it is ready")
    assert "ok metrics: served over TLS" in secured.probe("/readyz")[1]
    assert secured.probe("/metrics")[0] == 404


def test_a_real_prometheus_scrapes_over_tls_through_a_renewed_certificate(secured: Secured, tmp_path: Path) -> None:
    token = secured.account("collector")
    prometheus = over_tls(tmp_path / "prometheus", secured.port, secured.authority.certificate_file, token)
    try:
        wait_for(lambda: prometheus.query("up") == [0.0], "a scrape without the right fails", 60)
        assert "403" in prometheus.last_error()
        secured.bind("collector", READ)
        wait_for(lambda: prometheus.query("up") == [1.0], "and with it succeeds")
        assert 100 <= prometheus.query("scrape_samples_scraped")[0] <= 200
        assert len(prometheus.query("memorypressure_zone_free_bytes")) >= 2
        secured.issue()
        renewed = time.time()
        wait_for(lambda: prometheus.query(f"timestamp(up) > {renewed + 3}"), "scrapes with the new certificate")
        assert secured.node.said().count("the metrics' certificate was read") >= 2
        assert prometheus.query("min_over_time(up[3s])") == [1.0]
    finally:
        prometheus.close()


def test_an_api_server_that_is_away_lets_nobody_in_who_was_not_just_reviewed(secured: Secured) -> None:
    known, other = secured.account("known"), secured.account("other")
    for name in ("known", "other"):
        secured.bind(name, READ)
    wait_for(lambda: secured.scrape(known)[0] == 200, "its right is known")
    secured.wire.cut()
    try:
        assert secured.scrape(known)[0] == 200
        status, text = secured.scrape(other)
        assert status == 503
        assert "nobody is let in" in text
        assert secured.probe("/healthz")[0] == 200
    finally:
        secured.wire.mend()
    wait_for(lambda: secured.scrape(other)[0] == 200, "it can be asked again")
