"""`memorypressure-operator check`: whether all of it works together; what `helm test` runs. Reads only."""

import datetime as dt
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from memorypressure_operator.api import Api, own_path
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.paging import listed

DEFAULT_GRANT_SECONDS: Final = 900
MOST_NAMES: Final = 10
PAUSE_SECONDS: Final = 2.0
VIRTUAL: Final = (
    ("type", "virtual-kubelet"),
    ("eks.amazonaws.com/compute-type", "fargate"),
    ("liqo.io/type", "virtual-node"),
)
"""Labels of nodes that are no machines: the chart's agents stay off them."""

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    text: str


def run(
    api: Api,
    metrics_url: str,
    wait_seconds: float,
    write: Callable[[str], None] = print,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """0 as soon as all is well, 1 when it is not within the time; what was found last is printed."""
    end = clock() + wait_seconds
    while True:
        found = look(api, metrics_url, dt.datetime.now(dt.UTC))
        well = all(finding.ok for finding in found)
        if well or clock() >= end:
            break
        sleep(PAUSE_SECONDS)
    for finding in found:
        write(f"{'ok ' if finding.ok else 'NOT'} {finding.text}")
    return 0 if well else 1


def look(api: Api, metrics_url: str, now: dt.datetime) -> list[Finding]:
    """Everything, by what the API server and the operator's metrics say now."""
    found = []
    try:
        policies = _objects(api, own_path("memorypressurepolicies"))
        states = {state["metadata"]["name"]: state for state in _objects(api, own_path("nodememorystates"))}
        nodes = _objects(api, "/api/v1/nodes")
    except (ApiRefused, ApiUnreachable) as error:
        found.append(Finding(False, f"API server: {error}"))
    else:
        found += [*_policies(policies), _agents(nodes, states, policies, now), *_strays(nodes, states)]
    if metrics_url:
        found.append(_metrics(metrics_url))
    return found


def _objects(api: Api, path: str) -> list[Object]:
    return [json.loads(raw) for raw in listed(api, path)]


def _policies(policies: Iterable[Object]) -> list[Finding]:
    found = []
    for policy in policies:
        ready = _condition(policy, "Ready")
        name = f"policy {policy['metadata']['name']} in mode {policy['spec'].get('mode', 'DryRun')}"
        if ready.get("status") == "True":
            found.append(Finding(True, name))
        else:
            why = f"{ready.get('reason', 'no status yet')}: {ready.get('message', 'is the operator running?')}"
            found.append(Finding(False, f"{name}: {why}"))
    return found or [Finding(True, "no policy yet: nothing is decided")]


def _agents(
    nodes: Iterable[Object], states: Mapping[str, Object], policies: Iterable[Object], now: dt.datetime
) -> Finding:
    """Whether each node that is Ready, runs Linux and is no virtual one has reported within its `grantSeconds`."""
    grants = {each["metadata"]["name"]: each["spec"].get("limits", {}).get("grantSeconds") for each in policies}
    wanted = [node["metadata"]["name"] for node in nodes if _is_machine(node)]
    silent = []
    for name in wanted:
        state = states.get(name)
        if state is None:
            silent.append(f"{name} (no NodeMemoryState)")
            continue
        told = state.get("status", {}).get("lastReportTime")
        longest = grants.get(state["spec"].get("policyName")) or DEFAULT_GRANT_SECONDS
        if told is None:
            silent.append(f"{name} (never reported)")
        elif (now - dt.datetime.fromisoformat(told)).total_seconds() > longest:
            silent.append(f"{name} (last report {told})")
    more = f" and {len(silent) - MOST_NAMES} more" if len(silent) > MOST_NAMES else ""
    which = f"; not: {', '.join(silent[:MOST_NAMES])}{more}" if silent else ""
    return Finding(not silent, f"agents: {len(wanted) - len(silent)} of {len(wanted)} nodes report{which}")


def _strays(nodes: Iterable[Object], states: Mapping[str, Object]) -> list[Finding]:
    """States that somebody made by hand: those of the operator belong to their Node, and go with it."""
    names = {node["metadata"]["name"] for node in nodes}
    strays = sorted(n for n, state in states.items() if n not in names and not state["metadata"].get("ownerReferences"))
    if not strays:
        return []
    shown = " ".join(strays[:MOST_NAMES])
    return [
        Finding(True, f"{len(strays)} NodeMemoryStates of no node, nobody looks at them: kubectl delete nms {shown}")
    ]


def _is_machine(node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    if labels.get("kubernetes.io/os", "linux") != "linux" or any(labels.get(key) == value for key, value in VIRTUAL):
        return False
    return bool(_condition(node, "Ready").get("status") == "True")


def _condition(item: Object, kind: str) -> Object:
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})


def _metrics(url: str) -> Finding:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- the operator's own address
            text = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return Finding(False, f"metrics: {url}: {reason}")
    if "\nmemorypressure_operator_leader 1" not in text:
        return Finding(False, f"metrics: {url}: the operator does not hold the Lease yet")
    return Finding(True, f"metrics: {url}: the operator leads")
