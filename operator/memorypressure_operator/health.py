"""/healthz and /readyz: what each part last did, and how long ago; a stuck part fails, a quiet one does not."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Health:
    """Ages and states of the parts. Writers set plain fields; readers tolerate a moment's inconsistency."""

    clock: Callable[[], float]
    stuck_seconds: float
    phase: str = "starting"
    waiting_for: str = ""
    leader: bool = False
    last_policy_event: float | None = None
    last_reconcile: float | None = None
    last_node_report: float | None = None
    loop_started: float | None = None
    policy_echo_due: float | None = None  # a status write that the policy watch has not shown yet, by its time
    threads: dict[str, Callable[[], bool]] = field(default_factory=dict)
    streams: dict[str, Callable[[], bool]] = field(default_factory=dict)

    def live(self) -> tuple[bool, dict[str, object]]:
        """(alive, facts). Dead: a thread ended, the loop is stuck, or the policy watch went silent."""
        now = self.clock()
        problems = [f"thread {name} has ended" for name, alive in self.threads.items() if not alive()]
        beat = self.last_reconcile if self.last_reconcile is not None else self.loop_started
        if beat is not None and now - beat > self.stuck_seconds:
            problems.append(f"the decision loop made no pass for {now - beat:.0f} s")
        if self.policy_echo_due is not None and now - self.policy_echo_due > 2.5 * self.stuck_seconds:
            problems.append("the policy watch did not show a status that was written: it is silent")
        return not problems, self._facts(now) | {"problems": problems}

    def ready(self) -> tuple[bool, dict[str, object]]:
        """(ready, facts). Ready: every table is complete and policies were listed; a standby replica is ready too."""
        missing = [name for name, synced in self.streams.items() if not synced()]
        problems = [f"{name} not synced" for name in missing]
        if self.phase != "running":
            problems.append(self.waiting_for or self.phase)
        alive, facts = self.live()
        return alive and not problems, facts | {"not_ready": problems}

    def _facts(self, now: float) -> dict[str, object]:
        def age(then: float | None) -> float | None:
            return None if then is None else round(now - then, 1)

        return {
            "phase": self.phase,
            "waiting_for": self.waiting_for,
            "leader": self.leader,
            "last_policy_event_seconds": age(self.last_policy_event),
            "last_reconcile_seconds": age(self.last_reconcile),
            "last_node_report_seconds": age(self.last_node_report),
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
