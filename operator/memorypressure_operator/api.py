"""The only module that opens connections: credentials, requests with raw bytes, and long-lived streams.

The `kubernetes` package is used for its configuration and connection pool; its typed calls are not (20 MiB and ten
times the CPU of msgspec for lists, and its default of three silent retries would repeat evictions).
"""

import binascii
import contextlib
import copy
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3.exceptions
import yaml
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import load_incluster_config
from kubernetes.config.kube_config import load_kube_config

from memorypressure.version import VERSION
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, CredentialsError, LeaseLost
from memorypressure_operator.settings import SERVICE_ACCOUNT
from memorypressure_operator.troubles import Troubles

GROUP = "memorypressure.dev"
GROUP_PATH = f"/apis/{GROUP}/v1alpha1"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
JSON = "application/json"
_CHUNK_BYTES = 65536
NAMESPACE_ENDS = "NamespaceTerminating"
MOST_RETRY_AFTER_SECONDS = 60.0
"""No answer makes the operator wait for longer: the server may be well again, and nodes are not."""

log = logging.getLogger(__name__)
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: `body` undecoded."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class Credentials:
    """Where the API server is and how the operator proves who it is; the token is read anew when it gets old."""

    def __init__(self, kubeconfig: str, token_reload_seconds: float, clock: Clock) -> None:
        self._kubeconfig = kubeconfig
        self._reload_seconds = token_reload_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self.origin = kubeconfig or str(SERVICE_ACCOUNT / "token")
        self.configuration = self._load()
        self._header = self._read_header(self.configuration)
        self._read_at = clock()

    def _load(self) -> Configuration:
        configuration = Configuration()
        try:
            if self._kubeconfig:
                load_kube_config(config_file=self._kubeconfig, client_configuration=configuration)
            else:
                load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            raise self._unusable(_why_no_configuration(error)) from None
        if not str(configuration.host).startswith(("https://", "http://")):
            server = str(configuration.host)[:60]
            raise self._unusable(f"server: {server!r} is no URL such as https://10.0.0.1:6443")
        configuration.retries = False
        configuration.connection_pool_maxsize = 16
        return configuration

    def _unusable(self, why: str) -> CredentialsError:
        if self._kubeconfig:
            return CredentialsError(f"kubeconfig {self._kubeconfig} cannot be used: {why}")
        return CredentialsError(
            f"service account of this pod cannot be used: {why}; outside a pod give --kubeconfig FILE"
        )

    @staticmethod
    def _read_header(configuration: Configuration) -> str:
        return str(configuration.get_api_key_with_prefix("BearerToken") or "").strip()

    def header(self, *, reload: bool = False) -> str:
        """Value of the Authorization header; "" with client certificates. An unreadable file keeps the old token."""
        with self._lock:
            if reload or self._clock() - self._read_at >= self._reload_seconds:
                self._read_at = self._clock()
                try:
                    self._header = self._read_header(self._load())
                except CredentialsError as error:
                    log.warning("token not re-read, the old one stays in use: %s", error)
            return self._header

    def token(self) -> str:
        """The bare token, read again: for kopf's login."""
        return self.header(reload=True).partition(" ")[2].strip()


def _why_no_configuration(error: Exception) -> str:
    """A sentence of what the kubernetes package raised, which checks neither types nor base64."""
    if isinstance(error, binascii.Error):
        return f"a field that ends in -data holds no base64: {error}"
    if isinstance(error, ConfigException | OSError | yaml.YAMLError):
        return _short(error)
    return f"it has not the form of one, with lists of clusters, users and contexts: {_short(error)}"


class Lines:
    """The lines of one streamed answer; `wake` may come from another thread and ends the iteration."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in self._response.stream(_CHUNK_BYTES, decode_content=True):
                pieces = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
                rest = pieces.pop()
                yield from (piece for piece in pieces if piece)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: urllib3 2 on a response that was closed by another thread.
            raise ApiUnreachable(f"stream broke: {type(error).__name__}: {error}") from None

    def wake(self) -> None:
        """Ends the stream for its reader, from another thread: it may be blocked, and holds what `close` needs."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._socket().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the stream; for the thread that reads it."""
        self.wake()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._response.close()

    def _socket(self) -> Any:
        """The socket: the connection's, or the answer's own where the server said `Connection: close`."""
        connection = self._response.connection
        if connection is not None and connection.sock is not None:
            return connection.sock
        return self._response._fp.fp.raw._sock  # noqa: SLF001  urllib3 and http.client have no other way


