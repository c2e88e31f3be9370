"""The node's metrics: a golden exposition, names and labels, what is left out, how many series there are."""

import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.reporting import (
    BOOT_NS,
    INCARNATION,
    Object,
    eventually,
    link_state,
    sentinel_status,
    source,
    trigger,
    under_pressure,
    view,
    zone,
)
from support.sentinellab import candidate, grant_for
from support.sentinellab import orders as orders_of

from memorypressure.reasons import Reason
from memorypressure_agent.kernel_log.failures import Failures
from memorypressure_agent.reporter.endpoint import MOST_REQUESTS, Health, metrics, probes, serve
from memorypressure_agent.reporter.kernel_log import Reading
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.metrics import DENIALS, NodeCollector, new_registry
from memorypressure_agent.reporter.view import View
from memorypressure_agent.sentinel.counters import KILL_BUCKETS_SECONDS, Lag

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "metrics" / "agent-two-nodes.txt"
REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/agent-metrics.md"
ORDERS = orders_of(
    candidate("pod-1", "secret-pod-name"), policy_name="default", grant=grant_for(INCARNATION, ceiling=2)
)
KERNEL_LOG = Reading(Failures(atomic=3, other=1, unknown=769))

MAIN = {
    "memorypressure_zone_free_bytes": {"numa_node", "zone"},
    "memorypressure_zone_managed_bytes": {"numa_node", "zone"},
    "memorypressure_zone_lowmem_reserve_bytes": {"numa_node", "zone"},
    "memorypressure_zone_watermark_bytes": {"numa_node", "zone", "watermark"},
    "memorypressure_zone_line_bytes": {"numa_node", "zone", "line"},
    "memorypressure_zone_below_line_seconds_total": {"numa_node", "zone", "line"},
    "memorypressure_zone_below_line_episodes_total": {"numa_node", "zone", "line"},
    "memorypressure_psi_stalled_seconds_total": {"scope", "kind"},
    "memorypressure_direct_reclaim_stalls_total": {"zone"},
    "memorypressure_kernel_oom_kills_total": set(),
    "memorypressure_page_allocation_failures_total": {"atomic"},
    "memorypressure_trigger_active": {"policy", "trigger"},
    "memorypressure_actions_total": {"policy", "action", "mode", "result"},
    "memorypressure_actions_denied_total": {"action", "reason"},
    "memorypressure_action_latency_seconds_bucket": {"action", "le"},
    "memorypressure_freed_bytes_total": {"action"},
    "memorypressure_agent_source_up": {"source"},
    "memorypressure_agent_capability": {"capability"},
    "memorypressure_agent_source_absent": {"source", "reason"},
    "memorypressure_agent_loop_lag_seconds_bucket": {"le"},
    "memorypressure_agent_policy_sync_timestamp_seconds": set(),
    "memorypressure_agent_policy_info": {"policy", "mode"},
    "memorypressure_build_info": {"version", "component"},
}
"""What docs/reference/agent-metrics.md lists, and the labels."""
LABELS = {
    "numa_node",
    "zone",
    "watermark",
    "line",
    "scope",
    "kind",
    "policy",
    "trigger",
    "action",
    "mode",
    "result",
} | {
    "reason",
    "source",
    "version",
    "component",
    "capability",
    "le",
    "atomic",
}


def registry_of(seen: View, link: LinkState, log: Reading | None = KERNEL_LOG) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: seen, lambda: link, None if log is None else lambda: log))
    return registry


def exposition(seen: View, link: LinkState | None = None, log: Reading | None = KERNEL_LOG) -> str:
    return generate_latest(registry_of(seen, link or link_state(ORDERS), log)).decode()


def series(text: str) -> dict[str, float]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_exposition_of_a_fixed_status_is_the_golden_one() -> None:
    text = exposition(view(under_pressure()))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "if that is wanted: UPDATE_GOLDEN=1, and look at the difference"


