"""What the API server refuses or does not answer, kind of request by kind of request, until one succeeds again."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

FORGOTTEN_SECONDS = 120.0
"""A request that is not tried again says nothing any more."""


@dataclass(slots=True)
class Trouble:
    """A kind of request that fails. Times on the operator's clock."""

    since: float
    last: float
    count: int
    text: str


class Troubles:
    """Safe for use by several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, Trouble] = {}

    def failed(self, method: str, path: str, text: str) -> None:
        """Notes a failure; the first of a row tells since when."""
        now = self._clock()
        with self._lock:
            known = self._known.get(kind(method, path))
            if known is None or now - known.last > FORGOTTEN_SECONDS:
                self._known[kind(method, path)] = Trouble(now, now, 1, text)
            else:
                known.last, known.count, known.text = now, known.count + 1, text

    def succeeded(self, method: str, path: str) -> None:
        """Ends the trouble of this kind of request."""
        if self._known:
            with self._lock:
                self._known.pop(kind(method, path), None)

    def lasting(self, least_seconds: float) -> list[str]:
        """Sentences about the failures that have gone on for so long, the oldest first."""
        now = self._clock()
        with self._lock:
            rows = sorted((trouble.since, name, trouble) for name, trouble in self._known.items())
        return [
            f"{name} fails for {now - since:.0f} s ({trouble.count} times): {trouble.text}"
            for since, name, trouble in rows
            if trouble.last - since >= least_seconds and now - trouble.last <= FORGOTTEN_SECONDS
        ]


def kind(method: str, path: str) -> str:
    """Method and resource of a request, without the names in its path: "PATCH nodes/status"."""
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    if words[:1] == ["namespaces"] and len(words) > 2:
        words = words[2:]
    return " ".join((method, "/".join([*words[:1], *words[2:3]]) or "discovery"))
