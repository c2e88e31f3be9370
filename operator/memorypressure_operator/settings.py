"""Every setting of the operator, parsed once from flags and environment; a setting that is not known is an error.

A flag `--lease-seconds 20` is the variable `MPO_LEASE_SECONDS=20`; the flag wins. The text of each field is its
documentation: `--help` prints it with the default.
"""

import dataclasses
import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memorypressure_operator.errors import SettingsError

PREFIX = "MPO_"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _option(default: Any, text: str, minimum: float = -math.inf, maximum: float = math.inf) -> Any:
    """A field with its documentation and bounds (both inclusive)."""
    return dataclasses.field(default=default, metadata={"text": text, "minimum": minimum, "maximum": maximum})


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """How the operator runs; what it does to whom is in the policies."""

    kubeconfig: str = _option("", "Path of a kubeconfig file. Default: KUBECONFIG, else the pod's service account.")
    namespace: str = _option(
        "",
        "Own namespace: Lease, ledgers and the default policy's ConfigMap live there. Default: the service account's.",
    )
    identity: str = _option("", "Name as holder of the Lease. Default: host name and a random part.")
    lease_name: str = _option("memory-pressure-operator", "Name of the Lease object.")
    ledger_prefix: str = _option("memory-pressure-ledger", "Ledger ConfigMaps are named PREFIX-<policy>.")
    counts_configmap: str = _option(
        "memory-pressure-counts", "ConfigMap that keeps the counts of status.actions over restarts."
    )
    default_policy_configmap: str = _option(
        "", "ConfigMap in the own namespace whose key policy.yaml is created as a policy, once. Default: none."
    )
    bind_address: str = _option("0.0.0.0", "Address of the metrics and health ports.")  # noqa: S104  a pod's own address
    metrics_port: int = _option(9465, "Port of /metrics; 0 takes a free one and logs it.", 0, 65535)
    health_port: int = _option(8080, "Port of /healthz and /readyz; 0 takes a free one and logs it.", 0, 65535)
    log_level: str = _option("info", "debug, info, warning or error.")
    decision_log: str = _option(
        "", "File that gets a line for each look at a node: monotonic seconds, node, resourceVersion of its report."
    )

    protected_namespaces: str = _option(
        "", "Namespaces, with commas between, whose pods are never stopped, whatever a policy says. Default: none."
    )
    dry_run_only: bool = _option(False, "Treats every Enforce policy as DryRun: no grant, taint or eviction at all.")
    max_kills_per_hour: int = _option(-1, "Caps killsPerHour of every policy; can only lower it. -1: no cap.", -1)
    max_evictions_per_hour: int = _option(-1, "Caps evictionsPerHour of every policy; -1: no cap.", -1)
    max_standing_kills: int = _option(-1, "Caps maxStandingKills of every policy, in kills; -1: no cap.", -1)
    max_concurrent_nodes: int = _option(-1, "Caps maxConcurrentNodes of every policy, in nodes; -1: no cap.", -1)

    plan_writes_per_second: float = _option(20.0, "Writes of NodeMemoryPlans a second, whole cluster.", 0.1, 1000)
    page_size: int = _option(500, "Objects a page where a list is paged (API servers before 1.34).", 1, 5000)
    request_timeout_seconds: float = _option(5.0, "Limit of one API request.", 0.1, 60)
    stream_read_timeout_seconds: float = _option(
        90.0, "Silence after which a stream is opened anew; bookmarks come each minute.", 1, 3600
    )
    stream_lifetime_seconds: float = _option(600.0, "How long the API server keeps one stream open.", 5, 3600)
    backoff_seconds: float = _option(0.5, "First wait after a failed stream or start-up request; doubles.", 0.01, 60)
    backoff_limit_seconds: float = _option(20.0, "Longest such wait.", 0.01, 600)
    token_reload_seconds: float = _option(60.0, "Age at which the token file is read again.", 0, 600)

    lease_seconds: float = _option(
        15.0, "leaseDurationSeconds: silence after which another replica takes over.", 1, 300
    )
    renew_deadline_seconds: float = _option(
        10.0, "Age of the last successful renewal beyond which this replica does not act.", 0.5, 299
    )
    renew_seconds: float = _option(2.0, "Time between two renewals.", 0.1, 60)
    renew_timeout_seconds: float = _option(3.0, "Limit of one renewal's request.", 0.1, 60)

    cleanup_hold_seconds: float = _option(
        120.0,
        "How long `cleanup` keeps the Lease, so that a running operator does nothing until it is deleted.",
        1,
        3600,
    )

    coalesce_seconds: float = _option(0.2, "How long changes of one node are collected before it is looked at.", 0, 60)
    resync_seconds: float = _option(300.0, "Each node is looked at at least this often.", 1, 3600)
    status_seconds: float = _option(2.0, "Shortest time between two status writes of one policy.", 0.1, 600)
    unready_seconds: float = _option(
        10.0, "Age of a failure (requests refused or not answered) from which /readyz fails and names it.", 0, 3600
    )
    stuck_seconds: float = _option(
        60.0, "Age of the last pass of the decision loop beyond which /healthz fails.", 1, 3600
    )

    @property
    def protected(self) -> frozenset[str]:
        """The names in `protected_namespaces`."""
        return frozenset(name for part in self.protected_namespaces.split(",") if (name := part.strip()))


