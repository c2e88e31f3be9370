"""Debian packages that a guest is made of and run with: found, or installed by apt-get when this is root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from memorypressure_tools.toolcache import ToolMissingError

INSTALL_SECONDS: Final = 600.0

FILES: Final[Mapping[str, str]] = {
    "qemu-system-x86": "/usr/bin/qemu-system-x86_64",
    "qemu-utils": "/usr/bin/qemu-img",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "busybox-static": "/usr/bin/busybox",
    "e2fsprogs": "/usr/sbin/mke2fs",
    "cpio": "/usr/bin/cpio",
    "kmod": "/usr/sbin/modprobe",
    "iproute2": "/usr/sbin/ip",
    "mount": "/usr/bin/mount",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "nftables": "/usr/sbin/nft",
    "buildah": "/usr/bin/buildah",
    "gcc": "/usr/bin/gcc",
    "libc6-dev": "/usr/lib/x86_64-linux-gnu/libc.a",
}
"""A file of each package that shows that it is installed."""

GUEST: Final = (
    "qemu-system-x86",
    "qemu-utils",
    "busybox-static",
    "e2fsprogs",
    "cpio",
    "kmod",
    "iproute2",
    "mount",
    "gcc",
    "libc6-dev",
)
"""What any guest needs."""
ROOT_TREE: Final = ("mmdebstrap",)
"""What a Debian root tree in a guest needs on top."""
NODE: Final = ("runc", "containernetworking-plugins", "nftables")
"""What a Kubernetes node needs on top."""
IMAGES: Final = ("buildah", "mmdebstrap")
"""What building our own images needs."""


def missing(names: Iterable[str] = GUEST) -> list[str]:
    """Names of the packages that are not installed."""
    return [name for name in names if not Path(FILES[name]).exists()]


def path(name: str) -> str:
    """The file that shows that the package is installed: its program, for most."""
    return FILES[name]


def ensure(names: Iterable[str] = GUEST) -> None:
    """Returns when all are installed; ToolMissingError with the names and the command when they cannot be."""
    lacking = missing(names)
    if not lacking:
        return
    command = f"apt-get install --no-install-recommends {' '.join(lacking)}"
    if shutil.which("apt-get") is None:
        raise ToolMissingError(f"Debian packages {', '.join(lacking)}; there is no apt-get: needed is Debian 12")
    if os.geteuid() != 0:
        raise ToolMissingError(f"Debian packages {', '.join(lacking)}: as root, run: {command}")
    print(f"guest: installing Debian packages: {' '.join(lacking)}", file=sys.stderr, flush=True)
    _apt("update", "-qq")
    _apt("install", "-qq", "-y", "--no-install-recommends", *lacking)
    still = missing(lacking)
    if still:
        raise ToolMissingError(f"Debian packages {', '.join(still)}: installed, but {FILES[still[0]]} is not there")


def _apt(*words: str) -> None:
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *words]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolMissingError(f"{' '.join(command)}: no end after {INSTALL_SECONDS:.0f} s") from None
    if done.returncode != 0:
        tail = "\n  ".join(done.stdout.splitlines()[-8:])
        raise ToolMissingError(f"{' '.join(command)}: code {done.returncode}\n  {tail}")
