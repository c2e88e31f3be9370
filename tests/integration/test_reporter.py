"""Real reporters on the real API server: orders and reports, an outage, tokens and CAs that are refused, two at once.

The cases run at the same time, each on a node of its own. There is no operator: the tests write states and plans.
Rights are those of the chart's ClusterRole; node-bound tokens and admission: tests/chart.
"""

import contextlib
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.atonce import Running
from support.cgrouptree import MIB, CgroupTree, Memory
from support.holdingproxy import HoldingProxy
from support.operator_lab import GROUP, Object, wait_for
from support.pathlab import PathLab, Versions
from support.reportercases import cases
from support.reporterlab import ReporterNode, Wire, WrittenJournal, lines_of, signed_again, signing_key, told
from support.reporting import Lines
from support.sentinellab import candidate
from support.sentinellab import orders as orders_of

from memorypressure.orders import Orders, decode
from memorypressure.spec_values import Mode
from memorypressure_agent.reporter import shape
from memorypressure_agent.reporter.client import JSON_PATCH, ApiClient, Endpoint
from memorypressure_agent.reporter.link import Link
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.certificates import Authority
from memorypressure_tools.controlplane import ControlPlane, Options

VICTIM = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
OUTAGE_SECONDS = 20.0
LONG_OUTAGE_SECONDS = 600.0
CRDS = sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))


@pytest.fixture(scope="module")
def lab(reporter_lab: PathLab) -> PathLab:
    return reporter_lab


@pytest.fixture(scope="module")
def running(reporting: Running[PathLab]) -> Running[PathLab]:
    return reporting


def dry_run(node: ReporterNode) -> Orders:
    return orders_of(candidate(VICTIM, "web-0"), mode=Mode.DRY_RUN, node_name=node.name)


def written_orders(node: ReporterNode) -> Orders | None:
    path = node.machine.orders_path
    return decode(path.read_bytes()) if path.exists() else None


def ready(node: ReporterNode, status: str, reason: str) -> bool:
    found = node.condition("Ready")
    return (found.get("status"), found.get("reason")) == (status, reason)


@cases
def test_a_node_gets_its_orders_reports_pressure_and_loses_its_orders_with_the_policy(lab: PathLab) -> None:
    node = ReporterNode(lab, "story")
    tree = CgroupTree(node.machine.cgroup_root)
    tree.add_pod(VICTIM)
    tree.add_container(VICTIM, "c0de01", Memory(anon=64 * MIB), processes=2)
    node.machine.known_past()
    node.report(quick=True)
    node.start_sentinel()
    wait_for(lambda: "there is no NodeMemoryState" in node.said(), "it says what it waits for")
    assert node.ask("/healthz")[0] == 200
    assert node.ask("/readyz")[0] == 503
    assert written_orders(node) is None

    wanted = dry_run(node)
    node.make_state(wanted)
    wait_for(lambda: written_orders(node) is not None, "orders")
    found = written_orders(node)
    assert found is not None
    assert replace(found, plan_uid=wanted.plan_uid) == wanted
    wait_for(lambda: ready(node, "True", "Accepted"), "the status")
    status = node.state()["status"]
    assert "in mode DryRun" in node.condition("Ready")["message"]
    assert status["lease"]["incarnation"] == node.incarnation
    assert status["lowest"]["line"] == "AtomicReserve"
    assert "zones" not in status
    assert shape.complaint(node.machine.status()) == ""  # what a real sentinel writes is what is read here
    wait_for(lambda: node.ask("/readyz")[0] == 200, "it is ready")

    node.flood()
    wait_for(lambda: node.condition("UnderPressure").get("status") == "True", "pressure")
    wait_for(lambda: node.state()["status"].get("recentActions"), "what would have been done")
    status = node.state()["status"]
    assert node.condition("UnderPressure")["reason"] == "AtomicReserveBreached"
    assert [trigger["name"] for trigger in status["activeTriggers"]] == ["reserve"]
    assert status["activeTriggerNames"] == "reserve"
    assert {zone["name"] for zone in status["zones"]} == {"DMA32"}
    (action,) = status["recentActions"]
    assert (action["mode"], action["result"], action["pod"]["name"]) == ("DryRun", "Success", "web-0")
    assert action["time"] == status["lastActionTime"]
    assert [episode["outcome"] for episode in status["recentEpisodes"]] == ["Running"]
    metrics = node.ask("/metrics")[1]
    assert 'memorypressure_trigger_active{policy="test",trigger="reserve"} 1.0' in metrics
    assert 'memorypressure_actions_total{action="Kill",mode="DryRun",policy="test",result="Success"} 1.0' in metrics

    node.calm()
    node.withdraw()
    wait_for(lambda: written_orders(node) is None, "the orders are gone", 5)
    wait_for(lambda: ready(node, "True", "NoOrders"), "and it says so")
    wait_for(lambda: node.condition("UnderPressure").get("status") == "False", "without a policy there is no pressure")

    before = node.state()["metadata"]["uid"]
    node.delete_state()
    node.make_state()
    wait_for(lambda: node.state()["metadata"].get("uid", before) != before, "the object that was made anew")
    wait_for(lambda: node.state()["status"].get("lease"), "its status")
    assert [each["id"] for each in node.state()["status"]["recentActions"]] == [action["id"]]
    assert "Traceback" not in node.said()


