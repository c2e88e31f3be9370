"""What a kill gives back on the real kernel, and how soon: cgroup.kill alone, and with process_mrelease."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sentinellab import RealPods, SentinelLab, candidate, eventually, grant_for, orders, real_pods

from memorypressure_agent.sentinel.process import mrelease_capability, release_memory

MIB = 1 << 20
HELD_BYTES = 256 * MIB
VICTIM = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
HOLDER = f"""
import mmap, sys, time
held = mmap.mmap(-1, {HELD_BYTES}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for offset in range(0, len(held), 4096):
    held[offset] = 1
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def pods() -> Iterator[RealPods]:
    made = real_pods()
    if isinstance(made, str):
        pytest.skip(made)
    yield from made


def resident_bytes(pid: int) -> int:
    """What the process holds of memory; 0 once its address space is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_memory_comes_back_by_process_mrelease_while_the_victim_cannot_exit() -> None:
    if mrelease_capability():
        pytest.skip(mrelease_capability())
    if os.geteuid() != 0:
        pytest.skip("root: only a traced process can be kept from exiting")
    holder = subprocess.Popen([sys.executable, "-IS", "-c", HOLDER], stdout=subprocess.PIPE)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert resident_bytes(holder.pid) > HELD_BYTES
        # A traced process that is killed stops once more on its way out (PTRACE_O_TRACEEXIT): dying, and not gone,
        # as a victim is whose exit waits for memory itself.
        seize, trace_exit = 0x4206, 0x40
        assert libc.ptrace(seize, holder.pid, None, ctypes.c_void_p(trace_exit)) == 0, os.strerror(ctypes.get_errno())
        os.kill(holder.pid, signal.SIGKILL)
        _, status = os.waitpid(holder.pid, 0x40000000)  # __WALL
        assert os.WIFSTOPPED(status), "it stands still in its exit"
        held = resident_bytes(holder.pid)
        assert held > HELD_BYTES, "a kill alone has given nothing back yet"
        began = time.monotonic()
        assert release_memory(holder.pid) == ""
        left = resident_bytes(holder.pid)
        print(f"{(held - left) / MIB:.0f} MiB came back in {(time.monotonic() - began) * 1000:.1f} ms")
        assert held - left > HELD_BYTES * 0.95
    finally:
        libc.ptrace(17, holder.pid, None, None)  # PTRACE_DETACH
        holder.communicate(timeout=10)


def test_a_kill_by_the_sentinel_ends_a_large_victim_and_tells_when(pods: RealPods, tmp_path: Path) -> None:
    lab = SentinelLab(tmp_path, pods.root)
    pods.add(VICTIM, "c0de01", [sys.executable, "-IS", "-c", HOLDER])
    (victim,) = pods.processes[f"{VICTIM}/c0de01"]
    assert victim.stdout is not None
    assert victim.stdout.readline() == b"ready\n"
    lab.give(orders(candidate(VICTIM, "large"), grant=grant_for(lab.known_past(), ceiling=1)))
    lab.start()
    try:
        eventually(lab.armed, "the orders are taken over")
        assert lab.status()["capabilities"].get("ProcessMrelease", "") == mrelease_capability()
        lab.flood()
        (action,) = eventually(lambda: lab.records("action"), "the kill's end is recorded")
        assert action["record"]["result"] == "Success"
        assert "its cgroup was empty after" in action["outcome"]
        assert resident_bytes(victim.pid) == 0
        latency = eventually(lambda: lab.status()["killLatency"]["count"], "its latency is counted")
        assert latency == 1
        assert lab.status()["killLatency"]["last"]["action"] == action["record"]["id"]
    finally:
        lab.close()
