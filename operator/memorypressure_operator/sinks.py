"""The registry's tables as what the streams of the API server feed."""

from collections.abc import Callable
from typing import Any

from memorypressure_operator.registry import Registry
from memorypressure_operator.tables import SINKS


class TableSink:
    """One table of the registry as the `streams.Sink` of one stream."""

    def __init__(
        self,
        registry: Registry,
        resource: str,
        on_synced: Callable[[str], None],
        on_heard: Callable[[str], None] = lambda _: None,
        on_opened: Callable[[str], None] = lambda _: None,
    ) -> None:
        table, put, remove = SINKS[resource]
        self._registry = registry
        self._resource = resource
        self._on_synced = on_synced
        self._on_heard = on_heard
        self._on_opened = on_opened
        self._rows: dict[Any, Any] = getattr(registry.tables, table)
        self.put: Callable[[Any, Any], None] = getattr(registry, put)
        self.remove: Callable[[Any], None] = getattr(registry, remove)

    def keys(self) -> set[Any]:
        """Keys of the rows held."""
        with self._registry.lock:
            return set(self._rows)

    def synced(self) -> None:
        """The table is complete."""
        self._registry.mark_synced(self._resource)
        self._on_synced(self._resource)

    def opened(self) -> None:
        """Notes when the server last began to send."""
        self._on_opened(self._resource)

    def heard(self) -> None:
        """Notes when the server last sent anything."""
        self._on_heard(self._resource)
