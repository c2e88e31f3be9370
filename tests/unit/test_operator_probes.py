"""What /healthz and /readyz say: each cause, from the age of what really happened, and that it goes by itself."""

import pytest

from memorypressure_operator.health import Health
from memorypressure_operator.troubles import FORGOTTEN_SECONDS, Troubles, kind

PATCH_NODE = ("PATCH", "/api/v1/nodes/n1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def troubles(clock: Clock) -> Troubles:
    return Troubles(clock)


@pytest.fixture
def health(clock: Clock, troubles: Troubles) -> Health:
    """A replica at which nothing is wrong."""
    made = Health(
        clock,
        stuck_seconds=60,
        silence_seconds=200,
        unready_seconds=10,
        report_seconds=900,
        troubles=troubles.lasting,
        phase="running",
    )
    made.threads["decisions"] = lambda: True
    made.streams["pods"] = lambda: True
    made.heard["pods"] = made.last_reconcile = made.last_policy_event = made.last_node_report = clock.now
    return made


def test_where_nothing_is_wrong_both_probes_succeed(health: Health) -> None:
    assert health.live()[0]
    assert health.ready()[0]


def test_a_thread_that_ended_asks_for_a_restart(health: Health) -> None:
    health.threads["stream-pods"] = lambda: False
    alive, facts = health.live()
    assert not alive
    assert facts["problems"] == ["thread stream-pods has ended"]
    assert not health.ready()[0]


def test_a_loop_that_makes_no_pass_asks_for_a_restart(health: Health, clock: Clock) -> None:
    clock.now += 61
    alive, facts = health.live()
    assert not alive
    assert facts["problems"] == ["the decision loop made no pass for 61 s, and ended no request"]


def test_a_loop_that_never_made_a_pass_is_stuck_too(health: Health, clock: Clock) -> None:
    health.last_reconcile, health.loop_started = None, clock.now
    clock.now += 59
    assert health.live()[0]
    clock.now += 2
    assert not health.live()[0]


def test_a_slow_api_server_is_no_stuck_loop(health: Health, clock: Clock) -> None:
    """Two seconds a call: a pass over 50 nodes takes minutes, and a restart would only begin it again."""
    for _ in range(100):
        clock.now += 2
        health.loop_progress = clock.now
        assert health.live()[0]
    assert health.live()[1]["last_reconcile_seconds"] == 200.0


def test_a_policy_watch_that_does_not_show_our_own_write_asks_for_a_restart(health: Health, clock: Clock) -> None:
    health.leads, health.policy_echo_due = (lambda: True), clock.now
    clock.now += 151
    health.last_reconcile = clock.now
    assert health.live()[1]["problems"] == [
        "the policy watch did not show a status that was written: it is silent",
    ]


def test_a_policy_watch_that_the_server_refuses_asks_for_no_restart(health: Health, clock: Clock) -> None:
    health.leads, health.policy_echo_due = (lambda: True), clock.now
    health.policy_watch_served = False
    clock.now += 151
    health.last_reconcile = clock.now
    assert health.live()[0]


def test_a_status_written_right_before_the_api_server_went_away_asks_for_no_restart(
    health: Health, clock: Clock
) -> None:
    health.leads, health.policy_echo_due = (lambda: True), clock.now
    health.leads = lambda: False  # its Lease ran out
    clock.now += 600
    health.last_reconcile = clock.now
    assert health.live()[0], "a restart brings no API server back"


def test_a_table_that_is_not_complete_is_named(health: Health) -> None:
    health.streams["nodes"] = lambda: False
    ready, facts = health.ready()
    assert not ready
    assert facts["not_ready"] == ["nodes not synced"]
    assert health.live()[0]


def test_objects_that_are_not_understood_are_named_some_of_each_kind(health: Health) -> None:
    health.misread = {"pods": lambda: [f"pods: p{number}" for number in range(100)], "nodes": lambda: ["nodes: n"]}
    ready, facts = health.ready()
    assert ready, "they stop nothing else"
    named = facts["not_understood"]
    assert isinstance(named, list)
    assert (len(named), named[0], named[-1]) == (21, "pods: p0", "nodes: n")


def test_a_start_that_waits_says_for_what(health: Health) -> None:
    health.phase, health.waiting_for = "starting", "waiting for CustomResourceDefinitions"
    assert health.ready()[1]["not_ready"] == ["waiting for CustomResourceDefinitions"]


def test_a_stream_without_events_and_bookmarks_is_named(health: Health, clock: Clock) -> None:
    clock.now += 201
    health.last_reconcile = clock.now
    ready, facts = health.ready()
    assert not ready
    assert facts["not_ready"] == ["pods: the API server has sent nothing for 201 s"]
    assert facts["last_event_seconds"] == {"pods": 201.0}
    health.heard["pods"] = clock.now
    assert health.ready()[0]


def test_a_stream_that_cannot_be_opened_for_long_leaves_us_blind_until_it_is(health: Health, clock: Clock) -> None:
    clock.now += 201
    assert health.blind() == ("pods",)
    health.opened["pods"] = clock.now
    assert health.blind() == (), "nothing may have happened since"
    assert not health.ready()[0], "but nothing was sent either"


def test_agents_that_are_all_silent_are_told_of(health: Health, clock: Clock) -> None:
    clock.now += 901
    health.last_reconcile = health.heard["pods"] = clock.now
    assert health.ready()[1]["not_ready"] == ["no node has reported for 901 s: are the agents running?"]


def test_a_cluster_whose_nodes_never_reported_is_no_failure_of_ours(health: Health) -> None:
    health.last_node_report = None
    assert health.ready()[0]


def test_requests_that_fail_for_a_while_are_named_until_one_succeeds(
    health: Health, troubles: Troubles, clock: Clock
) -> None:
    troubles.failed(*PATCH_NODE, "403 Forbidden: no")
    clock.now += 9
    troubles.failed(*PATCH_NODE, "403 Forbidden: no")
    health.last_reconcile = clock.now
    assert health.ready()[0]
    assert health.ready()[1]["failing"] == ["PATCH nodes fails for 9 s (2 times): 403 Forbidden: no"]
    clock.now += 2
    troubles.failed("PATCH", "/api/v1/nodes/n2", "403 Forbidden: still not")
    health.last_reconcile = clock.now
    ready, facts = health.ready()
    assert not ready
    assert facts["not_ready"] == ["PATCH nodes fails for 11 s (3 times): 403 Forbidden: still not"]
    assert health.live()[0]
    troubles.succeeded(*PATCH_NODE)
    assert health.ready()[0]


def test_a_failure_that_nobody_tries_again_is_forgotten(troubles: Troubles, clock: Clock) -> None:
    troubles.failed(*PATCH_NODE, "500")
    clock.now += 20
    troubles.failed(*PATCH_NODE, "500")
    assert troubles.lasting(10)
    clock.now += FORGOTTEN_SECONDS + 1
    assert not troubles.lasting(10)
    troubles.failed(*PATCH_NODE, "500")
    assert not troubles.lasting(10)  # a new row has begun


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/nodes/n1", "GET nodes"),
        ("/api/v1/pods", "GET pods"),
        ("/api/v1/namespaces", "GET namespaces"),
        ("/api/v1/namespaces/team/pods/web-1/eviction", "GET pods/eviction"),
        ("/apis/coordination.k8s.io/v1/namespaces/op/leases/memory-pressure-operator", "GET leases"),
        ("/apis/memorypressure.dev/v1alpha1/nodememorystates/n1", "GET nodememorystates"),
        ("/apis/memorypressure.dev/v1alpha1/memorypressurepolicies/p/status", "GET memorypressurepolicies/status"),
        ("/apis/memorypressure.dev/v1alpha1", "GET discovery"),
    ],
)
def test_a_kind_of_request_has_no_names_of_objects(path: str, expected: str) -> None:
    assert kind("GET", path) == expected
