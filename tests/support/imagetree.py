"""An image's tree, unpacked, and programs run in it as in a pod: read-only root, no network, a uid, /proc and /sys."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memorypressure_tools.images.archive import Archive

NONROOT = 65532

# The mounts a container gets; $1 tree, $2 directory for /run, $3 uid, then the command.
ENTER = """\
set -e
tree=$1 run=$2 uid=$3; shift 3
mount --make-rprivate /
mount --bind "$tree" "$tree"
mount --bind "$run" "$tree/run"
mount -o remount,bind,ro "$tree"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
exec chroot --userspec="$uid:$uid" --groups= "$tree" "$@"
"""


class ImageTree:
    """The files of one image in a directory, and what its configuration says."""

    def __init__(self, archive: Path, directory: Path) -> None:
        """Unpacks the archive below `directory`; every digest is checked."""
        self.archive = Archive(archive)
        self.root = directory / "tree"
        self.run_directory = directory / "run"
        self.root.mkdir()
        self.archive.unpack(self.root)
        self.run_directory.mkdir()

    def _words(self, uid: int, words: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
        os.chown(self.run_directory, uid, uid)
        variables = dict(each.split("=", 1) for each in self.archive.configuration["config"]["Env"])
        # chroot itself is looked up on the same PATH.
        variables["PATH"] += ":/usr/sbin:/sbin:/bin"
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        return [
            *namespaces,
            "sh",
            "-c",
            ENTER,
            "sh",
            str(self.root),
            str(self.run_directory),
            str(uid),
            *words,
        ], variables

    def run(self, *words: str, uid: int = NONROOT) -> subprocess.CompletedProcess[str]:
        """The ended process: its code, and what it wrote."""
        command, variables = self._words(uid, words)
        return subprocess.run(
            command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )

    @contextmanager
    def running(self, *words: str, uid: int = NONROOT) -> Iterator[subprocess.Popen[str]]:
        """The process while it runs; /run in it is `run_directory` out here. The pid is that of `unshare`."""
        command, variables = self._words(uid, words)
        with subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    _end(process.pid)
                    process.kill()


def _end(pid: int) -> None:
    """Ends the first process of the namespace below `unshare`, and with it all others in there.

    --kill-child does not reach it: the kernel forgets the parent-death signal of a process that changes its uid.
    """
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        os.kill(int(child), signal.SIGKILL)
