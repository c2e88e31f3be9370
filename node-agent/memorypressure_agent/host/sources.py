"""One sample of the machine: zoneinfo, node vmstat, meminfo and PSI, each read from a descriptor that stays open.

Beside them /proc/vmstat, whose counters are evidence for reports and decide nothing.

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
from memorypressure.signals import (
    Absent,
    MemInfo,
    Psi,
    Sample,
    SourceError,
    Unknown,
    parse_meminfo,
    parse_psi,
    parse_vmstat,
)
from memorypressure.zone_values import ZoneInfo
from memorypressure.zones import ZoneInfoError, ZoneInfoReader
from memorypressure_agent.host.clocks import monotonic_ns

T = TypeVar("T")

_ZONEINFO_BYTES = 1 << 13  # grows; 400 KB at 256 CPUs
_SMALL_BYTES = 1 << 12  # grows
_PRESSURE_BYTES = 1 << 8
FIRST_COUNTER = b"nr_free_pages "
"""What a node's vmstat begins with (mm/vmstat.c, all versions)."""
FIRST_LINE_BYTES = 48
"""As much of a node's vmstat as holds its first line."""
ROUNDS_OF_CLOSED = 4
"""Rounds of rechecks of which one looks at files that are open, too."""
_LARGEST_BYTES = 1 << 24  # beyond this a file is not the kernel's
_PSI_HINT = "PSI is compiled out of the kernel, or off until psi=1 is on its command line"
_NO_PODS = Absent(Reason.NOT_PRESENT, "no kubepods cgroup was found")
_NO_SWAP = Absent(Reason.NO_SWAP, "no swap: SwapTotal is 0, so swapFreePercent asks for nothing")
_NO_GATES = Absent(
    Reason.NOT_PRESENT, "no NUMA node has a vmstat file (a kernel without NUMA): zoneinfo is read in its place"
)
_NO_BOOST = Absent(
    Reason.NOT_PRESENT, "the kernel does not print watermark boost (5.16 and later do); since 5.0 it is hidden in min"
)
_FILE_IS_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EBADF, errno.EOPNOTSUPP))
_NODE_DIRECTORY = re.compile(r"node(0|[1-9][0-9]{0,3})")


def first_count(text: bytes) -> int | None:
    """The number in a first line `nr_free_pages N` of what a node's vmstat begins with; None where it is not that."""
    end = text.find(b"\n")
    digits = text[len(FIRST_COUNTER) : end]
    return int(digits) if end >= 0 and digits.isdigit() and text.startswith(FIRST_COUNTER) else None


