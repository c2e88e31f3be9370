"""A proxy in front of the API server that keeps one request back, as a network or a paused process does.

A request that is held reaches the API server when it is released, also when its sender has given it up long ago: the
late write of a leader that is none any more. It ends TLS itself, so its clients have to use tokens.
"""

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.tls import server_context

from memorypressure_tools.controlplane import ControlPlane

HELD_SECONDS = 120.0
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that wrote something, and what the API server answered; `late`: it had been held."""

    method: str
    path: str
    body: bytes
    status: int
    late: bool


class HoldingProxy:
    """`hold` decides about each request (method, path, body); after the first that it holds all others pass."""

    handler: "type[Handler] | None" = None

    def __init__(self, plane: ControlPlane, hold: Callable[[str, str, bytes], bool]) -> None:
        self.hold = hold
        self.held = threading.Event()
        self.released = threading.Event()
        self.written: list[Passed] = []
        self.port = plane.port
        self.upstream = ssl.create_default_context(cafile=str(plane.authority.certificate_file))
        context = server_context(plane.authority, "holding-proxy")
        self._server = _Server(("127.0.0.1", 0), self.handler or Handler)
        self._server.proxy = self
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, name="holding-proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Lets go what is held, and ends."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: HoldingProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is the purpose of this proxy, and no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def answered(self, body: bytes) -> bool:
        """Whether the request was dealt with here, and goes no further."""
        return False

    def done(self) -> None:
        """The API server has answered; the client has not heard of it yet."""

    def _forward(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.answered(body):
            return
        late = not proxy.held.is_set() and proxy.hold(self.command, self.path, body)
        if late:
            proxy.held.set()
            proxy.released.wait(HELD_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", proxy.port, context=proxy.upstream)) as link:
            link.request(self.command, self.path, body or None, headers)
            answer = link.getresponse()
            if self.command != "GET":
                proxy.written.append(Passed(self.command, self.path, body, answer.status, late))
            self.close_connection = True
            self.done()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            # A stream has no length. Without chunks its reader would wait for a whole buffer.
            stream = answer.getheader("Content-Length") is None
            if stream:
                self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            while chunk := answer.read1(65536):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if stream else chunk)
            if stream:
                self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 -- names of http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- name of http.server
        """Nothing."""