@cases
def test_a_version_that_the_api_server_no_longer_knows_makes_the_link_read_the_object_anew(lab: PathLab) -> None:
    node = ReporterNode(lab, "expired")
    wanted = dry_run(node)
    node.make_state(wanted)
    endpoint = Endpoint(lab.plane.url, lab.token_file, lab.plane.authority.certificate_file)
    log, client = Lines(), ApiClient(endpoint, "test")
    link = Link(client, node.name, "", node.machine.orders_path, log)
    link._version, link._read_seconds = "1", time.monotonic()
    link.follow()
    assert "the object is read anew" in log.text()
    assert "too old resource version: 1" in log.text()
    link.state = replace(link.state, connected=False)
    link._stopping.set()  # it reads, and leaves the watch at its first event
    link.follow()
    assert written_orders(node) is not None
    client.close()


@cases
def test_through_an_outage_and_restarts_every_decision_is_reported_once(lab: PathLab) -> None:
    through_an_outage(lab, OUTAGE_SECONDS, decisions=14, quick=True)


@pytest.mark.soak
def test_through_an_outage_of_ten_minutes_every_decision_is_reported_once(lab: PathLab) -> None:
    through_an_outage(lab, LONG_OUTAGE_SECONDS, decisions=60, quick=False)


def through_an_outage(lab: PathLab, seconds: float, decisions: int, *, quick: bool) -> None:
    """Two nodes, one that knew the API server before and one that did not, decide all the while; one is killed.

    `quick` shortens the reporters' timers; as they are, backing off and five new records each 5 s take some minutes.
    """
    prefix, patience_seconds = ("", 30.0) if quick else ("long-", 300.0)
    wire = Wire(lab.plane.port)
    before, during = ReporterNode(lab, f"{prefix}before"), ReporterNode(lab, f"{prefix}during")
    journals = {node: WrittenJournal(node.machine.journal_path) for node in (before, during)}
    versions = Versions(lab.plane, f"{GROUP}/nodememorystates")
    try:
        for node in (before, during):
            node.make_state(dry_run(node))
        before.report(quick=quick, server=wire.url)
        journals[before].act()
        wait_for(lambda: before.state()["status"].get("recentActions"), "the first action")
        assert written_orders(before) is not None

        wire.cut()
        ends = time.monotonic() + seconds
        during.report(quick=quick, server=wire.url)
        for number in range(decisions):
            for journal in journals.values():
                journal.act()
            if number == decisions // 2:
                assert before.reporter is not None
                before.reporter.stop(hard=True)
                before.report(quick=quick, server=wire.url)
            time.sleep(0.7 * seconds / decisions)
        for node in (before, during):
            status, text = node.ask("/readyz")
            assert status == 503
            assert "Connection refused" in text
            assert node.ask("/healthz")[0] == 200
            assert (
                len([line for line in lines_of(node.said()) if "Connection refused" in line]) <= 2
            )  # not each attempt
        assert written_orders(before) is not None, "an outage withdraws nothing"
        assert written_orders(during) is None, "nobody ordered anything yet"
        time.sleep(max(0.0, ends - time.monotonic()))
        wire.mend()

        for node, journal in journals.items():
            wait_for(
                lambda node=node, journal=journal: set(_told(versions, node)) == set(journal.ids),
                f"all {len(journal.ids)} actions of {node.name}",
                patience_seconds,
            )
            journal.act()
        for node, journal in journals.items():
            wait_for(
                lambda node=node, journal=journal: len(_told(versions, node)) == len(journal.ids),
                "the last",
                patience_seconds,
            )
            assert _told(versions, node) == journal.ids  # in order, none twice
            assert written_orders(node) is not None
    finally:
        versions.close()
        wire.close()
        for journal in journals.values():
            journal.close()


def _told(versions: Versions, node: ReporterNode) -> list[str]:
    return told([state for state in versions.seen() if state["metadata"]["name"] == node.name])


