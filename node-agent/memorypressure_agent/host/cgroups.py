"""Where the pods' cgroups are: pod UID and container id -> a directory, found by listing, never by building a path.

World states (all seen on real nodes or in the runtimes' sources):

    cgroupfs driver   kubepods/{burstable/,besteffort/,}pod<uid>/<container id>
    systemd driver    kubepods.slice/kubepods-<qos>.slice/kubepods-<qos>-pod<uid with _>.slice/cri-containerd-<id>.scope
    CRI-O             .../crio-<id>.scope, processes in a nested `container`; beside it crio-conmon-<id>.scope
    nested kubelet    kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<uid>.slice/... (a node in a container)
    mounted part      the root given is itself the kubepods directory

The strict rule for everything that may later be written to: a container is a directory that was *listed* as
`<pods>/[qos/]pod<uid>/<container>`, each step opened relative to its parent with O_NOFOLLOW. What orders say is
compared with what was listed; it is never part of a path.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_POD = re.compile(r"(?:[A-Za-z0-9_]+-)*pod([0-9A-Za-z][0-9A-Za-z_]{0,62})\.slice|pod([0-9A-Za-z][0-9A-Za-z-]{0,62})")
_QOS = re.compile(r"(?:[A-Za-z0-9_-]+-)?(?:burstable|besteffort)\.slice|burstable|besteffort")
_CONTAINER = re.compile(r"(?:cri-containerd-|crio-|docker-)?([0-9A-Za-z][0-9A-Za-z_.-]{0,127}?)(?:\.scope)?")
_MONITOR = re.compile(r"crio-conmon-.*")  # CRI-O: who tells that the container ended
_PODS_DIRECTORIES = (
    "kubepods",
    "kubepods.slice",
    "kubelet/kubepods",
    "kubelet.slice/kubelet-kubepods.slice",
    "unified/kubepods",
    "unified/kubepods.slice",
)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.ELOOP))
"""Removed since it was listed, or something else by now: a file, a link."""
NESTED_DEPTH = 4
"""Levels of cgroups looked into below a container (CRI-O: 1; systemd inside a container: 2 to 3)."""


@dataclass(frozen=True, slots=True)
class ContainerCgroup:
    """A listed container directory: `parts` lead to it from the pods directory, pod and container last.

    `inode` is the directory's number where it was listed: another one under the same name is another container.
    """

    pod_uid: str
    container_id: str
    parts: tuple[str, ...]
    inode: int = 0


@dataclass(frozen=True, slots=True)
class PodCgroup:
    """A listed pod directory and its containers (the sandbox is one of them; figures tell which)."""

    uid: str
    containers: tuple[ContainerCgroup, ...]


class PodsTree:
    """The kubepods part of a cgroup v2 tree. `path` is None while there is none, `failure` then says why."""

    def __init__(self, cgroup_root: str) -> None:
        self._root = cgroup_root
        self.path: str | None = None
        self.failure = ""
        self.scan_failure = ""
        """Why the last scan does not tell all pods; empty when it does."""
        self.locate()

    def locate(self) -> bool:
        """Looks for the pods directory again; whether there is one.

        `path` goes from the one to the other in one step: two threads look at it.
        """
        self.path = self._located()
        return self.path is not None

    def _located(self) -> str | None:
        """The pods directory; None: there is none, and `failure` says why."""
        for name in _PODS_DIRECTORIES:
            candidate = f"{self._root}/{name}"
            if os.path.isdir(candidate) and not os.path.islink(candidate):
                return candidate
        try:
            names = os.listdir(self._root)
        except OSError as error:
            self.failure = f"{self._root}: {error.strerror}"
            return None
        if os.path.basename(self._root.rstrip("/")) in ("kubepods", "kubepods.slice") or any(
            _QOS.fullmatch(name) or _POD.fullmatch(name) for name in names
        ):
            return self._root
        if "memory" in names and "cgroup.controllers" not in names:
            self.failure = f"{self._root}: is cgroup v1, a tree for each controller; cgroup.kill is in cgroup v2 only"
            return None
        self.failure = (
            f"{self._root}: holds no kubepods or kubepods.slice directory; "
            "--cgroup-root must be the cgroup v2 tree of a Kubernetes node or its kubepods directory"
        )
        return None

    def scan(self) -> tuple[PodCgroup, ...]:
        """All pods now, by UID. A directory that vanishes meanwhile is left out; any other failure: `scan_failure`."""
        self.scan_failure = ""
        root = self._open_root()
        if root is None and not self.scan_failure and self.locate():
            root = self._open_root()  # the kubelet made it anew, perhaps under the other driver's name
        if root is None:
            return ()
        found: dict[str, list[ContainerCgroup]] = {}
        try:
            for parts, directory in _pod_directories(root):
                uid = pod_uid_of(parts[-1])
                if uid is None:
                    continue
                containers = found.setdefault(uid, [])
                for name, inode in numbered_subdirectories(directory):
                    container_id = container_id_of(name)
                    if container_id is not None:
                        containers.append(ContainerCgroup(uid, container_id, (*parts, name), inode))
        except OSError as error:
            self.scan_failure = f"{self.path}: {error.strerror}"
        finally:
            os.close(root)
        return tuple(PodCgroup(uid, tuple(found[uid])) for uid in sorted(found))

    def _open_root(self) -> int | None:
        if self.path is None:
            return None
        try:
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _GONE:
                self.scan_failure = f"{self.path}: {error.strerror}"
            return None

    def open_directory(self, parts: tuple[str, ...]) -> int | None:
        """A descriptor of a directory below the pods directory, each step without following a link; None: not there."""
        if self.path is None:
            return None
        try:
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        for part in parts:
            if not is_plain_name(part):
                os.close(directory)
                raise ValueError(f"{part!r} is not the name of one directory")
            try:
                below = os.open(part, _DIRECTORY_FLAGS, dir_fd=directory)
            except OSError:
                return None
            finally:
                os.close(directory)
            directory = below
        return directory

    def open_container(self, container: ContainerCgroup) -> int | None:
        """A descriptor of a container's directory; refuses whatever is not `pod<uid>/<container>` of that very pod."""
        parts = container.parts
        if (
            len(parts) not in (2, 3)
            or (len(parts) == 3 and not _QOS.fullmatch(parts[0]))
            or pod_uid_of(parts[-2]) != container.pod_uid
            or container_id_of(parts[-1]) != container.container_id
        ):
            raise ValueError(f"{'/'.join(parts)} is not the cgroup of a container of pod {container.pod_uid}")
        return self.open_directory(parts)


