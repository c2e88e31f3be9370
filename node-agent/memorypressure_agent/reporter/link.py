"""The node's orders: watches its NodeMemoryState, fetches the plan when that moves, writes the orders file.

What the API server does not say is not ordered: an object that is gone, of no policy, or not understood takes the
orders file away, and the sentinel is then without orders. So does a file that cannot be written: orders that are no
longer in force must not stay in it. While the API server is *away* the file stays as it is: how long it may be used is
the grant's matter, by the node's own clock.
"""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from memorypressure.orders import Orders, OrdersError, encode, grant_json, orders_from
from memorypressure.reasons import Reason
from memorypressure_agent.reporter.client import ApiClient, ApiError, Json
from memorypressure_agent.reporter.files import content, remove, replace_file
from memorypressure_agent.reporter.log import Log
from memorypressure_agent.reporter.pace import backoff_seconds

STATES: Final = "/apis/memorypressure.dev/v1alpha1/nodememorystates"
PLANS: Final = "/apis/memorypressure.dev/v1alpha1/nodememoryplans"
SILENCE_SECONDS: Final = 90.0
"""A watch that is silent for longer is opened anew: API servers send a bookmark about once a minute (KEP-956)."""
WATCH_SECONDS: Final = 300
"""A watch ends after this, and goes on from the version that was heard of last: of an event, or of a bookmark."""
READ_ANEW_SECONDS: Final = 1800.0
"""The object is read as a whole at least this often, whatever was heard."""
EXPIRED: Final = 410
"""The version is too old to go on from: etcd was compacted, or the API server restarted."""
SHORT_WATCH_SECONDS: Final = 5.0
"""A watch that ends sooner counts as a failure: otherwise one that always ends at once would be asked for in a loop."""
LONGEST_BACKOFF_SECONDS: Final = 30.0

_BUSY: Final = (0, 429, 503)
"""No answer, or one that says nothing about what was asked for."""
_NO_POLICY: Final = "no policy is in force on this node"


@dataclass(frozen=True, slots=True)
class LinkState:
    """How the link stands: with the API server (`problem`), and with the orders (`reason`, `message`)."""

    connected: bool = False
    problem: str = "the API server was not reached yet"
    """What is wrong with the connection; empty while it stands."""
    last_contact_seconds: float | None = None
    """Monotonic time of the last answer or event."""
    synced_unix_seconds: float | None = None
    """When the object was last read or heard of."""
    state: Json | None = None
    """The NodeMemoryState as last seen."""
    orders: Orders | None = None
    """What the orders file holds; None: there is no file."""
    generation: int | None = None
    """Generation of the object that `orders`, or there being none, was made of."""
    reason: Reason | None = Reason.NO_ORDERS
    """Why there are no orders; None: they are in force."""
    message: str = "no orders came yet"

    @property
    def uid(self) -> str:
        """UID of the object, empty without one: it changes when the object is deleted and made again."""
        return str(self.state["metadata"].get("uid", "")) if self.state is not None else ""


class _TryAgainError(Exception):
    """The orders are not as they should be although nothing is wrong with the connection."""


