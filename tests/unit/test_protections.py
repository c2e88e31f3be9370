"""The operator's veto: who may never be stopped, and what `unprotected` gives up."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.podfacts import Pod

from memorypressure.protections import (
    DisruptionBudget,
    OwnPods,
    PodFacts,
    Surroundings,
    allows_disruption,
    excluded,
)
from memorypressure.reasons import Reason
from memorypressure.spec_values import Criterion, LabelSelector, QosClass, Unprotected, VictimRules

RULES = VictimRules(
    order=(Criterion.PRIORITY,),
    max_priority=1000,
    qos_classes=frozenset({QosClass.BEST_EFFORT, QosClass.BURSTABLE}),
    pod_selector=LabelSelector(),
    namespace_selector=LabelSelector(),
    min_relief_bytes=0,
    min_age_seconds=0,
    unprotected=frozenset(),
)
AROUND = Surroundings(namespace_labels={}, workload_pods=3, allows_disruption=True)
OWN = OwnPods("memory-pressure", frozenset({"kube-system"}))


def reason_of(pod: PodFacts, rules: VictimRules = RULES, around: Surroundings = AROUND) -> Reason | None:
    verdict = excluded(pod, rules, around, OWN)
    assert verdict is None or (verdict.uid == pod.uid and verdict.message)
    return None if verdict is None else verdict.reason


def test_an_ordinary_pod_of_a_workload_may_be_stopped() -> None:
    assert reason_of(Pod()) is None


GROUPS = [
    (Unprotected.STATIC_PODS, Pod(static=True), AROUND, Reason.STATIC_POD),
    (Unprotected.DAEMON_SET_PODS, Pod(daemon_set=True, owner="DaemonSet/x"), AROUND, Reason.DAEMON_SET_POD),
    (Unprotected.UNMANAGED_PODS, Pod(owner=""), AROUND, Reason.UNMANAGED_POD),
    (Unprotected.PODS_WITH_LOCAL_STORAGE, Pod(local_storage=True), AROUND, Reason.LOCAL_STORAGE),
    (Unprotected.SINGLETON_WORKLOADS, Pod(), replace(AROUND, workload_pods=1), Reason.SINGLETON_WORKLOAD),
    (Unprotected.SINGLETON_WORKLOADS, Pod(), replace(AROUND, workload_pods=None), Reason.SINGLETON_WORKLOAD),
    (Unprotected.DISRUPTION_BUDGETS, Pod(), replace(AROUND, allows_disruption=False), Reason.DISRUPTION_BUDGET),
    (Unprotected.ANNOTATED_PODS, Pod(annotated=True), AROUND, Reason.ANNOTATED),
    (
        Unprotected.ANNOTATED_PODS,
        Pod(),
        replace(AROUND, namespace_labels={"memorypressure.dev/protected": "true"}),
        Reason.ANNOTATED,
    ),
]


@pytest.mark.parametrize(("group", "pod", "around", "reason"), GROUPS)
def test_invariant_7_a_group_is_protected_unless_the_policy_names_it(
    group: Unprotected, pod: Pod, around: Surroundings, reason: Reason
) -> None:
    assert reason_of(pod, RULES, around) is reason
    others = replace(RULES, unprotected=frozenset(Unprotected) - {group})
    assert reason_of(pod, others, around) is reason, "naming the other groups is not naming this one"
    assert reason_of(pod, replace(RULES, unprotected=frozenset({group})), around) is None


def test_every_group_of_the_api_has_a_case() -> None:
    assert {group for group, *_ in GROUPS} == set(Unprotected)


ALWAYS = [
    (Pod(priority=2_000_000_000), Reason.SYSTEM_CRITICAL),
    (Pod(priority=2_000_001_000), Reason.SYSTEM_CRITICAL),
    (Pod(namespace="memory-pressure"), Reason.OWN_POD),
    (Pod(namespace="kube-system"), Reason.PROTECTED_NAMESPACE),
    (Pod(terminating=True), Reason.TERMINATING),
    (Pod(phase="Pending"), Reason.NOT_RUNNING),
    (Pod(phase="Succeeded"), Reason.NOT_RUNNING),
    (Pod(uid=""), Reason.INVALID_UID),
]


@pytest.mark.parametrize(("pod", "reason"), ALWAYS)
def test_invariant_7_no_policy_reaches_critical_own_and_ending_pods(pod: Pod, reason: Reason) -> None:
    everything = replace(
        RULES, unprotected=frozenset(Unprotected), max_priority=2**31 - 1, qos_classes=frozenset(QosClass)
    )
    assert reason_of(pod, everything) is reason


NOT_ASKED = [
    (Pod(priority=1001), RULES, AROUND, Reason.PRIORITY_TOO_HIGH),
    (Pod(qos_class="Guaranteed"), RULES, AROUND, Reason.QOS_CLASS_EXCLUDED),
    (Pod(qos_class=""), RULES, AROUND, Reason.QOS_CLASS_EXCLUDED),
    (Pod(), replace(RULES, pod_selector=LabelSelector((("app", "db"),))), AROUND, Reason.SELECTOR_MISMATCH),
    (Pod(), replace(RULES, namespace_selector=LabelSelector((("t", "x"),))), AROUND, Reason.SELECTOR_MISMATCH),
    (Pod(), RULES, replace(AROUND, namespace_labels=None), Reason.ANNOTATED),
    (
        Pod(),
        replace(RULES, unprotected=frozenset(Unprotected)),
        replace(AROUND, namespace_labels=None),
        Reason.SELECTOR_MISMATCH,
    ),
]


@pytest.mark.parametrize(("pod", "rules", "around", "reason"), NOT_ASKED)
def test_what_the_policy_does_not_select_is_left_out(
    pod: Pod, rules: VictimRules, around: Surroundings, reason: Reason
) -> None:
    assert reason_of(pod, rules, around) is reason


@given(
    pod=st.builds(
        Pod,
        priority=st.sampled_from([0, 1000, 1999999999, 2000000000]),
        owner=st.sampled_from(["", "Deployment/web"]),
        static=st.booleans(),
        daemon_set=st.booleans(),
        local_storage=st.booleans(),
        annotated=st.booleans(),
    ),
    unprotected=st.frozensets(st.sampled_from(list(Unprotected))),
    workload_pods=st.sampled_from([None, 1, 2]),
    allows=st.booleans(),
)
def test_invariant_7_a_pod_passes_only_if_every_group_it_belongs_to_is_named(
    pod: Pod, unprotected: frozenset[Unprotected], workload_pods: int | None, allows: bool
) -> None:
    around = Surroundings({}, workload_pods, allows)
    rules = replace(RULES, unprotected=unprotected, max_priority=1_999_999_999)
    belongs = {
        Unprotected.STATIC_PODS: pod.static,
        Unprotected.DAEMON_SET_PODS: pod.daemon_set,
        Unprotected.UNMANAGED_PODS: not pod.owner,
        Unprotected.PODS_WITH_LOCAL_STORAGE: pod.local_storage,
        Unprotected.SINGLETON_WORKLOADS: bool(pod.owner) and not pod.daemon_set and workload_pods in (None, 1),
        Unprotected.DISRUPTION_BUDGETS: not allows,
        Unprotected.ANNOTATED_PODS: pod.annotated,
    }
    may = pod.priority < 2_000_000_000 and all(group in unprotected for group, is_in in belongs.items() if is_in)
    assert (reason_of(pod, rules, around) is None) == may


WEB = LabelSelector((("app", "web"),))
BUDGETS: list[tuple[str, list[DisruptionBudget], bool]] = [
    ("none", [], True),
    ("one that allows", [DisruptionBudget("shop", WEB, 1)], True),
    ("one that allows nothing", [DisruptionBudget("shop", WEB, 0)], False),
    ("one whose status is old", [DisruptionBudget("shop", WEB, 1, current=False)], False),
    ("two: the Eviction API refuses", [DisruptionBudget("shop", WEB, 1), DisruptionBudget("shop", WEB, 1)], False),
    ("of another namespace", [DisruptionBudget("other", WEB, 0)], True),
    ("of other pods", [DisruptionBudget("shop", LabelSelector((("app", "db"),)), 0)], True),
    ("an empty selector covers all", [DisruptionBudget("shop", LabelSelector(), 0)], False),
    ("no selector covers none", [DisruptionBudget("shop", None, 0)], True),
]


@pytest.mark.parametrize(("name", "budgets", "allowed"), BUDGETS, ids=[each[0] for each in BUDGETS])
def test_disruption_budgets_that_cover_the_pod_count(name: str, budgets: list[DisruptionBudget], allowed: bool) -> None:
    assert allows_disruption("shop", {"app": "web"}, budgets) is allowed
