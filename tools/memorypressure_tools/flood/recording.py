"""What is recorded in a node while a flood runs: begun, the filling watched, collected as texts. Nothing is judged."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from memorypressure_tools.flood import load, measurements
from memorypressure_tools.flood.workloads import end_load
from memorypressure_tools.guest.shell import GuestError, Shell

SAMPLER_SECONDS: Final = 300
"""The sampler's memory is for so long; it is ended before."""
EVIDENCE_ATTEMPTS: Final = 3
AGENT_CONTAINERS: Final = ("sentinel", "reporter")
PLACE: Final = "/run/flood"
TRACING: Final = "/sys/kernel/tracing"
GAVE_UP: Final = f"{TRACING}/events/kprobes/gave_up/hist"
KILLS: Final = f"{TRACING}/instances/kills"
"""Writes to cgroup.kill, by the kernel's probe; cluster/files/node.sh begins both."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A container whose processes are counted: the pod's label `app` or its name, and its cgroup in the node."""

    pod: str
    container: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was there at the end: texts by name, those left out that a node that thrashes did not give."""

    texts: dict[str, str]
    #: cpu.max and cpu.stat of the agent's containers, before and after
    cpu_before: dict[str, str]
    cpu_after: dict[str, str]
    #: the sentinel's journal, with its flight recorder; empty where it could not be had
    journal: bytes


class Recording:
    """A recording that runs in a node; `to_here` and `to_wall` are added to seconds since its boot.

    They give the time here, and the time of the node's own wall clock.
    """

    def __init__(self, shell: Shell, hog: Watched, watched: Sequence[Watched]) -> None:
        self._shell = shell
        self._hog, self._watched = hog, watched
        self.to_here = self.to_wall = 0.0
        self._before: dict[str, str] = {}
        self._cpu_before: dict[str, str] = {}

    def start(self) -> Self:
        """Returns when sampler and bystander run, which is before anything else of the load does."""
        files = [f"{self._hog.cgroup}/memory.current", f"{self._hog.cgroup}/memory.swap.current", "--"]
        files += [f"{each.cgroup}/pids.current" for each in self._watched]
        script = f"""
            rm -rf {PLACE} {load.START_FILE}; mkdir -p {PLACE} {load.GATE_DIRECTORY}; cd {PLACE}
            cat /proc/vmstat > vmstat.before
            sampler {SAMPLER_SECONDS} 10 sampled {" ".join(files)} > sampler.out 2>&1 &
            echo $! > sampler.pid
            canary {SAMPLER_SECONDS} 256 5 canary.txt > canary.out 2>&1 &
            echo $! > canary.pid
            n=0; until grep -q ready sampler.out || [ $n -gt 300 ]; do sleep 0.1; n=$((n+1)); done
            cat sampler.out"""
        said = self._shell.run(script, seconds=60)
        words = next((line.split() for line in said.splitlines() if line.startswith("ready ")), None)
        if words is None:
            raise GuestError(f"the sampler did not start: {said}")
        uptime = float(self._shell.run("cat /proc/uptime").split()[0])
        self.to_here, self.to_wall = time.time() - uptime, float(words[2]) - float(words[1])
        self._before = {"gave_up.before": self._shell.run(f"cat {GAVE_UP}", attempts=3)}
        self._cpu_before = self._cpu()
        return self

    def filled(self, mebibytes: int, seconds: float) -> bool:
        """Waits until the hog has so much, in RAM and swap; False when not in time, or it was killed before.

        From then on the bystander's stalls count: those of the filling are of the swap disk.
        """
        script = f"""
            end=$(( $(cut -d. -f1 /proc/uptime) + {seconds:.0f} ))
            trap 'kill -USR1 $(cat {PLACE}/canary.pid)' EXIT
            cd {self._hog.cgroup} || exit 0
            while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do
                now=$(cat memory.current memory.swap.current 2>/dev/null) || {{ echo gone; exit 0; }}
                set -- $now
                [ $(( $1 + $2 )) -ge {mebibytes << 20} ] && {{ echo filled; exit 0; }}
                [ "$(cat pids.current)" = 0 ] && {{ echo gone; exit 0; }}
                sleep 0.2
            done
            echo slow"""
        try:
            return "filled" in self._shell.run(script, seconds=seconds + 30, check=False)
        except GuestError:
            return False

    def collect(self) -> Evidence:
        """Ends load and recording; of a node that does not answer, what could be had."""
        with contextlib.suppress(GuestError):
            end_load(self._shell)
        script = f"cd {PLACE}; kill $(cat sampler.pid canary.pid) 2>/dev/null"
        script += "; n=0; while [ -d /proc/$(cat sampler.pid) -o -d /proc/$(cat canary.pid) ] && [ $n -lt 200 ]"
        self._try(script + "; do sleep 0.1; n=$((n+1)); done")
        names = ["sampled.zones.csv", "sampled.vmstat.csv", "sampled.files.csv", "canary.txt", "vmstat.before"]
        texts = dict(self._before)
        for name in names:
            for _ in range(EVIDENCE_ATTEMPTS):
                try:
                    texts[name] = self._shell.read(f"{PLACE}/{name}", seconds=60).decode()
                    break
                except (GuestError, OSError):
                    time.sleep(2)
        texts["vmstat.after"] = self._try("cat /proc/vmstat")
        texts["gave_up"] = self._try(f"cat {GAVE_UP}")
        texts["kills"] = self._try(f"cat {KILLS}/trace")
        texts["dmesg"] = self._try(
            "dmesg | grep -E 'page allocation failure|Killed process|oom-kill|invoked oom' | tail -n 20"
        )
        return Evidence(texts, self._cpu_before, self._cpu(), self._journal())

    def _journal(self) -> bytes:
        cgroup = next((each.cgroup for each in self._watched if each.container == "sentinel"), None)
        if cgroup is None:
            return b""
        pod = cgroup.split("/")[-2].removeprefix("pod")
        path = f"/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~empty-dir/journal/journal"
        with contextlib.suppress(GuestError, OSError):
            return self._shell.read(path, seconds=60)
        return b""

    def _cpu(self) -> dict[str, str]:
        """By container; of those that are gone, nothing."""
        ours = {each.container: each.cgroup for each in self._watched if each.container in AGENT_CONTAINERS}
        return {name: self._try(f"cd {path} && echo max $(cat cpu.max) && cat cpu.stat") for name, path in ours.items()}

    def _try(self, script: str) -> str:
        try:
            return self._shell.run(script, seconds=60, check=False, attempts=EVIDENCE_ATTEMPTS)
        except GuestError:
            return ""


def kill_writes(shell: Shell) -> list[measurements.KillWrite]:
    """All writes to cgroup.kill since the node's boot, by the kernel's probe, those of the runtime left out."""
    return measurements.kill_writes(shell.run(f"cat {KILLS}/trace", seconds=60, attempts=5))
