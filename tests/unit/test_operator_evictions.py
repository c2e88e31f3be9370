"""What follows an eviction or a kill, with an API server that answers on demand and a clock that a test moves."""

from typing import Any

import pytest
from support.evictionworld import NODE, World, act, policy
from support.fakecluster import Clock, FakeCluster

from memorypressure.reasons import Reason
from memorypressure.spec import Mode
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.memory import Outstanding
from memorypressure_operator.pods import PodView

DISRUPTION = ApiRefused(429, "TooManyRequests", "Cannot evict", 10, ("DisruptionBudget",))


@pytest.fixture
def world() -> World:
    return World()


# --- the second delete ---


def outlived(world: World, pod: PodView) -> None:
    world.memory.outstanding = Outstanding(pod, "p", 4, world.clock())
    world.clock.now += 15


def test_a_pod_that_outlives_its_grace_is_deleted_again(world: World) -> None:
    outlived(world, world.cluster.add("a", deletionTimestamp="2026-01-01T01:00:00Z"))
    assert world.follower.follow(world.memory, NODE, world.cluster.views(), Mode.ENFORCE) == 5.0
    assert world.cluster.deletes == ["a"]
    world.follower.follow(world.memory, NODE, world.cluster.views(), Mode.ENFORCE)
    assert world.cluster.deletes == ["a"], "once"


def test_a_pod_whose_eviction_got_no_answer_and_was_refused_is_never_deleted(world: World) -> None:
    outlived(world, world.cluster.add("a"))
    assert world.follower.follow(world.memory, NODE, world.cluster.views(), Mode.ENFORCE) is None
    assert world.cluster.deletes == []
    assert world.memory.outstanding is None, "others may be tried"


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.DISABLED])
def test_after_the_policy_was_turned_down_nothing_is_deleted_again(world: World, mode: Mode) -> None:
    outlived(world, world.cluster.add("a", deletionTimestamp="2026-01-01T01:00:00Z"))
    world.follower.follow(world.memory, NODE, world.cluster.views(), mode)
    assert world.cluster.deletes == []


def test_an_api_server_that_is_away_ends_no_wait(world: World) -> None:
    outlived(world, world.cluster.add("a", deletionTimestamp="2026-01-01T01:00:00Z"))
    views = world.cluster.views()

    def away(method: str, path: str) -> None:
        raise ApiUnreachable("away")

    world.cluster.before = away
    assert world.follower.follow(world.memory, NODE, views, Mode.ENFORCE) == 5.0
    assert world.memory.outstanding is not None


# --- the next victim ---


@pytest.mark.parametrize(
    ("answer", "evicted", "wait"),
    [
        (None, ["a"], None),
        (DISRUPTION, ["a", "b"], None),
        (ApiRefused(500, "", "This pod has more than one PodDisruptionBudget"), ["a", "b"], None),
        (ApiRefused(404, "NotFound", "x"), ["a", "b"], None),
        (ApiRefused(409, "Conflict", "UID"), ["a", "b"], None),
        (ApiRefused(403, "Forbidden", "policy"), ["a", "b"], None),
        (ApiRefused(429, "TooManyRequests", "slow down", 33), ["a"], 33.0),
        (ApiRefused(429, "TooManyRequests", "slow down", 1), ["a"], 10.0),
        (ApiRefused(500, "", "etcd is away"), ["a"], None),
        (ApiUnreachable("reset"), ["a"], None),
    ],
    ids=[
        "201",
        "429 budget",
        "500 two budgets",
        "404",
        "409",
        "403",
        "429 busy",
        "429 busy shortly",
        "500",
        "no answer",
    ],
)
def test_each_answer_leads_to_its_next_step(
    world: World, answer: Exception | None, evicted: list[str], wait: float | None
) -> None:
    for uid in ("a", "b"):
        world.cluster.add(uid)
    world.cluster.answers["a"] = [answer]
    denied = act(world, policy())
    assert world.cluster.evictions == evicted
    assert (denied.again_seconds if denied else None) == wait
    if wait is not None:
        world.clock.now += wait - 0.1
        assert act(world, policy()) is not None
        assert world.cluster.evictions == evicted, "it waits"
        world.clock.now += 0.2
        act(world, policy())
        assert world.cluster.evictions == [*evicted, "a"]
    else:
        counted = [record.uid for record in world.store.evictions.records]
        assert counted == [evicted[-1]], "what was refused does not count"


