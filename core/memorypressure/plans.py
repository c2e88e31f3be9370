"""Who may be stopped on a node: policy, node and pods -> NodeMemoryPlan; always the same plan for the same input."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memorypressure.protections import OwnPods, PodFacts, Surroundings, excluded
from memorypressure.reasons import Reason
from memorypressure.records import RecordError, rfc3339, unix_ns_from
from memorypressure.spec_json import ladder_json, limits_json, triggers_json, victims_json
from memorypressure.spec_values import Limits, Policy, Share, Step, Trigger, VictimRules
from memorypressure.victims import MAX_PODS, Candidate, Excluded


@dataclass(frozen=True, slots=True)
class Plan:
    """NodeMemoryPlan.spec. Equal plans need no write."""

    node_name: str
    policy_name: str
    policy_generation: int
    triggers: tuple[Trigger, ...]
    ladder: tuple[Step, ...]
    victims: VictimRules
    limits: Limits
    pods: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """The object's `spec`."""
        return {
            "nodeName": self.node_name,
            "policy": {"name": self.policy_name, "generation": self.policy_generation},
            "triggers": triggers_json(self.triggers),
            "ladder": ladder_json(self.ladder),
            "victims": victims_json(self.victims),
            "limits": limits_json(self.limits),
            "pods": [candidate_json(pod) for pod in self.pods],
        }


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The plan, and every pod of the node that is not on it, with the reason."""

    plan: Plan
    excluded: tuple[Excluded, ...]


def empty_plan(node_name: str) -> dict[str, Any]:
    """The `spec` of a node without a policy in force."""
    return {"nodeName": node_name}


def build_plan(
    policy: Policy,
    node_name: str,
    pods: Iterable[PodFacts],
    around: Callable[[PodFacts], Surroundings],
    own: OwnPods,
    limited_workloads: frozenset[str] = frozenset(),
) -> PlanResult:
    """The plan of a node. `pods` bound to other nodes are left out without a word.

    `limited_workloads`: `namespace/owner` of workloads whose pods are candidates on as many other nodes as
    maxVictimsPerWorkload allows (see `candidate_nodes`). Beyond 250 pods those of the highest priority are left out,
    of one priority the oldest.
    """
    candidates: list[Candidate] = []
    left_out: list[Excluded] = []
    for pod in pods:
        if pod.node != node_name:
            continue
        reason = excluded(pod, policy.victims, around(pod), own)
        if reason is None and f"{pod.namespace}/{pod.owner}" in limited_workloads and pod.owner:
            message = f"{pod.owner} has candidates on as many other nodes as maxVictimsPerWorkload allows"
            reason = Excluded(pod.uid, Reason.WORKLOAD_LIMIT, message)
        candidate = None if reason else _candidate(pod)
        if candidate is None:
            left_out.append(reason or Excluded(pod.uid, Reason.NOT_UNDERSTOOD, f"creation time {pod.create_time!r}"))
        else:
            candidates.append(candidate)
    candidates.sort(key=_static_order)
    left_out += [
        Excluded(candidate.uid, Reason.PLAN_LIMIT, f"a plan holds {MAX_PODS} pods, this one comes later")
        for candidate in candidates[MAX_PODS:]
    ]
    plan = Plan(
        node_name=node_name,
        policy_name=policy.name,
        policy_generation=policy.generation,
        triggers=policy.triggers,
        ladder=policy.ladder,
        victims=policy.victims,
        limits=policy.limits,
        pods=tuple(candidates[:MAX_PODS]),
    )
    return PlanResult(plan, tuple(sorted(left_out, key=lambda each: each.uid)))


def candidate_nodes(
    share: Share, pods_of_workload: Mapping[str, int], holders: frozenset[str], urgency: Callable[[str], float]
) -> frozenset[str]:
    """The nodes on which a workload's pods may be candidates at once.

    `pods_of_workload`: its pods on each node; the share is of their sum, at least one node. Nodes of the lowest
    `urgency` value first, then present `holders`, then by name: so nothing moves without need.
    """
    most = share.of(sum(pods_of_workload.values()))
    order = sorted(pods_of_workload, key=lambda node: (urgency(node), node not in holders, node))
    return frozenset(order[:most])


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """An entry of `pods[]`, in plans and orders."""
    out = {
        "uid": candidate.uid,
        "namespace": candidate.namespace,
        "name": candidate.name,
        "priority": candidate.priority,
        "qosClass": candidate.qos_class,
        "requestBytes": candidate.request_bytes,
        "createTime": rfc3339(candidate.create_time_seconds * 1_000_000_000).replace(".000000", ""),
    }
    return {**out, "workload": candidate.workload} if candidate.workload else out


def _candidate(pod: PodFacts) -> Candidate | None:
    try:
        created_seconds = unix_ns_from(pod.create_time) // 1_000_000_000
    except RecordError:
        return None
    return Candidate(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        priority=pod.priority,
        qos_class=str(pod.qos_class),
        request_bytes=pod.request_bytes,
        create_time_seconds=created_seconds,
        workload=pod.owner,
    )


def _static_order(candidate: Candidate) -> tuple[int, int, str]:
    return candidate.priority, -candidate.create_time_seconds, candidate.uid
