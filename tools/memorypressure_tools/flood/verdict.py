"""Whether a run counts, and what it showed. Pure.

A run is void when it did not put the question: the reserve was never drained, or the kernel's own OOM killer answered.
It is repeated then, and counted. A kill of somebody else's pod, and a kill without the condition, are answers, wrong
ones, and never void.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LOOK_BACK_SECONDS: Final = 5.0
"""How long before a kill the reserve has to have been seen below the line; a moment after it will do, too."""
LOOK_AHEAD_SECONDS: Final = 1.0


class Outcome(StrEnum):
    """What a run showed; the first four are void."""

    HOG_NOT_FILLED = "HogNotFilled"
    CONDITION_NOT_REACHED = "ConditionNotReached"
    KERNEL_OOM_KILL = "KernelOomKill"
    EVIDENCE_LOST = "EvidenceLost"
    KILLED = "Killed"
    NOTHING_KILLED = "NothingKilled"
    WRONG_VICTIM = "WrongVictim"
    KILL_WITHOUT_CONDITION = "KillWithoutCondition"


VOID: Final = frozenset(
    {
        Outcome.HOG_NOT_FILLED,
        Outcome.CONDITION_NOT_REACHED,
        Outcome.KERNEL_OOM_KILL,
        Outcome.EVIDENCE_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Death:
    """A pod whose processes ended though nobody asked for it: its name, and when, in seconds since boot if known."""

    pod: str
    at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What of a run decides its verdict."""

    #: pods that may be killed, by name
    victims: Collection[str]
    deaths: Sequence[Death]
    #: whom the node's agent says that it killed
    killed_by_us: Collection[str]
    #: times, in seconds since boot, of samples below the policy's line; None: the timeline was lost
    below_line: Sequence[float] | None
    #: whether it lasted: 3 of 5 samples, which a policy that asks for 15 of 50 ms has to see
    condition_held: bool
    atomic_failures: int | None
    #: of /proc/vmstat, over the run; None: not read
    kernel_oom_kills: int | None
    hog_filled: bool
    #: False in a control run, in which the condition must not come
    flooded: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, and why in one sentence."""

    outcome: Outcome
    why: str

    @property
    def valid(self) -> bool:
        """False when the run has to be repeated."""
        return self.outcome not in VOID


def judge(facts: Facts) -> Verdict:
    """The verdict; wrong kills before anything that would make the run void."""
    wrong = set(facts.killed_by_us)
    if not facts.kernel_oom_kills:  # else a death may have been the kernel's doing
        wrong |= {death.pod for death in facts.deaths}
    wrong -= set(facts.victims)
    if wrong:
        return Verdict(Outcome.WRONG_VICTIM, f"{', '.join(sorted(wrong))} was stopped, which nobody wanted")
    if facts.kernel_oom_kills:
        return Verdict(Outcome.KERNEL_OOM_KILL, f"the kernel's OOM killer came {facts.kernel_oom_kills} times")
    if facts.below_line is None or facts.kernel_oom_kills is None:
        return Verdict(Outcome.EVIDENCE_LOST, "the timelines could not be read from the node")
    for death in facts.deaths:
        if not _drained_near(death.at, facts):
            lowest = "never" if not facts.below_line else f"only {len(facts.below_line)} times elsewhere"
            return Verdict(
                Outcome.KILL_WITHOUT_CONDITION, f"{death.pod} was killed; the reserve was seen drained {lowest}"
            )
    if facts.deaths:
        names = ", ".join(death.pod for death in facts.deaths)
        return Verdict(Outcome.KILLED, f"{names} was killed with the reserve drained")
    if not facts.flooded:
        return Verdict(Outcome.NOTHING_KILLED, "no flood, nothing killed")
    if not facts.hog_filled:
        return Verdict(Outcome.HOG_NOT_FILLED, "the hog did not get its memory in time, so there was no flood")
    if not facts.condition_held:
        seen = f"{len(facts.below_line)} samples below the policy's line, never 3 of 5"
        return Verdict(Outcome.CONDITION_NOT_REACHED, seen)
    return Verdict(Outcome.NOTHING_KILLED, f"{len(facts.below_line)} samples below the policy's line, nothing killed")


def _drained_near(at: float | None, facts: Facts) -> bool:
    """Whether the reserve was seen drained when the pod was killed; atomic failures show it where samples have gaps."""
    below = facts.below_line or ()
    if at is None:
        return bool(below) or bool(facts.atomic_failures)
    return any(at - LOOK_BACK_SECONDS <= time <= at + LOOK_AHEAD_SECONDS for time in below) or bool(
        facts.atomic_failures
    )
