"""`make demo-cluster`: a real flood on a real node, without a policy and with one, live, and a table of both."""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from memorypressure_tools import toolcache
from memorypressure_tools.arguments import whole_number
from memorypressure_tools.cluster.__main__ import ERRORS
from memorypressure_tools.cluster.cluster import Cluster, ClusterOptions, prepare
from memorypressure_tools.flood import load
from memorypressure_tools.flood.observer import TAINT, Change, Observer
from memorypressure_tools.flood.run import FloodRun, Result, Scenario
from memorypressure_tools.flood.series import Series, TooManyVoidError, repeat
from memorypressure_tools.flood.verdict import Outcome
from memorypressure_tools.flood.workloads import deploy, end_load, reset

NODE: Final = load.NODE
GUARDED: Final = "web"
APPS: Final = ("hog", "stream", "sink", GUARDED)
POLICIES: Final = "/apis/memorypressure.dev/v1alpha1/memorypressurepolicies"
STATE: Final = f"/apis/memorypressure.dev/v1alpha1/nodememorystates/{NODE}"
GRANT_SECONDS: Final = 150.0
TAINT_LIFTED_SECONDS: Final = 180.0
GONE_SECONDS: Final = 180.0
RUNS: Final = whole_number(1, 1000)
MOST_VOID: Final = 3
"""For each valid run that is wanted."""
FIRST_COOLDOWN_SECONDS: Final = 60.0
"""A sentinel with a new journal kills nothing for so long: the one before it may have been in a cool-down."""


class NotSeenError(Exception):
    """Something that the demo promises did not come."""