class Api:
    """Requests to one API server. Safe for use by several threads."""

    def __init__(self, credentials: Credentials, request_timeout_seconds: float, clock: Clock = time.monotonic) -> None:
        self.credentials = credentials
        self._timeout = request_timeout_seconds
        self._client = ApiClient(credentials.configuration)
        self._client.user_agent = f"memorypressure-operator/{VERSION}"
        self._may_write: Callable[[], bool] | None = None
        self._on_end: Callable[[], None] | None = None
        self.troubles = Troubles(clock)
        self.observe: Callable[[str, str, float], None] | None = None
        """Hears method, status code ("none" without an answer) and seconds of every request but streams."""

    def fenced(self, may_write: Callable[[], bool], on_end: Callable[[], None] | None = None) -> "Api":
        """The same API server, but `may_write` is asked right before every request that is no GET.

        Where it says no, LeaseLost is raised and nothing is sent: whoever was suspended in between does not act late.
        `on_end` is called after every request, whatever came of it.
        """
        result = copy.copy(self)
        result._may_write = may_write  # noqa: SLF001  a copy of itself
        result._on_end = on_end  # noqa: SLF001  same
        return result

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self.credentials.configuration.host)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_seconds: float | None = None,
    ) -> Answer:
        """One request. Raises ApiRefused (status >= 300) or ApiUnreachable (no answer; it may have taken effect).

        Of a fenced Api also LeaseLost.
        """
        started, code = time.monotonic(), "none"
        try:
            response = self._send(method, path, query, body, content_type, accept, timeout_seconds or self._timeout)
            code = str(response.status)
            try:
                data: bytes = response.data
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiUnreachable(f"{method} {path}: {type(error).__name__}: {error}") from None
            if response.status >= 300:
                raise _refusal(method, path, response.status, data, response.headers)
        except (ApiUnreachable, ApiRefused) as error:
            if _is_trouble(method, path, error):
                self.troubles.failed(method, path, _short(error))
            raise
        finally:
            if self.observe is not None:
                self.observe(method, code, time.monotonic() - started)
            if self._on_end is not None:
                self._on_end()
        self.troubles.succeeded(method, path)
        return Answer(response.status, data)

    def get(self, path: str, *, query: Mapping[str, str] | None = None, accept: str = JSON) -> Answer:
        """A GET; raises as `request`."""
        return self.request("GET", path, query=query, accept=accept)

    def own_uid(self) -> str:
        """UID of the user that this is, for a service account that of the object; "" where the server knows none.

        Raises as `request`.
        """
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body).json()
        user = (answer.get("status") or {}).get("userInfo") or {}
        return str(user.get("uid") or "")

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], read_timeout_seconds: float) -> Iterator[Lines]:
        """A watch, as lines. Raises as `request`; the read timeout bounds the silence between two lines."""
        try:
            response = self._send("GET", path, query, None, JSON, JSON, (self._timeout, read_timeout_seconds))
        except ApiUnreachable as error:
            self.troubles.failed("WATCH", path, _short(error))
            raise
        lines = Lines(response)
        try:
            if response.status >= 300:
                refusal = _refusal("GET", path, response.status, response.data, response.headers)
                if refusal.status not in (400, 410, 422):  # no streaming lists here, or too old: not a failure
                    self.troubles.failed("WATCH", path, _short(refusal))
                raise refusal
            self.troubles.succeeded("WATCH", path)
            yield lines
        finally:
            lines.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        accept: str,
        timeout: float | tuple[float, float],
    ) -> Any:
        url = self.server + path + ("?" + urlencode(query) if query else "")
        for attempt in (1, 2):
            header = self.credentials.header(reload=attempt == 2)
            headers = {"Accept": accept, "User-Agent": self._client.user_agent}
            if header:
                headers["Authorization"] = header
            if body is not None:
                headers["Content-Type"] = content_type
            if method != "GET" and self._may_write is not None and not self._may_write():
                raise LeaseLost(f"{method} {path} not sent: the Lease is not held any more")
            try:
                raw = self._client.call_api(
                    method, url, header_params=headers, body=body, _request_timeout=timeout
                ).response
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiUnreachable(f"{method} {path} at {self.server}: {_short(error)}") from None
            except ApiException as error:  # the client's name for a TLS failure
                raise ApiUnreachable(f"{method} {path} at {self.server}: {_short(error.reason)}") from None
            if raw.status != 401 or attempt == 2:
                return raw
            raw.drain_conn()  # a rotated token: read the file again, once
            raw.release_conn()
        raise AssertionError("unreachable")


