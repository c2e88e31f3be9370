"""The cases of test_operator_{actions,orders,path}.py, which share an operator; `conftest` runs them."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from support.atonce import AtOnce, Running
from support.operator_lab import Corner, Lab

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.sweep import remove_namespace, remove_prefixed

NAME: Final = "acts"
at_once: Final[AtOnce[Lab]] = AtOnce()
_numbers = itertools.count(1)


def cases(case: Callable[[Lab], None]) -> Callable[[Running[Lab]], None]:
    """A test of a case, which runs in a corner of its own."""

    @functools.wraps(case)
    def in_a_corner(shared: Lab) -> None:
        with contextlib.closing(Corner(shared, f"c{next(_numbers)}")) as lab:
            case(lab)

    return at_once(in_a_corner)


@contextlib.contextmanager
def shared_lab(plane: ControlPlane, directory: Path) -> Iterator[Lab]:
    """The lab of all cases, with an operator that leads; at the end it has to stop as it should."""
    plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": NAME}})
    lab = Lab(plane, f"{NAME}-", NAME, directory)
    try:
        operator = lab.running()
        yield lab
        assert operator.stop() == 0
        assert "Traceback" not in operator.text()
    finally:
        lab.close()
        remove_prefixed(plane.admin, lab.prefix)
        for namespace in plane.admin.must("GET", "/api/v1/namespaces")["items"]:
            if namespace["metadata"]["name"].split("-")[0] == NAME:
                remove_namespace(plane.admin, namespace["metadata"]["name"])
