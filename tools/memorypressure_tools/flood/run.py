"""One flood on one node, from waiting pods to a judged result."""

import contextlib
import gzip
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from memorypressure_tools.cluster.cluster import Cluster
from memorypressure_tools.cluster.node import Node
from memorypressure_tools.flood import load, measurements
from memorypressure_tools.flood.observer import Change, Observer
from memorypressure_tools.flood.recording import Recording, Watched
from memorypressure_tools.flood.verdict import Death, Facts, Verdict, judge
from memorypressure_tools.flood.workloads import container_cgroups
from memorypressure_tools.guest import programs
from memorypressure_tools.guest.shell import Shell
from memorypressure_tools.helm import NAMESPACE as OUR_NAMESPACE
from memorypressure_tools.processes import Child

_T = TypeVar("_T")

RESULTS: Final = Path("build/runs")
FILL_BYTES_PER_SECOND: Final = 20_000_000
"""Of the swap disk while the hog fills: at the speed of the flood's time that alone takes one to two minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is done; names of pods are values of their label `app` in namespace `load`."""

    name: str
    hog: str = "hog"
    hog_mib: int = 600
    #: 0: a control run without a flood
    frames_per_second: int = 30_000
    payload_bytes: int = 400
    flood_seconds: int = 15
    #: the flood starts when the hog has this share of its memory, in RAM and swap together
    fill_share: float = 0.9
    fill_seconds: int = 180
    #: how long is observed after the flood, for slow ends
    after_seconds: int = 10
    #: whom a policy may stop
    victims: tuple[str, ...] = ("hog",)


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run showed; `document` is its JSON. Times are seconds since the flood's start unless said otherwise."""

    scenario: Scenario
    verdict: Verdict
    document: dict[str, Any]
    #: seconds since the Unix epoch here
    flood_at: float = 0.0
    zones_csv: str = ""
    #: the sentinel's journal at the end, with its flight recorder; empty where it could not be had
    journal: bytes = b""

    @property
    def valid(self) -> bool:
        """False when the run has to be repeated."""
        return self.verdict.valid

    def note(self, changes: Sequence[Change]) -> None:
        """Puts what the API showed into the document, in the place of what was there."""
        rows = ({"at": round(each.at - self.flood_at, 2), "what": each.what, "now": each.now} for each in changes)
        self.document["changes"] = list(rows)

    def save(self, directory: Path = RESULTS) -> Path:
        """Writes the JSON, and beside it what `memorypressure-agent` reads.

        That is the zones' timeline, for `replay`, and the sentinel's journal, packed, for `record --journal`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        stem = f"{self.document['began'].replace(':', '')}-{self.scenario.name}"
        path = next(path for number in itertools.count(1) if not (path := directory / f"{stem}-{number}.json").exists())
        path.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        if self.zones_csv:
            path.with_suffix(".zones.csv").write_text(self.zones_csv, encoding="utf-8")
        if self.journal:
            path.with_suffix(".journal.gz").write_bytes(gzip.compress(self.journal))
        return path


class FloodRun:
    """One run on a node of a cluster whose load waits; `run` returns its result, whatever came of it."""

    def __init__(self, cluster: Cluster, node: str, scenario: Scenario, observer: Observer | None = None) -> None:
        """`observer`: one that runs already and goes on after the run; else the run has its own."""
        self.cluster, self.scenario = cluster, scenario
        self._observer = observer
        self.node = cluster.nodes[node]
        self.shell: Shell = self.node.shell
        self._times: dict[str, float] = {}

    def run(self) -> Result:
        """Starts the load, floods, observes, ends the load, collects and judges."""
        began = datetime.now(UTC)
        hog, watched = self._watched()
        with contextlib.ExitStack() as stack:
            observer = self._observer or stack.enter_context(Observer(self.cluster.plane.admin, self.node.name))
            recording = Recording(self.shell, hog, watched).start()
            self._times["started"] = time.time()
            filled = self._fill(recording)
            self._times["flood"] = time.time()
            sent = send_frames(self.node, self.scenario) if filled and self.scenario.frames_per_second else {}
            self._times["flood ended"] = time.time()
            time.sleep(self.scenario.after_seconds)
            evidence = recording.collect()
        document: dict[str, Any] = {
            "began": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scenario": asdict(self.scenario),
            "machine": {"cpus": os.cpu_count(), "load_1_minute": os.getloadavg()[0]},
            "node": {"name": self.node.name, "kernel": self.node.machine.machine.kernel.release}
            | asdict(self.node.options),
            "flood": sent,
            "fill_seconds": round(self._times["flood"] - self._times["started"], 1),
            "agent_cpu": measurements.cpu_rise(evidence.cpu_before, evidence.cpu_after),
        }
        result = self._judge(document, evidence.texts, recording, watched, filled=filled)
        result.note(observer.changes)
        result.journal = evidence.journal
        return result

    def _watched(self) -> tuple[Watched, list[Watched]]:
        """The hog's container, and every container of the load and of ours on the node."""
        found = []
        for namespace in (load.NAMESPACE, OUR_NAMESPACE):
            for pod in self.cluster.plane.admin.must("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]:
                if pod["spec"].get("nodeName") == self.node.name and "deletionTimestamp" not in pod["metadata"]:
                    name = pod["metadata"].get("labels", {}).get("app") or pod["metadata"]["name"]
                    found += [Watched(name, *each) for each in container_cgroups(pod).items()]
        hogs = [each for each in found if each.pod == self.scenario.hog]
        if len(hogs) != 1:
            raise ValueError(f"{len(hogs)} running containers of app={self.scenario.hog} on {self.node.name}, not one")
        return hogs[0], found

    def _fill(self, recording: Recording) -> bool:
        """Starts the load; whether the hog got its memory in time, with a faster disk for so long."""
        self.node.machine.set_disk_limit("swap", FILL_BYTES_PER_SECOND)
        self.shell.run(f"touch {load.START_FILE}", attempts=3)
        try:
            wanted_mib = int(self.scenario.hog_mib * self.scenario.fill_share)
            return recording.filled(wanted_mib, self.scenario.fill_seconds)
        finally:
            self.node.machine.set_disk_limit("swap", self.node.options.swap_bytes_per_second)

    def _judge(
        self,
        document: dict[str, Any],
        evidence: Mapping[str, str],
        recording: Recording,
        watched: Sequence[Watched],
        *,
        filled: bool,
    ) -> Result:
        to_here = recording.to_here
        started_at, flood_at = self._times["started"] - to_here, self._times["flood"] - to_here
        zones = _read(evidence, "sampled.zones.csv", measurements.zone_samples) or []
        below = [sample.at for sample in zones if sample.below(measurements.LINE)]
        drained = measurements.times_drained(zones)
        before, after = (measurements.gave_up(evidence[name]) for name in ("gave_up.before", "gave_up"))
        failed = {flags: count - before.get(flags, 0) for flags, count in after.items()}
        atomic = measurements.atomic_failures(failed) if evidence["gave_up"] else None
        rows = (_read(evidence, "sampled.files.csv", measurements.file_timeline) or ([], []))[1]
        loaded_until = self._times["flood ended"] + self.scenario.after_seconds - to_here
        deaths = died([each.pod for each in watched], rows, until=loaded_until)
        actions = self._actions(recording.to_wall, started_at)
        kills = [(at, each) for at, each in actions if _is_kill(each)]
        written = [each.at for each in measurements.kill_writes(evidence["kills"]) if each.at >= started_at]
        facts = Facts(
            victims=self.scenario.victims,
            deaths=deaths,
            killed_by_us={app_of(each["pod"]["name"]) for _, each in kills},
            below_line=below if zones else None,
            condition_held=bool(drained),
            atomic_failures=atomic,
            kernel_oom_kills=_rise(evidence.get("vmstat.before", ""), evidence["vmstat.after"], "oom_kill"),
            hog_filled=filled,
            flooded=self.scenario.frames_per_second > 0,
        )
        verdict = judge(facts)
        decided_at = kills[0][0] if kills else None
        kill_at = min(written) if written else decided_at
        waited = _read(evidence, "canary.txt", measurements.stalls) or []
        stalls = [each for each in waited if each.at + each.seconds > flood_at]  # what was over is of the filling
        document |= {
            "verdict": {"outcome": verdict.outcome, "valid": verdict.valid, "why": verdict.why},
            "reserve": asdict(measurements.reserve_figures(zones)) if zones else None,
            "atomic_failures": atomic,
            "gave_up_by_flags": {hex(flags): count for flags, count in failed.items() if count},
            "kernel_oom_kills": facts.kernel_oom_kills,
            "counters": _read(evidence, "sampled.vmstat.csv", measurements.counters),
            "worst_stall_seconds": stalls[0].seconds if stalls else None,
            "stalls": [{"at": round(each.at - flood_at, 2), "seconds": each.seconds} for each in stalls[:5]],
            "deaths": [{"pod": each.pod, "at": each.at and round(each.at - flood_at, 2)} for each in deaths],
            "actions": [{"at": round(at - flood_at, 2), **action} for at, action in actions],
            "line_crossed_at": first_after(below, flood_at, kill_at),
            "condition_at": first_after(drained, flood_at, kill_at),
            "decided_at": decided_at and round(decided_at - flood_at, 3),
            "killed_at": kill_at and round(kill_at - flood_at, 3),
            "kill_writes": len(written),
            "half_back_seconds": measurements.half_back_seconds(rows, kill_at) if kill_at else None,
            "log": evidence["dmesg"].splitlines(),
        }
        return Result(
            scenario=self.scenario,
            verdict=verdict,
            document=document,
            flood_at=self._times["flood"],
            zones_csv=evidence.get("sampled.zones.csv", ""),
        )

    def _actions(self, to_wall: float, since: float) -> list[tuple[float, dict[str, Any]]]:
        """What the node says that it did in this run, with the time in seconds since its boot, oldest first."""
        path = f"/apis/memorypressure.dev/v1alpha1/nodememorystates/{self.node.name}"
        answer = self.cluster.plane.admin.request("GET", path)
        found = answer.body.get("status", {}).get("recentActions", []) if answer.status == 200 else []
        timed = [(datetime.fromisoformat(each["time"]).timestamp() - to_wall, each) for each in found]
        return sorted(((at, each) for at, each in timed if at >= since), key=lambda pair: pair[0])


def send_frames(node: Node, scenario: Scenario) -> dict[str, float]:
    """Sends the scenario's frames to the node's second card; returns when all are sent, with the sender's figures."""
    card = node.flood
    if card is None:
        raise ValueError(f"{node.name} has no flood card")
    log = node.directory / "flood.log"
    log.unlink(missing_ok=True)
    numbers = [
        card.port, card.sender_port, load.PORTS, load.FIRST_PORT,
        scenario.payload_bytes, scenario.frames_per_second, scenario.flood_seconds,
    ]  # fmt: skip
    child = Child("flood", [programs.ensure()["flood"], *map(str, numbers)], log, node.directory)
    end = time.monotonic() + scenario.flood_seconds + 30
    while child.alive() and time.monotonic() < end:
        time.sleep(0.1)
    child.stop()
    return {name: float(value) for name, value in (line.split() for line in log.read_text().splitlines())}


def _read(evidence: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T | None:
    """The file parsed; None for one that could not be had, or only in part: the run lacks it, and may be void."""
    try:
        return parse(evidence[name]) if name in evidence else None
    except ValueError as error:
        print(f"flood: {name}: {error}", file=sys.stderr, flush=True)
        return None


def _is_kill(action: Mapping[str, Any]) -> bool:
    """Whether the agent killed, or tried to, and not only would have."""
    return action["action"] == "Kill" and action.get("mode") == "Enforce" and action.get("result") != "Denied"


def app_of(pod_name: str) -> str:
    """The app of a pod of a Deployment: its name without the two parts that Kubernetes adds."""
    return pod_name.rsplit("-", 2)[0]


def died(names: Sequence[str], rows: Sequence[tuple[float, list[int]]], *, until: float) -> list[Death]:
    """The pods whose processes were gone before that time: the columns after the first two count them by name."""
    found: dict[str, Death] = {}
    for at, values in rows:
        if at > until:
            break
        for name, count in zip(names, values[2:], strict=True):
            if count <= 0 and name not in found:
                found[name] = Death(name, at)
    return list(found.values())


def _rise(before: str, after: str, name: str) -> int | None:
    values = []
    for text in (before, after):
        line = next((line for line in text.splitlines() if line.startswith(f"{name} ")), None)
        if line is None:
            return None
        values.append(int(line.split()[1]))
    return values[1] - values[0]


def first_after(times: Sequence[float], flood_at: float, kill_at: float | None) -> float | None:
    """The first of these times after the flood's start and not after the kill, in seconds since the flood's start.

    Where all of them are before the flood, the first of all: the hog's filling alone had drained the reserve.
    """
    until = [at for at in times if kill_at is None or at <= kill_at]
    found = [at for at in until if at >= flood_at] or until
    return round(min(found) - flood_at, 3) if found else None
