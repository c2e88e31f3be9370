"""Kills of the last hour on the pods' cgroup directory: what another boot or hand wrote there counts nothing."""

import os
from pathlib import Path

import pytest
from support.cgrouptree import CgroupTree

from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.clocks import boot_ns, read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.sources import HostRoots
from memorypressure_agent.sentinel.kill_marks import MOST_TIMES, NAME, KillMarks
from memorypressure_agent.sentinel.service import Service
from memorypressure_agent.sentinel.settings import SentinelSettings

BOOT = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = CgroupTree(tmp_path).pods
    try:
        os.setxattr(made, NAME, b"x")
        os.removexattr(made, NAME)
    except OSError as error:
        pytest.skip(f"{made}: no extended attributes here: {error.strerror}")
    return made


def marks(directory: Path, boot: str | None = BOOT) -> KillMarks:
    return KillMarks(PodsTree(str(directory.parent)), boot)


def test_times_are_kept_once_in_order_and_at_most_64(directory: Path) -> None:
    kept = marks(directory)
    assert kept.read(10**9) == ()
    assert kept.add((5, 3), 10**9) == ""
    assert kept.add((3, 7), 10**9) == ""
    assert marks(directory).read(10**9) == (3, 5, 7)
    assert kept.add(tuple(range(100, 100 + 2 * MOST_TIMES)), 10**9) == ""
    assert kept.read(10**9) == tuple(range(100 + MOST_TIMES, 100 + 2 * MOST_TIMES))


def test_times_of_the_future_do_not_count(directory: Path) -> None:
    kept = marks(directory)
    kept.add((5, 700), 1000)
    assert kept.read(100) == (5,)


@pytest.mark.parametrize(
    "value", [b"", b"\xff\xfe", b"another-boot 5", BOOT.encode() + b" 5 x", BOOT.encode() + b" -5", b"5 6 7"]
)
def test_what_is_not_understood_counts_nothing(directory: Path, value: bytes) -> None:
    os.setxattr(directory, NAME, value)
    assert marks(directory).read(10**9) == ()


def test_without_a_directory_or_a_boot_id_nothing_is_kept(directory: Path, tmp_path: Path) -> None:
    assert "no pods' cgroup" in marks(directory, None).add((1,), 5)
    assert "no pods' cgroup" in KillMarks(PodsTree(str(tmp_path / "missing")), BOOT).add((1,), 5)
    assert marks(directory, None).read(5) == ()


def test_a_kill_that_the_process_which_counted_it_did_not_put_down_is_put_down_by_the_next(
    directory: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "journal")
    journal = Journal(path, read_boot_id())
    journal.count_kill(boot_ns())
    journal.close()  # and the process is gone
    settings = SentinelSettings(HostRoots(cgroup=str(directory.parent)), None, path)
    Service(settings, Journal(path, read_boot_id()))
    assert len(marks(directory, read_boot_id()).read(boot_ns())) == 1
