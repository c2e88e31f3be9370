"""What was measured, for people: a Markdown page with tables, and a picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memorypressure_tools.scale.model import Line, fit, growth

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One figure of a result; `bar` holds up to 5,000 nodes, None where there is none.

    `line`: it is a cost that grows with the nodes. `own`: a cost of the operator alone, not of the API server with it,
    and so to grow no worse than linearly.
    """

    name: str
    unit: str
    get: Callable[[Result], float | None]
    bar: float | None = None
    line: bool = True
    own: bool = False


def _at(*path: str) -> Callable[[Result], float | None]:
    def get(result: Result) -> float | None:
        value: Any = result
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, int | float) else None

    return get


IDLE_WRITES = frozenset(("update leases", "patch nodememorystates"))
"""The Lease, and the renewal of grants: what a cluster in which nothing happens may cost the API server."""


def _other_idle_writes(result: Result) -> float | None:
    writes = (result.get("idle") or {}).get("writes")
    return None if writes is None else float(sum(n for name, n in writes.items() if name not in IDLE_WRITES))


ALL_TEXTS = {
    "disabled": "policy to Disabled",
    "enforced": "policy to Enforce",
    "labels away": "labels changed, no policy selects them",
    "labels back": "labels changed back",
    "dry run": "policy to DryRun",
    "deleted": "policy deleted",
}
FEW_TEXTS = {
    "created": "further policy created",
    "edited": "its mode edited",
    "labels away": "labels changed, back to the first policy",
    "labels back": "labels changed, to the further policy",
    "deleted": "further policy deleted",
}
QUANTITIES = (
    Quantity("resident memory, idle", "MiB", _at("idle", "rss_mib"), 160, own=True),
    Quantity("proportional memory (PSS), idle", "MiB", _at("idle", "pss_mib")),
    Quantity("resident memory, under load", "MiB", _at("load", "rss_mib"), 160, own=True),
    Quantity("highest resident memory so far, under load", "MiB", _at("load", "peak_rss_mib")),
    Quantity("start to synced", "s", _at("sync", "seconds"), 60),
    Quantity("CPU until synced", "s", _at("sync", "cpu_seconds"), own=True),
    Quantity("CPU idle, heartbeats included", "% of a core", _at("idle", "cpu_percent", "operator"), 3, own=True),
    Quantity("API writes a second, idle", "1/s", _at("idle", "writes_a_second")),
    Quantity("writes while idle, neither Lease nor grants", "in all", _other_idle_writes, 0, line=False),
    Quantity("status changes a second", "1/s", _at("load", "got_a_second"), line=False),
    Quantity("write to decision, p50", "ms", _at("load", "decision_ms", "p50_ms"), line=False),
    Quantity("write to decision, p99", "ms", _at("load", "decision_ms", "p99_ms"), 50, line=False),
    Quantity("write to decision, worst of all", "ms", _at("load", "decision_ms", "worst_ms"), line=False),
    Quantity("of which the API server's answer, p50", "ms", _at("load", "api_answer_ms", "p50_ms"), line=False),
    Quantity("of which the API server's answer, p99", "ms", _at("load", "api_answer_ms", "p99_ms"), line=False),
    Quantity("CPU under load", "% of a core", _at("load", "cpu_percent", "operator"), line=False),
    *(
        Quantity(f"{text}: all nodes", "s", _at("moves", "all", name, "seconds"), 60)
        for name, text in ALL_TEXTS.items()
    ),
    *(
        Quantity(f"{text}: 30 nodes", "s", _at("moves", "few", name, "seconds"), 2, line=False)
        for name, text in FEW_TEXTS.items()
    ),
    Quantity("other processes, start to synced", "% of a core", _at("sync", "cpu_percent", "others"), line=False),
    Quantity("other processes, idle", "% of a core", _at("idle", "cpu_percent", "others"), line=False),
    Quantity("other processes, under load", "% of a core", _at("load", "cpu_percent", "others"), line=False),
)
BAR_NODES = 5000
MOST_BEND = 1.2
"""A straight line bends by 1; what is more than a fifth above is no measurement's noise."""
FURTHER = (10_000, 20_000)


def above(results: Sequence[Result]) -> list[str]:
    """Bars that do not hold, as sentences; bars are for the sizes up to 5,000 nodes."""
    found = []
    for result in results:
        nodes = result["plan"]["nodes"]
        if nodes > BAR_NODES:
            continue
        for quantity in QUANTITIES:
            value = quantity.get(result)
            if quantity.bar is not None and value is not None and value > quantity.bar:
                found.append(
                    f"{nodes:,} nodes: {quantity.name}: {value:g} {quantity.unit}, the bar is {quantity.bar:g}"
                )
        for kind, texts in (("all", ALL_TEXTS), ("few", FEW_TEXTS)):
            for name, move in ((result.get("moves") or {}).get(kind) or {}).items():
                if move["seconds"] is None:
                    found.append(f"{nodes:,} nodes: {texts[name]}: not through when the measurement gave up")
    for quantity in QUANTITIES:
        bend = growth(*_points(quantity, results)) if quantity.own else None
        if bend is not None and bend > MOST_BEND:
            found.append(f"{quantity.name}: grows worse than linearly, it bends by {bend:.2f}")
    return found


