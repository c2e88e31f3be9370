"""A flood's recordings and its verdict: what is read, what is void, what never is."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from memorypressure_tools.flood import demo, load, measurements, observer, series
from memorypressure_tools.flood.run import Result, Scenario, died, first_after
from memorypressure_tools.flood.series import TooManyVoidError, repeat
from memorypressure_tools.flood.verdict import VOID, Death, Facts, Outcome, Verdict, judge
from memorypressure_tools.flood.workloads import container_cgroups

REPOSITORY = Path(__file__).resolve().parents[2]
ZONES = """t,node,zone,free,boost,min,low,high,managed
10.0000,0,DMA,3840,0,17,21,25,3840
10.0000,0,DMA32,900,0,820,1025,1230,180000
10.0100,0,DMA32,600,1845,2665,1025,1230,180000
10.0200,0,DMA32,409,1845,2665,1025,1230,180000
10.1300,0,DMA32,410,0,820,1025,1230,180000
"""
FACTS = Facts(
    victims=["hog"],
    deaths=[],
    killed_by_us=[],
    below_line=[10.0, 11.0],
    condition_held=True,
    atomic_failures=3,
    kernel_oom_kills=0,
    hog_filled=True,
)


def test_zones_that_the_load_cannot_use_are_left_out_and_min_is_without_its_boost() -> None:
    samples = measurements.zone_samples(ZONES)
    assert [(sample.zone, sample.free_pages, sample.raw_min_pages) for sample in samples][:2] == [
        ("DMA32", 900, 820),
        ("DMA32", 600, 820),
    ]
    figures = measurements.reserve_figures(samples)
    assert (figures.samples, figures.below_min, figures.below_half) == (4, 3, 1)
    assert figures.first_below_half == 10.02
    assert figures.lowest_percent_of_min == pytest.approx(49.9)
    assert figures.longest_gap_seconds == 0.11


def test_the_condition_is_three_of_five_samples_in_any_zone() -> None:
    def timeline(*free_pages: int) -> list[measurements.ZoneSample]:
        return [measurements.ZoneSample(i / 100, 0, "DMA32", free, 820) for i, free in enumerate(free_pages)]

    assert measurements.times_drained(timeline(900, 400, 900, 400, 900, 900, 400)) == []
    assert measurements.times_drained(timeline(900, 400, 900, 400, 900, 400, 900, 900)) == [0.05]
    two_nodes = [replace(each, node=node) for each in timeline(400, 400) for node in (0, 1)]
    assert measurements.times_drained(two_nodes) == []


def test_a_timeline_that_is_cut_is_an_error_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 3 of the zones' timeline"):
        measurements.zone_samples(ZONES[:85])


def test_half_is_back_when_the_victim_has_half_of_what_it_had_at_the_kill() -> None:
    rows = [(10.0, [100, 0]), (10.1, [200, 0]), (10.2, [150, 0]), (10.3, [100, 0]), (10.4, [-1, 0])]
    assert measurements.half_back_seconds(rows, 10.1) == 0.2
    assert measurements.half_back_seconds([*rows[:3], (10.9, [-1, -1])], 10.1) == 0.8
    assert measurements.half_back_seconds(rows[:3], 10.1) is None
    assert measurements.half_back_seconds(rows, 9.0) is None


def test_a_file_timeline_has_names_and_numbers() -> None:
    names, rows = measurements.file_timeline("t,/a,/b\n1.5,7,-1\n")
    assert (names, rows) == (["/a", "/b"], [(1.5, [7, -1])])
    with pytest.raises(ValueError, match="no timeline"):
        measurements.file_timeline("")


def test_counters_are_what_rose_between_the_first_row_and_the_last() -> None:
    assert measurements.counters("t,psi_full_us,oom_kill\n1,5,2\n2,9,2\n3,15,3\n") == {"psi_full_us": 10, "oom_kill": 1}


def test_stalls_are_seconds_and_a_canary_without_a_count_was_cut() -> None:
    text = "count 3\nmean_us 5\nstall_ms 1500.0 at 12.500\nstall_ms 2.0 at 11.000\nhist_us 1 3\n"
    assert measurements.stalls(text)[0] == measurements.Stall(at=12.5, seconds=1.5)
    with pytest.raises(ValueError, match="no count"):
        measurements.stalls("stall_ms 1")


def test_atomic_failures_may_use_the_reserve_and_cannot_wait() -> None:
    text = "{ gfp: 0x00000a20 } hitcount:        700\n{ gfp: 0x00000ca0 } hitcount: 5\n{ gfp: 2048 } hitcount: 9\n"
    by_flags = measurements.gave_up(text)
    assert by_flags == {0xA20: 700, 0xCA0: 5, 0x800: 9}
    assert measurements.atomic_failures(by_flags) == 700


def test_writes_to_cgroup_kill_have_their_time_since_boot_and_those_of_the_runtime_are_left_out() -> None:
    text = (
        "# tracer: nop\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"
        '    <...>-812   [001] .....    71.101007: kill_written: (cgroup_kill_write+0x0/0x180) comm="runc:[1:CHILD]"\n'
        '  python3-1011  [000] d....  1203.500000: kill_written: (cgroup_kill_write+0x0/0x180) comm="python3"\n'
    )
    assert measurements.kill_writes(text) == [measurements.KillWrite(1203.5, "python3")]
    assert measurements.kill_writes("# tracer: nop\n") == []


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, Outcome.NOTHING_KILLED),
        ({"condition_held": False}, Outcome.CONDITION_NOT_REACHED),
        # A kill is judged by what was seen at all: the agent's samples are not ours.
        ({"condition_held": False, "deaths": [Death("hog", 11.5)]}, Outcome.KILLED),
        ({"hog_filled": False, "below_line": []}, Outcome.HOG_NOT_FILLED),
        ({"kernel_oom_kills": 1}, Outcome.KERNEL_OOM_KILL),
        ({"kernel_oom_kills": 1, "deaths": [Death("hog", 11.5)]}, Outcome.KERNEL_OOM_KILL),
        ({"below_line": None}, Outcome.EVIDENCE_LOST),
        ({"kernel_oom_kills": None}, Outcome.EVIDENCE_LOST),
        ({"deaths": [Death("hog", 11.5)]}, Outcome.KILLED),
        ({"deaths": [Death("hog", 40.0)], "atomic_failures": 0}, Outcome.KILL_WITHOUT_CONDITION),
        ({"deaths": [Death("hog", 11.5)], "below_line": [], "atomic_failures": 0}, Outcome.KILL_WITHOUT_CONDITION),
        # A gap of the sampler: the kernel's own count stands for the condition.
        ({"deaths": [Death("hog", 11.5)], "below_line": [], "atomic_failures": 3}, Outcome.KILLED),
        ({"deaths": [Death("web", 11.5)]}, Outcome.WRONG_VICTIM),
        ({"deaths": [Death("hog", 11.5), Death("web", 11.6)]}, Outcome.WRONG_VICTIM),
        ({"deaths": [Death("web", 11.5)], "below_line": None}, Outcome.WRONG_VICTIM),
        # What the agent itself says counts, whatever else was lost or came beside it.
        ({"killed_by_us": ["web"], "below_line": None}, Outcome.WRONG_VICTIM),
        ({"killed_by_us": ["hog", "web"], "kernel_oom_kills": 2}, Outcome.WRONG_VICTIM),
        ({"killed_by_us": ["hog"], "kernel_oom_kills": 2, "deaths": [Death("web", 1.0)]}, Outcome.KERNEL_OOM_KILL),
        ({"flooded": False, "below_line": []}, Outcome.NOTHING_KILLED),
        (
            {"flooded": False, "below_line": [], "deaths": [Death("hog", 11.5)], "atomic_failures": 0},
            Outcome.KILL_WITHOUT_CONDITION,
        ),
    ],
)
def test_a_run_is_judged_by_what_was_seen(changes: dict[str, Any], outcome: Outcome) -> None:
    verdict = judge(replace(FACTS, **changes))
    assert verdict.outcome == outcome, verdict.why
    assert verdict.valid is (outcome not in VOID)


def test_wrong_kills_are_never_void() -> None:
    assert VOID.isdisjoint({Outcome.WRONG_VICTIM, Outcome.KILL_WITHOUT_CONDITION, Outcome.KILLED})


def test_a_pod_has_died_when_its_processes_are_gone_or_its_cgroup_is() -> None:
    rows = [(1.0, [9, 9, 2, 1, 3]), (1.1, [9, 9, 0, 1, 3]), (1.2, [9, 9, -1, -1, 3]), (9.0, [9, 9, -1, -1, 0])]
    assert died(["hog", "web", "agent"], rows, until=5.0) == [Death("hog", 1.1), Death("web", 1.2)]


def test_cgroups_of_running_containers_follow_the_quality_of_service() -> None:
    pod = {
        "metadata": {"uid": "u-1"},
        "status": {
            "qosClass": "Burstable",
            "containerStatuses": [
                {"name": "main", "containerID": "containerd://abc", "state": {"running": {}}},
                {"name": "side", "containerID": "containerd://def", "state": {"terminated": {}}},
            ],
        },
    }
    assert container_cgroups(pod) == {"main": "/sys/fs/cgroup/kubepods/burstable/podu-1/abc"}
    pod["status"]["qosClass"] = "Guaranteed"  # type: ignore[index]
    assert container_cgroups(pod) == {"main": "/sys/fs/cgroup/kubepods/podu-1/abc"}


def test_what_a_quota_took_is_told_of_every_container_that_was_there_to_the_end() -> None:
    early = "max 10000 100000\nusage_usec 1000000\nnr_throttled 2\nthrottled_usec 500000\n"
    late = "max 10000 100000\nusage_usec 3500000\nnr_throttled 30\nthrottled_usec 2500000\n"
    assert measurements.cpu_rise({"sentinel": early, "reporter": early}, {"sentinel": late, "reporter": ""}) == {
        "sentinel": {
            "quota": "10000 100000",
            "used_seconds": 2.5,
            "throttled_periods": 28,
            "throttled_seconds": 2.0,
        }
    }


def result(outcome: Outcome, stall: float) -> Result:
    document = {"began": "2026-01-01T00:00:00Z", "worst_stall_seconds": stall}
    return Result(scenario=Scenario(name="x"), verdict=Verdict(outcome, "why"), document=document)


def test_void_runs_are_repeated_counted_and_saved(tmp_path: Path) -> None:
    outcomes = iter(
        [
            result(Outcome.KERNEL_OOM_KILL, 9),
            result(Outcome.KILLED, 2),
            result(Outcome.WRONG_VICTIM, 4),
            result(Outcome.NOTHING_KILLED, 3),
        ]
    )
    repeated = repeat("killed", lambda: next(outcomes), wanted=3, directory=tmp_path)
    assert repeated.summary() == "killed: 3 valid of 4 runs; void: KernelOomKill"
    assert repeated.median("worst_stall_seconds") == 3
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_too_many_void_runs_end_the_series_with_their_reasons(tmp_path: Path) -> None:
    with pytest.raises(TooManyVoidError, match="0 valid of 2 runs; void: HogNotFilled, HogNotFilled"):
        repeat("x", lambda: result(Outcome.HOG_NOT_FILLED, 1), most_void=1, directory=tmp_path)


def test_the_hog_asks_for_memory_because_its_share_of_swap_follows_from_it() -> None:
    container = load.hog_spec("node-1", 600)["containers"][0]
    assert container["resources"]["requests"]["memory"] == "400Mi"
    assert container["command"][2].endswith("exec hog 600")
    assert "= go ]; do sleep" in container["command"][2]


def test_no_pod_of_the_load_but_the_reader_has_local_storage_which_would_protect_it() -> None:
    assert "volumes" not in load.hog_spec("node-1", 600) | load.sink_spec("node-1") | load.idle_spec("node-1")
    assert load.stream_spec("node-1")["volumes"] != []


def test_the_gate_answers_go_only_when_the_start_file_is_there() -> None:
    script = (REPOSITORY / "tools/memorypressure_tools/cluster/files/gate.sh").read_text(encoding="utf-8")
    assert f"-e {load.START_FILE} ] && echo go" in script
    node = (REPOSITORY / "tools/memorypressure_tools/cluster/files/node.sh").read_text(encoding="utf-8")
    assert f"nc -ll -p {load.GATE_PORT} -e /sbin/load-gate" in node


def test_a_pod_s_text_tells_exit_codes_restarts_and_deletion() -> None:
    pod = {
        "metadata": {"name": "hog-1", "deletionTimestamp": "now"},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {
                    "restartCount": 1,
                    "state": {"running": {}},
                    "lastState": {"terminated": {"reason": "Error", "exitCode": 137}},
                }
            ],
        },
    }
    assert observer.pod_text(pod) == "Running before:Error(137) restarts=1 deleting"


def test_the_line_is_crossed_by_the_first_sample_of_the_flood_and_not_by_one_after_the_kill() -> None:
    assert first_after([90.0, 103.0, 104.0], 100.0, 105.0) == 3.0
    assert first_after([90.0, 103.0, 104.0], 100.0, 102.0) == -10.0
    assert first_after([103.0], 100.0, 102.0) is None
    assert first_after([103.0], 100.0, None) == 3.0


def enforced_document() -> dict[str, Any]:
    return {
        "began": "2026-01-01T00:00:00Z",
        "line_crossed_at": 1.9,
        "condition_at": 1.98,
        "decided_at": 1.99,
        "killed_at": 2.0,
        "actions": [{"action": "Kill", "pod": {"name": "hog-1"}}],
        "half_back_seconds": 0.4,
        "deaths": [{"pod": "hog", "at": 2.7}],
        "reserve": {"below_half": 6},
        "worst_stall_seconds": 0.5,
        "atomic_failures": 2,
        "kernel_oom_kills": 0,
        "changes": [
            {"at": -40.0, "what": "taint", "now": "none"},
            {"at": -40.0, "what": "pod hog-old", "now": "gone"},
            {"at": 2.5, "what": "taint", "now": "memorypressure.dev/pressure:NoSchedule"},
            {"at": 3.0, "what": "event Killed Pod/hog-1 x", "now": "killed"},
            {"at": 4.0, "what": "pod hog-1", "now": "Running deleting"},
            {"at": 6.0, "what": "pod hog-2", "now": "Pending"},
            {"at": 7.0, "what": "pod hog-1", "now": "gone"},
            {"at": 70.0, "what": "taint", "now": "none"},
        ],
    }


def test_the_steps_of_an_enforced_run_are_those_after_its_kill() -> None:
    seen = [1.9, 1.98, 1.99, 2.0, 2.4, 2.7, 2.5, 3.0, 4.0, 7.0, 6.0, 70.0]
    assert [at for _, at in demo.timings(enforced_document())] == seen


def test_a_taint_that_was_not_seen_to_be_lifted_is_not_one_that_was_none_before() -> None:
    document = enforced_document()
    document["changes"] = [each for each in document["changes"] if each["at"] < 70]
    assert dict(demo.timings(document))["taint lifted"] is None


def test_a_run_in_which_nothing_was_killed_shows_what_was_not_seen() -> None:
    document = {"changes": [{"at": -9.0, "what": "pod hog-1", "now": "Pending"}], "deaths": []}
    assert {at for _, at in demo.timings(document)} == {None}


def test_the_table_sets_both_loads_side_by_side_and_counts_void_runs() -> None:
    enforced = series.Series(
        "with",
        valid=[
            Result(scenario=Scenario(name="x"), verdict=Verdict(Outcome.KILLED, "why"), document=enforced_document())
        ],
    )
    without = series.Series(
        "without", valid=[result(Outcome.NOTHING_KILLED, 4.0)], void=[result(Outcome.HOG_NOT_FILLED, 1)]
    )
    text = demo.table(without, enforced)
    assert "+2.40  half of the hog's memory back" in text
    assert re.search(r"worst stall of a bystander, s +4 +0.5\n", text)
    assert re.search(r"samples of 10 ms below half of min +- +6\n", text)
    assert "without: 1 valid of 2 runs; void: HogNotFilled" in text


def test_the_floods_policy_leaves_the_idle_node_no_part_of_the_one_allowance() -> None:
    assert load.policy()["spec"]["nodeSelector"] == {"matchLabels": {"kubernetes.io/hostname": load.NODE}}
    assert load.hog_spec(load.NODE, 600)["nodeSelector"] == {"kubernetes.io/hostname": load.NODE}


def test_the_floods_policy_looks_at_the_line_that_runs_are_judged_by() -> None:
    trigger = load.policy()["spec"]["triggers"][0]["zoneWatermark"]
    assert (trigger["line"], 0.5 * (1 + trigger["marginPercent"] / 100)) == ("AtomicReserve", measurements.LINE)
    default = yaml.safe_load((REPOSITORY / "crds/samples/default.yaml").read_text(encoding="utf-8"))
    assert default["spec"]["triggers"][0]["zoneWatermark"] == trigger
