"""Figures of a run, from the files that a guest brings back."""

import io
import json
from pathlib import Path

import pytest

from memorypressure_agent.replay.timeline import read_timeline
from memorypressure_tools.lab import rundata
from memorypressure_tools.lab.figures import FIGURES, run_figures
from memorypressure_tools.lab.recording import write_recording
from memorypressure_tools.lab.rundata import VoidRunError
from memorypressure_tools.lab.scenarios import SCENARIOS

IDLE = Path(__file__).resolve().parents[1] / "fixtures" / "captures" / "zoneinfo-6.1-guest-1node-idle.txt"
MIN, LOW, HIGH = 634, 792, 950
KILLED_AT = 113.015
SIGNAL = (
    "   memorypressure-90      [001] d..2. {at:.6f}: signal_generate: sig={sig} errno=0 code={code} "
    "comm={comm} pid={pid} grp=1 res=0"
)


HEADER = "t,node,zone,free,boost,min,low,high,managed,stat_threshold,cpus,held,zspages"


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 20 s from 100 s on: flood at 106, below the line from 113 to 113.05, the hog killed and gone."""
    zones, files, vmstat = [], [], []
    for step in range(2000):
        at = 100 + step / 100
        free = 300 if 113 <= at < 113.055 else 700
        zones.append(f"{at:.4f},0,DMA,3808,0,23,28,33,3840,4,2,20000,0")
        zones.append(f"{at:.4f},0,DMA32,{free},0,{MIN},{LOW},{HIGH},107264,12,2,170,0")
        held = 1000 if at < 113.1 else 50
        files.append(f"{at:.4f},{held},{217 if at < 113.3 else -1},7,216")
        if step % 5 == 0:
            vmstat.append(f"{at:.4f},{step * 4000},{step * 1000},462560,20000,524284,400000")
    (tmp_path / "zoneinfo.txt").write_bytes(IDLE.read_bytes())
    (tmp_path / "timeline.zones.csv").write_text(lines(HEADER, *zones))
    names = ",".join(f"/pods/{pod}/{file}" for pod in ("hog", "sink") for file in ("memory.current", "cgroup.procs"))
    (tmp_path / "timeline.files.csv").write_text(lines(f"t,{names}", *files))
    head = "t,psi_some_us,psi_full_us,mem_total_kib,mem_available_kib,swap_total_kib,swap_free_kib"
    (tmp_path / "timeline.vmstat.csv").write_text(lines(head, *vmstat))
    turns = [f"{100 + step / 10:.4f},0.001000" for step in range(190)]
    (tmp_path / "canary.csv").write_text(lines("at,seconds", *turns, "119.5,9.000000"))
    (tmp_path / "marks.txt").write_text("start 100.00\nflood 106.00\nend 120.00\n")
    (tmp_path / "pids.txt").write_text("sink 216\nhog 217\n")
    (tmp_path / "giveups.txt").write_text(
        "{ gfp: 2592 } hitcount:          7\n{ gfp: 0x820 } hitcount: 2\n{ gfp: 10240 } hitcount:  5\n\nTotals:\n"
    )
    (tmp_path / "signals.txt").write_text(
        lines(
            "# tracer: nop",
            SIGNAL.format(at=KILLED_AT, sig=9, code=0, comm="hog", pid=217),
            SIGNAL.format(at=KILLED_AT + 1, sig=9, code=0, comm="hog", pid=217),
            SIGNAL.format(at=KILLED_AT, sig=9, code=0, comm="pause", pid=77),
            SIGNAL.format(at=121, sig=9, code=0, comm="sink", pid=216),
        )
    )
    (tmp_path / "flood.txt").write_text("sent_frames 1000\nseconds 18.0\n")
    (tmp_path / "netdev.txt").write_text("  lo: 0 0 0 0 0 0 0 0 0\n  eth1: 5000 400 0 3 0 0 0 0 700 9\n")
    (tmp_path / "snmp.txt").write_text("Udp: InDatagrams RcvbufErrors MemErrors\nUdp: 300 90 10\n")
    return tmp_path


def test_every_figure_of_a_flood_with_a_kill(run: Path) -> None:
    figures = run_figures(run, SCENARIOS["flood"])
    assert {figure.key for figure in FIGURES} <= set(figures)
    assert figures["atomic_failures"] == 9  # 0xa20 of 6.1 and 0x820 of 6.12, not GFP_NOWAIT (0x2800)
    assert figures["worst_stall_ms"] == pytest.approx(500)  # not come back at the end: until then
    assert figures["p99_stall_ms"] == pytest.approx(1)
    assert figures["psi_full_seconds"] == pytest.approx(1.995)
    assert figures["below_reserve_seconds"] == pytest.approx(0.06, abs=0.011)
    assert figures["lowest_of_min"] == pytest.approx(300 / MIN)
    assert figures["line_to_kill_ms"] == pytest.approx(15)
    assert figures["kill_to_memory_back_ms"] == pytest.approx(85, abs=1)
    assert figures["kill_to_gone_ms"] == pytest.approx(285, abs=1)
    assert (figures["kills"], figures["innocent_kills"], figures["kernel_oom_kills"]) == (1, 0, 0)
    assert figures["control_phase_kills"] == 0
    assert figures["frames_lost_percent"] == pytest.approx(60)
    assert figures["datagrams_dropped"] == 100
    assert [(death["pod"], death["sender"]) for death in figures["deaths"]] == [("hog", "memorypressure")]
    assert figures["kill_after_start_seconds"] == pytest.approx(13.015)
    assert figures["sampler_gap_ms"] == pytest.approx(10, abs=0.1)
    assert figures["flood_late_seconds"] == 0


def test_a_run_that_ends_in_a_gap_says_so_and_how_late_its_flood_came(run: Path) -> None:
    rows = (run / "timeline.zones.csv").read_text().splitlines()
    (run / "timeline.zones.csv").write_text(lines(*rows[:-1600]))  # 800 samples of two zones: 8 s
    (run / "marks.txt").write_text("start 100.00\nflood 110.50\nend 120.00\n")
    figures = run_figures(run, SCENARIOS["flood"])
    assert figures["sampler_gap_ms"] == pytest.approx(8010, abs=1)
    assert figures["flood_late_seconds"] == pytest.approx(4.5)
    assert run_figures(run, SCENARIOS["control-pressure"])["flood_late_seconds"] is None
    (run / "marks.txt").write_text("start 100.00\nflood 111.50\nend 120.00\n")
    with pytest.raises(VoidRunError, match=r"the flood began 5\.5 s late"):
        run_figures(run, SCENARIOS["flood"])


def test_a_dip_before_the_flood_is_not_the_line_that_its_kill_follows(run: Path) -> None:
    path = run / "timeline.zones.csv"
    at = next(row.split(",")[0] for row in path.read_text().splitlines() if row.startswith("102."))
    dip = [
        row.replace(row.split(",")[3], "300", 1) if row.startswith(at) else row for row in path.read_text().splitlines()
    ]
    path.write_text(lines(*dip))
    figures = run_figures(run, SCENARIOS["flood"])
    assert figures["below_reserve_seconds"] == pytest.approx(0.07, abs=0.011)
    assert figures["line_to_kill_ms"] == pytest.approx(15)
    (run / "marks.txt").write_text("start 100.00\nflood 114.00\nend 120.00\n")
    early = run_figures(run, SCENARIOS["control-pressure"])  # killed while there was no flood: since the first dip
    assert early["line_to_kill_ms"] == pytest.approx(11_000, abs=20)


def test_a_stall_that_began_before_the_flood_is_told_apart(run: Path) -> None:
    rows = (run / "canary.csv").read_text().splitlines()
    (run / "canary.csv").write_text(lines(rows[0], "101.0,7.000000", *rows[1:]))
    figures = run_figures(run, SCENARIOS["flood"])
    assert figures["worst_stall_ms"] == pytest.approx(7000)
    assert figures["flood_stall_ms"] == pytest.approx(500)
    assert run_figures(run, SCENARIOS["control-pressure"])["flood_stall_ms"] is None


def test_what_a_killer_costs_is_told_where_there_is_one(run: Path) -> None:
    keys = ("killer_cpu_percent", "killer_rss_kib", "killer_major_faults")
    assert [run_figures(run, SCENARIOS["flood"])[key] for key in keys] == [None] * 3
    (run / "killer.txt").write_text("cpu_ticks 100\nminor_faults 9\nmajor_faults 2\nVmRSS:\t  19760 kB\n")
    assert [run_figures(run, SCENARIOS["flood"])[key] for key in keys] == [pytest.approx(5), 19760, 2]


def test_a_kill_of_another_pod_a_kill_too_early_and_one_by_the_kernel_are_told_apart(run: Path) -> None:
    text = lines(
        SIGNAL.format(at=104, sig=15, code=0, comm="sink", pid=216),
        SIGNAL.format(at=114, sig=9, code=128, comm="hog", pid=217),
    )
    (run / "signals.txt").write_text(text)
    figures = run_figures(run, SCENARIOS["flood"])
    assert (figures["kills"], figures["innocent_kills"], figures["control_phase_kills"]) == (1, 1, 1)
    assert figures["kernel_oom_kills"] == 1


def test_in_a_control_every_kill_is_one_of_the_control_phase(run: Path) -> None:
    assert run_figures(run, SCENARIOS["control-pressure"])["control_phase_kills"] == 1


def test_in_a_leak_which_has_to_be_ended_the_kill_that_ends_it_is_not_one_of_the_control_phase(run: Path) -> None:
    assert run_figures(run, SCENARIOS["leak"])["control_phase_kills"] == 0


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("marks.txt", "start 100\nflood 106\n", "no moment 'end'"),
        ("giveups.txt", "", "the probe on warn_alloc was not there"),
        ("canary.csv", "at,seconds\n", "not one turn of the bystander"),
        ("signals.txt", "x-1 [000] d 1.0: signal_generate: sig=9 garbage\n", "not understood"),
        ("timeline.zones.csv", "t,node,zone\n", "no row"),
        ("zoneinfo.txt", "Node 0, zone", "zoneinfo.txt: line 1"),
        ("flood.txt", "", "no frame was sent"),
        ("netdev.txt", "lo: 1 2 3 4\n", "no interface eth1"),
    ],
)
def test_a_run_that_lacks_a_file_is_void_and_not_a_run_without_failures(
    run: Path, file: str, content: str, said: str
) -> None:
    (run / file).write_text(content)
    with pytest.raises(VoidRunError, match=said):
        run_figures(run, SCENARIOS["flood"])
    (run / file).unlink()
    with pytest.raises(VoidRunError, match=file):
        run_figures(run, SCENARIOS["flood"])


FILES = ("marks", "pids", "giveups", "signals", "flood", "netdev", "snmp")
TABLES = ("canary", "timeline.zones", "timeline.vmstat", "timeline.files")


@pytest.mark.parametrize("file", [*(f"{name}.txt" for name in FILES), *(f"{name}.csv" for name in TABLES)])
def test_a_file_that_was_cut_off_makes_a_run_void_wherever_it_was_cut(run: Path, file: str) -> None:
    content = (run / file).read_text()
    for length in (1, len(content) // 3, len(content) - 1):
        (run / file).write_text(content[:length].rstrip("\n"))
        with pytest.raises(VoidRunError, match=file.replace(".", r"\.")):
            run_figures(run, SCENARIOS["flood"])


@pytest.mark.parametrize("said", ["", "not armed within 30 s: Expired: no beat\n"])
def test_a_run_whose_agent_had_no_leave_to_kill_is_void_and_not_one_without_a_kill(run: Path, said: str) -> None:
    status = {"loop": {"lag": {"worst": 0.02}}}
    (run / "agent.json").write_text(json.dumps({"status": status}))
    (run / "armed.txt").write_text("armed: Granted: 6 of 6 kills left\n")
    assert run_figures(run, SCENARIOS["flood"])["killer_late_ms"] == pytest.approx(20)
    (run / "armed.txt").write_text(said)
    with pytest.raises(VoidRunError, match=r"armed\.txt"):
        run_figures(run, SCENARIOS["flood"])
    (run / "agent.json").unlink()  # a peer that says whether it watches the pods
    with pytest.raises(VoidRunError, match=r"armed\.txt"):
        run_figures(run, SCENARIOS["flood"])


def test_the_timeline_becomes_a_recording_that_replay_reads(run: Path, tmp_path: Path) -> None:
    destination = tmp_path / "recording.csv"
    write_recording(run, destination)
    samples = list(read_timeline("recording.csv", io.BytesIO(destination.read_bytes())))
    assert len(samples) == 2000
    (zone,) = samples[1305].zones  # DMA is too small to count
    assert (zone.name, zone.free, zone.low, zone.protection) == ("DMA32", 300, LOW, 0)
    assert samples[1305].figures["mem_available"] == 5000


def test_gfp_flags_of_both_kernels_are_understood() -> None:
    assert rundata.is_atomic(0xA20)
    assert rundata.is_atomic(0x820)
    assert not rundata.is_atomic(0xCC0)  # GFP_KERNEL
    assert not rundata.is_atomic(0xCC0 | 0x20)  # __GFP_HIGH, but it may reclaim
    assert not rundata.is_atomic(0x2800)  # GFP_NOWAIT, no warning
    assert not rundata.is_atomic(0x12A20)  # SLUB's first try
