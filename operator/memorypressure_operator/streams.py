"""Streaming lists: one thread per resource keeps a table of projected objects equal to the API server's.

A stream is opened with `sendInitialEvents` (Kubernetes 1.34 and newer, KEP-3157): the whole state comes as ADDED
events, closed by a bookmark, and changes follow on the same connection; nothing is ever held as one big list. A server
that refuses it gets paged lists and a plain watch. A stream that ends is resumed from the last resourceVersion; after
410 Gone it starts anew, and objects that are not sent again are removed. Silence beyond the read timeout is an end.

An object that is not understood concerns nobody but itself: the others go on. What stands for it meanwhile is its
source's to say, and it is named until it is understood or gone.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from memorypressure_operator.api import Api
from memorypressure_operator.errors import NOT_UNDERSTOOD, ApiRefused, ApiUnreachable
from memorypressure_operator.paging import pages

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where a stream puts what it decodes. Keys are what `Source.key` makes of an object."""

    def put(self, key: Any, view: Any) -> None:
        """Takes an object that appeared or changed."""
        ...

    def remove(self, key: Any) -> None:
        """Drops an object; one that is not held is fine."""
        ...

    def keys(self) -> "set[Any]":
        """Keys of all objects held: those that a new initial state does not name are removed."""
        ...

    def synced(self) -> None:
        """The initial state is complete."""
        ...

    def opened(self) -> None:
        """The server has begun to send: what is held is, or comes to be, what it holds."""
        ...

    def heard(self) -> None:
        """The server spoke (event or bookmark)."""
        ...


class Meta(msgspec.Struct, rename="camel"):
    """What every object has: enough to make its key."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: Meta


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class Source:
    """What a stream lists: the path, how metadata becomes a key and an object a view.

    `model` is a msgspec.Struct with a `metadata` like `Meta`; it names what is decoded. `view` makes of it what the
    table holds. Both may refuse an object. It is left out then (a pod not seen is never a victim), unless `stand_in`
    makes a view of its `Meta` alone: a PodDisruptionBudget left out would be a protection lost.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        key: Callable[[Any], Any],
        model: type[Any],
        view: Callable[[Any], Any],
        stand_in: Callable[[Meta], Any] | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.key = key
        self.view = view
        self.stand_in = stand_in
        self.objects = msgspec.json.Decoder(model)
        self.events: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("_ObjectEvent", [("type", str), ("object", model)])
        )


class _Expired(Exception):  # noqa: N818  a signal between methods
    """410 Gone: the resourceVersion is too old, the state must be sent anew."""


