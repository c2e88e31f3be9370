"""Writes the Grafana dashboards of the chart (files/monitoring/dashboards/*.json); --check only compares."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = (
    Path(__file__).resolve().parent.parent / "charts/memory-pressure-operator/files/monitoring/dashboards"
)
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
AGENT: Final = 'job="memory-pressure-agent", cluster=~"$cluster"'
NODE: Final = f'{AGENT}, node=~"$node"'
OPERATOR: Final = 'job="memory-pressure-operator", cluster=~"$cluster"'
BOTH: Final = 'job=~"memory-pressure-.*", cluster=~"$cluster"'
HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: `queries` are pairs of expression and legend; `kind` is Grafana's; `options` go into its fieldConfig."""

    title: str
    text: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 12
    logarithmic: bool = False

    def json(self, number: int, column: int, row: int) -> dict[str, Any]:
        """The panel at its place."""
        custom: dict[str, Any] = {}
        if self.kind == "timeseries":
            custom = {"scaleDistribution": {"type": "log", "log": 2} if self.logarithmic else {"type": "linear"}}
        instant = self.kind in ("stat", "table", "bargauge")
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": SOURCE,
            "gridPos": {"h": HEIGHT, "w": self.width, "x": column, "y": row},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0, "custom": custom}, "overrides": []},
            "options": {},
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": SOURCE,
                    "expr": expression,
                    "legendFormat": legend,
                    "instant": instant,
                    "range": not instant,
                }
                for index, (expression, legend) in enumerate(self.queries)
            ],
        }


def _one(expression: str, legend: str = "") -> tuple[tuple[str, str], ...]:
    return ((expression, legend),)


def _quantile(share: float, histogram: str, selector: str) -> str:
    rates = f"rate({histogram}_bucket{{{selector}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le) ({rates}))"


BELOW: Final = "Share of the time in which a zone was below half of its min watermark: there atomic allocations fail."

FLEET: Final = (
    Panel(
        "Nodes under pressure",
        "Nodes on which a trigger of the policy in force is active now.",
        "short",
        _one(f"sum(max by (cluster, node) (memorypressure_trigger_active{{{AGENT}}}))"),
        "stat",
        6,
    ),
    Panel(
        "Nodes with an agent",
        "Agents that Prometheus reaches; a node without one is neither watched nor helped.",
        "short",
        _one(f"sum(up{{{AGENT}}})"),
        "stat",
        6,
    ),
    Panel(
        "Nodes tainted",
        "Nodes that carry the operator's taint.",
        "short",
        _one(f"sum(memorypressure_operator_nodes_tainted{{{OPERATOR}}})"),
        "stat",
        6,
    ),
    Panel(
        "Policy conflicts",
        "Nodes on which two policies of different modes are tied; they run as DryRun.",
        "short",
        _one(f"sum(memorypressure_operator_policy_conflicts{{{OPERATOR}}})"),
        "stat",
        6,
    ),
    Panel(
        "Time below the reserve, by node",
        BELOW,
        "percentunit",
        _one(
            "max by (node) (rate("
            f'memorypressure_zone_below_line_seconds_total{{{AGENT}, line="AtomicReserve"}}[$__rate_interval])) > 0',
            "{{node}}",
        ),
        "heatmap",
    ),
    Panel(
        "Nodes nearest to min",
        "Free memory of the worst zone over its min watermark; 1 is the watermark itself, 0.5 the reserve's line.",
        "short",
        _one(
            f"bottomk(10, min by (node) (memorypressure_zone_free_bytes{{{AGENT}}} / ignoring(watermark) "
            f'(memorypressure_zone_watermark_bytes{{{AGENT}, watermark="min"}} > 0)))',
            "{{node}}",
        ),
        "bargauge",
    ),
    Panel(
        "Actions",
        "Taints, evictions and kills an hour, by mode: those in DryRun were not made.",
        "short",
        _one(
            f"sum by (action, mode, result) (increase(memorypressure_actions_total{{{BOTH}}}[1h]))",
            "{{action}} {{mode}} {{result}}",
        ),
    ),
    Panel(
        "Budget left",
        "Evictions, and refills of kill allowances, that are left in the running hour.",
        "short",
        _one(f"memorypressure_operator_budget_remaining{{{OPERATOR}}}", "{{policy}} {{action}}"),
    ),
    Panel(
        "Kills that nodes may make",
        "What is granted now, and what the worst hour can see.",
        "short",
        _one(f"memorypressure_operator_exposure_kills{{{OPERATOR}}}", "{{policy}} {{bound}}"),
    ),
    Panel(
        "Versions",
        "Agents and operators by version.",
        "short",
        _one(f"count by (component, version) (memorypressure_build_info{{{BOTH}}})", "{{component}} {{version}}"),
        "table",
    ),
)

