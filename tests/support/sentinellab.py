"""A real sentinel process between a fake machine and a real or fixture cgroup tree, with orders written by hand."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.waiting import wait_for

from memorypressure import ladder
from memorypressure.grants import Grant
from memorypressure.orders import Orders, encode
from memorypressure.spec_values import (
    Action,
    Criterion,
    KillSettings,
    KillUnit,
    LabelSelector,
    Limits,
    Match,
    Mode,
    NodesScope,
    QosClass,
    Share,
    Step,
    Trigger,
    TriggerType,
    VictimRules,
    ZoneWatermark,
)
from memorypressure.victims import Candidate
from memorypressure.zone_values import Line
from memorypressure_agent.host.clocks import boot_ns, read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_tools.floodplayer import FakeNode, Reading, timeline

CAPTURES = Path(__file__).resolve().parents[1] / "fixtures" / "captures"
SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
PLAN = "0f4f6a39-3a4e-4c8e-9a43-6a5f2b1f0001"

RESERVE = Trigger(
    "reserve",
    TriggerType.ZONE_WATERMARK,
    ZoneWatermark(Line.ATOMIC_RESERVE, NodesScope.ANY_NODE, 0, below_ms=30, within_ms=50),
)
KILL = Step(Action.KILL, ("reserve",), Match.ANY, 0, kill=KillSettings(KillUnit.POD))
RULES = VictimRules(
    order=(Criterion.PRIORITY, Criterion.YOUNGEST),
    max_priority=1_000_000,
    qos_classes=frozenset((QosClass.BEST_EFFORT, QosClass.BURSTABLE)),
    pod_selector=LabelSelector(),
    namespace_selector=LabelSelector(),
    min_relief_bytes=0,
    min_age_seconds=0,
    unprotected=frozenset(),
)
LIMITS = Limits(
    cooldown_seconds=10,
    max_victims_per_episode=3,
    max_victims_per_workload=Share(percent=100),
    max_concurrent_nodes=Share(count=1),
    evictions_per_hour=20,
    kills_per_hour=5,
    max_standing_kills=Share(count=1),
    grant_seconds=900,
)


def candidate(uid: str, name: str, priority: int = 0, created_seconds: int = 1_700_000_000) -> Candidate:
    return Candidate(uid, "default", name, priority, "Burstable", 0, created_seconds)


def orders(*pods: Candidate, mode: Mode = Mode.ENFORCE, grant: Grant | None = None, **changes: Any) -> Orders:
    """Valid orders for these candidates; `changes` replaces any member."""
    made = Orders(
        node_name="node-a",
        mode=mode,
        plan_uid=PLAN,
        plan_generation=1,
        policy_name="test",
        policy_generation=1,
        triggers=(RESERVE,),
        ladder=(KILL,),
        victims=RULES,
        limits=LIMITS,
        pods=pods,
        grant=grant,
        own_pod_uid="",
    )
    return replace(made, **changes)


def grant_for(incarnation: str, *, beat: int = 1, ceiling: int = 1, plan_generation: int = 1) -> Grant:
    return Grant(incarnation, beat, ceiling, PLAN, plan_generation)


def lowest_of_the_flood() -> Reading:
    """The deepest moment of the recorded flood."""
    return min(timeline(CAPTURES / "timeline-6.1-1node-flood.csv"), key=lambda reading: reading.free_pages)


def eventually(check: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """`wait_for` with the patience that one node's processes need."""
    return wait_for(check, what, seconds)


