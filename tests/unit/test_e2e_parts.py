"""What the end-to-end tests of faults judge by: accounts of kills, the soak's plan, flatness. No machine needed."""

import itertools
from typing import Any

import pytest
from support.e2eaccounts import SLOW_END, GrantRow, broken_grants, kills_in, metric, swings, untrue
from support.e2eepisode import changed, filling_policy
from support.e2eruns import Runs
from support.e2esettings import Settings
from support.e2esoak import WARM_UP_SECONDS, Life, Look, add_look, not_flat, seconds_of, steps

from memorypressure.spec import parse_policy
from memorypressure_tools.flood.run import Result, Scenario
from memorypressure_tools.flood.verdict import Outcome, Verdict

Object = dict[str, Any]


def _row(kills: int, ceiling: int, *, incarnation: str = "a", seen: int | None = None) -> GrantRow:
    return GrantRow(0.0, incarnation, kills, ceiling if seen is None else seen, incarnation, ceiling)


def test_a_state_without_a_lease_is_no_row_and_a_grant_to_another_incarnation_allows_nothing() -> None:
    lease = {"incarnation": "new", "beat": 1, "killsTotal": 0, "ceilingSeen": 0}
    grant = {"incarnation": "old", "beat": 9, "killsCeiling": 4}
    assert GrantRow.of(1.0, {"spec": {"grant": grant}}) is None
    row = GrantRow.of(1.0, {"spec": {"grant": grant}, "status": {"lease": lease}})
    assert row is not None
    assert (row.left, row.armed) == (0, False)


def test_a_node_is_armed_when_it_knows_of_its_allowance() -> None:
    assert _row(0, 1).armed
    assert not _row(0, 1, seen=0).armed
    assert not _row(1, 1).armed


def test_what_no_node_may_show_is_named() -> None:
    assert broken_grants([_row(0, 1), _row(1, 1), _row(1, 2), _row(0, 1, incarnation="b")], standing=1) == []
    withdrawn = GrantRow(0.0, "a", 1, 0, "", 0)
    assert broken_grants([_row(0, 1), withdrawn], standing=1) == []
    assert broken_grants([withdrawn], standing=1) == ["a: 1 kills, ceiling 0"]
    assert broken_grants([_row(2, 1)], standing=1) == ["a: 2 kills, ceiling 1"]
    assert broken_grants([_row(0, 2)], standing=1) == ["a: 2 kills left, 1 allowed to stand"]
    assert broken_grants([_row(1, 1), _row(0, 1)], standing=1) == ["a: 0 kills after 1"]


def test_kills_of_all_incarnations_add_up_from_what_the_first_row_shows() -> None:
    assert kills_in([]) == 0
    assert kills_in([_row(3, 4), _row(4, 4), _row(0, 1, incarnation="b"), _row(1, 1, incarnation="b")]) == 2


def _kill(number: str, pod: str, result: str = "Success", message: str = "why") -> Object:
    return {
        "id": number,
        "action": "Kill",
        "mode": "Enforce",
        "result": result,
        "message": message,
        "pod": {"uid": pod},
    }


def _events(pod: str, name: str) -> list[Object]:
    about, node = {"kind": "Pod", "uid": pod}, {"kind": "Node", "uid": "n"}
    return [
        {"metadata": {"name": f"{name}-pod"}, "regarding": about, "related": node},
        {"metadata": {"name": f"{name}-node"}, "regarding": node, "related": about},
    ]


def test_a_kill_that_status_events_policy_and_kernel_know_once_is_true() -> None:
    assert untrue([_kill("1", "p")], _events("p", "e"), counted=1, written=1) == []
    twice = [_kill("1", "p"), _kill("2", "p")]
    assert untrue(twice, _events("p", "e") + _events("p", "f"), counted=2, written=2) == []
    assert untrue([], [], counted=0, written=0) == []
    slow = _kill("1", "p", "Incomplete", f"why. {SLOW_END}")
    assert untrue([slow], _events("p", "e"), counted=1, written=1) == []


