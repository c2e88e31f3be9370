"""Operators die, sleep, are cut off and fight over the Lease, nodes kill all they may: never more than the worst case.

Everything is real but the nodes, which use up every allowance as soon as they see it, are made anew and forget. Each
operator is as on a machine of its own: with a clock of another boot, and a network that loses requests or answers.
"""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.faultproxy import FaultProxy
from support.operator_lab import GROUP, Agent, Lab, OperatorProcess, wait_for
from support.operatorprocess import boot_clock_moves

from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane

STANDING, HOURLY = 2, 3
WORST = STANDING + HOURLY
GRANT_SECONDS = 180
AWAY_SECONDS = 5
"""Longer than the Lease lasts."""
DAY_SECONDS = 86400
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/memory-pressure-operator"


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


@dataclass
class Chaos:
    """Two operators, four nodes, and what is done to them."""

    lab: Lab
    random: random.Random
    agents: list[Agent] = field(default_factory=list)
    operators: dict[str, OperatorProcess] = field(default_factory=dict)
    asleep: dict[str, float] = field(default_factory=dict)  # operator -> until when
    networks: dict[str, FaultProxy] = field(default_factory=dict)
    cut_off: dict[str, float] = field(default_factory=dict)  # operator -> until when
    token: str = ""
    killed: list[str] = field(default_factory=list)  # nodes, one for each kill
    shown: set[int] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str) -> None:
        """An operator, or the next of its name: perhaps on another machine, whose boot clock is ahead or behind."""
        network = self.networks[name]
        config = self.lab.plane.write_kubeconfig(f"{self.lab.prefix}{name}", server=network.url, token=self.token)
        booted = self.random.randrange(30 * DAY_SECONDS) if boot_clock_moves() else 0
        self.operators[name] = self.lab.operator(identity=name, kubeconfig=config, booted_seconds_before=booted)

    def cut(self, name: str, *, answers_only: bool) -> None:
        """Nothing of the operator arrives any more; or all of it does, and it hears of nothing."""

        def lost(_method: str, _path: str) -> None:
            raise ConnectionAbortedError("the network of the test")

        setattr(self.networks[name].faults, "after" if answers_only else "before", lost)
        self.networks[name].cut()
        self.cut_off[name] = time.monotonic() + AWAY_SECONDS

    def node_lives(self, agent: Agent) -> None:
        """A node's whole life: it takes its orders, and kills while it may."""
        began: dict[tuple[str, int], float] = {}  # when each beat did
        while not self.stopping.wait(0.15):
            now = time.monotonic()
            if now - began.setdefault((agent.incarnation, agent.beat), now) > GRANT_SECONDS / 3:
                agent.beat += 1
            state = self.lab.state(agent.node)
            if state is None:
                continue
            with contextlib.suppress(Exception):  # its object may be gone by now
                agent.obey(state)
                grant = state["spec"].get("grant") or {}
                beat = began.get((grant.get("incarnation", ""), grant.get("beat", 0)))
                mine = grant.get("incarnation") == agent.incarnation
                fresh = beat is not None and now - beat < GRANT_SECONDS
                if mine and fresh and agent.kills_total < grant["killsCeiling"] and state["spec"]["mode"] == "Enforce":
                    agent.kills_total += 1
                    self.killed.append(agent.node)
                    agent.report()

    def disaster(self) -> None:
        """One of the things that go wrong."""
        name = self.random.choice(sorted(self.operators))
        agent = self.random.choice(self.agents)
        match self.random.randrange(8):
            case 0 if name not in self.asleep:
                self.operators[name].kill()
                self.start(name)
            case 1 if name not in self.asleep:
                self.operators[name].child.send_signal(signal.SIGSTOP)
                self.asleep[name] = time.monotonic() + AWAY_SECONDS
            case 2:
                body = {"spec": {"holderIdentity": name}}
                self.lab.admin.request("PATCH", LEASE.format(self.lab.home), body, MERGE_PATCH)
            case 3:
                self.lab.admin.request("DELETE", f"{GROUP}/nodememorystates/{agent.node}")
            case 4 | 5 as kind if name not in self.cut_off:
                self.cut(name, answers_only=kind == 5)
            case 6:
                agent.incarnation = f"{time.time_ns():032x}.{9:032x}"
                agent.beat, agent.kills_total, agent.ceiling_seen = 1, 0, 0
            case _:
                path = f"/api/v1/nodes/{agent.node}"
                labels = self.lab.admin.must("GET", path)["metadata"]["labels"]
                self.lab.admin.request("DELETE", path)
                self.lab.admin.must("POST", "/api/v1/nodes", {"metadata": {"name": agent.node, "labels": labels}})

    def look(self) -> None:
        for name, until in list(self.asleep.items()):
            if time.monotonic() > until:
                self.operators[name].child.send_signal(signal.SIGCONT)
                del self.asleep[name]
        for name, until in list(self.cut_off.items()):
            if time.monotonic() > until:
                self.networks[name].heal()
                del self.cut_off[name]
        exposure = self.lab.get_policy().get("status", {}).get("exposure", {})
        if exposure:
            self.shown.add(exposure["worstCaseHour"])
        assert len(self.killed) <= WORST, f"killed on {self.killed}, shown were {self.shown}"

    def run(self, seconds: float) -> None:
        threads = [threading.Thread(target=self.node_lives, args=(agent,), daemon=True) for agent in self.agents]
        for thread in threads:
            thread.start()
        try:
            ends, next_one = time.monotonic() + seconds, time.monotonic()
            while time.monotonic() < ends:
                if time.monotonic() > next_one:
                    self.disaster()
                    next_one = time.monotonic() + self.random.uniform(0.2, 1.5)
                self.look()
                time.sleep(0.05)
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(10)
            for name in self.asleep:
                self.operators[name].child.send_signal(signal.SIGCONT)
            for network in self.networks.values():
                network.heal()


@pytest.mark.parametrize("seconds", [12, pytest.param(300, marks=pytest.mark.soak)])
def test_whatever_happens_to_operators_and_nodes_no_more_is_killed_than_the_worst_case_shown(
    lab: Lab, seconds: int, request: pytest.FixtureRequest
) -> None:
    chaos = Chaos(lab, random.Random(8), token=lab.all_rights("op"))
    for name in ("one", "two"):
        network = chaos.networks[name] = FaultProxy(lab.plane)
        request.addfinalizer(network.close)
        chaos.start(name)
    nodes = [lab.node(f"n{number}") for number in range(4)]
    lab.policy(limits={"maxStandingKills": STANDING, "killsPerHour": HOURLY, "grantSeconds": GRANT_SECONDS})
    wait_for(lambda: all(lab.state(node) for node in nodes), "an operator leads")
    chaos.agents = [Agent(lab.admin, node) for node in nodes]
    chaos.run(seconds)
    assert chaos.killed, "nobody was ever armed, so this shows nothing"
    assert max(chaos.shown) == WORST, "what is shown is what was bounded"
    for name, operator in chaos.operators.items():
        assert operator.child.poll() is None, name
        assert "Traceback" not in operator.text()
