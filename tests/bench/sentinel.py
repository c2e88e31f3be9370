"""What a running sentinel costs: memory, CPU far from a line and near it, page faults; beside earlyoom and nohang.

    .venv/bin/python tests/bench/sentinel.py [--seconds 20] [--near-seconds 100] [--image build/images/agent.oci.tar]

Starts the console script, far from every line on this machine's own /proc and /sys, near one on the files of a machine
of 2 x 128 GiB, with the journal on a tmpfs, and reads what the kernel counted. earlyoom and nohang are Debian's
packages, run so that they never act. Every 100 ms the sentinel that is held against nohang runs at the same time, has
nohang's interpreter and watches copies of the files of the machine that nohang watches, this one; only their free pages
are others. After `make images`, and as root, also the sentinel in the agent's image, beside its own bare interpreter.
Prints a Markdown table on a terminal, else one JSON object a line.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]

from support import shapes  # noqa: E402
from support.benchrows import Row, show  # noqa: E402
from support.cgrouptree import MIB, CgroupTree, Memory  # noqa: E402
from support.hostnode import HostNode  # noqa: E402
from support.imagetree import ImageTree  # noqa: E402
from support.peers import PYTHON, Peer, peers  # noqa: E402
from support.sentinellab import SCRIPT, candidate, orders  # noqa: E402
from support.shapenode import ShapeNode  # noqa: E402

import memorypressure  # noqa: E402
import memorypressure_agent  # noqa: E402
from memorypressure.gate import gate_thresholds  # noqa: E402
from memorypressure.orders import encode  # noqa: E402
from memorypressure.spec import parse_policy  # noqa: E402
from memorypressure.triggers import watched_lines  # noqa: E402
from memorypressure.zones import parse_zoneinfo  # noqa: E402
from memorypressure_agent.host.journal_format import JournalError  # noqa: E402
from memorypressure_agent.host.journal_reader import JournalReader  # noqa: E402

SETTLE_SECONDS = 8.0
"""More than the sentinel's three rounds a second apart, after which it gives start-up's pages back."""
CANDIDATES = 30
SLEEPER = "import time\nwhile True: time.sleep(1)"
BARE = ("python3", "-I", "-S", "-c", SLEEPER)
IMAGE_SENTINEL = ("memorypressure-agent", "sentinel", "--journal=/run/journal", "--cgroup-root=/run/cgroup")
PLACES = [str(Path(package.__file__ or "").parents[1]) for package in (memorypressure, memorypressure_agent)]
WITH_PATH = "import sys; sys.path[:0] = sys.argv[1:3]; from memorypressure_agent.cli import main; main(sys.argv[3:])"
POLICY = parse_policy(yaml.safe_load((TESTS.parent / "crds/samples/default.yaml").read_text("utf-8")))
MB_LIMIT = 12.0
MOST_BESIDE = 1.5
IMAGE = TESTS.parent / "build" / "images" / "agent.oci.tar"


def private_mb(pid: int) -> float:
    """VmRSS - RssShmem, in millions of bytes."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads, by the scheduler's own nanosecond count (the tick count of /proc/pid/stat is 10 ms)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def page_faults(pid: int) -> int:
    """Page faults of all threads, without and with reading from a disk."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return int(words[7]) + int(words[9])


@dataclass(frozen=True)
class Cost:
    """What a process cost over a time."""

    cpu_percent: float
    page_faults: int
    memory_mb: float


def costs_of(pids: list[int], seconds: float) -> list[Cost]:
    """Each process's share of one core over the same time in percent, page faults in it, and memory at its end."""
    before, began = [(cpu_seconds(pid), page_faults(pid)) for pid in pids], time.monotonic()
    time.sleep(seconds)
    after, elapsed = [cpu_seconds(pid) for pid in pids], time.monotonic() - began
    return [
        Cost(100 * (cpu - cpu_before) / elapsed, page_faults(pid) - faults, private_mb(pid))
        for pid, cpu, (cpu_before, faults) in zip(pids, after, before, strict=True)
    ]


def cost_of(pid: int, seconds: float) -> Cost:
    """The same of one process."""
    return costs_of([pid], seconds)[0]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended at the end."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def counters(journal: Path) -> dict[str, int]:
    """The sentinel's counters; empty before its first status."""
    with JournalReader(str(journal)) as reader:
        try:
            reader.refresh()
            record = reader.status()
        except JournalError:
            return {}
    return dict(record.values["counters"]) if record is not None else {}


