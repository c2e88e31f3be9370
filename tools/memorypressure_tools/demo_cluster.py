"""The demo's full form: a real API server, the chart by Helm, operator and agents as processes, a flood, a kill.

What is set up, and what of it is real, is in `demo_stage`; here is the story that is told on it.
"""

import contextlib
import os
import subprocess
import sys
import time
from typing import Final

from memorypressure_tools import demo_objects as objects
from memorypressure_tools import toolcache
from memorypressure_tools.demo_node import DemoNodeError, cgroup_mount
from memorypressure_tools.demo_stage import REPOSITORY, NotSeenError, Stage

SLOWDOWN: Final = 2.0
SKIP_SECONDS: Final = 5.0
"""The recording's first seconds, before the flood reaches the reserve, are not played."""
EXIT_MISSING: Final = 3
FIRST_COOLDOWN_SECONDS: Final = 60.0
"""A sentinel with a new journal kills nothing for so long: the one before it may have been in a cool-down."""
KILL_AFTER_SECONDS: Final = 12.0
"""From the start of the flood to a due Kill step: 10 s of afterSeconds, and the way down."""
TOOLS: Final = [*toolcache.CONTROL_PLANE, "helm"]

_builder: subprocess.Popen[bytes] | None = None


def start_preparation() -> None:
    """Begins to build what is not in the cache, in the background; its progress goes to build/demo/tools.log."""
    global _builder  # noqa: PLW0603 -- one build for one demo
    if _lacking():
        return
    log = REPOSITORY / "build/demo/tools.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        _builder = subprocess.Popen(
            [sys.executable, "-m", "memorypressure_tools.toolcache"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tools")},
        )


def run() -> int:
    """The whole story; 0 only if every step was seen in API objects, 3 when this machine lacks something for it."""
    lacking = _lacking()
    if lacking:
        print("\n== the cluster part of the demo is left out; missing on this machine:")
        print("".join(f"   - {what}\n" for what in lacking), end="", flush=True)
        return EXIT_MISSING
    _wait_for_tools()
    keep = os.environ.get("KEEP", "") not in ("", "0")
    with contextlib.ExitStack() as stack:
        try:
            stage = Stage(stack)
            _tell(stage)
        except (NotSeenError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"\n== FAILED: {type(error).__name__}: {error}", flush=True)
            return 1
        if keep:
            _keep(stage)
    return 0


def _lacking() -> list[str]:
    """What this machine does not have for the cluster part."""
    lacking = []
    if os.geteuid() != 0:
        lacking.append("root: cgroups are made and a process in one is killed through cgroup.kill")
    else:
        try:
            cgroup_mount()
        except DemoNodeError as error:
            lacking.append(str(error))
    lacking += [f"{name}: {why}" for name, why in toolcache.missing(TOOLS).items()]
    return lacking


def _wait_for_tools() -> None:
    """Waits for the build in the background, with a line of its progress now and then."""
    began, shown = time.monotonic(), ""
    while _builder is not None and _builder.poll() is None:
        time.sleep(0.5)
        lines = (REPOSITORY / "build/demo/tools.log").read_text(errors="replace").splitlines()
        if lines and lines[-1] != shown:
            shown = lines[-1]
            print(f"   {time.monotonic() - began:4.0f} s  {shown}", flush=True)


