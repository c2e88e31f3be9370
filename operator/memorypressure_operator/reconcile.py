"""The decision loop: one thread that looks at dirty nodes; all that is written in the cluster goes through it.

A pass over a node, in order: policy in force, plan, state, what the report tells, taint, evictions. Beside the nodes
there are rounds of grants (`granting`), policies' statuses (`surveying`) and the default policy. Nothing is remembered
that a restart may not lose. Without the Lease the loop only waits.
"""

import functools
import logging
import math
import threading
import time
from collections.abc import Callable

from memorypressure.selection import select
from memorypressure.spec import Policy
from memorypressure_operator import kills, pressure
from memorypressure_operator.acting import Actor
from memorypressure_operator.api import Api
from memorypressure_operator.budget import Budgets
from memorypressure_operator.cleanups import Cleaner
from memorypressure_operator.decisionlog import DecisionLog
from memorypressure_operator.errors import ApiRefused, ApiUnreachable, LeaseLost, OperatorError
from memorypressure_operator.events import EventWriter
from memorypressure_operator.evicting import Evicting
from memorypressure_operator.following import Follower
from memorypressure_operator.granting import Granting
from memorypressure_operator.health import Health
from memorypressure_operator.holdings import Holdings
from memorypressure_operator.inforce import InForce
from memorypressure_operator.leader import Leader
from memorypressure_operator.look import Look, is_silent
from memorypressure_operator.means import Means
from memorypressure_operator.memory import Cleanup, NodeMemory
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.moves import Moves, is_moved
from memorypressure_operator.planning import Planner
from memorypressure_operator.planwriting import PlanWriter
from memorypressure_operator.policies import Policies, is_less
from memorypressure_operator.recency import Ours
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import StateView
from memorypressure_operator.retelling import retell
from memorypressure_operator.rounds import Rounds
from memorypressure_operator.settings import Settings
from memorypressure_operator.surveying import Surveyor
from memorypressure_operator.tainting import Tainting
from memorypressure_operator.tallies import Tallies
from memorypressure_operator.telling import Teller

log = logging.getLogger(__name__)

NODES_A_PASS = 50
RETRY_SECONDS = 2.0
UNEXPECTED_RETRY_SECONDS = 20.0
STANDBY_SECONDS = 0.1
"""How often a replica that may not act yet asks whether it may."""


