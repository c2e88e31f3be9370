"""`record --journal`: a sentinel's flight recorder as a file that `replay` reads and plots."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.sentinellab import SCRIPT, SentinelLab, eventually, grant_for, orders
from support.sentinellab import candidate as candidate_of

from memorypressure.signals import GateShut, MemInfo, Psi, PsiLine, Sample, Unknown
from memorypressure.zone_values import Zone, ZoneInfo
from memorypressure_agent.host.journal import Journal

SAMPLES = Path(__file__).parents[2] / "crds" / "samples"
SECOND = 1_000_000_000
MS = 1_000_000
START = 5_000 * SECOND
NORMAL = Zone(0, "Normal", 500_000, 0, True, 9_000, 11_000, 13_000, 2_000_000, 0, 0, True, (0, 0, 0), 32, 2)
ZERO = Psi(PsiLine(0, 0, 0, 0), PsiLine(0, 0, 0, 0))
MEMORY = MemInfo(1 << 33, 1 << 32, 0, 0, 0)


MOVABLE = Zone(0, "Movable", 10, 0, True, 3, 4, 5, 1000, 0, 0, True, (0, 0, 0), 32, 2)


def zones(free: int, *, movable: bool = False) -> ZoneInfo:
    return ZoneInfo((replace(NORMAL, free_pages=free), *((MOVABLE,) if movable else ())), 4096, 2)


def agent(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with a minute far from every line, then a dip that was an episode."""
    journal = Journal(str(tmp_path / "journal"), "1" * 36)
    flight = journal.flight
    for second in range(60):
        flight.add(Sample(START + second * SECOND, zones(500_000), MEMORY, ZERO, None))
    now, shut = START + 60 * SECOND, GateShut(zones(60_000), ((0, 60_000),), clear_lines=False)
    for tick in range(300):
        at = now + tick * 10 * MS
        if tick % 100 == 0:
            flight.add(Sample(at, zones(60_000), MEMORY, ZERO, None))
        elif tick < 200:
            flight.add(Sample(at, shut, None, None, None))
        else:
            flight.add(Sample(at, zones(2_000), None, None, None))
            flight.keep(3, at)
    for second in range(64, 100):
        flight.add(Sample(START + second * SECOND, zones(500_000), MEMORY, ZERO, None))
    journal.close()
    return tmp_path / "journal"


def test_what_a_journal_holds_is_listed(path: Path) -> None:
    done = agent("record", "--journal", path, "--list")
    assert done.returncode == 0, done.stderr
    head, everything, episode = done.stdout.splitlines()
    assert head.split() == ["begin", "length", "samples"]
    assert everything.split()[0] == "everything"
    assert everything.split()[-1] == str(60 + 300 + 36)
    assert episode.startswith("episode 3")


@pytest.mark.parametrize("options", [(), ("--episode", "3")], ids=["everything", "one episode"])
def test_a_recording_of_a_journal_is_replayed_and_plotted(path: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    recording, picture = tmp_path / "recording.csv", tmp_path / "picture.png"
    done = agent("record", "--journal", path, *options, "--output", recording)
    assert done.returncode == 0, done.stderr
    assert "recorded" in done.stderr
    replayed = agent("replay", "--policy", SAMPLES / "default.yaml", "--plot", picture, recording)
    assert replayed.returncode == 0, replayed.stderr
    assert "would kill" in replayed.stdout
    assert picture.stat().st_size > 1000


def test_gates_keep_a_replay_from_taking_two_dips_for_one(path: Path, tmp_path: Path) -> None:
    recording = tmp_path / "recording.csv"
    agent("record", "--journal", path, "--output", recording)
    rows = recording.read_text().splitlines()
    assert sum(",Node," in row for row in rows) == 198
    replayed = agent("replay", "--policy", SAMPLES / "default.yaml", recording)
    assert f"{60 + 300 + 36} samples" in replayed.stdout
    assert "below AtomicReserve once" in replayed.stdout


def test_the_last_seconds_are_the_last_seconds(path: Path) -> None:
    done = agent("record", "--journal", path, "--seconds", 10)
    assert len(done.stdout.splitlines()) == 1 + 11


def test_samples_of_other_zones_and_unknown_ones_are_left_out_and_said(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"), "1" * 36)
    for tick, read in enumerate((zones(9), zones(8), Unknown("x"), zones(7, movable=True), zones(6, movable=True))):
        journal.flight.add(Sample(START + tick * SECOND, read, MEMORY, ZERO, None))
    journal.close()
    done = agent("record", "--journal", journal.path)
    assert len(done.stdout.splitlines()) == 1 + 4
    assert "3 samples from before the machine's zones changed are left out" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--list",), "name it with --journal"),
        (("--episode", "3"), "name it with --journal"),
        (("--journal", "{dir}/missing"), "No such file"),
        (("--journal", "{dir}/garbage"), "too short for a journal"),
        (("--journal", "{dir}/empty"), "holds no sample yet"),
        (("--journal", "{path}", "--episode", "7"), "kept are: 3"),
        (("--journal", "{path}", "--episode", "x"), "is no episode's number"),
        (("--journal", "{path}", "--period-ms", "5"), "omit it"),
    ],
)
def test_bad_input_is_a_sentence_and_code_2(path: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    (tmp_path / "garbage").write_bytes(b"x")
    Journal(str(tmp_path / "empty"), "1" * 36).close()
    done = agent("record", *(word.format(dir=tmp_path, path=path) for word in options))
    assert done.returncode == 2, done.stdout
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_sentinels_own_episode_can_be_recorded_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "cgroup").mkdir()
    lab = SentinelLab(tmp_path, tmp_path / "cgroup")
    try:
        lab.give(orders(candidate_of("8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11", "a"), grant=grant_for(lab.known_past())))
        lab.start()
        eventually(lab.armed, "the orders are taken over")
        lab.flood()
        eventually(lambda: lab.records("episode"), "an episode begins")
        eventually(
            lambda: len(agent("record", "--journal", lab.journal_path).stdout.splitlines()) > 20, "samples are recorded"
        )
        done = agent("record", "--journal", lab.journal_path, "--output", tmp_path / "recording.csv")
        assert done.returncode == 0, done.stderr
        assert "Z)" in done.stderr, "the time is told for people"
        replayed = agent("replay", "--policy", SAMPLES / "patch-2020.yaml", tmp_path / "recording.csv")
        assert replayed.returncode == 0, replayed.stderr
        assert "below AtomicReserve once" in replayed.stdout
    finally:
        lab.close()
