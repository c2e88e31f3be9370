"""A root directory for a guest, put together from files of this machine: nothing is installed in the guest."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import packages
from memorypressure_tools.guest.kernel import Kernel

FILES: Final = Path(__file__).resolve().with_name("files")
DIRECTORIES: Final = (
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
    "lib",
    "lib64",
    "etc",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root",
)
#: util-linux's mount knows propagation and what the kubelet asks of it; iproute2's ip knows MTUs and more
NOT_FROM_BUSYBOX: Final = frozenset({"busybox", "mount", "umount", "ip", "modprobe", "init"})


class Tree:
    """A root directory that is being filled; `path` is where it is on this machine."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # a temporary directory is 0700, which the guest's / would be, too
        self.path = path

    def base(self, kernel: Kernel, *modules: str) -> None:
        """What every guest has: busybox, mount, ip, these modules, init (PID 1) and the shell's server."""
        for name in DIRECTORIES:
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.copy(Path(packages.path("busybox-static")), "bin/busybox")
        listed = subprocess.run([packages.path("busybox-static"), "--list"], capture_output=True, text=True, check=True)
        for applet in set(listed.stdout.split()) - NOT_FROM_BUSYBOX:
            self.link(f"bin/{applet}", "busybox")
        self.link("sbin/modprobe", "/bin/busybox")
        for name in ("mount", "umount"):
            self.binary(Path("/usr/bin") / name, f"bin/{name}")
        self.binary(Path(packages.path("iproute2")), "sbin/ip")
        self.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self.text("etc/group", "root:x:0:\n")
        self.text("etc/nsswitch.conf", "hosts: files dns\n")
        self.text("etc/resolv.conf", "nameserver 127.0.0.1\n")
        self.copy(FILES / "init.sh", "sbin/init")
        self.copy(FILES / "shell.sh", "sbin/guest-shell")
        self.modules(kernel, "virtio_net", "virtio_rng", *modules)

    def place(self, inside: str) -> Path:
        """Where a path of the guest is on this machine; its directory is made.

        ValueError where a link of the tree leads out of it: an absolute one means the guest's root, and would be
        followed into this machine's.
        """
        target = self.path / inside.lstrip("/")
        if not target.parent.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{inside}: {target.parent} is a link out of the tree")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _new_file(self, inside: str) -> Path:
        """The place for a file; a link that stands there is removed, never written through."""
        target = self.place(inside)
        if target.is_symlink():
            target.unlink()
        return target

    def text(self, inside: str, content: str, mode: int = 0o644) -> None:
        """Writes a file."""
        target = self._new_file(inside)
        target.write_text(content, encoding="utf-8")
        target.chmod(mode)

    def link(self, inside: str, to: str) -> None:
        """Makes a symbolic link where there is nothing yet."""
        target = self.place(inside)
        if not target.is_symlink() and not target.exists():
            target.symlink_to(to)

    def copy(self, source: Path, inside: str, mode: int = 0o755) -> None:
        """Copies one file."""
        target = self._new_file(inside)
        shutil.copyfile(source, target)
        target.chmod(mode)

    def binary(self, source: Path, inside: str) -> None:
        """Copies a program, and the libraries that it is linked with to where it looks for them."""
        self.copy(source.resolve(), inside)
        for library in linked(source.resolve()):
            if not (self.path / library.lstrip("/")).exists():
                self.copy(Path(library).resolve(), library)

    def modules(self, kernel: Kernel, *names: str) -> None:
        """Copies modules with all that they need, and makes modprobe's index of what is there."""
        target = self.path / "lib/modules" / kernel.release
        for file in kernel.module_files(*names):
            self.copy(file, f"lib/modules/{kernel.release}/{file.relative_to(kernel.modules)}", 0o644)
        target.mkdir(parents=True, exist_ok=True)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copyfile(kernel.modules / name, target / name)
        subprocess.run(["depmod", "-b", str(self.path), kernel.release], check=True)


def linked(program: Path) -> list[str]:
    """Paths of the libraries and of the loader that a program is linked with, as `ldd` says; none when it is static."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    return re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE) if done.returncode == 0 else []
