"""A process seen from outside: memory and CPU by /proc, its writes by the API server's audit log, its decisions."""

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memorypressure_tools.scale.writers import Report

TICKS_A_SECOND: Final = 100
AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {
            "level": "Metadata",
            "users": ["scale-operator"],
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        },
        {"level": "None"},
    ],
}


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of a process, at one moment."""

    rss_mib: float
    pss_mib: float
    anonymous_mib: float
    peak_rss_mib: float


def memory(pid: int) -> Memory:
    """Memory of a process by /proc/PID/status and smaps_rollup."""
    status = _fields(Path(f"/proc/{pid}/status"))
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(
        rss_mib=status["VmRSS"] / 1024,
        pss_mib=rollup["Pss"] / 1024,
        anonymous_mib=status["RssAnon"] / 1024,
        peak_rss_mib=status["VmHWM"] / 1024,
    )


def _fields(path: Path) -> dict[str, int]:
    """The kB lines of such a file."""
    found = {}
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def busy_seconds() -> float:
    """Time that all processors together have worked so far, for whomever."""
    fields = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
    idle, iowait = fields[3], fields[4]
    return (sum(fields[:8]) - idle - iowait) / TICKS_A_SECOND


class Cpu:
    """Shares of a core that processes took since the last look: the named ones, this one, and all others together."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = {**pids, "agents": os.getpid()}
        self._at, self._busy = time.monotonic(), busy_seconds()
        self._used = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def look(self) -> dict[str, float]:
        """Percent of a core, by name, since the look before; `others` disturb what is measured."""
        now, busy = time.monotonic(), busy_seconds()
        used = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        span = max(0.001, now - self._at)
        shares = {name: 100 * (used[name] - self._used[name]) / span for name in used}
        shares["others"] = max(0.0, 100 * (busy - self._busy) / span - sum(shares.values()))
        self._at, self._busy, self._used = now, busy, used
        return shares


class Audit:
    """The operator's own writes, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def writes(self) -> dict[str, int]:
        """Writes by "verb resource" since the last call."""
        found: dict[str, int] = {}
        if not self._path.exists():
            return found
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                event = json.loads(line)
                reference = event.get("objectRef") or {}
                part = f"/{reference['subresource']}" if reference.get("subresource") else ""
                name = f"{event['verb']} {reference.get('resource', '?')}{part}"
                found[name] = found.get(name, 0) + 1
        return found


def decisions(path: Path) -> dict[str, list[tuple[float, int]]]:
    """Node -> (monotonic seconds, resourceVersion of the state that was looked at), in order, of a decision log."""
    found: dict[str, list[tuple[float, int]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split("\t")
        found.setdefault(words[1], []).append((float(words[0]), int(words[2] or 0)))
    return found


def latencies(reports: Iterable[Report], made: Mapping[str, list[tuple[float, int]]]) -> tuple[list[Any], int]:
    """((due, ms from due to answer, ms from due to the decision) of each report, how many were never decided upon)."""
    found, missed = [], 0
    for report in reports:
        if not report.version:
            continue
        at = next((time for time, version in made.get(report.node, ()) if version >= report.version), None)
        if at is None:
            missed += 1
        else:
            found.append((report.due, 1e3 * (report.answered - report.due), 1e3 * (at - report.due)))
    return sorted(found), missed


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * percent // 100) - 1))]


def windows(rows: list[Any], column: int, percent: float) -> list[float]:
    """The percentile of each one-second window; windows are cut by when a report was due."""
    if not rows:
        return []
    start = rows[0][0]
    cut: dict[int, list[float]] = {}
    for row in rows:
        cut.setdefault(int(row[0] - start), []).append(row[column])
    return [percentile(values, percent) for _, values in sorted(cut.items())]


def summary(rows: list[Any], column: int) -> dict[str, float]:
    """Medians over one-second windows, and the whole run's worst."""
    if not rows:
        return {}
    values = [row[column] for row in rows]
    return {
        "p50_ms": statistics.median(windows(rows, column, 50)),
        "p99_ms": statistics.median(windows(rows, column, 99)),
        "p99_whole_run_ms": percentile(values, 99),
        "worst_ms": max(values),
    }
