"""The reporter's API client: four calls over HTTPS, with token and CA files that are read again when they change."""

import json
import os
import select
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, HTTPSConnection, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OPENED = "OPENED"
JSON_PATCH = "application/json-patch+json"

# A projected token lives at least 10 minutes and the kubelet renews it at 80 % of that (KEP-1205).
TOKEN_READ_SECONDS = 30.0
CONNECT_SECONDS = 5.0

Json = dict[str, Any]


class SettingsError(ValueError):
    """How to reach the API server is not known or not usable; the text says what to give."""


class ApiError(Exception):
    """A call that did not succeed: no answer (`status` 0), or an answer that refuses."""

    def __init__(
        self, status: int, message: str, retry_after_seconds: float | None = None, *, names_object: bool = False
    ) -> None:
        super().__init__(message if status == 0 else f"HTTP {status}: {message}")
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.names_object = names_object
        """Whether the refusal is about an object: a 404 without one means that the resource is not known."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API server is, and the files that prove who asks."""

    server: str
    """Base URL, such as `https://10.96.0.1:443`."""
    token_file: Path
    ca_file: Path

    @classmethod
    def find(
        cls, server: str | None, token_file: str | None, ca_file: str | None, environ: Mapping[str, str]
    ) -> "Endpoint":
        """The endpoint of flags, else of the pod's environment. Raises SettingsError naming the missing part."""
        if server is None:
            host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise SettingsError(
                    "no API server: give --server URL, or run in a pod (KUBERNETES_SERVICE_HOST is not set)"
                )
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        _check_url(server)
        endpoint = cls(
            server.rstrip("/"),
            Path(token_file or SERVICE_ACCOUNT / "token"),
            Path(ca_file or SERVICE_ACCOUNT / "ca.crt"),
        )
        for flag, path in (("--token-file", endpoint.token_file), ("--ca-file", endpoint.ca_file)):
            try:
                path.read_bytes()
            except OSError as error:
                raise SettingsError(f"{flag} {path}: {error.strerror}; give a readable file") from error
        return endpoint


