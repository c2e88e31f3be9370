"""When a report goes out: transitions at once, beats within their spread, nothing while nothing happens."""

import dataclasses

from support.publishing import EPISODE, Node, calm
from support.reporting import link_state, sentinel_status, under_pressure

from memorypressure.grants import begin_beat


def test_the_first_report_goes_out_with_the_first_status_and_then_nothing_while_nothing_happens(node: Node) -> None:
    node.round(quiet=True)
    assert node.patches == []  # a sentinel that is not there yet is waited for
    node.sentinel()
    node.round()
    assert node.condition("Ready")["status"] == "True"
    assert node.status["lease"]["incarnation"] == node.journal.incarnation
    node.pass_time(600)
    assert len(node.patches) == 1


def test_without_an_object_to_write_to_nothing_is_sent(node: Node) -> None:
    node.link.state = link_state(state=None)
    node.sentinel()
    node.pass_time(30)
    assert node.patches == []


def test_a_transition_is_written_at_once_or_five_seconds_after_the_last_write(node: Node) -> None:
    calm(node)
    node.sentinel(under_pressure())
    node.publisher.read()
    node.publisher.write()
    assert node.condition("UnderPressure")["status"] == "True"
    node.sentinel(sentinel_status())
    for seconds in (4.5, 0.4):
        node.round(seconds)
        assert len(node.patches) == 2
    node.round(0.2)
    assert node.condition("UnderPressure")["status"] == "False"


def test_a_kill_is_told_a_second_after_the_report_of_the_pressure_that_it_answers(node: Node) -> None:
    calm(node)
    node.sentinel(under_pressure())
    node.publisher.read()
    node.publisher.write()
    wanted = [node.act()]
    node.round(0.9)
    assert node.told() == []
    node.round(0.2)
    assert node.told() == wanted
    before = len(node.patches)
    node.pass_time(9)
    assert len(node.patches) == before, "nothing new was told"


def test_a_report_of_an_episode_waits_for_the_status_that_names_its_triggers(node: Node) -> None:
    calm(node)
    node.journal.write_decision({"kind": "episode", "record": EPISODE})
    node.round(quiet=True)
    assert len(node.patches) == 1
    node.sentinel(under_pressure())
    node.round()
    assert len(node.patches) == 2
    assert (node.status["activeTriggerNames"], node.status["recentEpisodes"][0]["id"]) == ("reserve", EPISODE["id"])


def test_without_another_status_an_episode_is_reported_after_a_second_and_a_half(node: Node) -> None:
    calm(node)
    node.journal.write_decision({"kind": "episode", "record": EPISODE})
    node.pass_time(1.5, quiet=True)
    assert len(node.patches) == 1
    node.round(quiet=True)
    assert node.status["recentEpisodes"][0]["id"] == EPISODE["id"]


def test_under_pressure_a_report_goes_out_every_ten_seconds(node: Node) -> None:
    calm(node)
    node.sentinel(under_pressure())
    node.pass_time(60)
    assert len(node.patches) in (7, 8)


def test_a_beat_is_reported_within_its_spread_and_a_renewed_grant_is_not_answered(node: Node) -> None:
    calm(node)
    node.journal.write_grants(begin_beat(node.journal.grants, node.clock.boot_ns))
    node.round()
    node.pass_time(2)
    assert len(node.patches) == 1
    node.pass_time(1)
    assert [patch["lease"]["beat"] for patch in node.patches] == [1, 2]
    node.link.state = dataclasses.replace(node.link.state, generation=5)
    node.pass_time(100)
    assert len(node.patches) == 2


def test_a_state_that_was_made_anew_gets_a_report_at_once(node: Node) -> None:
    calm(node)
    node.link.state = dataclasses.replace(node.link.state, state={"metadata": {"uid": "another", "generation": 4}})
    node.round()
    assert len(node.patches) == 2


def test_beats_that_follow_each_other_quickly_are_reported_every_five_seconds_at_most(node: Node) -> None:
    calm(node)
    for _ in range(120):  # an answer to each report that lets the sentinel begin another beat
        node.journal.write_grants(begin_beat(node.journal.grants, node.clock.boot_ns))
        node.round()
    assert len(node.patches) <= 1 + 60 / 5 + 1
