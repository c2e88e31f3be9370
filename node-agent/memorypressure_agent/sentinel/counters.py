"""What the sentinel counts: time below lines, loop lag, reads. Plain numbers, no clock, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from memorypressure.zone_values import CountedZone, Line, ZoneInfo

LAG_BUCKETS_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
KILL_BUCKETS_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONGEST_STEP_NS: Final = 1_000_000_000
"""A sample stands for the time until the next one, at most this long."""


@dataclass(slots=True)
class LineTime:
    """How long a zone has been below a line, and how often that began; since the sentinel's start."""

    nanoseconds: int = 0
    episodes: int = 0
    below: bool = False


class BelowLineTimes:
    """Time below each line of each counted zone, integrated over the sentinel's own samples.

    A gauge cannot show dips of 10 ms; these counters can. A sample counts from its own time to the next one's.
    """

    def __init__(self) -> None:
        self._times: dict[tuple[int, str], dict[Line, LineTime]] = {}
        self._since_ns: int | None = None
        self._quiet = True

    def observe(self, info: ZoneInfo | None, time_ns: int) -> None:
        """Takes the next sample; None: the zones are known to be above every line, or are not known at all."""
        step = 0 if self._since_ns is None else min(max(0, time_ns - self._since_ns), LONGEST_STEP_NS)
        self._since_ns = time_ns
        if not self._quiet:
            for entry in self._entries():
                if entry.below:
                    entry.nanoseconds += step
        if info is None:
            if not self._quiet:
                for entry in self._entries():
                    entry.below = False
                self._quiet = True
            return
        was_quiet, self._quiet = self._quiet, True
        for node in info.nodes:
            for counted in node.counted:
                zone = counted.zone
                is_high = zone.free_pages - zone.free_cma_pages > zone.high_pages + counted.protection_pages
                if not (was_quiet and is_high and (zone.node, zone.name) in self._times):
                    self._observe_zone(counted)

    def entries(self) -> list[dict[str, Any]]:
        """All counters as the journal's status carries them."""
        return [
            {
                "numaNode": node,
                "zone": zone,
                "line": line,
                "seconds": round(entry.nanoseconds / 1e9, 6),
                "episodes": entry.episodes,
            }
            for (node, zone), entries in sorted(self._times.items())
            for line, entry in sorted(entries.items())
        ]

    def _entries(self) -> Iterator[LineTime]:
        return chain.from_iterable([entries.values() for entries in self._times.values()])

    def _observe_zone(self, counted: CountedZone) -> None:
        zone = counted.zone
        usable, managed = zone.usable_pages, zone.managed_pages
        entries = self._times.get((zone.node, zone.name))
        if entries is None:
            entries = self._times[zone.node, zone.name] = {line: LineTime() for line in Line}
        if usable > counted.line_pages(Line.HIGH):  # the highest: above it, above all
            for entry in entries.values():
                entry.below = False
            return
        for line, entry in entries.items():
            mark = counted.line_pages(line)
            below = (
                usable <= mark < managed
            )  # a zone closed to the line is below it for ever: that is no time of trouble
            if below and not entry.below:
                entry.episodes += 1
            entry.below = below
            if below:
                self._quiet = False


@dataclass(slots=True)
class Lag:
    """A histogram of durations: how late the loop woke up, or with other `bounds` how long kills took."""

    bounds: tuple[float, ...] = LAG_BUCKETS_SECONDS
    counts: list[int] = field(default_factory=list)
    sum_ns: int = 0
    worst_ns: int = 0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, late_ns: int) -> None:
        """Counts one duration."""
        late = max(0, late_ns)
        self.sum_ns += late
        self.worst_ns = max(self.worst_ns, late)
        seconds = late / 1e9
        for index, bound in enumerate(self.bounds):
            if seconds <= bound:
                self.counts[index] += 1
                return
        self.counts[-1] += 1

    def to_json(self) -> dict[str, Any]:
        """Buckets are cumulative, as Prometheus has them; the last bound is null for infinity."""
        total, buckets = 0, []
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            total += count
            buckets.append([bound, total])
        return {"buckets": buckets, "sum": self.sum_ns / 1e9, "count": total, "worst": self.worst_ns / 1e9}


MOST_ENDED: Final = 40
"""Of policies, modes and results of actions that ended: a series each, of the 200 that an agent may have."""


@dataclass(frozen=True, slots=True)
class LastKill:
    """The kill that the histogram of latencies counted last."""

    action_number: int
    latency_ns: int
    ended_ns: int


@dataclass(slots=True)
class Counts:
    """Events since the sentinel's start."""

    rounds: int = 0
    full_reads: int = 0
    gate_reads: int = 0
    kills: int = 0
    shadow_kills: int = 0
    kills_failed: int = 0
    freed_bytes: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    """Due kills that were not done, by reason; one for each time the reason became true."""
    ended: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Actions that ended, by policy, mode and result; a kill that an earlier process began counts here too.

    At most `MOST_ENDED` of them: where policies come and go under new names, the first ones go.
    """

    def end(self, policy: str, mode: str, result: str) -> None:
        """Counts an action's end."""
        key = (policy, mode, result)
        if key not in self.ended and len(self.ended) >= MOST_ENDED:
            del self.ended[next(iter(self.ended))]
        self.ended[key] = self.ended.get(key, 0) + 1
