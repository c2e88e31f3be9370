"""What the sentinel says of its own protection is what the kernel says of the process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sentinellab import SentinelLab, eventually


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SentinelLab]:
    (tmp_path / "cgroup").mkdir()
    made = SentinelLab(tmp_path, tmp_path / "cgroup")
    yield made
    made.close()


def test_memory_and_real_time_are_said_to_be_there_where_they_are_and_nowhere_else(lab: SentinelLab) -> None:
    sentinel = lab.start("--realtime")
    eventually(lambda: "MemoryLocked" in lab.status().get("capabilities", {}), "it has settled")
    capabilities = lab.status()["capabilities"]
    status = Path(f"/proc/{sentinel.pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    locked, resident = [int(fields[name].split()[0]) for name in ("VmLck", "VmRSS")]
    if capabilities["MemoryLocked"]:
        assert locked == 0
        assert "needs IPC_LOCK or a higher RLIMIT_MEMLOCK" in capabilities["MemoryLocked"]
    else:
        assert locked >= resident, "all that is there is locked, and what will be"
    realtime = os.sched_getscheduler(sentinel.pid) == os.SCHED_FIFO
    assert realtime == (capabilities["Realtime"] == "")
    assert realtime or "needs SYS_NICE" in capabilities["Realtime"]
