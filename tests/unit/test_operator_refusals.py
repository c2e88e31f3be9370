"""How many refusals one node may collect in its turn, and that nobody on its list is left out for it."""

from typing import Any

import pytest
from prometheus_client import generate_latest
from support.evictionworld import World, act, policy

from memorypressure.reasons import Reason
from memorypressure_operator.acting import GOES_ON_SECONDS, REFUSALS_A_TURN
from memorypressure_operator.errors import ApiRefused

DISRUPTION = ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))
PODS = 23


@pytest.fixture
def world() -> World:
    made = World()
    for number in range(PODS):
        made.cluster.add(f"p{number:02d}")
        made.cluster.answers[f"p{number:02d}"] = [DISRUPTION] * 9
    return made


def turns(world: World, count: int, wait: float = GOES_ON_SECONDS) -> list[list[str]]:
    """Whose evictions were tried in each of so many turns."""
    found = []
    for _ in range(count):
        world.cluster.evictions.clear()
        act(world, policy())
        found.append(list(world.cluster.evictions))
        world.clock.now += wait
    return found


def test_after_a_few_refusals_other_nodes_have_their_turn_and_the_list_goes_on_soon(world: World) -> None:
    denied = act(world, policy())
    assert denied is not None
    assert (denied.reason, denied.again_seconds) == (Reason.DISRUPTION_BUDGET, GOES_ON_SECONDS)
    assert world.cluster.evictions == [f"p{number:02d}" for number in range(REFUSALS_A_TURN)]


def test_every_candidate_is_tried_once_before_any_is_tried_again(world: World) -> None:
    tried = turns(world, 5)
    assert sorted(uid for turn in tried for uid in turn) == sorted(world.cluster.pods)
    assert max(map(len, tried)) == REFUSALS_A_TURN
    assert turns(world, 1) == [[]], "what the refusals asked for is waited for when all have had their turn"
    world.clock.now += 10
    assert turns(world, 1) == [[f"p{number:02d}" for number in range(REFUSALS_A_TURN)]]


def test_the_last_of_many_is_evicted_where_all_before_it_are_refused(world: World) -> None:
    last = max(world.cluster.pods)
    world.cluster.answers[last] = [None]
    assert turns(world, 5)[-1][-1] == last
    assert world.memory.outstanding is not None
    assert world.memory.outstanding.pod.uid == last


def test_who_could_be_evicted_again_meanwhile_is_tried_in_the_next_round_over_the_list(world: World) -> None:
    turns(world, 2)
    world.cluster.answers["p00"] = []
    turns(world, 3)
    world.clock.now += 10
    assert turns(world, 1) == [["p00"]]


def test_a_slow_server_ends_the_turn_after_the_first_refusal(world: World) -> None:
    def slow(_: str, path: str) -> None:
        world.clock.now += 2.0 * path.endswith("/eviction")

    world.cluster.before = slow
    assert [len(turn) for turn in turns(world, 3)] == [1, 1, 1]


def test_a_server_that_is_busy_costs_nobody_the_place_on_the_list(world: World) -> None:
    world.cluster.answers["p03"] = [ApiRefused(429, "TooManyRequests", "slow down", 1), None]
    assert turns(world, 2, wait=10.1) == [["p00", "p01", "p02", "p03"], ["p03"]]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"protected": {"p00": (Reason.ANNOTATED, "it is marked")}}, Reason.ANNOTATED),
        ({"still": False}, Reason.SITUATION_CHANGED),
        ({"leads": False}, Reason.NOT_HOLDING),
    ],
)
def test_what_speaks_against_an_eviction_at_the_last_moment_is_told_and_counted(
    world: World, state: dict[str, Any], reason: Reason
) -> None:
    world.cluster.answers = {}
    for name, value in state.items():
        setattr(world, name, value)
    act(world, policy())
    assert world.events[0].reason is reason
    assert not world.events[0].note.endswith(str(reason)), "the note has the words"
    metrics = generate_latest(world.metrics.registry).decode()
    assert f'memorypressure_actions_denied_total{{action="Evict",reason="{reason}"}} 1.0' in metrics
    assert 'reason="ActionFailed"} 0.0' in metrics


@pytest.mark.parametrize(("state", "reason"), [("still", Reason.SITUATION_CHANGED), ("leads", Reason.NOT_HOLDING)])
def test_an_eviction_that_is_not_sent_after_it_was_recorded_uses_nothing_up(
    world: World, state: str, reason: Reason
) -> None:
    world.cluster.answers = {}
    assert world.store.desk is not None

    def changes(method: str, path: str) -> None:
        if method == "PUT" and "/configmaps/" in path:
            setattr(world, state, False)

    world.cluster.before = changes
    denied = act(world, policy())
    assert (denied and denied.reason, world.cluster.evictions) == (reason, [])
    assert world.budgets.current_evictions(world.store).records == ()
    world.cluster.before = lambda *_: None
    setattr(world, state, True)
    world.clock.now += 10.1
    assert act(world, policy()) is None
    assert world.budgets.current_evictions(world.store).evictions == 1


def test_pods_of_one_workload_evicted_under_another_policy_count(world: World) -> None:
    world.cluster.answers.clear()
    world.counted(0, "other")
    other = world.budgets.store("other")
    other.evictions = world.budgets.current_evictions(other).with_record("m", "ns/ReplicaSet/web", "x")
    denied = act(world, policy(), allowed=1)
    assert denied is not None
    assert denied.reason is Reason.WORKLOAD_LIMIT
    assert world.cluster.evictions == []


def test_nobody_is_evicted_while_it_is_not_known_who_is_protected(world: World) -> None:
    world.blind = ("namespaces",)
    denied = act(world, policy())
    assert denied is not None
    assert denied.reason is Reason.UNREADABLE
    assert world.cluster.evictions == []