def main(arguments: list[str] | None = None) -> int:
    """0 when all of it was seen; 1 when not; 3 after a list of what this machine lacks."""
    parser = argparse.ArgumentParser(prog="make demo-cluster", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, choices=[1, 2], help="two: the operator runs on the second")
    parser.add_argument(
        "--hog",
        type=whole_number(64, 65536),
        default=Scenario(name="").hog_mib,
        metavar="MIB",
        help="what the pod fills; default: %(default)s",
    )
    parser.add_argument(
        "--runs", type=RUNS, metavar="N", default=1, help="valid runs of each kind; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    lacking = prepare()
    if lacking:
        print("".join(f"demo-cluster: missing: {each}\n" for each in lacking), end="", file=sys.stderr)
        return toolcache.EXIT_MISSING
    try:
        with Cluster(ClusterOptions(nodes=options.nodes)) as cluster:
            _tell(cluster, options.hog, options.runs)
    except toolcache.ToolMissingError as error:
        print(f"demo-cluster: missing: {error}", file=sys.stderr)
        return toolcache.EXIT_MISSING
    except (*ERRORS, NotSeenError, TooManyVoidError) as error:
        print(f"demo-cluster: FAILED: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _tell(cluster: Cluster, hog_mib: int, runs: int) -> None:
    ready_at = time.monotonic()
    specs = {
        "hog": load.hog_spec(NODE, hog_mib),
        "stream": load.stream_spec(NODE),
        "sink": load.sink_spec(NODE),
        GUARDED: load.idle_spec(NODE),
    }
    deploy(cluster, [*(load.deployment(name, spec) for name, spec in specs.items()), load.budget(GUARDED)], APPS)
    _say(f"the load waits on {NODE}: {', '.join(APPS)}; a budget forbids to disrupt {GUARDED}")
    cluster.plane.kubectl("delete", "mpp", "default")
    without, enforced = Series("without a policy"), Series("with the policy")
    for wanted in range(1, runs + 1):  # in turns: what the machine does meanwhile is the same for both
        most_void = MOST_VOID * wanted
        _say("no policy: the flood as the kernel and the kubelet leave it")
        unguarded = functools.partial(_run, cluster, "no-policy", hog_mib)
        repeat(without.name, unguarded, wanted=wanted, most_void=most_void, series=without)
        time.sleep(max(0.0, ready_at + FIRST_COOLDOWN_SECONDS - time.monotonic()))
        cluster.plane.kubectl("apply", "-f", "-", stdin=json.dumps(load.policy()))
        cluster.wait_for(f"an allowance to kill on {NODE}", lambda: _allowance(cluster), GRANT_SECONDS)
        policies = cluster.plane.kubectl("get", "mpp").stdout
        _say(f"kubectl apply: policy flood, mode Enforce; {NODE} may kill: {policies}")
        guarded = functools.partial(_enforced, cluster, hog_mib)
        repeat(enforced.name, guarded, wanted=wanted, most_void=most_void, series=enforced)
        if wanted < runs:
            cluster.plane.kubectl("delete", "mpp", "flood")
    _print_events(cluster)
    print(table(without, enforced), flush=True)
    failed = [each.verdict.why for each in enforced.valid if each.verdict.outcome is not Outcome.KILLED]
    if failed:
        raise NotSeenError("; ".join(failed))


def _allowance(cluster: Cluster) -> bool:
    state = cluster.get(STATE) or {}
    grant, lease = state.get("spec", {}).get("grant"), state.get("status", {}).get("lease", {})
    return bool(grant and grant["killsCeiling"] > lease.get("killsTotal", 0))


def _run(cluster: Cluster, name: str, hog_mib: int, observer: Observer | None = None) -> Result:
    reset(cluster, APPS)
    return FloodRun(cluster, NODE, Scenario(name=name, hog_mib=hog_mib), observer).run()


def _enforced(cluster: Cluster, hog_mib: int) -> Result:
    """A run with what comes after it: the pod evicted, kept away by the taint, the taint lifted."""
    began = time.time()

    def told(change: Change) -> None:
        if change.what.split()[0] in {"taint", "pod", "action", "event", "triggers"}:
            print(f"  {change.at - began:7.2f} s  {change.what[:60]:60} {change.now[:110]}", flush=True)

    cluster.wait_for(f"an allowance to kill on {NODE}", lambda: _allowance(cluster), GRANT_SECONDS)
    with Observer(cluster.plane.admin, NODE, told=told) as observer:
        result = _run(cluster, "enforced", hog_mib, observer)
        end_load(cluster.nodes[NODE].shell)
        if result.valid:
            cluster.wait_for("the taint to be lifted", lambda: observer.last("taint") == "none", TAINT_LIFTED_SECONDS)
            killed = f"pod {_killed_pod(result.document)}"
            cluster.wait_for(f"the killed {killed} to be gone", lambda: observer.last(killed) is None, GONE_SECONDS)
        result.note(observer.changes)
    return result


def _print_events(cluster: Cluster) -> None:
    columns = "TIME:.eventTime,REASON:.reason,KIND:.regarding.kind,NAME:.regarding.name,NOTE:.note"
    ours = "reportingController=memorypressure.dev/operator"
    words = ["get", "events.events.k8s.io", "-A", f"--field-selector={ours}", "-o", f"custom-columns={columns}"]
    print(f"$ kubectl {' '.join(words)}\n{cluster.plane.kubectl(*words).stdout}$ kubectl get mpp,nms")
    print(cluster.plane.kubectl("get", "mpp,nms").stdout, flush=True)


def _killed_pod(document: dict[str, Any]) -> str:
    """The name of the pod that the node says it killed; "" for none."""
    kills = (each["pod"]["name"] for each in document.get("actions", ()) if each["action"] == "Kill")
    return next(kills, "")


def timings(document: dict[str, Any]) -> list[tuple[str, float | None]]:
    """What was seen of an enforced run, each with its time in seconds since the flood's start."""
    killed = document.get("killed_at")
    back = document.get("half_back_seconds")

    def seen(what: str, text: str = "") -> float | None:
        for change in document["changes"]:
            if change["at"] < (0.0 if killed is None else killed - 1):
                continue
            if change["what"].startswith(what) and text in change["now"]:
                return float(change["at"])
        return None

    tainted = seen("taint", TAINT)
    untainted = [each["at"] for each in document["changes"] if each["what"] == "taint" and each["now"] == "none"]
    lifted = [at for at in untainted if tainted is not None and at > tainted]
    victim = f"pod {_killed_pod(document) or 'hog'}"
    death = next((each["at"] for each in document["deaths"] if each["pod"] == "hog"), None)
    return [
        ("the reserve's line crossed", document.get("line_crossed_at")),
        ("the condition held (3 of 5 samples below)", document.get("condition_at")),
        ("the agent decided", document.get("decided_at")),
        ("cgroup.kill written", killed),
        ("half of the hog's memory back", round(killed + back, 2) if killed is not None and back is not None else None),
        ("no process left in the hog's pod", death),
        ("node tainted", tainted),
        ("Event that explains exit 137", seen("event Killed")),
        ("killed pod evicted (being deleted, or gone)", seen(victim, "deleting") or seen(victim, "gone")),
        ("killed pod gone", seen(victim, "gone")),
        ("its successor kept away (Pending)", seen("pod hog", "Pending")),
        ("taint lifted", float(lifted[-1]) if lifted else None),
    ]


def table(without: Series, enforced: Series) -> str:
    """The last enforced run's steps, then both loads side by side (medians of their valid runs)."""
    lines = ["", "seconds since the flood's start, last run with the policy"]
    for what, at in timings(enforced.valid[-1].document):
        lines.append(f"  {'not seen' if at is None else f'{at:+.2f}':>9}  {what}")
    lines += ["", f"  {'medians':44} {'no policy':>12} {'policy':>12}"]
    rows: Sequence[tuple[str, str]] = [
        ("worst stall of a bystander, s", "worst_stall_seconds"),
        ("allocations that failed in interrupts", "atomic_failures"),
        ("kill to half of the memory back, s", "half_back_seconds"),
        ("kernel OOM kills", "kernel_oom_kills"),
    ]
    for what, figure in rows:
        cells = (_cell(without.median(figure)), _cell(enforced.median(figure)))
        lines.append(f"  {what:44} {cells[0]:>12} {cells[1]:>12}")
    below = (_cell(_below_half(without)), _cell(_below_half(enforced)))
    lines.append(f"  {'samples of 10 ms below half of min':44} {below[0]:>12} {below[1]:>12}")
    return "\n".join([*lines, "", f"  {without.summary()}", f"  {enforced.summary()}"])


def _below_half(series: Series) -> float | None:
    figures = sorted(each.document["reserve"]["below_half"] for each in series.valid if each.document.get("reserve"))
    return figures[len(figures) // 2] if figures else None


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
