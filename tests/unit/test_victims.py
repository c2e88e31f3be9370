"""Who is stopped: the order, what a victim must bring, and who is left out on the node."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure.reasons import Reason
from memorypressure.spec_values import Criterion, KillUnit, LabelSelector, QosClass, VictimRules
from memorypressure.victims import (
    Candidate,
    CgroupState,
    ContainerUsage,
    Ranking,
    Usage,
    is_container_id,
    is_pod_uid,
    order_key,
    rank,
)

MIB = 1 << 20
RULES = VictimRules(
    order=(Criterion.OVER_REQUEST, Criterion.PRIORITY, Criterion.RELIEF),
    max_priority=1000,
    qos_classes=frozenset(QosClass),
    pod_selector=LabelSelector(),
    namespace_selector=LabelSelector(),
    min_relief_bytes=64 * MIB,
    min_age_seconds=60,
    unprotected=frozenset(),
)


def pod(uid: str, priority: int = 0, request: int = 0, created: int = 0) -> Candidate:
    return Candidate(uid, "ns", f"pod-{uid}", priority, "Burstable", request, created)


def used(uid: str, relief: int | None, memory: int | None = None, **changes: object) -> Usage:
    memory = relief if memory is None else memory
    container = ContainerUsage("c", relief, memory, processes=3)
    return replace(Usage(uid, (container,), seen_seconds=600), **changes)  # type: ignore[arg-type]


def ranked(
    candidates: list[Candidate],
    usages: list[Usage],
    rules: VictimRules = RULES,
    deficit: int = 0,
    unit: KillUnit = KillUnit.POD,
    nodes: frozenset[int] = frozenset(),
    own: str = "",
) -> Ranking:
    return rank(rules, unit, candidates, usages, nodes, deficit, own)


def chosen(ranking: Ranking) -> str | None:
    return ranking.chosen.candidate.uid if ranking.chosen else None


ORDERS = [
    ("over its request first", (Criterion.OVER_REQUEST,), pod("a", request=10**12), pod("b", request=1), "b"),
    ("lower priority first", (Criterion.PRIORITY, Criterion.RELIEF), pod("a", 5), pod("b", -5), "b"),
    ("youngest first", (Criterion.YOUNGEST,), pod("a", created=10), pod("b", created=20), "b"),
    ("a tie goes by uid", (Criterion.PRIORITY,), pod("b"), pod("a"), "a"),
]


@pytest.mark.parametrize(("name", "order", "one", "two", "first"), ORDERS, ids=[each[0] for each in ORDERS])
def test_the_order_is_lexicographic_over_the_criteria(
    name: str, order: tuple[Criterion, ...], one: Candidate, two: Candidate, first: str
) -> None:
    usages = [used(one.uid, 100 * MIB), used(two.uid, 100 * MIB)]
    assert chosen(ranked([one, two], usages, replace(RULES, order=order))) == first


def test_usage_equal_to_the_request_is_not_over_it() -> None:
    usages = [used("a", 100 * MIB), used("b", 100 * MIB)]
    ranking = ranked([pod("a", request=100 * MIB), pod("b", request=100 * MIB - 1)], usages)
    assert [(each.candidate.uid, each.over_request) for each in ranking.order] == [("b", True), ("a", False)]


def test_the_first_that_brings_enough_is_chosen_not_the_largest() -> None:
    usages = [used("a", 10 * MIB), used("b", 80 * MIB), used("c", 900 * MIB)]
    assert chosen(ranked([pod("a", -3), pod("b", -2), pod("c", -1)], usages)) == "b"


BENEFITS = [
    ("the deficit counts where it is more than minRelief", 200 * MIB, 199 * MIB, "c", Reason.KILLED),
    ("a quarter is enough for the largest", 1000 * MIB, 250 * MIB, "c", Reason.KILLED),
    ("less than a quarter is not worth a pod", 1000 * MIB + 4, 250 * MIB, None, Reason.TOO_SMALL),
]


@pytest.mark.parametrize(("name", "deficit", "relief", "uid", "reason"), BENEFITS, ids=[each[0] for each in BENEFITS])
def test_a_victim_must_bring_what_is_lacking(
    name: str, deficit: int, relief: int, uid: str | None, reason: Reason
) -> None:
    ranking = ranked([pod("a", -9), pod("c", 9)], [used("a", 1 * MIB), used("c", relief)], deficit=deficit)
    assert (chosen(ranking), ranking.reason) == (uid, reason)


def test_only_memory_on_the_pressed_numa_nodes_is_relief() -> None:
    there = ContainerUsage("c", 900 * MIB, 900 * MIB, 2, ((0, 900 * MIB), (1, 0)))
    here = ContainerUsage("c", 100 * MIB, 100 * MIB, 2, ((0, 0), (1, 100 * MIB)))
    usages = [Usage("a", (there,), 600), Usage("b", (here,), 600)]
    ranking = ranked([pod("a", -9), pod("b", 9)], usages, nodes=frozenset({1}))
    assert chosen(ranking) == "b"
    assert chosen(ranked([pod("a", -9), pod("b", 9)], usages)) == "a"


def test_unit_pod_kills_all_containers_but_the_sandbox() -> None:
    containers = (
        ContainerUsage("pause", 300 << 10, 400 << 10, 1),
        ContainerUsage("side", 10 * MIB, 20 * MIB, 1),
        ContainerUsage("main", 90 * MIB, 90 * MIB, 5),
    )
    ranking = ranked([pod("a")], [Usage("a", containers, 600)])
    assert ranking.chosen is not None
    assert ranking.chosen.containers == ("side", "main")
    assert ranking.chosen.relief_bytes == 100 * MIB


def test_unit_container_kills_the_one_with_most_relief_and_counts_only_that() -> None:
    containers = (ContainerUsage("side", 30 * MIB, 30 * MIB, 1), ContainerUsage("main", 70 * MIB, 70 * MIB, 5))
    ranking = ranked([pod("a")], [Usage("a", containers, 600)], unit=KillUnit.CONTAINER)
    assert ranking.chosen is not None
    assert (ranking.chosen.containers, ranking.chosen.relief_bytes) == (("main",), 70 * MIB)


EXCLUSIONS = [
    ("no cgroup", pod("a"), [], Reason.GONE),
    ("cgroup gone", pod("a"), [used("a", 100 * MIB, state=CgroupState.GONE)], Reason.GONE),
    ("cgroup replaced", pod("a"), [used("a", 100 * MIB, state=CgroupState.REPLACED)], Reason.GONE),
    ("dying", pod("a"), [used("a", 100 * MIB, state=CgroupState.DYING)], Reason.TERMINATING),
    ("too young here", pod("a"), [used("a", 100 * MIB, seen_seconds=59)], Reason.TOO_YOUNG),
    ("no process", pod("a"), [used("a", 0, containers=())], Reason.NOT_RUNNING),
    ("above maxPriority", pod("a", 1001), [used("a", 100 * MIB)], Reason.PRIORITY_TOO_HIGH),
    ("system-critical", pod("a", 2_000_000_000), [used("a", 100 * MIB)], Reason.SYSTEM_CRITICAL),
    ("the agent itself", pod("own"), [used("own", 100 * MIB)], Reason.OWN_POD),
    ("a path as uid", pod("../x"), [used("../x", 100 * MIB)], Reason.INVALID_UID),
    ("no figures", pod("a"), [used("a", None)], Reason.NO_FIGURES),
]


@pytest.mark.parametrize(("name", "candidate", "usages", "reason"), EXCLUSIONS, ids=[each[0] for each in EXCLUSIONS])
def test_invariant_7_a_candidate_that_may_not_be_killed_is_left_out_with_the_reason(
    name: str, candidate: Candidate, usages: list[Usage], reason: Reason
) -> None:
    ranking = ranked([candidate], usages, own="own")
    assert (chosen(ranking), ranking.reason) == (None, Reason.NO_VICTIM)
    assert [(each.uid, each.reason) for each in ranking.excluded] == [(candidate.uid, reason)]
    assert ranking.excluded[0].message


def test_invariant_7_system_critical_pods_stay_out_whatever_max_priority_says() -> None:
    rules = replace(RULES, max_priority=2**31 - 1)
    ranking = ranked([pod("a", 2_000_001_000)], [used("a", 900 * MIB)], rules)
    assert ranking.excluded[0].reason is Reason.SYSTEM_CRITICAL


def test_invariant_2_a_pod_that_is_not_on_the_plan_is_never_chosen() -> None:
    ranking = ranked([pod("a")], [used("a", 70 * MIB), used("b", 900 * MIB)])
    assert [each.candidate.uid for each in ranking.order] == ["a"]


def test_without_memory_figures_and_min_relief_0_priority_and_age_decide() -> None:
    rules = replace(RULES, order=(Criterion.PRIORITY, Criterion.YOUNGEST), min_relief_bytes=0)
    usages = [used(uid, None) for uid in "abc"]
    ranking = ranked([pod("a", 1, created=5), pod("b", 0, created=1), pod("c", 0, created=2)], usages, rules, 10**9)
    assert [each.candidate.uid for each in ranking.order] == ["c", "b", "a"]
    assert chosen(ranking) == "c"


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.permutations(list(Criterion)),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_the_ranking_is_a_total_order_that_does_not_depend_on_the_input_order(
    figures: list[tuple[int, int, int, int]], order: list[Criterion], deficit: int, random: Random
) -> None:
    rules = replace(RULES, order=tuple(order), min_relief_bytes=0)
    candidates = [pod(f"u{index}", p, q, c) for index, (p, q, c, _) in enumerate(figures)]
    usages = [used(f"u{index}", relief) for index, (_, _, _, relief) in enumerate(figures)]
    ranking = ranked(candidates, usages, rules, deficit)
    keys = [order_key(rules.order, each) for each in ranking.order]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == len(candidates)
    shuffled = candidates[:]
    random.shuffle(shuffled)
    assert ranked(shuffled, usages[::-1], rules, deficit) == ranking
    if ranking.chosen is not None:
        relief = ranking.chosen.relief_bytes or 0
        assert relief * 4 >= deficit
        assert relief >= deficit or relief == max(each.relief_bytes or 0 for each in ranking.order)


IDS = [
    ("4c1f", True),
    ("cri-containerd-ab12.scope", True),
    ("crio-ab.scope/container", True),
    ("", False),
    (".", False),
    ("..", False),
    ("a/../b", False),
    ("/etc", False),
    ("a/b/c", False),
    ("a\0", False),
]


@pytest.mark.parametrize(("text", "fine"), IDS)
def test_invariant_7_nothing_outside_the_pods_containers_can_be_named(text: str, fine: bool) -> None:
    assert is_container_id(text) is fine


UIDS = [
    ("0f3c-11", True),
    ("a" * 32, True),
    ("", False),
    ("a" * 65, False),
    ("a/b", False),
    ("..", False),
    ("a\n", False),
]


@pytest.mark.parametrize(("text", "fine"), UIDS)
def test_a_uid_names_one_directory(text: str, fine: bool) -> None:
    assert is_pod_uid(text) is fine


def test_invariant_7_a_container_that_names_another_cgroup_is_no_target() -> None:
    containers = (
        ContainerUsage("../../system.slice", 900 * MIB, 900 * MIB, 9),
        ContainerUsage("main", 90 * MIB, 90 * MIB, 5),
    )
    ranking = ranked([pod("a")], [Usage("a", containers, 600)])
    assert ranking.chosen is not None
    assert ranking.chosen.containers == ("main",)


@pytest.mark.parametrize("unit", list(KillUnit))
def test_a_pod_of_which_nothing_can_be_killed_is_no_victim(unit: KillUnit) -> None:
    usages = [used("a", 900 * MIB), used("b", 100 * MIB)]
    assert chosen(ranked([pod("a"), pod("b")], usages, unit=unit)) == "a"
    stuck = replace(usages[0].containers[0], killable=False)
    left = ranked([pod("a"), pod("b")], [replace(usages[0], containers=(stuck,)), usages[1]], unit=unit)
    assert chosen(left) == "b"
    assert [(each.uid, each.reason) for each in left.excluded] == [("a", Reason.CAPABILITY_MISSING)]
    sidecar = ContainerUsage("s", 100 * MIB, 100 * MIB, processes=3)
    partly = ranked([pod("a")], [replace(usages[0], containers=(stuck, sidecar))], unit=unit)
    assert chosen(partly) == ("a" if unit is KillUnit.POD else None), "of a pod the rest, but no smaller container"
