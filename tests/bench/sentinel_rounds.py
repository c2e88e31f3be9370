"""The sentinel's rounds by themselves: from the sample that completes the dwell to `cgroup.kill`, and their growth.

    .venv/bin/python tests/bench/sentinel_rounds.py [--kills 200] [--rounds 10000]

The real sampler and helper in this process, on a machine made of files, with 30 candidates and the journal on a tmpfs.
A kill is timed from its sample to after the write, as the sentinel does it; beside it what a bare loop needs for the
same reading and writing. Growth is what tracemalloc sees of rounds near a line and of rounds under pressure (DryRun).
"""

import argparse
import gc
import itertools
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]

from support.benchrows import Row, show  # noqa: E402
from support.cgrouptree import MIB, CgroupTree, Memory  # noqa: E402
from support.sentinellab import CAPTURES, candidate, grant_for, lowest_of_the_flood, orders  # noqa: E402

from memorypressure import engine, ladder  # noqa: E402
from memorypressure.orders import encode  # noqa: E402
from memorypressure.spec_values import Mode  # noqa: E402
from memorypressure_agent.host import containers  # noqa: E402
from memorypressure_agent.host.cgroups import PodsTree  # noqa: E402
from memorypressure_agent.host.clocks import boot_ns, read_boot_id, unix_ns  # noqa: E402
from memorypressure_agent.host.journal import Journal  # noqa: E402
from memorypressure_agent.host.sources import HostRoots, HostSources  # noqa: E402
from memorypressure_agent.sentinel import process  # noqa: E402
from memorypressure_agent.sentinel.candidates import Candidates  # noqa: E402
from memorypressure_agent.sentinel.clocks import Clocks  # noqa: E402
from memorypressure_agent.sentinel.helper import Helper  # noqa: E402
from memorypressure_agent.sentinel.log import Log  # noqa: E402
from memorypressure_agent.sentinel.orders_file import OrdersFile  # noqa: E402
from memorypressure_agent.sentinel.readings import Readings  # noqa: E402
from memorypressure_agent.sentinel.sampler import Sampler  # noqa: E402
from memorypressure_agent.sentinel.settings import SentinelSettings  # noqa: E402
from memorypressure_tools.arguments import whole_number  # noqa: E402
from memorypressure_tools.floodplayer import FakeNode, Reading  # noqa: E402

CANDIDATES = 30
MOST_CANDIDATES = 250
"""What a plan holds at most."""
DWELL_SECONDS = 5.0
WARM_ROUNDS = 2000
LEAST_LEAK_BYTES = 8192
"""Under a byte a round: what one object kept a round would exceed twenty times."""


