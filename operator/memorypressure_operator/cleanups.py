"""After a kill: the pod is evicted, lest the kubelet starts its containers again in place.

That the node killed it is the node's word alone. So what no plan may hold is not evicted on it, and no more pods are
than the ledger counts as killed: each of these evictions is recorded beside the ledger before it is sent.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from memorypressure.reasons import Reason
from memorypressure_operator import evictions, evictor
from memorypressure_operator.budget import Store
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.events import Event, node_subject, pod_subject
from memorypressure_operator.evictor import EvictionAnswer, Outcome
from memorypressure_operator.means import Means
from memorypressure_operator.memory import Cleanup, NodeMemory
from memorypressure_operator.pods import PodView
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
SEEN_SECONDS = 2.0
"""Until it is seen that an evicted pod ends it stays on the list: who is on it is on no plan."""
COUNT_SECONDS = 0.5
"""The ledger counts a reported kill with the policy's next round."""
PATIENCE_SECONDS = 120.0
"""A kill that the ledger does not count for so long is none that it allowed; and an eviction that is forbidden for so
long is not for want of a right that somebody is about to give back."""


@dataclass(frozen=True, slots=True)
class After:
    """What a node's clean-ups need.

    `ledgers`: with each the kills that its policy's limits allow an hour. That of the policy in force comes first; the
    kill may have been allowed by another, that was in force when it was done.
    """

    node: NodeView
    pods: Mapping[str, PodView]
    grace_seconds: int
    ledgers: Sequence[tuple[Store, int]]
    protected: Callable[[PodView], tuple[Reason, str] | None]


class Cleaner:
    """Carries clean-ups out for the decision loop."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def run(self, memory: NodeMemory, after: After) -> float | None:
        """Does what is due; seconds until the next try, None when nothing is left.

        A PodDisruptionBudget's 429 leaves the pod (on a tainted node) and tries again; never a plain delete.
        """
        now, waits = self._means.clock(), []
        for uid, cleanup in list(memory.cleanups.items()):
            pod = after.pods.get(uid)
            if pod is None or pod.terminating or pod.finished:
                del memory.cleanups[uid]
                continue
            if now < cleanup.due_seconds:
                waits.append(cleanup.due_seconds - now)
                continue
            if not self._means.holds():
                return 1.0
            again = self._one(memory, pod, cleanup, after)
            if again is None:
                del memory.cleanups[uid]
            else:
                memory.cleanups[uid] = replace(cleanup, due_seconds=now + again)
                waits.append(again)
        return min(waits, default=None)

    def _one(self, memory: NodeMemory, pod: PodView, cleanup: Cleanup, after: After) -> float | None:
        """Seconds until the next try, None when there is to be none."""
        try:
            current = evictor.read_pod(self._means.api, pod)
        except (ApiUnreachable, ApiRefused, ValueError) as error:
            log.warning("node %s: killed pod %s/%s not read again: %s", after.node.name, pod.namespace, pod.name, error)
            return RETRY_SECONDS
        if current is None or evictor.changed(pod, current, after.node.name) is not None:
            return None
        veto = after.protected(current)
        if veto is not None:
            self._stays(memory, pod, after.node, *veto)
            return None
        recorded = self._recorded(pod, after)
        if recorded is None:
            if self._means.clock() - cleanup.since_seconds < PATIENCE_SECONDS:
                return COUNT_SECONDS
            why = "no ledger counts so many kills in the last hour"
            self._stays(memory, pod, after.node, Reason.KILL_NOT_COUNTED, why)
            return None
        if not recorded:
            return RETRY_SECONDS
        answer = evictor.evict(self._means.api, pod, after.grace_seconds)
        log.info("node %s: eviction of killed pod %s/%s: %s", after.node.name, pod.namespace, pod.name, answer)
        self._tell(pod, after, answer)
        if answer.outcome is Outcome.EVICTED:
            return SEEN_SECONDS
        if answer.outcome in (Outcome.GONE, Outcome.REPLACED):
            return None
        if answer.outcome is Outcome.FORBIDDEN and self._means.clock() - cleanup.since_seconds >= PATIENCE_SECONDS:
            self._stays(memory, pod, after.node, Reason.ACTION_FAILED, f"its eviction is forbidden: {answer.message}")
            return None
        return max(RETRY_SECONDS, answer.retry_after_seconds)

    def _recorded(self, pod: PodView, after: After) -> bool | None:
        """Whether the clean-up is on record now; None where no ledger has a kill for it."""
        unread, counts = False, None
        for store, most in after.ledgers:
            if store.desk is None:
                unread = True
                continue
            record = self._means.budgets.current_evictions(store)
            if record.cleaned_up(pod.uid):
                return True
            if counts is None and evictions.cleanup_allowed(record, store.desk.ledger.spent, most):
                counts = store
        if counts is None or counts.desk is None:
            return False if unread else None
        added = self._means.budgets.current_evictions(counts).with_record(
            after.node.name, pod.workload, pod.uid, cleanup=True
        )
        return self._means.budgets.write(counts, counts.desk.ledger, added)

    def give_up(self, memory: NodeMemory, node: NodeView, pods: Mapping[str, PodView]) -> None:
        """Forgets the clean-ups of a node on which nothing is enforced any more: their pods stay where they are."""
        for uid in memory.cleanups:
            pod = pods.get(uid)
            if pod is not None and not pod.terminating and not pod.finished:
                self._stays(memory, pod, node, Reason.MODE_NOT_ENFORCE, "no policy is enforced on the node any more")
        memory.cleanups.clear()

    def _stays(self, memory: NodeMemory, pod: PodView, node: NodeView, reason: Reason, why: str) -> None:
        memory.killed = {uid: each for uid, each in memory.killed.items() if uid != pod.uid}  # nothing waits for it
        note = f"pod stays, although node {node.name} reports that it killed it: {why}"
        log.warning("node %s: %s/%s: %s", node.name, pod.namespace, pod.name, note)
        self._event(pod, node, reason, note)

    def _tell(self, pod: PodView, after: After, answer: EvictionAnswer) -> None:
        if answer.outcome is Outcome.EVICTED:
            note = f"pod evicted after its containers were killed for memory pressure on node {after.node.name}"
            self._event(pod, after.node, Reason.EVICTED, note)
        elif answer.outcome is Outcome.DISRUPTION_BUDGET:
            note = f"pod stays after its containers were killed, its eviction is tried again: {answer.message}"
            self._event(pod, after.node, Reason.DISRUPTION_BUDGET, note)

    def _event(self, pod: PodView, node: NodeView, reason: Reason, note: str) -> None:
        subject, on_node = pod_subject(pod.namespace, pod.name, pod.uid), node_subject(node)
        self._means.events.tell(Event(f"cleanup/{pod.uid}", subject, "EvictPod", reason, note, related=on_node))
