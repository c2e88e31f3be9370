"""What every test may use: one control plane per session, a namespace and a name prefix per test, and `needs`.

A test that needs what this machine lacks is skipped with the reason, the reasons are listed at the end, and the exit
code is 3 when everything else passed. With CI=true nothing may be skipped: such a test fails.
"""

import functools
import itertools
import os
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
from support import sharing

from memorypressure_tools import toolcache
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.sweep import remove_namespace, remove_prefixed

REPOSITORY: Final = Path(__file__).resolve().parent.parent
IN_CI: Final = os.environ.get("CI", "").lower() in {"1", "true"}

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_numbers = itertools.count(1)
_missing = pytest.StashKey[dict[str, list[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the list of what is missing."""
    config.stash[_missing] = {}
    if not hasattr(config, "workerinput"):  # a worker of xdist reports to the process that counts
        config.pluginmanager.register(_Missing(config.stash[_missing]), "missing")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files to each process, in the order of `pytest_collection_modifyitems`."""
    return sharing.scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, the longest files come first."""
    if hasattr(config, "workerinput"):
        sharing.longest_first(items)


@functools.cache
def _lack(what: str) -> str | None:
    """Why this machine cannot give `what` to a test, or None: root, a pinned tool, or a command on PATH."""
    if what == "root":
        return None if os.geteuid() == 0 else "root: run as root to include it"
    if what in toolcache.TOOLS:
        try:
            toolcache.ensure([what])
        except toolcache.ToolMissingError as error:
            return f"{what}: {error}"
        return None
    return None if shutil.which(what) else f"{what}: no such command on PATH"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honours `@pytest.mark.needs("root", "helm", ...)`."""
    for marker in item.iter_markers("needs"):
        for what in marker.args:
            reason = _lack(what)
            if reason is not None:
                raise toolcache.ToolMissingError(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A tool that cannot be had is a skip, whoever asked for it; in CI a skip is a failure, whoever skipped."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, toolcache.ToolMissingError):
        path, line, _ = item.location
        report.outcome, report.longrepr = "skipped", (path, line or 0, f"Skipped: {call.excinfo.value}")
    if IN_CI and _skip_reason(report) is not None:
        report.outcome, report.longrepr = "failed", f"skipped, which CI=true does not allow: {_skip_reason(report)}"
    return report


def _skip_reason(report: pytest.TestReport) -> str | None:
    """Why the test was skipped; None if it was not, or only in the way of an expected failure."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


class _Missing:
    """Counts skipped tests under their reasons: in the process that reports, also for tests of other processes."""

    def __init__(self, tests: dict[str, list[str]]) -> None:
        self._tests = tests

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Every report comes by here, from whatever process."""
        reason = _skip_reason(report)
        if reason is not None:
            self._tests.setdefault(reason, []).append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Exit code 3 when all that could run passed, but something was missing."""
    if session.exitstatus == pytest.ExitCode.OK and session.config.stash[_missing]:
        session.exitstatus = toolcache.EXIT_MISSING


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Lists what is missing and how many tests wait for it."""
    if config.stash[_missing]:
        terminalreporter.section("missing on this machine (exit code 3)")
        for reason, tests in config.stash[_missing].items():
            terminalreporter.line(f"{len(tests)} test{'s' * (len(tests) > 1)} not run: {reason}")


@pytest.fixture(scope="session")
def controlplane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """The session's control plane (etcd, API server, controller manager, scheduler), started for its first user."""
    plane = ControlPlane()
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # the progress of a first build has to be seen
        plane.start()
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def crds(controlplane: ControlPlane) -> ControlPlane:
    """The session's control plane with the product's definitions from crds/ established."""
    files = sorted((REPOSITORY / "crds").glob("*.yaml"))
    words = [word for file in files for word in ("-f", str(file))]
    controlplane.kubectl("apply", "--server-side", *words)
    controlplane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *words)
    return controlplane


def _slug(request: pytest.FixtureRequest) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:30].strip("-")
    return f"t{next(_numbers)}-{words.removeprefix('test-')}"


@pytest.fixture
def namespace(controlplane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own, in which pods can be created."""
    name = _slug(request)
    controlplane.check()
    controlplane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    controlplane.wait_for_service_account(name)
    yield name
    remove_namespace(controlplane.admin, name)


@pytest.fixture
def prefix(controlplane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix (ends with a dash) for this test's cluster-scoped names: nodes, roles, policies; removed afterwards."""
    name = _slug(request) + "-"
    controlplane.check()
    yield name
    remove_prefixed(controlplane.admin, name)