ONE_NODE: Final = (
    Panel(
        "Free memory and lines, by zone",
        "Free memory of each zone with its watermarks and the line of the reserve for atomic allocations.",
        "bytes",
        (
            (f"memorypressure_zone_free_bytes{{{NODE}}}", "free {{numa_node}}/{{zone}}"),
            (f"memorypressure_zone_watermark_bytes{{{NODE}}}", "{{watermark}} {{numa_node}}/{{zone}}"),
            (f"memorypressure_zone_line_bytes{{{NODE}}}", "{{line}} {{numa_node}}/{{zone}}"),
        ),
        width=24,
        logarithmic=True,
    ),
    Panel(
        "Time below a line",
        BELOW,
        "percentunit",
        _one(
            f"rate(memorypressure_zone_below_line_seconds_total{{{NODE}}}[$__rate_interval])",
            "{{line}} {{numa_node}}/{{zone}}",
        ),
    ),
    Panel(
        "Stalls on memory",
        "Share of the time in which some or all runnable tasks waited for memory (PSI).",
        "percentunit",
        _one(f"rate(memorypressure_psi_stalled_seconds_total{{{NODE}}}[$__rate_interval])", "{{scope}} {{kind}}"),
    ),
    Panel(
        "Direct reclaim",
        "Allocations that had to reclaim memory themselves. Ordinary pressure raises it as much as a flood does.",
        "ops",
        _one(f"rate(memorypressure_direct_reclaim_stalls_total{{{NODE}}}[$__rate_interval])", "{{zone}}"),
    ),
    Panel(
        "Failed page allocations",
        "Told by the kernel log, which leaves out most of them under load; only with agent.kernelLog.",
        "ops",
        _one(f"rate(memorypressure_page_allocation_failures_total{{{NODE}}}[$__rate_interval])", "atomic {{atomic}}"),
    ),
    Panel(
        "Triggers",
        "1 while a trigger is active.",
        "bool_on_off",
        _one(f"memorypressure_trigger_active{{{NODE}}}", "{{trigger}}"),
        "state-timeline",
    ),
    Panel(
        "Kills, and the kernel's",
        "Pods that the agent killed, and processes that the kernel's own OOM killer killed, an hour.",
        "short",
        (
            (f'increase(memorypressure_actions_total{{{NODE}, action="Kill"}}[1h])', "agent {{mode}} {{result}}"),
            (f"increase(memorypressure_kernel_oom_kills_total{{{NODE}}}[1h])", "kernel"),
        ),
    ),
    Panel(
        "Memory that came back",
        "Memory freed by kills, an hour.",
        "bytes",
        _one(f"increase(memorypressure_freed_bytes_total{{{NODE}}}[1h])", "{{action}}"),
    ),
    Panel(
        "The sentinel's loop",
        "Time between two samples, and how late the loop woke up (99th percentile).",
        "s",
        (
            (f"memorypressure_agent_loop_period_seconds{{{NODE}}}", "period"),
            (_quantile(0.99, "memorypressure_agent_loop_lag_seconds", NODE), "lag p99"),
        ),
    ),
    Panel(
        "Sources that cannot be read",
        "Sources of figures that should be there and are not; what depends on them is unknown, and unknown never acts.",
        "short",
        _one(f"memorypressure_agent_source_up{{{NODE}}} == 0", "{{source}}"),
        "table",
    ),
)

