"""What tests share: those of the whole path, of the operator's acts, of the reporter, of the sentinel's kills."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import killcases, operatorcases, reportercases
from support.atonce import Running
from support.operator_lab import Lab
from support.pathcases import cases
from support.pathlab import PathLab, lab_of, needs_real_pods
from support.sentinellab import RealPods, SentinelLab, real_pods

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


@pytest.fixture
def pods() -> Iterator[RealPods]:
    """The three pods of `support.killcases`."""
    made = real_pods()
    if isinstance(made, str):
        pytest.skip(made)
    for each in made:
        killcases.fill(each)
        yield each


@pytest.fixture
def lab(tmp_path: Path, pods: RealPods) -> Iterator[SentinelLab]:
    """A lab for real sentinels over these pods."""
    made = SentinelLab(tmp_path, pods.root)
    yield made
    made.close()


@pytest.fixture
def tree_lab(tmp_path: Path) -> Iterator[SentinelLab]:
    """One over a directory that is to become a tree of cgroups (`support.cgrouptree`)."""
    (tmp_path / "cgroup").mkdir()
    made = SentinelLab(tmp_path, tmp_path / "cgroup")
    yield made
    made.close()
