"""An episode without a flood: a pod fills the node, and the policy's line lies where reclaim keeps free memory then.

Line Min with a margin of 400 % is above the zone's high watermark: once memory is full, of anonymous and of file pages,
the kernel keeps free memory under it for as long as the pod is there, and a kill of the pod brings it far above. The
node does not thrash, so that faults can be told from a slow node, and nothing is left to chance: no run is void.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import urllib3
from support.e2eaccounts import GrantRow, broken_grants, kills_in, metric, untrue
from support.e2efaults import replace_agent
from support.e2elab import BYSTANDERS, NODE, POLICIES, SLOW_SECONDS, STATE, Lab

from memorypressure_tools.apiclient import ApiError
from memorypressure_tools.cluster.cluster import pod_ready
from memorypressure_tools.flood import load
from memorypressure_tools.flood.observer import Observer
from memorypressure_tools.flood.recording import kill_writes
from memorypressure_tools.flood.workloads import end_load
from memorypressure_tools.helm import NAMESPACE

FILLER = "filler"
CACHE_MIB = 240
"""Page cache before the filler comes, at least."""
KEPT_MIB = 180
"""What is left of it: 90 MiB, the kubelet's and containerd's, are protected by memory.min."""
GATE = "/run/filler"
GATE_PORT = 4243
PAUSE_US = 25_000
"""After every MiB of writes: 40 MiB a second while it fills."""
FULL = {
    "name": "full",
    "type": "ZoneWatermark",
    "zoneWatermark": {
        "line": "Min",
        "nodes": "AnyNode",
        "marginPercent": 400,
        "belowMilliseconds": 30,
        "withinMilliseconds": 50,
    },
}
STANDING = 1
KILL_SECONDS = 240.0
POLL_SECONDS = 0.5

Object = dict[str, Any]


def filling_policy(name: str, *, after_seconds: int, action: str = "Kill") -> Object:
    """A policy whose Kill (or Evict) step is due so many seconds after memory is full; the taint comes at once."""
    step = {"Kill": {"kill": {"unit": "Pod"}}, "Evict": {"evict": {"gracePeriodSeconds": 1}}}[action]
    ladder = [
        {"action": "Taint", "triggers": ["full"], "taint": {"effect": "NoSchedule", "holdSeconds": 15}},
        {"action": action, "triggers": ["full"], "afterSeconds": after_seconds, **step},
    ]
    limits = {
        "cooldownSeconds": 10,
        "maxVictimsPerEpisode": 50,
        "maxVictimsPerWorkload": 50,
        "grantSeconds": 180,
        "maxStandingKills": STANDING,
        "killsPerHour": 100,
    }
    return load.policy(name, triggers=[FULL], ladder=ladder, limits=limits)


def filler_spec() -> Object:
    """A pod that asks the node how many MiB to take, until it is told, and then goes on writing to them."""
    ask = f"n=$(nc -w 1 {load.NODE_ADDRESS} {GATE_PORT} < /dev/null 2>/dev/null)"
    command = f"sh -c 'until {ask}; [ -n \"$n\" ]; do sleep 0.3; done; exec hog $n {PAUSE_US}'"
    requests = {"memory": "20Mi", "cpu": "10m"}  # two fit beside the load: nobody is preempted for a successor
    return load.pod_spec(command, node=NODE, requests=requests, waits=False)


class StateWatch:
    """Looks at the node's state twice a second: leases, grants, every action that was ever shown; a `with` block."""

    def __init__(self, lab: Lab) -> None:
        self._admin = lab.cluster.plane.admin
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="state watch", daemon=True)
        self.rows: list[GrantRow] = []
        self.actions: dict[str, Object] = {}
        self._old: set[str] | None = None

    def _loop(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            with suppress(ApiError, urllib3.exceptions.HTTPError):
                self.look()

    def look(self) -> None:
        """One look; actions that the first one shows are from before."""
        state = self._admin.must("GET", STATE)
        row = GrantRow.of(time.time(), state)
        if row is not None:
            self.rows.append(row)
        shown = {each["id"]: dict(each) for each in state.get("status", {}).get("recentActions", [])}
        if self._old is None:
            self._old = set(shown)
        self.actions |= {number: each for number, each in shown.items() if number not in self._old}

    def kills(self) -> list[Object]:
        """The kills that were shown, of any incarnation, each once with its last word."""
        found = list(self.actions.values())
        return [each for each in found if each["action"] == "Kill" and each["mode"] == "Enforce"]

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)


