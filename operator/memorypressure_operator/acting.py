"""Evictions on one node: the next victim. Every act is re-checked.

The order of checks before an eviction is sent: limits, pod read again from the API server, protections once more,
pressure still reported, record written (the fence), Lease still held and pressure still reported. Then one call, with
the pod's UID.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from memorypressure.reasons import Reason
from memorypressure.spec import Action, Mode, Policy
from memorypressure.victims import Candidate
from memorypressure_operator import evictions, evictor, kills
from memorypressure_operator.budget import Store
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.events import Event, node_subject, pod_subject
from memorypressure_operator.evictions import Denied, EvictionLog, Room
from memorypressure_operator.evictor import EvictionAnswer, Outcome
from memorypressure_operator.means import Means
from memorypressure_operator.memory import NodeMemory, Outstanding, now_text
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.pods import PodView
from memorypressure_operator.reports import PodReference, StateView
from memorypressure_operator.retelling import tell_eviction
from memorypressure_operator.tallies import Tally
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

REFUSED_RETRY_SECONDS = 10.0
REFUSALS_A_TURN = 5
TURN_SECONDS = 2.0
"""After so many refusals, or so long, other nodes have their turn before this one's next candidate is tried."""
GOES_ON_SECONDS = 0.2
"""So soon this node has its own again."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One node at one moment at which the policy's Evict step is due, with what the limits need."""

    node: NodeView
    state: StateView
    policy: Policy
    mode: Mode
    grace_seconds: int
    fresh: bool
    candidates: Sequence[Candidate]
    ages: Mapping[str, float]
    pods: Mapping[str, PodView]
    evictions_per_hour: int
    concurrent_nodes: int
    concurrent_limit: int
    workload_allowance: Callable[[str], int]
    protected: Callable[[PodView], tuple[Reason, str] | None]
    blind: tuple[str, ...]  # resources of which the API server has sent nothing for long
    still: Callable[[], bool]  # pressure still reported, policy and mode unchanged