class ApiClient:
    """Calls one API server. Not for use by several threads at once: each thread has its own.

    Made of `http.client`: urllib3 would cost each node 4 MiB of resident memory (docs/decisions) for the pooling of one
    connection.
    """

    def __init__(self, endpoint: Endpoint, user_agent: str, timeout_seconds: float = 10.0) -> None:
        self._endpoint = endpoint
        self._user_agent = user_agent
        self._timeout_seconds = timeout_seconds
        url = urlsplit(endpoint.server)
        self._host, self._port = url.hostname or "", url.port or 443
        self._kept: HTTPSConnection | None = None
        self._context: ssl.SSLContext | None = None
        self._ca_stamp: tuple[int, int] | None = None
        self._token = ""
        self._token_read_at = float("-inf")

    def get(self, path: str) -> Json:
        """The object at `path`. Raises ApiError."""
        return self._call("GET", path)

    def patch(self, path: str, operations: list[Json]) -> Json:
        """The object after a JSON patch (RFC 6902); a failed `test` is a 422. Raises ApiError."""
        return self._call("PATCH", path, operations, JSON_PATCH)

    def create(self, path: str, body: Json) -> Json:
        """What the server makes of an object: for reviews, which are answered and not stored. Raises ApiError."""
        return self._call("POST", path, body, "application/json")

    def close(self) -> None:
        """Ends the connection that is kept between calls."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def watch(self, path: str, query: Mapping[str, str], silence_seconds: float) -> Iterator[Json]:
        """Watch events until the server ends the stream or says nothing for `silence_seconds`. Raises ApiError.

        First an event `OPENED` of our own: the server has answered, whatever will happen on the watch. Silence is no
        error: a watch on which nothing happens may be silent, and the next call will tell.
        """
        headers, context = self._headers(), self._fresh_context()
        connection = self._connection(context)
        stream = connection.sock  # after an answer with `Connection: close` the connection no longer knows it
        try:
            url = f"{path}?{urlencode({**query, 'watch': '1'})}"
            with self._ask(connection, "GET", url, None, headers) as response:
                if response.status >= 300:
                    raise _refusal(response, response.read())
                stream.settimeout(silence_seconds)
                yield {"type": OPENED}
                buffer = b""
                while chunk := _silent_is_end(response):
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield _object(line)
        except (HTTPException, OSError) as error:
            raise ApiError(0, f"the watch broke off: {_reason(error)}") from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: object = None, content_type: str | None = None) -> Json:
        headers, context = self._headers(content_type), self._fresh_context()
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        kept, self._kept = self._kept, None
        connection = kept if kept is not None and _stands(kept) else None
        try:
            response, connection = self._answered(connection, context, method, path, data, headers)
            answer = response.read()
        except (HTTPException, OSError) as error:
            if connection is not None:
                connection.close()
            raise ApiError(0, f"no answer from {self._endpoint.server}: {_reason(error)}") from error
        if response.will_close:
            connection.close()
        else:
            self._kept = connection
        if response.status >= 300:
            raise _refusal(response, answer)
        return _object(answer)

    def _answered(
        self,
        kept: HTTPSConnection | None,
        context: ssl.SSLContext,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
    ) -> tuple[HTTPResponse, HTTPSConnection]:
        """The answer's head, and the connection it came by: a new one if the server had just ended the kept one.

        All calls of ours may be made twice: they read, write a whole status, or ask for a review.
        """
        if kept is not None:
            try:
                return self._ask(kept, method, path, data, headers), kept
            except (RemoteDisconnected, ConnectionError):
                kept.close()
        fresh = self._connection(context)
        try:
            return self._ask(fresh, method, path, data, headers), fresh
        except BaseException:
            fresh.close()
            raise

    def _connection(self, context: ssl.SSLContext) -> HTTPSConnection:
        """An open connection. Raises ApiError."""
        seconds = min(CONNECT_SECONDS, self._timeout_seconds)
        connection = HTTPSConnection(self._host, self._port, timeout=seconds, context=context)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:  # a name that IDNA refuses
            connection.close()
            raise ApiError(0, f"no answer from {self._endpoint.server}: {_reason(error)}") from error
        connection.sock.settimeout(self._timeout_seconds)
        return connection

    def _ask(
        self, connection: HTTPSConnection, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> HTTPResponse:
        connection.request(method, path, body=data, headers=headers)
        response = connection.getresponse()
        if response.status == 401:
            self._token_read_at = float("-inf")  # rotated early: the next call reads the file again
        return response

    def _headers(self, content_type: str | None = None) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {self._fresh_token()}",
            "Accept": "application/json",
            "User-Agent": self._user_agent,
        }
        return {**headers, "Content-Type": content_type} if content_type else headers

    def _fresh_token(self) -> str:
        now = time.monotonic()
        if now - self._token_read_at > TOKEN_READ_SECONDS:
            path = self._endpoint.token_file
            try:
                token = path.read_text(encoding="ascii").strip()
            except OSError as error:
                raise ApiError(0, f"--token-file {path}: {error.strerror}; give a readable file") from error
            except UnicodeDecodeError:
                token = ""
            if not token.isprintable() or " " in token or not token:
                raise ApiError(0, f"--token-file {path}: holds no bearer token, which is one line without spaces")
            self._token, self._token_read_at = token, now
        return self._token

    def _fresh_context(self) -> ssl.SSLContext:
        """What trusts the CA that the file holds now; a connection that a former one vouched for is not kept."""
        try:
            status = os.stat(self._endpoint.ca_file)
            stamp = (status.st_ino, status.st_mtime_ns)
            if self._context is None or stamp != self._ca_stamp:
                self._context = ssl.create_default_context(cafile=str(self._endpoint.ca_file))
                self._ca_stamp = stamp
                self.close()
        except (OSError, ssl.SSLError) as error:
            text = "holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise ApiError(0, f"--ca-file {self._endpoint.ca_file}: {text}") from error
        return self._context


def _silent_is_end(response: HTTPResponse) -> bytes:
    """What the server sends next; empty at the end of its answer, or when it says nothing for the socket's timeout."""
    try:
        return response.read1(65536)
    except TimeoutError:
        return b""


def _stands(connection: HTTPSConnection) -> bool:
    """Whether a kept connection can be used again: one on which something came without a question was ended."""
    if connection.sock is None:
        return False
    poller = select.poll()
    poller.register(connection.sock, select.POLLIN)
    if poller.poll(0):
        connection.close()
        return False
    return True


def _check_url(server: str) -> None:
    wanted = f"--server {server}: give a URL such as https://10.0.0.1:6443"
    try:
        url = urlsplit(server)
        port = url.port
    except ValueError as error:
        raise SettingsError(wanted) from error
    if url.scheme != "https":
        raise SettingsError(f"{wanted}; it must begin with https://, a token is never sent in clear")
    if (
        not url.hostname
        or port == 0
        or url.path not in ("", "/")
        or url.query
        or url.fragment
        or url.username is not None
    ):
        raise SettingsError(wanted)


def _reason(error: Exception) -> str:
    """The cause in few words: equal failures give equal texts."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}); is --ca-file the CA of this API server?"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ApiError(0, f"the answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(0, f"the answer is not an object but {type(value).__name__}")
    return value


def _refusal(response: HTTPResponse, data: bytes) -> ApiError:
    """The server's own words: `message` of a Status object where it sent one."""
    named = False
    try:
        status = json.loads(data)
        message = str(status["message"])
        named = bool((status.get("details") or {}).get("name"))
    except (ValueError, KeyError, TypeError, AttributeError):
        message = data[:200].decode(errors="replace").strip() or response.reason
    after = response.headers.get("Retry-After", "")
    return ApiError(response.status, message, float(after) if after.isdecimal() else None, names_object=named)