@pytest.mark.parametrize(
    ("actions", "events", "counted", "written", "said"),
    [
        ([_kill("1", "p")], [], 1, 1, "pod p: 1 kills, 0 Events on its Pod"),
        ([_kill("1", "p")], _events("p", "e") * 2, 1, 1, "pod p: 1 kills, 2 Events on its Node"),
        ([], _events("p", "e"), 0, 0, "pod p: 0 kills, 1 Events on its Pod"),
        ([_kill("1", "p")], _events("p", "e"), 2, 1, "the policy counts 2 kills, the node told 1"),
        ([_kill("1", "p")], _events("p", "e"), 1, 2, "the kernel saw 2 writes to cgroup.kill, the node told 1 kills"),
        ([_kill("1", "p", "Failed")], _events("p", "e"), 1, 1, "action 1 ended as Failed"),
        ([_kill("1", "p", "Failed", SLOW_END)], _events("p", "e"), 1, 1, "action 1 ended as Failed"),
        ([_kill("1", "p", "Incomplete")], _events("p", "e"), 1, 1, "action 1 ended as Incomplete"),
    ],
)
def test_a_kill_that_was_told_otherwise_is_named(
    actions: list[Object], events: list[Object], counted: int, written: int, said: str
) -> None:
    assert said in untrue(actions, events, counted=counted, written=written)


def test_a_metrics_samples_add_up_by_their_labels() -> None:
    text = 'm_total{a="1",b="x"} 2.0\nm_total{a="2",b="x"} 3.0\nm_total_more{a="1"} 9.0\nm_totals 8.0\n'
    assert metric(text, "m_total") == 5.0
    assert metric(text, "m_total", a="1", b="x") == 2.0
    assert metric(text, "none") == 0.0


def test_to_and_fro_is_told_from_one_rise() -> None:
    assert swings([]) == 0
    assert swings(["none", "t", "t", "none"]) == 1
    assert swings(["t", "none", "t"]) == 2


def test_containers_that_are_gone_or_new_are_named() -> None:
    before = {"a": ("1", 0), "b": ("2", 0), "c": ("3", 0)}
    assert changed(before, {"a": ("1", 0), "b": ("9", 1), "d": ("4", 0)}) == ["c is gone", "b was started again"]


@pytest.mark.parametrize("action", ["Kill", "Evict"])
def test_the_policy_of_an_episode_without_a_flood_is_valid(action: str) -> None:
    made = filling_policy("x", after_seconds=20, action=action)
    assert [step.action for step in parse_policy(made).ladder] == ["Taint", action]


def test_a_soaks_length_is_read_and_nonsense_says_what_is_understood() -> None:
    assert [seconds_of(text) for text in ("240s", "20m", "2h")] == [240, 1200, 7200]
    for text in ("", "2", "0m", "1.5h", "2 h", "h"):
        with pytest.raises(ValueError, match="20m or 2h"):
            seconds_of(text)


