"""The node's orders: watches its NodeMemoryState, fetches the plan when that moves, writes the orders file.

What the API server does not say is not ordered: an object that is gone, of no policy, or not understood takes the
orders file away, and the sentinel is then without orders. While the API server is *away* the file stays as it is: how
long it may be used is the grant's matter, by the node's own clock.
"""

import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from memorypressure.orders import Orders, OrdersError, encode, orders_from
from memorypressure.reasons import Reason
from memorypressure_agent.reporter.client import ApiClient, ApiError, Json
from memorypressure_agent.reporter.log import Log

STATES: Final = "/apis/memorypressure.dev/v1alpha1/nodememorystates"
PLANS: Final = "/apis/memorypressure.dev/v1alpha1/nodememoryplans"
SILENCE_SECONDS: Final = 90.0
"""A watch that is silent for longer is opened anew: API servers send a bookmark about once a minute (KEP-956)."""
WATCH_SECONDS: Final = 300
LONGEST_BACKOFF_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class LinkState:
    """How the link stands. `message` says what is wrong when `reason` is not None."""

    connected: bool = False
    last_contact_seconds: float | None = None
    """Monotonic time of the last answer or event."""
    state: Json | None = None
    """The NodeMemoryState as last seen."""
    orders: Orders | None = None
    generation: int | None = None
    """Generation of the object that `orders`, or there being none, was made of."""
    reason: Reason | None = Reason.NO_ORDERS
    message: str = "the API server was not reached yet"


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
        self._written: bytes | None = None
        self._plan: Json | None = None

    def run(self) -> None:
        """The thread: watches again and again, with back-off and jitter between failures."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._follow()
                failures = 0
            except ApiError as error:
                failures = 1 if time.monotonic() - began > LONGEST_BACKOFF_SECONDS else failures + 1
                self._lost(error)
                wait_seconds = min(LONGEST_BACKOFF_SECONDS, 0.5 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter
                self._stopping.wait(max(wait_seconds, error.retry_after_seconds or 0.0))

    def stop(self) -> None:
        """Ends the thread; a call under way ends with the process."""
        self._stopping.set()

    def _follow(self) -> None:
        """Reads the object, then its changes until the watch ends."""
        try:
            state = self._client.get(f"{STATES}/{self._node_name}")
        except ApiError as error:
            if error.status != 404:
                raise
            self._gone()
            state = {"metadata": {"resourceVersion": "0"}}
        else:
            self._take(state)
        version = str(state["metadata"].get("resourceVersion", "0"))
        query = {
            "fieldSelector": f"metadata.name={self._node_name}",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        for event in self._client.watch(STATES, query, SILENCE_SECONDS):
            if self._stopping.is_set():
                return
            self.state = replace(self.state, connected=True, last_contact_seconds=time.monotonic())
            kind, item = event.get("type"), event.get("object")
            if kind in ("ADDED", "MODIFIED") and isinstance(item, dict):
                self._take(item)
            elif kind == "DELETED":
                self._gone()
            elif kind == "ERROR":
                message = item.get("message", "") if isinstance(item, dict) else str(item)
                self._log(Reason.UNREADABLE, f"the watch ended: {message}; it is opened anew")
                return

    def _take(self, state: Json) -> None:
        """Makes orders of the object, and of the plan that it names."""
        self.state = replace(self.state, connected=True, last_contact_seconds=time.monotonic(), state=state)
        spec = state.get("spec", {})
        wanted = spec.get("plan")
        try:
            plan = None if not isinstance(wanted, Mapping) else self._fetched_plan(wanted)
            if plan is None:
                self._withdraw(Reason.NO_ORDERS, "no policy is in force on this node")
                return
            meta = plan["metadata"]
            orders = orders_from(plan["spec"], meta["uid"], meta["generation"], spec, self._own_pod_uid)
        except (OrdersError, KeyError, TypeError) as error:
            self._withdraw(Reason.ORDERS_INVALID, f"orders not understood: {error}")
            return
        if orders is None:
            self._withdraw(Reason.NO_ORDERS, "no policy is in force on this node")
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
            return None
        return self._plan

    def _write(self, orders: Orders) -> None:
        data = encode(orders)
        if data != self._written or not self._orders_path.exists():
            try:
                replace_file(self._orders_path, data)
            except OSError as error:
                self._failed(f"the orders file cannot be written: {error}")
                return
            self._written = data
            grant = "no grant" if orders.grant is None else f"grant up to {orders.grant.kills_ceiling} kills"
            text = f"orders: {orders.mode}, policy {orders.policy_name}, {len(orders.pods)} pods, {grant}"
            self._log(Reason.ACCEPTED, text)
        self.state = replace(self.state, orders=orders, generation=self._generation(), reason=None, message="")
        self.changed.set()

    def _withdraw(self, reason: Reason, message: str) -> None:
        """Takes the orders file away: the sentinel observes, and kills nothing."""
        try:
            self._orders_path.unlink(missing_ok=True)
        except OSError as error:
            self._failed(f"the orders file cannot be removed: {error}")
            return
        self._written = None
        if (reason, message) != (self.state.reason, self.state.message):
            self._log(reason, message)
        self.state = replace(self.state, orders=None, generation=self._generation(), reason=reason, message=message)
        self.changed.set()

    def _generation(self) -> int | None:
        state = self.state.state
        generation = state["metadata"].get("generation") if state else None
        return generation if isinstance(generation, int) else None

    def _failed(self, message: str) -> None:
        self._log(Reason.ACTION_FAILED, message)
        self.state = replace(self.state, reason=Reason.ACTION_FAILED, message=message)
        self.changed.set()

    def _gone(self) -> None:
        self._plan = None
        self.state = replace(self.state, connected=True, last_contact_seconds=time.monotonic(), state=None)
        self._withdraw(Reason.NO_ORDERS, f"there is no NodeMemoryState {self._node_name}; the operator creates it")

    def _lost(self, error: ApiError) -> None:
        """Keeps the orders: what they allow ends by itself. A refusal says what to look at."""
        hint = {
            401: "; the token is not accepted: expired, or of another cluster",
            403: "; is the chart's ClusterRole for the agent bound to this service account?",
        }.get(error.status, "")
        message = f"{error}{hint}"
        if self.state.connected or message != self.state.message:
            self._log(Reason.UNREADABLE, message)
        self.state = replace(self.state, connected=False, message=message)


def replace_file(path: Path, data: bytes) -> None:
    """Puts `data` at `path` in one step: a reader sees the old file or the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