def first_status_seconds(journal: Path, began: float) -> float:
    """From the start of the process to its first status in the journal."""
    while time.monotonic() - began < 30:
        if counters(journal):
            return time.monotonic() - began
        time.sleep(0.005)
    raise SystemExit("sentinel: no status within 30 s")


def far(directory: Path, name: str, options: list[str], seconds: float, nohang_mb: float | None) -> Iterator[Row]:
    """The rows of a sentinel on this machine, far from its lines."""
    journal = directory / f"journal-{len(options)}"
    began = time.monotonic()
    with running([str(SCRIPT), "sentinel", f"--journal={journal}", *options]) as process:
        start = first_status_seconds(journal, began)
        time.sleep(SETTLE_SECONDS)
        cost = cost_of(process.pid, seconds)
    limit = MB_LIMIT if nohang_mb is None else min(MB_LIMIT, nohang_mb)
    yield Row(f"sentinel {name}: VmRSS - RssShmem", cost.memory_mb, "MB", limit)
    yield Row(f"sentinel {name}: CPU far from a line", cost.cpu_percent, "%", 0.25)
    yield Row(f"sentinel {name}: start to first status", start * 1000, "ms")


@dataclass(frozen=True)
class Near:
    """A way to be near a line: pages above the highest gate, and how many were lost in the second before."""

    name: str
    cpus: int
    above_gate_pages: int
    lost_pages: int
    cpu_limit: float | None
    faults_limit: float | None = None
    beside: Peer | None = None
    """Who runs at the same time and is the limit, `MOST_BESIDE` times what it takes: the sentinel is on this machine's
    own files then, under the peer's interpreter; else on those of 2 x 128 GiB, under the project's."""


def near(directory: Path, how: Near, seconds: float, cgroup: Path) -> Iterator[Row]:
    """The rows of a sentinel whose machine drains fast and stops a little above the gates of its nodes."""
    directory.mkdir()
    node = HostNode(directory) if how.beside else ShapeNode(directory, shapes.two_nodes(cpus=how.cpus))
    info = parse_zoneinfo((node.proc / "zoneinfo").read_bytes(), os.sysconf("SC_PAGE_SIZE"))
    gate = max(pages for _, pages in gate_thresholds(info, watched_lines(POLICY.triggers)))
    node.with_free(gate + how.above_gate_pages + how.lost_pages)
    journal = directory / "journal"
    command = [PYTHON, "-c", WITH_PATH, *PLACES] if how.beside else [str(SCRIPT)]
    command += ["sentinel", f"--journal={journal}", f"--proc-root={node.proc}", f"--sys-root={node.sys}"]
    command += [f"--cgroup-root={cgroup}", f"--orders={cgroup.parent}/orders.json"]
    with ExitStack() as stack:
        pids = [stack.enter_context(running(command)).pid]
        if how.beside:
            pids.append(stack.enter_context(running(list(how.beside.command))).pid)
        first_status_seconds(journal, time.monotonic())
        time.sleep(SETTLE_SECONDS)
        node.with_free(gate + how.above_gate_pages)
        time.sleep(4)
        before = counters(journal)
        cost, *others = costs_of(pids, seconds)
        after = counters(journal)
    limit = how.cpu_limit
    for other in others:
        limit = MOST_BESIDE * other.cpu_percent
        yield Row(f"{how.beside.name if how.beside else ''}, at the same time: CPU", other.cpu_percent, "%")
    rounds, full = after["rounds"] - before["rounds"], after["fullReads"] - before["fullReads"]
    yield Row(f"sentinel {how.name}: CPU", cost.cpu_percent, "%", limit)
    yield Row(f"sentinel {how.name}: rounds a second", rounds / seconds, "1/s")
    yield Row(f"sentinel {how.name}: of them with zoneinfo", full / seconds, "1/s")
    yield Row(f"sentinel {how.name}: page faults in {rounds} rounds", cost.page_faults, "", how.faults_limit)
    yield Row(f"sentinel {how.name}: VmRSS - RssShmem", cost.memory_mb, "MB", MB_LIMIT)


