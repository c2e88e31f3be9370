"""Initial ram disk and disks of a guest, made without mounting anything."""

import gzip
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import packages, store
from memorypressure_tools.guest.kernel import Kernel
from memorypressure_tools.guest.tree import FILES

#: what has to be loaded to see the root disk
BOOT_MODULES: Final = ("virtio_pci", "virtio_blk", "ext4")
TAR_DISK_BYTES: Final = 1 << 20


class ImageError(Exception):
    """An image could not be made; the text is the program's."""


def initrd(kernel: Kernel) -> Path:
    """An initial ram disk that mounts the disk with serial `root` and goes on with its /sbin/init; from the cache."""
    script = FILES / "initrd.sh"
    busybox = Path(packages.path("busybox-static"))
    key = store.digest(script, busybox, kernel.release, BOOT_MODULES)

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            for name in ("bin", "modules", "proc", "sys", "dev", "new"):
                (root / name).mkdir()
            _copy(busybox, root / "bin/busybox")
            _copy(script, root / "init")
            for number, file in enumerate(kernel.module_files(*BOOT_MODULES), 10):
                _copy(file, root / f"modules/{number}-{file.name}")
            names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
            packed = _run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, stdin=names.encode())
        target.write_bytes(gzip.compress(packed, 1))

    return store.entry("initrd", key, build, said=f"initial ram disk for {kernel.release}")


def ext4(directory: Path, target: Path, mebibytes: int) -> None:
    """Makes an ext4 image of that size with the directory's contents; sparse, without a journal."""
    with target.open("wb") as file:
        file.truncate(mebibytes << 20)
    _run([
        packages.path("e2fsprogs"), "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1",
        "-d", str(directory), str(target),
    ])  # fmt: skip


def overlay(base: Path, target: Path) -> None:
    """Makes a qcow2 image that shows `base`, a raw image, and keeps what is written to it."""
    _run([packages.path("qemu-utils"), "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(target)])


def tar(files: Mapping[str, str | bytes | Path], target: Path) -> None:
    """Makes a disk whose contents are a tar archive of these files: `tar x` reads it from the device."""
    with tarfile.open(target, "w") as archive:
        for name, content in files.items():
            if isinstance(content, Path):
                archive.add(content, name)
            else:
                data = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o755
                archive.addfile(member, io.BytesIO(data))
    size = target.stat().st_size
    with target.open("ab") as file:
        file.truncate(max(TAR_DISK_BYTES, (size + 511) // 512 * 512))


def empty(target: Path, mebibytes: int) -> None:
    """Makes a sparse image of zeros: a swap disk, for example."""
    with target.open("wb") as file:
        file.truncate(mebibytes << 20)


def data_disk(mebibytes: int) -> Path:
    """An ext4 image with one file `data` of that size, which does not compress; from the cache: what `stream` reads."""

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            with Path("/dev/urandom").open("rb") as source, (Path(scratch) / "data").open("wb") as file:
                for _ in range(mebibytes):
                    file.write(source.read(1 << 20))
            ext4(Path(scratch), target, mebibytes + mebibytes // 20 + 16)

    return store.entry(f"data-{mebibytes}", store.digest(str(mebibytes)), build, said=f"a data disk of {mebibytes} MiB")


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o755)


def _run(command: list[str], *, cwd: Path | None = None, stdin: bytes = b"") -> bytes:
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(command)}: code {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
