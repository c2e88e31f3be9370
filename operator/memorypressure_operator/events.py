"""Events (events.k8s.io/v1) on Pods, Nodes and Policies: each decision is told once, also over restarts.

The name of an Event follows from what it reports, so a second report of it is refused by the API server (409) and
counts as done. Events are written by a thread of their own: a slow API server delays explanations, not decisions.
"""

import hashlib
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from memorypressure.reasons import Reason
from memorypressure_operator import api as api_module
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

CONTROLLER = "memorypressure.dev/operator"
NOTE_MAX_BYTES = 1024
_REMEMBERED = 20_000
_QUEUE = 2_000
_TRIES = 9
_LONGEST_WAIT_SECONDS = 60.0
"""Some four minutes in all: an Event that explains a kill outlives an outage of the API server."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def reference(self) -> dict[str, str]:
        """The ObjectReference."""
        reference = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}
        return reference | ({"namespace": self.namespace} if self.namespace else {})


def pod_subject(namespace: str, name: str, uid: str) -> Subject:
    """A Pod."""
    return Subject("v1", "Pod", namespace, name, uid)


def node_subject(node: NodeView) -> Subject:
    """A Node."""
    return Subject("v1", "Node", "", node.name, node.uid)


def policy_subject(name: str, uid: str) -> Subject:
    """A MemoryPressurePolicy."""
    return Subject("memorypressure.dev/v1alpha1", "MemoryPressurePolicy", "", name, uid)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to tell. Equal `key` and subject: the same Event, written at most once."""

    key: str
    regarding: Subject
    action: str
    reason: Reason
    note: str
    warning: bool = True
    related: Subject | None = None

    @property
    def name(self) -> str:
        """At most 253 characters, lower case: the subject's name and a hash of what is told."""
        told = f"{self.key}\0{self.regarding.kind}\0{self.regarding.uid}\0{self.reason}"
        return f"{self.regarding.name[:200].rstrip('.-')}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    @property
    def namespace(self) -> str:
        """Events about cluster-scoped objects live in `default`: the API server wants it so."""
        return self.regarding.namespace or "default"


class Requests(Protocol):
    """The part of `api.Api` that is used."""

    def request(self, method: str, path: str, *, body: object = ...) -> object:
        """As `api.Api.request`."""
        ...


class EventWriter(threading.Thread):
    """Writes Events in order. `tell` never blocks; a full queue drops the new one and counts it."""

    def __init__(
        self,
        requests: Requests,
        identity: str,
        on_failure: Callable[[], None],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name="events", daemon=True)
        self._requests = requests
        self._identity = identity[:128]
        self._on_failure = on_failure
        self._wall = wall
        self._queue: queue.Queue[Event | None] = queue.Queue(_QUEUE)
        self._told: OrderedDict[str, None] = OrderedDict()
        self._stopping = threading.Event()

    def tell(self, event: Event) -> bool:
        """Queues the Event; false if this process told it before or cannot take more."""
        if event.name in self._told:
            return False
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            log.error("event dropped, too many wait: %s %s: %s", event.regarding.name, event.reason, event.note)
            self._on_failure()
            return False
        self._told[event.name] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return True

    def stop(self) -> None:
        """Ends after what is queued was tried once."""
        self._stopping.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            log.warning("%d events are not written", self._queue.qsize())

    def run(self) -> None:
        """Writes what is queued until `stop`."""
        while True:
            event = self._queue.get()
            if event is None:
                return
            self._write(event)

    def _write(self, event: Event) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{api_module.segment(event.namespace)}/events"
        tries = 1 if self._stopping.is_set() else _TRIES
        for attempt in range(1, tries + 1):
            try:
                self._requests.request("POST", path, body=self._body(event))
                return
            except ApiRefused as refusal:
                if refusal.conflict:
                    return  # told before, perhaps by an earlier process
                problem: Exception = refusal
                if refusal.status not in (429, 500, 503, 504):
                    break
            except ApiUnreachable as error:
                problem = error
            if attempt < tries:
                self._stopping.wait(min(2.0 ** (attempt - 1), _LONGEST_WAIT_SECONDS))
            if self._stopping.is_set():
                break
        log.warning("event not written: %s %s: %s", event.regarding.name, event.reason, problem)
        self._on_failure()

    def _body(self, event: Event) -> dict[str, object]:
        body: dict[str, object] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event.name, "namespace": event.namespace},
            "eventTime": self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity,
            "action": event.action,
            "reason": str(event.reason),
            "regarding": event.regarding.reference(),
            "note": _cut(event.note),
            "type": "Warning" if event.warning else "Normal",
        }
        if event.related is not None:
            body["related"] = event.related.reference()
        return body


def _cut(note: str) -> str:
    raw = note.encode()
    return note if len(raw) <= NOTE_MAX_BYTES else raw[: NOTE_MAX_BYTES - 3].decode("utf-8", "ignore") + "..."
