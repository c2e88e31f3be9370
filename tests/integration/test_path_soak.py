"""Random faults of everything at once, for minutes, under a flood on every node: the budget holds all the same."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.operator_lab import GROUP, OperatorProcess, wait_for
from support.outages import own_lab
from support.pathlab import LONG_SECONDS, PathLab, PathNode, needs_real_pods
from support.versions import uncovered

from memorypressure_tools.apiclient import MERGE_PATCH

FAULTS_SECONDS = 240.0
STANDING, PER_HOUR, NODES, PODS = 2, 5, 3, 6


class Faults:
    """What may go wrong; `all` are the names. Operators, agents and objects recover, or are started anew, at once."""

    def __init__(self, lab: PathLab, case: str, nodes: list[PathNode], chance: random.Random) -> None:
        self.lab, self.case, self.nodes, self.chance = lab, case, nodes, chance
        self.operators: list[OperatorProcess] = [lab.operator(identity=name) for name in ("one", "two")]
        self.spent = 0
        self.all: list[Callable[[], None]] = [
            self.operator_killed,
            self.operator_sleeps,
            self.sentinel_killed,
            self.reporter_killed,
            self.reporter_sleeps,
            self.journal_gone,
            self.state_deleted,
            self.plan_deleted,
            self.ledger_touched,
            self.server_frozen,
            self.server_killed,
            self.flood_or_calm,
            self.flood_or_calm,
        ]

    def node(self) -> PathNode:
        return self.chance.choice(self.nodes)

    def operator_killed(self) -> None:
        number = self.chance.randrange(len(self.operators))
        self.operators[number].kill()
        self.operators[number] = self.lab.operator(identity=f"again-{time.monotonic_ns()}")

    def operator_sleeps(self) -> None:
        sleeper = self.chance.choice(self.operators).child
        sleeper.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 8))
        sleeper.send_signal(signal.SIGCONT)

    def sentinel_killed(self) -> None:
        node = self.node()
        node.kill_sentinel()
        node.start_sentinel()

    def reporter_killed(self) -> None:
        node = self.node()
        assert node.reporter is not None
        node.reporter.stop(hard=True)
        node.start_reporter()

    def reporter_sleeps(self) -> None:
        node = self.node()
        node.freeze_reporter()
        time.sleep(self.chance.uniform(0.5, 6))
        node.thaw_reporter()

    def journal_gone(self) -> None:
        node = self.node()
        node.kill_sentinel()
        self.spent += node.kills()
        node.machine.journal_path.unlink()
        node.machine.known_past()
        node.start_sentinel()

    def state_deleted(self) -> None:
        self.lab.admin.request("DELETE", f"{GROUP}/nodememorystates/{self.node().name}")

    def plan_deleted(self) -> None:
        self.lab.admin.request("DELETE", f"{GROUP}/nodememoryplans/{self.node().name}")

    def ledger_touched(self) -> None:
        note = {"metadata": {"annotations": {"example.com/edited": str(time.monotonic_ns())}}}
        self.lab.admin.request("PATCH", self.lab.ledger_path(self.case), note, MERGE_PATCH)

    def server_frozen(self) -> None:
        self.lab.plane.freeze_apiserver()
        time.sleep(self.chance.uniform(0.5, 5))
        self.lab.plane.thaw_apiserver()

    def server_killed(self) -> None:
        self.lab.plane.stop_apiserver()
        time.sleep(self.chance.uniform(0, 3))
        self.lab.plane.start_apiserver()

    def flood_or_calm(self) -> None:
        node = self.node()
        node.flood() if self.chance.random() < 0.8 else node.calm()

    def kills(self) -> int:
        """All kills that were counted, in journals that are gone too."""
        return self.spent + sum(node.kills() for node in self.nodes)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_mixture_of_faults_kills_more_than_the_worst_hour(tmp_path: Path, seed: int) -> None:
    needs_real_pods()
    chance = random.Random(seed)
    with own_lab(tmp_path, f"soak{seed}") as lab:
        case = lab.path_policy("soak", maxStandingKills=STANDING, killsPerHour=PER_HOUR, maxVictimsPerEpisode=3)
        nodes = [lab.path_node(case, f"soak{number}", pods=PODS) for number in range(NODES)]
        faults = Faults(lab, case, nodes, chance)
        for node in nodes:
            node.flood()
        wait_for(lambda: faults.kills() > 0, "a first kill", LONG_SECONDS)
        end, done = time.monotonic() + FAULTS_SECONDS, []
        while time.monotonic() < end:
            fault = chance.choice(faults.all)
            done.append(fault.__name__)
            fault()
            assert faults.kills() <= STANDING + PER_HOUR, done
            time.sleep(chance.uniform(0, 3))
        print(f"{len(done)} faults, {faults.kills()} kills of {STANDING + PER_HOUR}")
        assert faults.kills() > STANDING, "the budget was used, so it was refilled"
        dead = sum(node.dead() for node in nodes)
        assert dead <= faults.kills(), "every victim was counted before it died"
        wait_for(lambda: not uncovered(lab.states.seen(), lab.ledgers.seen()), "every raise has its ledger", 30)
