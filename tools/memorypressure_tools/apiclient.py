"""A raw REST client for tests: the server's status and body exactly as they came."""

import json
from typing import Any, Final, NamedTuple

import urllib3

from memorypressure_tools.certificates import Pair

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
TIMEOUT_SECONDS: Final = 20.0


class Answer(NamedTuple):
    """Status code and decoded body of one request; a body that is no JSON is a string."""

    status: int
    body: Any


class ApiError(Exception):
    """The server refused a request that had to succeed; the text holds its message."""

    def __init__(self, method: str, path: str, answer: Answer) -> None:
        message = answer.body.get("message") if isinstance(answer.body, dict) else answer.body
        super().__init__(f"{method} {path}: {answer.status}: {message}")
        self.answer = answer


class ApiClient:
    """Requests to one API server as one user; safe to use from several threads."""

    def __init__(self, server: str, authority: str, *, identity: Pair | None = None, token: str | None = None) -> None:
        self.server = server
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(
            ca_certs=authority,
            cert_file=str(identity.certificate) if identity else None,
            key_file=str(identity.key) if identity else None,
            maxsize=16,  # as many threads of a test may ask at once
            retries=False,
            timeout=TIMEOUT_SECONDS,
        )

    def request(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Answer:
        """The server's answer, whatever its status; urllib3.exceptions.HTTPError when there is none.

        `body` is sent as it is when it is text or bytes, else as JSON.
        """
        headers = dict(self._headers)
        data: bytes | None = None
        if body is not None:
            headers["Content-Type"] = content_type
            text = body if isinstance(body, str | bytes) else json.dumps(body)
            data = text.encode() if isinstance(text, str) else text
        response = self._pool.request(method, self.server + path, body=data, headers=headers)
        raw = response.data.decode("utf-8", errors="replace")
        try:
            return Answer(response.status, json.loads(raw))
        except ValueError:
            return Answer(response.status, raw)

    def must(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Any:
        """The body of a request that has to succeed; raises ApiError for a status that is not 2xx."""
        answer = self.request(method, path, body, content_type)
        if not 200 <= answer.status < 300:
            raise ApiError(method, path, answer)
        return answer.body

    def close(self) -> None:
        """Drops the kept connections."""
        self._pool.clear()
