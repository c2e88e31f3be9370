"""Counts of the last hour: each fact once, over restarts too."""

from typing import Any

import pytest
from support.fakecluster import Clock, FakeCluster

from memorypressure_operator.errors import ApiUnreachable
from memorypressure_operator.tallies import MOST_FACTS, Tallies, Tally


def tallies(cluster: FakeCluster, clock: Clock) -> Tallies:
    api: Any = cluster
    made = Tallies(api, "own", "counts", clock, lambda: 1_700_000_000 + clock())
    made.load()
    return made


def counts(made: Tallies, policy: str = "p") -> list[int]:
    return [made.of(policy).count(kind) for kind in ("dryRun", "denied", "kills")]


def test_counts_neither_shrink_nor_double_in_a_restart() -> None:
    cluster, clock = FakeCluster(), Clock()
    before = tallies(cluster, clock)
    for number in range(3):
        before.of("p").add("dryRun", f"node/e{number}/Evict")
    before.of("p").add("kills", "node/k1", age_seconds=600)
    before.save(now=True)
    clock.now += 60
    after = tallies(cluster, clock)
    assert counts(after) == [3, 0, 1]
    after.of("p").add("kills", "node/k1", age_seconds=660)
    after.of("p").add("dryRun", "node/e2/Evict")
    after.of("p").add("denied", "node/e2/NoVictim")
    assert counts(after) == [3, 1, 1]
    clock.now += 3600 - 659
    assert counts(after) == [3, 1, 0], "a kill of an hour ago is none any more"


def test_a_kill_that_is_read_anew_under_the_next_policy_counts_for_the_first_one_alone() -> None:
    cluster, clock = FakeCluster(), Clock()
    before = tallies(cluster, clock)
    before.of("first").add("kills", "node/k1", anywhere=True)
    before.save(now=True)
    after = tallies(cluster, clock)
    for action in ("node/k1", "node/k2", "node/k2"):
        after.of("second").add("kills", action, anywhere=True)
    assert counts(after, "first") == [0, 0, 1]
    assert counts(after, "second") == [0, 0, 1]


def test_counts_are_written_when_they_changed_and_not_often() -> None:
    cluster, clock = FakeCluster(), Clock()
    made = tallies(cluster, clock)
    made.save(now=True)
    assert cluster.writes == []
    made.of("p").add("kills", "a")
    made.save()
    assert cluster.writes == []
    clock.now += 15
    made.save()
    made.save(now=True)
    made.of("p").add("kills", "a")
    made.save(now=True)
    assert [method for method, _ in cluster.writes] == ["PUT", "POST"]


def test_a_failed_write_is_made_up_for() -> None:
    cluster, clock = FakeCluster(), Clock()
    made = tallies(cluster, clock)
    made.of("p").add("kills", "a")

    def away(method: str, path: str) -> None:
        raise ApiUnreachable("away")

    cluster.before, ordinary = away, cluster.before
    with pytest.raises(ApiUnreachable):
        made.save(now=True)
    cluster.before = ordinary
    made.save(now=True)
    assert counts(tallies(cluster, clock)) == [0, 0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"kills": 3}',
        '{"kills": [[1]]}',
        '{"kills": [["x", "y"]]}',
        "null",
        '{"kills": [[1e400, "y"]]}',
        "[" * 100000,
    ],
)
def test_counts_that_are_not_understood_are_left_out(text: str, caplog: pytest.LogCaptureFixture) -> None:
    cluster, clock = FakeCluster(), Clock()
    cluster.config_maps["counts"] = {"metadata": {"resourceVersion": "1"}, "data": {"p": text, "q": '{"kills":[]}'}}
    assert counts(tallies(cluster, clock)) == [0, 0, 0]
    assert "counts of p are not understood" in caplog.text


def test_the_newest_facts_stay_where_there_are_too_many() -> None:
    clock = Clock()
    tally = Tally(clock)
    for number in range(MOST_FACTS + 50):
        clock.now += 0.1
        tally.add("denied", str(number))
    assert tally.count("denied") == MOST_FACTS
    assert len(tally.encode()) < 40 * MOST_FACTS


def test_an_action_that_lies_ahead_by_its_nodes_clock_was_done_now() -> None:
    tally = Tally(Clock())
    tally.add("kills", "a", time="2099-01-01T00:00:00Z")
    assert tally.last_action_time == "1970-01-01T00:16:40Z"


def test_a_clock_that_was_set_back_keeps_no_count_for_ever() -> None:
    cluster, clock = FakeCluster(), Clock()
    made = tallies(cluster, clock)
    made.of("p").add("kills", "a")
    made.save(now=True)
    clock.now -= 900
    after = tallies(cluster, clock)
    clock.now += 3600
    assert counts(after) == [0, 0, 0]
