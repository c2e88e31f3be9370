"""Whose report is whose: states made anew and versions that expired, on the real API server."""

import contextlib
import time
from dataclasses import replace

import pytest
from support.atonce import Running
from support.holdingproxy import HoldingProxy
from support.operator_lab import GROUP, wait_for
from support.pathlab import PathLab
from support.reportercases import cases, dry_run, written_orders
from support.reporterlab import ReporterNode, WrittenJournal
from support.reporting import Lines

from memorypressure_agent.reporter.client import JSON_PATCH, ApiClient, Endpoint
from memorypressure_agent.reporter.link import Link
from memorypressure_tools.apiclient import MERGE_PATCH


@pytest.fixture(scope="module")
def running(reporting: Running[PathLab]) -> Running[PathLab]:
    return reporting


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
        wait_for(lambda: len(proxy.written) > 1, "the report of the new state")
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
