"""Fixture trees that look like a node's kubepods cgroups: both drivers, all QoS classes, CRI-O's nested scopes.

Ordinary files stand for the kernel's, so figures can be chosen; a kill shows as `1` in a file `cgroup.kill`. What only
the kernel does (ENODEV after removal, processes that die) needs a real tree: tests/integration/test_kill*.py.
"""

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

QOS = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}


@dataclass(frozen=True, slots=True)
class Memory:
    """What a container's memory files say, in bytes; `nodes` is anon by NUMA node (default: all on node 0)."""

    anon: int = 0
    kernel: int = 0
    sock: int = 0
    file: int = 0
    nodes: tuple[int, ...] = ()

    def write(self, directory: Path) -> None:
        """Fills memory.current, memory.stat and memory.numa_stat."""
        total = self.anon + self.kernel + self.sock + self.file
        (directory / "memory.current").write_text(f"{total}\n")
        stat = {
            "anon": self.anon,
            "file": self.file,
            "kernel": self.kernel,
            "kernel_stack": 0,
            "sock": self.sock,
            "shmem": 0,
        }
        (directory / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))
        by_node = " ".join(f"N{node}={value}" for node, value in enumerate(self.nodes or (self.anon,)))
        (directory / "memory.numa_stat").write_text(f"anon {by_node}\nfile N0={self.file}\n")


SANDBOX = Memory(anon=40960, kernel=200 * 1024)


class CgroupTree:
    """A tree under `root`, by one of the two drivers."""

    def __init__(self, root: Path, *, systemd: bool = False) -> None:
        self.root = root
        self.systemd = systemd
        self.pods = root / ("kubepods.slice" if systemd else "kubepods")
        self._make(self.pods)
        for name in filter(None, QOS.values()):
            self._make(self.pods / (f"kubepods-{name}.slice" if systemd else name))

    def pod_directory(self, uid: str, qos: str = "Burstable") -> Path:
        """Where the driver puts a pod."""
        name = QOS[qos]
        if not self.systemd:
            return self.pods / name / f"pod{uid}"
        stem = f"kubepods-{name}" if name else "kubepods"
        parent = self.pods / f"{stem}.slice" if name else self.pods
        return parent / f"{stem}-pod{uid.replace('-', '_')}.slice"

    def add_pod(self, uid: str, qos: str = "Burstable", *, sandbox: bool = True) -> Path:
        """A pod's directory, with its sandbox."""
        directory = self.pod_directory(uid, qos)
        self._make(directory)
        if sandbox:
            self.add_container(uid, "5a9db0" + uid.replace("-", "")[:8], SANDBOX, qos=qos)
        return directory

    def add_container(
        self,
        uid: str,
        container_id: str,
        memory: Memory | None,
        *,
        qos: str = "Burstable",
        processes: int = 1,
        runtime: str = "cri-containerd",
        nested: bool = False,
    ) -> Path:
        """A container's directory; `memory` None: no memory controller in the tree. `nested`: as CRI-O with crun."""
        name = f"{runtime}-{container_id}.scope" if self.systemd else container_id
        directory = self.pod_directory(uid, qos) / name
        self._make(directory, populated=processes > 0)
        if memory is not None:
            memory.write(directory)
        pids = "".join(f"{4_000_000 + number}\n" for number in range(processes))
        if nested:
            self._make(directory / "container", populated=processes > 0)
            (directory / "container" / "cgroup.procs").write_text(pids)
        else:
            (directory / "cgroup.procs").write_text(pids)
        return directory

    def killed(self) -> set[str]:
        """Ids (names) of the containers whose `cgroup.kill` was written to."""
        return {path.parent.name for path in self.pods.rglob("cgroup.kill") if path.read_text()}

    @staticmethod
    def _make(directory: Path, *, populated: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.kill").write_text("")
        (directory / "cgroup.procs").write_text("")
        (directory / "cgroup.events").write_text(f"populated {int(populated)}\nfrozen 0\n")