def field_names() -> tuple[str, ...]:
    """Names of all settings, in the order of the documentation."""
    return tuple(f.name for f in dataclasses.fields(Settings))


def parse(flags: Mapping[str, str | bool | None], environment: Mapping[str, str]) -> Settings:
    """The settings; `flags` holds what was given on the command line by field name (None: not given).

    Raises SettingsError for an unknown `MPO_` variable and for a value that cannot be used.
    """
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    known = {PREFIX + name.upper() for name in fields}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(
            f"environment variable {unknown[0]}: not a setting of the operator; known ones are listed by --help "
            f"(set enableServiceLinks: false where a Service named 'mpo' injects variables)"
        )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        given = flags.get(name)
        if given is not None:
            values[name] = _value(f"--{name.replace('_', '-')}", field, given)
        elif PREFIX + name.upper() in environment:
            values[name] = _value(PREFIX + name.upper(), field, environment[PREFIX + name.upper()])
    return _checked(_filled(Settings(**values), environment))


def _value(source: str, field: "dataclasses.Field[Any]", given: str | bool) -> Any:
    if isinstance(field.default, bool):
        if isinstance(given, bool):
            return given
        if given.lower() in ("true", "false"):
            return given.lower() == "true"
        raise SettingsError(f"{source}: {given!r} is neither true nor false")
    text = str(given)
    if isinstance(field.default, str):
        return text
    whole = isinstance(field.default, int)
    try:
        number: float = int(text) if whole else float(text)
    except ValueError:
        wanted = "a whole number" if whole else "a number"
        raise SettingsError(f"{source}: {text!r} is not {wanted}") from None
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    if not low <= number <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise SettingsError(f"{source}: {text} is out of range, it must be {bounds}")
    return number


def _filled(settings: Settings, environment: Mapping[str, str]) -> Settings:
    kubeconfig = settings.kubeconfig or environment.get("KUBECONFIG", "")
    namespace = settings.namespace
    if not namespace:
        file = SERVICE_ACCOUNT / "namespace"
        try:
            namespace = file.read_text().strip()
        except OSError:
            raise SettingsError(
                f"--namespace: not given, and {file} cannot be read; outside a pod name the operator's own namespace"
            ) from None
    identity = settings.identity or f"{socket.gethostname()}_{os.urandom(4).hex()}"
    return dataclasses.replace(settings, kubeconfig=kubeconfig, namespace=namespace, identity=identity)


def _checked(settings: Settings) -> Settings:
    if not settings.renew_timeout_seconds < settings.renew_deadline_seconds:
        raise SettingsError("--renew-timeout-seconds: must be below --renew-deadline-seconds")
    if not settings.renew_seconds + settings.renew_timeout_seconds < settings.renew_deadline_seconds:
        raise SettingsError(
            "--renew-seconds: with --renew-timeout-seconds must be below --renew-deadline-seconds, "
            "or the Lease is lost between two renewals"
        )
    if not settings.renew_deadline_seconds + settings.request_timeout_seconds <= settings.lease_seconds:
        raise SettingsError(
            "--lease-seconds: must be at least --renew-deadline-seconds plus --request-timeout-seconds, "
            "or an act begun just before the deadline could end after another replica took over"
        )
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise SettingsError(f"--log-level: {settings.log_level!r} is not one of debug, info, warning, error")
    _check_names(settings)
    return settings


def _check_names(settings: Settings) -> None:
    """SettingsError for a name that no object can have: one that is misspelt so would silently protect nobody."""
    for option, names in (("--namespace", [settings.namespace]), ("--protected-namespaces", settings.protected)):
        for name in sorted(names):
            if not _LABEL.fullmatch(name):
                raise SettingsError(
                    f"{option}: {name[:70]!r} is no namespace's name (lower-case letters, digits and '-', at most 63)"
                )
    for option, name in (
        ("--lease-name", settings.lease_name),
        ("--ledger-prefix", settings.ledger_prefix),
        ("--counts-configmap", settings.counts_configmap),
        ("--default-policy-configmap", settings.default_policy_configmap or "none"),
    ):
        if not _SUBDOMAIN.fullmatch(name):
            raise SettingsError(
                f"{option}: {name[:70]!r} is no object's name (lower-case letters, digits, '-' and '.', at most 253)"
            )


def describe(names: Sequence[str] = ()) -> list[tuple[str, str, Any]]:
    """(name, text, default) of the settings, for `--help`."""
    chosen = set(names) or set(field_names())
    return [(f.name, f.metadata["text"], f.default) for f in dataclasses.fields(Settings) if f.name in chosen]
