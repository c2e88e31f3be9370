"""Replay by the real console script: what policies decide over recordings, and what bad input is told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
REPOSITORY = Path(__file__).resolve().parent.parent.parent
FLOOD = "tests/fixtures/captures/timeline-6.1-1node-flood.csv"
NO_FLOOD = "tests/fixtures/captures/timeline-6.1-1node-noflood.csv"
MAIL = "tests/fixtures/timelines/mail-2020-two-nodes.csv"
MAIL_ONE_HEALTHY = "tests/fixtures/timelines/mail-2020-one-node-healthy.csv"
DEFAULT = "crds/samples/default.yaml"
PATCH = "crds/samples/patch-2020.yaml"


def replay(*arguments: object, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    words = [str(argument) for argument in arguments]
    return subprocess.run(
        [SCRIPT, "replay", *words], cwd=REPOSITORY, input=stdin, capture_output=True, timeout=60, check=False
    )


def decisions(policy: object, recording: object, *options: object) -> list[dict[str, Any]]:
    done = replay("--policy", policy, "--json", *options, recording)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def kills(policy: object, recording: object) -> list[float]:
    return [decision["t"] for decision in decisions(policy, recording) if decision["action"] == "Kill"]


def write_recording(path: Path, columns: str, rows: list[str]) -> Path:
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("policy", "recording", "times"),
    [
        (DEFAULT, FLOOD, [6.782]),
        (DEFAULT, NO_FLOOD, []),
        (PATCH, MAIL, [0.3]),
        (PATCH, MAIL_ONE_HEALTHY, []),
        (DEFAULT, MAIL, [0.02]),
        (DEFAULT, MAIL_ONE_HEALTHY, [0.02]),
    ],
    ids=[
        "the default kills in the flood",
        "the default does not kill without the flood",
        "the patch's rule fires on the example of its mail",
        "the patch's rule does not fire while one node is healthy",
        "the default fires on the example of the mail",
        "the default fires while one node is healthy",
    ],
)
def test_a_policy_decides_to_kill_when_it_should(policy: str, recording: str, times: list[float]) -> None:
    assert kills(policy, recording) == times


def test_the_taint_comes_before_the_kill_with_its_reason() -> None:
    acts = [decision for decision in decisions(DEFAULT, FLOOD) if decision["action"]]
    assert [(act["action"], act["reason"], act["cause"], act["mode"]) for act in acts] == [
        ("Taint", "WouldTaint", "AtomicReserveBreached", "DryRun"),
        ("Kill", "WouldKill", "AtomicReserveBreached", "DryRun"),
    ]


def test_a_kill_is_told_with_the_figures_of_its_own_sample_and_without_a_victim() -> None:
    (kill,) = [decision for decision in decisions(DEFAULT, FLOOD) if decision["action"] == "Kill"]
    assert kill["victim"] is None
    assert kill["message"] == (
        "would kill the first pod in order: in 3 of the last 5 samples, 16 ms in all; at this one: NUMA node 0 below "
        "AtomicReserve with a margin of 50 %: DMA32 usable 237 pages (0.9 MiB), line 475 pages (1.9 MiB), "
        "min 2059 pages (8.0 MiB)"
    )


def test_every_sample_has_its_decision_when_all_are_asked_for() -> None:
    told = decisions(DEFAULT, NO_FLOOD, "--all")
    assert len(told) == 2645
    assert {decision["action"] for decision in told} == {None}


def test_the_text_ends_with_what_was_decided_and_no_line_is_wider_than_80_columns() -> None:
    done = replay("--policy", DEFAULT, FLOOD)
    lines = done.stdout.decode("ascii").splitlines()
    assert lines[-1] == "decided: Taint at 6.782 s, Kill at 6.782 s"
    assert "NUMA node 0 was below AtomicReserve 12 times, 838 ms in all, at longest 258 ms" in lines
    assert [line for line in lines if len(line) > 80] == []


def test_what_a_recording_lacks_is_unknown_and_said() -> None:
    text = replay("--policy", DEFAULT, NO_FLOOD).stdout.decode()
    assert "trigger starving stayed unknown: the recording does not tell Low" in text
    assert "scarce, exhausted stayed unknown: the recording has no mem_total" in text
    assert "stalled stayed unknown: the recording has no psi_some_avg10" in text
    assert text.endswith("decided: nothing\n")


def test_standard_input_is_replayed_too() -> None:
    done = replay("--policy", DEFAULT, "--json", "-", stdin=(REPOSITORY / FLOOD).read_bytes())
    assert any(json.loads(line)["action"] == "Kill" for line in done.stdout.splitlines())


def test_an_enforcing_policy_is_replayed_as_a_dry_run_and_a_disabled_one_decides_nothing(tmp_path: Path) -> None:
    text = (REPOSITORY / DEFAULT).read_text()
    for mode, acts in (("Enforce", {"DryRun"}), ("Disabled", set())):
        policy = tmp_path / f"{mode}.yaml"
        policy.write_text(text.replace("mode: DryRun", f"mode: {mode}"))
        assert {decision["mode"] for decision in decisions(policy, FLOOD) if decision["action"]} == acts


LOW_LINES = "t,node,zone,free,boost,min,low,high"


def under_and_over(columns: str, tail: str, seconds_clear: float) -> tuple[str, list[str]]:
    """100 ms under AtomicReserve, then clear, sampled ten times a second, then 100 ms under it again."""
    clear_ticks = int(seconds_clear * 100)
    ticks = [*range(10), *range(10, clear_ticks + 10, 10), *range(clear_ticks + 10, clear_ticks + 20)]
    low = range(10, clear_ticks + 10)
    return columns, [f"{tick / 100:.2f},0,Normal,{5000 if tick in low else 40},0,100{tail}" for tick in ticks]


def test_with_low_an_episode_ends_after_120_seconds_of_clear_and_the_next_kills_again(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "r.csv", *under_and_over(LOW_LINES, ",125,150", 125))
    assert kills(DEFAULT, recording) == [0.02, 125.12]


def test_without_low_nothing_is_seen_to_clear_so_the_episode_lasts(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "r.csv", *under_and_over("t,node,zone,free,boost,min", "", 125))
    assert kills(DEFAULT, recording) == [0.02]
    text = replay("--policy", DEFAULT, recording).stdout.decode()
    assert "note: without the column low nothing is seen to clear" in text


@pytest.mark.parametrize(
    ("columns", "tail", "killed"),
    [
        ("", "", True),
        (",managed", ",30", False),
        (",managed", ",80", True),
        (",protection", ",100", True),
        (",free_cma", ",39", True),
    ],
    ids=[
        "only free and min",
        "a closed zone never alone",
        "an open zone",
        "protection raises the line",
        "CMA is not usable",
    ],
)
def test_optional_columns_count(tmp_path: Path, columns: str, tail: str, killed: bool) -> None:
    rows = [f"{tick / 100:.2f},0,Normal,40,0,100{tail}" for tick in range(20)]
    recording = write_recording(tmp_path / "r.csv", "t,node,zone,free,boost,min" + columns, rows)
    assert bool(kills(DEFAULT, recording)) is killed


def test_protection_and_cma_move_a_zone_across_its_line(tmp_path: Path) -> None:
    for columns, tail in ((",protection", ",100"), (",free_cma", ",80")):
        without, given = [
            write_recording(
                tmp_path / f"{name}.csv",
                "t,node,zone,free,boost,min" + head,
                [f"{tick / 100:.2f},0,Normal,120,0,100{end}" for tick in range(20)],
            )
            for name, head, end in (("without", "", ""), ("given", columns, tail))
        ]
        assert (kills(DEFAULT, without), kills(DEFAULT, given)) == ([], [0.02])


MEMORY = "t,node,zone,free,boost,min,mem_total,mem_available,swap_total,swap_free"


@pytest.mark.parametrize(
    ("available", "page_size", "killed"),
    [(190_000, 4096, True), (300_000, 4096, False), (190_000, 65536, False)],
    ids=["under 1 GiB and 2 %", "above it", "the same pages are more memory when they are larger"],
)
def test_available_memory_is_judged_in_bytes(tmp_path: Path, available: int, page_size: int, killed: bool) -> None:
    rows = [f"{tick / 10:.1f},0,Normal,9000,0,100,10000000,{available},0,0" for tick in range(30)]
    recording = write_recording(tmp_path / "r.csv", MEMORY, rows)
    acts = decisions(DEFAULT, recording, "--page-size", page_size)
    assert any(act["action"] == "Kill" for act in acts) is killed


def test_psi_of_a_recording_can_confirm(tmp_path: Path) -> None:
    psi = "psi_some_avg10,psi_some_avg60,psi_some_avg300,psi_some_total_us"
    full = psi.replace("some", "full")
    rows = [f"{tick / 100:.2f},0,Normal,40,0,100,50,50,50,9,{30 if tick > 10 else 0},0,0,9" for tick in range(30)]
    recording = write_recording(tmp_path / "r.csv", f"t,node,zone,free,boost,min,{psi},{full}", rows)
    both = tmp_path / "both.yaml"
    both.write_text(
        json.dumps(
            {
                "apiVersion": "memorypressure.dev/v1alpha1",
                "kind": "MemoryPressurePolicy",
                "metadata": {"name": "both"},
                "spec": {
                    "nodeSelector": {},
                    "triggers": [
                        {"name": "reserve", "type": "ZoneWatermark", "zoneWatermark": {"line": "AtomicReserve"}},
                        {
                            "name": "stalled",
                            "type": "PSI",
                            "psi": {"scope": "Node", "kind": "Full", "thresholdPercent": 20},
                        },
                    ],
                    "ladder": [
                        {"action": "Kill", "triggers": ["reserve", "stalled"], "match": "All", "afterSeconds": 0}
                    ],
                },
            }
        )
    )
    assert kills(both, recording) == [0.13]


BAD_INPUT = {
    "a recording that is not there": (DEFAULT, "nowhere.csv", "nowhere.csv: cannot read the recording: No such file"),
    "a directory as a recording": (DEFAULT, "docs", "docs: cannot read the recording: Is a directory"),
    "a policy that is not there": ("nowhere.yaml", FLOOD, "nowhere.yaml: cannot read the policy: No such file"),
    "a recording as a policy": (FLOOD, FLOOD, "timeline-6.1-1node-flood.csv:1: a policy is an object with apiVersion"),
    "a policy as a recording": (DEFAULT, DEFAULT, "default.yaml:1: column 1: unknown column '# The policy"),
}


@pytest.mark.parametrize(("policy", "recording", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_named_and_exits_with_2(policy: str, recording: str, message: str) -> None:
    done = replay("--policy", policy, recording)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_policy_is_refused_before_anything_of_the_recording_is_told(tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text((REPOSITORY / DEFAULT).read_text().replace("AnyNode", "AnyZone"))
    done = replay("--policy", policy, FLOOD)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_page_size_that_contradicts_the_recording_is_refused(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "r.csv", "t,node,zone,free,boost,min,page_size", ["0,0,Normal,1,0,9,65536"])
    done = replay("--policy", DEFAULT, "--page-size", 4096, recording)
    assert done.returncode == 2
    assert b"r.csv:2: column 'page_size' says 65536, --page-size 4096; omit the option" in done.stderr


def test_a_movable_zone_without_low_is_refused(tmp_path: Path) -> None:
    recording = write_recording(
        tmp_path / "r.csv", "t,node,zone,free,boost,min", ["0,0,Normal,1,0,9", "0,0,Movable,1,0,9"]
    )
    done = replay("--policy", DEFAULT, recording)
    assert done.returncode == 2
    assert b"r.csv:2: zone Movable is given without low: whether a kill can help depends on it;" in done.stderr


def test_a_movable_zone_above_its_low_withholds_the_kill(tmp_path: Path) -> None:
    rows = []
    for tick in range(20):
        rows += [f"{tick / 100:.2f},0,Normal,40,0,100,125,150", f"{tick / 100:.2f},0,Movable,9999,0,100,125,150"]
    recording = write_recording(tmp_path / "r.csv", LOW_LINES, rows)
    assert decisions(DEFAULT, recording)[-1]["reason"] == "MovableFree"


def test_a_recording_of_this_machine_replays(tmp_path: Path) -> None:
    recording = tmp_path / "here.csv"
    done = subprocess.run(
        [SCRIPT, "record", "--seconds", "0.3", "--output", recording], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    text = replay("--policy", DEFAULT, recording).stdout.decode()
    assert "decided: nothing" in text
    assert "stayed unknown: the recording" not in text


def test_a_recording_is_not_replaced_without_force(tmp_path: Path) -> None:
    target = tmp_path / "here.csv"
    target.write_text("mine")
    arguments = [SCRIPT, "record", "--seconds", "0.1", "--output", target]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, target.read_text()) == (2, "mine")
    assert "is there already; choose another name, or --force to replace it" in done.stderr
    assert subprocess.run([*arguments, "--force"], capture_output=True, timeout=60, check=False).returncode == 0