def in_image(directory: Path, archive: Path, seconds: float) -> Iterator[Row]:
    """Memory and CPU of the image's sentinel, observing, as uid 0, and of the image's bare interpreter.

    The image's files are on disk, where they count as files; `directory` is the tmpfs for the journal.
    """
    with tempfile.TemporaryDirectory() as disk:
        tree = ImageTree(archive, Path(disk))
        tree.run_directory = directory
        for words in (BARE, IMAGE_SENTINEL):
            ours = words is IMAGE_SENTINEL
            name = "sentinel observing" if ours else "bare interpreter"
            with tree.running(*words, uid=0) as process:
                time.sleep(SETTLE_SECONDS)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
                cost = cost_of(int(children[0]), seconds)
            yield Row(f"image, {name}: VmRSS - RssShmem", cost.memory_mb, "MB", MB_LIMIT if ours else None)
            yield Row(f"image, {name}: CPU far from a line", cost.cpu_percent, "%", 0.25 if ours else None)


def measure(directory: Path, seconds: float, near_seconds: float, image: Path | None) -> Iterator[Row]:
    """All rows; those of the others first, since some limits are theirs."""
    others = peers(directory)
    costs: dict[str, Cost] = {}
    if isinstance(others, str):
        print(f"without earlyoom and nohang: {others}")
        others = []
    commands = {"bare interpreter, sleeping 1 s at a time": [sys.executable, "-I", "-S", "-c", SLEEPER]}
    commands |= {peer.name: list(peer.command) for peer in others}
    for name, command in commands.items():
        with running(command) as process:
            time.sleep(3)
            cost = costs[name] = cost_of(process.pid, seconds)
        yield Row(f"{name}: VmRSS - RssShmem", cost.memory_mb, "MB")
        yield Row(f"{name}: CPU", cost.cpu_percent, "%")
    tree = CgroupTree(directory / "cgroup")
    pods = [candidate(f"8f1f6d1e-6ad0-4a7e-9f0e-{number:012d}", f"pod-{number}") for number in range(CANDIDATES)]
    for pod in pods:
        tree.add_pod(pod.uid)
        tree.add_container(pod.uid, "c0de01", Memory(anon=100 * MIB))
    given = orders(*pods, triggers=POLICY.triggers, ladder=POLICY.ladder)
    (directory / "orders.json").write_bytes(encode(given))
    nohang = costs.get("nohang")
    nohang_mb = nohang.memory_mb if nohang is not None else None
    yield from far(directory, "observing", [], seconds, nohang_mb)
    armed = [f"--orders={directory}/orders.json", f"--cgroup-root={directory}/cgroup"]
    yield from far(directory, f"with orders and {CANDIDATES} candidates", armed, seconds, nohang_mb)
    beside = [peer for peer in others if peer.name == "nohang every 100 ms"]
    for number, (how, length) in enumerate(
        (
            *[
                (Near("every 100 ms, like nohang", 0, 300_000, 1_500_000, None, beside=peer), seconds)
                for peer in beside
            ],
            (Near("every 100 ms, 2 x 128 GiB", 2, 300_000, 1_500_000, None), min(seconds, 40)),
            (Near("near a line, gates every 10 ms", 2, 10_000, 8_000_000, 2.0, 0), near_seconds),
            (Near("near a line, gates every 10 ms, 256 CPUs", 256, 10_000, 8_000_000, 2.0, 0), seconds),
        )
    ):
        yield from near(directory / f"near-{number}", how, length, directory / "cgroup")
    if image is not None:
        (directory / "image" / "cgroup").mkdir(parents=True)
        yield from in_image(directory / "image", image, seconds)


def main() -> int:
    """Prints the rows; 1 when one is above its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long CPU is measured (default: 20)")
    parser.add_argument("--near-seconds", type=float, default=100.0, help="the same near a line (default: 100)")
    parser.add_argument(
        "--image",
        type=Path,
        metavar="ARCHIVE",
        default=IMAGE if IMAGE.exists() and os.geteuid() == 0 else None,
        help="the agent's image, measured as well (default: that of `make images`, where it is there)",
    )
    given = parser.parse_args()
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.TemporaryDirectory(dir=place) as name:
        return show(measure(Path(name), given.seconds, given.near_seconds, given.image))


if __name__ == "__main__":
    sys.exit(main())
