"""What a node's plan should be, from the registry's tables; which workloads it may name; how fast plans are written."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memorypressure.plans import build_plan, candidate_nodes, empty_plan
from memorypressure.protections import OwnPods, PodFacts, Surroundings, allows_disruption, excluded
from memorypressure.reasons import Reason
from memorypressure.spec import Policy, Unprotected
from memorypressure.victims import Candidate
from memorypressure_operator.pods import PodView, unix_seconds
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import digest

_KIND_OF_DAEMON = "/DaemonSet/"


class TokenBucket:
    """At most `per_second` takes a second over time, and as many at once."""

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._rate = per_second
        self._size = max(1.0, per_second)
        self._tokens = self._size
        self._clock = clock
        self._at = clock()
        self._not_before = self._at

    def take(self) -> bool:
        """Takes a token if there is one."""
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1 or now < self._not_before:
            return False
        self._tokens -= 1
        return True

    def rest(self, seconds: float) -> None:
        """Gives nothing for so long.

        Told how long each write took, writes take at most half of the time: a slow server gets fewer.
        """
        self._not_before = max(self._not_before, self._clock() + seconds)

    def wait_seconds(self) -> float:
        """Until the next token."""
        return max(0.0, (1 - self._tokens) / self._rate, self._not_before - self._clock())


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan as it should be.

    `blocked`: nodes that have to give up a workload before this one may name it. `waits`: some have, but did not report
    yet that they took their new plan.
    """

    spec: dict[str, Any]
    digest: str
    blocked: frozenset[str] = frozenset()
    waits: bool = False
    beyond_limit: int = 0  # eligible pods that the plan has no room for