def pod_uid_of(name: str) -> str | None:
    """The pod UID in a directory's name, as the API spells it; None: not a pod's directory."""
    match = _POD.fullmatch(name)
    if match is None:
        return None
    return str(match[1]).replace("_", "-") if match[1] is not None else str(match[2])


def container_id_of(name: str) -> str | None:
    """The container id in a directory's name; None: not a container's (a runtime's monitor is none)."""
    if _MONITOR.fullmatch(name) or not is_plain_name(name):
        return None
    match = _CONTAINER.fullmatch(name)
    return str(match[1]) if match is not None else None


def is_plain_name(name: str) -> bool:
    """Whether the name leads to an entry of one directory and nowhere else."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name


def subdirectories(directory: int) -> list[str]:
    """Names of the real subdirectories of an open directory, sorted; links are left out."""
    return [name for name, _ in numbered_subdirectories(directory)]


def numbered_subdirectories(directory: int) -> list[tuple[str, int]]:
    """The real subdirectories of an open directory with their inode numbers, by name; links are left out."""
    try:
        with os.scandir(directory) as entries:
            return sorted([(entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False)])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # removed since it was opened
            return []
        raise


def _pod_directories(root: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each pod's directory: the parts that lead to it, and a descriptor that is closed when the next one is asked for.

    One that is gone is left out; OSError when one cannot be opened for another reason.
    """
    for name in subdirectories(root):
        is_pod = pod_uid_of(name) is not None
        if not is_pod and not _QOS.fullmatch(name):
            continue
        try:
            directory = os.open(name, _DIRECTORY_FLAGS, dir_fd=root)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            continue
        try:
            if is_pod:
                yield (name,), directory
                continue
            for inner in subdirectories(directory):
                if pod_uid_of(inner) is None:
                    continue
                try:
                    pod = os.open(inner, _DIRECTORY_FLAGS, dir_fd=directory)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    continue
                try:
                    yield (name, inner), pod
                finally:
                    os.close(pod)
        finally:
            os.close(directory)
