"""The cases of test_grants.py and test_path_*.py that share a control plane and an operator; `conftest` runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.atonce import AtOnce
from support.pathlab import PathLab

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.sweep import remove_namespace, remove_prefixed

NAME: Final = "path"
cases: Final[AtOnce[PathLab]] = AtOnce()


@contextmanager
def shared_lab(plane: ControlPlane, directory: Path) -> Iterator[PathLab]:
    """The lab of all cases, with an operator that leads."""
    plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": NAME}})
    plane.wait_for_service_account(NAME)
    lab = PathLab(plane, f"{NAME}-", NAME, directory)
    try:
        lab.running()
        yield lab
    finally:
        lab.close()
        remove_prefixed(plane.admin, lab.prefix)
        for namespace in (NAME, lab.home):
            remove_namespace(plane.admin, namespace)
