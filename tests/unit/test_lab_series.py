"""The lab's pure parts: statistics, recipes, orders, scripts, series."""

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.labresults import result

from memorypressure.orders import decode
from memorypressure.spec_values import Mode, NodesScope
from memorypressure_tools.lab import script, series
from memorypressure_tools.lab.arms import ARMS, OURS, Killer
from memorypressure_tools.lab.orders import merged, run_orders
from memorypressure_tools.lab.scenarios import SCENARIOS
from memorypressure_tools.lab.script import guest_script
from memorypressure_tools.lab.series import Cell, Result, Results, SeriesError, cells, recipe
from memorypressure_tools.lab.statistics import interval, largest_gap, median, percentile

GUEST = Path(script.__file__).with_name("guest.sh")


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


def test_runs_on_another_kernel_do_not_count_in_a_series(tmp_path: Path) -> None:
    wanted = list(cells(["flood"], ["none"], 1))
    results = Results(tmp_path / "results.jsonl")
    results.add(result(wanted[0]))
    assert results.left(wanted) == []
    results.kernel = "6.1.1"
    assert results.left(wanted) == wanted
    assert results.outdated() == 1


def test_a_report_shows_todays_runs_of_an_arm_and_without_any_those_of_its_last_definition(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")

    def add(scenario: str, arm: str, number: int, recipe: str = "") -> Result:
        made = result(Cell(scenario, arm, number))
        results.add(replace(made, recipe=recipe or made.recipe))
        return results.all[-1]

    flood = SCENARIOS["flood"].digest
    add("flood", "none", 1, f"{flood}-0-0")  # today's are there
    today = [add("flood", "none", 1), add("flood", "none", 2)]
    add("flood", "earlyoom", 1, f"{flood}-0-0")  # a later definition is there
    last = add("flood", "earlyoom", 2, f"{flood}-1-0")
    add("flood", "nohang", 1, "0-1-0")  # of another scenario than the others in the table
    add("leak", "none", 1, "0-1-0")
    add("leak", "none", 2, "1-1-0")
    leaks = [add("leak", "none", 2, "2-1-0"), add("leak", OURS, 1, "2-1-0-1")]
    gone = [replace(last, scenario="drought"), replace(last, arm="nobody"), replace(last, figures=None, void="ended")]
    for each in gone:
        results.add(each)
    assert results.reportable() == [*today, last, *leaks]
    assert results.usable() == today


def test_a_changed_script_or_program_of_the_guest_is_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, arm = replace(SCENARIOS["flood"]), ARMS["none"]  # a copy: recipes of the known ones are kept
    today = recipe(scenario, arm)
    assert recipe(scenario, arm) == today == recipe(SCENARIOS["flood"], arm)
    texts, programs = tmp_path / "guest.sh", tmp_path / "programs"
    shutil.copy(series.GUEST_SOURCES[0], texts)
    shutil.copytree(series.GUEST_SOURCES[-1], programs)
    assert {path.suffix for path in programs.iterdir()} == {".c", ".h"}
    monkeypatch.setattr(series, "GUEST_SOURCES", (texts, *series.GUEST_SOURCES[1:-1], programs))
    assert recipe(scenario, arm) == today
    (programs / "hog.c").write_text((programs / "hog.c").read_text("utf-8") + "\n", "utf-8")
    other_program = recipe(scenario, arm)
    texts.write_text(texts.read_text("utf-8") + "\n", "utf-8")
    assert len({today, other_program, recipe(scenario, arm)}) == 3


def test_a_changed_granter_is_another_recipe_for_our_agent_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = replace(SCENARIOS["flood"])
    ours, nobody = (recipe(scenario, ARMS[arm]) for arm in (OURS, "none"))
    granter = tmp_path / "granter.py"
    granter.write_text(series.GRANTER.read_text("utf-8") + "\n", "utf-8")
    monkeypatch.setattr(series, "GRANTER", granter)
    assert recipe(scenario, ARMS[OURS]) != ours
    assert recipe(scenario, ARMS["none"]) == nobody


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