POLICY: Final = (
    Panel(
        "Would have acted, and acted",
        "Actions an hour of the policy, in DryRun and in Enforce.",
        "short",
        _one(
            "sum by (policy, action, mode) "
            f'(increase(memorypressure_actions_total{{{BOTH}, policy=~"$policy", result=~"Success|Incomplete"}}[1h]))',
            "{{policy}} {{action}} {{mode}}",
        ),
    ),
    Panel(
        "Held back",
        "How often a due action began to be held back, an hour, by reason.",
        "short",
        _one(
            f"sum by (action, reason) (increase(memorypressure_actions_denied_total{{{BOTH}}}[1h])) > 0",
            "{{action}} {{reason}}",
        ),
    ),
    Panel(
        "From the decision to the memory back",
        "Median and 99th percentile of kills, from the decision to the empty cgroup.",
        "s",
        tuple(
            (_quantile(share, "memorypressure_action_latency_seconds", AGENT), name)
            for share, name in ((0.5, "median"), (0.99, "p99"))
        ),
    ),
    Panel(
        "From a report to the operator's act",
        "Median and 99th percentile, from hearing of a node's pressure to the first taint or eviction.",
        "s",
        tuple(
            (_quantile(share, "memorypressure_operator_reaction_seconds", OPERATOR), name)
            for share, name in ((0.5, "median"), (0.99, "p99"))
        ),
    ),
    Panel(
        "Nodes of the policy",
        "How many nodes the policy selects, governs, hears of, sees under pressure and has armed.",
        "short",
        _one(f'memorypressure_operator_nodes{{{OPERATOR}, policy=~"$policy"}}', "{{policy}} {{state}}"),
        width=24,
    ),
)


def _variable(name: str, query: str, *, several: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "includeAll": several,
        "multi": several,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"} if several else {},
    }


def _variables(*names: str) -> list[dict[str, Any]]:
    known = {
        "cluster": _variable("cluster", "label_values(memorypressure_build_info, cluster)"),
        "node": _variable("node", f"label_values(memorypressure_build_info{{{AGENT}}}, node)"),
        "policy": _variable("policy", f"label_values(memorypressure_operator_nodes{{{OPERATOR}}}, policy)"),
    }
    source = {"name": "datasource", "label": "datasource", "type": "datasource", "query": "prometheus", "current": {}}
    return [source, *(known[name] for name in names)]


def _placed(panels: tuple[Panel, ...]) -> Iterator[dict[str, Any]]:
    column = row = 0
    for number, panel in enumerate(panels, 1):
        if column + panel.width > 24:
            column, row = 0, row + HEIGHT
        yield panel.json(number, column, row)
        column += panel.width


def dashboard(name: str, title: str, panels: tuple[Panel, ...], *variables: str) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    return {
        "uid": f"memory-pressure-{name}",
        "title": f"Memory pressure: {title}",
        "tags": ["memory-pressure"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables(*variables)},
        "annotations": {"list": []},
        "links": [
            {"title": "others", "type": "dashboards", "tags": ["memory-pressure"], "asDropdown": True, "keepTime": True}
        ],
        "panels": list(_placed(panels)),
    }


def texts() -> dict[Path, str]:
    """Path and content of each file."""
    made = {
        "fleet": dashboard("fleet", "fleet", FLEET, "cluster"),
        "node": dashboard("node", "node", ONE_NODE, "cluster", "node"),
        "policy": dashboard("policy", "policies", POLICY, "cluster", "policy"),
    }
    return {DIRECTORY / f"{name}.json": json.dumps(value, indent=2) + "\n" for name, value in made.items()}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 with --check where a file differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file differs")
    check = parser.parse_args(arguments).check
    differ = False
    for path, text in texts().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differ = True
        if check:
            print(f"{path}: not what tools/dashboards.py makes; run make generate", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
