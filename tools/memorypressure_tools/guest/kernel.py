"""A Debian cloud kernel by series, downloaded with apt-get and unpacked into the cache; nothing is installed."""

import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import packages, store
from memorypressure_tools.toolcache import ToolMissingError

SERIES: Final = ("6.1", "6.12")
DEFAULT_SERIES: Final = "6.1"
DOWNLOAD_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package: its release, its image, and the directory above lib/modules."""

    release: str
    image: Path
    root: Path

    @property
    def modules(self) -> Path:
        """The directory of this release's modules."""
        return self.root / "lib/modules" / self.release

    def module_files(self, *names: str) -> list[Path]:
        """Files of the modules and of all that they need, in the order of loading; built-in ones have none."""
        files: dict[Path, None] = {}
        for name in names:
            command = [packages.path("kmod"), "-d", str(self.root), "-S", self.release, "--show-depends", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ToolMissingError(f"kernel {self.release} has no module {name}: {done.stderr.strip()}")
            files |= {Path(line.split()[1]): None for line in done.stdout.splitlines() if line.startswith("insmod ")}
        return list(files)


def ensure(series: str = DEFAULT_SERIES) -> Kernel:
    """The newest kernel of the series (for example 6.1) at its first use; kept since then. ToolMissingError without."""
    if platform.machine() != "x86_64":
        raise ToolMissingError(f"guests are x86_64 only; this machine is {platform.machine()}")
    packages.ensure(["kmod"])
    root = store.entry(
        f"kernel-{series}", store.digest(series), lambda path: _unpack(series, path), said=f"Debian kernel {series}"
    )
    release = next(path.name for path in (root / "lib/modules").iterdir())
    return Kernel(release, root / f"boot/vmlinuz-{release}", root)


def _unpack(series: str, target: Path) -> None:
    name = _package(series)
    with tempfile.TemporaryDirectory() as scratch:
        # apt-get downloads as the user _apt, which may not write here otherwise; it then warns and goes on as root.
        Path(scratch).chmod(0o777)
        _run(["apt-get", "download", "-qq", name], scratch)
        archive = next(Path(scratch).glob("*.deb"))
        _run(["dpkg-deb", "-x", str(archive), str(target)], scratch)
    modules = next((target / "lib/modules").iterdir())
    shutil.rmtree(target / "usr/share", ignore_errors=True)
    _run(["depmod", "-b", str(target), modules.name], str(target))


def _package(series: str) -> str:
    """Name of the series' newest signed cloud kernel that this machine's apt knows."""
    pattern = rf"^linux-image-{re.escape(series)}\.[0-9][^ ]*-cloud-amd64$"
    if shutil.which("apt-cache") is None:
        raise ToolMissingError(f"kernel {series}: there is no apt-cache; needed is Debian 12")
    done = subprocess.run(["apt-cache", "search", "--names-only", pattern], capture_output=True, text=True, check=False)
    found = newest([line.split()[0] for line in done.stdout.splitlines() if line])
    if found is None:
        raise ToolMissingError(
            f"kernel {series}: apt knows no linux-image-{series}.*-cloud-amd64. Run apt-get update; for a series "
            "that is not the release's own, add the backports suite to /etc/apt/sources.list.d"
        )
    return found


def newest(names: list[str]) -> str | None:
    """The name with the highest version number in it, or None of none."""
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], default=None)


def _run(command: list[str], directory: str) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    if done.returncode != 0:
        raise ToolMissingError(f"{' '.join(command)}: code {done.returncode}: {(done.stderr or done.stdout).strip()}")
