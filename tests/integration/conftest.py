"""What the tests of the whole path share."""

import pytest
from support.atonce import Running
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
