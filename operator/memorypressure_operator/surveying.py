"""Policies' statuses, their Events and gauges: gathered from all nodes from time to time, written when they changed."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from memorypressure import ledger as ledger_module
from memorypressure.reasons import Reason
from memorypressure.selection import Survey, survey
from memorypressure.spec import Mode, Policy, policy_hints
from memorypressure_operator import pressure, status, tainter
from memorypressure_operator.api import MERGE_PATCH, Api, own_path
from memorypressure_operator.budget import Budgets
from memorypressure_operator.caps import for_nodes
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.events import Event, EventWriter, policy_subject
from memorypressure_operator.evictions import EvictionLog
from memorypressure_operator.health import Health
from memorypressure_operator.holdings import Holdings
from memorypressure_operator.look import is_silent
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.planwriting import PlanWriter
from memorypressure_operator.registry import Registry
from memorypressure_operator.rounds import Rounds
from memorypressure_operator.settings import Settings
from memorypressure_operator.status import Facts
from memorypressure_operator.tables import PolicyEntry
from memorypressure_operator.tallies import Tallies, Tally

log = logging.getLogger(__name__)

SHARE = 0.002
"""Looking through all nodes takes so much of the time at most: in a large cluster statuses come less often."""
SECONDS_A_NODE = 0.006
"""But no later than that: the first statuses cost more, connections are opened for them."""
ASK_SECONDS = 10.0
"""How often it is asked whether policies may be watched, while kopf's watch does not show what was written."""
HASTE_SECONDS = 0.5
"""So soon another follows one that shows less than its policy's limits allow."""


