"""`memorypressure-agent run`: watches this machine under a policy and shows what is seen and decided."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from memorypressure.engine import rules_from_policy
from memorypressure.signals import Absent, Sample, Unknown
from memorypressure.spec_values import Mode, Policy
from memorypressure_agent.arguments import (
    add_root_arguments,
    check_sys_root,
    host_roots,
    number_between,
    proc_complaint,
)
from memorypressure_agent.errors import EXIT_OK, BadInputError
from memorypressure_agent.output import STANDARD_OUTPUT, writing_to
from memorypressure_agent.policy_file import load_policy
from memorypressure_agent.run.screen import Output, output_for
from memorypressure_agent.run.watch import Watch
from memorypressure_agent.text import duration_text

if TYPE_CHECKING:
    from memorypressure_agent.host.sources import HostRoots
    from memorypressure_agent.run.pods import Pods

EPILOG = """\
Shows for each NUMA node its zones with usable memory (free without CMA), the
lines Floor (AtomicFloor, 3/8 min, where atomic allocations fail), Reserve
(AtomicReserve, 1/2 min), Min, Low and High with the lowmem reserve in them,
and how far the kernel's counters may be off; then the triggers, what is
decided and why, and the pods that could be stopped, in their order.

Nothing is ever stopped without --enforce. With it, and mode: Enforce in the
policy, pods under --cgroup-root are killed through cgroup.kill: at most 6 an
hour, 10 seconds apart, whatever the policy says. A kubelet's own pods are
refused: what protects them is known to the API server only.

examples:
  memorypressure-agent run --policy crds/samples/default.yaml
  memorypressure-agent run --policy policy.yaml --once
  memorypressure-agent run --policy policy.yaml --json --duration 10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the options of `run`."""
    parser.description = "Live view of this machine under a policy; decides as the agent on a node would."
    parser.epilog = EPILOG
    parser.add_argument(
        "--policy", required=True, type=Path, metavar="FILE", help="a MemoryPressurePolicy in YAML or JSON"
    )
    add_root_arguments(parser)
    parser.add_argument("--once", action="store_true", help="one view, then end")
    parser.add_argument("--json", action="store_true", help="one JSON object for each view; zones in pages")
    parser.add_argument(
        "--interval",
        type=number_between(0.1, 3600),
        default=1.0,
        metavar="SECONDS",
        help="time between views (default: 1); samples are taken as often as the pressure asks for",
    )
    parser.add_argument(
        "--log-every",
        type=number_between(0.1, 86_400),
        default=60.0,
        metavar="SECONDS",
        help="when the output is no terminal: a view at each change, and after this time without one (default: 60)",
    )
    parser.add_argument(
        "--duration", type=number_between(0.1, 31_536_000), metavar="SECONDS", help="end after this time"
    )
    parser.add_argument("--enforce", action="store_true", help="really act, when the policy's mode is Enforce")


def main(arguments: argparse.Namespace) -> int:
    """Watch until Ctrl-C, a signal or --duration; 0 then, 2 when the policy or the machine cannot be used."""
    from memorypressure_agent.host.cgroups import PodsTree
    from memorypressure_agent.host.sources import HostSources
    from memorypressure_agent.run.pods import Pods, own_pod_uid

    loaded = load_policy(arguments.policy)
    for hint in loaded.hints:
        print(f"hint: {hint}", file=sys.stderr)
    roots = host_roots(arguments)
    _check_roots(roots)
    tree = PodsTree(roots.cgroup)
    pods = Pods(tree, loaded.policy.victims)
    policy = _in_mode(loaded.policy, pods, roots.cgroup, enforce=arguments.enforce)
    sources = HostSources(roots, lambda: tree.path)
    _check_sample(roots, sources.read_sample())
    rules = replace(rules_from_policy(policy, sources.page_size_bytes), own_pod_uid=own_pod_uid())
    watch = Watch(rules, sources, pods)
    output = output_for(sys.stdout, as_json=arguments.json, once=arguments.once, log_every_seconds=arguments.log_every)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        if arguments.once:
            watch.sample()
            _show(output, watch)
        else:
            _loop(watch, output, arguments.interval, arguments.duration)
    except KeyboardInterrupt:
        pass
    finally:
        output.close()
        pods.close()
        sources.close()
    if not arguments.once:
        print(_summary(watch), file=sys.stderr)
    return EXIT_OK


def _loop(watch: Watch, output: Output, interval_seconds: float, duration_seconds: float | None) -> None:
    start_ns = shown_ns = watch.now_ns()
    watch.sample()
    _show(output, watch)
    end_ns = None if duration_seconds is None else start_ns + int(duration_seconds * 1e9)
    interval_ns = int(interval_seconds * 1e9)
    while end_ns is None or watch.now_ns() < end_ns:
        until_ns = min(shown_ns + interval_ns, end_ns or 1 << 63)
        watch.sleep(until_ns)
        watch.sample()
        if watch.now_ns() - shown_ns >= interval_ns or watch.has_acted:
            shown_ns = watch.now_ns()
            _show(output, watch)


def _show(output: Output, watch: Watch) -> None:
    view = watch.view()
    with writing_to(STANDARD_OUTPUT):
        output.show(view)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _check_roots(roots: HostRoots) -> None:
    for option, directory in (("--proc-root", roots.proc), ("--sys-root", roots.sys), ("--cgroup-root", roots.cgroup)):
        if not os.path.isdir(directory):
            what = (
                "is not a directory" if os.path.exists(directory) else "is not there, or its parents may not be entered"
            )
            raise BadInputError(f"{option} {directory}: {what}; name the directory where the host's tree is mounted")
    check_sys_root(roots)


def _check_sample(roots: HostRoots, sample: Sample) -> None:
    """The zones and memory of the first sample must be understood: else this is not a Linux machine's /proc."""
    for part in (sample.zones, sample.memory):
        if isinstance(part, Absent | Unknown):
            raise BadInputError(proc_complaint(roots, part.message))


def _in_mode(policy: Policy, pods: Pods, cgroup_root: str, *, enforce: bool) -> Policy:
    """The policy as it is run: DryRun unless --enforce was given and may be."""
    if not enforce:
        return policy if policy.mode is Mode.DISABLED else replace(policy, mode=Mode.DRY_RUN)
    if policy.mode is not Mode.ENFORCE:
        raise BadInputError(f"--enforce: the policy's mode is {policy.mode}; write spec.mode: Enforce to mean it")
    if pods.is_kubelets:
        raise BadInputError(
            f"--enforce: {cgroup_root} holds a kubelet's pods, and what protects them is known to the API server only; "
            "install the chart on this cluster, or name a directory of pod<uid>/<container> with --cgroup-root"
        )
    return policy


def _summary(watch: Watch) -> str:
    counts = watch.counts
    acted = f"{counts.decided} actions decided, {counts.killed} kills done" if counts.decided else "no action decided"
    return (
        f"watched for {duration_text(counts.elapsed_ns / 1e9)}: {counts.samples} samples, "
        f"{counts.unreadable} unreadable, {counts.episodes} episodes of pressure, {acted}"
    )