@dataclass(slots=True)
class Episode:
    """One episode that runs: what was before it, and what is seen of it."""

    lab: Lab
    policy: str
    victim: str
    reason: str
    watch: StateWatch
    observer: Observer
    #: who must be there afterwards as before, by a function that says who is there
    spared: Callable[[], dict[str, tuple[str, int]]]
    before: Mapping[str, tuple[str, int]]
    #: the kernel's count of kills before; 0 again after a reboot
    written_before: int
    told_before: frozenset[str]

    def written(self) -> int:
        """Kills of the episode by the kernel's count."""
        return len(kill_writes(self.lab.node.shell)) - self.written_before

    def place(self) -> None:
        """Creates the filler; returns when its container runs and waits."""
        open_gate(self.lab)
        kubectl = self.lab.cluster.plane.kubectl
        kubectl("apply", "-f", "-", stdin=json.dumps(load.deployment(FILLER, filler_spec())))

        self.lab.cluster.wait_for("the filler to run", self.running, SLOW_SECONDS)

    def running(self) -> Object | None:
        """The filler's pod that runs on the node."""
        return next((pod for pod in self.lab.pods(FILLER) if pod_ready(pod)), None)

    def fill(self) -> None:
        """Tells the filler to take what makes memory just full; a container that is started again takes as much."""
        mebibytes = prepare_cache(self.lab)
        self.lab.node.shell.run(f"echo {mebibytes} > {GATE}/mib", attempts=3)
        self.lab.cluster.say(f"the filler takes {mebibytes} MiB")

    def wait_until_pressed(self) -> None:
        """Returns when the node has reported that memory is full."""

        def pressed() -> bool:
            return "full" in self.lab.status().get("activeTriggerNames", "")

        self.lab.cluster.wait_for("the node to report that memory is full", pressed, SLOW_SECONDS)

    def wait_for_kill(self, seconds: float = KILL_SECONDS) -> None:
        """Returns when the kernel has counted a kill."""
        self.lab.cluster.wait_for("a kill", self.written, seconds)

    def close(self) -> None:
        """Lets a filler that is started again wait: the pressure is over with the one that runs."""
        self.lab.node.shell.run(f"rm -f {GATE}/mib", seconds=60, attempts=5)

    def end_load(self) -> None:
        """Takes the filler away."""
        self.lab.node.shell.run(f"rm -f {GATE}/mib; killall -9 hog; true", seconds=60, attempts=5)
        self.lab.cluster.plane.kubectl(
            "delete", "deployment", FILLER, "--namespace", load.NAMESPACE, "--ignore-not-found", "--cascade=foreground"
        )
        self.lab.cluster.wait_for("the filler to be gone", lambda: not self.lab.pods(FILLER), SLOW_SECONDS)

    def settle(self) -> None:
        """Waits until every kill is told and cleaned up, the load is gone and the node calm and armed again."""
        wait = self.lab.cluster.wait_for
        self.wait_until_reported()
        wait("the killed pods to be evicted", self._all_cleaned_up, SLOW_SECONDS)
        self.end_load()
        wait("the taint to be lifted", lambda: self.lab.taints() == [], SLOW_SECONDS)
        wait("the node to be calm", lambda: not self.lab.status().get("activeTriggerNames"), SLOW_SECONDS)
        wait("the node to be armed again", lambda: armed(self.lab), SLOW_SECONDS)
        self.wait_until_told()

    def wait_until_reported(self) -> None:
        """Returns when the node's status shows as many kills as the kernel has seen."""
        wait, kills = self.lab.cluster.wait_for, self.watch.kills
        wait("every kill to be reported", lambda: len(kills()) >= self.written(), SLOW_SECONDS)

    def wait_until_told(self) -> None:
        """Returns when the policy has counted them, and there are Events of them."""
        wait, kills = self.lab.cluster.wait_for, self.watch.kills
        wait("every kill to be counted", lambda: self.counted() >= len(kills()), SLOW_SECONDS)
        wait("every kill to have its Events", lambda: len(self.events()) >= 2 * len(kills()), SLOW_SECONDS)

    def _all_cleaned_up(self) -> bool:
        killed = {each["pod"]["uid"] for each in self.watch.kills()}
        left = (pod for pod in self.lab.pods(self.victim) if pod["status"].get("phase") != "Failed")
        return not killed & {pod["metadata"]["uid"] for pod in left}

    def counted(self) -> int:
        """Kills by the policy's own count, whose name is this episode's alone."""
        return int(self.lab.get(f"{POLICIES}/{self.policy}").get("status", {}).get("actions", {}).get("kills", 0))

    def events(self) -> list[Object]:
        """The Events of kills since the episode began, of pods and of the node."""
        found = self.lab.events("Killed", "Pod") + self.lab.events("Killed", "Node")
        return [each for each in found if each["metadata"]["name"] not in self.told_before]

    def broken(self) -> list[str]:
        """Invariants that do not hold, a sentence each; empty is what has to be."""
        kills = self.watch.kills()
        found = broken_grants(self.watch.rows, standing=STANDING)
        found += untrue(kills, self.events(), counted=self.counted(), written=self.written())
        if kills_in(self.watch.rows) != len(kills):
            found.append(f"journals counted {kills_in(self.watch.rows)} kills, {len(kills)} were told")
        for each in kills:
            pod = f"{each['pod']['namespace']}/{each['pod']['name']}"
            if not pod.startswith(f"{load.NAMESPACE}/{self.victim}-"):
                found.append(f"{pod} was killed")
            if each.get("reason") != self.reason:
                found.append(f"{pod} was killed for {each.get('reason')}")
        return found + changed(self.before, self.spared())


