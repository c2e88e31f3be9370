"""The pods of this machine without an API server: what their cgroups tell, and no more.

World states:

- a kubelet's tree (`kubepods`): QoS class from the path; priority, requests, labels and protections are known to the
  API server only. They are taken as 0 and none for the display, and nothing here may be killed on such guesses.
- a directory of `pod<uid>/<container>` that the user named: these are whom the user offers; class BestEffort.
- neither: no candidates, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from memorypressure.reasons import Reason
from memorypressure.signals import Absent
from memorypressure.spec_values import LabelSelector, QosClass, VictimRules
from memorypressure.victims import Candidate, CgroupState, ContainerUsage, Usage
from memorypressure_agent.host.cgroups import ContainerCgroup, PodCgroup, PodsTree, pod_uid_of
from memorypressure_agent.host.containers import ContainerHandle, MemoryFigures, open_handle

KUBELET_NOTE = (
    "priorities, requests and protections are known to the API server only: the ranking takes them as 0 and none"
)


@dataclass(frozen=True, slots=True)
class PodsNow:
    """Candidates and their figures at one refresh; `note` says what is missing or assumed, "" for nothing."""

    candidates: tuple[Candidate, ...]
    usages: tuple[Usage, ...]
    note: str


class Pods:
    """Lists the pods' cgroups and holds a handle on each container, as long as it is there."""

    def __init__(self, tree: PodsTree, rules: VictimRules, unix_ns: Callable[[], int] = time.time_ns) -> None:
        self._tree = tree
        self._rules = rules
        self._unix_ns = unix_ns
        self._handles: dict[ContainerCgroup, ContainerHandle] = {}

    @property
    def is_kubelets(self) -> bool:
        """Whether the tree is a kubelet's, so that protections exist which cannot be seen from here."""
        path = self._tree.path
        return path is not None and path.rstrip("/").rsplit("/", 1)[-1].split(".")[0].endswith("kubepods")

    def refresh(self) -> PodsNow:
        """The pods now."""
        if self._tree.path is None and not self._tree.locate():
            return PodsNow((), (), f"none: {self._tree.failure}")
        pods = self._tree.scan()
        self._hold({container for pod in pods for container in pod.containers})
        if _selects(self._rules.pod_selector) or _selects(self._rules.namespace_selector):
            return PodsNow(
                (), (), "none: the policy selects pods by label, and labels are known to the API server only"
            )
        if not pods:
            return PodsNow((), (), f"none: no pod has a cgroup under {self._tree.path}")
        live = [pod for pod in pods if pod.containers]
        candidates = tuple(map(self._candidate, live))
        kept = tuple(candidate for candidate in candidates if candidate.qos_class in self._rules.qos_classes)
        notes = [KUBELET_NOTE] if self.is_kubelets else []
        if len(kept) < len(candidates):
            notes.append(f"{len(candidates) - len(kept)} of other QoS classes left out")
        return PodsNow(kept, tuple(map(self._usage, live)), "; ".join(notes))

    @property
    def can_kill(self) -> bool:
        """Whether `cgroup.kill` of every container is held open for writing."""
        return all(handle.can_kill for handle in self._handles.values())

    def handles(self, pod_uid: str, containers: tuple[str, ...]) -> list[ContainerHandle]:
        """The held containers of that pod with these ids."""
        return [
            handle
            for cgroup, handle in self._handles.items()
            if cgroup.pod_uid == pod_uid and cgroup.container_id in containers
        ]

    def close(self) -> None:
        """Give all descriptors back."""
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def _hold(self, listed: set[ContainerCgroup]) -> None:
        for gone in self._handles.keys() - listed:
            self._handles.pop(gone).close()
        for new in listed - self._handles.keys():
            handle = open_handle(self._tree, new)
            if handle is not None:
                self._handles[new] = handle

    def _candidate(self, pod: PodCgroup) -> Candidate:
        created = [self._handles[c].directory_time_ns for c in pod.containers if c in self._handles]
        return Candidate(
            uid=pod.uid,
            namespace="",
            name=pod.uid,
            priority=0,
            qos_class=self._qos_class(pod),
            request_bytes=0,
            create_time_seconds=min(created, default=self._unix_ns()) // 1_000_000_000,
        )

    def _qos_class(self, pod: PodCgroup) -> QosClass:
        parents = pod.containers[0].parts[:-2]
        if any("burstable" in part for part in parents):
            return QosClass.BURSTABLE
        if any("besteffort" in part for part in parents) or not self.is_kubelets:
            return QosClass.BEST_EFFORT
        return QosClass.GUARANTEED

    def _usage(self, pod: PodCgroup) -> Usage:
        containers, created_ns = [], self._unix_ns()
        for cgroup in pod.containers:
            handle = self._handles.get(cgroup)
            if handle is None:
                continue
            created_ns = min(created_ns, handle.directory_time_ns)
            figures = handle.figures()
            if isinstance(figures, Absent) and figures.reason is Reason.GONE:
                continue
            known = figures if isinstance(figures, MemoryFigures) else None
            containers.append(
                ContainerUsage(
                    id=cgroup.container_id,
                    relief_bytes=known.relief_bytes if known else None,
                    memory_bytes=known.memory_bytes if known else None,
                    processes=len(handle.pids()),
                    relief_bytes_by_node=(known.relief_bytes_by_node or None) if known else None,
                )
            )
        seen_seconds = (self._unix_ns() - created_ns) // 1_000_000_000
        return Usage(pod.uid, tuple(containers), seen_seconds, CgroupState.LIVE if containers else CgroupState.GONE)


def own_pod_uid() -> str:
    """The pod that this process runs in, so that it never stops itself; "" outside of one."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        parts = [part for line in file for part in line.strip().split("/")]
    return next((uid for part in reversed(parts) if (uid := pod_uid_of(part)) is not None), "")


def _selects(selector: LabelSelector) -> bool:
    return bool(selector.match_labels or selector.match_expressions)