class Stream(threading.Thread):
    """Keeps one Sink up to date until `stop`. Never ends by itself; failures are logged and retried with backoff."""

    def __init__(  # noqa: PLR0913  settings by keyword
        self,
        api: Api,
        source: Source,
        sink: Sink,
        *,
        lifetime_seconds: float,
        read_timeout_seconds: float,
        page_size: int,
        backoff_seconds: float,
        backoff_limit_seconds: float,
        on_restart: Callable[[str], None],
    ) -> None:
        super().__init__(name=f"stream-{source.name}", daemon=True)
        self._api = api
        self._source = source
        self._sink = sink
        self._lifetime = lifetime_seconds
        self._read_timeout = read_timeout_seconds
        self._page_size = page_size
        self._backoff = backoff_seconds
        self._backoff_limit = backoff_limit_seconds
        self._on_restart = on_restart
        self._stopping = threading.Event()
        self._open: Any = None
        self._asked_at = 0.0  # when the state was first asked for
        self._version = ""  # "" = the state must be sent anew
        self._streaming_lists = True
        self._expected: set[Any] | None = None  # keys that the initial state has not named yet
        self._misread: dict[Any, str] = {}  # key -> which object is not understood, and why
        self._garbage = False  # what the server sent last was no event

    def misread(self) -> list[str]:
        """Objects that are not understood now, and why. Safe from any thread."""
        return sorted(self._misread.values())

    def stop(self) -> None:
        """Ends the thread, also while it waits for the server."""
        self._stopping.set()
        lines = self._open
        if lines is not None:
            lines.wake()

    def run(self) -> None:
        """Streams until `stop`."""
        wait = 0.0
        self._asked_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                self._once()
                wait = 0.0
            except _Expired:
                log.info("%s: resourceVersion expired, the state is fetched anew", self._source.name)
                self._version = ""
                self._asked_at = time.monotonic()
                self._on_restart("Expired")
                wait = max(wait, 0.05)
            except (ApiUnreachable, ApiRefused, msgspec.MsgspecError) as error:
                if self._stopping.is_set():
                    return
                if isinstance(error, msgspec.MsgspecError):
                    self._garbage = True
                    self._api.troubles.failed("READ", self._source.path, f"what was sent is no event: {error}")
                self._on_restart(type(error).__name__.lstrip("_"))
                if isinstance(error, ApiRefused) and error.status in (400, 422) and self._streaming_lists:
                    log.info(
                        "%s: the API server has no streaming lists, paged lists are used (%s)", self._source.name, error
                    )
                    self._streaming_lists = False
                    continue
                wait = min(max(self._backoff, wait * 2), self._backoff_limit)
                if isinstance(error, ApiRefused):
                    wait = max(wait, error.retry_after_seconds)
                log.warning("%s: %s; next try in about %.1f s", self._source.name, error, wait)
            if wait:
                self._stopping.wait(wait * random.uniform(0.7, 1.3))  # noqa: S311  jitter

    def _once(self) -> None:
        """One connection's worth of events. Returns when the server ends the stream in the ordinary way."""
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(max(1, int(self._lifetime)))}
        if self._version:
            query["resourceVersion"] = self._version
        elif self._streaming_lists:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            self._expected = self._known()
        else:
            self._list()
            query["resourceVersion"] = self._version
        with self._api.stream(self._source.path, query, self._read_timeout) as lines:
            self._open = lines
            self._sink.opened()
            try:
                for line in lines:
                    self._event(line)
                    if self._stopping.is_set():
                        return
            finally:
                self._open = None

    def _list(self) -> None:
        self._expected = None
        expected, version = self._known(), ""
        try:
            for page in pages(self._api, self._source.path, limit=self._page_size):
                for raw in page.items:
                    data = bytes(raw)
                    meta = msgspec.json.decode(data, type=_Object).metadata
                    self._put(meta, data)
                    expected.discard(self._source.key(meta))
                version = page.metadata.resource_version
        except ApiRefused as error:
            if error.status == 410:
                raise _Expired from None
            raise
        self._complete(expected, version)

    def _event(self, line: bytes) -> None:
        self._sink.heard()
        if not self._plain_event(line):
            self._any_event(line)

    def _plain_event(self, line: bytes) -> bool:
        """True if it was an object that appeared or changed, and is understood: nearly all are; the fast way."""
        source = self._source
        try:
            event = source.events.decode(line)
            if event.type not in ("ADDED", "MODIFIED"):
                return False
            view = source.view(event.object)
        except NOT_UNDERSTOOD:
            return False
        meta = event.object.metadata
        key = source.key(meta)
        if self._misread:
            self._misread.pop(key, None)
        self._sink.put(key, view)
        self._reached(key, meta.resource_version)
        return True

    def _reached(self, key: Any, version: str) -> None:
        if self._expected is None:
            self._version = version  # within the initial state no version is a place to resume from
            self._goes_on()
        else:
            self._expected.discard(key)

    def _any_event(self, line: bytes) -> None:
        event = msgspec.json.decode(line, type=_Event)
        raw = bytes(event.object)
        if event.type == "BOOKMARK":
            mark = msgspec.json.decode(raw, type=_Bookmark).metadata
            if self._expected is not None and mark.annotations.get("k8s.io/initial-events-end") == "true":
                expected, self._expected = self._expected, None
                self._complete(expected, mark.resource_version)
            elif self._expected is None:
                self._version = mark.resource_version
                self._goes_on()
        elif event.type == "ERROR":
            status = msgspec.json.decode(raw, type=_Status)
            if status.code == 410:
                raise _Expired
            raise ApiRefused(status.code, status.reason, status.message)
        else:
            meta = msgspec.json.decode(raw, type=_Object).metadata
            key = self._source.key(meta)
            if event.type == "DELETED":
                self._remove(key)
            else:
                self._put(meta, raw)
            self._reached(key, meta.resource_version)

    def _complete(self, missing: set[Any], version: str) -> None:
        for key in missing:
            self._remove(key)
        self._version = version
        self._goes_on()
        log.info(
            "%s: complete, %d objects, %.1f s after the first request",
            self._source.name,
            len(self._sink.keys()),
            time.monotonic() - self._asked_at,
        )
        self._sink.synced()

    def _known(self) -> set[Any]:
        """Keys of all that a new initial state has to name again, or it is gone."""
        return self._sink.keys() | self._misread.keys()

    def _goes_on(self) -> None:
        if self._garbage:
            self._garbage = False
            self._api.troubles.succeeded("READ", self._source.path)

    def _remove(self, key: Any) -> None:
        self._misread.pop(key, None)
        self._sink.remove(key)

    def _put(self, meta: Meta, raw: bytes) -> None:
        source, key = self._source, self._source.key(meta)
        try:
            view = source.view(source.objects.decode(raw))
        except NOT_UNDERSTOOD as error:
            self._put_stand_in(meta, error)
            return
        self._misread.pop(key, None)
        self._sink.put(key, view)

    def _put_stand_in(self, meta: Meta, error: Exception) -> None:
        source, key = self._source, self._source.key(meta)
        name = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
        says = f"{source.name}: {name} is not understood: {type(error).__name__}: {error}"
        if self._misread.get(key) != says:
            self._misread[key] = says
            log.error("%s", says)
        if source.stand_in is None:
            self._sink.remove(key)
        else:
            self._sink.put(key, source.stand_in(meta))
