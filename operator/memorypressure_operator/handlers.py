"""What kopf is used for: watching MemoryPressurePolicies and handing each event to the registry. Nothing else.

Only `on.event`: timers, daemons and delete handlers put a finalizer on users' objects, change handlers an annotation.
"""

import itertools
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from memorypressure_operator.api import GROUP, Credentials
from memorypressure_operator.registry import Registry
from memorypressure_operator.settings import Settings

PLURAL = "memorypressurepolicies"


def make_registry(policies: Registry, credentials: Credentials, settings: Settings) -> kopf.OperatorRegistry:
    """Kopf's registry with our four handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        apply_settings(settings)

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection(credentials, settings.token_reload_seconds)

    @kopf.on.event(GROUP, "v1alpha1", PLURAL, registry=registry)
    async def policy_event(type: str | None, body: kopf.Body, uid: str | None, **_: Any) -> None:  # noqa: A002  kopf's name
        if type == "DELETED":
            policies.remove_policy(str(uid), watched=True)
        else:
            policies.put_policy(dict(body), watched=True)

    return registry


def apply_settings(settings: kopf.OperatorSettings) -> None:
    """Everything that kopf's defaults would leave to luck."""
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{GROUP}/kopf-finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{GROUP}")
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    settings.queueing.idle_timeout = 0.5
    settings.execution.max_workers = 4


class Backoffs(Iterable[float]):
    """1, 2, 4, ... 20, 20, ... seconds with jitter, without end: kopf gives an object up when the list ends."""

    def __iter__(self) -> Iterator[float]:
        for attempt in itertools.count():
            yield min(20.0, 2.0 ** min(attempt, 5)) * random.uniform(0.7, 1.3)  # noqa: S311  jitter


def connection(credentials: Credentials, token_reload_seconds: float) -> kopf.ConnectionInfo:
    """Kopf's login with the same server and token; it expires so that kopf asks again and the token is re-read."""
    configuration = credentials.configuration
    expires = datetime.now(UTC) + timedelta(seconds=max(1.0, token_reload_seconds))
    token = credentials.token()
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme="Bearer" if token else None,
        token=token or None,
        expiration=expires if token else None,
    )
