"""What a node's reports mean over time: since when each step is due or clear, and which episode is running. Pure.

All times are nanoseconds of the operator's own monotonic clock, counted from when the operator saw a report; time
stamps of nodes are names here, never compared with a clock. After a restart of the operator everything counts anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from memorypressure.spec import Action, Step
from memorypressure.steps import StepStatus, StepTimer, advance_steps, readings_from_report
from memorypressure_operator.reports import StateStatus
from memorypressure_operator.shared import Shared

NS = 1_000_000_000
EPISODE_CLEAR_NS = 120 * NS
"""An episode ends when the node has been clear for so long."""
CALM_NS = 60 * NS
"""Clear for so long between two victims, and the first was not futile, as for kills."""
FRESH_NS = 35 * NS
"""A node under pressure reports every 10 s; after three missed reports nobody acts on what it said last."""


_shared = Shared(10_000)
_NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of one node's pressure."""

    active_since_ns: Mapping[str, int] = field(default_factory=dict)  # trigger -> first seen active
    timers: tuple[StepTimer, ...] = ()
    steps: tuple[StepStatus, ...] = ()
    clear_since_ns: Mapping[Action, int] = field(default_factory=dict)  # step whose condition is false -> since when
    episode: str = ""  # "" = none is running
    episode_clear_since_ns: int | None = None

    @property
    def pressed(self) -> bool:
        """Whether any trigger was active in the last report."""
        return bool(self.active_since_ns)

    def step(self, action: Action) -> StepStatus | None:
        """The ladder's step with this action, as it stands; None without one."""
        return next((each for each in self.steps if each.step.action is action), None)


def advance(watch: Watch, status: StateStatus, ladder: tuple[Step, ...], reported_ns: int, now_ns: int) -> Watch:
    """The watch after looking at the node's latest report, which arrived at `reported_ns`.

    What a report says counts from its arrival; an episode's end counts with the passing of time, too.
    """
    names = [trigger.name for trigger in status.active_triggers]
    active = {name: watch.active_since_ns.get(name, reported_ns) for name in names}
    used = tuple({name for step in ladder for name in step.triggers})
    timers, steps = advance_steps(ladder, watch.timers, readings_from_report(used, active), now_ns)
    timers = watch.timers if timers == watch.timers else _shared.keep(timers)
    steps = watch.steps if steps == watch.steps else _shared.keep(steps)
    clear = {
        each.step.action: watch.clear_since_ns.get(each.step.action, reported_ns)
        for each in steps
        if not each.satisfied
    }
    advanced = replace(watch, active_since_ns=active, timers=timers, steps=steps, clear_since_ns=clear)
    return _episode(advanced, status, reported_ns, now_ns)


def _episode(watch: Watch, status: StateStatus, reported_ns: int, now_ns: int) -> Watch:
    if watch.pressed:
        return replace(watch, episode=watch.episode or episode_name(status), episode_clear_since_ns=None)
    if not watch.episode:
        return watch
    since_ns = reported_ns if watch.episode_clear_since_ns is None else watch.episode_clear_since_ns
    if now_ns - since_ns >= EPISODE_CLEAR_NS:
        return replace(watch, episode="", episode_clear_since_ns=None)
    return replace(watch, episode_clear_since_ns=since_ns)


def calm(watch: Watch, now_ns: int) -> bool:
    """Whether the node has been clear for so long that what was done before has helped."""
    since_ns = watch.episode_clear_since_ns
    return not watch.pressed and since_ns is not None and now_ns - since_ns >= CALM_NS


def episode_name(status: StateStatus) -> str:
    """The node's own name for the running episode, else what is most stable over a restart of the operator."""
    for episode in status.recent_episodes:
        if episode.id and episode.end is None:
            return episode.id
    condition = status.condition("UnderPressure")
    if condition is not None and condition.status == "True" and condition.last_transition_time:
        return f"since-{condition.last_transition_time}"
    return f"since-{min((t.since for t in status.active_triggers), default='unknown')}"


def fresh(changed_ns: int | None, now_ns: int) -> bool:
    """Whether the last report is young enough to act upon. None: no report came since this process started."""
    return changed_ns is not None and now_ns - changed_ns <= FRESH_NS
