"""What the reporter serves: `/metrics`, `/healthz`, `/readyz` over HTTP, each on a thread of its own."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app


@dataclass(frozen=True, slots=True)
class Health:
    """An answer to a probe: whether all is well, and one line for each thing that was looked at."""

    ok: bool
    lines: tuple[str, ...]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # a client that connects and says nothing must not keep a thread for ever

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Scrapes and probes are not worth a log line each."""


def serve(
    host: str, port: int, registry: CollectorRegistry, live: Callable[[], Health], ready: Callable[[], Health]
) -> WSGIServer:
    """A running server (its port is `server_port`; 0 picks a free one). Raises OSError when the port is taken."""
    metrics = make_wsgi_app(registry)
    probes = {"/healthz": live, "/livez": live, "/readyz": ready}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        probe = probes.get(path)
        if probe is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"here are: /metrics /healthz /readyz\n"]
        health = probe()
        start_response(
            "200 OK" if health.ok else "503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")]
        )
        return ["".join(f"{line}\n" for line in health.lines).encode()]

    server = make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, name="http", daemon=True).start()
    return server
