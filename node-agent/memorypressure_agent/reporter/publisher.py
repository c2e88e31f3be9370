"""Reads the journal and writes the node's status, at the pace of `pace`; keeps what could not be written yet."""

import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from memorypressure.reasons import Reason
from memorypressure.version import VERSION
from memorypressure_agent.host.clocks import boot_ns, unix_ns
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader, StatusRecord
from memorypressure_agent.reporter import pace, report, shape
from memorypressure_agent.reporter.client import ApiClient, ApiError
from memorypressure_agent.reporter.conditions import Condition, conditions_from, conditions_of
from memorypressure_agent.reporter.endpoint import Health
from memorypressure_agent.reporter.history import NEW_IN_A_WRITE, History
from memorypressure_agent.reporter.link import STATES, Link, LinkState
from memorypressure_agent.reporter.log import Log
from memorypressure_agent.reporter.view import View

ROUND_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 10.0
"""For so long after the start a sentinel that is not there yet is waited for, not reported."""
STATUS_SECONDS: Final = 1.5
"""What records or lease tell first waits so long for the sentinel's next status, which comes once a second: a report
without it would lack the active triggers, which the operator taints by, and the next report is 5 s away."""
STUCK_SECONDS: Final = 60.0
"""A round that has not ended for so long is stuck: one call takes 15 s at most."""
OUT_OF_TOUCH_SECONDS: Final = 120.0
FINISH_SECONDS: Final = 5.0
LAST_RECORD_SECONDS: Final = 2.0
"""A sentinel that waits for a victim looks at signals every 0.2 s at least."""

_MAY_BE_ANOTHER: Final = (409, 422)
"""What a server answers when a patch's test fails: 422; 409 if the object changes too fast for it."""
_HINTS: Final = {
    401: "; the token is expired, or not of this cluster",
    403: "; the token must be bound to a pod on this node, and the chart's rights be in place",
    404: "; is the operator running, and are the CustomResourceDefinitions installed?",
    422: "; the CustomResourceDefinition is of another version than this agent",
}


