"""How often a real reporter asks and writes: its real timers, on the real API server.

The cases run together with those of the other files test_reporter*.py (support.reportercases).
"""

import contextlib
import itertools
import time
from collections.abc import Iterator

import pytest
from support.atonce import Running
from support.faultproxy import FaultProxy
from support.operator_lab import GROUP, wait_for
from support.pathlab import PathLab
from support.reportercases import cases
from support.reporterlab import ReporterNode, WrittenJournal
from support.reporting import Lines, under_pressure

from memorypressure_agent.reporter import link
from memorypressure_agent.reporter.client import ApiClient, Endpoint
from memorypressure_agent.reporter.pace import FIRST_BACKOFF_SECONDS, PRESSURE_SECONDS, TRANSITION_SECONDS


@pytest.fixture(scope="module")
def running(reporting: Running[PathLab]) -> Running[PathLab]:
    return reporting


class Requests:
    """When a node's reporter asked for what, seen by a proxy before the API server."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.seen: list[tuple[float, str, str]] = []
        proxy.faults.before = self._note

    def _note(self, method: str, path: str) -> None:
        self.seen.append((time.monotonic(), method, path))

    def times(self, method: str, words: str = "") -> list[float]:
        return [at for at, each, path in self.seen if each == method and words in path]


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


@contextlib.contextmanager
def reported_on(lab: PathLab, name: str) -> Iterator[tuple[ReporterNode, WrittenJournal, FaultProxy, Requests]]:
    """A node with a state, a journal that is written, and a reporter behind a proxy, which has reported once."""
    node = ReporterNode(lab, name)
    node.make_state()
    with (
        contextlib.closing(FaultProxy(lab.plane)) as proxy,
        contextlib.closing(WrittenJournal(node.machine.journal_path)) as journal,
    ):
        requests = Requests(proxy)
        node.report(server=proxy.url)
        wait_for(lambda: requests.times("PATCH"), "the first report")
        yield node, journal, proxy, requests
        assert node.reporter is not None
        node.reporter.stop()


@cases
def test_writes_follow_transitions_not_faster_than_every_5_s_and_come_every_10_s_under_pressure(lab: PathLab) -> None:
    with reported_on(lab, "rates") as (node, journal, _, requests):
        for number in range(24):  # a transition each half second
            journal.status = under_pressure() if number % 2 else journal.status | {"triggers": []}
            time.sleep(0.5)
        journal.status = under_pressure()
        busy = len(requests.times("PATCH"))
        wait_for(lambda: node.condition("UnderPressure").get("status") == "True", "the last state is reported")
        settled = len(requests.times("PATCH"))
        wait_for(lambda: len(requests.times("PATCH")) >= settled + 2, "two more under pressure", 3 * PRESSURE_SECONDS)
        found = requests.times("PATCH")
        assert all(gap > TRANSITION_SECONDS - 0.3 for gap in gaps(found))
        assert busy >= 3, "transitions are reported while they go on"
        assert all(gap > PRESSURE_SECONDS - 0.3 for gap in gaps(found[settled - 1 :]))


@cases
def test_a_server_that_refuses_is_asked_less_and_less_often_at_moments_that_differ(lab: PathLab) -> None:
    with reported_on(lab, "refused") as (node, journal, proxy, requests):
        proxy.faults.refuse = lambda _method, _path: 503
        proxy.cut()
        journal.act()
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > 16, "some tries", 30)
        for method in ("GET", "PATCH"):  # by the thread of the orders, and by that of the reports
            tries = [at for at in requests.times(method) if at > began]
            waits = gaps(tries)
            assert 3 <= len(tries) <= 7, (method, waits)
            for number, wait in enumerate(waits):
                whole = FIRST_BACKOFF_SECONDS * 2**number
                assert wait > whole / 2 - 0.1, (method, waits)
        assert "503" in node.ask("/readyz")[1]
        assert node.ask("/readyz")[0] == 503
        proxy.heal()
        wait_for(lambda: node.state()["status"].get("recentActions"), "the report afterwards", 45)
        wait_for(lambda: node.ask("/readyz")[0] == 200, "it is ready again", 45)


@cases
def test_a_watch_goes_on_from_a_bookmark_without_reading_the_object_again(
    lab: PathLab,
) -> None:
    node = ReporterNode(lab, "bookmark")
    node.make_state()
    endpoint = Endpoint(lab.plane.url, lab.token_file, lab.plane.authority.certificate_file)
    client = ApiClient(endpoint, "test")
    asked: list[dict[str, str]] = []
    reads: list[str] = []
    get, watch = client.get, client.watch

    def short_watch(path: str, query: dict[str, str], silence_seconds: float):  # noqa: ANN202
        asked.append(query)
        # the API server sends a bookmark two seconds before a watch ends (KEP-956)
        return watch(path, {**query, "timeoutSeconds": "6"}, silence_seconds)

    client.watch = short_watch  # type: ignore[method-assign, assignment]
    client.get = lambda path: reads.append(path) or get(path)  # type: ignore[method-assign, func-returns-value]
    follower = link.Link(client, node.name, "", node.machine.orders_path, Lines())
    follower.follow()
    own = int(lab.admin.must("GET", f"{GROUP}/nodememorystates/{node.name}")["metadata"]["resourceVersion"])
    assert int(asked[0]["resourceVersion"]) <= own
    assert asked[0]["allowWatchBookmarks"] == "true"
    follower.follow()
    assert int(asked[1]["resourceVersion"]) > own, "from the bookmark's version: others have written meanwhile"
    assert len(reads) == 1
    client.close()
