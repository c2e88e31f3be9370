"""The operator as a real process: its log, its probes and metrics, its end."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.waiting import WAIT_SECONDS, wait_for

PATIENCE_SECONDS = 30.0  # with an answer that is due at once: the machine may stand still for seconds
ANOTHER_BOOT_CLOCK = ("unshare", "--time", "--boottime")
Object = dict[str, Any]


@functools.cache
def boot_clock_moves() -> bool:
    """Whether a process can be given another CLOCK_BOOTTIME: as root, in a time namespace that exec enters (6.2)."""
    if shutil.which("unshare") is None:
        return False
    ask = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME) > 1 << 30)"
    answer = subprocess.run(
        [*ANOTHER_BOOT_CLOCK, str(1 << 30), sys.executable, "-c", ask], capture_output=True, check=False
    )
    return answer.stdout.strip() == b"True"


class OperatorProcess:
    """`memorypressure-operator run` as a child process, with its log."""

    def __init__(
        self,
        log: Path,
        arguments: list[str],
        environment: dict[str, str] | None = None,
        *,
        booted_seconds_before: int = 0,
    ) -> None:
        """`booted_seconds_before`: as on a machine that was started so long before this one, see `boot_clock_moves`."""
        self.log = log
        self._file = log.open("ab")
        words = arguments if arguments[:1] == ["cleanup"] else ["run", *arguments]
        command = [str(Path(sys.executable).parent / "memorypressure-operator"), *words]
        if booted_seconds_before:
            command = [*ANOTHER_BOOT_CLOCK, str(booted_seconds_before), *command]
        clean = {k: v for k, v in os.environ.items() if k != "KUBECONFIG" and not k.startswith("MPO_")}
        self.child = subprocess.Popen(
            command, stdout=self._file, stderr=self._file, env=clean | (environment or {}), start_new_session=True
        )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ports(self) -> tuple[int, int]:
        """(metrics, health)."""
        found = wait_for(self._ports, f"the operator's ports in its log:\n{self.text()}")
        return int(found.group(1)), int(found.group(2))

    def _ports(self) -> re.Match[str] | None:
        if self.child.poll() is not None:
            raise AssertionError(f"the operator ended with {self.child.returncode}:\n{self.text()}")
        return re.search(r"metrics port (\d+), health port (\d+)", self.text())

    def probe(self, path: str) -> tuple[int, Object]:
        url = f"http://127.0.0.1:{self.ports()[1]}{path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports()[0]}/metrics", timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        for line in self.metrics().splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and dict(re.findall(r'(\w+)="([^"]*)"', found.group(1) or "")) == labels:
                return float(found.group(2))
        raise AssertionError(f"no series {name}{labels}")

    def ready(self, seconds: float = WAIT_SECONDS) -> None:
        wait_for(lambda: self.probe("/readyz")[0] == 200, "the operator is ready", seconds)

    def leads(self, seconds: float = WAIT_SECONDS) -> None:
        wait_for(lambda: self.probe("/healthz")[1]["leader"], "the operator holds the Lease", seconds)

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)
        self._file.close()

    def stop(self, seconds: float = 20.0) -> int:
        """Its exit code after SIGTERM."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(10)
            raise AssertionError(f"no end {seconds} s after SIGTERM:\n{self.text()[-3000:]}") from None
        finally:
            self._file.close()
        return code
