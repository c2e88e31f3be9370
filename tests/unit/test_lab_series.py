"""The lab's pure parts: statistics, recipes, orders, series, bars."""

import fcntl
import json
import os
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from memorypressure.orders import decode
from memorypressure.spec_values import Mode, NodesScope
from memorypressure_tools.lab import script
from memorypressure_tools.lab.__main__ import main
from memorypressure_tools.lab.arms import ARMS, OURS, Killer
from memorypressure_tools.lab.bars import bars
from memorypressure_tools.lab.figures import FIGURES
from memorypressure_tools.lab.orders import merged, run_orders
from memorypressure_tools.lab.report import as_json, markdown
from memorypressure_tools.lab.scenarios import SCENARIOS
from memorypressure_tools.lab.script import guest_script
from memorypressure_tools.lab.series import Cell, Result, Results, SeriesError, cells, recipe
from memorypressure_tools.lab.statistics import interval, largest_gap, median, percentile

GUEST = Path(script.__file__).with_name("guest.sh")
MACHINE = {"cpus": "2", "hostKernel": "6.18", "emulation": "QEMU TCG"}


def result(cell: Cell, **figures: float) -> Result:
    known = {figure.key: 0.0 for figure in FIGURES} | {"kill_after_start_seconds": None, "deaths": []} | figures
    scenario, arm = SCENARIOS[cell.scenario], ARMS[cell.arm]
    ours = "abc" if arm.killer is Killer.OURS else ""
    return Result(*(cell.scenario, cell.arm, cell.number), "6.1.0", recipe(scenario, arm), ours, 40.0, known)


def test_an_interval_of_medians_has_the_confidence_that_it_says() -> None:
    fifteen = interval(list(range(1, 16)))
    assert (fifteen.median, fifteen.low, fifteen.high) == (8, 4, 12)  # the 4th and the 12th of 15: 96.5 %
    assert fifteen.confidence == pytest.approx(0.9648, abs=1e-4)
    few = interval([3, 1, 2])
    assert (few.low, few.high, few.confidence) == (1, 3, 0.75)
    assert interval([7]).confidence == 0


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([5, 1, 4, 2, 3], 0.99) == 5
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert median([4, 1, 3, 2]) == 2.5
    assert largest_gap([1.0, 1.5, 4.0]) == 2.5
    assert largest_gap([1.0]) == 0


def test_a_round_holds_every_arm_once_and_begins_with_another() -> None:
    two = list(cells(["flood"], ["none", OURS], 2))
    assert [(cell.arm, cell.number) for cell in two] == [("none", 1), (OURS, 1), (OURS, 2), ("none", 2)]


def test_all_arms_meet_in_the_main_flood_and_the_leak_and_the_chosen_ones_elsewhere() -> None:
    everything = list(cells(list(SCENARIOS), [], 1))
    by_scenario = {name: {cell.arm for cell in everything if cell.scenario == name} for name in SCENARIOS}
    everyone = set(ARMS) - {"ours-killfast-rt-allnodes", "ours-killfast-rt-half", "ours-min-free"}
    assert by_scenario["leak"] == everyone
    assert by_scenario["flood"] == everyone | {"ours-min-free"}
    assert by_scenario["flood-zram"] == {"none", OURS, "earlyoom", "nohang"}
    assert by_scenario["flood-numa"] == {"none", OURS, "earlyoom", "nohang", "ours-killfast-rt-allnodes"}


def test_every_control_may_kill_nobody_and_every_flood_somebody() -> None:
    for scenario in SCENARIOS.values():
        assert bool(scenario.victims) != scenario.is_control or scenario.name == "control-pressure", scenario.name


def test_the_orders_of_every_run_are_valid_and_enforce() -> None:
    for scenario in SCENARIOS.values():
        for arm in ARMS.values():
            if arm.killer is Killer.OURS:
                orders = decode(run_orders(scenario, arm))
                assert orders.mode is Mode.ENFORCE
                assert {pod.name for pod in orders.pods} == {pod.name for pod in scenario.pods}


def test_an_arm_changes_one_trigger_of_the_default_policy_by_name() -> None:
    both = (run_orders(SCENARIOS["flood-numa"], ARMS[name]) for name in (OURS, "ours-killfast-rt-allnodes"))
    any_node, all_nodes = (next(each for each in decode(one).triggers if each.name == "reserve") for one in both)
    assert any_node.zone_watermark.nodes is NodesScope.ANY_NODE  # type: ignore[union-attr]
    assert all_nodes.zone_watermark.nodes is NodesScope.ALL_NODES  # type: ignore[union-attr]
    with pytest.raises(KeyError, match="no reserved in the policy"):
        merged({"triggers": [{"name": "reserve"}]}, {"triggers": {"reserved": {}}})


