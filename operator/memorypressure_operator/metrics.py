"""The operator's metrics. Series that exist are written from the start, as 0.

No label names a pod, and one a node: that of nodes which carry the taint, only while they do.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from memorypressure.reasons import Reason
from memorypressure.version import VERSION
from memorypressure_operator.health import Health

ACTIONS = ("Taint", "Evict")
"""What the operator does itself. Kills are counted by the agents that make them: sums over all jobs are right."""
MODES = ("Disabled", "DryRun", "Enforce")
RESULTS = ("Success", "Failed", "Denied")
NODE_STATES = ("Selected", "Effective", "Superseded", "Reporting", "UnderPressure", "Armed")
BUDGETS = ("Evict", "Kill")
STREAMS = ("nodes", "nodememorystates", "nodememoryplans", "pods", "namespaces", "poddisruptionbudgets")
DENIALS = (
    Reason.LEDGER_INVALID,
    Reason.LEDGER_QUARANTINE,
    Reason.UNREADABLE,
    Reason.WAITING_FOR_VICTIM,
    Reason.EPISODE_LIMIT,
    Reason.FUTILE,
    Reason.COOLDOWN,
    Reason.BUDGET_EXHAUSTED,
    Reason.LEDGER_FULL,
    Reason.CONCURRENT_NODES,
    Reason.NO_VICTIM,
    Reason.TOO_SMALL,
    Reason.WORKLOAD_LIMIT,
    Reason.DISRUPTION_BUDGET,
    Reason.GONE,
    Reason.TERMINATING,
    Reason.SITUATION_CHANGED,
    Reason.NOT_HOLDING,
    Reason.ACTION_FAILED,
    # What the second look at a pod may find, right before its eviction.
    Reason.OWN_POD,
    Reason.PROTECTED_NAMESPACE,
    Reason.SYSTEM_CRITICAL,
    Reason.NOT_RUNNING,
    Reason.STATIC_POD,
    Reason.DAEMON_SET_POD,
    Reason.UNMANAGED_POD,
    Reason.LOCAL_STORAGE,
    Reason.SINGLETON_WORKLOAD,
    Reason.ANNOTATED,
    Reason.PRIORITY_TOO_HIGH,
    Reason.QOS_CLASS_EXCLUDED,
    Reason.SELECTOR_MISMATCH,
)
"""Why an eviction that is due is not done (`acting`); a taint is never denied."""


class Ages(Collector):
    """When each part last did what it is for, as time stamps: what the probes judge, for graphs and alerts."""

    def __init__(self, health: Health, wall: Callable[[], float]) -> None:
        self._health = health
        self._wall = wall

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Only what has happened is there."""
        health = self._health
        boot_offset = self._wall() - health.clock()

        def family(name: str, text: str, rows: Mapping[str, float | None], label: str = "") -> GaugeMetricFamily:
            made = GaugeMetricFamily(name, text, labels=[label] if label else [])
            for key, at in rows.items():
                if at is not None:
                    made.add_metric([key] if label else [], boot_offset + at)
            return made

        yield family(
            "memorypressure_operator_last_event_timestamp_seconds",
            "When the API server last sent an event or a bookmark of the resource.",
            dict(sorted(health.heard.items())) | {"memorypressurepolicies": health.last_policy_event},
            "resource",
        )
        yield family(
            "memorypressure_operator_last_pass_timestamp_seconds",
            "When the decision loop last ended a pass.",
            {"": health.last_reconcile},
        )
        yield family(
            "memorypressure_operator_last_node_report_timestamp_seconds",
            "When the report of any node last changed.",
            {"": health.last_node_report},
        )


@dataclass(frozen=True, slots=True)
class _Family:
    kind: type[MetricWrapperBase]
    name: str
    text: str
    labels: str
    options: Mapping[str, Any]

    def made(self, registry: CollectorRegistry) -> MetricWrapperBase:
        return self.kind(self.name, self.text, self.labels.split(), registry=registry, **self.options)


def _gauge(name: str, text: str, labels: str = "") -> Gauge:
    """A row of the table below; in an instance it is the metric, as `field` of a dataclass is the value."""
    return cast("Gauge", _Family(Gauge, name, text, labels, {}))


def _counter(name: str, text: str, labels: str = "") -> Counter:
    return cast("Counter", _Family(Counter, name, text, labels, {}))


def _histogram(name: str, text: str, labels: str = "", *, buckets: tuple[float, ...]) -> Histogram:
    return cast("Histogram", _Family(Histogram, name, text, labels, {"buckets": buckets}))


