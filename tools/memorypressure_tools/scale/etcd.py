"""Objects straight into etcd, through its JSON gateway: hundreds of times as fast as one by one through the API."""

import base64
from collections.abc import Iterable, Iterator
from typing import Any, Final

from memorypressure_tools.apiclient import ApiClient

BATCH_BYTES: Final = 600_000
BATCH_OBJECTS: Final = 100
"""etcd takes 128 operations and 1.5 MB a transaction."""


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


class Etcd:
    """Reads and writes stored bytes; watch caches of the API server follow by themselves."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def get(self, key: str) -> bytes:
        """The stored bytes of one object; raises KeyError when there is none."""
        answer = self._client.must("POST", "/v3/kv/range", {"key": _text(key.encode())})
        if not answer.get("kvs"):
            raise KeyError(key)
        return base64.b64decode(answer["kvs"][0]["value"])

    def under(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """(key, stored bytes) of everything under a prefix that ends with a slash, page by page."""
        start, end = prefix, prefix[:-1] + "0"  # the character after the slash
        while True:
            question = {"key": _text(start.encode()), "range_end": _text(end.encode()), "limit": BATCH_OBJECTS * 5}
            answer = self._client.must("POST", "/v3/kv/range", question)
            found = [
                (base64.b64decode(kv["key"]).decode(), base64.b64decode(kv["value"])) for kv in answer.get("kvs", [])
            ]
            yield from found
            if not answer.get("more"):
                return
            start = found[-1][0] + "\0"

    def put(self, objects: Iterable[tuple[str, bytes]]) -> int:
        """Stores all objects; returns how many."""
        batch: list[dict[str, Any]] = []
        size, count = 0, 0
        for key, value in objects:
            batch.append({"requestPut": {"key": _text(key.encode()), "value": _text(value)}})
            size, count = size + len(value), count + 1
            if size >= BATCH_BYTES or len(batch) >= BATCH_OBJECTS:
                self._flush(batch)
                batch, size = [], 0
        self._flush(batch)
        return count

    def put_each(self, objects: Iterable[tuple[str, bytes]]) -> int:
        """Stores all objects, each with a revision of its own, as the API server does; returns how many.

        Of objects that share one a watch that goes on in their midst misses the rest.
        """
        count = 0
        for key, value in objects:
            self._flush([{"requestPut": {"key": _text(key.encode()), "value": _text(value)}}])
            count += 1
        return count

    def _flush(self, batch: list[dict[str, Any]]) -> None:
        if batch:
            self._client.must("POST", "/v3/kv/txn", {"success": batch})
