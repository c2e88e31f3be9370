"""A journal on a real tmpfs that is full, or fills up: refused at the start with the reason, harmless afterwards."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sentinellab import SentinelLab, candidate, eventually, orders

from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import TOTAL_BYTES

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"


def mounted(directory: Path, size_bytes: int) -> str:
    """Mounts a tmpfs of that size; empty, or why that cannot be done."""
    directory.mkdir()
    if os.geteuid() != 0:
        return "root: a tmpfs can only be mounted as root"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)], capture_output=True, check=False
    )
    return done.stderr.decode().strip()


@pytest.fixture
def tmpfs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    directory = tmp_path / "tmpfs"
    why = mounted(directory, request.param)
    if why:
        pytest.skip(why)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> None:
    """Leaves not one byte."""

    def write_until_it_fails() -> None:
        while True:
            file.write(bytes(1 << 16))

    with (directory / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_until_it_fails()


SMALL = TOTAL_BYTES // 2
ROOMY = 3 * TOTAL_BYTES


@pytest.mark.parametrize("tmpfs", [SMALL], indirect=True)
def test_a_tmpfs_without_room_for_the_journal_is_refused_with_the_reason(tmpfs: Path, tmp_path: Path) -> None:
    (tmp_path / "cgroup").mkdir()
    lab = SentinelLab(tmp_path, tmp_path / "cgroup")
    lab.journal_path = tmpfs / "journal"
    sentinel = lab.start()
    assert sentinel.wait(timeout=20) == 1
    assert "No space left on device" in lab.log()
    assert "Traceback" not in lab.log()
    assert {path.name for path in tmpfs.iterdir()} <= {"journal.lock"}, "nothing half is left"
    lab.close()


@pytest.mark.parametrize("tmpfs", [ROOMY], indirect=True)
def test_a_tmpfs_that_fills_up_under_a_running_sentinel_harms_nothing(tmpfs: Path, tmp_path: Path) -> None:
    (tmp_path / "cgroup").mkdir()
    lab = SentinelLab(tmp_path, tmp_path / "cgroup")
    lab.journal_path = tmpfs / "journal"
    lab.reader.path = str(lab.journal_path)
    lab.give(orders(candidate(UID, "web")))
    sentinel = lab.start()
    try:
        eventually(lab.armed, "the orders are taken over")
        fill(tmpfs)
        lab.flood()
        eventually(lambda: lab.records("episode"), "decisions, samples and status go on: the journal was allocated")
        before = lab.status()["counters"]["rounds"]
        eventually(lambda: lab.status()["counters"]["rounds"] > before, "its status goes on")
        assert sentinel.poll() is None
        sentinel.kill()
        sentinel.wait(timeout=5)
        lab.start()
        eventually(lambda: lab.status()["pid"] != sentinel.pid, "the next one continues the journal on the full tmpfs")
        assert "continues the journal" in lab.log()
    finally:
        lab.close()


@pytest.mark.parametrize("tmpfs", [TOTAL_BYTES + (1 << 20)], indirect=True)
def test_a_damaged_journal_on_a_full_tmpfs_is_replaced_or_refused_never_used(tmpfs: Path) -> None:
    path = tmpfs / "journal"
    boot = "1" * 36
    Journal(str(path), boot).close()
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"MPJOURNL" + bytes(200))
    fill(tmpfs)
    with pytest.raises(OSError, match="No space left") as raised:
        Journal(str(path), boot)
    assert raised.value.errno == errno.ENOSPC
    assert path.exists(), "what was there is left for whoever wants to look at it"
    (tmpfs / "filler").unlink()
    path.unlink()
    made = Journal(str(path), boot)
    assert json.dumps(made.grants.kills_total) == "0"
    made.close()
