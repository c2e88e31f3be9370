"""What the reporter serves: `/metrics`, `/healthz`, `/readyz`, each request on a thread of its own.

Metrics may be served over TLS and to those who may read them only; probes then have a port of their own, in clear: the
kubelet has to reach them when there is no certificate, and must not end a sentinel for that.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from memorypressure_agent.reporter.access import Guard, Verdict

MOST_REQUESTS: Final = 16
"""Requests under way at once; a connection beyond them is closed, so that strangers cannot fill this process."""
READ_SECONDS: Final = 10.0
"""A client that connects and says nothing must not keep a thread for ever."""
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_STATUS: Final = {401: "401 Unauthorized", 403: "403 Forbidden", 503: "503 Service Unavailable"}

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
Wrap = Callable[[socket.socket], socket.socket]


@dataclass(frozen=True, slots=True)
class Health:
    """An answer to a probe: whether all is well, and one line for each thing that was looked at."""

    ok: bool
    lines: tuple[str, ...]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, family: socket.AddressFamily, address: str, port: int, wrap: Wrap | None = None) -> None:
        self.address_family = family
        self._wrap = wrap
        self._room = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__((address, port), _QuietHandler)

    def server_bind(self) -> None:
        """Binds; both families on the wildcard. Not as HTTPServer, which asks the DNS for a name that nobody uses."""
        if self.address_family is socket.AF_INET6:
            with contextlib.suppress(OSError):  # a kernel that has only the one is content with it
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the request's thread, if there is room for one."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread of a request; a handshake that a client does not finish takes this thread's time only."""
        try:
            if self._wrap is not None:
                request.settimeout(READ_SECONDS)
                try:
                    request = self._wrap(request)
                except (OSError, ValueError):  # no TLS, another TLS, no certificate yet: nothing can be answered
                    self.shutdown_request(request)
                    return
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; WSGI applications' errors are logged by their handler."""


class _QuietHandler(WSGIRequestHandler):
    timeout = READ_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Scrapes and probes are not worth a log line each."""


def probes(live: Callable[[], Health], ready: Callable[[], Health]) -> dict[str, Application]:
    """Applications that answer probes, by path: 200 or 503, and a line for each thing that was looked at."""

    def probe(ask: Callable[[], Health]) -> Application:
        def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            health = ask()
            start_response("200 OK" if health.ok else _STATUS[503], [_TEXT])
            return ["".join(f"{line}\n" for line in health.lines).encode()]

        return application

    return {"/healthz": probe(live), "/livez": probe(live), "/readyz": probe(ready)}


def metrics(registry: CollectorRegistry, guard: Guard | None = None) -> dict[str, Application]:
    """The application of `/metrics`, by its path; with a guard for those who may read it only."""
    exposition: Application = make_wsgi_app(registry)

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        verdict = Verdict(200) if guard is None else guard(environ.get("HTTP_AUTHORIZATION", ""))
        if verdict.status == 200:
            return exposition(environ, start_response)
        challenge = [("WWW-Authenticate", "Bearer")] if verdict.status == 401 else []
        start_response(_STATUS[verdict.status], [_TEXT, *challenge])
        return [f"{verdict.text}\n".encode()]

    return {"/metrics": guarded}


def serve(host: str, port: int, paths: Mapping[str, Application], wrap: Wrap | None = None) -> WSGIServer:
    """A running server on an address, or on all of both families for an empty one; its port is `server_port`.

    `wrap` makes a TLS connection of each that is accepted. Port 0 picks a free one. Raises OSError when the port is
    taken or the address is not of this machine.
    """

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        chosen = paths.get(environ.get("PATH_INFO", "/"))
        if chosen is None:
            start_response("404 Not Found", [_TEXT])
            return [f"here are: {' '.join(paths)}\n".encode()]
        return chosen(environ, start_response)

    server = _listening(host, port, wrap)
    server.set_app(app)
    name = f"http-{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, name=name, daemon=True).start()
    return server


def _listening(host: str, port: int, wrap: Wrap | None) -> _Server:
    if host:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return _Server(family, str(address[0]), port, wrap)
    try:
        return _Server(socket.AF_INET6, "::", port, wrap)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _Server(socket.AF_INET, "", port, wrap)