@pytest.mark.parametrize(("name", "labels"), MAIN.items())
def test_the_main_metrics_of_the_api_are_there_with_their_labels(name: str, labels: set[str]) -> None:
    found = [sample for family in parse_text(exposition(view())) for sample in family.samples if sample.name == name]
    assert found
    assert {frozenset(sample.labels) for sample in found} == {frozenset(labels)}


def test_the_reference_names_every_metric_and_no_other() -> None:
    table = [line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| `memory")]
    documented = {name for line in table for name in re.findall(r"`(memorypressure_\w+)`", line.split("|")[1])}
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in parse_text(exposition(view(under_pressure())))
    }
    assert documented == exported


def test_failed_allocations_are_exported_where_the_kernel_log_is_read_only() -> None:
    names = ("page_allocation_failures", 'source="kernel_log"')
    assert not [name for name in names if name in exposition(view(), log=None)]
    unreadable = exposition(view(), log=Reading(None, "the kernel log cannot be read: Operation not permitted"))
    assert 'memorypressure_agent_source_up{source="kernel_log"} 0.0' in unreadable
    assert "page_allocation_failures" not in unreadable
    read = exposition(view(status={}))
    assert 'memorypressure_agent_source_up{source="kernel_log"} 1.0' in read
    assert 'memorypressure_page_allocation_failures_total{atomic="unknown"} 769.0' in read


def test_both_formats_are_read_by_their_parsers_and_say_the_same() -> None:
    registry = registry_of(view(under_pressure()), link_state(ORDERS))
    classic = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(generate_latest(registry).decode())
        for sample in family.samples
    }
    text = generate_openmetrics(registry).decode()
    assert text.endswith("# EOF\n")
    modern = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(text)
        for sample in family.samples
    }
    assert classic == modern
    assert len(classic) > 100


def _families(seen: View) -> Iterator[Any]:
    yield from parse_text(exposition(seen))


@pytest.mark.parametrize("status", [sentinel_status(), under_pressure(), {}], ids=["calm", "pressed", "silent"])
def test_names_units_and_labels_follow_the_rules(status: Object) -> None:
    for family in _families(view(status)):
        assert re.fullmatch(r"memorypressure_[a-z0-9_]*[a-z0-9]", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert "node_" not in {label for sample in family.samples for label in sample.labels}
        assert not re.search(r"(milliseconds|minutes|hours|percent|kilobytes|mb|count)$", family.name), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert not sample.name.endswith("_created")
            assert sample.labels.keys() <= LABELS, sample
            assert family.type != "gauge" or sample.value >= 0, sample
            if family.name.endswith("_info"):
                assert sample.value == 1


def test_no_pod_is_named_anywhere() -> None:
    pressed = {**under_pressure(), "topPods": [{"uid": "uid-77", "reliefBytes": 1, "overRequest": True}]}
    text = exposition(view(pressed))
    assert "secret-pod-name" not in text
    assert "uid-77" not in text
    assert "pod-1" not in text


def test_a_machine_with_two_nodes_has_at_most_two_hundred_series_those_of_the_process_included() -> None:
    full = under_pressure(
        zones=[zone(0, "DMA32", 2048), *(zone(node, name, 4096) for node in (0, 1) for name in ("Normal", "Movable"))],
        triggers=[trigger(name, "Active") for name in ("reserve", "starving", "scarce", "exhausted", "stalled")],
        psi={
            scope: {kind: {"avg10": 0.0, "totalSeconds": 1.0} for kind in ("some", "full")}
            for scope in ("node", "pods")
        },
    )
    full |= {
        "killLatency": Lag(KILL_BUCKETS_SECONDS).to_json(),
        "loop": {"periodSeconds": 0.01, "lag": Lag().to_json()},
    }
    registry = new_registry(NodeCollector(lambda: view(full), lambda: link_state(ORDERS)))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert 140 < len(lines) <= 200


def test_counters_of_actions_are_there_as_0_before_the_first_and_keep_the_policy_they_were_of() -> None:
    calm = sentinel_status()["counters"] | {"ended": [], "refusals": {}}
    found = series(exposition(view(sentinel_status(counters=calm))))
    actions = {name: value for name, value in found.items() if name.startswith("memorypressure_actions_total")}
    assert len(actions) == 4
    assert set(actions.values()) == {0}
    assert {value for name, value in found.items() if "actions_denied" in name} == {0}
    found = series(exposition(view()))
    labels = 'action="Kill",mode="DryRun",policy="before",result="Success"'
    assert found[f"memorypressure_actions_total{{{labels}}}"] == 4
    labels = 'action="Kill",mode="Enforce",policy="default",result="Failed"'
    assert found[f"memorypressure_actions_total{{{labels}}}"] == 1


def test_the_latency_of_the_last_kill_names_its_action_as_an_exemplar() -> None:
    text = generate_openmetrics(registry_of(view(), link_state(ORDERS))).decode()
    samples = [sample for family in parse_openmetrics(text) for sample in family.samples if sample.exemplar]
    (sample,) = samples
    assert (sample.name, sample.labels["le"]) == ("memorypressure_action_latency_seconds_bucket", "0.25")
    assert sample.exemplar is not None
    assert (sample.exemplar.labels, sample.exemplar.value) == ({"action_id": "0123abcd-a2"}, 0.125)
    assert float(sample.exemplar.timestamp or 0) == 1_799_999_999.5
    before_the_first = sentinel_status(killLatency=sentinel_status()["killLatency"] | {"last": None})
    assert "action_id" not in generate_openmetrics(registry_of(view(before_the_first), link_state(ORDERS))).decode()
    assert "action_id" not in exposition(view()), "the plain text has no room for it"


def test_only_due_actions_that_were_held_back_count_as_denied() -> None:
    denied = {name: value for name, value in series(exposition(view())).items() if "actions_denied_total" in name}
    assert denied['memorypressure_actions_denied_total{action="Kill",reason="Cooldown"}'] == 2
    assert not [name for name in denied if "StepNotDue" in name]
    assert len(denied) == len(DENIALS)
    assert Reason.NO_PRESSURE not in DENIALS


@pytest.mark.parametrize(
    ("status", "gone"),
    [
        (sentinel_status(psi={"node": None, "pods": None}), "memorypressure_psi_stalled_seconds_total{"),
        (sentinel_status(zones=None), "memorypressure_zone_free_bytes{"),
        (sentinel_status(triggers=[]), "memorypressure_trigger_active{"),
        (sentinel_status(triggers=[trigger("reserve", "Unknown")]), "memorypressure_trigger_active{"),
        (sentinel_status(vmstat=None), "memorypressure_direct_reclaim_stalls_total{"),
        (sentinel_status(vmstat=None), "\nmemorypressure_kernel_oom_kills_total "),
    ],
)
def test_what_was_not_read_is_left_out_and_not_0(status: Object, gone: str) -> None:
    assert gone in exposition(view())
    assert gone not in exposition(view(status))


@pytest.mark.parametrize(
    "seen",
    [
        view({}),
        view({}, grants=None, problem="no journal"),
        view(boot_ns=BOOT_NS + 60_000_000_000, unchanged_seconds=60),
    ],
    ids=["no status", "no journal", "old status"],
)
def test_a_silent_sentinel_leaves_its_figures_out_and_says_so(seen: View) -> None:
    found = series(exposition(seen))
    assert found['memorypressure_agent_source_up{source="sentinel"}'] == 0
    assert found['memorypressure_agent_source_up{source="apiserver"}'] == 1
    assert not [name for name in found if name.startswith(("memorypressure_zone", "memorypressure_actions"))]


def test_what_the_sentinel_can_do_here_is_1_and_what_it_cannot_is_0() -> None:
    found = series(exposition(view()))
    assert found['memorypressure_agent_capability{capability="CgroupKill"}'] == 1
    assert found['memorypressure_agent_capability{capability="ProcessMrelease"}'] == 0


def test_what_cannot_be_read_is_0_and_what_the_machine_does_not_have_is_named_with_its_reason() -> None:
    status = sentinel_status()
    status["sources"][0] = source("boost", failed="Unreadable", message="no")
    found = series(exposition(view(status), link_state(connected=False)))
    up = {name: value for name, value in found.items() if name.startswith("memorypressure_agent_source_up{")}
    assert up['memorypressure_agent_source_up{source="zoneinfo"}'] == 1
    assert up['memorypressure_agent_source_up{source="boost"}'] == 0
    assert up['memorypressure_agent_source_up{source="apiserver"}'] == 0
    assert not [name for name in up if "psi_pods" in name or "swap" in name]
    assert found['memorypressure_agent_source_absent{reason="NotPresent",source="psi_pods"}'] == 1
    assert found['memorypressure_agent_source_absent{reason="NoSwap",source="swap"}'] == 1
    assert not [name for name in found if name.startswith("memorypressure_agent_policy_info{")]


def test_counters_of_the_kernel_have_the_zones_names_of_zoneinfo() -> None:
    found = series(exposition(view()))
    stalls = {name: value for name, value in found.items() if "direct_reclaim" in name}
    assert stalls == {
        f'memorypressure_direct_reclaim_stalls_total{{zone="{name}"}}': count
        for name, count in (("DMA", 0), ("DMA32", 3), ("Normal", 41), ("Movable", 1200))
    }
    assert found["memorypressure_kernel_oom_kills_total"] == 2
    old = series(exposition(view(sentinel_status(vmstat={"allocstall": 7}))))
    assert old['memorypressure_direct_reclaim_stalls_total{zone="all"}'] == 7
    assert "memorypressure_kernel_oom_kills_total" not in old


def test_kills_left_of_a_grant_are_shown() -> None:
    assert series(exposition(view()))["memorypressure_agent_grant_kills"] == 2
    assert series(exposition(view(), link_state()))["memorypressure_agent_grant_kills"] == 0


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, bool]]]:
    state = {"live": True, "ready": False}
    registry = new_registry(NodeCollector(view, lambda: link_state(ORDERS)))
    answers = probes(
        lambda: Health(state["live"], ("last round 0.1 s ago",)),
        lambda: Health(state["ready"], ("ok API server", "NOT status written: never")),
    )
    server = serve("127.0.0.1", 0, {**metrics(registry), **answers})
    yield f"http://127.0.0.1:{server.server_port}", state
    server.shutdown()
    server.server_close()


def ask(url: str, accept: str = "") -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=5) as found:
            return found.status, found.headers["Content-Type"], found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_probes_answer_by_status_code_and_say_what_is_not_well(served: tuple[str, dict[str, bool]]) -> None:
    url, state = served
    assert ask(f"{url}/healthz")[::2] == (200, "last round 0.1 s ago\n")
    assert ask(f"{url}/readyz")[::2] == (503, "ok API server\nNOT status written: never\n")
    state.update(live=False, ready=True)
    assert ask(f"{url}/livez")[0] == 503
    assert ask(f"{url}/readyz")[0] == 200
    assert ask(f"{url}/")[::2] == (404, "here are: /metrics /healthz /livez /readyz\n")


def test_metrics_are_served_in_the_format_that_is_asked_for(served: tuple[str, dict[str, bool]]) -> None:
    url, _ = served
    status, kind, text = ask(f"{url}/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert "process_resident_memory_bytes" in text
    status, kind, text = ask(f"{url}/metrics", "application/openmetrics-text; version=1.0.0")
    assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
    assert list(parse_openmetrics(text))


def test_connections_that_say_nothing_take_only_their_share_of_threads(served: tuple[str, dict[str, bool]]) -> None:
    url, _ = served
    port = int(url.rpartition(":")[2])
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(MOST_REQUESTS)]
    beyond = socket.create_connection(("127.0.0.1", port), timeout=5)
    assert beyond.recv(1) == b""  # closed at once
    assert threading.active_count() <= before + MOST_REQUESTS
    for each in (*silent, beyond):
        each.close()

    def answers() -> bool:
        try:
            return ask(f"{url}/healthz")[0] == 200
        except OSError:
            return False

    eventually(answers, "room again")