class Actor:
    """Sends evictions for the decision loop."""

    def __init__(self, means: Means, metrics: Metrics, tally: Callable[[str], Tally]) -> None:
        self._means = means
        self._metrics = metrics
        self._tally = tally
        self._shadow: dict[str, tuple[EvictionLog, float]] = {}  # what DryRun would have evicted, per policy

    # --- the next victim ---

    def act(self, memory: NodeMemory, situation: Situation, store: Store | None) -> Denied | None:
        """Evicts at most one pod, or tells in DryRun which it would be; a Denied says why nothing was done."""
        if not situation.fresh:
            return Denied(Reason.SAMPLE_STALE, "the node's last report is too old to act upon")
        if situation.blind:
            why = f"the API server sends nothing of {', '.join(situation.blind)}: who is protected is not known"
            return self._denied(memory, situation, Denied(Reason.UNREADABLE, why, again_seconds=10.0))
        awaited = self._awaited(memory, situation)
        if awaited is not None:
            return awaited
        if situation.mode is Mode.DRY_RUN:
            return self._dry(memory, situation)
        if store is None or store.desk is None:
            why = self._means.budgets.trouble(store) if store is not None else ""
            why = why or "the ledger could not be read or written just now"
            return self._denied(memory, situation, Denied(Reason.LEDGER_INVALID, why, again_seconds=5.0))
        if store.desk.ledger.quarantine_ns > 0:
            why = "the ledger is new, and what was evicted before is not known"
            return self._denied(memory, situation, Denied(Reason.LEDGER_QUARANTINE, why, again_seconds=60.0))
        now = self._means.clock()
        if now < memory.retry_at:
            return Denied(Reason.DISRUPTION_BUDGET, "waiting before the next try", again_seconds=memory.retry_at - now)
        record = self._means.budgets.current_evictions(store)
        if self._inherit(memory, situation, record):
            return Denied(Reason.WAITING_FOR_VICTIM, "a pod evicted before this process started has not ended yet")
        room = self._room(memory, situation, record, now)
        refused = evictions.limits_allow(situation.policy, room)
        if refused is not None:
            return self._denied(memory, situation, refused)
        return self._try_candidates(memory, situation, store)

    def _awaited(self, memory: NodeMemory, situation: Situation) -> Denied | None:
        """A victim of the operator's or of the node's own that has not gone: one at a time."""
        reason = Reason.WAITING_FOR_VICTIM
        if memory.outstanding is not None:
            name = memory.outstanding.pod.name
            return Denied(reason, f"pod {name} has been evicted and has not ended yet")
        pending = kills.waiting(memory, self._means.clock(), kills.EVICTION_WAITS_SECONDS)
        if pending is not None:
            return self._denied(memory, situation, Denied(reason, pending[0], again_seconds=pending[1]))
        says = kills.is_waiting(situation.state.status)
        if says is not None:  # its report is fresh, and it waits for 30 s at most
            return self._denied(memory, situation, Denied(reason, says, again_seconds=5.0))
        return None

    def _inherit(self, memory: NodeMemory, situation: Situation, record: EvictionLog) -> bool:
        """Takes over an eviction that an earlier process began: its pod is still ending."""
        for pod in situation.pods.values():
            age = record.age_of(pod.uid) if pod.terminating else None
            if (
                age is not None
                and age < situation.grace_seconds + evictions.TERMINATION_SLACK_SECONDS + evictions.GIVE_UP_SECONDS
            ):
                memory.outstanding = Outstanding(
                    pod, situation.policy.name, situation.grace_seconds, self._means.clock() - age
                )
                memory.slot = True
                return True
        return False

    def _room(self, memory: NodeMemory, situation: Situation, record: EvictionLog, now: float) -> Room:
        since = [now - memory.acted_at] if memory.acted_at is not None else []
        recorded = record.since_on(situation.node.name)
        if recorded is not None:
            since.append(recorded)
        return Room(
            log=record,
            node=situation.node.name,
            evictions_per_hour=situation.evictions_per_hour,
            concurrent_nodes=situation.concurrent_nodes,
            concurrent_limit=situation.concurrent_limit,
            has_slot=memory.has_slot(situation.node.name in record.nodes()),
            since_action=min(since, default=None),
            unrelieved=self._unrelieved(memory, situation, record, now),
            victims_in_episode=memory.victims + self._inherited_victims(memory, situation, record, now),
        )

    @staticmethod
    def _unrelieved(memory: NodeMemory, situation: Situation, record: EvictionLog, now: float) -> tuple[float, ...]:
        """Ages of acts that did not help; after a restart within an episode those on record count as such."""
        mine = tuple(now - at for at in memory.acts)
        if not memory.inherited:
            return mine
        before = record.ages_on(situation.node.name, evictions.FUTILE_PAUSE_SECONDS)
        return mine + tuple(age for age in before if age >= now - memory.born_seconds)

    @staticmethod
    def _inherited_victims(memory: NodeMemory, situation: Situation, record: EvictionLog, now: float) -> int:
        return record.on_node(situation.node.name, now - memory.born_seconds) if memory.inherited else 0

    def _dry(self, memory: NodeMemory, situation: Situation) -> Denied | None:
        if Action.EVICT in memory.dry:
            return Denied(Reason.DRY_RUN, "told once in this episode")
        now = self._means.clock()
        log_before, at = self._shadow.get(situation.policy.name, (EvictionLog(), now))
        shadow = log_before.aged(now - at)
        refused = evictions.limits_allow(situation.policy, self._room(memory, situation, shadow, now))
        if refused is not None:
            return self._denied(memory, situation, refused)
        ranking = evictions.ranked(situation.policy, situation.candidates, situation.state.status, situation.ages)
        if ranking.chosen is None:
            return self._denied(memory, situation, Denied(ranking.reason, ranking.message))
        chosen = ranking.chosen.candidate
        memory.dry |= {Action.EVICT}
        self._shadow[situation.policy.name] = (
            shadow.with_record(situation.node.name, situation.pods[chosen.uid].workload, chosen.uid),
            now,
        )
        note = (
            f"pod {chosen.namespace}/{chosen.name} would be evicted from node {situation.node.name}: {ranking.message}"
        )
        self._tell(memory, situation, chosen, Reason.WOULD_EVICT, note)
        self._count(situation, "Success")
        self._tally(situation.policy.name).add(
            "dryRun", f"{situation.node.uid}/{memory.watch.episode}/Evict", time=now_text()
        )
        return None

    def _try_candidates(self, memory: NodeMemory, situation: Situation, store: Store) -> Denied | None:
        """Goes down the ranking until one eviction is accepted; a 429 leads to the next, some of them in a later turn.

        Who was refused is not asked again before all others were.
        """
        ranking = evictions.ranked(situation.policy, situation.candidates, situation.state.status, situation.ages)
        if ranking.chosen is None:
            return self._denied(memory, situation, Denied(ranking.reason, ranking.message, again_seconds=10.0))
        order = [ranking.chosen, *(each for each in ranking.order if each is not ranking.chosen and each.sufficient)]
        last = Denied(Reason.NO_VICTIM, "no candidate may be evicted now", again_seconds=REFUSED_RETRY_SECONDS)
        wait, began, refused = max(REFUSED_RETRY_SECONDS, memory.refused_seconds), self._means.clock(), 0
        evicted = self._evicted_lately()
        for entry in order:
            candidate = entry.candidate
            if candidate.uid in memory.refused:
                continue
            if refused >= REFUSALS_A_TURN or (refused and self._means.clock() - began >= TURN_SECONDS):
                memory.refused_seconds = wait
                return replace(last, again_seconds=GOES_ON_SECONDS)
            pod = situation.pods.get(candidate.uid)
            if pod is None or pod.terminating:
                continue
            allowed = situation.workload_allowance(pod.workload)
            if evicted[evictions.workload_key(pod.workload)] >= allowed:
                last = Denied(
                    Reason.WORKLOAD_LIMIT, f"{allowed} pods of {pod.workload} were evicted in 10 minutes", 30.0
                )
                self._denied(memory, situation, last, candidate)
                continue
            answer = self._evict(situation, store, pod)
            if answer.outcome.spent:
                self._evicted(memory, situation, pod, candidate, ranking.message, answer)
                return None
            reason = answer.reason or _REASONS.get(answer.outcome, Reason.ACTION_FAILED)
            wait = max(wait, answer.retry_after_seconds)
            last = Denied(reason, answer.message or answer.outcome.value, again_seconds=wait)
            self._denied(memory, situation, last, candidate)
            if not answer.outcome.next_candidate:  # nothing was said about this one: it has its place still
                memory.retry_at = self._means.clock() + wait
                return last
            refused += 1
            memory.refused |= {candidate.uid}
        memory.refused, memory.refused_seconds = frozenset(), 0.0
        memory.retry_at = self._means.clock() + wait
        return last

    def _evicted_lately(self) -> Counter[str]:
        """Pods of each workload that were evicted in the last 10 minutes, under whatever policy."""
        found: Counter[str] = Counter()
        for store in self._means.budgets.stores.values():
            found.update(self._means.budgets.current_evictions(store).workloads())
        return found

    def _evict(self, situation: Situation, store: Store, pod: PodView) -> EvictionAnswer:
        """The second veto, the record, and the call."""
        try:
            current = evictor.read_pod(self._means.api, pod)
        except (ApiUnreachable, ApiRefused, ValueError) as error:
            return EvictionAnswer(Outcome.BUSY, f"the pod could not be read again: {error}")
        refused = evictor.changed(pod, current, situation.node.name)
        if refused is not None or current is None:
            return refused or EvictionAnswer(Outcome.GONE)
        veto = situation.protected(current)
        if veto is not None:
            return EvictionAnswer(Outcome.FORBIDDEN, veto[1], reason=veto[0])
        if not situation.still():
            return _not_sent(Reason.SITUATION_CHANGED, "pressure, policy or mode changed")
        if store.desk is None:
            return _not_sent(Reason.LEDGER_INVALID, "the ledger is not readable now")
        record = self._means.budgets.current_evictions(store).with_record(
            situation.node.name, pod.workload, pod.uid, name=pod.name
        )
        if not self._means.holds():
            return _not_sent(Reason.NOT_HOLDING, "the Lease ran out before the eviction was recorded")
        if not self._means.budgets.write(store, store.desk.ledger, record):
            return _not_sent(Reason.LEDGER_INVALID, "the eviction could not be recorded first")
        if not self._means.holds():
            answer = _not_sent(Reason.NOT_HOLDING, "the Lease ran out while the eviction was recorded")
        elif not situation.still():
            answer = _not_sent(Reason.SITUATION_CHANGED, "pressure, policy or mode changed while it was recorded")
        else:
            answer = evictor.evict(self._means.api, pod, situation.grace_seconds)
        if not answer.outcome.spent:
            self._means.budgets.take_back(store, pod.uid)
        return answer

    def _evicted(
        self,
        memory: NodeMemory,
        situation: Situation,
        pod: PodView,
        candidate: Candidate,
        why: str,
        answer: EvictionAnswer,
    ) -> None:
        now, failed = self._means.clock(), answer.outcome is Outcome.FAILED
        memory.outstanding = Outstanding(
            pod, situation.policy.name, situation.grace_seconds, now, failed=failed, acted_before=memory.acted_at
        )
        memory.acted_at, memory.slot = now, True
        memory.refused, memory.refused_seconds = frozenset(), 0.0
        memory.victims += 1
        memory.acts += (now,)
        sure = answer.outcome is Outcome.EVICTED
        if sure:
            words, reason = "was evicted", Reason.EVICTED
            self._tally(situation.policy.name).add("evictions", pod.uid, time=now_text())
        else:
            doubt = "looked up soon" if failed else "it counts as done"
            words, reason = f"may have been evicted ({doubt}: {answer.message})", Reason.ACTION_FAILED
        note = f"pod {pod.namespace}/{pod.name} {words} from node {situation.node.name} for memory pressure: {why}"
        triggers = ", ".join(sorted(trigger.name for trigger in situation.state.status.active_triggers))
        note = f"{note}; active triggers: {triggers}"
        if sure:
            tell_eviction(self._means.events, situation.node, pod.uid, (pod.namespace, pod.name), note)
        else:
            self._tell(memory, situation, candidate, reason, note)
        self._count(situation, "Success" if sure else "Failed")
        log.info("%s", note)

    # --- telling ---

    def _denied(
        self, memory: NodeMemory, situation: Situation, denied: Denied, candidate: Candidate | None = None
    ) -> Denied:
        """Counts and tells a denial once in an episode."""
        key = f"{denied.reason}/{candidate.uid if candidate else ''}"
        if key in memory.denials:
            return denied
        memory.denials |= {key}
        self._metrics.denied.labels("Evict", denied.reason).inc()
        self._tally(situation.policy.name).add("denied", f"{situation.node.uid}/{memory.watch.episode}/{key}")
        self._count(situation, "Denied")
        subject = f"not pod {candidate.namespace}/{candidate.name}" if candidate else "no pod"
        tell = log.warning if denied.reason is Reason.FUTILE else log.info
        tell("node %s: %s is evicted now: %s: %s", situation.node.name, subject, denied.reason, denied.message)
        if candidate is not None:
            note = f"pod {candidate.namespace}/{candidate.name} was not evicted: {denied.message}"
            self._tell(memory, situation, candidate, denied.reason, note)
        else:
            on_node = node_subject(situation.node)
            event = Event(
                f"{memory.watch.episode}/Evict", on_node, "EvictPod", denied.reason, f"no eviction: {denied.message}"
            )
            self._means.events.tell(event)
        return denied

    def _tell(
        self, memory: NodeMemory, situation: Situation, candidate: Candidate | PodReference, reason: Reason, note: str
    ) -> None:
        subject = pod_subject(candidate.namespace, candidate.name, candidate.uid)
        on_node = node_subject(situation.node)
        key = f"{situation.node.uid}/{memory.watch.episode}/{candidate.uid}"
        self._means.events.tell(Event(key, subject, "EvictPod", reason, note, related=on_node))
        self._means.events.tell(Event(key, on_node, "EvictPod", reason, note, related=subject))

    def _count(self, situation: Situation, result: str) -> None:
        self._metrics.actions.labels(situation.policy.name, "Evict", situation.mode.value, result).inc()


def _not_sent(reason: Reason, message: str) -> EvictionAnswer:
    return EvictionAnswer(Outcome.BUSY, message, reason=reason)


_REASONS = {
    Outcome.DISRUPTION_BUDGET: Reason.DISRUPTION_BUDGET,
    Outcome.GONE: Reason.GONE,
    Outcome.REPLACED: Reason.GONE,
    Outcome.ALREADY_TERMINATING: Reason.TERMINATING,
}
