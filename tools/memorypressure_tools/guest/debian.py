"""A Debian root tree as a tar archive, for a guest that runs Debian's own programs: Python, for example."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import packages, store
from memorypressure_tools.toolcache import ToolMissingError

SUITE: Final = "bookworm"
DOWNLOAD_SECONDS: Final = 900.0


def root_archive(include: Sequence[str], suite: str = SUITE) -> Path:
    """A tar archive with these packages and what they need, unpacked and not configured; from the cache.

    Packages are unpacked only (mmdebstrap's variant `extract`): no maintainer script runs, there is no shell unless one
    is included. ToolMissingError with the end of mmdebstrap's output where it cannot be made.
    """
    packages.ensure(packages.ROOT_TREE)

    def build(target: Path) -> None:
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(include)}", suite, str(target)]
        done = subprocess.run(
            [*command[:-1], f"{target}.tar"],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        made = Path(f"{target}.tar")
        if done.returncode != 0:
            made.unlink(missing_ok=True)
            raise ToolMissingError(f"{' '.join(command)}: code {done.returncode}: {done.stderr.strip()[-800:]}")
        made.replace(target)

    said = f"a Debian {suite} tree with {', '.join(include)}"
    return store.entry(f"debian-{suite}", store.digest(list(include)), build, said=said)
