"""A proxy in front of the API server that refuses, delays and cuts: faults at will, with real objects behind it."""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlparse

from support.holdingproxy import Handler, HoldingProxy

from memorypressure_tools.controlplane import ControlPlane


@dataclass
class Faults:
    """What goes wrong now; change the fields while it runs. Callables get method and path (with its query)."""

    refuse: Callable[[str, str], int] = lambda _method, _path: 0  # a status code, 0 to let it pass
    delay_seconds: float = 0.0  # of each request that is no watch
    expired: set[str] = field(default_factory=set)  # resources whose next watch from a version is told 410
    before: Callable[[str, str], None] = lambda _method, _path: None
    after: Callable[[str, str], None] = lambda _method, _path: None  # the API server has done it, the client waits


class FaultProxy(HoldingProxy):
    """Clients use tokens: the proxy ends TLS and hands everything on as it is."""

    def __init__(self, plane: ControlPlane) -> None:
        self.handler = _Faulty
        self.faults = Faults()
        self.refused = 0
        self.watches: set[socket.socket] = set()
        self.guard = threading.Lock()
        super().__init__(plane, lambda _method, _path, _body: False)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.faults = Faults()

    def cut(self) -> int:
        """Ends every open watch in the middle; how many there were."""
        with self.guard:
            open_watches, self.watches = self.watches, set()
        for each in open_watches:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        return len(open_watches)


class _Faulty(Handler):
    def answered(self, body: bytes) -> bool:
        proxy = self.server.proxy
        assert isinstance(proxy, FaultProxy)
        faults = proxy.faults
        url = urlparse(self.path)
        query = parse_qs(url.query)
        watch = "watch" in query
        faults.before(self.command, self.path)
        if faults.delay_seconds and not watch:
            time.sleep(faults.delay_seconds)
        status = faults.refuse(self.command, self.path)
        if status:
            proxy.refused += 1
            self._say(status)
            return True
        resource = url.path.rsplit("/", 1)[-1]
        if watch and "resourceVersion" in query and resource in faults.expired:
            faults.expired.discard(resource)
            event = {
                "type": "ERROR",
                "object": {"code": 410, "reason": "Expired", "message": "too old resource version"},
            }
            self._send(200, json.dumps(event).encode() + b"\n")
            return True
        if watch:
            with proxy.guard:
                proxy.watches.add(self.connection)
        return False

    def done(self) -> None:
        proxy = self.server.proxy
        assert isinstance(proxy, FaultProxy)
        proxy.faults.after(self.command, self.path)

    def _say(self, status: int) -> None:
        reasons = {
            403: "Forbidden",
            409: "Conflict",
            429: "TooManyRequests",
            500: "InternalError",
            503: "ServiceUnavailable",
        }
        body = {"kind": "Status", "code": status, "reason": reasons.get(status, ""), "message": "a fault of the test"}
        self._send(status, json.dumps(body).encode(), {"Retry-After": "1"} if status == 429 else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
