"""Which eviction is due on a node, and what of it is recorded. Pure: the limits are checked here, `evictor` acts.

The record of the last hour is kept beside the policy's ledger, as ages: it is written, with the resourceVersion, before
the eviction is sent, so neither a crash nor a second leader can evict more than the limits say. Clean-ups after kills
are on it too: they have a limit of their own, the kills that the ledger counts.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memorypressure.reasons import Reason
from memorypressure.spec import KillUnit, Policy
from memorypressure.victims import Candidate, ContainerUsage, Ranking, Usage, rank
from memorypressure_operator.reports import StateStatus

KEY = "evictions"
VERSION = 2
HOUR_SECONDS = 3600.0
WORKLOAD_SECONDS = 600.0
RECORDS_BYTES = 360 << 10
"""What the record may take of the ConfigMap, beside the ledger's 600 KiB: some 2,100 evictions with names of 63
characters. More an hour are not done, whatever evictionsPerHour says."""
RECORD_BYTES = 1 << 10
"""Beyond what any record takes."""
WORKLOAD_CHARACTERS = 400
"""Names of workloads beyond it, or that JSON would escape, are recorded as a digest: owners' names have no limit."""
FUTILE_WITHIN_SECONDS = 600.0
FUTILE_PAUSE_SECONDS = 1800.0
"""As the node's own rule for kills (`ladder`)."""
NAMED_SECONDS = 600.0
"""So long the record holds the evicted pod's name, for an operator that has to tell of it in the place of this one."""
TERMINATION_SLACK_SECONDS = 10.0
"""The kubelet ends containers 2 s after the grace, and the object goes some seconds later."""
GIVE_UP_SECONDS = 60.0


class RecordError(ValueError):
    """The record was not written by this code: what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """One eviction; `age_seconds` at the time of the log. `cleanup`: its containers had been killed before.

    `name`: of the pod, "" where nobody is going to ask for it.
    """

    age_seconds: float
    node: str
    workload: str
    uid: str
    cleanup: bool = False
    name: str = ""

    @property
    def pod(self) -> tuple[str, str] | None:
        """Namespace and name of the pod; None where they are not known."""
        namespace, _, kind = self.workload.partition("/")
        return (namespace, self.name) if self.name and "/" in kind else None

    def aged(self, seconds: float) -> "Record":
        """The record so much later."""
        age_seconds = self.age_seconds + seconds
        return replace(self, age_seconds=age_seconds, name=self.name if age_seconds < NAMED_SECONDS else "")


@dataclass(frozen=True, slots=True)
class EvictionLog:
    """The evictions of one policy within the last hour, oldest first."""

    records: tuple[Record, ...] = ()

    @property
    def evictions(self) -> int:
        """Those that evictionsPerHour counts: no clean-ups."""
        return sum(not record.cleanup for record in self.records)

    @property
    def cleanups(self) -> int:
        """Those that followed a kill."""
        return sum(record.cleanup for record in self.records)

    def aged(self, seconds: float) -> "EvictionLog":
        """The log so much later."""
        if not self.records:
            return self
        older = (record.aged(seconds) for record in self.records)
        return EvictionLog(tuple(record for record in older if record.age_seconds < HOUR_SECONDS))

    def with_record(
        self, node: str, workload: str, uid: str, *, cleanup: bool = False, name: str = ""
    ) -> "EvictionLog":
        """The log with an eviction that is about to be sent."""
        return EvictionLog((*self.records, Record(0.0, node, workload_key(workload), uid, cleanup, name)))

    def without(self, uid: str) -> "EvictionLog":
        """The log without the newest record of a pod: the API server refused."""
        for index in range(len(self.records) - 1, -1, -1):
            if self.records[index].uid == uid:
                return EvictionLog(self.records[:index] + self.records[index + 1 :])
        return self

    def workloads(self) -> Iterator[str]:
        """`workload_key` of each eviction of the last 10 minutes, clean-ups too: each took a pod."""
        return (record.workload for record in self.records if record.age_seconds < WORKLOAD_SECONDS)

    def on_node(self, node: str, older_than_seconds: float = 0.0) -> int:
        """Evictions on a node that are at least so old; clean-ups are counted as kills already."""
        return sum(r.node == node and not r.cleanup and r.age_seconds >= older_than_seconds for r in self.records)

    def nodes(self) -> frozenset[str]:
        """Nodes with an eviction, clean-ups left out."""
        return frozenset(record.node for record in self.records if not record.cleanup)

    def cleaned_up(self, uid: str) -> bool:
        """Whether a clean-up of the pod is on record."""
        return any(r.uid == uid and r.cleanup for r in self.records)

    def ages_on(self, node: str, within_seconds: float) -> tuple[float, ...]:
        """Seconds since each eviction on a node, clean-ups left out."""
        found = (r.age_seconds for r in self.records if r.node == node and not r.cleanup)
        return tuple(age for age in found if age < within_seconds)

    def age_of(self, uid: str) -> float | None:
        """Seconds since a pod's eviction was recorded."""
        return min((r.age_seconds for r in self.records if r.uid == uid), default=None)

    def since_on(self, node: str) -> float | None:
        """Seconds since the last eviction on a node."""
        return min((r.age_seconds for r in self.records if r.node == node), default=None)

    def is_full(self) -> bool:
        """Whether there is no room for a further record, whatever its names."""
        names = sum(len(r.node) + len(r.workload) + len(r.uid) + len(r.name) for r in self.records)
        return names + _FIGURES_BYTES * len(self.records) + RECORD_BYTES > RECORDS_BYTES


