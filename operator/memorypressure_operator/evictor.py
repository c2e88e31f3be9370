"""The acts on pods: an eviction through the Eviction API, and a second delete for a pod that outlives its grace.

Each names the pod by UID, so that a pod of the same name that came later is safe, and returns a typed outcome.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from memorypressure.reasons import Reason
from memorypressure_operator.api import Api, pod_path
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.pods import PodView, decode_pod


class Outcome(StrEnum):
    """How an eviction ended."""

    EVICTED = "Evicted"
    ALREADY_TERMINATING = "AlreadyTerminating"
    DISRUPTION_BUDGET = "DisruptionBudget"
    GONE = "Gone"
    REPLACED = "Replaced"
    FORBIDDEN = "Forbidden"
    BUSY = "Busy"
    FAILED = "Failed"
    UNKNOWN = "Unknown"

    @property
    def spent(self) -> bool:
        """Whether it counts against the limits: an act whose effect is not known counts as done.

        FAILED does until the pod was read again: the API server said that it failed, not that nothing came of it.
        """
        return self in (Outcome.EVICTED, Outcome.FAILED, Outcome.UNKNOWN)

    @property
    def next_candidate(self) -> bool:
        """Whether another pod may be tried at once."""
        return not self.spent and self is not Outcome.BUSY


@dataclass(frozen=True, slots=True)
class EvictionAnswer:
    """How a request ended, with the API server's words; `retry_after_seconds` as it asked, 0 where it did not.

    `reason`: why none was sent, where that is known better than by the outcome.
    """

    outcome: Outcome
    message: str = ""
    retry_after_seconds: float = 0.0
    reason: Reason | None = None

    def __str__(self) -> str:
        return f"{self.outcome} {self.message}".rstrip()


def evict(api: Api, pod: PodView, grace_period_seconds: int) -> EvictionAnswer:
    """The answer to one eviction; 201, 404, 409, 429 and 500 each have an outcome. Never raises for any of them.

    Raises LeaseLost of a fenced Api, before anything is sent.
    """
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid}, "gracePeriodSeconds": grace_period_seconds},
    }
    try:
        api.request("POST", pod_path(pod.namespace, pod.name) + "/eviction", body=body)
    except ApiUnreachable as error:
        return EvictionAnswer(Outcome.UNKNOWN, str(error))
    except ApiRefused as refusal:
        return EvictionAnswer(_refused(refusal), refusal.message, refusal.retry_after_seconds)
    return EvictionAnswer(Outcome.EVICTED)


def _refused(refusal: ApiRefused) -> Outcome:
    if refusal.status == 429:
        return Outcome.DISRUPTION_BUDGET if "DisruptionBudget" in refusal.causes else Outcome.BUSY
    if refusal.status == 500 and "more than one PodDisruptionBudget" in refusal.message:
        return Outcome.DISRUPTION_BUDGET
    if refusal.status == 404:
        return Outcome.GONE
    if refusal.status == 409:
        return Outcome.REPLACED
    if refusal.status in (401, 403):
        return Outcome.FORBIDDEN
    if refusal.status < 500:
        return Outcome.BUSY
    # What timed out, in the server or in etcd, may still be done.
    return Outcome.UNKNOWN if refusal.status == 504 or "timed out" in refusal.message else Outcome.FAILED


def read_pod(api: Api, pod: PodView) -> PodView | None:
    """The pod as it is now, None if it is gone. Raises ApiUnreachable, ApiRefused, or ValueError if not understood."""
    try:
        return decode_pod(api.get(pod_path(pod.namespace, pod.name)).body)
    except ApiRefused as refusal:
        if refusal.not_found:
            return None
        raise
    except msgspec.MsgspecError as error:
        raise ValueError(f"pod {pod.namespace}/{pod.name} is not understood: {error}") from None


def changed(pod: PodView, current: PodView | None, node: str) -> EvictionAnswer | None:
    """Why a pod that was read again is not to be evicted from the node any more; None if nothing speaks against it."""
    if current is None or current.uid != pod.uid:
        return EvictionAnswer(Outcome.GONE, "the pod is gone")
    if current.terminating:
        return EvictionAnswer(Outcome.ALREADY_TERMINATING, "the pod is ending already")
    if current.node != node or current.finished:
        return EvictionAnswer(Outcome.REPLACED, "the pod does not run on the node any more")
    return None


def delete_again(api: Api, pod: PodView, grace_period_seconds: int) -> EvictionAnswer:
    """Deletes a pod that is terminating already with a shorter grace.

    At least 1 s: 0 would drop the object while its processes may still run, and a StatefulSet would start it twice.
    """
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": pod.uid},
        "gracePeriodSeconds": max(1, grace_period_seconds),
    }
    try:
        api.request("DELETE", pod_path(pod.namespace, pod.name), body=options)
    except ApiUnreachable as error:
        return EvictionAnswer(Outcome.UNKNOWN, str(error))
    except ApiRefused as refusal:
        return EvictionAnswer(_refused(refusal), refusal.message, refusal.retry_after_seconds)
    return EvictionAnswer(Outcome.EVICTED)