def test_the_script_starts_the_killer_before_anything_is_measured_and_the_flood_last() -> None:
    script = guest_script(SCENARIOS["flood"], ARMS[OURS])
    order = [
        "reserve ",
        "swap_disk",
        "probes",
        "pod hog",
        "killer_ours host --realtime",
        "measure ",
        "run hog 875",
        "flood",
    ]
    places = [script.index(word) for word in order]
    assert places == sorted(places)
    assert "unshare" not in script
    assert "killer_ours own" in guest_script(SCENARIOS["flood"], ARMS["ours-kill"])


def test_every_run_has_a_script_that_a_shell_reads_and_functions_for_all_that_it_calls() -> None:
    scripts = [guest_script(scenario, arm) for scenario in SCENARIOS.values() for arm in ARMS.values()]
    functions = GUEST.read_text(encoding="utf-8")
    for text in (functions, GUEST.with_name("systemd.sh").read_text(encoding="utf-8"), "\n".join(scripts)):
        checked = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")
    called = {line.split()[0] for text in scripts for line in text.splitlines()[2:]}
    defined = set(re.findall(r"^([a-z_]+)\(\)", functions, re.MULTILINE))
    assert called - defined == {"sleep", "cp", "poweroff"}


def test_a_series_goes_on_where_it_stopped_and_a_cut_line_is_made_again(tmp_path: Path) -> None:
    wanted = list(cells(["flood"], ["none", OURS], 2))
    results = Results(tmp_path / "results.jsonl")
    for cell in wanted[:2]:
        results.add(result(cell))
    with results.path.open("a", encoding="utf-8") as file:
        file.write('{"scenario": "flood", "ar')
    again = Results(results.path)
    assert again.left(wanted) == wanted[2:]
    again.add(result(wanted[2]))
    assert Results(results.path).left(wanted) == wanted[3:]


def test_a_cut_line_stays_where_it_is_until_a_run_takes_its_place(tmp_path: Path) -> None:
    """Reading changes nothing: a report is made of a series that cannot be written, too."""
    path = tmp_path / "results.jsonl"
    wanted = list(cells(["flood"], ["none"], 3))
    Results(path).add(result(wanted[0]))
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[:40], b"\x00" * 300, b"\xff\xfe{"):
        path.write_bytes(whole + cut)
        again = Results(path)
        assert path.read_bytes() == whole + cut
        assert [each.cell for each in again.usable()] == wanted[:1]
        again.add(result(wanted[1]))
        again.add(result(wanted[2]))
        assert [each.cell for each in Results(path).usable()] == wanted


def test_the_time_left_is_that_of_what_the_runs_sample_and_of_what_runs_took_besides(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    long, short = Cell("flood-refill", OURS, 1), Cell("flood", OURS, 1)
    assert results.seconds_of([long]) == 80
    results.add(result(short))  # 40 s, of which 26 are sampled
    assert results.seconds_of([long, short]) == 60 + 26 + 2 * 14


def test_runs_of_other_definitions_do_not_count(tmp_path: Path) -> None:
    wanted = list(cells(["flood"], ["none"], 1))
    results = Results(tmp_path / "results.jsonl")
    results.add(replace(result(wanted[0]), recipe="another"))
    assert results.left(wanted) == wanted
    assert results.outdated() == 1
    assert results.usable() == []


def test_runs_of_another_agent_do_not_count_in_a_series_and_those_without_it_do(tmp_path: Path) -> None:
    wanted = list(cells(["flood"], ["none", OURS], 1))
    results = Results(tmp_path / "results.jsonl")
    for cell in wanted:
        results.add(result(cell))
    results.agent = "abd"
    assert results.left(wanted) == [Cell("flood", OURS, 1)]
    assert (results.outdated(), len(results.usable())) == (1, 1)
    results.agent = "abc"
    assert results.left(wanted) == []


def test_a_series_that_goes_on_with_a_changed_agent_makes_its_runs_again_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--scenarios", "control-flood", "--arms", f"none {OURS}", "--output", str(tmp_path)]
    for agent, asked in (("abc", 2), ("abc", 0), ("abd", 1)):
        lab = FakeLab(*({} for _ in range(asked)), agent=agent)
        monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda _, lab=lab: lab)
        assert main(words) == 0
        assert len(lab.asked) == asked
    said = capsys.readouterr().out
    assert "1 results are of other definitions or of another state of the agent" in said
    assert f"run 2 of 2, about 1 min left: control-flood / {OURS} #1" in said
    assert main(["--report-only", "--output", str(tmp_path)]) == 0