_FIGURES_BYTES = len('[3599.9, "", "", "", false, ""], ')


def workload_key(workload: str) -> str:
    """What a workload is called in a record."""
    plain = workload.isascii() and workload.isprintable() and not {'"', "\\"} & set(workload)
    if plain and len(workload) <= WORKLOAD_CHARACTERS:
        return workload
    return f"sha256/{hashlib.sha256(workload.encode('utf-8', 'surrogatepass')).hexdigest()}"


def encode(log: EvictionLog) -> str:
    """The text under KEY."""
    records = [[round(r.age_seconds, 1), r.node, r.workload, r.uid, r.cleanup, r.name] for r in log.records]
    body = {"version": VERSION, "records": records}
    return json.dumps(body | {"digest": _digest(body)}, sort_keys=True)


def decode(text: str | None) -> EvictionLog:
    """The log; an absent text is an empty one. RecordError for anything that `encode` did not write."""
    if text is None:
        return EvictionLog()
    remedy = "delete the ConfigMap to begin anew"
    try:
        body = json.loads(text)
        digest = body.pop("digest")
        if body["version"] != VERSION:
            raise RecordError(f"data.{KEY}.version: is {body['version']!r}, this operator writes {VERSION}; {remedy}")
        if digest != _digest(body):
            raise RecordError(f"data.{KEY}.digest: does not match: the record was edited; {remedy}")
        records = body["records"]
        return EvictionLog(tuple(map(_record, records)))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"data.{KEY}: is not understood ({error!r}); {remedy}") from None


def _record(row: Sequence[Any]) -> Record:
    """A record without the pod's name is one of an earlier version."""
    name = str(row[5]) if len(row) > 5 else ""
    return Record(float(row[0]), str(row[1]), str(row[2]), str(row[3]), bool(row[4]), name)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing is evicted now; `again_seconds`: when to look again, if time alone may change it."""

    reason: Reason
    message: str
    again_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What the limits look at besides the policy. Times in seconds."""

    log: EvictionLog
    node: str
    evictions_per_hour: int
    concurrent_nodes: int
    concurrent_limit: int
    has_slot: bool
    since_action: float | None  # since the last eviction or kill on this node
    victims_in_episode: int
    unrelieved: tuple[float, ...] = ()  # seconds since the evictions and kills after which it was not clear for 60 s


