"""What a node's reports mean over time: since when each step is due or clear, and which episode is running. Pure.

All times are seconds of the operator's own monotonic clock, counted from when the operator saw a report; time stamps
of nodes are names here, never compared with a clock. After a restart of the operator everything counts anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from memorypressure.spec import Action, Match, Step
from memorypressure_operator.reports import StateStatus

EPISODE_CLEAR_SECONDS = 120.0
"""An episode ends when the node has been clear for so long (DESIGN 4)."""
FRESH_SECONDS = 35.0
"""A node under pressure reports every 10 s; after three missed reports nobody acts on what it said last."""
BEATS_MISSED = 3


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of one node's pressure."""

    active_since: Mapping[str, float] = field(default_factory=dict)  # trigger -> first seen active
    step_since: Mapping[Action, float] = field(default_factory=dict)  # step whose triggers match -> since when
    clear_since: Mapping[Action, float] = field(default_factory=dict)  # step whose triggers do not -> since when
    episode: str = ""  # "" = none is running
    episode_clear_since: float | None = None

    @property
    def pressed(self) -> bool:
        return bool(self.active_since)


def advance(watch: Watch, status: StateStatus, ladder: tuple[Step, ...], reported_at: float, now: float) -> Watch:
    """The watch after looking at the node's latest report, which arrived at `reported_at`.

    What a report says counts from its arrival; an episode's end counts with the passing of time, too.
    """
    names = [trigger.name for trigger in status.active_triggers]
    active = {name: watch.active_since.get(name, reported_at) for name in names}
    step_since: dict[Action, float] = {}
    clear_since: dict[Action, float] = {}
    for step in ladder:
        held = [name for name in step.triggers if name in active]
        matches = len(held) == len(step.triggers) if step.match is Match.ALL else bool(held)
        if matches:
            step_since[step.action] = watch.step_since.get(step.action, reported_at)
        else:
            clear_since[step.action] = watch.clear_since.get(step.action, reported_at)
    advanced = replace(watch, active_since=active, step_since=step_since, clear_since=clear_since)
    return _episode(advanced, status, reported_at, now)


def _episode(watch: Watch, status: StateStatus, reported_at: float, now: float) -> Watch:
    if watch.pressed:
        return replace(watch, episode=watch.episode or episode_name(status), episode_clear_since=None)
    if not watch.episode:
        return watch
    since = watch.episode_clear_since if watch.episode_clear_since is not None else reported_at
    if now - since >= EPISODE_CLEAR_SECONDS:
        return replace(watch, episode="", episode_clear_since=None)
    return replace(watch, episode_clear_since=since)


def episode_name(status: StateStatus) -> str:
    """The node's own name for the running episode, else what is most stable over a restart of the operator."""
    for episode in status.recent_episodes:
        if episode.id and episode.end is None:
            return episode.id
    condition = status.condition("UnderPressure")
    if condition is not None and condition.status == "True" and condition.last_transition_time:
        return f"since-{condition.last_transition_time}"
    return f"since-{min((t.since for t in status.active_triggers), default='unknown')}"


def fresh(reported_at: float | None, now: float) -> bool:
    """Whether the last report is young enough to act upon."""
    return reported_at is not None and now - reported_at <= FRESH_SECONDS


def silent(reported_at: float | None, now: float, grant_seconds: int) -> bool:
    """Whether the node has missed three heartbeats, which come every third of `grant_seconds`."""
    return reported_at is None or now - reported_at > BEATS_MISSED * grant_seconds / 3


def due_seconds(watch: Watch, step: Step, now: float) -> float | None:
    """How long until the step is due: 0 or less when it is, None while its triggers do not match."""
    since = watch.step_since.get(step.action)
    return None if since is None else since + step.after_seconds - now
