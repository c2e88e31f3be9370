"""The reporter's API client: four calls over urllib3, with token and CA files that are re-read when they change."""

import json
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MERGE_PATCH = "application/merge-patch+json"

# A projected token lives at least 10 minutes and the kubelet renews it at 80 % of that (KEP-1205).
TOKEN_READ_SECONDS = 30.0

Json = dict[str, Any]

_ADDRESS = re.compile(r"<[^<>]* object at 0x[0-9a-f]+>:? ?")


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
    """Calls one API server. Not for use by several threads at once: each thread has its own."""

    def __init__(self, endpoint: Endpoint, user_agent: str, timeout_seconds: float = 10.0) -> None:
        self._endpoint = endpoint
        self._user_agent = user_agent
        self._timeout = urllib3.Timeout(connect=min(5.0, timeout_seconds), read=timeout_seconds)
        self._pool: urllib3.PoolManager | None = None
        self._ca_stamp: tuple[int, int] | None = None
        self._token = ""
        self._token_read_at = float("-inf")

    def get(self, path: str) -> Json:
        """The object at `path`. Raises ApiError."""
        return self._call("GET", path)

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        """The object after the patch. Raises ApiError."""
        return self._call("PATCH", path, body, content_type)

    def post(self, path: str, body: Json) -> Json:
        """The object that was created. Raises ApiError."""
        return self._call("POST", path, body, "application/json")

    def watch(self, path: str, query: Mapping[str, str], silence_seconds: float) -> Iterator[Json]:
        """Watch events until the server ends the stream or says nothing for `silence_seconds`. Raises ApiError.

        Silence is no error: a watch on which nothing happens may be silent, and the next call will tell.
        """
        timeout = urllib3.Timeout(connect=5.0, read=silence_seconds)
        response = self._open("GET", f"{path}?{urlencode({**query, 'watch': '1'})}", None, None, timeout)
        try:
            if response.status >= 300:
                raise _refusal(response)
            buffer = b""
            for chunk in response.stream(65536):
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line:
                        yield _object(line)
        except urllib3.exceptions.ReadTimeoutError:
            return
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"the watch broke off: {_reason(error)}") from error
        finally:
            response.close()

    def _call(self, method: str, path: str, body: Json | None = None, content_type: str | None = None) -> Json:
        response = self._open(method, path, body, content_type, self._timeout)
        try:
            if response.status >= 300:
                raise _refusal(response)
            return _object(response.data)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"{method} {path}: {_reason(error)}") from error
        finally:
            response.release_conn()

    def _open(
        self, method: str, path: str, body: Json | None, content_type: str | None, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        headers = {
            "Authorization": f"Bearer {self._fresh_token()}",
            "Accept": "application/json",
            "User-Agent": self._user_agent,
        }
        if content_type:
            headers["Content-Type"] = content_type
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            response = self._fresh_pool().request(
                method, self._endpoint.server + path, body=data, headers=headers, timeout=timeout, retries=False,
                redirect=False, preload_content=False,
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"no answer from {self._endpoint.server}: {_reason(error)}") from error
        if response.status == 401:
            self._token_read_at = float("-inf")  # rotated early: the next call reads the file again
        return response

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

    def _fresh_pool(self) -> urllib3.PoolManager:
        try:
            status = os.stat(self._endpoint.ca_file)
            stamp = (status.st_ino, status.st_mtime_ns)
            if self._pool is None or stamp != self._ca_stamp:
                context = ssl.create_default_context(cafile=str(self._endpoint.ca_file))
                if self._pool is not None:
                    self._pool.clear()
                self._pool = urllib3.PoolManager(num_pools=2, maxsize=2, ssl_context=context)
                self._ca_stamp = stamp
        except (OSError, ssl.SSLError) as error:
            text = "holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise ApiError(0, f"--ca-file {self._endpoint.ca_file}: {text}") from error
        return self._pool


def _check_url(server: str) -> None:
    wanted = f"--server {server}: give a URL such as https://10.0.0.1:6443"
    try:
        url = urllib3.util.parse_url(server)
    except urllib3.exceptions.LocationParseError as error:
        raise SettingsError(wanted) from error
    if url.scheme != "https":
        raise SettingsError(f"{wanted}; it must begin with https://, a token is never sent in clear")
    if not url.host or url.path not in (None, "", "/") or url.query or url.fragment or url.auth:
        raise SettingsError(wanted)


def _reason(error: Exception) -> str:
    """The cause in few words, without addresses of objects: equal failures give equal texts."""
    inner: BaseException = error
    while True:
        wrapped = inner.args[0] if isinstance(inner, urllib3.exceptions.SSLError) and inner.args else None
        deeper = inner.reason if isinstance(inner, urllib3.exceptions.MaxRetryError) else wrapped or inner.__cause__
        if not isinstance(deeper, OSError | urllib3.exceptions.HTTPError):
            break
        inner = deeper
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({inner.verify_message}); is --ca-file the CA of this API server?"
    if isinstance(inner, TimeoutError | urllib3.exceptions.TimeoutError):
        return "it did not answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return _ADDRESS.sub("", str(inner))


def _object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ApiError(0, f"the answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(0, f"the answer is not an object but {type(value).__name__}")
    return value


def _refusal(response: urllib3.BaseHTTPResponse) -> ApiError:
    """The server's own words: `message` of a Status object where it sent one."""
    data = response.data
    named = False
    try:
        status = json.loads(data)
        message = str(status["message"])
        named = bool((status.get("details") or {}).get("name"))
    except (ValueError, KeyError, TypeError, AttributeError):
        message = data[:200].decode(errors="replace").strip() or str(response.reason)
    after = response.headers.get("Retry-After", "")
    return ApiError(response.status, message, float(after) if after.isdecimal() else None, names_object=named)