class SentinelLab:
    """One node: its fake machine, its journal and orders, and the sentinels started on it."""

    def __init__(self, directory: Path, cgroup_root: Path) -> None:
        self.directory = directory
        self.cgroup_root = cgroup_root
        self.machine = FakeNode(directory, CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt")
        self.journal_path = directory / "journal"
        self.orders_path = directory / "orders.json"
        self.reader = JournalReader(str(self.journal_path))
        self.processes: list[subprocess.Popen[bytes]] = []

    def known_past(self, beat_age_seconds: float = 0.0) -> str:
        """Makes the journal of a node that has never killed, so that no cool-down has to pass; its incarnation."""
        journal = Journal(str(self.journal_path), read_boot_id())
        grants = journal.grants
        began = boot_ns() - int(beat_age_seconds * 1e9)
        journal.write_grants(replace(grants, beats=(replace(grants.beats[0], boot_ns=began),)))
        journal.write_state({"ladder": ladder.durable(ladder.initial(boot_ns(), unknown_past=False)), "pending": None})
        journal.close()
        return journal.incarnation

    def give(self, given: Orders | bytes) -> None:
        """Writes the orders file as the reporter does: under another name, then renamed."""
        temporary = self.orders_path.with_suffix(".new")
        temporary.write_bytes(given if isinstance(given, bytes) else encode(given))
        temporary.rename(self.orders_path)

    def start(self, *options: str, under: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """A sentinel by its console script; `under` are the words of a command that runs another one."""
        words = [
            *under,
            SCRIPT,
            "sentinel",
            f"--proc-root={self.machine.proc}",
            f"--sys-root={self.machine.sys}",
            f"--cgroup-root={self.cgroup_root}",
            f"--journal={self.journal_path}",
            f"--orders={self.orders_path}",
            *options,
        ]
        log = (self.directory / "log").open("ab")
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def flood(self) -> None:
        self.machine.show(lowest_of_the_flood())

    def calm(self) -> None:
        self.machine.idle()

    def status(self) -> dict[str, Any]:
        """The sentinel's status, empty before there is one."""
        with contextlib.suppress(JournalError):
            self.reader.refresh()
            record = self.reader.status()
            if record is not None:
                return record.values
        return {}

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The journal's records of a kind."""
        with contextlib.suppress(JournalError):
            self.reader.refresh()
            return [record for _, record in self.reader.decisions().records if record["kind"] == kind]
        return []

    def reasons(self) -> list[str]:
        """The reasons of all decisions, in order."""
        return [record["reason"] for record in self.records("decision")]

    def kills_total(self) -> int:
        self.reader.refresh()
        return self.reader.lease().kills_total

    def armed(self) -> bool:
        """Whether the orders were taken over and the candidates' figures are there."""
        status = self.status()
        return bool(status) and status["orders"]["standing"] == "Valid" and status["figures"]["ageSeconds"] < 60

    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8")

    def close(self) -> None:
        """Ends what was started here."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)
        self.reader.close()
        self.machine.close()


class RealPods:
    """Pods of real processes in a real cgroup v2 tree, in the layout of the cgroupfs driver."""

    def __init__(self, mount: Path) -> None:
        self.root = mount / f"memorypressure-test-{os.getpid()}-{time.monotonic_ns()}"
        self.processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        for directory in (self.root, self.root / "kubepods", self.root / "kubepods" / "burstable"):
            directory.mkdir()

    def add(self, uid: str, container: str, program: list[str], count: int = 1) -> None:
        """Starts `count` processes of `program` in a container of a pod."""
        pod = self.root / "kubepods" / "burstable" / f"pod{uid}"
        pod.mkdir(exist_ok=True)
        directory = pod / container
        directory.mkdir()
        for _ in range(count):
            process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            (directory / "cgroup.procs").write_text(f"{process.pid}\n")
            self.processes.setdefault(f"{uid}/{container}", []).append(process)
            if program is MEMORY_USER:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"

    def alive(self) -> set[str]:
        """`uid/container` of those of which every process lives."""
        return {name for name, group in self.processes.items() if all(each.poll() is None for each in group)}

    def dead(self) -> set[str]:
        """`uid/container` of those of which every process has ended."""
        return {name for name, group in self.processes.items() if all(each.poll() is not None for each in group)}

    def close(self) -> None:
        """Ends all processes and removes the tree."""
        for group in self.processes.values():
            for process in group:
                process.kill()
                process.communicate(timeout=10)
        directories = sorted((path for path in self.root.rglob("*") if path.is_dir()), reverse=True)
        for directory in [*directories, self.root]:
            for _ in range(100):
                try:
                    directory.rmdir()
                    break
                except OSError:
                    time.sleep(0.02)


MEMORY_USER = [
    sys.executable,
    "-IS",
    "-c",
    "import time; held = bytearray(8 << 20); print('ready', flush=True); time.sleep(600)",
]
PAUSE = ["sleep", "600"]
"""Stands for the sandbox's process: a few 100 KiB."""


def cgroup2_mount() -> Path | None:
    """Where the cgroup v2 tree is mounted; None where there is none."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


def real_pods() -> Iterator[RealPods] | str:
    """A tree of real pods to iterate over once, or why this machine cannot have one."""
    mount = cgroup2_mount()
    if mount is None:
        return "no cgroup2 mount"
    if os.geteuid() != 0:
        return "root: cgroups can only be made as root"
    try:
        pods = RealPods(mount)
    except OSError as error:
        return f"{mount}: {error.strerror}: cgroups cannot be made here"
    if not (pods.root / "cgroup.kill").exists():
        pods.close()
        return "the kernel has no cgroup.kill (5.14 and later have)"
    return _closing(pods)


def _closing(pods: RealPods) -> Iterator[RealPods]:
    try:
        yield pods
    finally:
        pods.close()


def broken_json(given: Orders, **changes: Any) -> bytes:
    """The orders' JSON with members replaced, as another version or a forger would write it."""
    return json.dumps({**json.loads(encode(given)), **changes}).encode()