@cases
def test_a_report_that_arrives_late_never_lands_on_a_state_that_was_made_anew(lab: PathLab) -> None:
    node = ReporterNode(lab, "late")
    journal = WrittenJournal(node.machine.journal_path)
    with contextlib.closing(HoldingProxy(lab.plane, lambda method, path, _: method == "PATCH")) as proxy:
        node.make_state(dry_run(node))
        journal.act()
        node.report(quick=True, server=proxy.url)
        assert proxy.held.wait(30)
        node.delete_state()
        node.make_state(dry_run(node))
        assert "status" not in lab.admin.must("GET", f"{GROUP}/nodememorystates/{node.name}")
        proxy.released.set()
        wait_for(lambda: node.state().get("status", {}).get("recentActions"), "the report of the new state")
        late, *after = proxy.written
        assert (late.late, late.status) == (True, 422)
        assert {write.status for write in after} == {200}
        assert [each["id"] for each in node.state()["status"]["recentActions"]] == journal.ids
        assert "was made anew (UID " in node.said()
        assert "Traceback" not in node.said()
    journal.close()


@cases
def test_the_api_server_takes_no_uid_of_a_merge_patch_of_a_status_and_that_of_a_json_patch(lab: PathLab) -> None:
    node = ReporterNode(lab, "uid")
    node.make_state()
    path, wrong = f"{GROUP}/nodememorystates/{node.name}/status", "00000000-0000-4000-8000-000000000000"
    body = {"metadata": {"uid": wrong}, "status": {"agentVersion": "merged"}}
    # Were this refused one day, the reporter could do without a JSON patch.
    assert lab.admin.request("PATCH", path, body, MERGE_PATCH).status == 200
    test = {"op": "test", "path": "/metadata/uid", "value": wrong}
    change = {"op": "add", "path": "/status", "value": {"agentVersion": "tested"}}
    assert lab.admin.request("PATCH", path, [test, change], JSON_PATCH).status == 422
    found = lab.admin.must("GET", path)
    assert found["status"]["agentVersion"] == "merged"
    answer = lab.admin.must("PATCH", path, [{**test, "value": found["metadata"]["uid"]}, change], JSON_PATCH)
    assert answer["status"]["agentVersion"] == "tested"


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


@cases
def test_a_second_reporter_on_the_same_files_ends_with_a_sentence_and_the_first_goes_on(lab: PathLab) -> None:
    node = ReporterNode(lab, "two")
    node.make_state(dry_run(node))
    journal = WrittenJournal(node.machine.journal_path)
    first, log = node.report(), node.log
    wait_for(lambda: node.state()["status"].get("lease"), "a report of the first")
    second = node.report()
    wait_for(lambda: not second.alive(), "the end of the second")
    assert "another reporter writes it; stop that one, or name another file" in node.said()
    assert second._process.poll() == 2
    node.log = log
    assert first.alive()
    assert node.ask("/readyz")[0] == 200
    first.stop(hard=True)
    node.report()
    wait_for(lambda: node.ask("/readyz")[0] == 200, "after a SIGKILL the next one gets the lock")
    journal.close()


@cases
def test_a_reporter_that_is_told_to_end_reports_what_waits_and_ends_with_0(lab: PathLab) -> None:
    node = ReporterNode(lab, "end")
    node.make_state()
    journal = WrittenJournal(node.machine.journal_path)
    reporter = node.report()
    wait_for(lambda: node.state()["status"].get("lease"), "a report")
    for _ in range(8):
        journal.act()
    reporter.send(signal.SIGTERM)
    wait_for(lambda: not reporter.alive(), "its end", 8)
    assert reporter._process.poll() == 0
    reported = [action["id"] for action in node.state()["status"]["recentActions"]]
    assert reported == list(reversed(journal.ids))
    assert "Traceback" not in node.said()
    journal.close()


@cases
def test_the_api_server_takes_the_longest_texts_that_a_sentinel_can_write(lab: PathLab) -> None:
    node = ReporterNode(lab, "long")
    node.make_state()
    journal = WrittenJournal(node.machine.journal_path)
    long = "\N{SNOWMAN}" * 1000
    status = journal.status
    names = [f"{number:02}-{'t' * 60}" for number in range(16)]
    trigger: Object = status["triggers"][0]
    journal.status = {
        **status,
        "triggers": [{**trigger, "name": name, "status": "Active", "message": long} for name in names],
        "decision": {"reason": "Futile", "message": long, "cause": "AtomicReserveBreached"},
        "helper": {**status["helper"], "near": True},
        "topPods": [{"uid": f"pod-{number}", "reliefBytes": 2**50, "overRequest": True} for number in range(10)],
    }
    journal.act()
    node.report()
    wait_for(lambda: node.state()["status"].get("lease"), "a report")
    found = node.state()["status"]
    assert len(found["activeTriggers"]) == 16
    assert len(found["activeTriggerNames"]) == 16 * 64 - 1
    assert len(node.condition("UnderPressure")["message"]) == 4096
    assert len(found["zones"]) == 3
    assert "could not be written" not in node.said()
    journal.close()
