"""The programs of load and measurement (`programs/*.c`), compiled static and kept by the digest of their sources."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import packages, store

SOURCES: Final = Path(__file__).resolve().with_name("programs")
FLAGS: Final = ("-O2", "-static", "-Wall", "-Wextra", "-Wconversion", "-Werror")


class CompileError(Exception):
    """A program did not compile; the text is the compiler's."""


def ensure() -> dict[str, Path]:
    """The path of each program by name: canary, flood, fragment, hog, huge, pause, sampler, sink, ..."""
    packages.ensure(["gcc", "libc6-dev"])
    # Read at the time of the digest: a checkout may change under a program that has been running for long.
    names = sorted(path.stem for path in SOURCES.glob("*.c"))
    key = store.digest(SOURCES, FLAGS, names)
    made = store.entry("programs", key, lambda target: _compile(target, names), said="compiling the load programs")
    return {name: made / name for name in names}


def _compile(target: Path, names: Sequence[str]) -> None:
    target.mkdir()
    for name in names:
        command = ["gcc", *FLAGS, "-o", str(target / name), str(SOURCES / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileError(f"{' '.join(command)}:\n{done.stderr}")