def markdown(results: Sequence[Result], command: str, machine: Mapping[str, Any]) -> str:
    """The page. `results` in order of size."""
    sizes = [result["plan"]["nodes"] for result in results]
    plan = results[-1]["plan"]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [
        f"# The operator on {sizes[0]:,} to {sizes[-1]:,} nodes"
        if len(sizes) > 1
        else f"# The operator on {sizes[0]:,} nodes",
        "",
        f"Made by `{command}` on one machine ({facts}), which also ran etcd, the API server and the agents.",
        f"{plan['pods_a_node']} pods a node, policy `default` in mode {plan['mode']}; the operator is the real",
        "process, seen from outside: memory and CPU by /proc, writes by the audit log, decisions by its decision log.",
        "",
        "## Measured",
        "",
        "| | bar | " + " | ".join(f"{size:,} nodes" for size in sizes) + " |",
        "|---|---:|" + "---:|" * len(sizes),
    ]
    lines += [_row(quantity, results) for quantity in QUANTITIES]
    base = ", ".join(f"{result['baseline_rss_mib']:g}" for result in results)
    lines += [
        "",
        f"Baseline: an interpreter with the operator's libraries that does nothing has {base} MiB resident.",
        "Latencies are medians over one-second windows of each window's percentile, from the moment at which a report",
        "was due to be sent; the API server's own answer to that write is inside of them. Other processes of the",
        "machine (neither operator, API server, etcd nor agents) are shown because they disturb what is measured.",
        "",
        "## Growth",
        "",
        "Model: cost = base + slope x nodes, by least squares (weights 1/nodes). `bend` is the cost of a further",
        "node between the two largest sizes over that before them: 1 is a straight line, above 1 is worse than linear.",
        "",
        "| | base | per 1,000 nodes | residuals | bend | " + " | ".join(f"at {n:,}" for n in FURTHER) + " |",
        "|---|---:|---:|---:|---:|" + "---:|" * len(FURTHER),
    ]
    lines += [row for quantity in QUANTITIES if quantity.line for row in _fitted(quantity, results)]
    lines += [
        "",
        "The columns past the largest measured size are the line drawn on: nothing was measured. They hold as long",
        "as the pods a node stay what they were and the API server answers as it did.",
        "",
        "## Writes",
        "",
        "| nodes | while coming to rest | idle | under load |",
        "|---:|---|---|---|",
    ]
    for result in results:
        cells = [_writes(result.get(phase, {}).get("writes")) for phase in ("rest", "idle", "load")]
        lines.append(f"| {result['plan']['nodes']:,} | " + " | ".join(cells) + " |")
    problems = above(results)
    lines += ["", "## Bars", "", *(f"- **Missed**: {problem}." for problem in problems)]
    if not problems:
        lines.append("All hold.")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(quantity: Quantity, results: Sequence[Result]) -> str:
    bar = f"{quantity.bar:g}" if quantity.bar is not None else ""
    values = [quantity.get(result) for result in results]
    return f"| {quantity.name}, {quantity.unit} | {bar} | " + " | ".join(map(_number, values)) + " |"


def _points(quantity: Quantity, results: Sequence[Result]) -> tuple[list[float], list[float]]:
    pairs = [(result["plan"]["nodes"], quantity.get(result)) for result in results]
    known = [(float(size), value) for size, value in pairs if value is not None]
    return [size for size, _ in known], [value for _, value in known]


def _fitted(quantity: Quantity, results: Sequence[Result]) -> list[str]:
    sizes, values = _points(quantity, results)
    line: Line | None = fit(sizes, values)
    if line is None:
        return []
    residuals = ", ".join(f"{each:+.3g}" for each in line.residuals)
    bend = growth(sizes, values)
    further = " | ".join(_number(line.at(nodes)) for nodes in FURTHER)
    name = f"{quantity.name}, {quantity.unit}"
    shown = "-" if bend is None else f"{bend:.2f}"
    return [f"| {name} | {_number(line.base)} | {_number(1000 * line.slope)} | {residuals} | {shown} | {further} |"]


def _writes(writes: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted((writes or {}).items())) or "none"


def plot(results: Sequence[Result], path: Path) -> None:
    """The picture: size against memory, time to sync, CPU and latency, with the fitted lines and the bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    groups = (
        ("Memory", "MiB", ("resident memory, idle", "resident memory, under load", "proportional memory (PSS), idle")),
        ("Time", "seconds", ("start to synced", "CPU until synced", "policy to Disabled: all nodes")),
        ("CPU while idle, heartbeats included", "% of a core", ("CPU idle, heartbeats included",)),
        (
            "From an agent's write to the decision",
            "milliseconds",
            ("write to decision, p50", "write to decision, p99", "of which the API server's answer, p99"),
        ),
    )
    by_name = {quantity.name: quantity for quantity in QUANTITIES}
    for axis, (title, unit, names) in zip(panels.flat, groups, strict=True):
        bars = set()
        for number, name in enumerate(names):
            quantity = by_name[name]
            sizes, values = _points(quantity, results)
            axis.plot(sizes, values, "o" if quantity.line else "o-", color=f"C{number}", label=name)
            line = fit(sizes, values) if quantity.line else None
            if line is not None:
                ends = [0.0, max(sizes)]
                axis.plot(ends, [line.at(end) for end in ends], "-", color=f"C{number}", alpha=0.4)
            if quantity.bar is not None:
                bars.add(quantity.bar)
        for bar in bars:
            axis.axhline(bar, color="0.4", linestyle="--", linewidth=0.8)
            axis.annotate(f"bar {bar:g}", (0, bar), fontsize=8, va="bottom", color="0.4")
        axis.set_title(title)
        axis.set_xlabel("nodes (22 pods each)")
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
