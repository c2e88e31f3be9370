"""Options and directories that are no good end the real sentinel at once, with a sentence and code 2."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.sentinellab import SCRIPT

from memorypressure_tools.unprivileged import run_as_nobody


@pytest.mark.needs("root")
def test_a_user_without_rights_is_told_which_directory_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        ended = run_as_nobody(["sentinel", "--journal", str(directory / "journal")])
        assert ended.returncode == 2
        assert "its directory cannot be written to" in ended.stderr
        assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--journal", "/nonexistent/journal"], "--journal /nonexistent/journal: there is no directory /nonexistent"),
        (["--journal", "{tmp}"], "is a directory; name a file"),
        (["--journal", "{tmp}/j", "--proc-root", "{tmp}"], "holds no zoneinfo, so it is not a /proc"),
        (["--journal", "{tmp}/j", "--proc-root", "{tmp}/missing"], "--proc-root"),
        (["--journal", "{tmp}/j", "--sys-root", "{tmp}"], "holds no devices/system, so it is not a /sys"),
        (["--journal", "{tmp}/j", "--cgroup-root", "{tmp}/missing"], "give the cgroup v2 mount"),
        (["--journal", "{tmp}/j", "--orders", "{tmp}/missing/o"], "there is no directory {tmp}/missing"),
        (["--journal", "{tmp}/j", "--own-pod-uid", "../x"], "--own-pod-uid '../x': not a pod's UID"),
        (["--journal", "{tmp}/j", "--max-kills-per-hour", "65"], "not a whole number from 0 to 64"),
        (["--journal", "{tmp}/j", "--min-cooldown-seconds", "0"], "not a whole number from 1 to 86400"),
        ([], "--journal"),
    ],
)
def test_bad_options_end_with_code_2_and_a_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    ended = subprocess.run([SCRIPT, "sentinel", *given], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert words.replace("{tmp}", str(tmp_path)) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_journal_is_not_put_in_the_place_of_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "journal"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("elsewhere")
    before = path.lstat()
    ended = subprocess.run(
        [SCRIPT, "sentinel", "--journal", str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 2
    assert f"--journal {path}: is a" in ended.stderr
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert list(tmp_path.iterdir()) == [path]
