"""Which policy is in force on a node, whatever order policies and nodes come in."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.policy_cases import BASE

from memorypressure.reasons import Reason
from memorypressure.selection import Selection, select, survey
from memorypressure.spec import LabelSelector, Mode, Policy, parse_policy

PLAIN = replace(parse_policy(BASE), creation_time="2026-01-01T00:00:00Z", mode=Mode.ENFORCE, priority=0)


def policy(name: str, **fields: object) -> Policy:
    return replace(PLAIN, name=name, **fields)  # type: ignore[arg-type]


def labelled(**labels: str) -> LabelSelector:
    return LabelSelector(tuple(labels.items()))


def in_force(policies: Iterable[Policy], **labels: str) -> tuple[str | None, Mode, Reason]:
    selection = select(policies, labels)
    return selection.policy.name if selection.policy else None, selection.mode, selection.reason


def test_without_a_policy_the_node_is_disabled() -> None:
    assert in_force([]) == (None, Mode.DISABLED, Reason.NO_POLICY)


def test_a_disabled_policy_is_no_candidate() -> None:
    policies = [policy("off", mode=Mode.DISABLED, priority=9), policy("on")]
    assert in_force(policies) == ("on", Mode.ENFORCE, Reason.NO_OVERLAP)


def test_a_policy_that_does_not_select_the_node_is_no_candidate() -> None:
    policies = [policy("gpu", node_selector=labelled(pool="gpu"), priority=9), policy("all")]
    assert in_force(policies, pool="cpu")[0] == "all"
    assert in_force(policies, pool="gpu")[0] == "gpu"


def test_losing_by_priority_is_no_conflict() -> None:
    selection = select([policy("low"), policy("high", priority=1)], {})
    assert (selection.conflicted, selection.superseded, selection.reason) == (False, ("low",), Reason.NO_OVERLAP)


def test_a_tie_goes_to_the_older_one() -> None:
    young = policy("a", creation_time="2026-01-01T00:00:01Z")
    selection = select([young, policy("b")], {})
    assert selection.policy is not None
    assert (selection.policy.name, selection.tied) == ("b", ("b", "a"))
    assert (selection.conflicted, selection.mode) == (True, Mode.ENFORCE)


def test_a_tie_of_one_age_goes_to_the_first_by_name() -> None:
    assert in_force([policy("b"), policy("a")]) == ("a", Mode.ENFORCE, Reason.EQUAL_PRIORITY_OVERLAP)


@pytest.mark.parametrize(("first", "second"), [(Mode.ENFORCE, Mode.DRY_RUN), (Mode.DRY_RUN, Mode.ENFORCE)])
def test_a_tie_of_different_modes_runs_dry(first: Mode, second: Mode) -> None:
    selection = select([policy("a", mode=first), policy("b", mode=second)], {})
    assert selection.mode is Mode.DRY_RUN
    assert "modes differ" in selection.message


def test_a_mode_of_lower_priority_does_not_count_in_a_tie() -> None:
    policies = [policy("a", priority=1), policy("b", priority=1), policy("c", mode=Mode.DRY_RUN)]
    assert in_force(policies)[1] is Mode.ENFORCE


def test_the_standing_of_a_policy_counts_its_nodes() -> None:
    policies = [
        policy("all"),
        policy("gpu", node_selector=labelled(pool="gpu"), priority=5),
        policy("off", mode=Mode.DISABLED),
    ]
    found = survey(policies, {"n1": {"pool": "gpu"}, "n2": {"pool": "cpu"}, "n3": {}})
    counts = {name: (one.selected, one.effective, one.superseded) for name, one in found.policies.items()}
    assert counts == {"all": (3, 2, 1), "gpu": (1, 1, 0), "off": (3, 0, 0)}
    assert not any(standing.conflicted for standing in found.policies.values())


def test_winner_and_loser_of_a_tie_are_both_told_with_whom_and_where() -> None:
    policies = [policy("a"), policy("b", node_selector=labelled(pool="gpu"), mode=Mode.DRY_RUN)]
    found = survey(policies, {"n1": {}, "n2": {"pool": "gpu"}}).policies
    assert {name: one.tied_with for name, one in found.items()} == {"a": ("b",), "b": ("a",)}
    assert found["a"].message == (
        "same priority 0 as b on 1 node such as n2; give one of them another priority;"
        " until then 1 of them runs DryRun, because the modes differ"
    )


def test_a_tie_is_disputed_on_the_nodes_where_the_modes_differ() -> None:
    policies = [
        policy("a", mode=Mode.DRY_RUN),
        policy("b", node_selector=labelled(pool="gpu")),
        policy("c", node_selector=labelled(zone="x"), mode=Mode.DRY_RUN),
    ]
    nodes = {"n1": {"pool": "gpu"}, "n2": {"pool": "gpu"}, "n3": {"zone": "x"}, "n4": {}}
    found = survey(policies, nodes).policies
    assert {name: one.disputed for name, one in found.items()} == {"a": 2, "b": 2, "c": 0}
    assert found["c"].conflicted


SELECTORS = st.sampled_from([LabelSelector(), labelled(pool="a"), labelled(pool="b"), labelled(zone="x")])
POLICIES = st.lists(
    st.builds(
        policy,
        st.sampled_from(["p", "q", "r", "s", "t"]),
        mode=st.sampled_from(Mode),
        priority=st.integers(-1, 1),
        creation_time=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        node_selector=SELECTORS,
    ),
    unique_by=lambda one: one.name,
)
LABELS = st.dictionaries(st.sampled_from(["pool", "zone"]), st.sampled_from(["a", "b", "x"]))


@given(POLICIES, LABELS, st.randoms())
def test_order_never_matters(policies: list[Policy], labels: dict[str, str], random: object) -> None:
    shuffled = list(policies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert select(shuffled, labels) == select(policies, labels)


@given(POLICIES, LABELS)
def test_enforce_needs_every_candidate_of_the_highest_priority(policies: list[Policy], labels: dict[str, str]) -> None:
    selection = select(policies, labels)
    candidates = [one for one in policies if one.mode is not Mode.DISABLED and one.node_selector.matches(labels)]
    if not candidates:
        assert selection.policy is None
        assert selection.mode is Mode.DISABLED
        return
    top = [one for one in candidates if one.priority == max(one.priority for one in candidates)]
    assert selection.policy in top
    assert (selection.mode is Mode.ENFORCE) == all(one.mode is Mode.ENFORCE for one in top)
    assert selection.conflicted == (len(top) > 1)
    assert {one.name for one in candidates} == {selection.policy.name, *selection.superseded}


@given(POLICIES, st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), LABELS))
def test_every_selected_node_is_won_or_lost(policies: list[Policy], nodes: dict[str, dict[str, str]]) -> None:
    found = survey(policies, nodes)
    selections: list[Selection] = list(found.nodes.values())
    for one in policies:
        standing = found.policies[one.name]
        if one.mode is Mode.DISABLED:
            assert (standing.effective, standing.superseded, standing.tied_with) == (0, 0, ())
        else:
            assert standing.effective + standing.superseded == standing.selected
            assert standing.conflicted == any(one.name in selection.tied for selection in selections)