class Surveyor:
    """Writes the statuses. Used by the decision loop only."""

    def __init__(  # noqa: PLR0913, PLR0917  wiring
        self,
        api: Api,
        registry: Registry,
        budgets: Budgets,
        holdings: Holdings,
        rounds: Rounds,
        plans: PlanWriter,
        events: EventWriter,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float],
        settings: Settings,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._registry = registry
        self._budgets = budgets
        self._holdings = holdings
        self._rounds = rounds
        self._plans = plans
        self._events = events
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._settings = settings
        self._wall = wall
        self._at: float | None = None
        self._asked_at = 0.0  # whether policies may be watched
        self._took = 0.0  # processor time of the last one, in seconds
        self._survey: tuple[int, Mapping[str, Policy], Survey] | None = None
        self._without_candidates: frozenset[str] = frozenset()
        self._written: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}  # by policy: as sent, as it was kept

    def hasten(self) -> None:
        """A status shows less than its policy's limits allow, and nothing beyond it is given until it does."""
        if self._at is not None and self._clock() - self._at >= HASTE_SECONDS:
            self._at = None

    def write(self, policies: Mapping[str, Policy], memories: Mapping[str, NodeMemory], tallies: Tallies) -> None:
        """Writes what changed, at most every `status_seconds`. Raises ApiUnreachable."""
        now = self._clock()
        rest = min(self._took / SHARE, SECONDS_A_NODE * len(self._registry.tables.nodes))
        if self._at is not None and now - self._at < max(self._settings.status_seconds, rest):
            return
        self._at, began = now, time.thread_time()
        with self._registry.lock:
            entries = list(self._registry.tables.policies.values())
            nodes = dict(self._registry.tables.nodes)
        if not nodes.keys() <= memories.keys():
            return
        found = self._surveyed(policies)
        live = self._live(found, memories)
        self._without_candidates = self._policies_without_candidates(found)
        tainted = (name for name, node in nodes.items() if any(taint.key == tainter.KEY for taint in node.taints))
        self._metrics.set_tainted(frozenset(tainted))
        self._written = {entry.name: self._written[entry.name] for entry in entries if entry.name in self._written}
        for entry in entries:
            self._one(entry, policies.get(entry.name), found, live.get(entry.name, (0, 0)), tallies.of(entry.name))
        self._echo()
        self._took = time.thread_time() - began

    def _echo(self) -> None:
        """A status that was written comes back through kopf; if it never does, kopf's watch is silent.

        Then it is asked whether there could be one: where the API server refuses it, a restart would bring nothing, and
        the probes name the refusal.
        """
        health, now = self._health, self._clock()
        seen, due = self._registry.policies_at, health.policy_echo_due
        if due is not None and seen is not None and seen >= due:
            health.policy_echo_due = None
        path = own_path("memorypressurepolicies")
        if health.policy_silence_seconds(now) <= health.stuck_seconds:
            if not health.policy_watch_served:
                health.policy_watch_served = True
                self._api.troubles.succeeded("WATCH", path)
        elif now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            try:
                with self._api.stream(path, {"watch": "1", "timeoutSeconds": "1"}, ASK_SECONDS):
                    health.policy_watch_served = True
            except (ApiRefused, ApiUnreachable) as error:
                health.policy_watch_served = False
                log.warning("policies cannot be watched: %s", error)

    def _surveyed(self, policies: Mapping[str, Policy]) -> Survey:
        """The survey of all nodes, kept as long as neither they nor the policies, one mapping each time, have moved."""
        with self._registry.lock:
            version, known = self._registry.nodes_version, self._survey
            if known is not None and known[0] == version and known[1] is policies:
                return known[2]
            labels = {name: node.labels for name, node in self._registry.tables.nodes.items()}
        found = survey(policies.values(), labels)
        self._survey = (version, policies, found)
        return found

    def _live(self, standing: Survey, memories: Mapping[str, NodeMemory]) -> dict[str, tuple[int, int]]:
        """Policy -> (nodes that report in time, nodes under pressure), of those that the survey gives it."""
        now = self._clock()
        found: dict[str, tuple[int, int]] = {}
        states = self._registry.tables.states
        for node, selection in standing.nodes.items():
            policy, memory, state = selection.policy, memories.get(node), states.get(node)
            if policy is None or memory is None or state is None:
                continue
            quiet = not state.status.last_report_time or is_silent(self._registry, node, policy, now)
            reporting, pressed = found.get(policy.name, (0, 0))
            found[policy.name] = (reporting + (not quiet), pressed + (memory.watch.pressed and not quiet))
        return found

    def _one(
        self, entry: PolicyEntry, policy: Policy | None, found: Survey, live: tuple[int, int], tally: Tally
    ) -> None:
        facts = self._facts(entry, policy, found, live, tally)
        wanted = status.compute(entry, facts, self._wall().strftime("%Y-%m-%dT%H:%M:%SZ"))
        if policy is not None:
            self._gauges(policy, facts)
        self._tell(entry, facts)
        if wanted == entry.status or self._written.get(entry.name) == (wanted, entry.status):
            return  # an older definition, which an upgrade by Helm leaves in place, drops what it does not know
        sent = self._clock()  # the watch may show it before the answer comes
        try:
            path = own_path("memorypressurepolicies", entry.name, "status")
            body = {"metadata": {"uid": entry.uid}, "status": wanted}
            answer = self._api.request("PATCH", path, body=body, content_type=MERGE_PATCH).json()
        except ApiRefused as refusal:
            if not refusal.not_found and not refusal.conflict:
                log.warning("status of policy %s not written: %s", entry.name, refusal)
            return
        if self._health.policy_echo_due is None:
            self._health.policy_echo_due = sent
        self._registry.put_policy(answer)
        self._written[entry.name] = wanted, answer.get("status") or {}

    def _facts(
        self, entry: PolicyEntry, policy: Policy | None, found: Survey, live: tuple[int, int], tally: Tally
    ) -> Facts:
        if policy is None:
            return Facts(counts=status.Counts())
        standing = found.policies[policy.name]
        result = self._rounds.results.get(policy.name)
        waiting = result.waiting if result is not None and policy.mode is Mode.ENFORCE else {}
        store = self._budgets.stores.get(policy.name)
        counts = status.Counts(
            selected=standing.selected,
            effective=standing.effective,
            superseded=standing.superseded,
            reporting=live[0],
            under_pressure=live[1],
            armed=(result.armed or 0) if result is not None else 0,
        )
        limits = for_nodes(policy.limits, standing.effective, self._settings)
        desk = store.desk if store is not None else None
        ledger = desk.ledger if desk is not None else ledger_module.Ledger()
        enforced = policy.mode is Mode.ENFORCE
        exposure = ledger_module.exposure(ledger, limits, standing.effective)
        worst = exposure.worst_case_hour if enforced else ledger.spent + exposure.standing_kills
        shown = (exposure.standing_kills, worst)
        if desk is None and enforced:  # not readable: what was last known may still be out
            known = entry.status.get("exposure") or {}
            shown = (int(known.get("standingKills") or 0), int(known.get("worstCaseHour") or worst))
        record = self._budgets.current_evictions(store) if store is not None else EvictionLog()
        return Facts(
            counts=counts,
            dry_run=tally.count("dryRun"),
            evictions=record.evictions,
            kills=tally.count("kills"),
            denied=tally.count("denied"),
            standing_kills=shown[0],
            worst_case_hour=shown[1],
            evictions_left=limits.evictions_per_hour - record.evictions,
            evictions_limit=limits.evictions_per_hour,
            kills_left=limits.kills_per_hour - ledger.spent,
            kills_limit=limits.kills_per_hour,
            last_action_time=tally.last_action_time,
            ledger_problem=self._budgets.trouble(store) if store is not None else "",
            ledger_full=any(reason is Reason.LEDGER_FULL for reason, _ in waiting.values()),
            record_full=record.is_full(),
            quarantine_seconds=ledger.quarantine_ns / pressure.NS,
            hints=tuple(str(hint) for hint in policy_hints(entry.policy or policy)),
            conflict=standing.message if standing.conflicted else "",
            conflict_key=",".join(standing.tied_with),
            conflicts=standing.disputed,
            ungranted={node: why for node, (reason, why) in waiting.items() if reason is Reason.NO_GRANT},
            unsure_nodes=len(self._holdings.unsure.get(policy.name, ())) if enforced else 0,
            unread_ledgers=tuple(self._holdings.unread(policy.name)),
            blind=self._health.blind(),
            refused_plans=self._plans.refused(self._rounds.in_force(policy.name)),
            no_candidates=policy.name in self._without_candidates,
            dry_run_only=self._settings.dry_run_only and (entry.policy or policy).mode is Mode.ENFORCE,
            actions_used={step.action.value: True for step in policy.ladder},
        )

    def _policies_without_candidates(self, found: Survey) -> frozenset[str]:
        """Policies that evict or kill, have nodes, and all of whose plans are written and empty."""
        empty: dict[str, bool] = {}
        with self._registry.lock:
            plans = self._registry.tables.plans
            for node, selection in found.nodes.items():
                policy = selection.policy
                if policy is None or not any(step.evict is not None or step.kill is not None for step in policy.ladder):
                    continue
                plan = plans.get(node)
                written = plan is not None and plan.policy == policy.name and not plan.candidates
                empty[policy.name] = empty.get(policy.name, True) and written
        return frozenset(name for name, nothing in empty.items() if nothing)

    def _gauges(self, policy: Policy, facts: Facts) -> None:
        metrics, name = self._metrics, policy.name
        json = facts.counts.to_json()
        metrics.set_nodes(name, {key[0].upper() + key[1:]: value for key, value in json.items()})
        metrics.conflicts.labels(name).set(facts.conflicts)
        metrics.budget_limit.labels(name, "Evict").set(facts.evictions_limit)
        metrics.budget_limit.labels(name, "Kill").set(facts.kills_limit)
        metrics.budget_remaining.labels(name, "Evict").set(max(0, facts.evictions_left))
        metrics.budget_remaining.labels(name, "Kill").set(max(0, facts.kills_left))
        metrics.exposure.labels(name, "Standing").set(facts.standing_kills)
        metrics.exposure.labels(name, "WorstCaseHour").set(facts.worst_case_hour)
        metrics.ledger_valid.labels(name).set(0 if facts.ledger_problem else 1)

    def _tell(self, entry: PolicyEntry, facts: Facts) -> None:
        subject = policy_subject(entry.name, entry.uid)
        if facts.conflict:
            key = f"conflict/{entry.generation}/{facts.conflict_key}"
            self._events.tell(Event(key, subject, "Select", Reason.EQUAL_PRIORITY_OVERLAP, facts.conflict))
        if facts.ledger_problem:
            note = status.disarmed(facts.ledger_problem)
            self._events.tell(
                Event(f"ledger/{facts.ledger_problem}", subject, "ReadLedger", Reason.LEDGER_INVALID, note)
            )
        if entry.policy is None:
            note = f"the policy is not carried out: {entry.error}"
            self._events.tell(Event(f"invalid/{entry.generation}", subject, "Accept", Reason.INVALID, note))
