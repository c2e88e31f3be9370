"""The script that a guest runs: reserve, swap, probes, killer, pods, flood, evidence. Pure: scenario and arm -> text.

Its parts are shell functions in `guest.sh`, which is sent along; here they are only put into an order with the
scenario's values. Nothing is written to a disk while the reserve is short: results wait in a tmpfs and go out as a tar.
"""

import shlex
from collections.abc import Iterator
from typing import Final

from memorypressure_tools.lab.arms import Arm, Killer
from memorypressure_tools.lab.scenarios import Flood, Pod, Scenario, Swap

FLOOD_MARK: Final = "lab: flood"
DONE_MARK: Final = "lab: done"
SAMPLE_MS: Final = 10
CANARY_KIB: Final = 256
CANARY_MS: Final = 5
SPARE_SECONDS: Final = 40
"""How much longer than the run sampler and bystander are prepared to measure; they are ended when it is over."""


def guest_script(scenario: Scenario, arm: Arm) -> str:
    """The script of one run."""
    return "\n".join(["#!/bin/sh", ". /config/lab/guest.sh", *_lines(scenario, arm)]) + "\n"


def _lines(scenario: Scenario, arm: Arm) -> Iterator[str]:
    if arm.killer is Killer.SYSTEMD_OOMD:
        yield f"systemd_tree {shlex.join(arm.options)}"
    else:
        yield "tree"
    yield f"reserve {scenario.min_free_kib} {arm.min_free_factor:g} {scenario.swappiness}"
    if scenario.huge_pages:
        yield "huge_pages"
    if scenario.swap is not Swap.NONE:
        yield f"swap_{scenario.swap} {scenario.swap_mib}"
    if scenario.flood is Flood.TCP:
        yield "neighbour"
    yield "probes"
    for pod in scenario.pods:
        yield f"pod {pod.name} {pod.uid} {pod.limit_mib}"
    yield f"killer_{arm.killer.replace('-', '_')} {shlex.join(_killer_words(arm))}".rstrip()
    yield "cp /proc/zoneinfo $OUT/zoneinfo.txt"
    files = " ".join(f"/pods/{pod.name}/memory.current /pods/{pod.name}/cgroup.procs" for pod in scenario.pods)
    yield f"measure {scenario.sampled_seconds + SPARE_SECONDS} {SAMPLE_MS} {CANARY_KIB} {CANARY_MS} {files}"
    yield "mark start"
    yield "killer_use before"
    for pod in scenario.pods:
        yield _run(pod, scenario)
    yield f"sleep {scenario.fill_seconds}"
    if scenario.flood is not Flood.NONE:
        yield "mark flood"
        yield f"say '{FLOOD_MARK}'"
    else:
        yield "mark flood"
    yield f"sleep_until_since_start {scenario.sampled_seconds}"
    yield "mark end"
    yield "finish"
    yield f"say '{DONE_MARK}'"
    yield "poweroff -f"


def _run(pod: Pod, scenario: Scenario) -> str:
    words = pod.command.format(seconds=scenario.sampled_seconds + SPARE_SECONDS)
    start = "run_again" if pod.restarts else "run"
    return f"{start} {pod.name} {pod.oom_score_adj(scenario.memory_mib)} /config/bin/{words}"


def _killer_words(arm: Arm) -> list[str]:
    if arm.killer is Killer.OURS:
        return ["host" if arm.sees_processes else "own", *arm.options]
    return list(arm.options)
