"""`run` by the real console script: views, logs, JSON, bad sources, users without rights, real kills."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memorypressure_tools.unprivileged import run_as_nobody

SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
REPOSITORY = Path(__file__).resolve().parent.parent.parent
CAPTURES = REPOSITORY / "tests/fixtures/captures"
DEFAULT = REPOSITORY / "crds/samples/default.yaml"
ESCAPE = "\x1b"


def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    words = [str(argument) for argument in arguments]
    return subprocess.run(
        [SCRIPT, "run", "--policy", DEFAULT, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of a capture: 6.1, one node, far from every line, without PSI."""
    directory = tmp_path / "proc"
    directory.mkdir()
    shutil.copy(CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt", directory / "zoneinfo")
    (directory / "meminfo").write_text(
        "MemTotal:         500000 kB\nMemFree:          300000 kB\nMemAvailable:     400000 kB\n"
        "SwapTotal:             0 kB\nSwapFree:              0 kB\nHugePages_Total:       0\n"
        "Hugepagesize:       2048 kB\nHugetlb:               0 kB\n"
    )
    return directory


def test_one_view_of_this_machine_fits_80_columns_and_has_no_escape_codes() -> None:
    done = run("--once")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("policy default, DryRun")
    assert [line for line in lines if len(line) > 80 or ESCAPE in line] == []
    for part in ("NUMA node 0: ", "triggers", "decision", "candidates"):
        assert any(line.startswith(part) for line in lines), part


def test_the_json_of_this_machine_agrees_with_its_zoneinfo() -> None:
    view = json.loads(run("--once", "--json").stdout)
    text = Path("/proc/zoneinfo").read_text()
    managed = [int(number) for number in re.findall(r"^        managed  (\d+)$", text, re.MULTILINE)]
    assert [zone["managedPages"] for node in view["nodes"] for zone in node["zones"]] == managed
    counted = [zone for node in view["nodes"] for zone in node["zones"] if zone["counted"]]
    assert counted
    for zone in counted:
        raw_min = zone["minPages"] - (zone["boostPages"] or 0)
        half = raw_min - raw_min // 2
        assert zone["linePages"]["AtomicReserve"] == half + zone["protectionPages"]
        assert zone["usablePages"] == zone["freePages"] - zone["freeCmaPages"]
        assert zone["errorPages"] > 0
    assert view["decision"] == {"action": None, "reason": "NoPressure", "message": "no trigger is active"}


def test_a_capture_under_its_line_is_shown_below_with_nothing_left(proc: Path) -> None:
    shutil.copy(CAPTURES / "zoneinfo-6.1-guest-1node-below-half.txt", proc / "zoneinfo")
    text = run("--once", "--proc-root", proc).stdout
    assert "NUMA node 0: BELOW AtomicReserve; nothing left to " in text
    view = json.loads(run("--once", "--json", "--proc-root", proc).stdout)
    (node,) = view["nodes"]
    assert node["belowLines"] == ["High", "Low", "Min", "AtomicReserve"]
    assert node["headroomPages"] == 0


def test_a_lasting_breach_becomes_decisions_and_each_is_logged_once(proc: Path) -> None:
    shutil.copy(CAPTURES / "zoneinfo-6.1-guest-1node-below-half.txt", proc / "zoneinfo")
    done = run("--duration", "2.6", "--interval", "0.1", "--json", "--proc-root", proc)
    assert done.returncode == 0, done.stderr
    views = [json.loads(line) for line in done.stdout.splitlines()]
    last = views[-1]
    assert {each["name"]: each["status"] for each in last["triggers"]}["drained"] == "Active"
    assert [text.split()[1] for text in last["recentDecisions"]] == ["Taint"]
    assert {view["decision"]["reason"] for view in views[-2:]} == {"NoVictim"}
    assert re.search(r"watched for \d+\.\d+ s: \d+ samples, 0 unreadable, 1 episodes", done.stderr)


def test_absent_sources_are_told_with_their_reason(proc: Path) -> None:
    text = run("--once", "--proc-root", proc).stdout
    assert "stalled   Unknown" in text
    assert "pressure/memory: no such file" in " ".join(text.split())
    view = json.loads(run("--once", "--json", "--proc-root", proc).stdout)
    assert view["psi"]["node"]["absent"]["reason"] == "NotPresent"


def test_a_log_gets_a_block_at_a_change_and_none_without_one(proc: Path) -> None:
    done = run("--duration", "1", "--interval", "0.1", "--proc-root", proc)
    assert done.stdout.count("policy default, DryRun") == 1
    done = run("--duration", "1", "--interval", "0.1", "--log-every", "0.3", "--proc-root", proc)
    assert 2 <= done.stdout.count("policy default, DryRun") <= 5
    assert ESCAPE not in done.stdout


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_is_redrawn_in_place_and_ctrl_c_ends_it_with_a_summary(no_color: bool) -> None:
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "LINES": "50", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    if no_color:
        environment["NO_COLOR"] = "1"
    arguments = [SCRIPT, "run", "--policy", DEFAULT, "--interval", "0.1"]
    process = subprocess.Popen(arguments, stdout=slave, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(slave)
    seen = ""
    try:
        deadline, readable = time.monotonic() + 30, select.poll()
        readable.register(master, select.POLLIN)
        while seen.count("policy default") < 3 and time.monotonic() < deadline:
            if readable.poll(1000):
                seen += os.read(master, 65536).decode()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        seen += os.read(master, 65536).decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 0
    assert errors.startswith("watched for ")
    assert "Traceback" not in errors
    assert f"{ESCAPE}[" in seen
    assert re.search(r"\x1b\[\d+A", seen), "moves up to draw over the last view"
    assert seen.endswith(f"{ESCAPE}[?25h"), "gives the cursor back"
    assert bool(re.search(r"\x1b\[\d+m", seen)) is not no_color


def broken(proc: Path, change: str) -> Path:
    """The tree with one thing wrong, and the root to use."""
    zoneinfo = proc / "zoneinfo"
    text = zoneinfo.read_text()
    match change:
        case "empty directory":
            empty = proc.parent / "empty"
            empty.mkdir()
            return empty
        case "file":
            return zoneinfo
        case "missing":
            return proc.parent / "nowhere"
        case "negative":
            zoneinfo.write_text(re.sub(r"        min      \d+", "        min      -5", text, count=1))
        case "truncated":
            zoneinfo.write_text(text[: len(text) // 2])
        case "nothing":
            zoneinfo.write_text("")
        case "binary":
            zoneinfo.write_bytes(bytes(range(256)) * 40)
        case "another file":
            zoneinfo.write_text("MemTotal:  500000 kB\n")
        case "meminfo in MB":
            (proc / "meminfo").write_text((proc / "meminfo").read_text().replace("kB", "MB"))
        case "no meminfo":
            (proc / "meminfo").unlink()
    return proc


FOREIGN = {
    "empty directory": "empty/zoneinfo: no such file; --proc-root must be the /proc of a Linux machine",
    "file": "zoneinfo: is not a directory; name the directory where the host's tree is mounted",
    "missing": "nowhere: is not there, or its parents may not be entered; name the directory",
    "negative": "proc/zoneinfo: line 48: 'min      -5': expected 'min' and a page count from 0 to 2^52",
    "truncated": "proc/zoneinfo: line ",
    "nothing": "proc/zoneinfo: line 1: 'end of text': expected ",
    "binary": "proc/zoneinfo: line 1: ",
    "another file": "zoneinfo: line 1: 'MemTotal:  500000 kB': expected 'Node N, zone NAME'",
    "meminfo in MB": "proc/meminfo: meminfo line 1: 'MemTotal:         500000 MB': expected ",
    "no meminfo": "meminfo: no such file; --proc-root must be the /proc of a Linux machine",
}


@pytest.mark.parametrize(("change", "message"), FOREIGN.items(), ids=FOREIGN.keys())
def test_a_foreign_proc_is_refused_with_file_and_line(proc: Path, change: str, message: str) -> None:
    done = run("--once", "--proc-root", broken(proc, change))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--proc-root", "--sys-root", "--cgroup-root"])
def test_a_root_that_is_not_there_is_named(option: str) -> None:
    done = run("--once", option, "/nowhere")
    assert done.returncode == 2
    assert f"{option} /nowhere: is not there" in done.stderr


def test_a_directory_that_is_no_sys_is_refused(tmp_path: Path) -> None:
    done = run("--once", "--sys-root", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--sys-root {tmp_path}: holds no devices/system, so it is not a /sys" in done.stderr


@pytest.fixture
def shared(proc: Path) -> Iterator[Path]:
    """A directory that every user may read, with the default policy and the tree of `proc`."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copy(DEFAULT, directory / "default.yaml")
        shutil.copytree(proc, directory / "proc")
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield directory


@pytest.mark.needs("root")
def test_a_user_without_rights_sees_this_machine_too(shared: Path) -> None:
    done = run_as_nobody(["run", "--policy", f"{shared}/default.yaml", "--once", "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"]["reason"] == "NoPressure"


@pytest.mark.needs("root")
@pytest.mark.parametrize("unreadable", ["zoneinfo", "meminfo"])
def test_a_user_who_may_not_read_a_source_is_told_which(shared: Path, unreadable: str) -> None:
    (shared / "proc" / unreadable).chmod(0o600)
    done = run_as_nobody(["run", "--policy", f"{shared}/default.yaml", "--once", "--proc-root", f"{shared}/proc"])
    assert done.returncode == 2
    assert f"{shared}/proc/{unreadable}: Permission denied" in done.stderr
    assert "readable for user 65534" in done.stderr


@pytest.mark.needs("root")
def test_a_tree_that_may_not_be_entered_is_named(shared: Path) -> None:
    (shared / "proc").chmod(0o700)
    done = run_as_nobody(["run", "--policy", f"{shared}/default.yaml", "--once", "--proc-root", f"{shared}/proc"])
    assert done.returncode == 2
    assert f"{shared}/proc/zoneinfo: Permission denied" in done.stderr


@pytest.mark.needs("root")
@pytest.mark.parametrize("subcommand", ["run", "replay"])
def test_a_policy_that_may_not_be_read_is_named(shared: Path, subcommand: str) -> None:
    policy = shared / "default.yaml"
    policy.chmod(0o600)
    done = run_as_nobody([subcommand, "--policy", str(policy), *(["-"] if subcommand == "replay" else ["--once"])])
    assert done.returncode == 2
    assert f"{policy}: cannot read the policy: Permission denied" in done.stderr


@pytest.mark.needs("root")
def test_a_recording_that_may_not_be_read_or_written_is_named(shared: Path) -> None:
    recording = shared / "r.csv"
    recording.touch(mode=0o600)
    done = run_as_nobody(["replay", "--policy", f"{shared}/default.yaml", str(recording)])
    assert (done.returncode, "r.csv: cannot read the recording: Permission denied" in done.stderr) == (2, True)
    done = run_as_nobody(["record", "--seconds", "0.1", "--output", f"{shared}/new.csv"])
    assert (done.returncode, "new.csv: cannot write: Permission denied" in done.stderr) == (2, True)


def enforcing(tmp_path: Path) -> Path:
    """The default policy in mode Enforce, for cgroups without memory figures, pods just made, and a test in a hurry."""
    text = DEFAULT.read_text()
    for old, new in (
        ("mode: DryRun", "mode: Enforce"),
        ("minRelief: 64Mi", "minRelief: 0"),
        ("minAgeSeconds: 60", "minAgeSeconds: 0"),
        ("belowMilliseconds: 2000", "belowMilliseconds: 500"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path / "enforce.yaml"
    path.write_text(text)
    return path


def test_enforce_needs_a_policy_that_means_it() -> None:
    done = run("--once", "--enforce")
    assert done.returncode == 2
    assert "--enforce: the policy's mode is DryRun; write spec.mode: Enforce to mean it" in done.stderr


def test_enforce_is_refused_on_a_kubelets_pods(tmp_path: Path) -> None:
    (tmp_path / "cgroup" / "kubepods" / "besteffort" / "podabc").mkdir(parents=True)
    arguments = [SCRIPT, "run", "--policy", enforcing(tmp_path), "--enforce", "--cgroup-root", tmp_path / "cgroup"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "holds a kubelet's pods, and what protects them is known to the API server only" in done.stderr


def cgroup2_root() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(where)
    return None


@pytest.fixture
def victim() -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    """A directory of one pod with one container in which a real process sleeps, in the real v2 tree."""
    root = cgroup2_root()
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no writable cgroup v2 tree is mounted")
    base = root / f"memorypressure-test-{os.getpid()}"
    container = base / "pod11111111-2222-3333-4444-555555555555" / "c0ffee"
    container.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "600"])
    (container / "cgroup.procs").write_text(str(process.pid))
    try:
        yield base, process
    finally:
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while (container / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        for directory in (container, container.parent, base):
            directory.rmdir()


def watch_victim(victim: "tuple[Path, subprocess.Popen[bytes]]", proc: Path, *options: object) -> list[dict[str, Any]]:
    base, _ = victim
    shutil.copy(CAPTURES / "zoneinfo-6.1-guest-1node-below-half.txt", proc / "zoneinfo")
    words = [*options, "--json", "--interval", "0.1", "--duration", "2", "--proc-root", proc, "--cgroup-root", base]
    done = subprocess.run([SCRIPT, "run", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.needs("root")
def test_enforce_kills_a_real_process_once_and_then_cools_down(
    victim: "tuple[Path, subprocess.Popen[bytes]]", proc: Path, tmp_path: Path
) -> None:
    views = watch_victim(victim, proc, "--policy", enforcing(tmp_path), "--enforce")
    assert victim[1].wait(timeout=5) == -signal.SIGKILL
    acts = [text for text in views[-1]["recentDecisions"] if " Kill " in text]
    assert len(acts) == 1
    assert "Killed: kill " in acts[0]
    assert views[-1]["decision"]["reason"] == "Cooldown"


@pytest.mark.needs("root")
def test_without_enforce_the_same_policy_kills_nothing(
    victim: "tuple[Path, subprocess.Popen[bytes]]", proc: Path, tmp_path: Path
) -> None:
    views = watch_victim(victim, proc, "--policy", enforcing(tmp_path))
    assert victim[1].poll() is None
    assert {view["policy"]["mode"] for view in views} == {"DryRun"}
    acts = [text for text in views[-1]["recentDecisions"] if " Kill " in text]
    assert len(acts) == 1
    assert "WouldKill: would kill " in acts[0]
