"""The candidates' cgroups on this node: open descriptors and fresh figures, kept by the helper thread.

The helper opens, reads and closes; the sampler only takes the latest `snapshot` and kills through `kill`. One lock
keeps a descriptor from being closed (and its number from meaning another file) while the sampler writes to it.
"""

import _thread
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from memorypressure.signals import Unknown
from memorypressure.victims import CgroupState, ContainerUsage, Usage
from memorypressure_agent.host.cgroups import ContainerCgroup, PodsTree
from memorypressure_agent.host.clocks import boot_ns, monotonic_ns, unix_ns
from memorypressure_agent.host.containers import CgroupFileError, ContainerHandle, MemoryFigures, open_handle

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Figures of all candidates that are on the node, and when the reading of them began (monotonic)."""

    time_ns: int
    usages: tuple[Usage, ...]
    failures: tuple[str, ...] = ()
    wanted: frozenset[str] = frozenset()
    """UIDs that were looked for: only of these it tells something that they have no usage."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A container whose `cgroup.kill` was written: what it held just before, and what of it a kill gives back."""

    handle: ContainerHandle
    memory_bytes: int | None
    relief_bytes: int | None

    def left_bytes(self) -> int | None:
        """What it still holds; None where the tree does not tell."""
        return self.handle.memory_bytes()

    def freed_bytes(self) -> int | None:
        """What came back; None when that is not known.

        While the cgroup is there, what its charge fell by. Once it is removed its charge reads 0, but file pages and
        shmem only moved to the cgroup above: what a kill gives back (anon, kernel, sockets) counts then.
        """
        if self.memory_bytes is None:
            return None
        if self.handle.removed():
            return None if self.relief_bytes is None else min(self.memory_bytes, self.relief_bytes)
        left = self.handle.memory_bytes()
        return None if left is None else max(0, self.memory_bytes - left)


@dataclass(frozen=True, slots=True)
class Killed:
    """What a kill came to: the containers reached and their processes, and why others were not."""

    reached: tuple[Reached, ...]
    pids: tuple[int, ...]
    failures: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int | None:
        """What the reached containers held just before; None where the tree does not tell."""
        return total(each.memory_bytes for each in self.reached)

    @property
    def handles(self) -> tuple[ContainerHandle, ...]:
        """Descriptors of the containers reached."""
        return tuple(each.handle for each in self.reached)


@dataclass(slots=True)
class _Pod:
    """A wanted pod that has a cgroup here."""

    first_seen_ns: int
    age_then_ns: int
    handles: dict[str, ContainerHandle]
    pids: dict[str, tuple[int, ...]]
    reliefs: dict[str, int]


