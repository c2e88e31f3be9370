"""The nodes' root image: a guest's tree with kubelet, containerd, runc, CNI, and container images unpacked in it.

The images are unpacked by a containerd that runs on this machine with its root inside the tree: inside the guest, which
is emulated, it would take a minute at every start.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from memorypressure_tools import toolcache
from memorypressure_tools.cluster import apparmor, loadimage
from memorypressure_tools.guest import images, packages, programs, store, tree
from memorypressure_tools.guest.kernel import Kernel
from memorypressure_tools.processes import Child, ChildDiedError

FILES: Final = Path(__file__).resolve().with_name("files")
SIZE_MIB: Final = 3072
"""Sparse: what is not written takes no space."""
CONTAINERD_SECONDS: Final = 30.0
IMPORT_SECONDS: Final = 300.0
PLUGINS: Final = ("bridge", "host-local", "loopback")
MODULES: Final = ("overlay", "veth", "bridge", "br_netfilter", "nft_chain_nat", "nft_masq", "nft_nat", "nft_ct")


class NodeImageError(Exception):
    """The root image could not be made; the text is the program's."""


def ensure(kernel: Kernel, archives: Sequence[Path]) -> Path:
    """A raw ext4 image for nodes with these images (OCI or Docker archives) and our own; from the cache."""
    packages.ensure([*packages.GUEST, *packages.NODE])
    tools = toolcache.ensure(toolcache.NODE_TOOLS)
    archives = [*archives, loadimage.pause_archive(), loadimage.load_archive()]
    sources = [Path(__file__), Path(apparmor.__file__), Path(tree.__file__), FILES, tree.FILES]
    debian = [Path(packages.path(name)) for name in packages.NODE]
    programs_made = programs.ensure()
    key = store.digest(
        kernel.release, list(tools.values()), archives, list(programs_made.values()), sources, debian, str(SIZE_MIB)
    )

    def build(target: Path) -> None:
        # Beside the result: the unpacked images are large, and /tmp may be memory.
        with tempfile.TemporaryDirectory(dir=store.directory()) as scratch:
            root = tree.Tree(Path(scratch) / "root")
            _fill(root, kernel, tools, programs_made)
            _import(root, tools, archives, Path(scratch))
            images.ext4(root.path, target, SIZE_MIB)

    return store.entry("node", key, build, said="the nodes' root image, container images unpacked in it")


def _fill(root: tree.Tree, kernel: Kernel, tools: dict[str, Path], made: dict[str, Path]) -> None:
    root.base(kernel, *MODULES)
    for name, path in tools.items():
        root.binary(path, f"bin/{name}")
    for name in ("canary", "sampler"):
        root.copy(made[name], f"bin/{name}")
    root.binary(Path(packages.path("runc")), "sbin/runc")
    root.binary(Path(packages.path("nftables")), "sbin/nft")
    for name in PLUGINS:
        root.binary(Path(packages.path("containernetworking-plugins")).with_name(name), f"opt/cni/bin/{name}")
    apparmor.add_to(root)
    root.copy(FILES / "gate.sh", "sbin/load-gate")
    root.copy(FILES / "containerd.toml", "etc/containerd/config.toml", 0o644)
    for name in ("var/lib/kubelet", "var/log/pods", "etc/kubernetes/manifests", "etc/cni/net.d"):
        root.place(f"{name}/.keep").touch()


def _import(root: tree.Tree, tools: dict[str, Path], archives: Sequence[Path], scratch: Path) -> None:
    """Fills the tree's image store with a containerd that runs here until all are in it."""
    socket = scratch / "containerd.sock"
    text = (FILES / "containerd.toml").read_text(encoding="utf-8")
    for name, value in (
        ("root", root.path / "var/lib/containerd"),
        ("state", scratch / "state"),
        ("address", socket),
    ):
        text = re.sub(rf'^{name} = ".*"$', f'{name} = "{value}"', text, flags=re.MULTILINE)
    (scratch / "containerd.toml").write_text(text, encoding="utf-8")
    child = Child(
        "containerd", [tools["containerd"], "-c", scratch / "containerd.toml"], scratch / "containerd.log", scratch
    )
    try:
        ctr = [str(tools["ctr"]), "-a", str(socket), "-n", "k8s.io"]
        end = time.monotonic() + CONTAINERD_SECONDS
        while _run([*ctr, "version"], 5.0).returncode != 0:
            child.check()
            if time.monotonic() > end:
                raise NodeImageError(f"containerd does not answer after {CONTAINERD_SECONDS:.0f} s:\n{child.tail()}")
            time.sleep(0.1)
        for archive in archives:
            done = _run(
                [*ctr, "images", "import", "--local", "--snapshotter", "overlayfs", str(archive)], IMPORT_SECONDS
            )
            if done.returncode != 0:
                raise NodeImageError(f"{archive} could not be imported: {done.stderr.strip() or done.stdout.strip()}")
    except ChildDiedError as error:
        raise NodeImageError(str(error)) from error
    finally:
        child.stop()


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
