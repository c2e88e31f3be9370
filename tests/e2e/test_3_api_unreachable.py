"""A node that the API server cannot be reached from: it acts within the grant that it has, and tells all of it later.

One test has the flood. The others fill the node by plain load, under a policy whose line lies higher: what they show
(one kill and no second one, none after the grant has expired) does not depend on how the reserve was drained, and no
run of theirs can be void.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.e2eaccounts import GrantRow
from support.e2eepisode import Episodes, denials, filling_policy, kills_by_metric
from support.e2efaults import ApiUnreachable, agent_pod
from support.e2elab import NODE, SLOW_SECONDS, Lab

from memorypressure_tools.flood import load
from memorypressure_tools.flood.observer import Observer
from memorypressure_tools.flood.run import Result
from memorypressure_tools.flood.verdict import Outcome

pytestmark = pytest.mark.e2e

PRESSED_SECONDS = 45
"""How long the pressure lasts after the grant is used up: several cool-downs of 10 s."""
GRANT_SECONDS = 180


def _restarts_of_the_agent(lab: Lab) -> dict[str, int]:
    return {each["name"]: each["restartCount"] for each in agent_pod(lab)["status"]["containerStatuses"]}


def test_a_flood_that_cannot_be_reported_is_ended_within_the_grant_and_told_once_afterwards(episodes: Episodes) -> None:
    lab, policy = episodes.lab, load.policy("flood-cut-off")
    with episodes.begin(policy, victim="hog", reason="AtomicReserveBreached", spared=lab.innocents) as running:
        before = kills_by_metric(lab)

        @contextmanager
        def cut_off() -> Iterator[None]:
            allowed, written = GrantRow.of(0.0, lab.state()), running.written()
            assert allowed is not None
            with ApiUnreachable(lab) as cut:
                yield
            assert cut.packets > 0, "no packet was dropped: the API server was in reach"
            assert running.written() - written <= allowed.left, "more kills than the grant allowed"

        def after(result: Result, observer: Observer) -> None:
            running.wait_until_reported()
            running.wait_until_told()

        result = lab.flood("api-unreachable", after, during=cut_off)
        assert result.verdict.outcome is Outcome.KILLED, result.verdict.why
        assert running.broken() == []
        assert kills_by_metric(lab) - before == running.written()
    assert lab.cluster.node_ready(NODE)


def test_a_node_that_is_cut_off_kills_once_however_long_the_pressure_lasts(episodes: Episodes) -> None:
    """The kubelet starts the killed container again, which fills the node again: only the grant stops a second kill."""
    lab = episodes.lab
    with episodes.begin(filling_policy("cut-off", after_seconds=5)) as running:
        agent, before, refused_before = _restarts_of_the_agent(lab), kills_by_metric(lab), denials(lab)
        running.place()
        with ApiUnreachable(lab) as cut:
            running.fill()
            running.wait_for_kill()
            used = time.monotonic()

            def refused() -> bool:
                return denials(lab)["CeilingReached"] > refused_before["CeilingReached"]

            lab.cluster.wait_for("a second kill to be refused", refused, SLOW_SECONDS)
            time.sleep(max(0.0, used + PRESSED_SECONDS - time.monotonic()))
            assert running.written() == 1
            assert running.watch.kills() == [], "the kill was reported though the API server was out of reach"
            assert kills_by_metric(lab) - before == 1
        assert cut.packets > 0, "no packet was dropped: the API server was in reach"
        running.settle()
        assert running.broken() == []
        assert _restarts_of_the_agent(lab) == agent, "a probe stopped the agent while the API server was away"


def test_an_allowance_that_is_not_renewed_expires_and_is_renewed_when_the_node_is_back(episodes: Episodes) -> None:
    """After that the pressure, which lasts, ends by a kill. Pods of a node that is away for 5 minutes are deleted."""
    lab = episodes.lab
    with episodes.begin(filling_policy("expired", after_seconds=0)) as running:
        running.place()
        before = denials(lab)

        def refused() -> bool:
            return denials(lab)["GrantExpired"] > before["GrantExpired"]

        with ApiUnreachable(lab):
            time.sleep(GRANT_SECONDS)
            running.fill()
            lab.cluster.wait_for("a kill to be refused", refused, 60)
            assert running.written() == 0
        running.wait_for_kill()
        running.settle()
        assert running.broken() == []
    assert lab.cluster.node_ready(NODE)
