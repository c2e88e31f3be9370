"""AppArmor's parser for a node, from Debian's package: with it, containers get the runtime's default profile."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import store
from memorypressure_tools.guest.tree import Tree
from memorypressure_tools.toolcache import ToolMissingError

DOWNLOAD_SECONDS: Final = 300.0


def unpacked() -> Path:
    """The directory with the package's files; from the cache."""
    return store.entry("apparmor", store.digest("apparmor"), _unpack, said="Debian's apparmor package")


def add_to(tree: Tree) -> None:
    """Puts parser, abstractions and the features that Debian's kernels are parsed for into a root tree.

    Without the features file the parser refuses every profile; the package's own profiles are for no program here.
    """
    files = unpacked()
    parser = next(
        path for path in (files / "sbin/apparmor_parser", files / "usr/sbin/apparmor_parser") if path.exists()
    )
    tree.binary(parser, "sbin/apparmor_parser")
    for name in ("abi", "abstractions", "tunables"):
        if (files / "etc/apparmor.d" / name).is_dir():
            shutil.copytree(files / "etc/apparmor.d" / name, tree.place(f"etc/apparmor.d/{name}"))
    shutil.copytree(files / "etc/apparmor", tree.place("etc/apparmor"))
    shutil.copytree(files / "usr/share/apparmor-features", tree.place("usr/share/apparmor-features"))


def _unpack(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o777)  # apt-get downloads as the user _apt
        for command in (["apt-get", "download", "-qq", "apparmor"], ["sh", "-c", f"dpkg-deb -x *.deb {target}"]):
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
            )
            if done.returncode != 0:
                raise ToolMissingError(f"{' '.join(command)}: code {done.returncode}: {done.stderr.strip()}")
