"""What a running sentinel costs: memory, CPU far from every line, start; beside a bare interpreter that sleeps.

    .venv/bin/python tests/bench/sentinel.py [--seconds 20] [--image build/images/agent.oci.tar]

Starts the console script on this machine's own /proc and /sys, with the journal on a tmpfs, and reads what the kernel
counted. With --image also the one in the agent's image (`make images`; needs root), beside its own bare interpreter.
Prints a Markdown table on a terminal, else one JSON object a line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]

from support.cgrouptree import MIB, CgroupTree, Memory  # noqa: E402
from support.imagetree import ImageTree  # noqa: E402
from support.sentinellab import SCRIPT, candidate, orders  # noqa: E402

from memorypressure.orders import encode  # noqa: E402
from memorypressure_agent.host.journal_format import JournalError  # noqa: E402
from memorypressure_agent.host.journal_reader import JournalReader  # noqa: E402

SETTLE_SECONDS = 8.0
"""More than the sentinel's three rounds a second apart, after which it gives start-up's pages back."""
CANDIDATES = 30
SLEEPER = "import time\nwhile True: time.sleep(1)"
BARE = ("python3", "-I", "-S", "-c", SLEEPER)
IMAGE_SENTINEL = ("memorypressure-agent", "sentinel", "--journal=/run/journal", "--cgroup-root=/run/cgroup")


@dataclass(frozen=True)
class Row:
    """One measured value, with its limit where it has one."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    def markdown(self) -> str:
        """The row of a table."""
        limit = f"{self.limit:g} {self.unit}" if self.limit is not None else ""
        verdict = "" if self.limit is None else "pass" if self.value <= self.limit else "MISS"
        return f"| {self.name} | {self.value:.4g} {self.unit} | {limit} | {verdict} |"


def private_mib(pid: int) -> float:
    """VmRSS - RssShmem, in MiB."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads, by the scheduler's own nanosecond count (the tick count of /proc/pid/stat is 10 ms)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def cpu_percent(pid: int, seconds: float) -> float:
    """Share of one core over that time, in percent."""
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - began)


def first_status_seconds(journal: Path, began: float) -> float:
    """From the start of the process to its first status in the journal."""
    with JournalReader(str(journal)) as reader:
        while time.monotonic() - began < 30:
            try:
                reader.refresh()
                if reader.status() is not None:
                    return time.monotonic() - began
            except JournalError:
                pass  # not made yet
            time.sleep(0.005)
    raise SystemExit("sentinel: no status within 30 s")


def measured(directory: Path, name: str, options: list[str], seconds: float) -> list[Row]:
    """The rows of one sentinel, started with these options."""
    journal = directory / f"journal-{len(options)}"
    began = time.monotonic()
    process = subprocess.Popen([SCRIPT, "sentinel", f"--journal={journal}", *options], stderr=subprocess.DEVNULL)
    try:
        start = first_status_seconds(journal, began)
        time.sleep(SETTLE_SECONDS)
        cpu = cpu_percent(process.pid, seconds)
        memory = private_mib(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=10)
    return [
        Row(f"sentinel {name}: VmRSS - RssShmem", memory, "MiB", 12),
        Row(f"sentinel {name}: CPU far from a line", cpu, "%", 0.25),
        Row(f"sentinel {name}: start to first status", start * 1000, "ms"),
    ]


def baseline(seconds: float) -> list[Row]:
    """The same figures of an interpreter without site that only sleeps."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEPER])
    try:
        time.sleep(2)
        cpu = cpu_percent(process.pid, seconds)
        memory = private_mib(process.pid)
    finally:
        process.kill()
        process.wait(timeout=10)
    return [
        Row("bare interpreter, sleeping 1 s at a time: VmRSS - RssShmem", memory, "MiB"),
        Row("bare interpreter, sleeping 1 s at a time: CPU", cpu, "%"),
    ]


def in_image(directory: Path, archive: Path, seconds: float) -> list[Row]:
    """Memory and CPU of the image's sentinel, observing, as uid 0, and of the image's bare interpreter.

    The image's files are on disk, where they count as files; `directory` is the tmpfs for the journal.
    """
    with tempfile.TemporaryDirectory() as disk:
        tree = ImageTree(archive, Path(disk))
        tree.run_directory = directory
        return [row for words in (BARE, IMAGE_SENTINEL) for row in _in_image(tree, words, seconds)]


def _in_image(tree: ImageTree, words: tuple[str, ...], seconds: float) -> list[Row]:
    name = "sentinel observing" if words is IMAGE_SENTINEL else "bare interpreter"
    with tree.running(*words, uid=0) as process:
        time.sleep(SETTLE_SECONDS)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        pid = int(children[0])
        cpu = cpu_percent(pid, seconds)
        limit = 12 if words is IMAGE_SENTINEL else None
        return [
            Row(f"image, {name}: VmRSS - RssShmem", private_mib(pid), "MiB", limit),
            Row(f"image, {name}: CPU far from a line", cpu, "%", 0.25),
        ]


def main() -> int:
    """Prints the rows; 1 when one is above its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long CPU is measured (default: 20)")
    parser.add_argument("--image", type=Path, metavar="ARCHIVE", help="the agent's image, measured as well")
    options = parser.parse_args()
    seconds = options.seconds
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.TemporaryDirectory(dir=place) as name:
        directory = Path(name)
        tree = CgroupTree(directory / "cgroup")
        pods = [candidate(f"8f1f6d1e-6ad0-4a7e-9f0e-{number:012d}", f"pod-{number}") for number in range(CANDIDATES)]
        for pod in pods:
            tree.add_pod(pod.uid)
            tree.add_container(pod.uid, "c0de01", Memory(anon=100 * MIB))
        (directory / "orders.json").write_bytes(encode(orders(*pods)))
        rows = [
            *baseline(min(seconds, 5)),
            *measured(directory, "observing", [], seconds),
            *measured(
                directory,
                f"with orders and {CANDIDATES} candidates",
                [f"--orders={directory}/orders.json", f"--cgroup-root={directory}/cgroup"],
                seconds,
            ),
        ]
        if options.image is not None:
            (directory / "image" / "cgroup").mkdir(parents=True)
            rows += in_image(directory / "image", options.image, seconds)
    if sys.stdout.isatty():
        print("| measured | value | limit | |", "|---|---:|---:|---|", *(row.markdown() for row in rows), sep="\n")
    else:
        for row in rows:
            print(json.dumps(asdict(row)))
    return 0 if all(row.limit is None or row.value <= row.limit for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
