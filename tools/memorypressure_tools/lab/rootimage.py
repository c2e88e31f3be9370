"""The root disk of the lab's guests: a Debian tree with Python and the peers, and our agent as it goes into a guest."""

import compileall
import io
import py_compile
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from memorypressure_tools.guest import images, packages, programs, store
from memorypressure_tools.guest.kernel import Kernel
from memorypressure_tools.guest.tree import FILES, Tree

REPOSITORY: Final = Path(__file__).resolve().parents[3]
SUITE: Final = "bookworm"
DEBIAN: Final = ("python3", "dash", "earlyoom", "nohang", "oomd", "systemd", "systemd-sysv", "systemd-oomd", "dbus")
"""Python with its whole standard library (ctypes for the agent), and the killers that people use."""
ROOT_MIB: Final = 700
MODULES: Final = ("zram", "lzo-rle")
OUTSIDE: Final = frozenset({"flood", "tcpflood"})
"""Programs of the host."""
PACKAGES: Final = (REPOSITORY / "core" / "memorypressure", REPOSITORY / "node-agent" / "memorypressure_agent")


def root_image(kernel: Kernel) -> Path:
    """An ext4 image with everything that does not change with our code; from the cache.

    Needs the packages of `packages.GUEST` and `packages.ROOT_TREE`.
    """
    archive = store.entry("debian", store.digest(SUITE, DEBIAN), _debian, said=f"Debian packages: {' '.join(DEBIAN)}")
    parts = (FILES, FILES.with_name("tree.py"), Path(__file__), Path(packages.path("busybox-static")))
    key = store.digest(archive.name, kernel.release, MODULES, *parts)

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "root"
            root.mkdir()
            with tarfile.open(archive) as content:
                content.extractall(root, filter="tar")
            tree = Tree(root)
            tree.base(kernel, *MODULES)
            images.ext4(root, target, ROOT_MIB)

    return store.entry(f"lab-root-{kernel.release}", key, build, said=f"root disk of the lab, kernel {kernel.release}")


def agent_files() -> dict[str, bytes]:
    """Our packages with compiled bytecode, by path below /config; compiled for the guest's Python, which is Debian's.

    The bytecode is not checked against the sources' times: the guest's disk would not keep them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for package in PACKAGES:
            place = Path(scratch) / "agent" / package.name
            _copy_sources(package, place)
            done = compileall.compile_dir(
                place,
                quiet=1,
                stripdir=scratch,
                prependdir="/config",
                invalidation_mode=_UNCHECKED,
                optimize=[0, 2],  # type: ignore[arg-type]  # a list is allowed since 3.9
            )
            if not done:
                raise images.ImageError(f"{package} does not compile")
        return {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in sorted(Path(scratch).rglob("*"))
            if path.is_file()
        }


def program_files() -> Mapping[str, bytes]:
    """The load programs by path below /config; in memory, so that a long series does not depend on the cache."""
    return {f"bin/{name}": path.read_bytes() for name, path in programs.ensure().items() if name not in OUTSIDE}


def agent_digest(files: Mapping[str, bytes]) -> str:
    """Which agent a run was made with: changes with every source of core and agent."""
    return store.digest([part for name in sorted(files) if name.endswith(".py") for part in (name, files[name])])


_UNCHECKED: Final = py_compile.PycInvalidationMode.UNCHECKED_HASH


def _copy_sources(package: Path, target: Path) -> None:
    for path in sorted(package.rglob("*.py")):
        place = target / path.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())


def _debian(target: Path) -> None:
    command = [packages.path("mmdebstrap"), "--quiet", "--variant=extract", f"--include={','.join(DEBIAN)}", SUITE]
    done = subprocess.run([*command, "--format=tar", str(target)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise images.ImageError(f"{' '.join(command)}: code {done.returncode}: {done.stderr.strip()[-1000:]}")


def unpack(archive: bytes, directory: Path) -> None:
    """Unpacks the tar that a guest wrote onto its disk for results."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as content:
        content.extractall(directory, filter="data")
