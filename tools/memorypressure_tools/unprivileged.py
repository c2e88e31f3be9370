"""Runs the agent's real console script as a user without rights, also where that user cannot reach the repository.

Interpreter and repository may lie below a directory that only root may enter (`/root`, a CI workspace). Root opens them
and hands the descriptors down: `/proc/self/fd/N` leads to a directory without a look at its parents (proc(5), fd), so
the child reads what is world-readable there, as any other user would after an ordinary installation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

NOBODY = 65534
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def run_as_nobody(arguments: Sequence[str], timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """The finished `memorypressure-agent ARGUMENTS`, run by uid and gid 65534 without groups. Needs root."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with ExitStack() as stack:

        def reachable(path: Path) -> str:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            descriptors.append(descriptor)
            return f"/proc/self/fd/{descriptor}"

        descriptors: list[int] = []
        home = reachable(Path(sys.base_prefix))
        repository = reachable(REPOSITORY)
        packages = reachable(Path(sysconfig.get_path("purelib")))
        scripts = reachable(Path(sysconfig.get_path("scripts")))
        return subprocess.run(
            [f"{home}/bin/{version}", f"{scripts}/memorypressure-agent", *arguments],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            pass_fds=descriptors,
            cwd="/",
            env={
                "PYTHONHOME": home,
                "PYTHONPATH": f"{repository}/core:{repository}/node-agent:{packages}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "LD_LIBRARY_PATH": f"{home}/lib",
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            },
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
