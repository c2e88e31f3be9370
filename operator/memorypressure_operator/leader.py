"""Our own Lease holder: who may act, as a monotonic deadline that is asked before every act.

The client library's election loses its thread when the API server goes away and never says so. Here any failed renewal
simply does not move the deadline. Two replicas never act at once as long as their clocks run at the same *rate*: a
holder stops `renew_deadline_seconds` after it *sent* its last successful renewal; another takes over only after it saw
the Lease unchanged for `lease_seconds` on its own clock. No time stamp of another machine is compared.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from memorypressure_operator import api as api_module
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, OperatorError

log = logging.getLogger(__name__)

OFFERED_BY = "memorypressure.dev/offered-by"
"""Annotation on a Lease that `cleanup` keeps: the installation that it ended. Operators of others may take it."""
_REPEAT_SECONDS = 30.0
_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError)
"""What reading a Lease raises that this code did not write."""


class Requests(Protocol):
    """The part of `api.Api` that is used."""

    def request(self, method: str, path: str, *, body: Any = ..., timeout_seconds: float | None = ...) -> Any:
        """As `api.Api.request`."""
        ...


@dataclass(frozen=True, slots=True)
class LeaderSettings:
    """Times in seconds; request timeout < renew deadline < lease."""

    namespace: str
    name: str
    identity: str
    lease_seconds: float
    renew_deadline_seconds: float
    renew_seconds: float
    renew_timeout_seconds: float


class Leader:
    """Holds, loses and gives back one Lease. `holds()` is safe to ask from any thread."""

    def __init__(
        self,
        requests: Requests,
        settings: LeaderSettings,
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        installation: Callable[[], str] = lambda: "",
    ) -> None:
        self._requests = requests
        self._installation = installation  # what all replicas of one installation have in common; "" = not known
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._deadline = float("-inf")
        self._term = 0
        self._seen: tuple[str, str] | None = None  # holder and resourceVersion last read
        self._seen_at = 0.0
        self._told = ("", 0.0)
        self._written: dict[str, Any] | None = None  # the Lease as this replica wrote it last
        self.holder = ""

    def holds(self) -> bool:
        """True while this replica may act."""
        with self._lock:
            return self._clock() < self._deadline

    @property
    def term(self) -> int:
        """Counts acquisitions of this process: a new term means that everything remembered must be read anew."""
        with self._lock:
            return self._term

    def attempt(self) -> bool:
        """One try to acquire or renew; true if the Lease is ours afterwards. Never raises for API trouble."""
        try:
            held = self._attempt()
        except (ApiUnreachable, ApiRefused) as error:
            if isinstance(error, ApiRefused) and error.not_found:
                self._tell(f"{error}; does namespace {self._settings.namespace} (--namespace) exist?")
            elif not (isinstance(error, ApiRefused) and error.conflict):
                self._tell(str(error))
            return False
        except _NOT_UNDERSTOOD as error:
            self._written = None
            log.error("lease %s is not understood (%r); delete it if it is not ours", self._settings.name, error)
            return False
        return held

    def _tell(self, problem: str) -> None:
        """Logs a failure when it is a new one, and again each 30 s."""
        now = self._clock()
        if problem != self._told[0] or now - self._told[1] >= _REPEAT_SECONDS:
            self._told = (problem, now)
            log.warning("lease %s not renewed: %s", self._settings.name, problem)

    def _attempt(self) -> bool:
        return self._renew() or self._read_and_take()

    def _renew(self) -> bool:
        """Renews what this replica wrote last, in one request: with two, a slow API server would cost the Lease."""
        lease, self._written = self._written, None
        if lease is None or not self.holds():
            return False
        sent = self._clock()
        lease["spec"] |= self._spec(lease["spec"], taken=False)
        path = api_module.lease_path(self._settings.namespace, self._settings.name)
        try:
            self._written = self._call("PUT", path, lease)
        except ApiRefused as error:
            if error.conflict or error.not_found:
                return False  # somebody wrote it: it has to be read
            raise
        return self._won(sent)

    def _read_and_take(self) -> bool:
        sent = self._clock()
        path = api_module.lease_path(self._settings.namespace, self._settings.name)
        try:
            lease = self._call("GET", path)
        except ApiRefused as error:
            if not error.not_found:
                raise
            if self._seen is not None and not self.holds() and not self._waited(("", ""), self._settings.lease_seconds):
                return False  # somebody has deleted it: who held it may not know yet, and makes it anew
            self._written = self._call("POST", api_module.lease_path(self._settings.namespace), self._fresh({}))
            return self._won(sent)
        spec: dict[str, Any] = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        self.holder = holder
        if holder and holder != self._settings.identity and not self._expired(lease, spec, holder):
            if not self._offered(lease):
                self._lost()
                return False
            log.info("lease %s was left by an installation that has been cleaned up", self._settings.name)
        _annotations(lease).pop(OFFERED_BY, None)
        taken = holder != self._settings.identity
        lease["spec"] = spec | self._spec(spec, taken=taken)
        self._written = self._call("PUT", path, lease)  # with the resourceVersion: two takers cannot both succeed
        return self._won(sent)

    def _fresh(self, spec: dict[str, Any]) -> dict[str, Any]:
        """A Lease where there is none."""
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._settings.name, "namespace": self._settings.namespace},
            "spec": self._spec({}, taken=True) | {"leaseTransitions": 0} | spec,
        }

    def _expired(self, lease: dict[str, Any], spec: dict[str, Any], holder: str) -> bool:
        lasts = max(float(spec.get("leaseDurationSeconds") or 0), self._settings.lease_seconds)
        return self._waited((holder, str(lease["metadata"]["resourceVersion"])), lasts)

    def _waited(self, seen: tuple[str, str], seconds: float) -> bool:
        """Whether nothing but this was seen of the Lease for so long."""
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
            return False
        return self._clock() - self._seen_at > seconds

    def _offered(self, lease: dict[str, Any]) -> bool:
        """Whether the Lease was left for operators of other installations, and this is one."""
        by = _annotations(lease).get(OFFERED_BY)
        if not by:
            return False
        try:
            own = self._installation()
        except (ApiUnreachable, ApiRefused) as error:
            self._tell(f"it may be free for this installation, but which this is cannot be asked: {error}")
            return False
        return bool(own) and own != by

    def _spec(self, before: dict[str, Any], *, taken: bool) -> dict[str, Any]:
        now = self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.lease_seconds)),
            "renewTime": now,
        }
        if taken:
            spec |= {"acquireTime": now, "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1}
        return spec

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        timeout = self._settings.renew_timeout_seconds
        return self._requests.request(method, path, body=body, timeout_seconds=timeout).json()

    def _won(self, sent: float) -> bool:
        with self._lock:
            if self._clock() >= self._deadline:  # also after a gap of our own: another may have held it in between
                self._term += 1
                log.info("lease %s acquired as %s", self._settings.name, self._settings.identity)
            self._deadline = sent + self._settings.renew_deadline_seconds
            self.holder = self._settings.identity
        return True

    def _lost(self) -> None:
        with self._lock:
            if self._clock() < self._deadline:
                log.error("lease %s was taken by %s; nothing more is done here", self._settings.name, self.holder)
            self._deadline = float("-inf")

    def release(self) -> None:
        """Gives the Lease back, so that a successor need not wait. Call it when nothing acts any more."""
        with self._lock:
            held = self._clock() < self._deadline
            self._deadline = float("-inf")
        if not held:
            return
        path = api_module.lease_path(self._settings.namespace, self._settings.name)
        try:
            lease = self._call("GET", path)
            if (lease.get("spec") or {}).get("holderIdentity") == self._settings.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                self._call("PUT", path, lease)
        except (OperatorError, *_NOT_UNDERSTOOD) as error:
            log.info("lease %s not given back, it runs out by itself: %r", self._settings.name, error)

    def seize(self, hold_seconds: float) -> str | None:
        """Takes the Lease from whoever holds it, for `hold_seconds`; the former holder, "" if nobody held it.

        None where somebody wrote it at the same time: try again. A former holder may act for `renew_deadline_seconds`
        and one request more. Raises ApiUnreachable and ApiRefused.
        """
        path = api_module.lease_path(self._settings.namespace, self._settings.name)
        spec = {"leaseDurationSeconds": max(1, round(hold_seconds))}
        try:
            try:
                lease = self._call("GET", path)
            except ApiRefused as refusal:
                if not refusal.not_found:
                    raise
                self._call("POST", api_module.lease_path(self._settings.namespace), self._fresh(spec))
                return ""
            before: dict[str, Any] = lease.get("spec") or {}
            lease["spec"] = before | self._spec(before, taken=True) | spec
            _annotations(lease).pop(OFFERED_BY, None)
            self._call("PUT", path, lease)
        except ApiRefused as refusal:
            if refusal.conflict:
                return None
            raise
        holder = str(before.get("holderIdentity") or "")
        return "" if holder == self._settings.identity else holder

    def offer(self) -> bool:
        """Leaves the Lease, seized before, to operators of any other installation; whether that is written.

        Call it when nobody who held it acts any more. Where it is not known which installation this is, nothing is
        left to anybody: the Lease runs out by itself. Raises ApiUnreachable and ApiRefused.
        """
        installation = self._installation()
        path = api_module.lease_path(self._settings.namespace, self._settings.name)
        lease = self._call("GET", path)
        if not installation or (lease.get("spec") or {}).get("holderIdentity") != self._settings.identity:
            return False
        _annotations(lease)[OFFERED_BY] = installation
        self._call("PUT", path, lease)
        return True


def _annotations(lease: dict[str, Any]) -> dict[str, str]:
    """The Lease's annotations, to be changed in place."""
    meta: dict[str, Any] = lease["metadata"]
    if not isinstance(meta.get("annotations"), dict):
        meta["annotations"] = {}
    found: dict[str, str] = meta["annotations"]
    return found


class LeaderThread(threading.Thread):
    """Attempts every `renew_seconds` until `stop`; `on_change` hears each gain and loss."""

    def __init__(self, leader: Leader, renew_seconds: float, on_change: Callable[[], None]) -> None:
        super().__init__(name="leader", daemon=True)
        self._leader = leader
        self._renew_seconds = renew_seconds
        self._on_change = on_change
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends after the attempt under way."""
        self._stopping.set()

    def run(self) -> None:
        """Attempts in a loop."""
        held = False
        while not self._stopping.is_set():
            self._leader.attempt()
            if self._leader.holds() != held:
                held = not held
                self._on_change()
            self._stopping.wait(self._renew_seconds)
