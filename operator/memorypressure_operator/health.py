"""/healthz and /readyz: what each part last did, and how long ago; a stuck part fails, a quiet one does not.

/healthz fails where a restart helps: a thread has ended, the decision loop or kopf's watch is stuck. What a restart
does not help, an API server that is away, refuses or is slow, rights that are missing, silent agents, fails /readyz.
Both always say all of it.
"""

import json
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = logging.getLogger(__name__)

NAMED = 20
"""Objects of a kind that the probes name, where more are not understood."""


@dataclass(slots=True)
class Health:
    """Ages and states of the parts. Writers set plain fields; readers tolerate a moment's inconsistency."""

    clock: Callable[[], float]
    stuck_seconds: float
    phase: str = "starting"
    waiting_for: str = ""
    last_policy_event: float | None = None
    last_reconcile: float | None = None
    last_node_report: float | None = None
    loop_started: float | None = None
    loop_progress: float | None = None  # the decision loop ended a request: slow is not stuck
    policy_echo_due: float | None = None  # a status write that the policy watch has not shown yet, by its time
    threads: dict[str, Callable[[], bool]] = field(default_factory=dict)
    streams: dict[str, Callable[[], bool]] = field(default_factory=dict)
    misread: dict[str, Callable[[], list[str]]] = field(default_factory=dict)  # objects that are not understood
    heard: dict[str, float] = field(default_factory=dict)  # stream -> when the server last sent an event or a bookmark
    opened: dict[str, float] = field(default_factory=dict)  # stream -> when the server last began to send it
    silence_seconds: float = math.inf  # a stream that was not heard for so long is broken
    unready_seconds: float = 10.0  # failures that go on for so long make it unready
    report_seconds: float = math.inf  # three beats of the slowest policy: by then some node has reported
    troubles: Callable[[float], list[str]] = lambda _: []
    leads: Callable[[], bool] = lambda: False  # whether this replica may act now
    policy_watch_served: bool = True  # the API server lets us watch policies: a watch that is silent is stuck

    def live(self) -> tuple[bool, dict[str, object]]:
        """(alive, facts). Dead: a thread ended, the loop is stuck, or the policy watch went silent."""
        now = self.clock()
        problems = [f"thread {name} has ended" for name, alive in self.threads.items() if not alive()]
        beats = (self.loop_started, self.last_reconcile, self.loop_progress)
        beat = max((each for each in beats if each is not None), default=None)
        if beat is not None and now - beat > self.stuck_seconds:
            problems.append(f"the decision loop made no pass for {now - beat:.0f} s, and ended no request")
        if self.policy_watch_served and self.policy_silence_seconds(now) > 2.5 * self.stuck_seconds:
            problems.append("the policy watch did not show a status that was written: it is silent")
        return not problems, self._facts(now) | {"problems": problems}

    def policy_silence_seconds(self, now: float) -> float:
        """Since when a status that was written should have come back; nobody's does while the server is away."""
        return now - self.policy_echo_due if self.policy_echo_due is not None and self.leads() else 0.0

    def blind(self) -> tuple[str, ...]:
        """Streams that the API server has not sent for long: who is protected by what they tell is not known.

        One that is taken up again where it ended is current, also while nothing happens.
        """
        now = self.clock()
        ages = ((name, now - max(heard, self.opened.get(name, heard))) for name, heard in self.heard.items())
        return tuple(sorted(name for name, age in ages if age > self.silence_seconds))

    def ready(self) -> tuple[bool, dict[str, object]]:
        """(ready, facts). Ready: every table is complete and fresh, nothing fails; a standby replica is ready too."""
        now = self.clock()
        problems = [f"{name} not synced" for name, synced in self.streams.items() if not synced()]
        problems += [
            f"{name}: the API server has sent nothing for {now - heard:.0f} s"
            for name, heard in sorted(self.heard.items())
            if now - heard > self.silence_seconds
        ]
        if self.phase != "running":
            problems.append(self.waiting_for or self.phase)
        problems += self.troubles(self.unready_seconds)
        if self.last_node_report is not None and now - self.last_node_report > self.report_seconds:
            problems.append(f"no node has reported for {now - self.last_node_report:.0f} s: are the agents running?")
        alive, facts = self.live()
        return alive and not problems, facts | {"not_ready": problems}

    def _facts(self, now: float) -> dict[str, object]:
        def age(then: float | None) -> float | None:
            return None if then is None else round(now - then, 1)

        return {
            "phase": self.phase,
            "waiting_for": self.waiting_for,
            "leader": self.leads(),
            "last_policy_event_seconds": age(self.last_policy_event),
            "last_reconcile_seconds": age(self.last_reconcile),
            "last_node_report_seconds": age(self.last_node_report),
            "last_event_seconds": {name: age(heard) for name, heard in sorted(self.heard.items())},
            "failing": self.troubles(0.0),
            "not_understood": [says for misread in self.misread.values() for says in misread()[:NAMED]],
        }


class HealthServer:
    """Serves the two probes, with the facts as JSON, from threads of its own."""

    def __init__(self, health: Health, address: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                probes = {"/healthz": health.live, "/readyz": health.ready}
                probe = probes.get(self.path.partition("?")[0])
                if probe is None:
                    self.send_error(404, "only /healthz and /readyz are served here")
                    return
                good, facts = probe()
                body = (json.dumps(facts) + "\n").encode()
                self.send_response(200 if good else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
                log.debug("health: %s", format % args)

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stops answering and frees the port."""
        self._server.shutdown()
        self._server.server_close()
