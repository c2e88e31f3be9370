"""Long lists in pages, as raw objects."""

from collections.abc import Iterator

import msgspec

from memorypressure_operator.api import Api


class _PageMeta(msgspec.Struct):
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _PageMeta
    items: list[msgspec.Raw] = []


def pages(api: Api, path: str, **query: str) -> Iterator[bytes]:
    """Every object of a list, as JSON. Raises what `Api.get` raises, and MsgspecError."""
    token = ""
    while True:
        asked = {"limit": "500", **query} | ({"continue": token} if token else {})
        page = msgspec.json.decode(api.get(path, query=asked).body, type=_Page)
        yield from (bytes(raw) for raw in page.items)
        token = page.metadata.continue_
        if not token:
            return
