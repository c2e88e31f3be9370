"""What was decided and what became of it: values for the journal, the API's status, logs and replay.

The JSON shapes are those of `NodeMemoryState.status.recentEpisodes[]` and `recentActions[]`. Times in records are
nanoseconds since the Unix epoch, for people; decisions never read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from memorypressure.reasons import Reason
from memorypressure.spec_values import Action, Mode

MAX_WORST_CHARACTERS = 1024
"""The API's bound for `worst`."""

MAX_CONTAINER_CHARACTERS = 128
"""The API's bound for `pod.container`."""

Input = str | int | bool | tuple[str, ...]


class RecordError(ValueError):
    """A record that cannot be read back: the path of the field and what should stand there."""


class Phase(StrEnum):
    """Where a node's episode stands."""

    CLEAR = "Clear"
    SUSPECTED = "Suspected"
    PRESSURE = "Pressure"
    ACTING = "Acting"
    WAITING = "Waiting"
    COOLING_DOWN = "CoolingDown"


class ActionResult(StrEnum):
    """How an action ended. Denied: something outside said no (a grant, a budget, a 429).

    Incomplete: what was done cannot be taken back, but not all of it was seen to end. A container was not reached, or
    its processes outlived the wait for them, or the process that counted the kill ended before it could tell.
    """

    SUCCESS = "Success"
    INCOMPLETE = "Incomplete"
    FAILED = "Failed"
    DENIED = "Denied"


class EpisodeOutcome(StrEnum):
    """How an episode ended, or that it has not."""

    RUNNING = "Running"
    RECOVERED = "Recovered"
    RECOVERED_AFTER_ACTION = "RecoveredAfterAction"
    FUTILE = "Futile"


@dataclass(frozen=True, slots=True)
class PodRef:
    """The pod that an action was about; `container` is the runtime's id of the one container that it was about."""

    uid: str
    namespace: str
    name: str
    container: str = ""

    def to_json(self) -> dict[str, str]:
        """The `pod` object of a recent action."""
        pod = {"uid": self.uid, "namespace": self.namespace, "name": self.name}
        return {**pod, "container": self.container} if self.container else pod


@dataclass(frozen=True, slots=True)
class Victim:
    """Whom a Kill decision is about: the pod and the container cgroups to be killed, with the figures it was chosen by.

    `containers` are the ids of `ContainerUsage`, in the order in which they are killed; `relief_bytes` is what they
    give back on the pressed NUMA nodes, None where the tree has no memory figures.
    """

    pod: PodRef
    containers: tuple[str, ...]
    relief_bytes: int | None
    priority: int
    over_request: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do at a sample and why; `action` None is a decision too: it did nothing because of `reason`.

    The node itself only ever decides `Action.KILL`. `mode` DryRun with an action means "would have".
    """

    time_ns: int
    phase: Phase
    action: Action | None
    mode: Mode
    reason: Reason
    message: str
    episode: int = 0
    """Number of the episode since the journal was made; 0 outside of one."""
    action_number: int = 0
    """Number of the action since the journal was made; 0 without an action."""
    victim: Victim | None = None
    cause: Reason = Reason.NO_PRESSURE
    """What the triggers saw: the reason of `UnderPressure` and of the Events about the action."""
    inputs: tuple[tuple[str, Input], ...] = ()
    """The figures that the decision rests on, in a fixed order."""

    @property
    def acts(self) -> bool:
        """Whether something is to be written to the machine."""
        return self.action is not None and self.mode is Mode.ENFORCE

    def to_json(self) -> dict[str, Any]:
        """One decision as a line of the log, of replay and of the journal."""
        return {
            "timeNanoseconds": self.time_ns,
            "phase": self.phase.value,
            "action": self.action.value if self.action else None,
            "mode": self.mode.value,
            "reason": self.reason.value,
            "message": self.message,
            "cause": self.cause.value,
            "episode": self.episode,
            "actionNumber": self.action_number,
            "victim": None
            if self.victim is None
            else {
                "pod": self.victim.pod.to_json(),
                "containers": list(self.victim.containers),
                "reliefBytes": self.victim.relief_bytes,
                "priority": self.victim.priority,
                "overRequest": self.victim.over_request,
            },
            "inputs": {name: list(value) if isinstance(value, tuple) else value for name, value in self.inputs},
        }


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """An entry of `status.recentActions`. `id` is unique over restarts: `<incarnation's first 8>-a<number>`."""

    id: str
    time_unix_ns: int
    action: Action
    mode: Mode
    result: ActionResult
    reason: Reason
    pod: PodRef | None
    freed_bytes: int | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """The API's shape; what is not known is left out."""
        out: dict[str, Any] = {
            "id": self.id,
            "time": rfc3339(self.time_unix_ns),
            "action": self.action.value,
            "mode": self.mode.value,
            "result": self.result.value,
            "reason": self.reason.value,
        }
        if self.pod is not None:
            out["pod"] = self.pod.to_json()
        if self.freed_bytes is not None:
            out["freedBytes"] = self.freed_bytes
        return out


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """An entry of `status.recentEpisodes`; `end_unix_ns` None while it runs."""

    id: str
    start_unix_ns: int
    end_unix_ns: int | None
    worst: str
    """The message of the trigger that started it or made it worse: a string for people."""
    reason: Reason
    actions: int
    outcome: EpisodeOutcome

    def to_json(self) -> dict[str, Any]:
        """The API's shape; `end` is left out while the episode runs."""
        out: dict[str, Any] = {
            "id": self.id,
            "start": rfc3339(self.start_unix_ns),
            "worst": self.worst[:MAX_WORST_CHARACTERS],
            "reason": self.reason.value,
            "actions": self.actions,
            "outcome": self.outcome.value,
        }
        if self.end_unix_ns is not None:
            out["end"] = rfc3339(self.end_unix_ns)
        return out