class Node:
    """A sampler with its helper, on files; `clock` replaces the boot-time clock where the test moves time itself."""

    def __init__(self, directory: Path, mode: Mode, clock: "Clock | None" = None, candidates: int = CANDIDATES) -> None:
        now = clock or boot_ns
        directory.mkdir()
        self.machine = FakeNode(directory, CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt")
        self.tree = CgroupTree(directory / "cgroup")
        pods = [candidate(f"8f1f6d1e-6ad0-4a7e-9f0e-{number:012d}", f"pod-{number}") for number in range(candidates)]
        for pod in pods:
            self.tree.add_pod(pod.uid)
            self.tree.add_container(pod.uid, "c0de01", Memory(anon=100 * MIB))
        self.journal = Journal(str(directory / "journal"), read_boot_id())
        past = ladder.durable(ladder.initial(now(), unknown_past=False))
        self.journal.write_state({"ladder": past, "pending": None})
        path = directory / "orders.json"
        given = orders(*pods, mode=mode, grant=grant_for(self.journal.incarnation, ceiling=1_000_000))
        path.write_bytes(encode(given))
        roots = HostRoots(str(self.machine.proc), str(self.machine.sys), str(directory / "cgroup"))
        settings = SentinelSettings(roots, str(path), self.journal.path, max_kills_per_hour=1_000_000)
        self.helper = Helper(
            Candidates(PodsTree(roots.cgroup), "", now),
            Log(as_json=False, descriptor=os.open(os.devnull, os.O_WRONLY)),
            lambda: None,
            lambda: "",
            can_release=False,
        )
        self.readings = Readings(HostSources(roots, clock=now), now)
        clocks = Clocks(now, unix_ns, time.thread_time_ns)
        self.sampler = Sampler(settings, self.readings, self.journal, self.helper, OrdersFile(str(path)), clocks, 4096)

    def forget(self) -> None:
        """As if nothing had happened: no episode, no kill, no cool-down, and every victim alive."""
        self._end_of_kill()
        sampler = self.sampler
        sampler.state = engine.start(sampler.rules, ladder.initial(boot_ns(), unknown_past=False))
        sampler.kills._pending = None
        sampler.take_journal(self.journal)
        sampler.kills._killed = ()
        self.helper.candidates.killed = frozenset()
        sampler.state = engine.start(sampler.rules, ladder.initial(boot_ns(), unknown_past=False))
        self.journal.kill_times = ()
        for _ in self.helper.take_outcomes():
            pass
        for path in self.tree.pods.rglob("cgroup.kill"):
            if path.stat().st_size:
                path.write_text("")

    def _end_of_kill(self) -> None:
        """The victim's processes end, and the helper sees it: nothing dies, and nothing is followed."""
        events = [
            path.with_name("cgroup.events") for path in self.tree.pods.rglob("cgroup.kill") if path.stat().st_size
        ]
        for path in events:
            path.write_text("populated 0\nfrozen 0\n")
        deadline = time.monotonic() + DWELL_SECONDS
        while self.helper.candidates.dying:
            if time.monotonic() > deadline:
                raise SystemExit(f"the helper saw no end of a kill within {DWELL_SECONDS} s")
            time.sleep(0.005)
        for path in events:
            path.write_text("populated 1\nfrozen 0\n")


class Clock:
    """A clock that moves with the rounds."""

    def __init__(self) -> None:
        self.now = boot_ns()

    def __call__(self) -> int:
        return self.now


def kills(directory: Path, count: int, *, realtime: bool = False, candidates: int = CANDIDATES) -> Iterator[Row]:
    """Milliseconds from the sample that completes the dwell to after the write of cgroup.kill."""
    node = Node(directory, Mode.ENFORCE, candidates=candidates)
    written: list[int] = []
    write = containers.ContainerHandle.kill

    def stamped(handle: containers.ContainerHandle) -> bool:
        was_there = write(handle)
        written.append(boot_ns())
        return was_there

    containers.ContainerHandle.kill = stamped  # type: ignore[method-assign]
    process.stop_collecting()
    process.share_the_interpreter_quickly()
    node.helper.start()
    why_not = process.become_realtime() if realtime else ""
    if why_not:
        print(f"without --realtime: {why_not}", file=sys.stderr)
        node.helper.stop()
        return
    latencies, bare = [], []
    zoneinfo = os.open(node.machine.proc / "zoneinfo", os.O_RDONLY)
    try:
        while len(latencies) < count:
            node.machine.idle()
            node.forget()
            for _ in range(3):
                time.sleep(node.sampler.round() / 1e9 / 50)
            node.machine.show(lowest_of_the_flood())
            written.clear()
            deadline = time.monotonic() + DWELL_SECONDS
            while not written:
                if time.monotonic() > deadline:
                    view = node.sampler.view
                    raise SystemExit(f"no kill within {DWELL_SECONDS} s: {view and view.result.decision}")
                time.sleep(node.sampler.round() / 1e9)
            view = node.sampler.view
            if view is None:
                raise SystemExit("no view")
            latencies.append((written[0] - view.time_ns) / 1e6)
            began = boot_ns()
            os.pread(zoneinfo, 1 << 20, 0)
            (directory / "bare").write_bytes(b"1")
            bare.append((boot_ns() - began) / 1e6)
    finally:
        containers.ContainerHandle.kill = write  # type: ignore[method-assign]
        if realtime:
            process.end_realtime()
        node.helper.stop()
        os.close(zoneinfo)
    latencies.sort()
    what = f"sample to cgroup.kill written, {candidates} candidates" + (", --realtime" if realtime else "")
    yield Row(f"{what}, p99 of {count}", latencies[int(count * 0.99) - 1], "ms", 5)
    yield Row(f"{what}, median", statistics.median(latencies), "ms")
    yield Row(f"{what}, worst", latencies[-1], "ms")
    yield Row("  bare: read zoneinfo, open and write a file, p99", sorted(bare)[int(count * 0.99) - 1], "ms")


def growth(directory: Path, rounds: int) -> Iterator[Row]:
    """Bytes by which rounds grow, and microseconds each: gates near a line, and a machine below its reserve."""
    for name, mode, free in (
        ("near a line, gates", Mode.ENFORCE, 60_000),
        ("under pressure, DryRun", Mode.DRY_RUN, 150),
    ):
        clock = Clock()
        node = Node(directory / mode.value, mode, clock)
        node.sampler.round()
        node.machine.show(replace(lowest_of_the_flood(), free_pages=free) if free < 1000 else Reading(0, free, 0, 634))
        process.stop_collecting()

        def turn(count: int, node: Node = node, clock: Clock = clock) -> None:
            for _ in range(count):
                clock.now += 10_000_000
                node.sampler.round()

        turn(WARM_ROUNDS)
        began = time.thread_time_ns()
        turn(1000)
        yield Row(f"a round {name}, hot", (time.thread_time_ns() - began) / 1e6, "us")
        tracemalloc.start()
        turn(100)
        gc.collect()  # empties the interpreter's free lists, which fill up for a while and are no growth
        before = tracemalloc.get_traced_memory()[0]
        turn(rounds)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        yield Row(f"tracemalloc after {rounds} rounds {name}", after - before, "bytes", LEAST_LEAK_BYTES)


def main() -> int:
    """Prints the rows; 1 when one is above its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--kills", type=whole_number(1, 100_000), default=200, help="how many kills are timed (default: 200)"
    )
    parser.add_argument(
        "--rounds",
        type=whole_number(1, 1_000_000),
        default=10_000,
        help="rounds in which nothing may grow (default: 10000)",
    )
    given = parser.parse_args()
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.TemporaryDirectory(dir=place) as name:
        return show(
            itertools.chain(
                growth(Path(name), given.rounds),
                kills(Path(name) / "kills", given.kills),
                kills(Path(name) / "realtime", given.kills, realtime=True),
                kills(Path(name) / "many", given.kills, candidates=MOST_CANDIDATES),
            )
        )


if __name__ == "__main__":
    sys.exit(main())
