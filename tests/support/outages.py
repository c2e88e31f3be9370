"""A lab on a control plane of its own, which may be stopped."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from support.pathlab import PathLab

from memorypressure_tools.controlplane import ControlPlane, Options

CRDS = sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))


@contextlib.contextmanager
def own_lab(directory: Path, name: str) -> Iterator[PathLab]:
    """A lab on a control plane of its own, without controllers; the logs are printed when something fails in it."""
    place = directory / name
    place.mkdir()
    with ControlPlane(Options(controller_manager=False, scheduler=False)) as plane:
        words = [word for file in CRDS for word in ("-f", str(file))]
        plane.kubectl("apply", "--server-side", *words)
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *words)
        plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        # no controller makes it, and admission refuses every pod without
        plane.admin.must("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        with contextlib.closing(PathLab(plane, f"{name}-", name, place)) as lab:
            try:
                yield lab
            except BaseException as error:
                error.add_note(lab.explain(threading.current_thread().name))
                raise
