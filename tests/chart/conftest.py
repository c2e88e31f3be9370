"""Helm without a cluster for rendering, and a control plane of this folder's own with the chart installed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from memorypressure_tools.controlplane import ControlPlane, Options
from memorypressure_tools.helm import CHART, NAMESPACE, RELEASE, Helm, Manifest

# The nodes of these tests have no kubelet: nobody may taint them, or evict their pods, while a test looks at them.
CONTROLLERS = "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A control plane and Helm as its administrator."""

    plane: ControlPlane
    helm: Helm


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def scenarios() -> dict[str, Path]:
    """The chart's values files by scenario, from ci/<scenario>-values.yaml."""
    return {file.name.removesuffix("-values.yaml"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))}


@pytest.fixture(scope="session")
def rendered(helm: Helm, scenarios: dict[str, Path]) -> dict[str, list[Manifest]]:
    """The objects of every scenario; not to be changed."""
    return {name: helm.template(file) for name, file in scenarios.items()}


@pytest.fixture(scope="session")
def fresh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Cluster]]:
    """Starts a control plane in which nothing has ever been installed; all of them end with the session."""
    planes: list[ControlPlane] = []

    def start() -> Cluster:
        plane = ControlPlane(Options(scheduler=False, controller_manager_flags=[CONTROLLERS]))
        plane.start()
        planes.append(plane)
        return Cluster(plane, Helm(tmp_path_factory.mktemp("helm"), plane.kubeconfig))

    yield start
    for plane in planes:
        plane.stop()


@pytest.fixture(scope="session")
def installed(fresh_cluster: Callable[[], Cluster]) -> Cluster:
    """A cluster with the chart installed with its default values."""
    cluster = fresh_cluster()
    cluster.helm.run("install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace")
    cluster.plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    return cluster
