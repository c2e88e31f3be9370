"""Random load, floods and restarts for 20 minutes, or for as long as SOAK says (`SOAK=2h`); SEED repeats a run.

Nobody is stopped but the hog, and it only in a flood; sentinel, reporter and operator do not grow. A flood that does
not reach the condition is void, counted and shown: the next round has another one. All of it is in build/runs/.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
import urllib3
from support.e2eaccounts import broken_grants
from support.e2eepisode import Episodes, StateWatch, armed, changed
from support.e2efaults import (
    agent_pod,
    kill_container,
    kill_service,
    replace_agent,
    start_operator,
    stop_operator,
)
from support.e2elab import APPS, HOG_MIB, NODE, SLOW_SECONDS, Lab
from support.e2esettings import DEFAULT_SOAK, Settings
from support.e2esoak import Life, Look, Step, add_look, not_flat, seconds_of, steps

from memorypressure_tools.apiclient import ApiError
from memorypressure_tools.cluster.node import Node
from memorypressure_tools.flood import load
from memorypressure_tools.flood.recording import kill_writes
from memorypressure_tools.flood.run import RESULTS, FloodRun, Scenario, send_frames
from memorypressure_tools.flood.verdict import Outcome
from memorypressure_tools.flood.workloads import container_cgroups, end_load, reset
from memorypressure_tools.guest.shell import GuestError

pytestmark = pytest.mark.e2e

LOOK_SECONDS = 5.0
UNSEEN = (GuestError, ApiError, urllib3.exceptions.HTTPError, OSError, ValueError, LookupError)
"""Of a look: the node thrashes, or what is looked at is being replaced. The next look will do."""
MEMORY = "^(RssAnon|RssFile|RssShmem):"
"""Lines of /proc/PID/status, in this order: what is resident of each kind, in KiB."""
Seen = tuple[int, tuple[int, ...], int]
"""A process: its id, those figures, its descriptors."""
WRONG = (Outcome.WRONG_VICTIM, Outcome.KILL_WITHOUT_CONDITION)


class Figures:
    """Memory and descriptors of our processes, looked at every few seconds from a thread of its own; a `with` block."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._ended = lab, threading.Event()
        self._thread = threading.Thread(target=self._loop, name="figures", daemon=True)
        self._began = time.monotonic()
        self.lives: list[Life] = []
        self.looks: Counter[str] = Counter()

    def _loop(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for part in ("sentinel", "reporter"):
                with suppress(*UNSEEN):
                    self._add(part, *_in_a_node(self._lab.node, agent_pod(self._lab), part))
            with suppress(*UNSEEN):
                self._add("operator", *self._operator())

    def _operator(self) -> Seen:
        cluster = self._lab.cluster
        if cluster.options.nodes == 2:
            return _in_a_node(cluster.nodes["node-2"], cluster.pods("operator")[0], "operator")
        if cluster.operator is None:
            raise LookupError("the operator is being restarted")
        return _here(cluster.operator.pid)

    def _add(self, part: str, pid: int, memory: tuple[int, ...], descriptors: int) -> None:
        self.looks[part] += 1
        anonymous, file, shmem = memory
        look = Look(round(time.monotonic() - self._began, 1), anonymous + shmem, file, descriptors)
        add_look(self.lives, part, pid, look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)


def _in_a_node(node: Node, pod: dict[str, Any], container: str) -> Seen:
    path = container_cgroups(pod)[container]
    # The sentinel holds seven of each candidate's container: their number follows the load, not the time. One that
    # leads to a cgroup that is gone counts, and so does a second one to the same file.
    script = f"""
        pid=$(sort -n {path}/cgroup.procs | head -n 1); echo $pid
        grep -E '{MEMORY}' /proc/$pid/status | tr -s '\t ' ' ' | cut -d' ' -f2 | tr '\n' ' '; echo
        files=$(ls -l /proc/$pid/fd | sed -n "s/.* -> //p"); echo "$files" | wc -l
        echo "$files" | sort -u | while read -r file; do
            case $file in */pod*/*) if [ -e "/proc/$pid/root$file" ]; then echo; fi ;; esac; done | wc -l"""
    pid, *memory, descriptors, of_candidates = map(int, node.shell.run(script, seconds=10).split())
    return pid, tuple(memory), descriptors - of_candidates


def _here(pid: int) -> Seen:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    memory = tuple(int(line.split()[1]) for line in status.splitlines() if re.match(MEMORY, line))
    return pid, memory, len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Soak:
    """Carries out steps; what came of them is in `seen` and `wrong`."""

    def __init__(self, lab: Lab, watch: StateWatch) -> None:
        self.lab, self.watch = lab, watch
        self.wrong: list[str] = []
        self.kills = 0
        self.rows: list[dict[str, object]] = []
        self._do: dict[str, Callable[[Step], str]] = {
            "calm": self._calm,
            "memory": self._memory,
            "page cache": self._page_cache,
            "frames": self._frames,
            "flood": self._flood,
            "restart": self._restart,
        }

    def do(self, step: Step, at: float) -> None:
        """One step; a kill in any but a flood is wrong, by the kernel's count."""
        before = len(kill_writes(self.lab.node.shell))
        bystanders = self.lab.containers("default")
        came = self._do[step.kind](step)
        kills = len(kill_writes(self.lab.node.shell)) - before
        self.kills += kills
        if kills and step.kind != "flood":
            self.wrong.append(f"{kills} kills in `{step}`")
        self.wrong += [f"{each} in `{step}`" for each in changed(bystanders, self.lab.containers("default"))]
        self.rows.append({"at": round(at), "step": str(step), "came": came, "kills": kills})
        self.lab.cluster.say(f"soak {at:6.0f} s  {step}: {came}{f', {kills} kills' if kills else ''}")

    def _calm(self, step: Step) -> str:
        time.sleep(step.seconds)
        return "done"

    def _memory(self, step: Step) -> str:
        """Memory of no pod (a file in tmpfs): nobody may be stopped for it."""
        script = f"dd if=/dev/zero of=/tmp/soak bs=1M count={step.mebibytes}; sleep {step.seconds}; rm /tmp/soak"
        self.lab.node.shell.run(script, seconds=step.seconds + 120)
        return "done"

    def _page_cache(self, step: Step) -> str:
        self.lab.node.shell.run(f"dd if=/data/data of=/dev/null bs=1M count={step.mebibytes}", seconds=120)
        return "done"

    def _frames(self, step: Step) -> str:
        sent = send_frames(self.lab.node, _scenario(step))
        return f"{sent.get('sent_frames', 0):.0f} frames"

    def _flood(self, step: Step) -> str:
        lab = self.lab
        reset(lab.cluster, APPS)
        lab.cluster.wait_for("the node to be armed", lambda: armed(lab), SLOW_SECONDS)
        lab.wait_for_allowance()
        lab.wait_until_calm()
        try:
            result = FloodRun(lab.cluster, NODE, _scenario(step)).run()
        except GuestError as error:  # a restart before it, or the thrash: its evidence is lost
            return f"void: {str(error)[:80]}"
        finally:
            end_load(lab.node.shell)
        result.save()
        lab.keep(result, passed=result.verdict.outcome not in WRONG)
        if result.verdict.outcome in WRONG:
            self.wrong.append(f"{result.verdict.outcome} in `{step}`: {result.verdict.why}")
        lab.cluster.wait_for("the taint to be lifted", lambda: lab.taints() == [], SLOW_SECONDS)
        return f"{result.verdict.outcome}{'' if result.valid else ' (void)'}"

    def _restart(self, step: Step) -> str:
        lab = self.lab
        if step.target == "operator":
            stop_operator(lab)
            start_operator(lab)
        elif step.target == "agent pod":
            replace_agent(lab)()
        elif step.target in {"sentinel", "reporter"}:
            kill_container(lab, step.target)()
            lab.calm_since = time.monotonic()  # a sentinel counts from its start how long the node has been clear
        else:
            kill_service(lab, step.target)()
        return "back"


def _scenario(step: Step) -> Scenario:
    return Scenario(name="soak", hog_mib=HOG_MIB, flood_seconds=step.seconds, frames_per_second=step.frames_per_second)


def _table(lives: list[Life]) -> str:
    """Own memory, pages of files, descriptors at the end, each with what the last third has more than the first."""
    lines = ["part          pid  seconds  looks       own KiB            files' KiB        descriptors"]
    for life in lives:
        growth, last = life.growth(), life.looks[-1]
        more = [f"{each:+d}" for each in growth[1:]] if growth else ["?", "?", "?"]  # too short to be judged
        cells = "  ".join(f"{value:6} ({each:>6})" for value, each in zip(last[1:], more, strict=True))
        lines.append(f"{life.part:10} {life.pid:6} {last.at - life.looks[0].at:8.0f} {len(life.looks):6}  {cells}")
    return "\n".join(lines)


def test_memory_and_descriptors_stay_flat_and_nobody_is_killed_but_by_a_flood(
    episodes: Episodes, settings: Settings
) -> None:
    lab, seconds, seed = episodes.lab, settings.soak_seconds, settings.seed
    lab.cluster.say(f"soak of {seconds:.0f} s; again with SEED={seed}")
    limits = {"cooldownSeconds": 30, "grantSeconds": 180, "maxStandingKills": 1, "killsPerHour": 100}
    lab.apply(load.policy("soak", limits=limits))
    lab.wait_for_allowance()
    began = time.monotonic()
    with StateWatch(lab) as watch, Figures(lab) as figures:
        soak = Soak(lab, watch)
        for step in steps(seed):
            if time.monotonic() - began > seconds:
                break
            soak.do(step, time.monotonic() - began)
        if not soak.kills and seconds >= seconds_of(DEFAULT_SOAK):
            soak.wrong.append("no flood was ended by a kill")
        lab.cluster.wait_for("every kill to be told", lambda: len(watch.kills()) >= soak.kills, SLOW_SECONDS)
        if len(watch.kills()) != soak.kills:
            soak.wrong.append(f"the kernel saw {soak.kills} kills, the node told {len(watch.kills())}")
    lab.cluster.plane.kubectl("delete", "mpp", "soak")
    document = {"seed": seed, "seconds": seconds, "steps": soak.rows}
    document["lives"] = [{"part": life.part, "pid": life.pid, "looks": life.looks} for life in figures.lives]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"soak-{seed}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lab.cluster.say(_table(figures.lives))
    found = soak.wrong + broken_grants(watch.rows, standing=1) + not_flat(figures.lives)
    assert found == [], f"SEED={seed}"
    assert lab.cluster.node_ready(NODE)
