"""A policy's ledger as a ConfigMap: read, written with its resourceVersion, and given up on any doubt.

Writing it is the fence between two leaders: whoever writes first makes the other's write fail with 409, and without a
write no ceiling rises and no pod is evicted. What cannot be read disarms the policy until a person has decided.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memorypressure import ledger as ledger_module
from memorypressure.allotment import Desk, opened
from memorypressure.ledger import Ledger, LedgerError
from memorypressure_operator import evictions
from memorypressure_operator.api import Api, config_map_path
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.evictions import EvictionLog, RecordError

log = logging.getLogger(__name__)

LABEL = "memorypressure.dev/ledger"
POLL_SECONDS = 10.0
"""Age beyond which the ConfigMap is read again, to notice edits and other writers."""
LAZY_SECONDS = 30.0
"""Age beyond which counted kills and released allowances are written although no ceiling rises."""
AGES_SECONDS = 300.0
"""The same for what only grows older. A reader takes ages to be what they were when they were written: with operators
that each end within the hour a kill would never be an hour old."""
UNWRITTEN_SECONDS = 10.0
"""When all writes have failed for so long people are told."""
RETRY_SECONDS = 3.0
"""So soon one that failed is tried again, whether or not anything new is to be written."""


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Writes fail: since when, how the first of them did, and when the last was tried (monotonic seconds)."""

    since_seconds: float
    why: str
    tried_seconds: float


@dataclass(slots=True)
class Store:
    """One policy's ledger. `desk` None: not read, or `problem` says why it cannot be used."""

    policy: str
    name: str
    desk: Desk | None = None
    evictions: EvictionLog = field(default_factory=EvictionLog)
    evictions_at: float = 0.0
    version: str = ""  # resourceVersion; "" = there is no ConfigMap
    written: Ledger | None = None
    problem: str = ""
    told: str = ""  # the problem that the log has told last
    unwritten: Unwritten | None = None
    retold: bool = False  # the evictions that it held when it was first read
    discarded: bool = False  # its deletion was asked for, and nothing has shown yet what came of it
    checked_at: float | None = None
    written_at: float = 0.0


