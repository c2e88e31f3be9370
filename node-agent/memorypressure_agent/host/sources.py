"""One sample of the machine: zoneinfo, node vmstat, meminfo and PSI, each read from a descriptor that stays open.

Every source ends in one of three states, never in a guess: its value, `Absent` with the reason (the kernel does not
have it), or `Unknown` with what was wrong (it is there, but could not be read or understood).
"""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from memorypressure.gate import NodeVmstatError, parse_node_vmstat_free
from memorypressure.reasons import Reason
from memorypressure.signals import Absent, MemInfo, Psi, Sample, SourceError, Unknown, parse_meminfo, parse_psi
from memorypressure.zone_values import ZoneInfo
from memorypressure.zones import ZoneInfoError, ZoneInfoReader
from memorypressure_agent.host.clocks import monotonic_ns

T = TypeVar("T")

_ZONEINFO_BYTES = 1 << 15  # grows; 400 KB at 256 CPUs
_SMALL_BYTES = 1 << 13
_LARGEST_BYTES = 1 << 24  # beyond this a file is not the kernel's
_NO_PODS = Absent(Reason.NOT_PRESENT, "no kubepods cgroup was found")
_NODE_DIRECTORY = re.compile(r"node(0|[1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class HostRoots:
    """Where the host's trees are seen: `/proc`, `/sys`, and the cgroup v2 tree or the kubepods part of it."""

    proc: str = "/proc"
    sys: str = "/sys"
    cgroup: str = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class SourceState:
    """How one source stands, for status and metrics: `up`, else the reason and a sentence."""

    name: str
    up: bool
    reason: Reason | None
    message: str


class SourceFile:
    """One kernel file: opened once, read to its end with `preadv` into a buffer that is reused.

    Not for two threads at once. A file that cannot be opened is tried again by `reopen()`, never by `read()`.
    """

    def __init__(self, name: str, path: str, buffer_bytes: int = _SMALL_BYTES, absent_hint: str = "") -> None:
        self.name = name
        self.path = path
        self._hint = absent_hint
        self._buffer = bytearray(buffer_bytes)
        self._fd = -1
        self._failure: Absent | Unknown = Absent(Reason.NOT_PRESENT, f"{path} was not opened yet")
        self.reopen()

    @property
    def is_open(self) -> bool:
        """Whether a descriptor is held."""
        return self._fd >= 0

    def read(self) -> bytes | Absent | Unknown:
        """The whole content, or why there is none. Opens nothing."""
        if self._fd < 0:
            return self._failure
        filled = 0
        try:
            while True:
                count = os.preadv(self._fd, [memoryview(self._buffer)[filled:]], filled)
                if count == 0:
                    return bytes(memoryview(self._buffer)[:filled])
                filled += count
                if filled == len(self._buffer):
                    if filled >= _LARGEST_BYTES:
                        return Unknown(f"{self.path}: longer than {_LARGEST_BYTES} bytes, which no kernel file is")
                    self._buffer.extend(bytes(filled))
        except OSError as error:
            self._fail(error)
            return self._failure

    def reopen(self) -> None:
        """Opens the file if it is not open, or if the path now leads to another file (a mount or file was replaced)."""
        try:
            found = os.stat(self.path)
            if self._fd >= 0:
                held = os.fstat(self._fd)
                if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
                    return
            opened = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._fail(error)
            return
        self.close()
        self._fd = opened

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fail(self, error: OSError) -> None:
        self.close()
        hint = f"; {self._hint}" if self._hint else ""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            self._failure = Absent(Reason.NOT_PRESENT, f"{self.path}: no such file{hint}")
        elif error.errno == errno.EOPNOTSUPP:
            self._failure = Absent(Reason.NOT_PRESENT, f"{self.path}: switched off in this kernel{hint}")
        else:
            self._failure = Unknown(f"{self.path}: {error.strerror}")


class HostSources:
    """All sources of a machine: `read_sample()` reads all, `read_gate(node)` only one NUMA node's free pages."""

    def __init__(
        self,
        roots: HostRoots,
        pods_directory: str | None = None,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        """`pods_directory`: the kubepods cgroup (`cgroups.PodsTree.path`), for the PSI of all pods; None: absent."""
        self._clock = clock
        self.page_size_bytes = os.sysconf("SC_PAGE_SIZE")
        self.numa_nodes = find_numa_nodes(roots.sys)
        psi_hint = "the kernel has no PSI, or it needs psi=1 on its command line"
        self._zoneinfo = SourceFile("zoneinfo", f"{roots.proc}/zoneinfo", _ZONEINFO_BYTES)
        self._meminfo = SourceFile("meminfo", f"{roots.proc}/meminfo")
        self._psi_node = SourceFile("psi_node", f"{roots.proc}/pressure/memory", absent_hint=psi_hint)
        self._psi_pods = (
            SourceFile("psi_pods", f"{pods_directory}/memory.pressure", absent_hint=psi_hint)
            if pods_directory
            else None
        )
        self._gates = {
            node: SourceFile(f"vmstat_node{node}", f"{roots.sys}/devices/system/node/node{node}/vmstat")
            for node in self.numa_nodes
        }
        self._zones_reader = ZoneInfoReader(self.page_size_bytes)
        self._rotation = 0
        self._latest: dict[str, object] = {}

    def read_zoneinfo(self) -> ZoneInfo | Absent | Unknown:
        """The zones now."""
        return self._parsed(self._zoneinfo, self._zones_reader.parse)

    def read_gate(self, node: int) -> int | Absent | Unknown:
        """Free pages of a NUMA node now: 11 us at any CPU count; zoneinfo grows with CPUs and takes zone locks."""
        source = self._gates.get(node)
        if source is None:
            return Absent(Reason.NOT_PRESENT, f"NUMA node {node} has no vmstat file")
        return self._parsed(source, parse_node_vmstat_free)

    def read_sample(self) -> Sample:
        """A whole sample; its time is that before the first read, so its age is never understated."""
        time_ns = self._clock()
        return Sample(time_ns, self.read_zoneinfo(), *self.read_slow())

    def read_slow(self) -> tuple[MemInfo | Absent | Unknown, Psi | Absent | Unknown, Psi | Absent | Unknown]:
        """What moves slowly: memory, PSI of the machine, PSI of all pods."""
        return (
            self._parsed(self._meminfo, parse_meminfo),
            self._parsed(self._psi_node, parse_psi),
            self._parsed(self._psi_pods, parse_psi) if self._psi_pods is not None else _NO_PODS,
        )

    def states(self) -> tuple[SourceState, ...]:
        """How each source stood when it was last read."""
        found = []
        for name in sorted(self._latest):
            value = self._latest[name]
            if isinstance(value, Absent):
                found.append(SourceState(name, False, value.reason, value.message))
            elif isinstance(value, Unknown):
                reason = Reason.UNREADABLE if value.message.startswith("/") else Reason.NOT_UNDERSTOOD
                found.append(SourceState(name, False, reason, value.message))
            else:
                found.append(SourceState(name, True, None, ""))
        return tuple(found)

    def recheck_one(self) -> None:
        """Looks whether one file, another at each call, vanished, appeared or was replaced. For once a second."""
        files = self._files()
        self._rotation = (self._rotation + 1) % len(files)
        files[self._rotation].reopen()

    def close(self) -> None:
        """Gives all descriptors back."""
        for file in self._files():
            file.close()

    def _files(self) -> list[SourceFile]:
        optional = [self._psi_pods] if self._psi_pods is not None else []
        return [self._zoneinfo, self._meminfo, self._psi_node, *optional, *self._gates.values()]

    def _parsed(self, source: SourceFile, parse: Callable[[bytes], T]) -> T | Absent | Unknown:
        value: T | Absent | Unknown
        text = source.read()
        if isinstance(text, bytes):
            try:
                value = parse(text)
            except (ZoneInfoError, NodeVmstatError, SourceError) as error:
                value = Unknown(f"{source.name}: {error}")
        else:
            value = text
        self._latest[source.name] = value
        return value


def find_numa_nodes(sys_root: str) -> tuple[int, ...]:
    """Numbers of the NUMA nodes that have a vmstat file, ascending; empty where the kernel was built without NUMA."""
    directory = f"{sys_root}/devices/system/node"
    try:
        names = os.listdir(directory)
    except OSError:
        return ()
    numbers = [int(match[1]) for name in names if (match := _NODE_DIRECTORY.fullmatch(name))]
    return tuple(number for number in sorted(numbers) if os.path.exists(f"{directory}/node{number}/vmstat"))