def _tell(stage: Stage) -> None:
    """From calm to calm; NotSeenError for what does not come."""
    seen, name = stage.seen, {app: pod["metadata"]["name"] for app, pod in stage.pods.items()}
    stage.until(
        "both nodes report",
        lambda: all(
            stage.condition(node, "Ready").get("status") == "True" for node in (stage.node, objects.FLOOD_NODE)
        ),
    )
    grant = stage.until("a grant for flood-demo that its sentinel has seen", stage.armed)
    seen.note("armed", f"flood-demo may kill up to {grant['killsCeiling']}, beat {grant['beat']} echoed")
    _print_objects(stage)

    wait_seconds = stage.sentinel_started + FIRST_COOLDOWN_SECONDS - KILL_AFTER_SECONDS - time.monotonic()
    if wait_seconds > 0:
        print(
            f"   {wait_seconds:.0f} s of patience: a sentinel with a new journal begins with a full cool-down",
            flush=True,
        )
        time.sleep(wait_seconds)

    print("\n== 5. the flood: times from its start", flush=True)
    seen.began = time.monotonic()
    stage.flood.flood(stage.victim, SLOWDOWN, SKIP_SECONDS)
    pressure = stage.until("pressure", lambda: stage.true(objects.FLOOD_NODE, "UnderPressure"))
    seen.note("pressure", f"{pressure['reason']}: {_short(pressure['message'])}")
    taint = stage.until("our taint", stage.our_taint)
    seen.note("taint", f"{taint['key']}={taint.get('value', '')}:{taint['effect']}")
    guarded = name[objects.GUARDED]
    refused = stage.until("a refused eviction", lambda: stage.event("DisruptionBudget", "Pod", guarded))
    if stage.deleting(objects.GUARDED):
        raise NotSeenError(f"{guarded} is being deleted although its budget allows nothing")
    seen.note("eviction refused (429)", f"{guarded}: {_short(refused['note'])}")
    movable = name[objects.MOVABLE]
    evicted = stage.until("an eviction", lambda: stage.event("EvictedForMemory", "Pod", movable))
    stage.until("the evicted pod's end", lambda: stage.deleting(objects.MOVABLE))
    seen.note("evicted", f"{movable}: {_short(evicted['note'])}")
    action = stage.until("the kill", stage.kill_reported)
    if stage.victim.ended_by() != "SIGKILL":
        raise NotSeenError(f"pid {stage.victim.pid} was to end by SIGKILL, it {stage.victim.ended_by() or 'runs'}")
    seen.note("killed", f"{action['pod']['name']}, pid {stage.victim.pid}: {action['reason']}")
    killed = name[objects.VICTIM]
    event = stage.until("the Event of the kill", lambda: stage.event("Killed", "Pod", killed))
    seen.note("Event on the pod", _short(event["note"]))
    stage.until("the killed pod's eviction", lambda: stage.deleting(objects.VICTIM))
    seen.note("killed pod evicted", f"{killed}, so that it does not come back in place")
    stage.until("recovery", lambda: stage.condition(objects.FLOOD_NODE, "UnderPressure").get("status") == "False")
    seen.note("recovery", "UnderPressure is False: above Low for 2 s")
    stage.until("the taint's end", lambda: stage.our_taint() is None)
    seen.note("taint lifted", "clear for holdSeconds (10)")
    if stage.deleting(objects.GUARDED):
        raise NotSeenError(f"{guarded} was to be left alone")
    if stage.condition(stage.node, "UnderPressure").get("status") != "False":
        raise NotSeenError(f"node {stage.node} was to be without pressure")
    _print_end(stage)


def _kubectl(stage: Stage, *words: str) -> None:
    print(f"$ kubectl {' '.join(words)}")
    print(stage.plane.kubectl(*words).stdout.rstrip(), flush=True)


def _print_objects(stage: Stage) -> None:
    _kubectl(stage, "get", "mpp,nmp,nms")
    _kubectl(stage, "get", "nms", stage.node, "-o", "jsonpath={.status.lowest}")


def _print_end(stage: Stage) -> None:
    _kubectl(stage, "get", "mpp,nms")
    columns = "TIME:.eventTime,REASON:.reason,KIND:.regarding.kind,NAME:.regarding.name,NOTE:.note"
    ours = "reportingController=memorypressure.dev/operator"
    words = ["get", "events.events.k8s.io", "-A", "--sort-by=.eventTime", f"--field-selector={ours}"]
    _kubectl(stage, *words, "-o", f"custom-columns={columns}")
    print("\n== all of it was seen in API objects:")
    for seconds, what, _ in stage.seen.rows[
        stage.seen.rows.index(next(r for r in stage.seen.rows if r[1] == "pressure")) :
    ]:
        print(f"   {seconds:7.2f} s  {what}")


def _keep(stage: Stage) -> None:
    """Leaves everything running until Ctrl-C."""
    kubectl = toolcache.ensure(["kubectl"])["kubectl"]
    print("\n== KEEP=1: everything goes on running until Ctrl-C. To look around, in another terminal:")
    print(f"   export KUBECONFIG={stage.plane.kubeconfig}")
    print(f"   alias kubectl={kubectl}")
    print("   kubectl get mpp,nmp,nms; kubectl describe nms flood-demo; kubectl get events -A")
    print(f"   logs: {stage.plane.logs}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
            for child in stage.children:
                child.check()


def _short(text: str, most: int = 150) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


if __name__ == "__main__":
    sys.exit(run())
