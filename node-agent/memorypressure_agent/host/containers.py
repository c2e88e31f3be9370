"""One container's cgroup through descriptors that stay open: its figures, its kill file, whether it is empty.

The descriptors are the identity check. A cgroup that was removed answers ENODEV for ever, also when another one has
been made under the same name; so whatever is written to `cgroup.kill` reaches the cgroup that was listed, or nothing.
Nothing here opens a file after `ContainerHandle` was made: opening needs kernel memory.
"""

import errno
import os
import re
import resource
from dataclasses import dataclass

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, Unknown
from memorypressure_agent.host.cgroups import NESTED_DEPTH, ContainerCgroup, PodsTree, subdirectories

_KERNEL_PARTS = ("kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "slab")
_STAT = re.compile(rb"(?>(?:[a-z0-9_]++ [0-9]{1,20}+\n)+)")
_RELIEF_PARTS = re.compile(rb"\n(anon|kernel|sock|%s) ([0-9]++)" % "|".join(_KERNEL_PARTS).encode())
_NUMA_PARTS = (
    b"anon ",
    b"kernel_stack ",
    b"pagetables ",
    b"sec_pagetables ",
    b"slab_reclaimable ",
    b"slab_unreclaimable ",
)
RESERVED_DESCRIPTORS = 64
"""Not for candidates: orders, sources that come back, and what a kill opens."""
_READ_BYTES = 1 << 13
_WHOLE_LIST_BYTES = 2048
"""A read gives as many records of a list as fit into a page (fs/seq_file.c, seq_read_iter): what is shorter is all."""
_MOST_DIGITS = 20
_PASSES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR))
"""Failures that are of the moment, and say nothing of the file."""
_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class CgroupFileError(ValueError):
    """A cgroup file's line that is not understood."""

    def __init__(self, file: str, line_number: int, line: bytes, expected: str) -> None:
        self.line_number = line_number
        super().__init__(f"{file} line {line_number}: {line[:60].decode('ascii', 'replace')!r}: expected {expected}")


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """What a container holds, in bytes. `relief` is what its end gives back: anon, kernel and socket memory."""

    memory_bytes: int
    relief_bytes: int
    relief_bytes_by_node: tuple[tuple[int, int], ...]
    """By NUMA node, ascending. Socket buffers and per-CPU memory are not counted by node, so these may sum to less."""


