"""Who is to be stopped: candidates with fresh figures -> one victim or none, a total order, every exclusion told.

Eligibility is the operator's (`protections`); what is ranked here is on the plan. Relief is what a kill gives back:
anonymous, kernel and socket memory, on the NUMA nodes under pressure; file, shmem and huge pages stay.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from memorypressure.reasons import Reason
from memorypressure.records import PodRef, Victim
from memorypressure.spec_values import Criterion, KillUnit, VictimRules

FIRST_SYSTEM_CRITICAL_PRIORITY = 2_000_000_000
"""Priority of `system-cluster-critical`, the lower of the two built-in classes (KEP-268)."""
MAX_PODS = 250
"""Candidates that a plan holds at most."""
SANDBOX_MAX_BYTES = 2 * 1024 * 1024
"""`pause` holds 0.2 to 1 MiB."""

_UID = re.compile(r"[0-9A-Za-z-]{1,64}\Z")


class CgroupState(StrEnum):
    """What the node sees of a pod's cgroups."""

    LIVE = "Live"
    EMPTY = "Empty"
    GONE = "Gone"
    REPLACED = "Replaced"
    DYING = "Dying"
    KILLED = "Killed"
    """It lives, and was killed under the permit that is in force: only a new one is meant for it as it is now."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that may be stopped: an entry of the plan's `pods[]`.

    `workload` is `<kind>/<name>` of its controller, empty without one.
    """

    uid: str
    namespace: str
    name: str
    priority: int
    qos_class: str
    request_bytes: int
    create_time_seconds: int
    workload: str = ""

    @property
    def ref(self) -> PodRef:
        """Its name for records."""
        return PodRef(self.uid, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One container's cgroup. Figures are None where the tree has none (hybrid hosts).

    `relief_bytes_by_node` None: the kernel does not say on which NUMA node; then all of the relief counts for each.
    """

    id: str
    relief_bytes: int | None
    memory_bytes: int | None
    processes: int
    relief_bytes_by_node: tuple[tuple[int, int], ...] | None = None
    killable: bool = True
    """False where its own `cgroup.kill` cannot be written, though the node's others can."""

    @property
    def is_sandbox(self) -> bool:
        """Whether it is the pod's pause container: one process, under 2 MiB."""
        return self.processes <= 1 and self.memory_bytes is not None and self.memory_bytes < SANDBOX_MAX_BYTES

    def relief_on(self, nodes: frozenset[int]) -> int | None:
        """What its end gives back on these NUMA nodes; on all of them when `nodes` is empty."""
        if self.relief_bytes is None or not nodes or self.relief_bytes_by_node is None:
            return self.relief_bytes
        found = 0
        for node, relief_bytes in self.relief_bytes_by_node:
            if node in nodes:
                found += relief_bytes
        return found


@dataclass(frozen=True, slots=True)
class Usage:
    """A pod's fresh figures on this node. `seen_seconds`: how long its cgroup has been here."""

    uid: str
    containers: tuple[ContainerUsage, ...]
    seen_seconds: int
    state: CgroupState = CgroupState.LIVE


@dataclass(frozen=True, slots=True)
class Excluded:
    """A pod that is no victim, and why."""

    uid: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with its figures.

    `sufficient`: it brings what is needed; `killed`: it was killed under the permit in force, and lives again.
    """

    candidate: Candidate
    relief_bytes: int | None
    over_request: bool
    sufficient: bool
    containers: tuple[str, ...]
    killed: bool = False

    @property
    def victim(self) -> Victim:
        """The value that a Kill decision carries."""
        return Victim(
            self.candidate.ref, self.containers, self.relief_bytes, self.candidate.priority, self.over_request
        )


@dataclass(frozen=True, slots=True)
class Ranking:
    """All candidates, best victim first; `chosen` is the one to stop, or None for `reason`."""

    order: tuple[Ranked, ...]
    excluded: tuple[Excluded, ...]
    chosen: Ranked | None
    reason: Reason
    message: str
    needed_bytes: int


def rank(
    rules: VictimRules,
    unit: KillUnit,
    candidates: Iterable[Candidate],
    usages: Iterable[Usage],
    pressed_nodes: frozenset[int],
    deficit_bytes: int,
    own_pod_uid: str = "",
) -> Ranking:
    """The victims in the order of `rules.order`, ties broken by uid, and the one to stop.

    `pressed_nodes` empty: the whole machine is short. `deficit_bytes` is what the pressed nodes lack to High. The
    chosen one is the first that brings `max(min_relief_bytes, deficit_bytes)`; if none does, the largest if it brings a
    quarter of that. Where the tree has no memory figures, `min_relief_bytes` 0 admits pods without them: order by
    Priority and Youngest then. When that one was killed under this permit and came back, nobody is stopped: neither it
    again nor another one in its place.
    """
    needed_bytes = max(rules.min_relief_bytes, deficit_bytes)
    by_uid = _by_uid(usages)
    ranked: list[Ranked] = []
    excluded: list[Excluded] = []
    for candidate in _unique(candidates):
        verdict = _judge(rules, unit, candidate, by_uid.get(candidate.uid), pressed_nodes, needed_bytes, own_pod_uid)
        if isinstance(verdict, Excluded):
            excluded.append(verdict)
        else:
            ranked.append(verdict)
    criteria = rules.order
    ranked.sort(key=lambda entry: order_key(criteria, entry))
    order = tuple(ranked)
    chosen, reason, message = _choose(order, needed_bytes)
    return Ranking(order, tuple(excluded), chosen, reason, message, needed_bytes)


def order_key(order: tuple[Criterion, ...], entry: Ranked) -> tuple[int | str, ...]:
    """The sort key of a candidate: lexicographic over the criteria, then uid, so that no two are equal."""
    return (*[_criterion_key(criterion, entry) for criterion in order], entry.candidate.uid)


def _criterion_key(criterion: Criterion, entry: Ranked) -> int:
    if criterion is Criterion.OVER_REQUEST:
        return 0 if entry.over_request else 1
    if criterion is Criterion.PRIORITY:
        return entry.candidate.priority
    if criterion is Criterion.RELIEF:
        return -(entry.relief_bytes or 0)
    return -entry.candidate.create_time_seconds


def _by_uid(usages: Iterable[Usage]) -> Mapping[str, Usage]:
    return {usage.uid: usage for usage in usages}


def _unique(candidates: Iterable[Candidate]) -> Iterable[Candidate]:
    return {candidate.uid: candidate for candidate in candidates}.values()


def _judge(
    rules: VictimRules,
    unit: KillUnit,
    candidate: Candidate,
    usage: Usage | None,
    pressed_nodes: frozenset[int],
    needed_bytes: int,
    own_pod_uid: str,
) -> Ranked | Excluded:
    against = _against(rules, candidate, usage, own_pod_uid)
    if against is not None or usage is None:
        reason, message = against or (Reason.GONE, "no cgroup of this pod is on the node")
        return Excluded(candidate.uid, reason, message)
    targets = [
        container
        for container in usage.containers
        if container.processes > 0 and not container.is_sandbox and is_container_id(container.id)
    ]
    if not targets:
        return Excluded(candidate.uid, Reason.NOT_RUNNING, "no container of it has a process")
    if rules.min_relief_bytes > 0 and any(container.relief_bytes is None for container in targets):
        return Excluded(candidate.uid, Reason.NO_FIGURES, "its cgroups have no memory figures, and minRelief is not 0")
    if unit is KillUnit.CONTAINER:
        targets = [max(targets, key=lambda container: (container.relief_on(pressed_nodes) or 0, container.id))]
    if not any(container.killable for container in targets):
        return Excluded(candidate.uid, Reason.CAPABILITY_MISSING, "cgroup.kill of its containers cannot be written")
    figures = [container.relief_on(pressed_nodes) for container in targets]
    relief_bytes = None if None in figures else sum([figure or 0 for figure in figures])
    memory_bytes = sum([container.memory_bytes or 0 for container in usage.containers])
    return Ranked(
        candidate=candidate,
        relief_bytes=relief_bytes,
        over_request=memory_bytes > candidate.request_bytes,
        sufficient=relief_bytes is None or relief_bytes >= needed_bytes,
        containers=tuple([container.id for container in targets]),
        killed=usage.state is CgroupState.KILLED,
    )


def _against(
    rules: VictimRules, candidate: Candidate, usage: Usage | None, own_pod_uid: str
) -> tuple[Reason, str] | None:
    """What speaks against a candidate, whatever it would bring; the plan is not trusted with who may never be one."""
    found = None
    if not is_pod_uid(candidate.uid):
        found = Reason.INVALID_UID, "the uid could name something other than a pod's cgroup"
    elif candidate.uid == own_pod_uid:
        found = Reason.OWN_POD, "this is the agent's own pod"
    elif candidate.priority >= FIRST_SYSTEM_CRITICAL_PRIORITY:
        found = Reason.SYSTEM_CRITICAL, f"priority {candidate.priority} is system-critical"
    elif candidate.priority > rules.max_priority:
        found = Reason.PRIORITY_TOO_HIGH, f"priority {candidate.priority} is above maxPriority {rules.max_priority}"
    elif usage is None:
        found = Reason.GONE, "no cgroup of this pod is on the node"
    elif usage.state is CgroupState.DYING:
        found = Reason.TERMINATING, "its processes are already being ended"
    elif usage.state not in (CgroupState.LIVE, CgroupState.KILLED):
        found = Reason.GONE, f"its cgroup is {usage.state.lower()}"
    elif usage.seen_seconds < rules.min_age_seconds:
        message = f"on this node for {usage.seen_seconds} s, minAgeSeconds is {rules.min_age_seconds}"
        found = Reason.TOO_YOUNG, message
    return found


def is_pod_uid(text: str) -> bool:
    """Whether it can be a pod's uid: letters, digits and '-' only, so that it names one directory."""
    return bool(_UID.match(text))


def is_container_id(text: str) -> bool:
    """Whether it names something below the pod's cgroup: no empty, `.` or `..` part, no leading slash.

    At most two parts: a container, or a scope with one nested cgroup (CRI-O).
    """
    if "/" not in text:
        return text not in ("", ".", "..") and "\0" not in text
    parts = text.split("/")
    return len(parts) <= 2 and all(part not in ("", ".", "..") and "\0" not in part for part in parts)


def _choose(order: tuple[Ranked, ...], needed_bytes: int) -> tuple[Ranked | None, Reason, str]:
    if not order:
        return None, Reason.NO_VICTIM, "no candidate may be stopped now"
    chosen = next((entry for entry in order if entry.sufficient), None)
    message = f"first of {len(order)} that brings {needed_bytes} bytes"
    if chosen is None:
        chosen = max(order, key=lambda entry: entry.relief_bytes or 0)
        relief = chosen.relief_bytes or 0
        if relief * 4 < needed_bytes:
            message = f"{needed_bytes} bytes are needed; the largest of {len(order)} candidates brings {relief}"
            return None, Reason.TOO_SMALL, message
        message = f"none of {len(order)} brings {needed_bytes} bytes; the largest brings {relief}"
    if chosen.killed:
        pod = f"{chosen.candidate.namespace}/{chosen.candidate.name}"
        return None, Reason.KILLED_BEFORE, f"{pod} was killed under this grant and came back; that needs a new one"
    return chosen, Reason.KILLED, message
