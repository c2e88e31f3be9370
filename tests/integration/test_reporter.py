"""Real reporters on the real API server, from the first orders to the last report: nothing is lost on the way.

The cases of this and the other files test_reporter*.py run at the same time, each on a node of its own. There is no
operator: the tests write states and plans. Rights are those of the chart's ClusterRole; node-bound tokens and
admission: tests/chart.
"""

import signal
from dataclasses import replace

import pytest
from support.atonce import Running
from support.cgrouptree import MIB, CgroupTree, Memory
from support.operator_lab import Object, wait_for
from support.pathlab import PathLab
from support.reportercases import VICTIM, cases, dry_run, written_orders
from support.reporterlab import ReporterNode, WrittenJournal

from memorypressure_agent.reporter import shape


@pytest.fixture(scope="module")
def running(reporting: Running[PathLab]) -> Running[PathLab]:
    return reporting


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