class Candidates:
    """The pods of the plan that have a cgroup here."""

    def __init__(self, tree: PodsTree, own_pod_uid: str = "", clock: Callable[[], int] = monotonic_ns) -> None:
        self._tree = tree
        self._own_pod_uid = own_pod_uid
        self._clock = clock
        self._pods: dict[str, _Pod] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._lock = _thread.allocate_lock()
        self.unix_minus_clock_ns = unix_ns() - clock()
        """The wall clock's lead when this process began; the sampler puts that of this boot's journal in its place."""
        self._followed: set[int] = set()  # ids of handles of kills that are waited for
        self._failures: list[str] = []
        self._list_failures: list[str] = []
        self._is_listed = True  # as far as the tree could be looked through
        self.tree_can_kill = True
        """Whether `cgroup.kill` can be written at all here; where it cannot, no single container is to blame."""
        self.between_pods: Callable[[], None] = lambda: None
        """Called before each pod's figures are read."""
        self.wanted: frozenset[str] = frozenset()
        """UIDs of the plan's pods; the sampler replaces it, the next refresh follows."""
        self.dying: frozenset[str] = frozenset()
        """UIDs of pods that are being killed. Replaced as a whole, by `begin_dying` and `end_dying`."""
        self.killed: frozenset[str] = frozenset()
        """UIDs of pods that were killed under the permit in force, whatever lives in them now. Replaced as a whole."""
        self.snapshot = Snapshot(clock() - 3600 * _SECOND_NS, ())

    @property
    def has_unlisted(self) -> bool:
        """Whether pods are wanted that were not looked for yet."""
        return not self.wanted <= self.snapshot.wanted | {self._own_pod_uid}

    def refresh(self, *, hold: bool) -> Snapshot:
        """Reads all figures; `hold`: keeps the list of cgroups as it is, but for pods that only became wanted.

        Listing costs twice what the figures cost; and while a node is short nothing should be opened that need not be.
        A listing that failed is tried again.
        """
        now, wanted = self._clock(), self.wanted - {self._own_pod_uid}
        self._failures = []
        if not (hold and self._is_listed) or wanted != self.snapshot.wanted:
            self._list_failures = []
            self._list(now, wanted, hold=hold)
        usages = self._usages(now)
        failures = (*self._list_failures, *self._failures)[:10]
        self.snapshot = Snapshot(now, usages, failures, wanted)
        return self.snapshot

    def kill(self, uid: str, container_ids: tuple[str, ...]) -> Killed:
        """Writes `cgroup.kill` of these containers of a candidate, through the descriptors held.

        A container that was removed meanwhile is as good as killed; every other failure is told in `failures`.
        OSError when none could be written; nothing was killed then. KeyError: no such candidate is held.
        """
        with self._lock:
            pod = self._pods[uid]
            handles = [pod.handles[container_id] for container_id in container_ids]
            reached: list[Reached] = []
            pids: list[int] = []
            failures: list[str] = []
            failure: OSError | None = None
            for container_id, handle in zip(container_ids, handles, strict=True):
                before = handle.memory_bytes()
                try:
                    if not handle.kill():
                        continue
                except OSError as error:
                    failure = error
                    failures.append(f"{container_id}: {error.strerror}")
                    continue
                reached.append(Reached(handle, before, pod.reliefs.get(container_id)))
                self._followed.add(id(handle))
                pids += [pid for pid in pod.pids.get(container_id, ()) if pid > 0]
            if not reached:
                raise failure or OSError(errno.ENODEV, "its cgroup was removed")
            return Killed(tuple(reached), tuple(pids), tuple(failures))

    def begin_dying(self, uid: str) -> None:
        """Marks a pod that is being killed: no candidate until `end_dying`."""
        with self._lock:
            self.dying |= {uid}

    def end_dying(self, uid: str) -> None:
        """Ends the mark; a pod that is still there is a candidate again."""
        with self._lock:
            self.dying -= {uid}

    def give_up(self, handles: tuple[ContainerHandle, ...]) -> None:
        """Closes handles of a kill that is over, unless their cgroups are still there."""
        with self._lock:
            held = {id(handle) for pod in self._pods.values() for handle in pod.handles.values()}
            for handle in handles:
                self._followed.discard(id(handle))
                if id(handle) not in held:
                    handle.close()

    def close(self) -> None:
        """Gives all descriptors back."""
        with self._lock:
            for pod in self._pods.values():
                for handle in pod.handles.values():
                    handle.close()
            self._pods = {}

    def _list(self, now: int, wanted: frozenset[str], *, hold: bool) -> None:
        """Opens what is new of the wanted pods and closes what is gone or no longer wanted.

        `hold`: of those held that are still wanted nothing is looked at, and without new ones nothing at all is.
        """
        held_pods = {uid: self._pods[uid] for uid in self._pods.keys() & wanted} if hold else {}
        missing = wanted - held_pods.keys()
        listed = {pod.uid: pod.containers for pod in self._tree.scan()} if missing else {}
        self._is_listed = not (missing and self._tree.scan_failure)
        if not self._is_listed:  # who is not among them is not gone: what is held stays
            self._list_failures.append(self._tree.scan_failure)
            return
        for uid in listed.keys() & missing:
            if uid not in self._seen:
                self._seen[uid] = (now, self._age_ns(listed[uid]))
        kept: dict[str, _Pod] = held_pods
        for uid in listed.keys() & missing:
            before = self._pods.get(uid)
            first_seen, age = self._seen[uid]
            handles: dict[str, ContainerHandle] = {}
            for container in listed[uid]:
                handle = self._handle(container, before)
                if handle is not None:
                    handles[container.container_id] = handle
            pids = {key: before.pids[key] for key in before.pids.keys() & handles.keys()} if before else {}
            reliefs = {key: before.reliefs[key] for key in before.reliefs.keys() & handles.keys()} if before else {}
            kept[uid] = _Pod(first_seen, age, handles, pids, reliefs)
        if not hold:
            self._seen = {uid: self._seen[uid] for uid in listed.keys() & self._seen.keys()}
        held = {id(handle) for pod in kept.values() for handle in pod.handles.values()}
        with self._lock:
            dropped = [h for pod in self._pods.values() for h in pod.handles.values() if id(h) not in held]
            self._pods = kept
            for handle in dropped:
                if id(handle) not in self._followed:
                    handle.close()

    def _handle(self, container: ContainerCgroup, before: _Pod | None) -> ContainerHandle | None:
        """The handle held, if the directory is still the same one and nothing was made in it since; else a new one."""
        held = before.handles.get(container.container_id) if before is not None else None
        seen = before.pids.get(container.container_id) if before is not None else None
        if held is not None and held.is_on(container) and (seen or not _populated(held)):
            return held
        try:
            return open_handle(self._tree, container)
        except OSError as error:
            self._list_failures.append(f"{'/'.join(container.parts)}: {error.strerror}")
            return None

    def _age_ns(self, containers: tuple[ContainerCgroup, ...]) -> int:
        """How long the pod's directory has been here when it is first seen, by its own time stamp.

        A cgroup directory's time is when the kernel made its inode: never before the directory, so never too old. It is
        of the wall clock: by how much that was set forward since the journal began does not count, and nothing is
        older than the machine's boot.
        """
        if not containers:
            return 0
        directory = self._tree.open_directory(containers[0].parts[:-1])
        if directory is None:
            return 0
        try:
            made_ns = os.fstat(directory).st_ctime_ns
        finally:
            os.close(directory)
        stepped_ns = max(0, unix_ns() - self._clock() - self.unix_minus_clock_ns)
        return max(0, min(unix_ns() - made_ns - stepped_ns, boot_ns()))

    def _usages(self, now: int) -> tuple[Usage, ...]:
        found = []
        for uid, pod in self._pods.items():
            self.between_pods()
            containers = [self._container(container_id, handle, pod) for container_id, handle in pod.handles.items()]
            age = (pod.age_then_ns + now - pod.first_seen_ns) // _SECOND_NS
            state = CgroupState.KILLED if uid in self.killed else CgroupState.LIVE
            state = CgroupState.DYING if uid in self.dying else state
            found.append(Usage(uid, tuple(usage for usage in containers if usage is not None), age, state))
        return tuple(found)

    def _container(self, container_id: str, handle: ContainerHandle, pod: _Pod) -> ContainerUsage | None:
        try:
            pids = pod.pids[container_id] = handle.pids()
        except (OSError, CgroupFileError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self._failures.append(f"{'/'.join(handle.container.parts)}: {why}")
            return None
        killable = handle.can_kill or not self.tree_can_kill
        if not killable:
            self._failures.append(f"{'/'.join(handle.container.parts)}: {handle.kill_failure}")
        pod.reliefs.pop(container_id, None)
        if len(pids) <= 1:
            held = ContainerUsage(container_id, None, handle.memory_bytes(), len(pids))
            if held.is_sandbox:  # nobody asks what it would give back, and memory.stat is the dearest file of a cgroup
                return held
        figures = handle.figures()
        if isinstance(figures, MemoryFigures):
            pod.reliefs[container_id] = figures.relief_bytes
            relief, by_node = figures.relief_bytes, figures.relief_bytes_by_node or None
            return ContainerUsage(container_id, relief, figures.memory_bytes, len(pids), by_node, killable)
        if isinstance(figures, Unknown):
            self._failures.append(figures.message)
        # Without figures the sandbox is told by what its one process holds; if not even that is known it is one.
        memory_bytes = (anonymous_bytes(pids[0]) or 0) if len(pids) == 1 else None
        return ContainerUsage(container_id, None, memory_bytes, len(pids), killable=killable)


def _populated(handle: ContainerHandle) -> bool:
    """Whether the cgroup has a process: one that a handle does not see is in a cgroup made below after it (CRI-O)."""
    try:
        return handle.populated()
    except (OSError, ValueError):
        return False


def total(figures: Iterable[int | None]) -> int | None:
    """The sum; None when a part of it is not known."""
    known = list(figures)
    return None if None in known else sum(figure or 0 for figure in known)


def anonymous_bytes(pid: int) -> int | None:
    """Resident memory of a process that no file backs; None when it cannot be seen (gone, or another PID namespace).

    Read from the agent's own /proc: the numbers in cgroup.procs are those of its own PID namespace.
    """
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            words = file.read().split()
        return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def cgroup_kill_capability(tree: PodsTree) -> str:
    """Whether containers can be killed here: empty, or why not. Nothing is written."""
    if tree.path is None:
        return tree.failure
    try:
        descriptor = os.open(f"{tree.path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return f"{tree.path} has no cgroup.kill (cgroup v2 and kernel 5.14 or later have)"
    except OSError as error:
        return f"{tree.path}/cgroup.kill: {error.strerror} (needs uid 0 and a writable mount)"
    os.close(descriptor)
    return ""
