"""What becomes of an eviction: waited for, its pod deleted again if it outlives its grace, taken back if it failed."""

import logging
from collections.abc import Mapping

from memorypressure.reasons import Reason
from memorypressure.spec import Mode
from memorypressure_operator import evictions, evictor
from memorypressure_operator.acting import REFUSED_RETRY_SECONDS
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.events import Event, node_subject, pod_subject
from memorypressure_operator.evictor import Outcome
from memorypressure_operator.means import Means
from memorypressure_operator.memory import NodeMemory, Outstanding
from memorypressure_operator.pods import PodView
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

FAILED_SECONDS = 5.0
"""After so long a pod whose eviction the API server failed to carry out is read again."""


class Follower:
    """Looks after evictions for the decision loop."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def follow(self, memory: NodeMemory, node: NodeView, pods: Mapping[str, PodView], mode: Mode) -> float | None:
        """Looks after the eviction that is outstanding; seconds until it has to be looked at again, None if none is."""
        out = memory.outstanding
        if out is None:
            return None
        now = self._means.clock()
        if out.pod.uid not in pods:
            log.info("node %s: evicted pod %s/%s is gone", node.name, out.pod.namespace, out.pod.name)
            memory.outstanding = None
            return None
        if out.failed and not self._came_true(memory, out, node):
            return FAILED_SECONDS if memory.outstanding is not None else None
        patience = out.grace_seconds + evictions.TERMINATION_SLACK_SECONDS
        age = now - out.since_seconds
        if age < patience:
            return patience - age
        if not out.deleted_again and mode is Mode.ENFORCE and self._means.holds():
            self._again(out, node)
        if age > patience + evictions.GIVE_UP_SECONDS or out.not_ending:
            log.warning(
                "node %s: pod %s/%s does not end; others may be tried", node.name, out.pod.namespace, out.pod.name
            )
            memory.outstanding = None
            return None
        return 5.0

    def _came_true(self, memory: NodeMemory, out: Outstanding, node: NodeView) -> bool:
        """Whether an eviction that the API server answered with a failure was done all the same.

        If not, it is forgotten: it used up nothing. Looked up when everything that it began has ended.
        """
        if self._means.clock() - out.since_seconds < FAILED_SECONDS:
            return False
        try:
            current = evictor.read_pod(self._means.api, out.pod)
        except (ApiUnreachable, ApiRefused, ValueError) as error:
            log.warning("node %s: %s/%s not read again: %s", node.name, out.pod.namespace, out.pod.name, error)
            return False
        if current is None or current.uid != out.pod.uid or current.terminating:
            out.failed = False
            return True
        log.info("node %s: the eviction of %s/%s did nothing", node.name, out.pod.namespace, out.pod.name)
        store = self._means.budgets.store(out.policy)
        self._means.budgets.take_back(store, out.pod.uid)
        memory.outstanding, memory.acted_at = None, out.acted_before
        memory.victims = max(0, memory.victims - 1)
        memory.acts = tuple(at for at in memory.acts if at != out.since_seconds)
        memory.retry_at = self._means.clock() + REFUSED_RETRY_SECONDS
        return False

    def _again(self, out: Outstanding, node: NodeView) -> None:
        """Deletes a pod that outlived its grace with a shorter one, if it is ending at all.

        An eviction whose answer was lost may have been refused: deleting such a pod would pass its budget by.
        """
        try:
            current = evictor.read_pod(self._means.api, out.pod)
        except (ApiUnreachable, ApiRefused, ValueError) as error:
            log.warning("node %s: %s/%s not read again: %s", node.name, out.pod.namespace, out.pod.name, error)
            return
        out.not_ending = current is not None and current.uid == out.pod.uid and not current.terminating
        if current is None or current.uid != out.pod.uid or not current.terminating:
            return
        shorter = max(1, out.grace_seconds // 4)
        answer = evictor.delete_again(self._means.api, out.pod, shorter)
        out.deleted_again = answer.outcome not in {Outcome.BUSY, Outcome.FAILED, Outcome.UNKNOWN}
        note = f"pod {out.pod.namespace}/{out.pod.name} outlived its grace period of {out.grace_seconds} s"
        note += f" and was deleted again with {shorter} s: {answer}"
        log.info("node %s: %s", node.name, note)
        subject = pod_subject(out.pod.namespace, out.pod.name, out.pod.uid)
        key = f"again/{out.pod.uid}"
        self._means.events.tell(Event(key, subject, "DeletePod", Reason.WAIT_ENDED, note, related=node_subject(node)))
