"""What the tests of the whole path share, and those of the operator's acts."""

import pytest
from support import operatorcases
from support.atonce import Running
from support.operator_lab import Lab
from support.pathcases import cases, shared_lab
from support.pathlab import PathLab, needs_real_pods

from memorypressure_tools.controlplane import ControlPlane


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Running[PathLab]:
    """The chosen cases of `support.pathcases`, all over: no operator is left that could meddle with other tests."""
    needs_real_pods()
    with shared_lab(crds, tmp_path_factory.mktemp("path")) as lab, cases.running(request, lab, lab.explain) as started:
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