class Metrics:
    """All series of one process, in a registry of their own (tests make several)."""

    build_info = _gauge("memorypressure_build_info", "Version of this component; always 1.", "version component")
    policies = _gauge(
        "memorypressure_operator_policies", "MemoryPressurePolicies that are valid, by the mode in their spec.", "mode"
    )
    conflicts = _gauge(
        "memorypressure_operator_policy_conflicts",
        "Nodes on which the policy is tied with one of another mode.",
        "policy",
    )
    nodes = _gauge(
        "memorypressure_operator_nodes",
        "Nodes of a policy: selected by it, effective, superseded by another, reporting, under pressure, armed.",
        "policy state",
    )
    budget_remaining = _gauge(
        "memorypressure_operator_budget_remaining",
        "Evictions, and refills of kill allowances, that are left in the running hour.",
        "policy action",
    )
    budget_limit = _gauge(
        "memorypressure_operator_budget_limit",
        "Evictions, and refills of kill allowances, that the policy allows an hour.",
        "policy action",
    )
    exposure = _gauge(
        "memorypressure_operator_exposure_kills",
        "Kills that nodes may make: standing now, and in the worst hour.",
        "policy bound",
    )
    actions = _counter(
        "memorypressure_actions",
        "Taints and evictions of the operator; kills are counted by the agents.",
        "policy action mode result",
    )
    denied = _counter(
        "memorypressure_actions_denied", "Evictions that were due and not done, by reason.", "action reason"
    )
    _tainted = _gauge("memorypressure_operator_nodes_tainted", "Nodes that carry the operator's taint.")
    _node_tainted = _gauge(
        "memorypressure_node_tainted", "Nodes that carry the operator's taint, by name; no series: not tainted.", "node"
    )
    reconcile_errors = _counter(
        "memorypressure_operator_reconcile_errors",
        "Passes of the decision loop over a node that failed, by cause.",
        "reason",
    )
    reconcile_seconds = _histogram(
        "memorypressure_operator_reconcile_duration_seconds",
        "Time of one pass of the decision loop over one node, its API requests included.",
        buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
    )
    reaction_seconds = _histogram(
        "memorypressure_operator_reaction_seconds",
        "From hearing of a node's pressure to the first act (taint or eviction).",
        buckets=(0.01, 0.05, 0.2, 1, 5, 30, 120),
    )
    dirty_nodes = _gauge(
        "memorypressure_operator_queue_nodes", "Nodes that are due to be looked at by the decision loop."
    )
    plan_staleness = _gauge(
        "memorypressure_operator_plan_staleness_seconds",
        "Age of the oldest change in the cluster that is in no NodeMemoryPlan yet.",
    )
    plan_writes = _counter("memorypressure_operator_plan_writes", "NodeMemoryPlans created or changed.")
    ledger_conflicts = _counter(
        "memorypressure_operator_ledger_conflicts", "Ledger writes refused because somebody else had written."
    )
    ledger_valid = _gauge(
        "memorypressure_operator_ledger_valid", "1 if the policy's ledger can be used, 0 if it is disarmed.", "policy"
    )
    leader = _gauge("memorypressure_operator_leader", "1 while this replica holds the Lease.")
    stream_up = _gauge(
        "memorypressure_operator_stream_synced", "1 once the whole state of the resource was received.", "resource"
    )
    stream_restarts = _counter(
        "memorypressure_operator_stream_restarts",
        "Streams of the resource that were opened anew after a failure, by cause.",
        "resource reason",
    )
    misread = _gauge(
        "memorypressure_operator_objects_not_understood",
        "Objects of the resource that are not understood: what they concern is protected; the probes name them.",
        "resource",
    )
    events_failed = _counter("memorypressure_operator_events_failed", "Kubernetes Events given up after several tries.")
    requests = _counter(
        "memorypressure_operator_api_requests",
        "Requests to the API server but watches, by method and status code; none: no answer came.",
        "method code",
    )
    request_seconds = _histogram(
        "memorypressure_operator_api_request_duration_seconds",
        "Time of requests to the API server but watches, until the answer was read.",
        "method",
        buckets=(0.005, 0.02, 0.1, 0.5, 2, 5),
    )

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()
        self.registry = CollectorRegistry(auto_describe=True)
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        for attribute, family in vars(Metrics).items():
            if isinstance(family, _Family):
                setattr(self, attribute, family.made(self.registry))
        self._tainted_names: frozenset[str] = frozenset()
        self._initialise()

    def _initialise(self) -> None:
        self.build_info.labels(VERSION, "operator").set(1)
        for mode in MODES:
            self.policies.labels(mode)
        for reason in DENIALS:
            self.denied.labels("Evict", reason)
        for stream in STREAMS:
            self.stream_up.labels(stream)
            self.misread.labels(stream)
            for why in ("ApiUnreachable", "ApiRefused", "Expired"):
                self.stream_restarts.labels(stream, why)
        for cause in ("ApiUnreachable", "ApiRefused", "Unexpected"):
            self.reconcile_errors.labels(cause)

    def observe_request(self, method: str, code: str, seconds: float) -> None:
        """Counts a request to the API server."""
        self.requests.labels(method, code).inc()
        self.request_seconds.labels(method).observe(seconds)

    def add_policy(self, policy: str) -> None:
        """Creates the series of one policy, as 0."""
        self.conflicts.labels(policy)
        for state in NODE_STATES:
            self.nodes.labels(policy, state)
        for action in ACTIONS:
            for mode in MODES[1:]:
                for result in RESULTS:
                    self.actions.labels(policy, action, mode, result)

    def remove_policy(self, policy: str) -> None:
        """Drops the gauges of a deleted policy; its counters stay until the process ends."""
        for gauge in (
            self.conflicts,
            self.nodes,
            self.budget_remaining,
            self.budget_limit,
            self.exposure,
            self.ledger_valid,
        ):
            gauge.remove_by_labels({"policy": policy})

    def set_tainted(self, names: frozenset[str]) -> None:
        """The nodes that carry the taint."""
        for name in self._tainted_names - names:
            self._node_tainted.remove(name)
        for name in names - self._tainted_names:
            self._node_tainted.labels(name).set(1)
        self._tainted_names = names
        self._tainted.set(len(names))

    def set_policies(self, modes: Iterable[str]) -> None:
        """How many policies there are of each mode."""
        counted = list(modes)
        for mode in MODES:
            self.policies.labels(mode).set(counted.count(mode))

    def set_nodes(self, policy: str, counts: Mapping[str, int]) -> None:
        """`counts` by the names of NODE_STATES."""
        for state in NODE_STATES:
            self.nodes.labels(policy, state).set(counts[state])

    def serve(self, address: str, port: int) -> "tuple[WSGIServer, threading.Thread]":
        """Serves /metrics; the caller shuts the server down. `server.server_port` is the port taken."""
        server, thread = prometheus_client.start_http_server(port, addr=address, registry=self.registry)
        return server, thread