@dataclass(frozen=True, slots=True)
class HostRoots:
    """Where the host's trees are seen: `/proc`, `/sys`, and the cgroup v2 tree or the kubepods part of it."""

    proc: str = "/proc"
    sys: str = "/sys"
    cgroup: str = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class SourceState:
    """How one source stands, for status and metrics: there, or the reason and a sentence why not.

    `absent`: this machine has no such thing (no swap, a kernel without PSI), which is no fault; a source that is
    neither up nor absent should be there and could not be read or understood.
    """

    name: str
    up: bool
    reason: Reason | None
    message: str
    absent: bool = False


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
            if error.errno in _FILE_IS_GONE:
                self._fail(error)
                return self._failure
            return Unknown(f"{self.path}: {error.strerror}")  # passes, as ENOMEM does: the descriptor is kept

    @property
    def descriptor(self) -> int:
        """The descriptor held, negative without one; another one after `reopen()`."""
        return self._fd

    def first_counter(self) -> int | None:
        """The number in a first line `nr_free_pages N`; None when the file does not begin so. Opens nothing."""
        try:
            text = os.pread(self._fd, FIRST_LINE_BYTES, 0)
        except OSError:
            return None
        return first_count(text)

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
        pods_directory: Callable[[], str | None] = lambda: None,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        """`pods_directory` tells the kubepods cgroup (`cgroups.PodsTree.path`), for the PSI of all pods; None: absent.

        It is asked again by `recheck_one`: a node's first pod may come after the agent.
        """
        self._clock = clock
        self._roots = roots
        self._pods_directory = pods_directory
        self.page_size_bytes = os.sysconf("SC_PAGE_SIZE")
        self.numa_nodes = find_numa_nodes(roots.sys)
        self._zoneinfo = SourceFile("zoneinfo", f"{roots.proc}/zoneinfo", _ZONEINFO_BYTES)
        self._meminfo = SourceFile("meminfo", f"{roots.proc}/meminfo")
        self._psi_node = SourceFile("psi_node", f"{roots.proc}/pressure/memory", _PRESSURE_BYTES, _PSI_HINT)
        self._psi_pods: SourceFile | None = None
        self._find_pods()
        self._vmstat = SourceFile("vmstat", f"{roots.proc}/vmstat")
        self._gates = {
            node: SourceFile(f"vmstat_node{node}", f"{roots.sys}/devices/system/node/node{node}/vmstat")
            for node in self.numa_nodes
        }
        self._zones_reader = ZoneInfoReader(self.page_size_bytes)
        self._rotation = 0
        self._latest: dict[str, object] = {}
        self._nodes_seen: tuple[int, ...] = ()

    def read_zoneinfo(self) -> ZoneInfo | Absent | Unknown:
        """The zones now.

        Unknown, too, when a NUMA node is missing that was there before and that /sys still has: a text that was cut
        between two nodes is well formed, and what is missing may be the node that is short.
        """
        zones = self._parsed(self._zoneinfo, self._zones_reader.parse)
        if isinstance(zones, ZoneInfo):
            numbers = tuple([node.number for node in zones.nodes])
            if numbers != self._nodes_seen:
                lost = self._nodes_cut_off(numbers)
                if lost:
                    zones = Unknown(f"zoneinfo: NUMA node {lost[0]} is missing, which was there and is still online")
                    self._latest["zoneinfo"] = zones
                else:
                    self._nodes_seen = numbers
        return zones

    def read_vmstat(self) -> dict[str, int] | Absent | Unknown:
        """Counters of /proc/vmstat that reports show. May be called by another thread than the rest."""
        return self._parsed(self._vmstat, parse_vmstat)

    def reopen_vmstat(self) -> None:
        """Looks whether /proc/vmstat appeared or was replaced; for the thread that reads it."""
        self._vmstat.reopen()

    def read_gate(self, node: int) -> int | Absent | Unknown:
        """Free pages of a NUMA node now: 11 us at any CPU count; zoneinfo grows with CPUs and takes zone locks."""
        source = self._gates.get(node)
        if source is None:
            return Absent(Reason.NOT_PRESENT, f"NUMA node {node} has no vmstat file")
        return self._parsed(source, parse_node_vmstat_free)

    def gate_reader(self, node: int) -> Callable[[], int | None]:
        """Reads the free pages of a NUMA node from the first line of its vmstat alone; None: it is not as it should be.

        For every 10 ms. What stands behind the first line is judged by `read_gate`.
        """
        return self._gates[node].first_counter

    def gate_descriptor(self, node: int) -> int:
        """The open file behind `gate_reader`, for rounds in which each call counts; it may change in a recheck."""
        return self._gates[node].descriptor

    def read_sample(self) -> Sample:
        """A whole sample; its time is that before the first read, so its age is never understated."""
        time_ns = self._clock()
        return Sample(time_ns, self.read_zoneinfo(), *self.read_slow())

    def read_slow(self) -> tuple[MemInfo | Absent | Unknown, Psi | Absent | Unknown, Psi | Absent | Unknown]:
        """What moves slowly: memory, PSI of the machine, PSI of all pods."""
        return (
            self._parsed(self._meminfo, parse_meminfo),
            self._parsed(self._psi_node, parse_psi),
            self._parsed(self._psi_pods, parse_psi) if self._psi_pods is not None else self._no_pods(),
        )

    def states(self) -> tuple[SourceState, ...]:
        """How each source stood when it was last read, by name. `swap` and `boost` are parts of two files."""
        latest = dict(self._latest) if self._gates else {"vmstat_node0": _NO_GATES, **self._latest}
        memory, zones = latest.get("meminfo"), latest.get("zoneinfo")
        if isinstance(memory, MemInfo):
            latest["swap"] = memory if memory.swap_total_bytes else _NO_SWAP
        if isinstance(zones, ZoneInfo):
            latest["boost"] = zones if all(zone.boost_known for zone in zones.zones) else _NO_BOOST
        return tuple([_state(name, latest[name]) for name in sorted(latest)])

    def recheck_one(self) -> None:
        """Looks whether one file, another at each call, vanished, appeared or was replaced. For once a second.

        Files that are open have their turn in one round of four: the kernel's own are never replaced while they answer,
        and one that answers no more is closed by its next reading.
        """
        if self._psi_pods is None or not self._psi_pods.is_open:
            self._find_pods()
        if not self._zoneinfo.is_open:
            self._zoneinfo.reopen()
        files = self._files()
        self._rotation = (self._rotation + 1) % (ROUNDS_OF_CLOSED * len(files))
        file = files[self._rotation % len(files)]
        if not file.is_open or self._rotation < len(files):
            file.reopen()

    def close(self) -> None:
        """Gives all descriptors back."""
        for file in (*self._files(), self._vmstat):
            file.close()

    def _files(self) -> list[SourceFile]:
        optional = [self._psi_pods] if self._psi_pods is not None else []
        return [self._zoneinfo, self._meminfo, self._psi_node, *optional, *self._gates.values()]

    def _find_pods(self) -> None:
        directory, held = self._pods_directory(), self._psi_pods
        path = f"{directory}/memory.pressure"
        if directory is not None and (held is None or held.path != path):
            self._psi_pods = SourceFile("psi_pods", path, _PRESSURE_BYTES, _PSI_HINT)
            if held is not None:
                held.close()

    def _no_pods(self) -> Absent:
        self._latest["psi_pods"] = _NO_PODS
        return _NO_PODS

    def _nodes_cut_off(self, numbers: tuple[int, ...]) -> list[int]:
        """NUMA nodes that were seen, are not among these, and are online all the same."""
        missing = set(self._nodes_seen).difference(numbers)
        return sorted(missing.intersection(find_numa_nodes(self._roots.sys))) if missing else []

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


def _state(name: str, value: object) -> SourceState:
    if isinstance(value, Absent):
        return SourceState(name, False, value.reason, value.message, absent=True)
    if isinstance(value, Unknown):
        reason = Reason.UNREADABLE if value.message.startswith("/") else Reason.NOT_UNDERSTOOD
        return SourceState(name, False, reason, value.message)
    return SourceState(name, True, None, "")


def find_numa_nodes(sys_root: str) -> tuple[int, ...]:
    """Numbers of the NUMA nodes that have a vmstat file, ascending; empty where the kernel was built without NUMA."""
    directory = f"{sys_root}/devices/system/node"
    try:
        names = os.listdir(directory)
    except OSError:
        return ()
    numbers = [int(match[1]) for name in names if (match := _NODE_DIRECTORY.fullmatch(name))]
    return tuple(number for number in sorted(numbers) if os.path.exists(f"{directory}/node{number}/vmstat"))