@dataclass(slots=True)
class Planner:
    """Makes drafts. `urgency` of a node: 0 under pressure, 1 else. `armed`: whether any allowance of it is out."""

    registry: Registry
    namespace: str
    urgency: Callable[[str], float]
    armed: Callable[[str], bool] = lambda _: True
    protected_namespaces: frozenset[str] = frozenset()
    _allowed: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    @property
    def own(self) -> OwnPods:
        """Our own pods: all of the operator's namespace; and whose pods are as safe."""
        return OwnPods(self.namespace, self.protected_namespaces)

    def begin_pass(self) -> None:
        """Forgets what was computed for the pass before."""
        self._allowed.clear()

    def draft(self, policy: Policy | None, node: str, pods: Iterable[PodView], killed: Collection[str] = ()) -> Draft:
        """The plan that the node should have. `killed`: uids that its node tells that it killed; they are on none."""
        if policy is None:
            spec = empty_plan(node)
            return Draft(spec, digest(spec))
        blocked: set[str] = set()
        limited = set()
        waits = False
        pods = [pod for pod in pods if pod.uid not in killed]
        with self.registry.lock:
            for workload in {pod.workload for pod in pods if pod.owner and pod.node == node}:
                others = self._in_the_way(policy, node, workload)
                if others is not None:
                    holders = self.registry.tables.holders.get(workload, set())
                    limited.add(workload)
                    blocked |= others & holders
                    waits = waits or not others <= holders
            result = build_plan(policy, node, pods, self.around, self.own, frozenset(limited))
        spec = result.plan.to_json()
        beyond = sum(each.reason is Reason.PLAN_LIMIT for each in result.excluded)
        return Draft(spec, digest(spec), frozenset(blocked), waits, beyond)

    def unsettled(self, policies: Iterable[Policy]) -> set[str]:
        """Nodes whose plans may have to change for what happened elsewhere, since this was asked last.

        A workload grew or shrank, so that another number of nodes may name it or its last pod is alone now; or a plan
        gave one up, so that another node may take it over.
        """
        found: set[str] = set()
        with self.registry.lock:
            tables = self.registry.tables
            resized, self.registry.resized = self.registry.resized, {}
            freed, self.registry.freed = self.registry.freed, set()
            if not resized and not freed:
                return found
            for policy in policies:
                share = policy.limits.max_victims_per_workload
                for workload in resized.keys() | freed:
                    if _KIND_OF_DAEMON in workload and Unprotected.DAEMON_SET_PODS not in policy.victims.unprotected:
                        continue
                    before, now = resized.get(workload), self.registry.size(workload)
                    if before is not None and min(before, now) <= 1 < max(before, now):
                        found |= tables.workload_nodes.get(workload, {}).keys()
                    if workload in freed or (before is not None and share.of(before) != share.of(now)):
                        holders = tables.holders.get(workload, set())
                        found |= self._allowed_nodes(policy, workload) ^ holders
        found.discard("")
        return found

    def _allowed_nodes(self, policy: Policy, workload: str) -> frozenset[str]:
        """Those that may name the workload's pods once all others have given it up; the registry's lock is held."""
        placed = {name: count for name, count in self.registry.tables.workload_nodes.get(workload, {}).items() if name}
        holders = frozenset(self.registry.tables.holders.get(workload, ()))
        return candidate_nodes(policy.limits.max_victims_per_workload, placed, holders, self.urgency)

    def _in_the_way(self, policy: Policy, node: str, workload: str) -> frozenset[str] | None:
        """None if the node may name the workload's pods; else the nodes that have to give it up first (or none).

        A node whose stored plan does not name them any more still counts while it may hold the older one and be armed.
        """
        tables = self.registry.tables
        nodes = tables.workload_nodes.get(workload, {})
        share = policy.limits.max_victims_per_workload
        holders = tables.holders.get(workload, set())
        key = (policy.name, workload)
        allowed = self._allowed.get(key)
        if allowed is None:
            allowed = self._allowed[key] = self._allowed_nodes(policy, workload)
        if node not in allowed:
            return frozenset()
        lingering = self.registry.slots.lingering(workload, nodes) - holders
        others = (holders | {each for each in lingering if self.armed(each)}) - {node}
        if node in holders or len(others) < share.of(sum(nodes.values())):
            return None
        return frozenset(others - allowed)

    def around(self, pod: PodFacts) -> Surroundings:
        """What the cluster says about a pod; the registry's lock is held."""
        tables = self.registry.tables
        workload = f"{pod.namespace}/{pod.owner}"
        budgets = tables.budgets_by_namespace.get(pod.namespace, {}).values()
        return Surroundings(
            namespace_labels=tables.namespaces.get(pod.namespace),
            workload_pods=self.registry.size(workload) if pod.owner else None,
            allows_disruption=allows_disruption(pod.namespace, pod.labels, budgets),
        )

    def veto(self, policy: Policy, pod: PodView) -> tuple[Reason, str] | None:
        """Why the pod may not be evicted, by what is known now; None if it may.

        PodDisruptionBudgets are not asked here: the Eviction API does that, with fresher figures, and answers 429.
        """
        rules = replace(policy.victims, unprotected=policy.victims.unprotected | {Unprotected.DISRUPTION_BUDGETS})
        with self.registry.lock:
            found = excluded(pod, rules, self.around(pod), self.own)
        return None if found is None else (found.reason, found.message)

    def eviction_candidates(self, policy: Policy, pods: Iterable[PodView]) -> list[Candidate]:
        """The pods that may be evicted."""
        return [
            Candidate(
                uid=pod.uid,
                namespace=pod.namespace,
                name=pod.name,
                priority=pod.priority,
                qos_class=pod.qos_class,
                request_bytes=pod.request_bytes,
                create_time_seconds=int(unix_seconds(pod.create_time) or 0),
                workload=pod.owner,
            )
            for pod in pods
            if self.veto(policy, pod) is None
        ]

    def allowance(self, policy: Policy, workload: str) -> int:
        """How many pods of a workload may be evicted in 10 minutes."""
        with self.registry.lock:
            pods = self.registry.size(workload)
        return policy.limits.max_victims_per_workload.of(pods)


def ages(candidates: Iterable[Candidate], now_unix: float) -> Mapping[str, float]:
    """Seconds since each was created: the least that it has been on its node is not known here."""
    return {each.uid: max(0.0, now_unix - each.create_time_seconds) for each in candidates}