def test_the_soaks_steps_follow_from_the_seed_and_each_round_has_each_kind() -> None:
    first, again, other = (list(itertools.islice(steps(seed), 28)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    for at in range(0, 28, 7):
        kinds = [step.kind for step in first[at : at + 7]]
        assert sorted(kinds) == ["calm", "flood", "frames", "memory", "page cache", "restart", "restart"]
        assert kinds[-1] == "restart"
    assert "frames/s for" in next(str(step) for step in first if step.kind == "flood")


def _life(part: str, *, kib_a_minute: float = 0.0, descriptors_a_minute: float = 0.0, seconds: int = 300) -> Life:
    looks = [
        Look(
            float(at),
            round(12_000 + kib_a_minute * at / 60),
            9_000 + 10 * at,
            round(9 + descriptors_a_minute * at / 60),
        )
        for at in range(0, seconds, 5)
    ]
    return Life(part, 1, looks)


def test_growth_and_short_lives_are_told_from_flat_ones() -> None:
    flat = [_life(part) for part in ("sentinel", "reporter", "operator")]
    assert not_flat(flat) == []
    assert not_flat([_life("sentinel", kib_a_minute=400), *flat[1:]])[0].startswith("sentinel (pid 1) grew by")
    assert not_flat([flat[0], _life("reporter", descriptors_a_minute=4), flat[2]])[0].startswith("reporter (pid 1) has")
    (said,) = not_flat([*flat[:2], _life("operator", seconds=int(WARM_UP_SECONDS) + 30)])
    assert said == "operator: no life of 105 s was seen"


def test_what_a_process_takes_while_it_warms_up_does_not_count() -> None:
    life = _life("reporter")
    life.looks[:8] = [look._replace(own_kib=1_000, descriptors=3) for look in life.looks[:8]]
    grown = life.growth()
    assert grown is not None
    assert (grown.own_kib, grown.descriptors) == (0, 0)
    assert grown.file_kib > 1_000, "pages of files are told"


def test_a_restarted_process_begins_a_life_of_its_own() -> None:
    lives: list[Life] = []
    for pid in (1, 1, 2):
        add_look(lives, "sentinel", pid, Look(0.0, 1, 1, 1))
    assert [(life.pid, len(life.looks)) for life in lives] == [(1, 2), (2, 1)]


def _flood(
    outcome: Outcome, *, killed_at: float | None = None, passed: bool | None = None
) -> tuple[Result, bool | None]:
    document: Object = {"began": "2026-11-26T00:00:00Z", "changes": [], "deaths": [], "killed_at": killed_at}
    if killed_at is not None:
        document |= {"line_crossed_at": killed_at - 0.2, "half_back_seconds": 0.3}
        document["changes"] = [
            {"at": killed_at - 5, "what": "event Killed Pod/hog-of-an-earlier-run", "now": "exit code 137"},
            {"at": killed_at + 2, "what": "event Killed Pod/hog-a-b", "now": "exit code 137"},
        ]
    return Result(scenario=Scenario(name="drained"), verdict=Verdict(outcome, "why"), document=document), passed


def test_a_sessions_floods_are_counted_with_the_void_ones_and_the_failed_ones() -> None:
    runs = Runs()
    runs.add([_flood(Outcome.CONDITION_NOT_REACHED), _flood(Outcome.KILLED, killed_at=1.0)], passed=True)
    runs.add([_flood(Outcome.KILLED, killed_at=3.0)], passed=False)
    runs.add([_flood(Outcome.WRONG_VICTIM)], passed=False)
    head, void, good, bad, wrong, medians, count = runs.table().splitlines()
    assert "void: repeated" in void
    assert good.split()[3:8] == ["200", "ms", "0.30", "s", "2.00"]
    assert good.endswith("Killed, passed")
    assert bad.endswith("Killed, FAILED")
    assert wrong.endswith("WrongVictim, FAILED")
    assert medians.split()[4:8] == ["200", "ms", "0.30", "s"]
    assert count == "3 valid, 1 void; of the valid ones 1 passed"
    assert head.split()[-1] == "result"


def test_a_flood_with_a_verdict_of_its_own_has_it_whatever_became_of_its_test() -> None:
    runs = Runs()
    floods = [_flood(Outcome.KILLED, killed_at=1.0, passed=True), _flood(Outcome.WRONG_VICTIM, passed=False)]
    runs.add(floods, passed=False)
    runs.add(floods, passed=True)
    assert [row.passed for row in runs.rows] == [True, False] * 2


def test_a_table_without_a_valid_flood_says_so() -> None:
    runs = Runs()
    runs.add([_flood(Outcome.CONDITION_NOT_REACHED)], passed=False)
    assert runs.table().splitlines()[-1] == "0 valid, 1 void; of the valid ones 0 passed"


def test_settings_have_defaults_and_an_empty_one_is_none() -> None:
    settings = Settings.of({"NODES": "", "RUNS": "3", "SOAK": "2h", "SEED": "7"})
    assert settings == Settings(nodes=1, runs=3, soak_seconds=7200.0, seed=7)
    assert Settings.of({}).soak_seconds == 1200.0


@pytest.mark.parametrize("wrong", ["NODES=3", "NODES=x", "RUNS=0", "RUNS=-1", "SOAK=abc", "SOAK=0s", "SEED=x"])
def test_a_setting_that_is_not_understood_is_named_with_what_would_be(wrong: str) -> None:
    name, value = wrong.split("=")
    with pytest.raises(ValueError, match=f"^{wrong}: .*(whole number from|for example 240s)"):
        Settings.of({name: value})
