"""The node's metrics, made of the sentinel's status at each scrape. No pod names, and nothing that was not read.

What has no source is left out; `memorypressure_agent_source_up` and `..._source_absent` say so. Counters begin at 0
when the sentinel starts, as Prometheus expects of a process; those of the kernel began when the machine did.

The agent counts its kills and nothing else in `memorypressure_actions_total`; taints and evictions are counted by the
operator that makes them: sums over both jobs count each action once.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from memorypressure.reasons import Reason
from memorypressure.spec_values import Action
from memorypressure.version import VERSION
from memorypressure_agent.kernel_log.failures import Failures
from memorypressure_agent.reporter.kernel_log import Reading
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.report import grant_left
from memorypressure_agent.reporter.view import View

PREFIX: Final = "memorypressure"
RESULTS: Final = (("Enforce", "Success"), ("Enforce", "Incomplete"), ("Enforce", "Failed"), ("DryRun", "Success"))
DENIALS: Final = (
    Reason.COOLDOWN,
    Reason.FUTILE,
    Reason.EPISODE_LIMIT,
    Reason.AGENT_LIMIT,
    Reason.MOVABLE_FREE,
    Reason.NOT_HOLDING,
    Reason.NO_VICTIM,
    Reason.TOO_SMALL,
    Reason.KILLED_BEFORE,
    Reason.NO_FIGURES,
    Reason.LOCK_HELD,
    Reason.CAPABILITY_MISSING,
    Reason.NO_ORDERS,
    Reason.NO_GRANT,
    Reason.WRONG_INCARNATION,
    Reason.PLAN_MISMATCH,
    Reason.GRANT_EXPIRED,
    Reason.CEILING_REACHED,
    Reason.BUDGET_EXHAUSTED,
)
"""Reasons that hold back a kill that is due; the sentinel also counts those for which none is due."""

_ZONE_GAUGES: Final = (
    ("free", "freeBytes", "Free memory of the zone."),
    ("managed", "managedBytes", "Memory of the zone that the page allocator manages."),
    ("lowmem_reserve", "lowmemReserveBytes", "Memory of the zone kept back from allocations of class Normal."),
    ("boost", "boostBytes", "Watermark boost in force, which is part of min, low and high."),
    ("counter_error", "errorBytes", "By how much the zone's free memory may be off: CPUs times vm stats threshold."),
)
_ZONES: Final = {
    "dma": "DMA",
    "dma32": "DMA32",
    "normal": "Normal",
    "high": "HighMem",
    "movable": "Movable",
    "device": "Device",
}
"""Names of zones in /proc/vmstat, and in /proc/zoneinfo (mm/vmstat.c and mm/page_alloc.c of 6.1)."""


def new_registry(collector: Collector) -> CollectorRegistry:
    """A registry with the node's and this process's metrics, without `_created` series."""
    disable_created_metrics()
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class NodeCollector(Collector):
    """Makes all metrics of the node at a scrape; `view` and `link` give what was read last, `kernel_log` reads."""

    def __init__(
        self,
        view: Callable[[], View],
        link: Callable[[], LinkState],
        kernel_log: Callable[[], Reading] | None = None,
    ) -> None:
        self._view = view
        self._link = link
        self._kernel_log = kernel_log

    def collect(self) -> Iterator[Metric]:
        """All metric families. While the sentinel is silent its figures are left out."""
        view, link = self._view(), self._link()
        log = None if self._kernel_log is None else self._kernel_log()
        build = GaugeMetricFamily(f"{PREFIX}_build_info", "Version of this component.", labels=["version", "component"])
        build.add_metric([VERSION, "agent"], 1)
        yield build
        yield from _sources(view, link, log)
        if log is not None and log.failures is not None:
            yield _allocation_failures(log.failures)
        yield from _policy(view, link)
        if view.silent:
            return
        yield from _capabilities(view.status)
        yield from _zones(view.status)
        yield from _below_lines(view.status)
        yield from _pressure(view.status)
        yield from _kernel(view.status)
        yield from _actions(view.status)
        yield from _loop(view.status)


def _sources(view: View, link: LinkState, log: Reading | None) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        f"{PREFIX}_agent_source_up",
        "1 if a source of figures is read, 0 if it should be there and cannot be read or understood.",
        labels=["source"],
    )
    absent = GaugeMetricFamily(
        f"{PREFIX}_agent_source_absent",
        "Sources that this machine does not have (no swap, a kernel without PSI), with the reason; always 1.",
        labels=["source", "reason"],
    )
    up.add_metric(["sentinel"], 0 if view.silent else 1)
    up.add_metric(["apiserver"], 1 if link.connected else 0)
    if log is not None:
        up.add_metric(["kernel_log"], 0 if log.problem else 1)
    for source in () if view.silent else view.status["sources"]:
        if source["absent"]:
            absent.add_metric([source["name"], source["reason"] or ""], 1)
        else:
            up.add_metric([source["name"]], 1 if source["up"] else 0)
    yield up
    yield absent


def _capabilities(status: Mapping[str, Any]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        f"{PREFIX}_agent_capability",
        "1 if the sentinel can do this here, 0 if not; the sentinel's log says why not.",
        labels=["capability"],
    )
    for name, why in sorted(status["capabilities"].items()):
        family.add_metric([name], 0 if why else 1)
    yield family


def _policy(view: View, link: LinkState) -> Iterator[Metric]:
    orders = link.orders
    info = GaugeMetricFamily(f"{PREFIX}_agent_policy_info", "The policy in force.", labels=["policy", "mode"])
    if orders is not None:
        info.add_metric([orders.policy_name, orders.mode.value], 1)
    yield info
    left, _ = grant_left(view, link)
    yield GaugeMetricFamily(f"{PREFIX}_agent_grant_kills", "Kills that the grant still allows.", value=left)
    if link.synced_unix_seconds is not None:
        yield GaugeMetricFamily(
            f"{PREFIX}_agent_policy_sync_timestamp_seconds",
            "When the API server was last heard of orders.",
            value=link.synced_unix_seconds,
        )


def _zones(status: Mapping[str, Any]) -> Iterator[Metric]:
    zones = status["zones"] or []
    for name, field, text in _ZONE_GAUGES:
        family = GaugeMetricFamily(f"{PREFIX}_zone_{name}_bytes", text, labels=["numa_node", "zone"])
        for zone in zones:
            if zone.get(field) is not None:
                family.add_metric([str(zone["numaNode"]), zone["zone"]], zone[field])
        yield family
    marks = GaugeMetricFamily(
        f"{PREFIX}_zone_watermark_bytes",
        "Watermarks as the kernel prints them, boost included.",
        labels=["numa_node", "zone", "watermark"],
    )
    lines = GaugeMetricFamily(
        f"{PREFIX}_zone_line_bytes",
        "Lines of the reserve for atomic allocations, lowmem reserve included.",
        labels=["numa_node", "zone", "line"],
    )
    for zone in zones:
        labels = [str(zone["numaNode"]), zone["zone"]]
        for mark in ("min", "low", "high"):
            marks.add_metric([*labels, mark], zone[f"{mark}Bytes"])
        if zone["counted"]:
            lines.add_metric([*labels, "AtomicReserve"], zone["reserveBytes"])
            lines.add_metric([*labels, "AtomicFloor"], zone["floorBytes"])
    yield marks
    yield lines


def _below_lines(status: Mapping[str, Any]) -> Iterator[Metric]:
    labels = ["numa_node", "zone", "line"]
    seconds = CounterMetricFamily(
        f"{PREFIX}_zone_below_line_seconds",
        "Time the zone was below the line, over the agent's samples.",
        labels=labels,
    )
    episodes = CounterMetricFamily(
        f"{PREFIX}_zone_below_line_episodes", "How often the zone went below the line.", labels=labels
    )
    for entry in status["belowLine"]:
        values = [str(entry["numaNode"]), entry["zone"], entry["line"]]
        seconds.add_metric(values, entry["seconds"])
        episodes.add_metric(values, entry["episodes"])
    yield seconds
    yield episodes


def _pressure(status: Mapping[str, Any]) -> Iterator[Metric]:
    stalled = CounterMetricFamily(
        f"{PREFIX}_psi_stalled_seconds", "Time in which tasks were stalled on memory.", labels=["scope", "kind"]
    )
    for scope, name in (("node", "node"), ("pods", "kubepods")):
        psi = status["psi"][scope]
        for kind in ("some", "full"):
            if psi and psi[kind]:
                stalled.add_metric([name, kind], psi[kind]["totalSeconds"])
    yield stalled
    active = GaugeMetricFamily(
        f"{PREFIX}_trigger_active",
        "Whether a trigger of the policy is active. One whose source is unknown has no sample.",
        labels=["policy", "trigger"],
    )
    for trigger in status["triggers"]:
        if trigger["status"] != "Unknown":
            policy = status["orders"]["policyName"] or ""
            active.add_metric([policy, trigger["name"]], int(trigger["status"] == "Active"))
    yield active


def _kernel(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Counters of /proc/vmstat; a kernel that does not count by zone (before 4.10) has one for all."""
    counters = status["vmstat"] or {}
    stalls = CounterMetricFamily(
        f"{PREFIX}_direct_reclaim_stalls",
        "Allocations that had to reclaim memory themselves, by the highest zone that they may use.",
        labels=["zone"],
    )
    for name, count in sorted(counters.items()):
        kind, _, zone = name.partition("_")
        if kind == "allocstall":
            stalls.add_metric([_ZONES.get(zone, zone or "all")], count)
    yield stalls
    kills = CounterMetricFamily(
        f"{PREFIX}_kernel_oom_kills",
        "Processes killed by the kernel's own OOM killer, those at cgroup limits included.",
    )
    if "oom_kill" in counters:
        kills.add_metric([], counters["oom_kill"])
    yield kills


