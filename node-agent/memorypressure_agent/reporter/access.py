"""Who may read the metrics: the API server is asked who a bearer token is, and whether that user may get `/metrics`.

TokenReview and SubjectAccessReview, as for other components' metrics. While nobody can be asked, nobody is let in.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from memorypressure.reasons import Reason
from memorypressure_agent.reporter.client import ApiClient, ApiError
from memorypressure_agent.reporter.log import Log

TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 -- a path
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ALLOWED_SECONDS: Final = 60.0
"""For so long an answer holds: a right that is taken away ends within a minute."""
REFUSED_SECONDS: Final = 10.0
MOST_REMEMBERED: Final = 128
MOST_TOLD: Final = 16
"""Users whose refusal is logged, each once."""
MOST_WAIT_SECONDS: Final = 8.0
"""Reviews are made one after the other; who would wait longer is refused. Prometheus gives up after 10 s by default."""
MOST_TOKEN: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class Verdict:
    """An HTTP status, 200 for yes, and a line that says why not."""

    status: int
    text: str = ""


Guard = Callable[[str], Verdict]
"""Judges a request by its Authorization header."""


class Access:
    """Judges requests by their Authorization header; from any thread. Remembers digests of tokens, never tokens."""

    def __init__(self, client: ApiClient, log: Log, path: str = "/metrics") -> None:
        self._client = client
        self._log = log
        self._path = path
        self._asking = threading.Lock()
        self._known: dict[bytes, tuple[Verdict, float]] = {}
        self._told: set[str] = set()
        self._problem = ""

    def verdict(self, authorization: str) -> Verdict:
        """200, 401 without a token that is known, 403 for a user without the right, 503 when nobody could be asked."""
        kind, _, token = authorization.partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token or not token.isascii() or len(token) > MOST_TOKEN:
            return Verdict(401, "send a bearer token of this cluster: Authorization: Bearer TOKEN")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._remembered(digest)
        if known is not None:
            return known
        if not self._asking.acquire(timeout=MOST_WAIT_SECONDS):
            return Verdict(503, "too many tokens are being reviewed; try again")
        try:
            return self._remembered(digest) or self._asked(digest, token)
        finally:
            self._asking.release()

    def _remembered(self, digest: bytes) -> Verdict | None:
        verdict, until = self._known.get(digest, (None, 0.0))
        return verdict if time.monotonic() < until else None

    def _asked(self, digest: bytes, token: str) -> Verdict:
        try:
            verdict = self._review(token)
        except ApiError as error:
            self._say(f"the API server cannot be asked who may read the metrics: {error}{_hint(error)}")
            return Verdict(503, "the API server cannot be asked who you are; nobody is let in until it can")
        self._say("")
        seconds = ALLOWED_SECONDS if verdict.status == 200 else REFUSED_SECONDS
        self._known.pop(digest, None)
        self._known[digest] = (verdict, time.monotonic() + seconds)
        while len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        return verdict

    def _review(self, token: str) -> Verdict:
        status = _status(self._client.create(TOKEN_REVIEWS, _object("authentication", "TokenReview", token=token)))
        user = status.get("user")
        name = user.get("username") if isinstance(user, Mapping) else None
        if status.get("authenticated") is not True or not isinstance(user, Mapping) or not name:
            return Verdict(401, "the token is not valid in this cluster")
        asks = {"path": self._path, "verb": "get"}
        who = {"user": name, **{key: user[key] for key in ("uid", "groups", "extra") if key in user}}
        review = _object("authorization", "SubjectAccessReview", nonResourceAttributes=asks, **who)
        if _status(self._client.create(ACCESS_REVIEWS, review)).get("allowed") is True:
            return Verdict(200)
        text = (
            f"{name} may not get the non-resource URL {self._path}; a ClusterRole with that rule has to be bound to it"
        )
        if name not in self._told and len(self._told) < MOST_TOLD:  # whoever scrapes without the right does so often
            self._told.add(name)
            self._log(Reason.SCRAPE_REFUSED, f"metrics refused: {text}")
        return Verdict(403, text)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._log(
                Reason.UNREADABLE if problem else Reason.ACCEPTED,
                problem or "tokens of those who scrape are reviewed again",
            )
        self._problem = problem


def _object(group: str, kind: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": f"{group}.k8s.io/v1", "kind": kind, "spec": spec}


def _status(review: Mapping[str, Any]) -> Mapping[str, Any]:
    status = review.get("status")
    return status if isinstance(status, Mapping) else {}


def _hint(error: ApiError) -> str:
    if error.status != 403:
        return ""
    return "; does the agent's ClusterRole allow to create tokenreviews and subjectaccessreviews?"
