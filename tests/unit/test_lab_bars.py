"""The lab's bars and its report, from results that are made up."""

import json
import re
from dataclasses import replace

from support.labresults import result

from memorypressure_tools.lab.arms import ARMS, OURS
from memorypressure_tools.lab.bars import bars
from memorypressure_tools.lab.report import as_json, markdown
from memorypressure_tools.lab.scenarios import SCENARIOS
from memorypressure_tools.lab.series import Cell, Result

MACHINE = {"cpus": "2", "hostKernel": "6.18", "emulation": "QEMU TCG"}


def series(ours: float, without: float) -> list[Result]:
    found = []
    for number in range(1, 16):
        found.append(
            result(Cell("flood", "none", number), atomic_failures=without, worst_stall_ms=1000, psi_full_seconds=8)
        )
        found.append(
            result(Cell("flood", OURS, number), atomic_failures=ours, worst_stall_ms=150, psi_full_seconds=1, kills=1)
        )
    return found


def test_bars_are_met_missed_or_open() -> None:
    verdicts = {bar.text.split(":")[0] + str(i): bar.met for i, bar in enumerate(bars(series(ours=2, without=300)))}
    assert list(verdicts.values())[:4] == [True, True, True, None]
    assert bars(series(ours=30, without=300))[0].met is False
    assert bars(series(ours=2, without=300)[:10])[0].met is None  # too few runs
    wrong = [*series(2, 300), result(Cell("control-pressure", OURS, 1), kills=1, innocent_kills=1)]
    assert bars(wrong)[3].met is False  # one false kill is enough, however few the runs


def test_a_peer_that_is_better_in_one_figure_is_named() -> None:
    results = [*series(2, 300), result(Cell("flood", "earlyoom", 1), atomic_failures=1, worst_stall_ms=400)]
    bar = next(each for each in bars(results) if each.text.startswith("flood: better"))
    assert bar.met is False
    assert "earlyoom failures 1" in bar.measured
    assert "worst stall" not in bar.measured.split("better:")[1]


def test_a_kill_before_the_flood_is_no_right_one_and_a_main_flood_or_leak_without_a_kill_is_a_miss() -> None:
    def verdict(*more: Result) -> bool | None:
        return next(each for each in bars([*series(2, 300), *more]) if each.text.startswith("the right victim")).met

    assert verdict() is True
    assert verdict(result(Cell("flood-cache", OURS, 1))) is True  # reclaim may keep up
    assert verdict(result(Cell("flood", "ours-min-free", 1))) is True
    assert verdict(result(Cell("flood-zram", OURS, 1), kills=1, control_phase_kills=1)) is False
    assert verdict(result(Cell("flood-zram", OURS, 1), kills=2, innocent_kills=1)) is False
    assert verdict(result(Cell("flood", OURS, 16))) is False
    assert verdict(result(Cell("leak", OURS, 1), kernel_oom_kills=1)) is False


def test_a_third_kill_where_killing_is_futile_is_one_too_many() -> None:
    for kills, met in (([2, 2], None), ([2, 2, 2], True), ([2, 1, 2], False), ([2, 3], False)):
        runs = [result(Cell("flood-futile", OURS, number), kills=each) for number, each in enumerate(kills, 1)]
        bar = next(each for each in bars(runs) if each.text.startswith("flood-futile: two kills"))
        assert bar.met is met, kills
        assert bar.measured == f"{', '.join(map(str, kills))} kills"


def test_we_are_better_than_every_peer_only_when_every_peer_was_measured_often_enough() -> None:
    def runs(arm: str, count: int, **figures: float) -> list[Result]:
        return [result(Cell("flood-zram", arm, number), **figures) for number in range(1, count + 1)]

    ours = runs(OURS, 3, atomic_failures=0, worst_stall_ms=100, kills=1)
    first, second = (runs(arm, 3, atomic_failures=0, worst_stall_ms=900) for arm in ("earlyoom", "nohang"))
    for known, met, said in (
        ([*first, *second], True, "2 of 2 peers measured, 3 to 3 runs each"),
        (first, None, "1 of 2 peers measured"),
        ([*first, *second[:1]], None, "2 of 2 peers measured, 1 to 3 runs each"),
        ([*first, *runs("nohang", 3, worst_stall_ms=100)], False, "better: nohang worst stall (ms) 100;"),
        (
            [*first, *runs("nohang", 2, worst_stall_ms=99, control_phase_kills=1), *second[2:]],
            False,
            "better: nohang worst stall (ms) 99 (killed before the flood in 2 of 3 runs);",
        ),
    ):
        bar = next(each for each in bars([*ours, *known]) if each.text.startswith("flood-zram: better"))
        assert bar.met is met
        assert said in bar.measured


def test_the_report_shows_every_scenario_that_was_run_and_can_be_read_by_programs() -> None:
    results = series(2, 300)
    text = markdown(results, MACHINE, {})
    assert "| `none` | 15 | 300 [300, 300]" in text
    assert "flood-zram" not in text.split("## Bars")[1].split("## flood:")[1]
    content = json.loads(json.dumps(as_json(results, MACHINE)))
    assert content["medians"]["flood"][OURS]["atomic_failures"]["median"] == 2
    assert content["bars"][0]["met"] is True


def test_every_scenario_and_every_arm_that_was_run_has_its_row() -> None:
    for scenario in SCENARIOS:
        text = markdown([result(Cell(scenario, arm, 1)) for arm in ARMS], MACHINE, {})
        table = text.split(f"## {scenario}: ")[1].split("## ")[0]
        rows = re.findall(r"^\| `([^`]+)` \| 1 \|", table, re.MULTILINE)
        assert rows == list(ARMS), scenario
        assert set(as_json([result(Cell(scenario, arm, 1)) for arm in ARMS], MACHINE)["medians"][scenario]) == set(ARMS)


def test_the_report_names_runs_of_other_definitions_than_todays() -> None:
    said = "Runs of another definition than today's, of the arm or of what its guest runs: `leak` / `none`.\n"
    old = replace(result(Cell("leak", "none", 1)), recipe="0-1-0")
    assert said in markdown([*series(2, 300), old], MACHINE, {})
    assert "another definition" not in markdown(series(2, 300), MACHINE, {})


def test_the_report_tells_what_every_killer_costs_and_of_no_flood_where_there_is_none() -> None:
    peer = result(Cell("flood", "nohang", 1), killer_cpu_percent=2.5, killer_rss_kib=19000)
    text = markdown([*series(2, 300), peer, result(Cell("leak", OURS, 1), kills=1)], MACHINE, {})
    killers = text.split("## What the killers cost")[1].split("## ")[0]
    assert "| `nohang` | 1 | 0 | 2.50 | 19000 | 0 |" in killers
    assert "`none`" not in killers
    assert "before the flood" not in text.split("## leak:")[1].split("## ")[0]
    assert "before the flood" in text.split("## flood:")[1].split("## ")[0]


def test_the_report_names_runs_in_which_the_flood_came_late() -> None:
    late = [result(Cell("flood", "none", 16), flood_late_seconds=17.7), result(Cell("flood", "nohang", 1))]
    before = result(Cell("flood", "earlyoom", 1))
    known = {key: value for key, value in (before.figures or {}).items() if key != "flood_late_seconds"}
    text = markdown([*series(2, 300), *late, replace(before, figures=known)], MACHINE, {})
    assert "came late and lasted shorter within the run: `none` by 17.7 s." in text
    assert "came late" not in markdown(series(2, 300), MACHINE, {})