class Budgets:
    """The stores of all policies, and every read and write of their ConfigMaps."""

    def __init__(
        self, api: Api, namespace: str, prefix: str, clock: Callable[[], float], on_conflict: Callable[[], None]
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._prefix = prefix
        self._clock = clock
        self._on_conflict = on_conflict
        self.stores: dict[str, Store] = {}

    def forget(self) -> None:
        """Drops everything read: at the begin of a term somebody else may have written."""
        self.stores.clear()

    def names(self) -> Sequence[str]:
        """Policies that have a ledger in the cluster, deleted ones too. Raises ApiUnreachable, ApiRefused."""
        query = {"labelSelector": f"{LABEL}=true"}
        items = self._api.get(config_map_path(self._namespace), query=query).json()["items"]
        names = [str(item["metadata"]["name"]) for item in items]
        return [name.removeprefix(self._prefix + "-") for name in names if name.startswith(self._prefix + "-")]

    def store(self, policy: str) -> Store:
        """The policy's store, perhaps not read yet."""
        if policy not in self.stores:
            self.stores[policy] = Store(policy, f"{self._prefix}-{policy}")
        return self.stores[policy]

    def refresh(self, store: Store, adopt: Callable[[], Ledger]) -> None:
        """Reads the ConfigMap if that is due, and makes one if there is none, with the ledger that `adopt` gives.

        Raises ApiUnreachable and ApiRefused; the store is unusable then.
        """
        if not self.read(store):
            self._adopt(store, adopt(), self._clock())

    def read(self, store: Store) -> bool:
        """Reads the ConfigMap if that is due; False if there is none. Raises as `refresh`."""
        now = self._clock()
        due = store.checked_at is None or now - store.checked_at >= POLL_SECONDS
        if not due and (store.desk is not None or store.problem):
            return True
        path = config_map_path(self._namespace, store.name)
        try:
            config_map: dict[str, Any] = self._api.get(path).json()
        except ApiRefused as refusal:
            if not refusal.not_found:
                self._invalidate(store)
                raise
            store.desk, store.checked_at = None, None
            return False
        except ApiUnreachable:
            self._invalidate(store)
            raise
        version = str(config_map["metadata"]["resourceVersion"])
        store.checked_at, store.discarded = now, False
        if store.desk is not None and version == store.version:
            return True
        if store.desk is not None:
            log.warning("ledger %s was written by somebody else; it is read anew", store.name)
        self._decode(store, config_map, version, now)
        return True

    def _adopt(self, store: Store, ledger: Ledger, now: float) -> None:
        store.desk = opened(ledger, int(now * 1e9))
        store.evictions, store.evictions_at = EvictionLog(), now
        store.version, store.written, store.problem, store.checked_at = "", None, "", now
        if ledger.quarantine_ns or ledger.entries:
            log.warning("ledger %s is missing although grants were given; nothing is granted for a while", store.name)
        self.write(store, ledger, store.evictions)

    def _decode(self, store: Store, config_map: dict[str, Any], version: str, now: float) -> None:
        data = config_map.get("data") or {}
        try:
            ledger = ledger_module.decode(data)
            record = evictions.decode(data.get(evictions.KEY))
        except (LedgerError, RecordError) as error:
            problem = f"ConfigMap {self._namespace}/{store.name}: {error}"
            if problem != store.problem:
                log.error("policy %s is disarmed: %s", store.policy, problem)
            store.desk, store.problem, store.version = None, problem, version
            return
        store.desk, store.written = opened(ledger, int(now * 1e9)), ledger
        store.evictions, store.evictions_at = record, now
        store.version, store.problem, store.written_at = version, "", now
        if config_map.get("immutable") and store.unwritten is None:  # it is told before the next write is due
            store.unwritten = Unwritten(now - UNWRITTEN_SECONDS, "it is marked immutable", now)

    def current_evictions(self, store: Store) -> EvictionLog:
        """The evictions of the last hour as of now."""
        now = self._clock()
        store.evictions = store.evictions.aged(now - store.evictions_at)
        store.evictions_at = now
        return store.evictions

    def take_back(self, store: Store, uid: str) -> None:
        """Nothing came of the pod's newest eviction: it is on record no more, which the next write tells."""
        store.evictions = self.current_evictions(store).without(uid)

    def write(self, store: Store, ledger: Ledger, record: EvictionLog) -> bool:
        """True if the ConfigMap now holds exactly this. Otherwise the store is unusable until it was read again.

        What does not fit into a ConfigMap is not sent: nothing rises, and no grant is renewed, until it does again.
        """
        metadata: dict[str, Any] = {"name": store.name, "namespace": self._namespace, "labels": {LABEL: "true"}}
        if ledger == store.written:
            ledger = dataclasses.replace(ledger, serial=ledger.serial + 1)
        data = ledger_module.encode(ledger) | {evictions.KEY: evictions.encode(record)}
        size = sum(len(text.encode()) for text in data.values())
        if size > ledger_module.CONFIG_MAP_BYTES:
            self._too_large(store, ledger, size)
            return False
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata | ({"resourceVersion": store.version} if store.version else {}),
            "data": data,
        }
        now = self._clock()
        try:
            if store.version:
                answer = self._api.request("PUT", config_map_path(self._namespace, store.name), body=body)
            else:
                answer = self._api.request("POST", config_map_path(self._namespace), body=body)
        except (ApiUnreachable, ApiRefused) as error:
            conflict = isinstance(error, ApiRefused) and error.conflict
            if conflict:
                self._on_conflict()
            elif not (isinstance(error, ApiRefused) and error.not_found):  # it is made anew
                first = store.unwritten or Unwritten(now, str(error), now)
                store.unwritten = dataclasses.replace(first, tried_seconds=now)
            (log.warning if conflict else log.error)("ledger %s not written, nothing rises: %s", store.name, error)
            self._invalidate(store)
            return False
        store.version = str(answer.json()["metadata"]["resourceVersion"])
        store.written, store.written_at, store.unwritten = ledger, self._clock(), None
        store.evictions, store.evictions_at = record, self._clock()
        if store.desk is not None:
            store.desk = dataclasses.replace(store.desk, ledger=ledger)
        return True

    def trouble(self, store: Store) -> str:
        """Why the policy is disarmed by its ledger, and what to do; "" where it is not."""
        failing = store.unwritten
        if store.problem or failing is None or self._clock() - failing.since_seconds < UNWRITTEN_SECONDS:
            return store.problem
        return (
            f"ConfigMap {self._namespace}/{store.name} cannot be written ({failing.why}): give the operator the "
            "right to, see which admission policy or webhook refuses it, and delete it if it was made immutable"
        )

    def _too_large(self, store: Store, ledger: Ledger, size: int) -> None:
        """Nodes report allowances that were never given, more than any ledger can have held."""
        nodes = Counter(entry.node for entry in ledger.entries).most_common(3)
        most = ", ".join(f"{node} ({count})" for node, count in nodes)
        problem = (
            f"ConfigMap {self._namespace}/{store.name}: {len(ledger.entries)} allowances take {size} bytes, "
            f"{ledger_module.CONFIG_MAP_BYTES} fit; nodes with the most of them: {most}; restart the agents there"
        )
        if problem != store.told:
            log.error("policy %s is disarmed: %s", store.policy, problem)
        self._invalidate(store)
        store.problem = store.told = problem

    def write_lazily(self, store: Store) -> None:
        """Writes what was only counted so far, from time to time."""
        desk, failing, now = store.desk, store.unwritten, self._clock()
        if desk is not None and failing is not None and now - failing.tried_seconds >= RETRY_SECONDS:
            self.write(store, desk.ledger, self.current_evictions(store))
            return
        if desk is None or now - store.written_at < LAZY_SECONDS:
            return
        before, ledger, record = store.written, desk.ledger, self.current_evictions(store)
        moved = before is None or (before.entries, sum(before.buckets)) != (ledger.entries, sum(ledger.buckets))
        ageing = bool(ledger.spent or ledger.quarantine_ns or record.records)
        if moved or (ageing and now - store.written_at >= AGES_SECONDS):
            self.write(store, ledger, record)

    def discard(self, store: Store) -> None:
        """Deletes the ConfigMap of a policy that is gone and has nothing left to remember. Raises ApiUnreachable."""
        try:
            if store.version:
                store.discarded = True
                body = {
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "preconditions": {"resourceVersion": store.version},
                }
                self._api.request("DELETE", config_map_path(self._namespace, store.name), body=body)
                log.info("ledger %s deleted: its policy is gone and nothing is outstanding", store.name)
        except ApiRefused as refusal:
            if not refusal.not_found:
                log.info("ledger %s not deleted: %s", store.name, refusal)
        self.stores.pop(store.policy, None)

    def is_discarded(self, store: Store) -> bool:
        """Whether a deletion that got no answer was done: then there is nothing to remember. Raises as `refresh`."""
        if not store.discarded:
            return False
        self._invalidate(store)
        if self.read(store):
            return False
        self.stores.pop(store.policy, None)
        return True

    def _invalidate(self, store: Store) -> None:
        store.desk, store.checked_at = None, None