def limits_allow(policy: Policy, room: Room) -> Denied | None:
    """None if the policy's limits leave room for one more eviction on this node, else why not."""
    limits = policy.limits
    if room.victims_in_episode >= limits.max_victims_per_episode:
        message = f"{room.victims_in_episode} victims in this episode, maxVictimsPerEpisode reached"
        return Denied(Reason.EPISODE_LIMIT, message)
    left = futile_seconds(room.unrelieved)
    if left is not None:
        message = "TWO VICTIMS DID NOT HELP: the node was not clear for 60 s between them"
        return Denied(Reason.FUTILE, f"{message}; no eviction for {left / 60:.0f} min", again_seconds=left)
    if room.since_action is not None and room.since_action < limits.cooldown_seconds:
        left = limits.cooldown_seconds - room.since_action
        return Denied(Reason.COOLDOWN, f"cool-down for {left:.0f} s more", again_seconds=left)
    if room.log.evictions >= room.evictions_per_hour:
        oldest = max((record.age_seconds for record in room.log.records if not record.cleanup), default=0.0)
        message = f"{room.log.evictions} evictions in the last hour, evictionsPerHour is {room.evictions_per_hour}"
        return Denied(Reason.BUDGET_EXHAUSTED, message, again_seconds=max(1.0, HOUR_SECONDS - oldest))
    if room.log.is_full():
        oldest = max(record.age_seconds for record in room.log.records)
        message = f"no more than the {len(room.log.records)} evictions of the last hour fit into the ledger's ConfigMap"
        return Denied(Reason.LEDGER_FULL, message, again_seconds=max(1.0, HOUR_SECONDS - oldest))
    if not room.has_slot and room.concurrent_nodes >= room.concurrent_limit:
        message = f"evictions run on {room.concurrent_nodes} nodes, maxConcurrentNodes is {room.concurrent_limit}"
        return Denied(Reason.CONCURRENT_NODES, message, again_seconds=10.0)
    return None


def futile_seconds(unrelieved: Iterable[float]) -> float | None:
    """How long nobody more is evicted, because the last two victims did not help; None where that is not so.

    `unrelieved`: seconds since each eviction or kill after which the node was not clear for 60 s.
    """
    last = sorted(unrelieved)[:2]
    if len(last) < 2 or last[1] - last[0] > FUTILE_WITHIN_SECONDS or last[0] >= FUTILE_PAUSE_SECONDS:
        return None
    return FUTILE_PAUSE_SECONDS - last[0]


def cleanup_allowed(log: EvictionLog, spent: int, most: int) -> bool:
    """Whether one more pod may be evicted because a node says that it killed it.

    `spent`: kills of the last hour by the ledger, `most`: the kills that the policy's limits allow an hour. A report is
    one node's word: it never has more pods evicted than could have been killed, and the ledger counts each.
    """
    return log.cleanups < min(spent, most) and not log.is_full()


def ranked(policy: Policy, candidates: Iterable[Candidate], status: StateStatus, ages: Mapping[str, float]) -> Ranking:
    """The candidates in the policy's order, with the figures that the node reports of its largest pods.

    `ages`: seconds for which each candidate is known to be on the node. A pod without reported figures is left out,
    unless the policy asks for no relief at all: then Priority and Youngest decide.
    """
    reported = {pod.uid: pod for pod in status.top_pods}
    blind = policy.victims.min_relief_bytes == 0
    chosen, usages = [], []
    for candidate in candidates:
        top = reported.get(candidate.uid)
        if top is None and not blind:
            continue
        relief = top.relief_bytes if top else None
        # The node says whether the pod is over its request, not its usage: one byte beyond says the same.
        memory = candidate.request_bytes + 1 if top and top.over_request else 0
        usage = ContainerUsage(id="pod", relief_bytes=relief, memory_bytes=memory, processes=2)
        chosen.append(candidate)
        usages.append(Usage(candidate.uid, (usage,), seen_seconds=int(ages.get(candidate.uid, 0))))
    return rank(policy.victims, KillUnit.POD, chosen, usages, frozenset(), 0)
