"""One real cluster for the session: the chart, fresh, and a load that waits on node-1.

`RUNS=20` repeats the test of a drained reserve on it, every run a test of its own with fresh pods and all assertions.
"""

import os
from collections.abc import Generator, Iterator

import pytest
from support.e2eepisode import Episodes, outstanding
from support.e2efaults import MANY_KILLS_PER_HOUR, allow_many_kills
from support.e2elab import POLICIES, SLOW_SECONDS, Lab
from support.e2eruns import Runs
from support.e2esettings import Settings

from memorypressure_tools.cluster.cluster import Cluster, ClusterOptions, prepare
from memorypressure_tools.toolcache import ToolMissingError

FLOODS = pytest.StashKey[Runs]()
SETTINGS = pytest.StashKey[Settings]()
STORY_LINES = 60
"""Of a failed test's story, the last ones."""


def pytest_configure(config: pytest.Config) -> None:
    """The environment's settings; what is wrong with them is told before a cluster is made."""
    try:
        config.stash[SETTINGS] = Settings.of(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def settings(request: pytest.FixtureRequest) -> Settings:
    """What NODES, RUNS, SOAK and SEED say."""
    return request.config.stash[SETTINGS]


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Cluster]:
    """The cluster; NODES=2 runs the operator in the chart's pod on an idle second node."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # the progress has to be seen
        lacking = prepare()
        if lacking:
            raise ToolMissingError("; ".join(lacking))
        fresh = any("fresh" in str(item.path) for item in request.session.items)
        many = settings.runs > 1 or not fresh  # a fresh install is one with the chart's own values
        values = {"agent.sentinel.maxKillsPerHour": MANY_KILLS_PER_HOUR} if many else {}
        running = Cluster(ClusterOptions(nodes=settings.nodes, values=values)).start()
    yield running
    with capture.global_and_fixture_disabled():
        running.say("ends")
    running.stop()


@pytest.fixture(scope="session")
def lab(cluster: Cluster, request: pytest.FixtureRequest) -> Lab:
    """The cluster with its load: everything waits, nothing is filled yet."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return Lab(cluster, capture)


@pytest.fixture(scope="session")
def episodes(lab: Lab) -> Episodes:
    """For tests of faults: only the default policy, and a sentinel that may kill often."""
    for each in lab.items(POLICIES):
        if each["metadata"]["name"] != "default":
            lab.cluster.plane.kubectl("delete", "mpp", each["metadata"]["name"])
    # An agent that is replaced before it gave back what it was allowed keeps the node unarmed until that has run out.
    lab.cluster.wait_for("allowances of former policies to be given back", lambda: not outstanding(lab), SLOW_SECONDS)
    allow_many_kills(lab)
    return Episodes(lab)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `number` is run RUNS times."""
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(1, metafunc.config.stash[SETTINGS].runs + 1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The test's story is part of a failure's report; what the cluster shows, which is long, is in a file named there.

    So the last 150 lines of a log, which CI shows, have the assertion, the story and the floods.
    """
    report = yield
    arguments = getattr(item, "funcargs", {})
    lab = arguments.get("lab") or getattr(arguments.get("episodes"), "lab", None)
    if report.when != "call" or not isinstance(lab, Lab):
        return report
    if report.failed:
        if call.excinfo is not None:  # the report itself comes when all tests have run, which may be an hour later
            with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                lab.cluster.say(f"FAILED: {call.excinfo.exconly()}")
        report.sections.append(("what was seen", "\n".join(lab.story[-STORY_LINES:])))
        report.sections.append(("pods, events, logs", str(lab.cluster.save_evidence())))
    item.config.stash.setdefault(FLOODS, Runs()).add(lab.results, passed=report.passed)
    lab.results.clear()
    lab.story.clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Every flood of the session, the void ones too."""
    runs = config.stash.get(FLOODS, None)
    if runs is not None and runs.rows:
        terminalreporter.write_sep("=", "floods")
        terminalreporter.write_line(runs.table())
