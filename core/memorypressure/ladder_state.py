"""What a ladder carries from sample to sample, and what of it a journal keeps over a restart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memorypressure.reasons import Reason
from memorypressure.records import EpisodeOutcome, EpisodeRecord, Phase, episode_id
from memorypressure.steps import StepTimer


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill that was decided and has not ended. `lowest_bytes`, `fell_ns`: the least its memory has been, and when.

    `resumed_ns`: when a new process went on waiting for it, None in the one that decided.
    """

    number: int
    uid: str
    decided_ns: int
    written: bool = False
    lowest_bytes: int | None = None
    fell_ns: int = 0
    resumed_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode; `end_ns` None while it runs. `victims` are attempts, failed ones too."""

    number: int
    start_ns: int
    cause: Reason
    worst: str
    triggers: frozenset[str]
    victims: int = 0
    would_have: int = 0
    end_ns: int | None = None
    futile: bool = False

    @property
    def outcome(self) -> EpisodeOutcome:
        """How it ended."""
        if self.end_ns is None:
            return EpisodeOutcome.RUNNING
        if self.futile:
            return EpisodeOutcome.FUTILE
        return EpisodeOutcome.RECOVERED_AFTER_ACTION if self.victims else EpisodeOutcome.RECOVERED

    def record(self, incarnation: str, unix_minus_clock_ns: int) -> EpisodeRecord:
        """The API's record; `unix_minus_clock_ns` turns the ladder's clock into the time for people."""
        return EpisodeRecord(
            id=episode_id(incarnation, self.number),
            start_unix_ns=self.start_ns + unix_minus_clock_ns,
            end_unix_ns=None if self.end_ns is None else self.end_ns + unix_minus_clock_ns,
            worst=self.worst,
            reason=self.cause,
            actions=self.victims + self.would_have,
            outcome=self.outcome,
        )


@dataclass(frozen=True, slots=True)
class LadderState:
    """What is carried from sample to sample. `kills` and `shadow_kills` are the times of the last hour's.

    `calm` says that there were 60 s of clear since the last kill. `episode` is the last one, running or ended.
    """

    phase: Phase = Phase.CLEAR
    last_ns: int | None = None
    timers: tuple[StepTimer, ...] = ()
    episode: Episode | None = None
    episodes: int = 0
    actions: int = 0
    clear_since_ns: int | None = None
    kill: Kill | None = None
    kills: tuple[int, ...] = ()
    shadow_kills: tuple[int, ...] = ()
    calm: bool = True
    ended_ns: int | None = None
    cooldown_until_ns: int = 0
    futile_until_ns: int = 0
    born_ns: int | None = None

    @property
    def running(self) -> Episode | None:
        """The episode that runs, also within the 120 s of clear after which it ends."""
        return self.episode if self.episode is not None and self.episode.end_ns is None else None


def initial(now_ns: int, unknown_past: bool) -> LadderState:
    """The state of a new journal. `unknown_past`: kills may have happened of which it knows nothing (a replaced pod).

    Then it begins with a whole cool-down. A machine without a cluster, replay and tests know their past.
    """
    return LadderState(born_ns=now_ns if unknown_past else None)


def durable(state: LadderState) -> dict[str, Any]:
    """What must survive the process, as JSON for the journal."""
    episode, kill = state.running, state.kill
    return {
        "episodes": state.episodes,
        "actions": state.actions,
        "kills": list(state.kills),
        "shadowKills": list(state.shadow_kills),
        "calm": state.calm,
        "cooldownUntil": state.cooldown_until_ns,
        "futileUntil": state.futile_until_ns,
        "born": state.born_ns,
        "ended": state.ended_ns,
        "kill": None if kill is None else {"number": kill.number, "uid": kill.uid, "decided": kill.decided_ns},
        "episode": None
        if episode is None
        else {
            "number": episode.number,
            "start": episode.start_ns,
            "cause": episode.cause.value,
            "worst": episode.worst,
            "triggers": sorted(episode.triggers),
            "victims": episode.victims,
            "wouldHave": episode.would_have,
            "futile": episode.futile,
        },
    }


def restored(value: Mapping[str, Any] | None, now_ns: int) -> LadderState:
    """The state that `durable` described, for a process that begins at `now_ns`.

    A kill that was decided is waited for as if it had been written, and as long as if it had been decided now: whether
    it succeeded is known by looking, and nobody looked meanwhile. What is not understood, or lies in the future (a
    clock of another boot), is an unknown past: the state of a new journal, with a whole cool-down.
    """
    if value is None:
        return initial(now_ns, unknown_past=True)
    try:
        kill, episode = value["kill"], value["episode"]
        state = LadderState(
            episodes=_whole(value["episodes"]),
            actions=_whole(value["actions"]),
            kills=tuple(_past(time_ns, now_ns) for time_ns in value["kills"]),
            shadow_kills=tuple(_past(time_ns, now_ns) for time_ns in value["shadowKills"]),
            calm=value["calm"] is True,
            cooldown_until_ns=_whole(value["cooldownUntil"]),
            futile_until_ns=_whole(value["futileUntil"]),
            born_ns=None if value["born"] is None else _past(value["born"], now_ns),
            ended_ns=None if value["ended"] is None else _past(value["ended"], now_ns),
        )
        if kill is not None:
            decided_ns = _past(kill["decided"], now_ns)
            number, uid = _whole(kill["number"]), str(kill["uid"])
            state = replace(state, kill=Kill(number, uid, decided_ns, True, None, decided_ns, resumed_ns=now_ns))
        if episode is not None:
            state = replace(
                state,
                episode=Episode(
                    number=_whole(episode["number"]),
                    start_ns=_past(episode["start"], now_ns),
                    cause=Reason(episode["cause"]),
                    worst=str(episode["worst"]),
                    triggers=frozenset(str(name) for name in episode["triggers"]),
                    victims=_whole(episode["victims"]),
                    would_have=_whole(episode["wouldHave"]),
                    futile=episode["futile"] is True,
                ),
            )
    except (KeyError, TypeError, ValueError):
        return initial(now_ns, unknown_past=True)
    return state


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number from 0")
    return value


def _past(value: Any, now_ns: int) -> int:
    if _whole(value) > now_ns:
        raise ValueError(f"{value} is in the future")
    return int(value)
