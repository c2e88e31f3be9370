"""SIGKILL of the real sentinel and the real reporter at random instants, under a flood with one kill allowed.

Whatever the instant: never more dead pods than the journal counts, never more counted than granted, nobody who is not
on the plan, and in the end each kill that was counted is reported once. There is no operator: the test grants.
"""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.operator_lab import wait_for
from support.pathlab import PathLab, lab_of, needs_real_pods
from support.reporterlab import ReporterNode
from support.sentinellab import PAUSE, RealPods, candidate, cgroup2_mount
from support.sentinellab import orders as orders_of

from memorypressure.grants import Grant
from memorypressure.orders import OrdersError, decode
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_tools.controlplane import ControlPlane

PODS = 4
CRASHES_A_NODE = 6
NODES_AT_ONCE = 5
LONGEST_LIFE_SECONDS = 1.4
"""The kill comes about a second after both processes have started."""
OUTSIDER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b99"


def uid(number: int) -> str:
    return f"8f1f6d1e-6ad0-4a7e-9f0e-{number:012d}"


@pytest.fixture
def lab(crds: ControlPlane, tmp_path: Path) -> Iterator[PathLab]:
    needs_real_pods()
    with lab_of(crds, "crashes", tmp_path) as made:
        yield made


class CrashNode:
    """A node with real pods, one granted kill, and both processes."""

    def __init__(self, lab: PathLab, name: str) -> None:
        mount = cgroup2_mount()
        assert mount is not None
        self.pods = RealPods(mount)
        for number in range(PODS):
            self.pods.add(uid(number), f"c0de{number:02d}", PAUSE, count=2)
        self.pods.add(OUTSIDER, "c0de99", PAUSE, count=2)
        self.node = ReporterNode(lab, name)
        self.node.machine.cgroup_root = self.pods.root
        self.incarnation = self.node.machine.known_past()
        plan = [candidate(uid(number), f"web-{number}") for number in range(PODS)]
        given = orders_of(*plan, node_name=self.node.name)
        self.node.make_state(given)
        made = wait_for(lambda: self.node.state()["spec"].get("plan"), "its plan is there")
        self.node.order(replace(given, grant=Grant(self.incarnation, 1, 1, made["uid"], made["generation"])))
        self.node.flood()
        self.counted = 0

    def start(self) -> None:
        if self.node.sentinel is None:
            self.node.start_sentinel()
        if self.node.reporter is None:
            self.node.report(quick=True)

    def crash(self, chance: random.Random) -> None:
        """SIGKILL of one of the two, or of both."""
        which = chance.choice(("sentinel", "sentinel", "reporter", "both"))
        if which != "reporter" and self.node.sentinel is not None:
            self.node.sentinel.stop(hard=True)
            self.node.sentinel = None
        if which != "sentinel" and self.node.reporter is not None:
            self.node.reporter.stop(hard=True)
            self.node.reporter = None

    def check(self) -> None:
        """What must be so at any instant."""
        dead = self.pods.dead()
        try:
            assert self.node.incarnation == self.incarnation, "a crash never costs the journal"
            kills = self.node.kills()
        except JournalError as error:
            raise AssertionError(f"the journal cannot be read: {error}") from error
        assert self.counted <= kills <= 1, "what was counted stays counted, within the ceiling"
        self.counted = kills
        assert len(dead) <= kills, f"{dead} died, {kills} kills are counted"
        assert not any(OUTSIDER in name for name in dead)
        orders = self.node.machine.orders_path
        if orders.exists():
            with contextlib.suppress(FileNotFoundError):
                try:
                    decode(orders.read_bytes())
                except OrdersError as error:
                    raise AssertionError(f"half an orders file: {error}") from error

    def settled(self) -> None:
        """After the last crash: the kill is done or was spent, and is told once, here and in the API."""
        wait_for(lambda: self.node.machine.armed() or self.counted, "the sentinel has its orders", 60)
        wait_for(lambda: self.node.kills() == 1, f"the kill is counted\n{self.node.tail()}", 60)
        told = wait_for(lambda: self.node.machine.records("action"), "its end is in the journal", 60)
        ids = [action["record"]["id"] for action in told]
        assert len(ids) == len(set(ids)) == 1
        reported = wait_for(self.node.reported_kills, "its end is in the API", 60)
        assert [action["id"] for action in reported] == ids
        self.check()

    def close(self) -> None:
        self.node.close()
        self.pods.close()


def crashes_of_a_node(lab: PathLab, number: int, count: int, chance: random.Random) -> None:
    node = CrashNode(lab, f"n{number}")
    try:
        for _ in range(count):
            node.start()
            end = time.monotonic() + chance.uniform(0.0, LONGEST_LIFE_SECONDS)
            while time.monotonic() < end:
                time.sleep(0.02)
                node.check()
            node.crash(chance)
            node.check()
        node.start()
        node.settled()
    finally:
        node.close()


def crashes(lab: PathLab, count: int, seed: int) -> None:
    """So many in all, a few nodes at once."""
    with ThreadPoolExecutor(max_workers=NODES_AT_ONCE) as pool:
        started = [
            pool.submit(crashes_of_a_node, lab, first, min(CRASHES_A_NODE, count - first), random.Random(seed + first))
            for first in range(0, count, CRASHES_A_NODE)
        ]
    for each in started:
        each.result()


def test_thirty_random_kills_of_the_real_processes_break_nothing(lab: PathLab) -> None:
    crashes(lab, 30, seed=int(os.environ.get("CRASH_SEED", "6")))


@pytest.mark.soak
def test_five_hundred_random_kills_of_the_real_processes_break_nothing(lab: PathLab) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"CRASH_SEED={seed}")  # pytest shows it with a failure
    crashes(lab, 500, seed)
