"""A series of runs that can be interrupted: which are wanted, which are there, what comes next, how long it takes.

Results are lines of JSON, one a run, appended when the run is over: a series goes on where it stopped. Runs of one
round are interleaved, so that a machine that becomes slower or faster does so for every arm.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from memorypressure_tools.guest import store
from memorypressure_tools.guest.programs import SOURCES as PROGRAMS
from memorypressure_tools.lab.arms import ARMS, OURS, Arm, Killer
from memorypressure_tools.lab.orders import run_orders
from memorypressure_tools.lab.scenarios import SCENARIOS, Scenario
from memorypressure_tools.lab.script import guest_script

GUEST_SOURCES: Final = (Path(__file__).with_name("guest.sh"), Path(__file__).with_name("systemd.sh"), PROGRAMS)
"""What runs in a guest beside its script: shell functions, and the sources of the load, of probes and of the flood."""
GRANTER: Final = Path(__file__).with_name("granter.py")
"""What stands in for the operator in a guest with our agent."""
EVERY_ARM: Final = ("flood", "leak")
"""Scenarios in which all arms are compared."""
ELSEWHERE: Final = ("none", OURS, "earlyoom", "nohang")
ALSO: Final[Mapping[str, tuple[str, ...]]] = {
    "flood": ("ours-min-free",),
    "flood-numa": ("ours-killfast-rt-allnodes",),
}
EVERYWHERE_BUT: Final = frozenset({"ours-killfast-rt-allnodes", "ours-killfast-rt-half", "ours-min-free"})
"""Arms that say nothing on one NUMA node or without a flood, or that were there to find the default policy."""
NEEDED: Final = frozenset(
    {
        *("atomic_failures", "worst_stall_ms", "psi_full_seconds", "kill_after_start_seconds", "deaths"),
        *("kills", "innocent_kills", "control_phase_kills", "kernel_oom_kills"),
    }
)
"""Figures that every run has and bars and tables count on."""
MOST_VOID: Final = 3
"""A cell's run that was void so often is given up."""
ASSUMED_SECONDS_BESIDE: Final = 20.0
"""What a run takes besides the time that is sampled: the guest's boot, its evidence."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a series, by what it is a run of."""

    scenario: str
    arm: str
    number: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run: figures, or the reason why it is void. `recipe` tells runs of other definitions apart."""

    scenario: str
    arm: str
    number: int
    kernel: str
    recipe: str
    agent: str
    """Digest of the sources of core and agent; empty for arms without it."""
    took_seconds: float
    figures: Mapping[str, Any] | None
    void: str = ""

    @property
    def cell(self) -> Cell:
        """Which run it is."""
        return Cell(self.scenario, self.arm, self.number)


class SeriesError(Exception):
    """Results that cannot be used; the text names file and line."""


def recipe(scenario: Scenario, arm: Arm) -> str:
    """What identifies the definition of a run: scenario, arm, our agent's orders (so the default policy), the guest."""
    return _recipe(scenario.name, arm.name) if SCENARIOS.get(scenario.name) is scenario else _digests(scenario, arm)


@functools.cache
def _recipe(scenario: str, arm: str) -> str:
    return _digests(SCENARIOS[scenario], ARMS[arm])


def _digests(scenario: Scenario, arm: Arm) -> str:
    is_ours = arm.killer is Killer.OURS
    orders = run_orders(scenario, arm) if is_ours else b""
    guest = store.digest(guest_script(scenario, arm), *GUEST_SOURCES, *([GRANTER] if is_ours else ()))
    return f"{scenario.digest}-{arm.digest}-{hashlib.sha256(orders).hexdigest()[:8]}-{guest[:8]}"


def default_arms(scenario: str) -> tuple[str, ...]:
    """The arms of a scenario when none were asked for."""
    everyone = tuple(name for name in ARMS if name not in EVERYWHERE_BUT)
    return (*(everyone if scenario in EVERY_ARM else ELSEWHERE), *ALSO.get(scenario, ()))


def cells(scenarios: Sequence[str], arms: Sequence[str], runs: int) -> Iterator[Cell]:
    """All runs of a series in their order; without arms each scenario has its own.

    A round holds one run of everything; each round begins with another arm.
    """
    for number in range(1, runs + 1):
        for scenario in scenarios:
            chosen = tuple(arms) or default_arms(scenario)
            first = (number - 1) % len(chosen)
            for arm in (*chosen[first:], *chosen[:first]):
                yield Cell(scenario, arm, number)


