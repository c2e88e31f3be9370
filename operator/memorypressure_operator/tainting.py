"""The taint in the pass over one node: what the loop knows, put together for `tainter`, and what came of it told."""

import logging
from collections.abc import Callable

from memorypressure.reasons import Reason
from memorypressure.spec import Action, Mode
from memorypressure_operator import pressure, tainter
from memorypressure_operator.api import Api
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.events import Event, EventWriter, node_subject
from memorypressure_operator.look import Look, is_fresh, is_silent, observe_reaction, silent_after_seconds
from memorypressure_operator.memory import now_text
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.registry import Registry
from memorypressure_operator.settings import Settings
from memorypressure_operator.tallies import Tally

log = logging.getLogger(__name__)

REFUSED_RETRY_SECONDS = 10.0


class Tainting:
    """Used by the decision loop only. `holds` is the Lease's deadline."""

    def __init__(
        self,
        api: Api,
        registry: Registry,
        holds: Callable[[], bool],
        events: EventWriter,
        metrics: Metrics,
        tally: Callable[[str], Tally],
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self._api = api
        self._registry = registry
        self._holds = holds
        self._events = events
        self._metrics = metrics
        self._tally = tally
        self._clock = clock
        self._settings = settings

    def run(self, look: Look) -> float:
        """Makes our taint on the node what it should be; seconds until time alone may change it."""
        watch, node, policy = look.memory.watch, look.node, look.policy
        status = watch.step(Action.TAINT)
        reported = self._registry.reported_at.get(node.name, self._clock())
        clear_ns = watch.clear_since_ns.get(Action.TAINT)
        decision = tainter.decide(
            tainter.TaintInput(
                taints=node.taints,
                mode=look.mode,
                step=status.step if status else None,
                matches=bool(status and status.due),
                fresh=is_fresh(self._registry, node.name, int(self._clock() * pressure.NS)),
                silent=is_silent(self._registry, node.name, policy, self._clock()),
                clear_seconds=None if clear_ns is None else (look.now_ns - clear_ns) / pressure.NS,
                silent_seconds=self._clock() - reported,
                beat_limit_seconds=silent_after_seconds(policy),
                killed_seconds=self._killed_seconds(look),
            )
        )
        name = policy.name if policy else ""
        if decision.reason is Reason.WOULD_TAINT and policy and Action.TAINT not in look.memory.dry:
            look.memory.dry |= {Action.TAINT}
            self._tell_taint(look, decision.reason, f"node {node.name} {decision.message}", watch.episode)
            self._metrics.actions.labels(name, "Taint", Mode.DRY_RUN.value, "Success").inc()
            self._tally(name).add("dryRun", f"{look.node.uid}/{watch.episode}/Taint", time=now_text())
        if decision.changes and self._holds():
            left = look.memory.taint_retry_at - self._clock()
            if left > 0:
                return left
            try:
                outcome = tainter.apply(self._api, node, decision.effect)
            except ApiRefused as refusal:  # evictions do not wait for it
                log.warning("node %s: taint not changed: %s", node.name, refusal)
                self._metrics.reconcile_errors.labels("ApiRefused").inc()
                wait = max(REFUSED_RETRY_SECONDS, refusal.retry_after_seconds)
                look.memory.taint_retry_at = self._clock() + wait
                return wait
            if outcome is tainter.TaintOutcome.DONE:
                log.info("node %s: %s", node.name, decision.message)
                self._tell_taint(look, decision.reason, f"node {node.name} {decision.message}", str(look.now_ns))
                if decision.effect is not None:
                    observe_reaction(self._metrics, look.memory, self._clock())
                    self._tally(name).add("taints", f"{look.node.uid}/{look.now_ns}", time=now_text())
                    self._metrics.actions.labels(name, "Taint", Mode.ENFORCE.value, "Success").inc()
            return 1.0
        return decision.again_seconds if decision.again_seconds is not None else self._settings.resync_seconds

    def _killed_seconds(self, look: Look) -> float | None:
        """Since the node's last kill, where the ladder's Taint and Kill steps have a trigger in common."""
        taint, kill = look.memory.watch.step(Action.TAINT), look.memory.watch.step(Action.KILL)
        if look.memory.killed_at is None or taint is None or kill is None:
            return None
        if not set(taint.step.triggers) & set(kill.step.triggers):
            return None
        return self._clock() - look.memory.killed_at

    def _tell_taint(self, look: Look, reason: Reason, note: str, key: str) -> None:
        warning = reason is not Reason.UNTAINTED
        event = Event(f"taint/{key}", node_subject(look.node), "TaintNode", reason, note, warning=warning)
        self._events.tell(event)
