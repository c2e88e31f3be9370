"""Through an outage of the API server real reporters report every decision, once and in order."""

import time

import pytest
from support.atonce import Running
from support.operator_lab import GROUP, wait_for
from support.pathlab import PathLab, Versions
from support.reportercases import cases, dry_run, written_orders
from support.reporterlab import ReporterNode, Wire, WrittenJournal, lines_of, told

OUTAGE_SECONDS = 20.0
LONG_OUTAGE_SECONDS = 600.0


@pytest.fixture(scope="module")
def lab(reporter_lab: PathLab) -> PathLab:
    return reporter_lab


@pytest.fixture(scope="module")
def running(reporting: Running[PathLab]) -> Running[PathLab]:
    return reporting


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