class Publisher(threading.Thread):
    """Runs until `stop()`. `view` is what was read last, for metrics and probes."""

    def __init__(self, client: ApiClient, node_name: str, journal_path: str, link: Link, log: Log) -> None:
        super().__init__(name="publisher", daemon=True)
        self.view = View({}, None, 0, 0, "the journal was not read yet")
        self._client = client
        self._object_path = f"{STATES}/{node_name}"
        self._reader = JournalReader(journal_path)
        self._link = link
        self._log = log
        self._stopping = threading.Event()
        self._started_seconds = time.monotonic()
        self._incarnation = ""
        self._decision = 0
        self._status: StatusRecord | None = None
        self._status_seconds = 0.0
        self._complaint = ""
        self._actions = History()
        self._episodes = History()
        self._pace = pace.Pace()
        self._beat_jitter = random.random()  # noqa: S311 -- no secret
        self._beat: tuple[str, int] | None = None
        self._beat_seconds = 0.0
        self._seeded = False
        self._kill_under_way = False
        """The journal tells of a kill, and not yet of its end."""
        self._conditions: tuple[Condition, ...] = ()
        self._written_key: tuple[object, ...] | None = None
        self._written_beat: tuple[str, int] | None = None
        self._quiet_sequence: int | None = None
        """Of the status in the last round without news."""
        self._news_seconds: float | None = None
        self._round_seconds = time.monotonic()
        self._problem = ""
        self._api_problem = ""

    def run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            self._round_seconds = time.monotonic()
            self.read()
            self.write()
            self._link.changed.wait(ROUND_SECONDS)
            self._link.changed.clear()
        self.finish()

    def stop(self) -> None:
        """Ends the thread after its round."""
        self._stopping.set()
        self._link.changed.set()

    def live(self) -> Health:
        """Whether the threads turn; a broken API server or sentinel is no reason to restart this process."""
        age = time.monotonic() - self._round_seconds
        return Health(age < STUCK_SECONDS, (f"last round {age:.1f} s ago",))

    def ready(self) -> Health:
        """Whether orders reach the sentinel, which reads the zones, and reports reach the API server."""
        link, now = self._link.state, time.monotonic()
        contact = link.last_contact_seconds
        if contact is None or now - contact >= OUT_OF_TOUCH_SECONDS:
            silence = "" if contact is None else f"last answer {now - contact:.0f} s ago; "
            checks = [(False, f"API server: {silence}{link.problem or 'it says nothing'}")]
        else:
            checks = [(True, f"API server: last answer {now - contact:.0f} s ago {link.problem}".rstrip())]
        last = self._pace.last_write_seconds
        told = "never" if last is None else f"{now - last:.0f} s ago"
        why = self._api_problem or ("" if link.state is not None else link.message)
        checks.append((last is not None and not self._pace.failures, f"status written: {told} {why}".rstrip()))
        problem = self.view.problem or ("it writes no status" if self.view.silent else "")
        checks.append((not problem, f"sentinel: {problem or 'writes'}"))
        if not problem:
            unread = self.view.zones_problem
            checks.append((not unread, f"zoneinfo: {unread or 'read'}"))
        checks.append(self._orders(link))
        return Health(all(ok for ok, _ in checks), tuple(f"{'ok' if ok else 'NOT'} {line}" for ok, line in checks))

    def _orders(self, link: LinkState) -> tuple[bool, str]:
        """Whether orders are understood, by this process and by the sentinel, and how they stand."""
        if link.reason is not None:
            return link.reason not in (Reason.ORDERS_INVALID, Reason.ACTION_FAILED), f"orders: {link.message}"
        taken = {} if self.view.silent else self.view.status["orders"]
        if taken.get("standing") == "Invalid":
            return False, f"orders: the sentinel refuses them: {taken['message']}"
        in_force = taken.get("standing") == "Valid"
        return True, f"orders: {'in force' if in_force else 'written; the sentinel has not taken them over'}"

    def read(self) -> None:
        """Takes over what is new in the journal. One that cannot be read leaves what is known as it is."""
        try:
            self._read_records()
            record = self._reader.status()
            grants = self._reader.grants()
        except (JournalError, OSError) as error:
            self._set_problem(f"the journal cannot be read: {error}", Reason.UNREADABLE)
            self.view = View({}, self.view.grants, unix_ns(), boot_ns(), self._problem)
            return
        now = time.monotonic()
        if record is not None and (self._status is None or record.sequence != self._status.sequence):
            self._status_seconds = now
            self._complaint = shape.complaint(record.values)
        self._status = record
        if record is not None and self._complaint:
            version = record.values.get("agentVersion", "?")
            text = f"the sentinel's status is not understood: {self._complaint}; it is of version {version}, this"
            self._set_problem(f"{text} reporter of {VERSION}: run both containers from one image", Reason.WRONG_VERSION)
            self.view = View({}, grants, unix_ns(), boot_ns(), self._problem, Reason.WRONG_VERSION)
            return
        self._set_problem("", Reason.ACCEPTED)
        unchanged = now - self._status_seconds
        values = record.values if record is not None else {}
        self.view = View(values, grants, unix_ns(), boot_ns(), unchanged_seconds=unchanged)

    def _read_records(self) -> None:
        reader = self._reader
        if reader.identity is not None:
            self._take_records()  # also what was still written to a journal that was replaced since
        identity = reader.refresh()
        if identity.incarnation != self._incarnation:
            if self._incarnation:
                self._log(Reason.WRONG_INCARNATION, f"the journal was replaced: now {identity.incarnation[:8]}")
            self._incarnation, self._decision, self._status = identity.incarnation, 0, None
        self._take_records()

    def _take_records(self) -> None:
        batch = self._reader.decisions(self._decision)
        if batch.lost and self._decision:  # at the start nobody knows what an earlier reporter has read
            self._log(Reason.ACTION_FAILED, f"{batch.lost} records were overwritten or damaged before they were read")
        self._decision = batch.next_after
        for sequence, record in batch.records:
            self._remember(sequence, record)

    def _remember(self, sequence: int, record: Mapping[str, Any]) -> None:
        kind = record.get("kind")
        if record.get("action") and record.get("mode") == "Enforce":  # a decision
            self._kill_under_way = True
        if kind == "action":
            self._kill_under_way = False
            message = ". ".join(str(text) for text in (record.get("message"), record.get("outcome")) if text)
            history, entry = self._actions, report.action_entry(record.get("record"), message)
        elif kind == "episode":
            history, entry = self._episodes, report.episode_entry(record.get("record"))
        else:
            return
        if entry is None:
            self._log(
                Reason.NOT_UNDERSTOOD, f"record {sequence} of the journal is no {kind}: {str(dict(record))[:300]}"
            )
            return
        history.add(entry)

    def _set_problem(self, problem: str, reason: Reason) -> None:
        if problem != self._problem:
            self._log(reason, problem or "the journal is read again")
        self._problem = problem

    def finish(self) -> None:
        """Reports what waits, at once: when the pod goes, its journal goes too. Gives up at the first failure.

        A sentinel that is stopped now as well tells of a kill under way as it ends; so long that is waited for.
        """
        began = time.monotonic()
        while (waited_seconds := time.monotonic() - began) < FINISH_SECONDS:
            self.read()
            if self._actions.unreported + self._episodes.unreported:
                if not self.write(at_once=True):
                    return
            elif not self._kill_under_way or waited_seconds >= LAST_RECORD_SECONDS:
                return
            else:
                time.sleep(LAST_RECORD_SECONDS / 20)

    def write(self, *, at_once: bool = False) -> bool:
        """Writes the status if that is due, or `at_once`; whether it was written."""
        link, now = self._link.state, time.monotonic()
        if link.state is None:
            return False  # no object to write to yet
        if self._pace.last_write_seconds is None and self.view.silent and now - self._started_seconds < SETTLE_SECONDS:
            return False
        if not self._seeded:
            self._seed(link.state.get("status") or {})
        self._conditions = conditions_of(self.view, link, self._conditions)
        actions, episodes = self._actions.window(), self._episodes.window()
        view = self.view
        status = report.body(view, link, self._conditions, actions, episodes)
        key = report.transition_key(status, link)
        waiting = self._actions.unreported + self._episodes.unreported
        beat = self._current_beat(now)
        wish = pace.Wish(
            transition=self._complete(now, news=bool(waiting) or key != self._written_key),
            action=0 < self._actions.unreported <= NEW_IN_A_WRITE,
            under_pressure=bool(self.view.active_triggers),
            beat_seconds=None if beat == self._written_beat else now - self._beat_seconds,
        )
        if not at_once and not pace.due(self._pace, now, wish, self._beat_jitter):
            return False
        try:
            self._client.patch(f"{self._object_path}/status", report.patch(status, view, link))
        except ApiError as error:
            self._not_written(error, link)
            return False
        self._actions.reported(actions)
        self._episodes.reported(episodes)
        self._written_beat, self._written_key = beat, key
        if self._api_problem:
            self._log(Reason.ACCEPTED, "the status is written again")
        self._api_problem = ""
        self._pace = pace.succeeded(self._pace, time.monotonic(), time.monotonic() - now)
        return True

    def _complete(self, now: float, *, news: bool) -> bool:
        """Whether there is news, and the status is not from before it."""
        sequence = self._status.sequence if self._status is not None else None
        if not news:
            self._quiet_sequence, self._news_seconds = sequence, None
            return False
        if self._news_seconds is None:
            self._news_seconds = now
        return sequence != self._quiet_sequence or now - self._news_seconds >= STATUS_SECONDS

    def _current_beat(self, now: float) -> tuple[str, int] | None:
        grants = self.view.grants
        beat = None if grants is None else (grants.incarnation, grants.beat)
        if beat != self._beat:
            self._beat, self._beat_seconds = beat, now
        return beat

    def _seed(self, status: Mapping[str, Any]) -> None:
        """Begins from what the API holds: conditions keep their times, what it knows is not reported anew."""
        self._conditions = conditions_from(status)
        self._actions.seed(status.get("recentActions") or ())
        self._episodes.seed(status.get("recentEpisodes") or ())
        self._seeded = True

    def _not_written(self, error: ApiError, link: LinkState) -> None:
        message = self._replaced(link) if error.status in _MAY_BE_ANOTHER else ""
        message = message or f"{error}{_HINTS.get(error.status, '')}"
        if message != self._api_problem:
            self._log(Reason.UNREADABLE, f"the status could not be written: {message}")
        self._api_problem = message
        self._pace = pace.failed(
            self._pace,
            time.monotonic(),
            random.random(),  # noqa: S311 -- no secret
            throttled=error.status == 429,
            retry_after_seconds=error.retry_after_seconds,
        )

    def _replaced(self, link: LinkState) -> str:
        """How the object that was written to is no longer the one that the report was made for; empty if it is.

        The server does not say which of a patch's tests failed, nor that one did.
        """
        try:
            now = self._client.get(self._object_path)
        except ApiError as error:
            return "the object was deleted; it is waited for" if error.status == 404 and error.names_object else ""
        uid = str((now.get("metadata") or {}).get("uid", ""))
        if uid != link.uid:
            return f"the object was made anew (UID {link.uid} is now {uid}); the next report is for the new one"
        if self.view.grants is None and (now.get("status") or {}).get("lease") != report.held_lease(link):
            return "another reporter wrote its lease meanwhile; it is read again"
        return ""