def _is_trouble(method: str, path: str, error: ApiUnreachable | ApiRefused) -> bool:
    """Whether the API server or our rights are to blame; a stale version, an absent object, a budget are daily life.

    A 404 to what is to be made anew says that its namespace does not exist; Events are in those of others, which go.
    """
    if isinstance(error, ApiUnreachable) or error.not_served:
        return True
    if path.endswith("/eviction") or NAMESPACE_ENDS in error.causes:
        return False
    homeless = error.not_found and method == "POST" and not path.endswith("/events")
    return homeless or error.status in (401, 403, 429) or error.status >= 500


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _refusal(method: str, path: str, status: int, data: bytes, headers: Mapping[str, str]) -> ApiRefused:
    reason, message = "", ""
    causes: tuple[str, ...] = ()
    try:
        decoded = json.loads(data)
        reason, message = str(decoded.get("reason") or ""), str(decoded.get("message") or "")
        details = decoded.get("details") or {}
        causes = tuple(str(cause.get("reason") or "") for cause in details.get("causes") or ())
    except (ValueError, AttributeError):
        message = data[:200].decode("utf-8", "replace")
    return ApiRefused(
        status, reason, f"{message or 'no message'} ({method} {path})", _retry_after_seconds(headers), causes
    )


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """What the answer asks for, within bounds; 0 where it asks for nothing, or by a date."""
    text = (headers.get("Retry-After") or "").strip()
    return min(float(text), MOST_RETRY_AFTER_SECONDS) if text.isascii() and text.isdigit() else 0.0


def segment(name: str) -> str:
    """A name as one path segment."""
    return quote(name, safe="")


def node_path(name: str) -> str:
    """Path of a Node."""
    return f"/api/v1/nodes/{segment(name)}"


def pod_path(namespace: str, name: str) -> str:
    """Path of a Pod."""
    return f"/api/v1/namespaces/{segment(namespace)}/pods/{segment(name)}"


def config_map_path(namespace: str, name: str = "") -> str:
    """Path of a ConfigMap, or of a namespace's ConfigMaps."""
    return f"/api/v1/namespaces/{segment(namespace)}/configmaps" + (f"/{segment(name)}" if name else "")


def lease_path(namespace: str, name: str = "") -> str:
    """Path of a Lease, or of a namespace's Leases."""
    base = f"/apis/coordination.k8s.io/v1/namespaces/{segment(namespace)}/leases"
    return base + (f"/{segment(name)}" if name else "")


def own_path(plural: str, name: str = "", subresource: str = "") -> str:
    """Path of one of our cluster-scoped kinds: nodememorystates, nodememoryplans, memorypressurepolicies."""
    path = f"{GROUP_PATH}/{plural}"
    if name:
        path += f"/{segment(name)}"
    return path + (f"/{subresource}" if subresource else "")


def connect(kubeconfig: str, request_timeout_seconds: float, token_reload_seconds: float, clock: Clock) -> Api:
    """An Api for the kubeconfig file, or for the pod's service account where it is "". Raises CredentialsError."""
    if kubeconfig:
        try:
            Path(kubeconfig.split(":", maxsplit=1)[0]).open("rb").close()
        except FileNotFoundError:
            raise CredentialsError(f"kubeconfig {kubeconfig} cannot be used: there is no such file") from None
        except OSError as error:
            raise CredentialsError(f"kubeconfig {kubeconfig} cannot be used: {error.strerror}") from None
    return Api(Credentials(kubeconfig, token_reload_seconds, clock), request_timeout_seconds)