class DecisionLoop(threading.Thread):
    """Runs until `stop`. An unexpected failure of one pass is logged and counted, and the next pass goes on."""

    def __init__(
        self,
        settings: Settings,
        api: Api,
        registry: Registry,
        leader: Leader,
        events: EventWriter,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name="decisions", daemon=True)
        self._settings = settings
        self._api = api
        self._registry = registry
        self._leader = leader
        self._events = events
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._stopping = threading.Event()
        metrics.dirty_nodes.set_function(registry.dirty.waiting)  # asked when it is scraped
        self._decision_log = DecisionLog(settings.decision_log, time.monotonic)
        self._term = 0
        self.memories: dict[str, NodeMemory] = {}
        self._tallies = Tallies(api, settings.namespace, settings.counts_configmap, clock, time.time)
        self.budgets = Budgets(api, settings.namespace, settings.ledger_prefix, clock, metrics.ledger_conflicts.inc)
        put_own_state = functools.partial(registry.put_state, ours=Ours.CHANGED)
        self._granting = Granting(api, self.budgets, leader.holds, clock, put_own_state)
        self._teller = Teller(events, self._tallies.of)
        self._holdings = Holdings(self.budgets, registry, clock)
        self._in_force = InForce(registry, self.memories)
        self.rounds = Rounds(
            self._granting, self.budgets, self._holdings, self._in_force, registry, self.memories, clock, settings
        )
        self._plans = PlanWriter(api, registry, self._holdings, metrics, clock, settings)
        self._moves = Moves(api, registry)
        self._policies = Policies(api, registry, metrics, clock, settings)
        protected = settings.protected
        self._planner = Planner(registry, settings.namespace, self._urgency, self._holdings.is_armed, protected)
        means = Means(api, self.budgets, events, leader.holds, clock)
        actor, follower, cleaner = Actor(means, metrics, self._tallies.of), Follower(means), Cleaner(means)
        self._evicting = Evicting(
            actor,
            follower,
            cleaner,
            registry,
            self._planner,
            self.rounds,
            self._in_force,
            metrics,
            health,
            clock,
            settings,
        )
        self._tainting = Tainting(api, registry, leader.holds, events, metrics, self._tallies.of, clock, settings)
        self._surveyor = Surveyor(
            api,
            registry,
            self.budgets,
            self._holdings,
            self.rounds,
            self._plans,
            events,
            metrics,
            health,
            clock,
            settings,
        )

    # --- the thread ---

    def stop(self) -> None:
        """Ends after the pass under way; nothing new is begun."""
        self._stopping.set()
        self._registry.dirty.wake()

    def recheck_policies(self) -> None:
        """Lists the policies at the next pass: kopf does not tell what was deleted while its watch was broken."""
        self._policies.recheck()

    def run(self) -> None:
        """Passes until `stop`."""
        self._health.loop_started = self._clock()
        while not self._stopping.is_set():
            if self._registry.complete() and self._leader.holds():
                self._registry.dirty.wait(0.5)
            else:
                self._stopping.wait(STANDBY_SECONDS)
            try:
                self.once()
            except LeaseLost as error:
                log.warning("decision loop: %s", error)
            except (ApiUnreachable, ApiRefused) as error:
                self._failed(type(error).__name__)
                log.warning("decision loop: %s", error)
                self._stopping.wait(1.0)
            except Exception:
                self._failed("Unexpected")
                log.exception("a pass of the decision loop failed")
                self._stopping.wait(1.0)
                continue
            self._health.last_reconcile = self._clock()
        if self._term:
            try:
                self._tallies.save(now=True)
            except OperatorError as error:
                log.info("the last counts are not kept: %s", error)

    def _failed(self, why: str) -> None:
        self._metrics.reconcile_errors.labels(why).inc()

    def once(self) -> None:
        """One pass. Raises ApiUnreachable and ApiRefused when the API server is away or refuses something."""
        self._health.last_policy_event = self._registry.policies_at
        self._health.last_node_report = self._registry.last_report_at
        grants = (policy.limits.grant_seconds for policy in self._policies.valid.values())
        self._health.report_seconds = max(grants, default=math.inf)  # a beat comes every third of it
        if not self._registry.complete() or not self._leader.holds():
            self._registry.forget_moves()
            return
        if self._leader.term != self._term:
            self._begin_term()
        self._policies.refresh(self._holdings.is_armed)
        self._planner.begin_pass()
        self._registry.dirty.add(self._planner.unsettled(self._policies.valid.values()))
        self._metrics.plan_staleness.set(self._plans.staleness_seconds())
        self._moves.run(self._policies.moved, self._policies.valid)
        for _ in range(NODES_A_PASS):
            if self._stopping.is_set() or not self._leader.holds():
                return
            taken = self._registry.dirty.take()
            if taken is None:
                break
            self._take_turn(*taken)
        if not self._health.blind():  # else nothing is given or renewed: plans may hold who is protected by now
            self.rounds.run(self._policies.valid)
        self._retell()
        if not self._leader.holds():
            return  # the rounds' requests may have taken, or slept, longer than the Lease lasts
        if self.rounds.unshown:
            self._surveyor.hasten()
        self._surveyor.write(self._policies.valid, self.memories, self._tallies)
        self._policies.create_default()
        self._tallies.save()

    def _retell(self) -> None:
        for store in self.budgets.stores.values():
            if store.desk is not None and not store.retold:
                store.retold = True
                retell(self.budgets.current_evictions(store), self._registry, self._events)

    def _take_turn(self, name: str, quick: bool) -> None:
        """A node's turn. Raises ApiUnreachable and LeaseLost; what else goes wrong is the node's alone."""
        again_seconds: float | None = None
        try:
            with self._metrics.reconcile_seconds.time():
                again_seconds = self._look(name, quick=quick)
        except (ApiUnreachable, LeaseLost):
            self._registry.dirty.add([name], delay_seconds=RETRY_SECONDS)
            raise
        except ApiRefused as refusal:
            self._failed("ApiRefused")
            log.warning("node %s: %s", name, refusal)
            again_seconds = max(RETRY_SECONDS, refusal.retry_after_seconds)
        except Exception:
            self._failed("Unexpected")
            log.exception("node %s: this pass over it failed", name)  # the others have their turn
            again_seconds = UNEXPECTED_RETRY_SECONDS
        if again_seconds is not None:
            self._registry.dirty.add(
                [name], delay_seconds=min(again_seconds, self._settings.resync_seconds), light=True
            )

    def _begin_term(self) -> None:
        """Another replica may have acted since: all that is remembered is read anew."""
        term = self._leader.term
        self.budgets.forget()
        for policy in self.budgets.names():
            self.budgets.store(policy)
        self.memories.clear()
        self.rounds.begin_term()
        self._tallies.load()
        self._policies.list()
        self._registry.dirty.add(list(self._registry.tables.nodes))
        self._term = term

    # --- one node ---

    def _look(self, name: str, *, quick: bool = False) -> float | None:
        """One pass over a node; seconds until time alone may change something.

        None for a node that is gone, or that has its next turn already.

        A `quick` one decides upon the report at once; plan and orders, where they have to be thought over, come with
        another look that lets other nodes' reports go first.
        """
        now_ns = self._now_ns()
        asked = self._registry.dirty.thorough(name)  # before anything is read: what moves later asks anew
        with self._registry.lock:
            tables = self._registry.tables
            node, state, plan = tables.nodes.get(name), tables.states.get(name), tables.plans.get(name)
            pods = dict(tables.pods_by_node.get(name, {}))
        if node is None:
            self.memories.pop(name, None)
            self._plans.forget(name)
            self.rounds.gone(name)
            return None
        memory = self.memories.get(name)
        quick = quick and memory is not None and state is not None
        if memory is None:
            pressed = state is not None and bool(state.status.active_triggers)
            memory = self.memories[name] = NodeMemory(born_seconds=self._clock(), inherited=pressed)
        if asked:
            memory.planned_at = None
        memory.chosen_from = self._policies.valid
        selection = memory.selection = select(memory.chosen_from.values(), node.labels)
        self._in_force.chose(name, selection)
        policy, mode = selection.policy, selection.mode
        if state is not None and is_less(mode, state):
            state = self._moves.write(node, state, policy, mode, plan)  # before a plan, which may have to wait
            if state is None:
                return RETRY_SECONDS
        wait, written = self._settings.resync_seconds, state
        thorough = self._thorough(name, memory, policy, state)
        if thorough:
            memory.planned_at = None
        if thorough and quick and not is_moved(state, policy, mode):
            self._registry.dirty.add([name], delay_seconds=0.0)
        else:
            if thorough:
                draft = self._planner.draft(policy, name, pods.values(), memory.cleanups.keys())
                before = plan
                plan, wait = self._plans.write(node, memory, plan, policy, draft)
                if wait >= self._settings.resync_seconds:
                    memory.planned_at, memory.planned_for = self._clock(), policy
                if plan is not before and self._registry.dirty.pressing() and not is_moved(state, policy, mode):
                    self._registry.dirty.report(name, urgent=False)  # its orders follow, after the reports that wait
                    return None
            written = self._moves.write(node, state, policy, mode, plan)
        if written is None:
            return RETRY_SECONDS
        look = Look(node, memory, policy, mode, pods, plan, written, now_ns)
        waits = [self._settings.resync_seconds, wait, self._watch(look)]
        self._decision_log.looked(name, written.resource_version)
        waits.append(self._tainting.run(look))
        waits.append(self._evicting.run(look))
        calm = not thorough and not memory.watch.pressed
        self.rounds.touch(policy.name if policy else "", name, calm=calm)
        return max(0.05, min(waits))

    def _thorough(self, name: str, memory: NodeMemory, policy: Policy | None, state: StateView | None) -> bool:
        """Whether the plan has to be thought over: not where only the report or the time has moved."""
        pressed = state is not None and bool(state.status.active_triggers)
        return pressed != memory.watch.pressed or self._plans.is_due(name, memory, policy)

    def _now_ns(self) -> int:
        return int(self._clock() * pressure.NS)

    def _urgency(self, name: str) -> float:
        memory = self.memories.get(name)
        return 0.0 if memory is not None and memory.watch.pressed else 1.0

    def _watch(self, look: Look) -> float:
        """Takes the report in: steps, episode, actions to be told and kills to be cleaned up after."""
        memory, name = look.memory, look.node.name
        reported_ns = int(self._registry.reported_at.get(name, self._clock()) * pressure.NS)
        before = memory.watch
        ladder = look.policy.ladder if look.policy else ()
        memory.watch = pressure.advance(before, look.state.status, ladder, reported_ns, look.now_ns)
        if memory.watch.pressed and memory.pressed_at is None:
            memory.pressed_at = reported_ns / pressure.NS
        if not memory.watch.pressed:
            memory.pressed_at = None
        if memory.watch.episode != before.episode:
            memory.inherited = memory.inherited and not before.episode and bool(memory.watch.episode)
            memory.victims, memory.slot, memory.retry_at = 0, False, 0.0
            memory.refused, memory.refused_seconds = frozenset(), 0.0
            memory.acts = ()
            memory.dry = frozenset()
            memory.denials = frozenset()
        now, found = self._clock(), self._settings.resync_seconds
        if is_silent(self._registry, name, look.policy, now) or not look.node.ready:
            memory.slot = False
        if pressure.calm(memory.watch, look.now_ns):
            memory.acts = ()
        kills.counted(memory, look.state.status, now)
        came = self._registry.changed_at.get(name)
        came_seconds = None if came is None else max(0.0, now - came)
        policy_name = look.policy.name if look.policy else ""
        for kill in self._teller.report(memory, look.node, look.state, policy_name, came_seconds):
            memory.acted_at = max(memory.acted_at or 0.0, now - kill.age_seconds)
            memory.killed_at = max(memory.killed_at or 0.0, now - kill.age_seconds)
            memory.slot = memory.slot or bool(memory.watch.episode)
            memory.victims += 1
            memory.acts += (now - kill.age_seconds,)
            pod = kill.action.pod
            if pod is not None and kill.recent:
                memory.cleanups[pod.uid] = Cleanup(0.0, now)
                kills.told(memory, pod.uid, f"{pod.namespace}/{pod.name}", now)
                memory.planned_at, found = None, 0.0  # it leaves the plan, whatever becomes of it
        kills.settle(memory, look.pods, now)
        held = kills.waiting(memory, now, kills.GRANT_WAITS_SECONDS)
        if held is not None:
            found = min(found, held[1])
        if memory.watch.episode_clear_since_ns is not None:
            left_ns = memory.watch.episode_clear_since_ns + pressure.EPISODE_CLEAR_NS - look.now_ns
            found = min(found, left_ns / pressure.NS)
        return found