def action_id(incarnation: str, number: int) -> str:
    """The id of the action with that number since the journal was made."""
    return f"{incarnation[:8]}-a{number}"


def episode_id(incarnation: str, number: int) -> str:
    """The id of the episode with that number since the journal was made."""
    return f"{incarnation[:8]}-e{number}"


def action_record(
    decision: Decision,
    incarnation: str,
    time_unix_ns: int,
    result: ActionResult,
    freed_bytes: int | None = None,
    message: str = "",
) -> ActionRecord:
    """The record of a decision that had an action; ValueError for one that had none."""
    if decision.action is None:
        raise ValueError("a decision without an action has no action record")
    return ActionRecord(
        id=action_id(incarnation, decision.action_number),
        time_unix_ns=time_unix_ns,
        action=decision.action,
        mode=decision.mode,
        result=result,
        reason=decision.cause,
        pod=decision.victim.pod if decision.victim else None,
        freed_bytes=freed_bytes,
        message=message or decision.message,
    )


def rfc3339(unix_ns: int) -> str:
    """The time in UTC with microseconds, as Kubernetes' MicroTime prints it."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{rest_ns // 1000:06d}Z"


def unix_ns_from(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time with a zone; RecordError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RecordError(f"{text!r} is no time such as 2026-01-31T12:00:00Z") from error
    if moment.tzinfo is None:
        raise RecordError(f"{text!r} has no time zone; write 2026-01-31T12:00:00Z")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def pod_ref_from(value: Mapping[str, Any]) -> PodRef:
    """The pod that `PodRef.to_json` wrote; KeyError for a part that is missing."""
    return PodRef(value["uid"], value["namespace"], value["name"], value.get("container", ""))


def action_record_from(value: Mapping[str, Any]) -> ActionRecord:
    """The record that an entry of `status.recentActions` stands for, as the operator reads it; RecordError."""
    try:
        pod = value.get("pod")
        return ActionRecord(
            id=str(value["id"]),
            time_unix_ns=unix_ns_from(value["time"]),
            action=Action(value["action"]),
            mode=Mode(value["mode"]),
            result=ActionResult(value["result"]),
            reason=Reason(value["reason"]),
            pod=None if pod is None else pod_ref_from(pod),
            freed_bytes=value.get("freedBytes"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"recentActions: {error}") from error
