"""Which pods may be stopped at all: the operator's veto, with a reason for every pod that is left out.

System-critical pods and our own are out whatever the policy says. The other groups are out unless the policy names them
in `unprotected`. What is not known (a namespace that is not listed yet, the number of a workload's pods) protects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from memorypressure.reasons import Reason
from memorypressure.spec_values import LabelSelector, Unprotected, VictimRules
from memorypressure.victims import FIRST_SYSTEM_CRITICAL_PRIORITY, Excluded

PROTECTED_KEY = "memorypressure.dev/protected"
"""As an annotation of a pod, or a label of a namespace, with the value "true": never a victim."""


class PodFacts(Protocol):
    """A pod as far as it matters here; any object with these attributes will do."""

    @property
    def uid(self) -> str:
        """UID of the pod."""
        ...

    @property
    def namespace(self) -> str:
        """Its namespace."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def node(self) -> str:
        """Name of the node that it is bound to."""
        ...

    @property
    def phase(self) -> str:
        """Phase of its status."""
        ...

    @property
    def qos_class(self) -> str:
        """QoS class of its status."""
        ...

    @property
    def priority(self) -> int:
        """Its priority, 0 where it has none."""
        ...

    @property
    def request_bytes(self) -> int:
        """Memory requested by all of its containers."""
        ...

    @property
    def create_time(self) -> str:
        """Creation time, RFC 3339."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        ...

    @property
    def owner(self) -> str:
        """`Kind/name` of the controlling owner, empty without one."""
        ...

    @property
    def static(self) -> bool:
        """Whether it is a static or mirror pod."""
        ...

    @property
    def daemon_set(self) -> bool:
        """Whether a DaemonSet owns it."""
        ...

    @property
    def local_storage(self) -> bool:
        """Whether it has a hostPath, or an emptyDir that is not memory: data that stays on the node."""
        ...

    @property
    def annotated(self) -> bool:
        """Whether it carries the pod's own opt-out."""
        ...

    @property
    def terminating(self) -> bool:
        """Whether it is being deleted."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the cluster says about a pod beyond its object.

    `namespace_labels` None: the namespace is not known. `workload_pods`: how many pods its controller has that run or
    are about to, None when that is not known. `allows_disruption`: every PodDisruptionBudget that covers the pod lets
    one go now; True without any.
    """

    namespace_labels: Mapping[str, str] | None
    workload_pods: int | None
    allows_disruption: bool


@dataclass(frozen=True, slots=True)
class OwnPods:
    """Our own pods are all of our namespace.

    `protected_namespaces`: others whose pods are as safe as ours, by the operator's own setting.
    """

    namespace: str
    protected_namespaces: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DisruptionBudget:
    """A PodDisruptionBudget. `selector` None selects nothing; `current`: its status is as new as its spec."""

    namespace: str
    selector: LabelSelector | None
    disruptions_allowed: int
    current: bool = True

    def covers(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether it counts for a pod with these labels."""
        return namespace == self.namespace and self.selector is not None and self.selector.matches(labels)


def allows_disruption(namespace: str, labels: Mapping[str, str], budgets: Iterable[DisruptionBudget]) -> bool:
    """Whether all budgets that cover the pod let one go now.

    More than one covering budget allows nothing: the Eviction API answers such a pod with an error.
    """
    covering = [budget for budget in budgets if budget.covers(namespace, labels)]
    return len(covering) <= 1 and all(budget.current and budget.disruptions_allowed > 0 for budget in covering)


def excluded(pod: PodFacts, rules: VictimRules, around: Surroundings, own: OwnPods) -> Excluded | None:
    """Why the pod may never be stopped under these rules, None if it may. The gravest reason comes first."""
    found = _always(pod, own) or _protected(pod, rules, around) or _not_selected(pod, rules, around)
    return None if found is None else Excluded(pod.uid, *found)


_Found = tuple[Reason, str] | None


def _always(pod: PodFacts, own: OwnPods) -> _Found:
    """What no policy can change."""
    if pod.namespace == own.namespace:
        return Reason.OWN_POD, "it is a pod of this project"
    if pod.namespace in own.protected_namespaces:
        return Reason.PROTECTED_NAMESPACE, "its namespace is protected by the operator's own setting"
    if pod.priority >= FIRST_SYSTEM_CRITICAL_PRIORITY:
        return Reason.SYSTEM_CRITICAL, f"priority {pod.priority} is system-critical"
    if not pod.uid:
        return Reason.INVALID_UID, "it has no uid"
    if pod.terminating:
        return Reason.TERMINATING, "it is being deleted"
    if pod.phase != "Running":
        return Reason.NOT_RUNNING, f"its phase is {pod.phase or 'not known'}"
    return None


def _protected(pod: PodFacts, rules: VictimRules, around: Surroundings) -> _Found:
    """The groups that a policy can give up by `unprotected`."""
    labels = around.namespace_labels
    groups: tuple[tuple[Unprotected, bool, Reason, str], ...] = (
        (Unprotected.STATIC_PODS, pod.static, Reason.STATIC_POD, "it is a static or mirror pod"),
        (Unprotected.DAEMON_SET_PODS, pod.daemon_set, Reason.DAEMON_SET_POD, "a DaemonSet owns it"),
        (Unprotected.UNMANAGED_PODS, not pod.owner, Reason.UNMANAGED_POD, "no controller would make it again"),
        (
            Unprotected.PODS_WITH_LOCAL_STORAGE,
            pod.local_storage,
            Reason.LOCAL_STORAGE,
            "it has a hostPath or an emptyDir on disk",
        ),
        (
            Unprotected.SINGLETON_WORKLOADS,
            bool(pod.owner) and not pod.daemon_set and (around.workload_pods is None or around.workload_pods <= 1),
            Reason.SINGLETON_WORKLOAD,
            "how many pods its workload has is not known"
            if around.workload_pods is None
            else "its workload's only pod",
        ),
        (
            Unprotected.DISRUPTION_BUDGETS,
            not around.allows_disruption,
            Reason.DISRUPTION_BUDGET,
            "its PodDisruptionBudget allows no disruption",
        ),
        (
            Unprotected.ANNOTATED_PODS,
            pod.annotated or labels is None or labels.get(PROTECTED_KEY) == "true",
            Reason.ANNOTATED,
            "its namespace is not known" if labels is None else f"{PROTECTED_KEY} is true on it or its namespace",
        ),
    )
    for group, belongs, reason, message in groups:
        if belongs and group not in rules.unprotected:
            return reason, f"{message} ({group.value} are protected)"
    return None


def _not_selected(pod: PodFacts, rules: VictimRules, around: Surroundings) -> _Found:
    """What the policy does not ask for."""
    if pod.priority > rules.max_priority:
        return Reason.PRIORITY_TOO_HIGH, f"priority {pod.priority} is above maxPriority {rules.max_priority}"
    if pod.qos_class not in rules.qos_classes:
        return Reason.QOS_CLASS_EXCLUDED, f"its QoS class is {pod.qos_class or 'not known'}"
    if not rules.pod_selector.matches(pod.labels):
        return Reason.SELECTOR_MISMATCH, "podSelector does not match its labels"
    labels = around.namespace_labels
    if labels is None or not rules.namespace_selector.matches(labels):
        return Reason.SELECTOR_MISMATCH, "namespaceSelector does not match its namespace's labels"
    return None
