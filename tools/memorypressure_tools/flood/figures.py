"""What many runs showed together, as a page of Markdown. Pure: documents in, text out."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from memorypressure_tools.flood.demo import timings

Document = Mapping[str, Any]

WITHOUT: Final = "no-policy"
WITH: Final = "enforced"
QUARTER: Final = 0.25
HALF_BACK_BAR_SECONDS: Final = 1.0


def _figure(name: str) -> Callable[[Document], float | None]:
    return lambda document: document.get(name)


def _of_reserve(name: str) -> Callable[[Document], float | None]:
    return lambda document: (document.get("reserve") or {}).get(name)


COMPARED: Final[Sequence[tuple[str, Callable[[Document], float | None], bool]]] = (
    ("worst stall of a bystander, s", _figure("worst_stall_seconds"), True),
    ("allocations that failed in interrupts", _figure("atomic_failures"), True),
    ("samples of 10 ms below half of min", _of_reserve("below_half"), False),
    ("samples of 10 ms below min", _of_reserve("below_min"), False),
    ("lowest free memory, % of min", _of_reserve("lowest_percent_of_min"), False),
    ("kernel OOM kills", _figure("kernel_oom_kills"), False),
)
"""What both loads are compared by: its name, how to read it, whether the quarter is a bar for it."""


SPANS: Final = (
    ("from the first sample below the line to the decision", "line_crossed_at", "decided_at"),
    ("from the first time the condition held (3 of 5 samples) to the decision", "condition_at", "decided_at"),
    ("from the decision to the write of `cgroup.kill`", "decided_at", "killed_at"),
)
"""Between two steps of a run: what is said of it, and the figures that it lies between."""


def cell(values: Sequence[float | None]) -> str:
    """The median, and the lowest and highest in brackets; how many runs had none."""
    there = sorted(value for value in values if value is not None)
    if not there:
        return "not seen"
    none = f"; {len(values) - len(there)} without" if len(there) < len(values) else ""
    return f"{median(there):.4g} ({there[0]:.4g} to {there[-1]:.4g}{none})"


def valid(documents: Sequence[Document], name: str) -> list[Document]:
    """The runs of that name that put the question."""
    return [each for each in documents if each["scenario"]["name"] == name and each["verdict"]["valid"]]


def page(documents: Sequence[Document], command: str) -> str:
    """The page over all runs given, void ones counted; ValueError where there is no valid run of either kind."""
    without, enforced = valid(documents, WITHOUT), valid(documents, WITH)
    if not without or not enforced:
        raise ValueError(f"{len(without)} valid runs without a policy and {len(enforced)} with one: both are needed")
    lines = [
        f"# A flood on a real node, with and without a policy, {documents[0]['began'][:10]}",
        "",
        *textwrap.wrap(_machine(documents[0], command), 120, break_on_hyphens=False),
        "",
        f"## From the line to the taint's end, {len(enforced)} runs",
        "",
        "| s since the flood's start | |",
        "|---|---|",
    ]
    steps = [dict(timings(dict(each))) for each in enforced]
    lines += [f"| {step} | {cell([each[step] for each in steps])} |" for step in steps[0]]
    back = cell([each["half_back_seconds"] for each in enforced])
    bar = _verdict(_median(enforced, _figure("half_back_seconds")), HALF_BACK_BAR_SECONDS, " s")
    lines += [
        "",
        "| s | | bar |",
        "|---|---|---|",
        *(f"| {what} | {cell([_between(begin, end, e) for e in enforced])} | |" for what, begin, end in SPANS),
        f"| from that write to half of the memory back | {back} | {bar} |",
        "",
        f"## The same load without a policy, {len(without)} runs",
        "",
        "| | no policy | policy | ratio of the medians | bar |",
        "|---|---|---|---|---|",
    ]
    for name, read, barred in COMPARED:
        one, other = _median(without, read), _median(enforced, read)
        ratio = other / one if one and other is not None else None
        bar = _verdict(ratio, QUARTER, "") if barred else ""
        shown = "" if ratio is None else f"{ratio:.2f}"
        lines.append(
            f"| {name} | {cell([read(e) for e in without])} | {cell([read(e) for e in enforced])} | {shown} | {bar} |"
        )
    lines += ["", "## All runs", "", "| began | run | outcome | why |", "|---|---|---|---|"]
    for each in documents:
        verdict = each["verdict"]
        kind = "" if verdict["valid"] else " (void)"
        lines.append(
            f"| {each['began']} | {each['scenario']['name']} | {verdict['outcome']}{kind} | {verdict['why']} |"
        )
    return "\n".join(lines) + "\n"


def _median(documents: Sequence[Document], read: Callable[[Document], float | None]) -> float | None:
    there = [value for each in documents if (value := read(each)) is not None]
    return median(there) if there else None


def _between(begin: str, end: str, document: Document) -> float | None:
    first, last = document.get(begin), document.get(end)
    return None if first is None or last is None else last - first


def _verdict(value: float | None, bar: float, unit: str) -> str:
    met = "not measured" if value is None else "holds" if value <= bar else "MISSED"
    return f"at most {bar:g}{unit}: {met}"


def _machine(document: Document, command: str) -> str:
    node, scenario = document["node"], document["scenario"]
    return (
        f"`{command}`. A machine with {document['machine']['cpus']} cores, shared with other work; the node is a"
        f" virtual machine without KVM: {node['memory_mib']} MiB, {node['cpus']} CPUs, Linux {node['kernel']},"
        f" {node['swap_mib']} MiB of swap at"
        f" {node['swap_bytes_per_second'] / 1e6:g} MB/s. A pod fills {scenario['hog_mib']} MiB, then"
        f" {scenario['frames_per_second']:,} frames a second of {scenario['payload_bytes']} bytes arrive for"
        f" {scenario['flood_seconds']} s. Agent in profile `KillFast` with real time; the policy acts at the line of"
        " the default policy's trigger `reserve`. Medians, in brackets the lowest and the highest run."
    )
