"""What the ladder looks at: limits and policy, triggers and grant, and what became of the kill under way."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from memorypressure.grants import Permit, Refusal
from memorypressure.spec_values import Limits, Mode, Step, Trigger
from memorypressure.triggers import TriggersState
from memorypressure.victims import Ranking

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class HardLimits:
    """The sentinel's own limits, from its command line; orders cannot raise them."""

    kills_per_hour: int = 6
    min_cooldown_seconds: int = 10
    dry_run_only: bool = False


@dataclass(frozen=True, slots=True)
class LadderConfig:
    """What applies at this sample: a change takes effect at once, but never shortens a running cool-down."""

    mode: Mode
    triggers: tuple[Trigger, ...]
    ladder: tuple[Step, ...]
    limits: Limits
    hard: HardLimits = HardLimits()

    @property
    def effective_mode(self) -> Mode:
        """The mode, lowered to DryRun by the command line."""
        return Mode.DRY_RUN if self.hard.dry_run_only and self.mode is Mode.ENFORCE else self.mode

    @property
    def cooldown_ns(self) -> int:
        """The policy's cool-down, not under the sentinel's own."""
        return max(self.limits.cooldown_seconds, self.hard.min_cooldown_seconds) * _NS

    @property
    def watched(self) -> frozenset[str]:
        """Names of the triggers that a step refers to."""
        return frozenset(name for step in self.ladder for name in step.triggers)


class OutcomeKind(StrEnum):
    """What the machine reports about the kill under way."""

    WRITTEN = "Written"
    PROGRESS = "Progress"
    GONE = "Gone"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One report about the kill `action_number`: written to cgroup.kill, memory now at `memory_bytes`, empty, failed.

    Gone is the cgroup being empty or removed. Reports about another action than the one under way change nothing.
    """

    kind: OutcomeKind
    action_number: int
    time_ns: int
    memory_bytes: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that one decision may look at. The sample's time is that of `triggers`.

    `rank` ranks the candidates for the pressed NUMA nodes (empty: the whole machine); it is called only when a kill is
    due and nothing else speaks against it. None where pods are not known: DryRun then decides without a name.
    `movable_free_nodes`: NUMA nodes with a Movable zone above its low.
    """

    now_ns: int
    triggers: TriggersState
    permit: Permit | Refusal
    rank: Callable[[frozenset[int]], Ranking] | None
    outcomes: tuple[Outcome, ...] = ()
    movable_free_nodes: frozenset[int] = frozenset()
    can_kill: bool = True
    lock_held: bool = False
