"""What the reporter costs a node: resident memory, CPU, growth; beside an interpreter with its libraries.

    .venv/bin/python tests/bench/reporter.py

The API server is a stub of this script's own: TLS, a watch that stays open, a plan of 250 pods, answers to patches. The
journal is written by this script as a sentinel under pressure writes it: a status every half second, an action every
five seconds. Somebody scrapes every second. So the process does all that it ever does, and does it often.
"""

import itertools
import json
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]

from support.benchrows import Row, show  # noqa: E402
from support.reporting import (  # noqa: E402
    StubServer,
    answer,
    plan_object,
    state_object,
    under_pressure,
)
from support.sentinellab import candidate  # noqa: E402
from support.sentinellab import orders as orders_of  # noqa: E402

from memorypressure.spec_values import Mode  # noqa: E402
from memorypressure_agent.host.clocks import boot_ns, read_boot_id  # noqa: E402
from memorypressure_agent.host.journal import Journal  # noqa: E402

SETTLED_SECONDS = 5.0
WORK_SECONDS = 35.0
CYCLES = 10_000
SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
LIBRARIES = "import argparse, http.client, json, ssl, threading, wsgiref.simple_server, prometheus_client"
CYCLING = f"""
import sys
from memorypressure_agent.reporter import publisher
publisher.ROUND_SECONDS = 0.0
plain, cycles = publisher.Publisher.write, 0

def counted(self, **how):
    global cycles
    cycles += 1
    if cycles in (1000, 1000 + {CYCLES}):
        with open("/proc/self/status") as file:
            print(file.read().split("VmRSS:")[1].split()[0], flush=True)
    return plain(self, **how)

publisher.Publisher.write = counted
from memorypressure_agent.cli import main
sys.exit(main())
"""


REVIEWED = b'{"status":{"authenticated":true,"allowed":true,"user":{"username":"prometheus","groups":["g"]}}}'