class Link(threading.Thread):
    """Keeps the orders file up to date until `stop()`; `state` is what the other threads may read."""

    def __init__(self, client: ApiClient, node_name: str, own_pod_uid: str, orders_path: Path, log: Log) -> None:
        super().__init__(name="link", daemon=True)
        self.state = LinkState()
        self.changed = threading.Event()
        """Set when the object or the orders changed."""
        self._client = client
        self._node_name = node_name
        self._own_pod_uid = own_pod_uid
        self._orders_path = orders_path
        self._log = log
        self._stopping = threading.Event()
        self._plan: Json | None = None
        self._version = ""
        """Where a watch goes on; empty: the object has to be read first."""
        self._read_seconds = float("-inf")

    def run(self) -> None:
        """The thread: watches again and again, with back-off and jitter between failures."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            retry_after_seconds: float | None = None
            try:
                self.follow()
            except ApiError as error:
                self._lost(error)
                retry_after_seconds = error.retry_after_seconds
            except _TryAgainError:
                pass  # said when it began
            else:
                if time.monotonic() - began >= SHORT_WATCH_SECONDS:
                    failures = 0
                    continue
            if time.monotonic() - began > LONGEST_BACKOFF_SECONDS:
                failures = 0
            jitter = random.random()  # noqa: S311 -- no secret
            self._stopping.wait(backoff_seconds(failures, jitter, LONGEST_BACKOFF_SECONDS, retry_after_seconds))
            failures += 1

    def stop(self) -> None:
        """Ends the thread; a call under way ends with the process."""
        self._stopping.set()

    def follow(self) -> None:
        """Reads the object unless a watch can go on, then its changes until the watch ends. Raises ApiError.

        After anything that went wrong with an object it is read again: only what was taken over whole is behind us.
        """
        if not self._version or time.monotonic() - self._read_seconds >= READ_ANEW_SECONDS:
            self._version = self._read()
        query = {
            "fieldSelector": f"metadata.name={self._node_name}",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if self._version:  # without one the watch begins with the object, as soon as it is there
            query["resourceVersion"] = self._version
        try:
            for event in self._client.watch(STATES, query, SILENCE_SECONDS):
                if self._stopping.is_set() or not self._hear(event):
                    return
        except ApiError as error:
            if error.status == EXPIRED:
                self._expired(error.message)
                return
            if error.status not in _BUSY:  # the kind may be gone, or the version be of a server that was set back
                self._version = ""
            raise
        except _TryAgainError:
            self._version = ""
            raise

    def _read(self) -> str:
        """Takes the object over; its version, empty where there is no object. Raises ApiError."""
        self._read_seconds = time.monotonic()
        self._version = ""
        try:
            state = self._client.get(f"{STATES}/{self._node_name}")
        except ApiError as error:
            if error.status != 404:
                raise
            if not error.names_object:
                self._nothing("the API server does not know the kind NodeMemoryState")
                raise
            self._gone()
            return ""
        self._take(state)
        return _version_of(state)

    def _hear(self, event: Json) -> bool:
        """Takes an event over; whether the watch goes on."""
        self._in_touch()
        kind, item = event.get("type"), event.get("object")
        if kind == "ERROR":
            message = item.get("message", "") if isinstance(item, dict) else str(item)
            self._expired(message)
            return False
        before, self._version = self._version, ""
        if kind in ("ADDED", "MODIFIED") and isinstance(item, dict):
            self._take(item)
        elif kind == "DELETED":
            self._gone()
        self._version = (_version_of(item) if isinstance(item, dict) else "") or before
        return True

    def _expired(self, message: str) -> None:
        self._version = ""
        self._log(Reason.UNREADABLE, f"the watch ended: {message}; the object is read anew")

    def _in_touch(self) -> None:
        if not self.state.connected:
            self._log(Reason.ACCEPTED, "in touch with the API server")
        self.state = replace(
            self.state,
            connected=True,
            problem="",
            last_contact_seconds=time.monotonic(),
            synced_unix_seconds=time.time(),
        )

    def _take(self, state: Json) -> None:
        """Makes orders of the object, and of the plan that it names."""
        self._in_touch()
        self.state = replace(self.state, state=state)
        spec = state.get("spec")
        if not isinstance(spec, Mapping):
            self._withdraw(Reason.ORDERS_INVALID, "the NodeMemoryState has no spec")
            return
        wanted = spec.get("plan")
        if not isinstance(wanted, Mapping):
            self._withdraw(Reason.NO_ORDERS, _NO_POLICY)
            return
        try:
            plan = self._fetched_plan(wanted)
        except ApiError as error:
            held = self.state.orders
            if held is not None and not _leaves_as_much(spec, held):
                self._withdraw(Reason.NO_ORDERS, f"the plan of new orders cannot be read, the old ones ended: {error}")
            raise
        if plan is None:
            message = f"the plan {wanted.get('uid')} that the state names is not there"
            self._withdraw(Reason.NO_ORDERS, message)
            raise _TryAgainError(message)  # no event will tell when it comes
        try:
            meta = plan["metadata"]
            orders = orders_from(plan["spec"], meta["uid"], meta["generation"], spec, self._own_pod_uid)
        except (OrdersError, KeyError, TypeError) as error:
            self._withdraw(Reason.ORDERS_INVALID, f"orders not understood: {error}")
            return
        if orders is None:
            self._withdraw(Reason.NO_ORDERS, _NO_POLICY)
            return
        self._write(orders)

    def _fetched_plan(self, wanted: Mapping[str, Any]) -> Json | None:
        """The plan that `spec.plan` names, fetched if the one at hand is another or older; None: not there yet."""
        plan = self._plan
        if plan is not None:
            meta = plan["metadata"]
            if meta["uid"] == wanted.get("uid") and meta["generation"] >= wanted.get("generation", 0):
                return plan
        try:
            self._plan = self._client.get(f"{PLANS}/{self._node_name}")
        except ApiError as error:
            if error.status != 404:
                raise
            self._plan = None
        return self._plan

    def _write(self, orders: Orders) -> None:
        data = encode(orders)
        try:
            if content(self._orders_path) != data:
                replace_file(self._orders_path, data)
                grant = "no grant" if orders.grant is None else f"grant up to {orders.grant.kills_ceiling} kills"
                pods = f"{len(orders.pods)} pods"
                self._log(Reason.ACCEPTED, f"orders: {orders.mode}, policy {orders.policy_name}, {pods}, {grant}")
        except OSError as error:
            message = f"the orders file cannot be written: {error}"
            self._withdraw(Reason.ACTION_FAILED, message)
            raise _TryAgainError(message) from error
        self._set(orders, None, "")

    def _withdraw(self, reason: Reason, message: str) -> None:
        """Takes the orders file away: the sentinel observes, and kills nothing."""
        try:
            remove(self._orders_path)
        except OSError as error:
            message = f"the orders file cannot be removed: {error}"
            self._set(self.state.orders, Reason.ACTION_FAILED, message)
            raise _TryAgainError(message) from error
        self._set(None, reason, message)

    def _set(self, orders: Orders | None, reason: Reason | None, message: str) -> None:
        if reason is not None and (reason, message) != (self.state.reason, self.state.message):
            self._log(reason, message)
        generation = self.state.state["metadata"].get("generation") if self.state.state is not None else None
        self.state = replace(
            self.state,
            orders=orders,
            generation=generation if isinstance(generation, int) else None,
            reason=reason,
            message=message,
        )
        self.changed.set()

    def _gone(self) -> None:
        self._in_touch()
        self._nothing(f"there is no NodeMemoryState {self._node_name}; the operator makes it")

    def _nothing(self, message: str) -> None:
        self._plan = None
        self.state = replace(self.state, state=None)
        self._withdraw(Reason.NO_ORDERS, message)

    def _lost(self, error: ApiError) -> None:
        """Keeps the orders: what they allow ends by itself. A refusal says what to look at."""
        hint = {
            401: "; the token is expired, or not of this cluster",
            403: "; is the chart's ClusterRole for the agent bound to this service account?",
            404: "; are the CustomResourceDefinitions of this version installed?",
        }.get(error.status, "")
        problem = f"{error}{hint}"
        if problem != self.state.problem:
            self._log(Reason.UNREADABLE, problem)
        self.state = replace(self.state, connected=False, problem=problem)


def _version_of(item: Json) -> str:
    """The object's version, also a bookmark's; empty if it is not one."""
    meta = item.get("metadata")
    version = meta.get("resourceVersion") if isinstance(meta, Mapping) else None
    return version if isinstance(version, str) else ""


def _leaves_as_much(spec: Mapping[str, Any], held: Orders) -> bool:
    """Whether a state's spec still gives the leave of the orders at hand: nothing is kept that was taken away."""
    if spec.get("mode") != held.mode.value or spec.get("policyName") != held.policy_name:
        return False
    grant = spec.get("grant")
    return held.grant is None or (isinstance(grant, Mapping) and dict(grant) == grant_json(held.grant))