def prepare_cache(lab: Lab) -> int:
    """MiB that fill the node: what is free and a part of the page cache, of which there is enough afterwards."""
    count = "awk '/^(Active|Inactive)\\(file\\)/ { sum += $2 } END { print int(sum / 1024) }' /proc/meminfo"
    script = f"""
        files=$({count})
        [ $files -lt {CACHE_MIB} ] && dd if=/data/data of=/dev/null bs=1M count=$(({CACHE_MIB} - files)) 2>/dev/null
        awk '/^MemFree/ {{ print int($2 / 1024) }}' /proc/meminfo; {count}"""
    free, files = map(int, lab.node.shell.run(script, seconds=120, attempts=3).split())
    if free + files - KEPT_MIB < 100:
        raise AssertionError(f"{free} MiB free and {files} MiB of files on {NODE}: something else fills it")
    return free + files - KEPT_MIB


def clear(lab: Lab) -> None:
    """Takes away what a load before left: its page cache alone keeps free memory under the line of a filling policy."""
    end_load(lab.node.shell)
    lab.node.shell.run("sync; echo 3 > /proc/sys/vm/drop_caches", seconds=120, attempts=3)


def open_gate(lab: Lab) -> None:
    """Lets the node answer those who ask how much to take; nothing until a file says it. Gone after a reboot."""
    lab.node.shell.run(
        f"[ -e {GATE}/answer ] && exit 0; mkdir -p {GATE}; cd {GATE}"
        f" && printf '#!/bin/sh\\ncat {GATE}/mib 2>/dev/null\\n' > answer && chmod +x answer"
        f" && nc -ll -p {GATE_PORT} -e {GATE}/answer > /dev/null 2>&1 &",
        attempts=3,
    )


