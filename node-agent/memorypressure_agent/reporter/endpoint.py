"""What the reporter serves: `/metrics`, `/healthz`, `/readyz` over HTTP, each request on a thread of its own."""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

MOST_REQUESTS: Final = 16
"""Requests under way at once; a connection beyond them is closed, so that strangers cannot fill this process."""
READ_SECONDS: Final = 10.0
"""A client that connects and says nothing must not keep a thread for ever."""
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Health:
    """An answer to a probe: whether all is well, and one line for each thing that was looked at."""

    ok: bool
    lines: tuple[str, ...]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, family: socket.AddressFamily, address: str, port: int) -> None:
        self.address_family = family
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
        """The thread of a request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; WSGI applications' errors are logged by their handler."""


class _QuietHandler(WSGIRequestHandler):
    timeout = READ_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Scrapes and probes are not worth a log line each."""


def serve(
    host: str, port: int, registry: CollectorRegistry, live: Callable[[], Health], ready: Callable[[], Health]
) -> WSGIServer:
    """A running server on an address, or on all of both families for an empty one; its port is `server_port`.

    Port 0 picks a free one. Raises OSError when the port is taken or the address is not of this machine.
    """
    metrics = make_wsgi_app(registry)
    probes = {"/healthz": live, "/livez": live, "/readyz": ready}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        probe = probes.get(path)
        if probe is None:
            start_response("404 Not Found", [_TEXT])
            return [b"here are: /metrics /healthz /readyz\n"]
        health = probe()
        start_response("200 OK" if health.ok else "503 Service Unavailable", [_TEXT])
        return ["".join(f"{line}\n" for line in health.lines).encode()]

    server = _listening(host, port)
    server.set_app(app)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, name="http", daemon=True).start()
    return server


def _listening(host: str, port: int) -> _Server:
    if host:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return _Server(family, str(address[0]), port)
    try:
        return _Server(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _Server(socket.AF_INET, "", port)