class Results:
    """The file of results of one kernel."""

    agent: str | None = None
    """Digest of the agent whose runs count; None: of whichever agent they are."""
    kernel: str | None = None
    """Release of the kernel whose runs count, as `agent`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all, self._whole_bytes = _read(path)

    def usable(self) -> list[Result]:
        """Runs of today's definitions with figures, the last one of each cell."""
        found = {each.cell: each for each in self.all if each.figures is not None and self._counts(each)}
        return list(found.values())

    def reportable(self) -> list[Result]:
        """Runs with figures that a report can show: of each arm those of today's definition or, without any, the last.

        All runs of a scenario are of one definition of it: arms stand beside each other in a table.
        """
        known = [each for each in self.all if each.figures and each.scenario in SCENARIOS and each.arm in ARMS]
        todays_last = sorted(known, key=is_current)
        part = {each.scenario: _scenario_part(each) for each in todays_last}
        of_arm = {(each.scenario, each.arm, _scenario_part(each)): each.recipe for each in todays_last}
        return list(
            {
                each.cell: each
                for each in known
                if of_arm.get((each.scenario, each.arm, part[each.scenario])) == each.recipe
            }.values()
        )

    def outdated(self) -> int:
        """How many runs are of other definitions, another agent or another kernel than today's."""
        return sum(not self._counts(each) for each in self.all)

    def voids(self, cell: Cell) -> int:
        """How often that run was void under today's definitions."""
        return sum(each.cell == cell and each.figures is None and self._counts(each) for each in self.all)

    def _counts(self, result: Result) -> bool:
        of_ours = self.agent is None or result.agent in ("", self.agent)
        return is_current(result) and of_ours and self.kernel in (None, result.kernel)

    def left(self, wanted: Sequence[Cell]) -> list[Cell]:
        """What of the wanted runs is still to be done."""
        done = {each.cell for each in self.usable()}
        return [cell for cell in wanted if cell not in done and self.voids(cell) < MOST_VOID]

    def add(self, result: Result) -> None:
        """Appends a result, in the place of a line that was cut off; it is on the disk when this returns."""
        self.all.append(result)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if self._whole_bytes is not None:
                file.truncate(self._whole_bytes)
                self._whole_bytes = None
            file.write(json.dumps(asdict(result), separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def seconds_of(self, runs: Sequence[Cell]) -> float:
        """What these runs take together: the time that each samples, and what runs took besides it so far."""
        beside = [
            each.took_seconds - SCENARIOS[each.scenario].sampled_seconds
            for each in self.all
            if each.took_seconds > 0 and each.scenario in SCENARIOS
        ]
        each_beside = sum(beside) / len(beside) if beside else ASSUMED_SECONDS_BESIDE
        return sum(SCENARIOS[run.scenario].sampled_seconds + each_beside for run in runs)


def is_current(result: Result) -> bool:
    """Whether a run is of today's definition, by whichever agent and on whichever kernel."""
    scenario, arm = SCENARIOS.get(result.scenario), ARMS.get(result.arm)
    return scenario is not None and arm is not None and result.recipe == recipe(scenario, arm)


def _scenario_part(result: Result) -> str:
    """The scenario's digest, which every recipe begins with, also those that did not name what the guest runs."""
    return result.recipe.partition("-")[0]


def _read(path: Path) -> tuple[list[Result], int | None]:
    """The results, and after how many bytes a line was cut off, if one was: a line counts when its end is there.

    Such a line was being written when the machine went down: that run is made again.
    """
    if not path.exists():
        return [], None
    content = path.read_bytes()
    *lines, cut = content.split(b"\n")
    results = [_result(path, number, line) for number, line in enumerate(lines, 1)]
    return results, len(content) - len(cut) if cut else None


def _result(path: Path, number: int, line: bytes) -> Result:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or set(fields) != set(Result.__dataclass_fields__):
            raise ValueError("not the fields of a result")
        figures = fields["figures"]
        if figures is not None and not (isinstance(figures, dict) and set(figures) >= NEEDED):
            raise ValueError("not the figures of a run")
    except ValueError as error:
        raise SeriesError(f"{path}:{number}: {error}; move the file away to begin anew") from None
    return Result(**fields)
