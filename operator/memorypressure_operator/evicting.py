"""Evictions and clean-ups in the pass over one node: what the loop knows, put together for those that act."""

import functools
import time
from collections.abc import Callable

from memorypressure.spec import Action, Match, Mode, Policy, Step
from memorypressure_operator import pressure
from memorypressure_operator.acting import Actor, Situation
from memorypressure_operator.caps import for_nodes
from memorypressure_operator.cleanups import After, Cleaner
from memorypressure_operator.following import Follower
from memorypressure_operator.health import Health
from memorypressure_operator.inforce import InForce
from memorypressure_operator.look import Look, is_fresh, observe_reaction
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.planning import Planner, ages
from memorypressure_operator.registry import Registry
from memorypressure_operator.rounds import Rounds
from memorypressure_operator.settings import Settings

NO_GRACE_SECONDS = 10
"""Grace of a clean-up where the policy has no Evict step."""
LOOK_AGAIN_SECONDS = 5.0
NOT_ALL_SECONDS = 0.5
"""Until all nodes were looked at once it is asked so often whether they were."""


class Evicting:
    """Used by the decision loop only."""

    def __init__(  # noqa: PLR0913, PLR0917  wiring
        self,
        actor: Actor,
        follower: Follower,
        cleaner: Cleaner,
        registry: Registry,
        planner: Planner,
        rounds: Rounds,
        in_force: InForce,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self._actor = actor
        self._follower = follower
        self._cleaner = cleaner
        self._registry = registry
        self._planner = planner
        self._rounds = rounds
        self._in_force = in_force
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._settings = settings

    def run(self, look: Look) -> float:
        """Follows what is under way, cleans up after kills, evicts if that is due; seconds until the next look."""
        memory, node, policy = look.memory, look.node, look.policy
        waits = [self._settings.resync_seconds]
        again = self._follower.follow(memory, node, look.pods, look.mode)
        if again is not None:
            waits.append(again)
        step = next((each for each in policy.ladder if each.evict), None) if policy else None
        if memory.cleanups and (look.mode is not Mode.ENFORCE or policy is None):
            self._cleaner.give_up(memory, node, look.pods)
        elif memory.cleanups and policy is not None and not self._rounds.knows_all():
            waits.append(NOT_ALL_SECONDS)
        elif memory.cleanups and policy is not None:
            again = self._cleaner.run(memory, self._after(look, policy, step))
            if again is not None:
                waits.append(again)
        status = memory.watch.step(Action.EVICT)
        if policy is None or step is None or status is None or status.due_ns is None:
            return min(waits)
        if not status.due:
            return min(*waits, (status.due_ns - look.now_ns) / pressure.NS)
        if not self._rounds.knows_all():
            return min(*waits, NOT_ALL_SECONDS)
        before = memory.outstanding
        store = self._rounds.ready_store(policy) if look.mode is Mode.ENFORCE else None
        denied = self._actor.act(memory, self._situation(look, policy, step), store)
        if memory.outstanding is not before:
            observe_reaction(self._metrics, memory, self._clock())
            waits.append(1.0)
        if denied is not None and denied.again_seconds is not None:
            waits.append(denied.again_seconds)
        return min(*waits, LOOK_AGAIN_SECONDS)

    def _after(self, look: Look, policy: Policy, step: Step | None) -> After:
        self._rounds.ready_store(policy)
        return After(
            node=look.node,
            pods=look.pods,
            grace_seconds=_grace_seconds(step),
            ledgers=self._rounds.ledgers(look.node.name, policy.name),
            protected=functools.partial(self._planner.veto, policy),
        )

    def _situation(self, look: Look, policy: Policy, step: Step) -> Situation:
        name = look.node.name
        in_force = len(self._in_force.of(policy.name))
        limits = for_nodes(policy.limits, in_force, self._settings)
        pods = (pod for uid, pod in look.pods.items() if uid not in look.memory.cleanups)
        candidates = self._planner.eviction_candidates(policy, pods)

        def fresh() -> bool:
            return is_fresh(self._registry, name, int(self._clock() * pressure.NS))

        def still() -> bool:
            with self._registry.lock:
                state = self._registry.tables.states.get(name)
                entry = self._registry.tables.policies.get(policy.name)
            if state is None or entry is None or entry.generation != policy.generation or entry.uid != policy.uid:
                return False
            active = {trigger.name for trigger in state.status.active_triggers}
            needed = [trigger in active for trigger in step.triggers]
            holds = all(needed) if step.match is Match.ALL else any(needed)
            return holds and fresh() and state.spec.get("mode") == look.mode.value

        return Situation(
            node=look.node,
            state=look.state,
            policy=policy,
            mode=look.mode,
            grace_seconds=_grace_seconds(step),
            fresh=fresh(),
            candidates=candidates,
            ages=ages(candidates, time.time()),
            pods=look.pods,
            evictions_per_hour=limits.evictions_per_hour,
            concurrent_nodes=self._rounds.slots(policy.name),
            concurrent_limit=limits.max_concurrent_nodes.of(in_force),
            workload_allowance=lambda workload: self._planner.allowance(policy, workload),
            protected=lambda pod: self._planner.veto(policy, pod),
            blind=self._health.blind(),
            still=still,
        )


def _grace_seconds(step: Step | None) -> int:
    return step.evict.grace_period_seconds if step is not None and step.evict is not None else NO_GRACE_SECONDS
