"""What the decision loop remembers between passes; all of it may be lost in a restart, and only caution follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from memorypressure.selection import Selection
from memorypressure.spec import Action, Policy
from memorypressure_operator.pods import PodView
from memorypressure_operator.pressure import Watch


def now_text() -> str:
    """This moment as the API writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_NOBODY: Mapping[str, "Killed"] = {}


@dataclass(slots=True)
class Outstanding:
    """An eviction whose pod is still there. Times on the monotonic clock."""

    pod: PodView
    policy: str
    grace_seconds: int
    since_seconds: float
    deleted_again: bool = False
    not_ending: bool = False  # read again after its grace: it is not being deleted at all
    failed: bool = False  # the API server answered that it failed: looked up soon, and uncounted if nothing came of it
    acted_before: float | None = None  # the node's `acted_at` before it


@dataclass(frozen=True, slots=True)
class Cleanup:
    """A killed pod that is to be evicted: when to try next, and since when it waits (monotonic)."""

    due_seconds: float
    since_seconds: float


@dataclass(frozen=True, slots=True)
class Killed:
    """A pod that its node tells that it killed, and since when that is known here (monotonic)."""

    name: str
    since_seconds: float


@dataclass(slots=True)
class NodeMemory:
    """One node. `acted_at`: the last eviction or kill seen. `slot`: it counts for maxConcurrentNodes.

    Thousands of nodes are calm: their empty collections are shared ones.
    """

    watch: Watch = field(default_factory=Watch)
    selection: Selection | None = None
    chosen_from: Mapping[str, Policy] | None = None  # the valid policies at that time, one mapping each time
    outstanding: Outstanding | None = None
    acted_at: float | None = None
    victims: int = 0
    acts: tuple[float, ...] = ()  # evictions and kills since the node was clear for 60 s
    slot: bool = False
    pressed: bool | None = None  # UnderPressure as last told; None = not known yet
    killed_at: float | None = None  # by the operator's clock; None: no kill of the node's is known
    pressed_at: float | None = None
    cleanups: dict[str, Cleanup] = field(default_factory=dict)  # by the uid of a killed pod
    kills_counted: tuple[str, int] | None = None  # incarnation and killsTotal of the last report
    kills_untold: tuple[float, ...] = ()  # when the count rose for kills that no report has told of
    killed: Mapping[str, Killed] = field(default_factory=lambda: _NOBODY)  # by uid: pods that have not gone yet
    actions_seen: frozenset[str] | None = None  # ids in the last report; None = none was looked at yet
    actions_unsure: frozenset[str] = frozenset()  # ids there at first sight, of which the next report tells how old
    born_seconds: float = 0.0
    inherited: bool = False  # its episode began before this process looked: evictions on record count for it
    dry: frozenset[Action] = frozenset()  # what DryRun told in this episode
    denials: frozenset[str] = frozenset()  # what was told as denied in this episode
    retry_at: float = 0.0  # no eviction is tried before
    taint_retry_at: float = 0.0  # the API server has refused a change of our taint
    plan_retry_at: float = 0.0  # the same of its plan
    refused: frozenset[str] = frozenset()  # uids whose eviction was refused since the list was begun
    refused_seconds: float = 0.0  # how long those refusals ask to wait before it is begun again
    planned_at: float | None = None  # when the plan was last found to be as it should be
    planned_for: Policy | None = None  # and by which policy
    plan_of: str = ""  # uid of the policy by which the plan was last found as it should be; "" = not yet
    plan_written: tuple[str, str] = ("", "")  # digest wanted, digest that the API server stored for it

    def has_slot(self, on_record: bool) -> bool:
        """Whether the node counts for maxConcurrentNodes; `on_record`: an eviction there of the last hour is.

        One that an earlier process began to help does until its episode ends.
        """
        return self.slot or (self.inherited and on_record)
