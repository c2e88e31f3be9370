"""When a node's plan has to be thought over, and writing it: only what changed, so many a second in the cluster."""

import logging
import random
import zlib
from collections.abc import Callable, Container

from memorypressure.spec import Policy
from memorypressure_operator import objects
from memorypressure_operator.api import Api
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.holdings import Holdings
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.planning import Draft, TokenBucket
from memorypressure_operator.recency import Ours
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView
from memorypressure_operator.settings import Settings
from memorypressure_operator.views import NodeView

log = logging.getLogger(__name__)

PLANNED_ANEW = 12
"""After 6 to 12 times the time of a resync a plan is thought over although nothing asked for it: whatever it is made of
marks its node when it changes, so this is for what that forgot. At 5,000 nodes each plan takes a millisecond."""
WAITS_FOR_ANOTHER_SECONDS = 1.0
"""So often a node asks whether another one has given a workload up, or a grant has ended that forbids its new plan."""
CHANGED_MEANWHILE_SECONDS = 0.2
REFUSED_RETRY_SECONDS = 2.0


class PlanWriter:
    """Used by the decision loop only."""

    def __init__(
        self,
        api: Api,
        registry: Registry,
        holdings: Holdings,
        metrics: Metrics,
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self._api = api
        self._registry = registry
        self._holdings = holdings
        self._metrics = metrics
        self._clock = clock
        self._rate = settings.plan_writes_per_second
        self._resync_seconds = settings.resync_seconds
        self._bucket = TokenBucket(self._rate, clock)
        self._behind: dict[str, float] = {}  # node -> since when its plan is not what it should be
        self._refused: dict[str, str] = {}  # node -> why the API server does not take its plan

    def is_due(self, name: str, memory: NodeMemory, policy: Policy | None) -> bool:
        """Whether the plan was never found right for this version of the policy, or not for long."""
        if memory.planned_at is None or memory.planned_for is not policy:
            return True
        # Not the same for all nodes: those that were planned together are not all planned anew at once.
        share = 0.5 + zlib.crc32(name.encode()) / (1 << 33)
        return self._clock() - memory.planned_at >= share * PLANNED_ANEW * self._resync_seconds

    def staleness_seconds(self) -> float:
        """Age of the oldest change that is in no plan yet."""
        now = self._clock()
        since = min(self._behind.values(), default=now)
        return max(0.0, now - min(since, self._registry.dirty.oldest(now)))

    def forget(self, name: str) -> None:
        """The node is gone."""
        self._behind.pop(name, None)
        self._refused.pop(name, None)

    def refused(self, nodes: Container[str]) -> dict[str, str]:
        """Of these nodes, those whose plan the API server does not take as it is, and its words."""
        return {node: why for node, why in self._refused.items() if node in nodes}

    def write(
        self, node: NodeView, memory: NodeMemory, plan: PlanView | None, policy: Policy | None, draft: Draft
    ) -> tuple[PlanView | None, float]:
        """(the plan that stands, seconds until it is to be tried again). Raises ApiUnreachable and LeaseLost."""
        again = self._resync_seconds
        behind_since = self._behind.pop(node.name, self._clock())
        if plan is None and policy is None:
            self._refused.pop(node.name, None)
            return None, again
        if draft.blocked or draft.waits:
            self._registry.dirty.add(draft.blocked)  # they give a workload up first
            again = WAITS_FOR_ANOTHER_SECONDS
        wanted, made_of = draft.digest, policy.uid if policy is not None else ""
        stands = plan is not None and plan.owner_uid == node.uid
        if plan is not None and stands and (plan.digest == wanted or memory.plan_written == (wanted, plan.digest)):
            self._refused.pop(node.name, None)
            memory.plan_of = made_of
            return plan, again
        self._behind[node.name] = behind_since
        if policy is not None and not self._holdings.may_plan(node.name, policy.limits.grant_seconds):
            return plan, WAITS_FOR_ANOTHER_SECONDS  # a grant that is out would hold longer than its ledger knows
        if self._clock() < memory.plan_retry_at:
            return plan, memory.plan_retry_at - self._clock()
        if not self._bucket.take():
            return plan, self._token_wait_seconds(memory)
        started = self._clock()
        try:
            stored = objects.write_plan(self._api, node, plan, draft.spec)
        except ApiRefused as refusal:  # by what stands the node is tainted, and helped, all the same
            log.warning("node %s: plan not written: %s", node.name, refusal)
            self._metrics.reconcile_errors.labels("ApiRefused").inc()
            self._bucket.rest(refusal.retry_after_seconds)
            if refusal.malformed:
                self._refused[node.name] = refusal.message
            wait = max(REFUSED_RETRY_SECONDS, refusal.retry_after_seconds)
            memory.plan_retry_at = self._clock() + wait
            return plan, wait
        finally:
            self._bucket.rest(self._clock() - started)
        if stored is None:
            return plan, CHANGED_MEANWHILE_SECONDS
        del self._behind[node.name]
        self._refused.pop(node.name, None)
        self._metrics.plan_writes.inc()
        if draft.beyond_limit:
            log.warning("node %s: %d eligible pods are not on the plan, it holds 250", node.name, draft.beyond_limit)
        memory.plan_written, memory.plan_of = (wanted, stored.digest), made_of
        self._registry.put_plan(node.name, stored, ours=Ours.MADE if plan is None else Ours.CHANGED)
        return stored, again

    def _token_wait_seconds(self, memory: NodeMemory) -> float:
        """Until the node asks again for its plan to be written: nodes in trouble at once, others when it may be theirs.

        Each time its plan is thought over, so thousands that ask all the time would take a core for themselves.
        """
        if memory.watch.pressed:
            return self._bucket.wait_seconds()
        turn = len(self._behind) / self._rate
        return max(self._bucket.wait_seconds(), turn * random.random())  # noqa: S311  spreads them