def test_a_run_that_stays_void_is_given_up(tmp_path: Path) -> None:
    wanted = list(cells(["flood"], ["none"], 1))
    results = Results(tmp_path / "results.jsonl")
    for _ in range(3):
        assert results.left(wanted) == wanted
        results.add(replace(result(wanted[0]), figures=None, void="the machine ended early"))
    assert results.left(wanted) == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("{}\n{}\n", encoding="utf-8")
    with pytest.raises(SeriesError, match=r"results\.jsonl:1: not the fields of a result"):
        Results(path)
    for damage in ({"figures": 5}, {"figures": {"kills": 1}}):
        line = json.dumps(asdict(result(Cell("flood", "none", 1))) | damage)
        path.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(SeriesError, match=r"results\.jsonl:1: not the figures of a run"):
            Results(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(SeriesError, match=r"results\.jsonl:1: "):
        Results(path)


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "nobody"], "no arm 'nobody'; there are: none, ours-kill,"),
        (["--scenarios", "flood,drought"], "no scenario 'drought'; there are: flood, flood-zram,"),
        (["--at-most-seconds", "-4"], "'-4' is not a whole number from 1 to 86400"),
        (["--runs", "0"], "'0' is not a whole number from 1 to 1000"),
        (["--short", "--arms", "none"], "it takes no --arms and no --scenarios"),
        (["--kernel", "5.10"], "invalid choice: '5.10' (choose from '6.1', '6.12')"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_report_without_results_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report-only", "--output", str(tmp_path)]) == 2
    assert "nothing to report" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--report-only"], ["--scenarios", "control-flood", "--arms", "none"], ["--short"]])
def test_a_directory_that_cannot_be_written_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "6.1").mkdir()
    (tmp_path / "6.1" / "results.jsonl").mkdir()
    monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda *_: FakeLab(CALM))
    assert main([*words, "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"lab: error: {tmp_path / '6.1' / 'results.jsonl'}: Is a directory\n"


def test_two_at_once_do_not_share_a_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda *_: FakeLab(KILLED, CALM))
    (tmp_path / "6.1").mkdir()
    other = os.open(tmp_path / "6.1", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert main(["--short", "--output", str(tmp_path)]) == 1
    assert f"{tmp_path / '6.1'}: another make lab writes there" in capsys.readouterr().err
    assert main(["--report-only", "--output", str(tmp_path)]) == 2  # reading is nobody's business
    os.close(other)
    assert main(["--short", "--output", str(tmp_path)]) == 0


class FakeLab:
    """Answers each run with the next figures; None: void."""

    def __init__(self, *answers: dict[str, float] | None, agent: str = "abc") -> None:
        self.answers = list(answers)
        self.agent = agent
        self.asked: list[str] = []

    def run(self, cell: Cell) -> Result:
        self.asked.append(cell.scenario)
        answer = self.answers.pop(0)
        made = result(cell) if answer is None else result(cell, **answer)
        return replace(made, figures=None if answer is None else made.figures, agent=made.agent and self.agent)


KILLED = {"kills": 1, "kill_to_memory_back_ms": 200.0}
CALM = {"kills": 0}


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([KILLED, CALM], 0, "ok  control: no pod was killed"),
        ([CALM, KILLED, CALM], 0, "the flood of attempt 1 of 3 never made the reserve short"),
        ([CALM, CALM, CALM, CALM], 1, "FAILED  flood: a pod was killed"),
        ([KILLED | {"innocent_kills": 1}, CALM], 1, "FAILED  flood: it was the right one"),
        ([{"kills": 0, "below_reserve_seconds": 0.2}, CALM], 1, "FAILED  flood: a pod was killed"),
        ([KILLED, KILLED], 1, "FAILED  control: no pod was killed"),
        ([KILLED | {"kernel_oom_kills": 1}, CALM], 1, "FAILED  flood: the kernel's OOM killer had nothing to do"),
        ([None, KILLED, CALM], 0, "the flood of attempt 1 of 3 was void"),
        ([None, None, None, CALM], 1, "the flood of attempt 3 of 3 was void"),
        ([KILLED, None, CALM], 0, "the control of attempt 1 of 3 was void"),
        ([KILLED, None, None, None], 1, "the control of attempt 3 of 3 was void"),
    ],
)
def test_the_short_form_fails_unless_the_right_pod_dies_in_the_flood_and_nobody_in_the_control(
    answers: list[dict[str, float] | None],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    lab = FakeLab(*answers)
    monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda *_: lab)
    assert main(["--short", "--output", str(tmp_path)]) == code
    assert lab.asked[-1] == "control-pressure"
    assert said in capsys.readouterr().out
