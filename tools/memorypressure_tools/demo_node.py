"""The demo's second node: its own proc and sys, a cgroup v2 tree of its own, and a real process in it as the victim."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from memorypressure_tools.floodplayer import FakeNode, timeline

CGROUP_MOUNTS: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
GONE_SECONDS: Final = 5.0
VICTIM: Final = """
import subprocess, sys, time
held = bytearray(64 << 20)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
time.sleep(3600)
"""


class DemoNodeError(Exception):
    """What this machine lacks for the demo's second node."""


def cgroup_mount() -> Path:
    """The cgroup v2 mount; raises DemoNodeError where none can be written or it has no `cgroup.kill` (kernel 5.14)."""
    for mount in CGROUP_MOUNTS:
        if not (mount / "cgroup.procs").exists() or not os.access(mount, os.W_OK):
            continue
        probe = mount / f"memorypressure-probe-{os.getpid()}"
        try:
            probe.mkdir()
        except OSError:
            continue
        try:
            if (probe / "cgroup.kill").exists() and (probe / "cgroup.procs").exists():
                return mount
        finally:
            probe.rmdir()
    raise DemoNodeError("a cgroup v2 tree that may be written, with cgroup.kill (kernel 5.14 or newer, root)")


class Victim:
    """Two real processes in `<root>/kubepods/burstable/pod<uid>/<container>`; `close` leaves no cgroup behind."""

    def __init__(self, root: Path, pod_uid: str) -> None:
        self._pod = root / "kubepods" / "burstable" / f"pod{pod_uid}"
        self.cgroup = self._pod / secrets.token_hex(32)
        self.cgroup.mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", VICTIM],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: (self.cgroup / "cgroup.procs").write_text("0"),  # noqa: PLW1509 -- no threads hold locks it needs
        )

    @property
    def pid(self) -> int:
        """Process id of the first of the two."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def ended_by(self) -> str:
        """How it ended, such as `SIGKILL`; empty while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Ends what is left and removes the cgroups."""
        with contextlib.suppress(OSError):
            (self.cgroup / "cgroup.kill").write_text("1")
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(GONE_SECONDS)
        end = time.monotonic() + GONE_SECONDS
        for directory in (self.cgroup, self._pod, self._pod.parent, self._pod.parent.parent, self._pod.parents[2]):
            while directory.exists() and time.monotonic() < end:
                try:
                    directory.rmdir()
                except OSError:
                    time.sleep(0.05)


class FloodNode:
    """The files of the node and the flood in them, which begins with `flood()` and ends when the victim is gone."""

    def __init__(self, directory: Path, idle_capture: Path, flood_capture: Path) -> None:
        self.files = FakeNode(directory, idle_capture)
        self._flood_capture = flood_capture
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.ended = threading.Event()

    def flood(self, victim: Victim, slowdown: float, skip_seconds: float) -> None:
        """Plays the recording from `skip_seconds` on, in a thread; the node is idle again when the victim is gone."""

        def keep_on() -> bool:
            return victim.alive() and not self._stopping.is_set()

        def play() -> None:
            rows = (row for row in timeline(self._flood_capture) if row.at_seconds >= skip_seconds)
            self.files.play(rows, slowdown, keep_on)
            self.files.idle()
            self.ended.set()

        self._thread = threading.Thread(target=play, name="flood", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the flood; the files stay."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self.files.close()
