"""Long lists in pages, as raw objects."""

from collections.abc import Iterator

import msgspec

from memorypressure_operator.api import Api


class PageMeta(msgspec.Struct, rename="camel"):
    """metadata of a list: the version that all of its pages show."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct):
    """A part of a list."""

    metadata: PageMeta
    items: list[msgspec.Raw] = []


def pages(api: Api, path: str, *, limit: int, **query: str) -> Iterator[Page]:
    """A list in pages of at most `limit` objects, one at least. Raises what `Api.get` raises, and MsgspecError."""
    token = ""
    while True:
        asked = {"limit": str(limit), **query} | ({"continue": token} if token else {})
        page = msgspec.json.decode(api.get(path, query=asked).body, type=Page)
        yield page
        token = page.metadata.continue_
        if not token:
            return


def listed(api: Api, path: str, *, limit: int = 500, **query: str) -> Iterator[bytes]:
    """Every object of a list, as JSON. Raises as `pages`."""
    for page in pages(api, path, limit=limit, **query):
        yield from map(bytes, page.items)