def _allocation_failures(failures: Failures) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}_page_allocation_failures",
        "Failed page allocations of which the kernel log tells, by whether they were GFP_ATOMIC; a lower bound.",
        labels=["atomic"],
    )
    for atomic, count in (("true", failures.atomic), ("false", failures.other), ("unknown", failures.unknown)):
        family.add_metric([atomic], count)
    return family


def _actions(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Counters of the sentinel's life; those that can be expected are there from the start, as 0."""
    counters, policy, kill = status["counters"], status["orders"]["policyName"], Action.KILL.value
    actions = CounterMetricFamily(
        f"{PREFIX}_actions", "Kills of this node that have ended.", labels=["policy", "action", "mode", "result"]
    )
    ended = {(policy, mode, result): 0 for mode, result in RESULTS} if policy else {}
    ended |= {(each["policy"], each["mode"], each["result"]): each["count"] for each in counters["ended"]}
    for (name, mode, result), count in ended.items():
        actions.add_metric([name, kill, mode, result], count)
    yield actions
    denied = CounterMetricFamily(
        f"{PREFIX}_actions_denied", "How often a due action began to be held back.", labels=["action", "reason"]
    )
    for reason in DENIALS:
        denied.add_metric([kill, reason.value], counters["refusals"].get(reason.value, 0))
    yield denied
    yield _histogram(
        f"{PREFIX}_action_latency_seconds",
        "From the decision of an action to the memory being free.",
        status["killLatency"],
        {"action": kill},
    )
    freed = CounterMetricFamily(f"{PREFIX}_freed_bytes", "Memory that came back by actions.", labels=["action"])
    freed.add_metric([kill], counters["freedBytes"])
    yield freed


def _loop(status: Mapping[str, Any]) -> Iterator[Metric]:
    yield _histogram(
        f"{PREFIX}_agent_loop_lag_seconds", "How late the sentinel's loop woke up.", status["loop"]["lag"], {}
    )
    yield GaugeMetricFamily(
        f"{PREFIX}_agent_loop_period_seconds", "Time between two samples now.", value=status["loop"]["periodSeconds"]
    )


def _histogram(name: str, text: str, value: Mapping[str, Any], labels: Mapping[str, str]) -> HistogramMetricFamily:
    """A histogram of the status: `buckets` are pairs of bound and cumulative count, the last bound null.

    Its `last` is the exemplar of the bucket that counted it: the action's id. Only OpenMetrics shows it.
    """
    family = HistogramMetricFamily(name, text, labels=list(labels))
    last = value.get("last")
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for bound, count in value["buckets"]:
        le = "+Inf" if bound is None else str(float(bound))
        if last is not None and (bound is None or last["seconds"] <= bound):
            buckets.append((le, count, Exemplar({"action_id": last["action"]}, last["seconds"], last["unixNs"] / 1e9)))
            last = None
        else:
            buckets.append((le, count))
    family.add_metric(list(labels.values()), buckets, value["sum"])
    return family