class ContainerHandle:
    """Descriptors of one container's files. For one thread at a time, but `kill()` and `populated()` for any."""

    def __init__(self, container: ContainerCgroup, directory: int) -> None:
        """Takes over `directory`. A missing file becomes a state, not an error."""
        self.container = container
        self.directory_time_ns = os.fstat(directory).st_ctime_ns
        self._directory = directory
        self.kill_failure = ""
        self._kill = self._events = self._current = self._stat = self._numa = -1
        self._procs: list[int] = []
        try:
            self._kill = self._open("cgroup.kill", os.O_WRONLY)
            self._events = self._open("cgroup.events")
            self._current = self._open("memory.current")
            self._stat = self._open("memory.stat")
            self._numa = self._open("memory.numa_stat")
            self._procs = self._open_procs()
        except BaseException:
            self._directory = -1  # the caller's again
            self.close()
            raise

    @property
    def can_kill(self) -> bool:
        """Whether `cgroup.kill` is held open, and no write to it has failed."""
        return self._kill >= 0 and not self.kill_failure

    def is_on(self, container: ContainerCgroup) -> bool:
        """Whether this is the directory that was listed, not one made anew under its name."""
        return self.container.inode == container.inode and self.container.parts == container.parts

    def kill(self) -> bool:
        """Kills every process in the cgroup and below; False where it was removed: nothing is left to kill. OSError."""
        if self._kill < 0:
            raise OSError(errno.EBADF, self.kill_failure or "cgroup.kill is not open")
        try:
            os.write(self._kill, b"1")
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            if error.errno not in _PASSES:
                self.kill_failure = f"cgroup.kill: {error.strerror}"
            raise
        return True

    def populated(self) -> bool:
        """Whether a process lives in the cgroup or below; removed counts as empty. OSError when it cannot be told."""
        if self._events < 0:
            return any(self._pids_of(descriptor) for descriptor in self._procs)
        try:
            text = os.pread(self._events, _READ_BYTES, 0)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return parse_populated(text)

    def memory_bytes(self) -> int | None:
        """`memory.current`; 0 when the cgroup was removed, None when the tree has no such file."""
        if self._current < 0:
            return None
        try:
            text = os.pread(self._current, 64, 0)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0
            return None
        return int(text) if text.strip().isdigit() else None

    def removed(self) -> bool:
        """Whether the cgroup's directory is gone; what it held of files then counts for the cgroup above it."""
        for descriptor in (self._current, self._events):
            if descriptor >= 0:
                try:
                    os.pread(descriptor, 1, 0)
                except OSError as error:
                    return error.errno == errno.ENODEV
        return False

    def figures(self) -> MemoryFigures | Absent | Unknown:
        """Memory figures now."""
        if self._current < 0 or self._stat < 0:
            return Absent(
                Reason.NO_FIGURES,
                "the cgroup has no memory.current or memory.stat (memory controller not in this tree)",
            )
        try:
            current = os.pread(self._current, 64, 0)
            stat = _read_record(self._stat)
            numa = _read_record(self._numa) if self._numa >= 0 else b""
        except OSError as error:
            if error.errno == errno.ENODEV:
                return Absent(Reason.GONE, "the cgroup was removed")
            return Unknown(f"{'/'.join(self.container.parts)}: {error.strerror}")
        try:
            relief = parse_relief(stat)
            by_node = parse_numa_stat(numa)
            if not current.strip().isdigit():
                raise CgroupFileError("memory.current", 1, current, "a number of bytes")
        except CgroupFileError as error:
            return Unknown(f"{'/'.join(self.container.parts)}: {error}")
        return MemoryFigures(int(current), relief, by_node)

    def pids(self) -> tuple[int, ...]:
        """Processes in the cgroup and below, as seen from the agent; 0 for each that is outside its PID namespace.

        OSError or CgroupFileError where that cannot be told.
        """
        found: list[int] = []
        for descriptor in self._procs:
            found.extend(self._pids_of(descriptor))
        return tuple(found)

    def close(self) -> None:
        """Gives all descriptors back."""
        held = (self._directory, self._kill, self._events, self._current, self._stat, self._numa, *self._procs)
        self._directory = self._kill = self._events = self._current = self._stat = self._numa = -1
        self._procs = []
        for descriptor in held:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, name: str, flags: int = os.O_RDONLY) -> int:
        try:
            return os.open(name, flags | _OPEN_FLAGS, dir_fd=self._directory)
        except OSError as error:
            if error.errno in _PASSES:
                raise  # a handle without the file would be kept
            if name == "cgroup.kill":
                self.kill_failure = (
                    "the kernel has no cgroup.kill (5.14 and later have)"
                    if error.errno == errno.ENOENT
                    else f"cgroup.kill: {error.strerror}"
                )
            return -1

    def _open_procs(self) -> list[int]:
        found: list[int] = []
        pending = [(os.dup(self._directory), 0)]
        while pending:
            directory, depth = pending.pop()
            try:
                found.append(os.open("cgroup.procs", os.O_RDONLY | _OPEN_FLAGS, dir_fd=directory))
                if depth < NESTED_DEPTH:
                    for name in subdirectories(directory):
                        flags = os.O_RDONLY | os.O_DIRECTORY | _OPEN_FLAGS
                        pending.append((os.open(name, flags, dir_fd=directory), depth + 1))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    for descriptor in found:
                        os.close(descriptor)
                    for left, _ in pending:
                        os.close(left)
                    raise
            finally:
                os.close(directory)
        return found

    @staticmethod
    def _pids_of(descriptor: int) -> tuple[int, ...]:
        try:
            return parse_procs(_read_record(descriptor, _WHOLE_LIST_BYTES))
        except OSError as error:
            if error.errno in (
                errno.ENODEV,
                errno.EOPNOTSUPP,
            ):  # removed; or threaded, where only cgroup.threads answers
                return ()
            raise


def open_handle(tree: PodsTree, container: ContainerCgroup) -> ContainerHandle | None:
    """A handle on a listed container; None when it is gone, or another one has its name by now.

    OSError (EMFILE) when the agent may open no more files, or only those that orders, sources and a kill will need.
    """
    directory = tree.open_container(container)
    if directory is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and directory >= limit - RESERVED_DESCRIPTORS:  # the lowest free one is taken
        os.close(directory)
        raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)} (the limit is {limit})")
    if container.inode not in (0, os.fstat(directory).st_ino):
        os.close(directory)
        return None
    try:
        return ContainerHandle(container, directory)
    except OSError:
        os.close(directory)
        raise