def armed(lab: Lab) -> bool:
    """Whether the node has an allowance in this incarnation, and knows of it."""
    row = GrantRow.of(0.0, lab.state())
    return row is not None and row.armed


def outstanding(lab: Lab) -> int:
    """Kills that ledgers count as allowed yet, of policies that are gone too."""
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps?labelSelector=memorypressure.dev/ledger=true"
    ledgers = [json.loads(each["data"]["ledger"]) for each in lab.items(path)]
    return sum(entry["ceiling"] - entry["counted"] for each in ledgers for entry in each["entries"])


def others(lab: Lab) -> dict[str, tuple[str, int]]:
    """Containers on the node that no fault of these tests touches: the guarded and the static pod, the waiting load."""
    load_pods = {name: seen for name, seen in lab.containers(load.NAMESPACE).items() if f"/{FILLER}-" not in name}
    return lab.containers(BYSTANDERS) | load_pods


def changed(before: Mapping[str, tuple[str, int]], after: Mapping[str, tuple[str, int]]) -> list[str]:
    """Sentences about containers that are gone or were started again."""
    lost = [f"{name} is gone" for name in before if name not in after]
    return lost + [f"{name} was started again" for name in before if name in after and after[name] != before[name]]


def kills_by_metric(lab: Lab) -> float:
    """Kills by the agent's own metric, which begins anew with the sentinel."""
    text, name = lab.metrics(), "memorypressure_actions_total"
    return sum(metric(text, name, action="Kill", mode="Enforce", result=each) for each in ("Success", "Incomplete"))


def denials(lab: Lab) -> Counter[str]:
    """How often a due kill began to be held back, by reason, by the agent's metric."""
    found: Counter[str] = Counter()
    for line in lab.metrics().splitlines():
        if line.startswith("memorypressure_actions_denied_total{"):
            found[line.split('reason="', 1)[1].split('"', 1)[0]] += int(float(line.rsplit(" ", 1)[1]))
    return found


class Episodes:
    """Episodes one after the other on one node."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @contextmanager
    def begin(
        self,
        policy: Object,
        *,
        victim: str = FILLER,
        reason: str = "MinBreached",
        spared: Callable[[], dict[str, tuple[str, int]]] | None = None,
    ) -> Iterator[Episode]:
        """An episode of that policy, of a name of its own, on a node that is calm, armed and watched."""
        lab, name = self.lab, policy["metadata"]["name"]
        spared = spared or (lambda: others(lab))
        clear(lab)
        lab.apply(policy)
        try:
            self._wait_until_ready(policy)
            lab.cluster.say(f"episode {name}")
            told = {each["metadata"]["name"] for kind in ("Pod", "Node") for each in lab.events("Killed", kind)}
            with StateWatch(lab) as watch, lab.watching() as observer:
                running = Episode(
                    lab=lab,
                    policy=name,
                    victim=victim,
                    reason=reason,
                    watch=watch,
                    observer=observer,
                    spared=spared,
                    before=spared(),
                    written_before=len(kill_writes(lab.node.shell)),
                    told_before=frozenset(told),
                )
                try:
                    yield running
                finally:
                    running.end_load()
                    if running.written() > 1:  # so soon that the second was futile: a new journal begins without that
                        replace_agent(lab)()
                    lab.calm_since = time.monotonic()
        finally:  # the next test has a policy of its own, whatever became of this one
            lab.cluster.plane.kubectl("delete", "mpp", name)

    def _wait_until_ready(self, policy: Object) -> None:
        lab = self.lab
        if any(step["action"] == "Kill" for step in policy["spec"]["ladder"]):
            lab.cluster.wait_for("the node to be armed", lambda: armed(lab), SLOW_SECONDS)
            lab.wait_for_allowance()
        lab.wait_until_calm()
        lab.cluster.wait_for("the node to be untainted", lambda: lab.taints() == [], SLOW_SECONDS)
