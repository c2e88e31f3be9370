"""Reads the journal and writes the node's status, at the pace of `pace`; keeps what could not be written yet."""

import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from memorypressure.reasons import Reason
from memorypressure_agent.host.clocks import boot_ns, unix_ns
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter import pace, report
from memorypressure_agent.reporter.client import ApiClient, ApiError
from memorypressure_agent.reporter.endpoint import Health
from memorypressure_agent.reporter.history import History
from memorypressure_agent.reporter.link import STATES, Link
from memorypressure_agent.reporter.log import Log

ROUND_SECONDS: Final = 0.5
STUCK_SECONDS: Final = 60.0
"""A round that has not ended for so long is stuck: one call takes 15 s at most."""
OUT_OF_TOUCH_SECONDS: Final = 120.0


class Publisher(threading.Thread):
    """Runs until `stop()`. `view` is what was read last, for metrics and probes."""

    def __init__(self, client: ApiClient, node_name: str, journal_path: str, link: Link, log: Log) -> None:
        super().__init__(name="publisher", daemon=True)
        self.view = report.View({}, None, 0, 0, "it was not read yet")
        self._client = client
        self._path = f"{STATES}/{node_name}/status"
        self._reader = JournalReader(journal_path)
        self._link = link
        self._log = log
        self._stopping = threading.Event()
        self._incarnation = ""
        self._decision = 0
        self._actions = History()
        self._episodes = History()
        self._pace = pace.Pace()
        self._seeded = False
        self._conditions: tuple[report.Condition, ...] = ()
        self._written_key: tuple[object, ...] | None = None
        self._written_beat: tuple[str, int] | None = None
        self._round_seconds = time.monotonic()
        self._problem = ""
        self._api_problem = ""

    def run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            self._round_seconds = time.monotonic()
            self._read()
            self._write()
            self._link.changed.wait(ROUND_SECONDS)
            self._link.changed.clear()

    def stop(self) -> None:
        """Ends the thread after its round."""
        self._stopping.set()
        self._link.changed.set()

    def live(self) -> Health:
        """Whether the threads turn; a broken API server or sentinel is no reason to restart this process."""
        age = time.monotonic() - self._round_seconds
        return Health(age < STUCK_SECONDS, (f"last round {age:.1f} s ago",))

    def ready(self) -> Health:
        """Whether orders reach the sentinel and reports reach the API server."""
        link, now = self._link.state, time.monotonic()
        checks = []
        if link.last_contact_seconds is None:
            checks.append((False, f"API server: {link.message}"))
        else:
            age = now - link.last_contact_seconds
            checks.append((age < OUT_OF_TOUCH_SECONDS, f"API server: last answer {age:.0f} s ago"))
        last = self._pace.last_write_seconds
        told = "never" if last is None else f"{now - last:.0f} s ago"
        checks.append(
            (last is not None and not self._pace.failures, f"status written: {told} {self._api_problem}".rstrip())
        )
        problem = self.view.problem or ("the sentinel writes no status" if self.view.silent else "")
        checks.append((not problem, f"sentinel: {problem or 'writes'}"))
        refused = link.reason in (Reason.ORDERS_INVALID, Reason.ACTION_FAILED)
        checks.append((not refused, f"orders: {link.message if link.reason is not None else 'in force'}"))
        return Health(all(ok for ok, _ in checks), tuple(f"{'ok' if ok else 'NOT'} {line}" for ok, line in checks))

    def _read(self) -> None:
        """Takes over what is new in the journal. One that cannot be read leaves what is known as it is."""
        reader = self._reader
        try:
            identity = reader.refresh()
            if identity.incarnation != self._incarnation:
                if self._incarnation:
                    self._log(Reason.WRONG_INCARNATION, f"the journal was replaced: now {identity.incarnation[:8]}")
                self._incarnation, self._decision = identity.incarnation, 0
            batch = reader.decisions(self._decision)
            self._decision = batch.next_after
            if batch.lost:
                self._log(
                    Reason.ACTION_FAILED, f"{batch.lost} decisions were overwritten or damaged before they were read"
                )
            for _, record in batch.records:
                self._remember(record)
            status = reader.status()
            grants = reader.grants()
        except JournalError as error:
            if str(error) != self._problem:
                self._log(Reason.UNREADABLE, str(error))
            self._problem = str(error)
            self.view = report.View(self.view.status, self.view.grants, unix_ns(), boot_ns(), self._problem)
            return
        self._problem = ""
        self.view = report.View(status.values if status else {}, grants, unix_ns(), boot_ns())

    def _remember(self, record: Mapping[str, Any]) -> None:
        kind, entry = record.get("kind"), record.get("record")
        if kind == "action" and isinstance(entry, dict):
            message = ". ".join(text for text in (record.get("message"), record.get("outcome")) if text)
            self._actions.add({**entry, "message": message} if message else entry)
        elif kind == "episode" and isinstance(entry, dict):
            self._episodes.add(entry)

    def _write(self) -> None:
        """Writes the status if that is due."""
        link = self._link.state
        if link.state is None or self.view.grants is None:
            return  # no object to write to yet, or nothing to say about this node
        if not self._seeded:
            self._seed(link.state.get("status") or {})
        now = report.conditions(self.view, link, self._conditions)
        actions, episodes = self._actions.window(), self._episodes.window()
        patch = report.body(self.view, link, now, actions, episodes)
        key = report.transition_key(patch, self._actions.unreported + self._episodes.unreported)
        beat = (self.view.grants.incarnation, self.view.grants.beat)
        seconds = time.monotonic()
        if not pace.due(
            self._pace,
            seconds,
            transition=key != self._written_key,
            under_pressure=bool(self.view.active_triggers),
            new_beat=beat != self._written_beat,
        ):
            return
        try:
            self._client.patch(self._path, patch)
        except ApiError as error:
            self._not_written(error)
            return
        self._actions.reported(actions)
        self._episodes.reported(episodes)
        self._conditions, self._written_beat = now, beat
        self._written_key = report.transition_key(patch, self._actions.unreported + self._episodes.unreported)
        if self._api_problem:
            self._log(Reason.ACCEPTED, "the status is written again")
        self._api_problem = ""
        self._pace = pace.succeeded(self._pace, time.monotonic(), time.monotonic() - seconds)

    def _seed(self, status: Mapping[str, Any]) -> None:
        """Begins from what the API holds: conditions keep their times, what it knows is not reported anew."""
        self._conditions = report.conditions_from(status)
        self._actions.seed(status.get("recentActions") or ())
        self._episodes.seed(status.get("recentEpisodes") or ())
        self._seeded = True

    def _not_written(self, error: ApiError) -> None:
        hint = {
            401: "; the token is expired or not of this cluster",
            403: "; the token must be bound to a pod on this node, and the chart's rights be in place",
            404: "; is the operator running and the CRD installed?",
            422: "; the CRD is of another version than this agent",
        }.get(error.status, "")
        message = f"{error}{hint}"
        if message != self._api_problem:
            self._log(Reason.UNREADABLE, f"the status could not be written: {message}")
        self._api_problem = message
        self._pace = pace.failed(
            self._pace,
            time.monotonic(),
            random.random(),  # noqa: S311 -- jitter
            throttled=error.status == 429,
            retry_after_seconds=error.retry_after_seconds,
        )