def parse_flat_keyed(file: str, text: bytes) -> dict[str, int]:
    """`key value` lines as a mapping; CgroupFileError for any other line, and for a key that stands twice."""
    values: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) != 2 or not _is_number(words[1]):
            raise CgroupFileError(file, number, line, "a name and a number")
        name = words[0].decode("ascii", "replace")
        if name in values:
            raise CgroupFileError(file, number, line, "a name that was not there before")
        values[name] = int(words[1])
    return values


def parse_relief(text: bytes) -> int:
    """`relief_of` memory.stat's text; CgroupFileError, also for a name that counts and stands twice.

    Sixty lines of sixty containers every few seconds: taken apart line by line they would cost most of a refresh.
    """
    found = _RELIEF_PARTS.findall(b"\n" + text) if _STAT.fullmatch(text) else []
    values = {name.decode(): int(value) for name, value in found}
    if not values or len(values) != len(found):
        return relief_of(parse_flat_keyed("memory.stat", text))
    return relief_of(values)


def relief_of(stat: dict[str, int]) -> int:
    """Bytes that a kill gives back, from memory.stat: anon + kernel + sock.

    `kernel` exists since 5.18; before, its parts are added up. File pages, shmem and hugetlb stay after a kill.
    """
    if "anon" not in stat:
        raise CgroupFileError("memory.stat", 0, b"", "a line 'anon'")
    kernel = stat["kernel"] if "kernel" in stat else sum(stat.get(part, 0) for part in _KERNEL_PARTS)
    return stat["anon"] + kernel + stat.get("sock", 0)


def parse_numa_stat(text: bytes) -> tuple[tuple[int, int], ...]:
    """Relief by NUMA node from memory.numa_stat (`anon N0=1 N1=2`, bytes); empty where the kernel has no such file."""
    by_node: dict[int, int] = {}
    parts: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith(_NUMA_PARTS):  # six of some twenty-five lines do
            continue
        name, *words = line.split()
        if name in parts:
            raise CgroupFileError("memory.numa_stat", number, line, "a name that was not there before")
        parts.add(name)
        for word in words:
            node, equals, value = word.partition(b"=")
            if not equals or node[:1] != b"N" or not _is_number(node[1:]) or not _is_number(value):
                raise CgroupFileError("memory.numa_stat", number, line, "a name and N<node>=<bytes> for each node")
            by_node[int(node[1:])] = by_node.get(int(node[1:]), 0) + int(value)
    return tuple(sorted(by_node.items()))


def parse_procs(text: bytes) -> tuple[int, ...]:
    """The processes of cgroup.procs, one a line; CgroupFileError for any other line, and for one that is cut off."""
    *lines, rest = text.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not _is_number(line):
            raise CgroupFileError("cgroup.procs", number, line, "a process's number")
    if rest:
        raise CgroupFileError("cgroup.procs", len(lines) + 1, rest, "the end of a line")
    return tuple(map(int, lines))


def parse_populated(text: bytes) -> bool:
    """The `populated` line of cgroup.events; CgroupFileError without one."""
    values = parse_flat_keyed("cgroup.events", text)
    if values.get("populated") not in (0, 1):
        raise CgroupFileError("cgroup.events", 0, text, "a line 'populated 0' or 'populated 1'")
    return values["populated"] == 1


def _is_number(word: bytes) -> bool:
    """Whether the kernel could have printed it: its numbers have at most 64 bits."""
    return len(word) <= _MOST_DIGITS and word.isdigit()


def _read_record(descriptor: int, whole_below_bytes: int = _READ_BYTES) -> bytes:
    """A file that the kernel shows as one record (`seq_show`: mm/memcontrol.c), so whole where it fits."""
    text = os.pread(descriptor, _READ_BYTES, 0)
    return text if len(text) < whole_below_bytes else _read_all(descriptor)


def _read_all(descriptor: int) -> bytes:
    parts = []
    offset = 0
    while chunk := os.pread(descriptor, _READ_BYTES, offset):
        parts.append(chunk)
        offset += len(chunk)
    return b"".join(parts)