def test_an_eviction_that_the_server_failed_to_carry_out_is_looked_up_and_then_counts_for_nothing(
    world: World,
) -> None:
    rules = policy(cooldownSeconds=60)
    for uid in ("a", "b"):
        world.cluster.add(uid)
    world.cluster.answers["a"] = [ApiRefused(503, "ServiceUnavailable", "webhook")] * 3
    act(world, rules)
    assert world.store.evictions.evictions == 1, "until it is looked up it counts as done"
    world.clock.now += 4.9
    act(world, rules)
    assert world.memory.outstanding is not None
    world.clock.now += 0.2
    act(world, rules)
    assert world.memory.outstanding is None
    assert (world.store.evictions.evictions, world.memory.victims, world.memory.acts) == (0, 0, ())
    assert world.cluster.evictions == ["a"], "not at once again"
    for _ in range(8):
        world.clock.now += 5.1
        act(world, rules)
    assert world.cluster.evictions == ["a"] * 4, "no cool-down after what did not happen, and the budget is not used up"
    assert Reason.FUTILE not in world.reasons()
    assert Reason.EVICTED in world.reasons()
    assert world.cluster.deletes == []


def test_an_eviction_that_was_done_although_the_server_failed_counts_and_is_waited_for(world: World) -> None:
    rules = policy(cooldownSeconds=60)
    for uid in ("a", "b"):
        world.cluster.add(uid)
    world.cluster.answers["a"] = [ApiRefused(502, "", "the connection to the server broke")]
    act(world, rules)
    world.cluster.pods["a"]["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    world.clock.now += 6
    denied = act(world, rules)
    assert denied is not None
    assert denied.reason is Reason.WAITING_FOR_VICTIM
    assert world.store.evictions.evictions == 1
    world.cluster.pods.pop("a")
    world.clock.now += 6
    denied = act(world, rules)
    assert denied is not None
    assert denied.reason is Reason.COOLDOWN
    assert world.cluster.evictions == ["a"]


def test_when_every_pod_is_held_by_a_budget_nobody_is_asked_before_the_time_that_the_server_named(world: World) -> None:
    for uid in ("a", "b"):
        world.cluster.add(uid)
        world.cluster.answers[uid] = [ApiRefused(429, "TooManyRequests", "x", 25, ("DisruptionBudget",))]
    denied = act(world, policy())
    assert denied is not None
    assert (denied.reason, denied.again_seconds) == (Reason.DISRUPTION_BUDGET, 25.0)
    world.clock.now += 24
    act(world, policy())
    assert world.cluster.evictions == ["a", "b"]


class Died(BaseException):
    """The process is killed at a request: before it was sent, or after its effect and before its answer."""


@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after its effect"])
@pytest.mark.parametrize("at", range(1, 9))
def test_a_process_killed_at_any_request_leaves_no_more_evictions_than_the_limit(at: int, after: bool) -> None:
    clock, cluster = Clock(), FakeCluster()
    for number in range(6):
        cluster.add(f"p{number}")
    requests = 0
    inner = cluster.request

    def request(method: str, path: str, **rest: Any) -> Any:
        nonlocal requests
        requests += 1
        if requests == at and not after:
            raise Died
        answer = inner(method, path, **rest)
        if requests == at:
            raise Died
        return answer

    cluster.request = request  # type: ignore[method-assign]
    for life in range(3):
        world = World(clock=clock, cluster=cluster)
        world.memory.inherited, world.memory.born_seconds = life > 0, clock()
        try:
            for _ in range(4):
                act(world, policy(evictionsPerHour=2))
                ending = [uid for uid, pod in cluster.pods.items() if "deletionTimestamp" in pod["metadata"]]
                assert len(ending) <= 1, "one victim at a time"
                clock.now += 11
                if world.memory.outstanding is not None or life == 2:
                    for uid in ending:
                        cluster.pods.pop(uid)
        except Died:
            continue
    assert len(set(cluster.evictions)) <= 2
