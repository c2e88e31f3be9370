"""Tokens, CAs, rights and definitions that are not as a real reporter needs them are named, until they are."""

import contextlib
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.atonce import Running
from support.operator_lab import GROUP, wait_for
from support.pathlab import PathLab
from support.reportercases import cases, dry_run, written_orders
from support.reporterlab import ReporterNode, WrittenJournal, lines_of, signed_again, signing_key

from memorypressure_tools.certificates import Authority
from memorypressure_tools.controlplane import ControlPlane, Options

CRDS = sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))


@pytest.fixture(scope="module")
def running(reporting: Running[PathLab]) -> Running[PathLab]:
    return reporting


@cases
def test_tokens_and_cas_that_are_not_accepted_are_named_and_nothing_is_ordered(lab: PathLab) -> None:
    good = lab.token_file.read_text()
    past = int(time.time()) - 7200
    directory = lab.directory
    other_ca = directory / "ca-of-the-agent.crt"
    other_ca.write_bytes(Authority(directory / "foreign-pki").certificate_file.read_bytes())
    lab.admin.must("POST", f"/api/v1/namespaces/{lab.home}/serviceaccounts", {"metadata": {"name": "without-rights"}})
    tokens = {
        "expired": signed_again(good, signing_key(lab), iat=past, nbf=past, exp=past + 3600),
        "foreign": signed_again(good, ec.generate_private_key(ec.SECP256R1())),
        "rightless": lab.plane.token(lab.home, "without-rights"),
        "garbage": "this is no token",
        "good": good,
    }
    expected = {
        "expired": "HTTP 401: Unauthorized; the token is expired, or not of this cluster",
        "foreign": "HTTP 401: Unauthorized; the token is expired, or not of this cluster",
        "rightless": "is the chart's ClusterRole for the agent bound to this service account?",
        "garbage": "holds no bearer token, which is one line without spaces",
        "good": "its certificate is not accepted (unable to get local issuer certificate); is --ca-file the CA of",
    }
    nodes = {}
    for name, token in tokens.items():
        node = nodes[name] = ReporterNode(lab, f"bad-{name}")
        node.make_state(dry_run(node))
        file = directory / f"token-{name}"
        file.write_text(token)
        node.report(token_file=str(file), **({"ca_file": str(other_ca)} if name == "good" else {}))
    for name, node in nodes.items():
        wait_for(lambda name=name, node=node: expected[name] in node.said(), f"{name}: {expected[name]}")
    time.sleep(2)
    for name, node in nodes.items():
        assert [expected[name] in line for line in lines_of(node.said())].count(True) == 1, node.said()
        assert "Traceback" not in node.said()
        assert tokens[name] not in node.said()
        status, text = node.ask("/readyz")
        assert status == 503
        assert expected[name] in text
        assert node.ask("/healthz")[0] == 200
        assert node.reporter is not None
        assert node.reporter.alive()
        assert written_orders(node) is None
        assert "status" not in (lab.state(node.name) or {})
    # The kubelet puts token and CA right: no restart is needed.
    (directory / "token-foreign").write_text(good)
    other_ca.write_bytes(lab.plane.authority.certificate_file.read_bytes())
    for cured in (nodes["foreign"], nodes["good"]):
        with contextlib.closing(WrittenJournal(cured.machine.journal_path)):
            wait_for(
                lambda cured=cured: cured.state()["status"].get("lease"), f"{cured.name} reports with the new file", 45
            )
        assert written_orders(cured) is not None


@cases
def test_without_the_definitions_it_says_so_and_goes_on_when_they_come(lab: PathLab) -> None:
    with ControlPlane(Options(controller_manager=False, scheduler=False)) as plane:
        node = ReporterNode(lab, "no-crd")
        node.machine.orders_path.write_text("of a life before")
        identity = plane.admin.must(
            "POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "agent"}}
        )
        _give_all_rights(plane, identity["metadata"]["name"])
        token = lab.directory / "token-no-crd"
        token.write_text(plane.token("default", "agent"))
        journal = WrittenJournal(node.machine.journal_path)
        ca = str(plane.authority.certificate_file)
        node.report(quick=True, server=plane.url, token_file=str(token), ca_file=ca)
        missing = "are the CustomResourceDefinitions of this version installed?"
        wait_for(lambda: missing in node.said(), missing)
        assert written_orders(node) is None
        assert "the API server does not know the kind NodeMemoryState" in node.said()
        assert node.ask("/readyz")[0] == 503
        words = [word for file in CRDS for word in ("-f", str(file))]
        plane.kubectl("apply", "--server-side", *words)
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *words)
        body = {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "NodeMemoryState",
            "metadata": {"name": node.name},
            "spec": {"nodeName": node.name, "mode": "Disabled"},
        }
        path = f"{GROUP}/nodememorystates"
        plane.admin.must("POST", path, body)
        state = wait_for(lambda: plane.admin.must("GET", f"{path}/{node.name}").get("status"), "a report")
        assert state["lease"]["incarnation"] == journal.journal.incarnation
        journal.close()


def _give_all_rights(plane: ControlPlane, account: str) -> None:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "default"}
    binding = {"metadata": {"name": "agent"}, "roleRef": role, "subjects": [subject]}
    plane.admin.must("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