class Stub:
    """The API server's part: one state, one plan, a watch that only says that it is there."""

    def __init__(self, directory: Path) -> None:
        pods = [candidate(f"8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c{number:04x}", f"web-{number}") for number in range(250)]
        orders = orders_of(*pods, mode=Mode.DRY_RUN, node_name="bench")
        self.state = json.dumps(state_object("bench", orders)).encode()
        self.plan = json.dumps(plan_object("bench", orders)).encode()
        self.patches = 0
        self.server = StubServer(directory / "pki", self._handle)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        if handler.command == "PATCH":
            self.patches += 1
            answer(handler, 200, self.state)
        elif handler.command == "POST":
            answer(handler, 201, REVIEWED)
        elif "watch=1" in handler.path:
            self._watch(handler)
        else:
            answer(handler, 200, self.plan if "plans" in handler.path else self.state)

    def _watch(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        event = b'{"type":"MODIFIED","object":' + self.state + b"}\n"
        try:
            while True:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                time.sleep(2.0)
        except OSError:
            handler.close_connection = True


class Sentinel:
    """Writes the journal from a thread."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(str(path), read_boot_id())
        self.written = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on)
        self._thread.start()

    def _write_on(self) -> None:
        while not self._stopping.is_set():
            self.journal.write_status({**under_pressure(), "writtenBootNs": boot_ns()})
            if self.written % 10 == 0:
                record = {
                    "id": f"{self.journal.incarnation[:8]}-a{self.written}",
                    "time": "2027-01-15T08:00:00.000001Z",
                    "action": "Kill",
                    "mode": "DryRun",
                    "result": "Success",
                    "reason": "AtomicReserveBreached",
                }
                self.journal.write_decision({"kind": "action", "record": record, "message": "why " * 50, "outcome": ""})
            self.written += 1
            self._stopping.wait(0.5)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.journal.close()


class Reporter:
    """A reporter process on a journal of its own."""

    def __init__(self, directory: Path, stub: Stub, command: list[Any], *, secure: bool = False) -> None:
        directory.mkdir()
        self.ca_file = stub.server.authority.certificate_file if secure else None
        self.sentinel = Sentinel(directory / "journal")
        (directory / "token").write_text("t")
        options = [
            "--node-name=bench",
            f"--orders={directory}/orders.json",
            f"--journal={directory}/journal",
            f"--server={stub.server.url}",
            f"--token-file={directory}/token",
            f"--ca-file={stub.server.authority.certificate_file}",
            "--metrics-address=127.0.0.1",
            "--metrics-port=0",
        ]
        if secure:
            pair = stub.server.authority.issue("metrics", "agent", names=["127.0.0.1"])
            options += ["--probe-port=0", f"--metrics-tls-cert={pair.certificate}", f"--metrics-tls-key={pair.key}"]
            options.append("--metrics-authorization")
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "reporter", *options], stdout=subprocess.PIPE, stderr=log, text=True
            )

    def scrape(self) -> int:
        """Bytes of /metrics."""
        found = re.search(r"metrics on port (\d+)", self.log.read_text())
        if found is None:
            return 0
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else None
        url = f"{'https' if context else 'http'}://127.0.0.1:{found[1]}/metrics"
        request = urllib.request.Request(url, headers={"Authorization": "Bearer t"})
        with urllib.request.urlopen(request, timeout=10, context=context) as answered:
            return len(answered.read())

    def status(self, field: str) -> float:
        """A size of /proc/<pid>/status in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        self.process.terminate()
        code = self.process.wait(15)
        self.sentinel.close()
        if code != 0:
            raise SystemExit(f"the reporter ended with {code}: {self.log.read_text()}")


def baselines() -> Iterator[Row]:
    """Fresh interpreters, after imports."""
    for name, statement in (
        ("bare interpreter", "pass"),
        ("interpreter with ssl, http.client, prometheus_client", LIBRARIES),
    ):
        program = f"{statement}\nprint(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
        values = [
            int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
            for _ in range(5)
        ]
        yield Row(f"resident memory: {name}", statistics.median(values) / 1024, "MiB")


def working(directory: Path, stub: Stub, *, secure: bool) -> Iterator[Row]:
    """The reporter as it is, for 35 s; `secure`: its metrics over TLS, for those who may read them."""
    reporter = Reporter(directory, stub, [SCRIPT], secure=secure)
    time.sleep(SETTLED_SECONDS)
    early, cpu, size = reporter.status("VmRSS"), reporter.cpu_seconds(), 0
    end = time.monotonic() + WORK_SECONDS - SETTLED_SECONDS
    began = time.monotonic()
    while time.monotonic() < end:
        size = reporter.scrape()
        time.sleep(1.0)
    spent = (reporter.cpu_seconds() - cpu) / (time.monotonic() - began)
    if not size or stub.patches < 3:
        raise SystemExit(f"the reporter did not work: {stub.patches} patches\n{reporter.log.read_text()}")
    yield Row(
        f"reporter under pressure, stub API server{', secure metrics' * secure}: resident memory "
        f"after {WORK_SECONDS:.0f} s",
        reporter.status("VmRSS"),
        "MiB",
        30,
    )
    yield Row("  its peak", reporter.status("VmHWM"), "MiB")
    yield Row(f"  grown since {SETTLED_SECONDS:.0f} s", reporter.status("VmRSS") - early, "MiB")
    yield Row("  CPU, scraped every second", spent * 100, "%")
    reporter.close()


def cycling(directory: Path, stub: Stub) -> Iterator[Row]:
    """Rounds without a pause between them: what each leaves behind."""
    reporter = Reporter(directory, stub, [sys.executable, "-c", CYCLING])
    if reporter.process.stdout is None:
        raise AssertionError
    first, last = (int(reporter.process.stdout.readline()) / 1024 for _ in range(2))
    yield Row(f"reporter: resident memory grown over {CYCLES} rounds", last - first, "MiB", 0.5)
    reporter.close()


def main() -> int:
    """0 when every value is within its limit."""
    with tempfile.TemporaryDirectory(prefix="bench-reporter-") as name:
        place = Path(name)
        stub = Stub(place)
        code = show(
            itertools.chain(
                baselines(),
                working(place / "working", stub, secure=False),
                working(place / "secure", stub, secure=True),
                cycling(place / "cycling", stub),
            )
        )
        stub.server.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
