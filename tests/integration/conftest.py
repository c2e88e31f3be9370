"""What the tests of the whole path share, those of the operator's acts, and those of the reporter."""

from collections.abc import Iterator

import pytest
from support import operatorcases, reportercases
from support.atonce import Running
from support.operator_lab import Lab
from support.pathcases import cases
from support.pathlab import PathLab, lab_of, needs_real_pods

from memorypressure_tools.controlplane import ControlPlane


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Running[PathLab]:
    """The chosen cases of `support.pathcases`, all over: no operator is left that could meddle with other tests."""
    needs_real_pods()
    with lab_of(crds, "path", tmp_path_factory.mktemp("path")) as lab:
        lab.running()
        with cases.running(request, lab, lab.explain) as started:
            started.wait()
    return started


@pytest.fixture(scope="session")
def acting(
    request: pytest.FixtureRequest, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Running[Lab]:
    """The chosen cases of `support.operatorcases`, all over: no operator is left that could meddle with other tests."""

    def log_of_the_operator(_: str) -> str:
        return shared.processes[0].text()[-5000:]

    directory = tmp_path_factory.mktemp("acts")
    with (
        operatorcases.shared_lab(crds, directory) as shared,
        operatorcases.at_once.running(request, shared, log_of_the_operator) as started,
    ):
        started.wait()
    return started


@pytest.fixture(scope="session")
def reporter_lab(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathLab]:
    """A lab for real reporters, without an operator."""
    with lab_of(crds, "reporter", tmp_path_factory.mktemp("reporter")) as lab:
        yield lab


@pytest.fixture(scope="session")
def reporting(request: pytest.FixtureRequest, reporter_lab: PathLab) -> Iterator[Running[PathLab]]:
    """The chosen cases of `support.reportercases`, started."""
    with reportercases.cases.running(request, reporter_lab, reporter_lab.explain) as started:
        yield started
