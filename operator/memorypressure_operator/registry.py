"""What the cluster looks like: the tables that the streams fill, and the nodes that have to be looked at again.

Writers are the stream threads and kopf; the one reader that decides is the decision loop. Everything is under one
lock; views are immutable, so what is handed out stays as it was.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from memorypressure.protections import DisruptionBudget
from memorypressure.spec import SpecError, parse_policy
from memorypressure_operator.dirty import Dirty
from memorypressure_operator.pods import PodView
from memorypressure_operator.recency import Deleted, Ours, is_late, is_newer, is_outdated
from memorypressure_operator.reports import PlanView, StateView
from memorypressure_operator.slots import Slots
from memorypressure_operator.tables import SINKS, PolicyEntry, Tables
from memorypressure_operator.views import NodeView


class Registry:
    """The tables, what each stream last said, and the set of dirty nodes."""

    def __init__(self, clock: Callable[[], float], coalesce_seconds: float) -> None:
        self.lock = threading.RLock()
        self.tables = Tables()
        self.slots = Slots(self.tables.nodes, self.tables.holders)
        self.dirty = Dirty(clock, coalesce_seconds)
        self._clock = clock
        self._synced: set[str] = set()
        self._complete = threading.Event()
        self.reported_at: dict[str, float] = {}  # node -> when its report was first seen or last changed, our clock
        self.changed_at: dict[str, float] = {}  # the same, only changes: how old the first one is nobody knows
        self.last_report_at: float | None = None  # the newest of them
        self.policies_at: float | None = None
        self.policies_changed = True
        self._deleted_policies = Deleted()
        self._deleted = Deleted()  # states and plans, for answers about what we have just made
        self.relabelled: set[str] = set()  # nodes that appeared or changed labels, until the decision loop takes them
        self.nodes_version = 0  # moves when a node appears, goes or changes its labels
        self.resized: dict[str, int] = {}  # workload -> its pods before they became more or fewer, until it is taken
        self.freed: set[str] = set()  # workloads that left a plan, until they are taken

    # --- policies, fed by kopf ---

    def put_policy(self, body: Mapping[str, Any], *, watched: bool = False) -> None:
        """Takes a policy object; an invalid one stays known, with its errors. `watched`: kopf's watch sent it.

        The watch, lists and the answers to our own writes come in any order: what is older than what is known, or was
        deleted already, is passed over.
        """
        meta = body["metadata"]
        policy, error = None, ""
        try:
            policy = parse_policy({k: v for k, v in body.items() if k != "status"})
        except SpecError as refusal:
            error = str(refusal)
        entry = PolicyEntry(
            name=meta["name"],
            uid=meta["uid"],
            generation=int(meta.get("generation") or 0),
            resource_version=str(meta.get("resourceVersion") or ""),
            policy=policy,
            error=error,
            status=body.get("status") or {},
        )
        with self.lock:
            if watched:
                self.policies_at = self._clock()
            before = self.tables.policies.get(entry.name)
            if entry.uid in self._deleted_policies or (before is not None and is_outdated(entry, before)):
                return
            self.tables.policies[entry.name] = entry
            if before is None or (before.uid, before.generation) != (entry.uid, entry.generation):
                self._policies_moved()

    def remove_policy(self, uid: str, *, watched: bool = False) -> None:
        """Forgets a policy that was deleted, for good: a UID never comes back. `watched`: kopf's watch said so."""
        with self.lock:
            if watched:
                self.policies_at = self._clock()
            self._deleted_policies.add(uid)
            name = next((name for name, entry in self.tables.policies.items() if entry.uid == uid), None)
            if name is not None:
                del self.tables.policies[name]
                self._policies_moved()

    def _policies_moved(self) -> None:
        self.policies_changed = True
        self._mark(self.tables.nodes)

    # --- what the streams ask for ---

    def synced(self, table: str) -> bool:
        """Whether the stream has sent this table's whole state once."""
        return table in self._synced

    def mark_synced(self, table: str) -> None:
        """The stream has sent this table's whole state."""
        with self.lock:
            self._synced.add(table)
            if len(self._synced) == len(SINKS):
                self._complete.set()
                self.dirty.add(self.tables.nodes)
            self.dirty.wake()

    def complete(self) -> bool:
        """All six tables hold the whole cluster: before that nothing is decided, and no node counts as dirty."""
        return self._complete.is_set()

    def _mark(self, names: Iterable[str]) -> None:
        if self._complete.is_set():
            self.dirty.add(names)

    # --- nodes ---

    def put_node(self, name: str, view: NodeView) -> None:
        """A node appeared or changed."""
        with self.lock:
            before = self.tables.nodes.get(name)
            self.tables.nodes[name] = view
            if before is None or before.labels != view.labels:
                self.nodes_version += 1
                self.relabelled.add(name)
            if before is None:
                self.slots.appeared(name)
            if before != view:
                self._mark([name])

    def remove_node(self, name: str) -> None:
        """A node is gone."""
        with self.lock:
            if self.tables.nodes.pop(name, None) is not None:
                self.nodes_version += 1
                self.slots.gone(name)
                self._mark([name])

    # --- states ---

    def put_state(self, name: str, view: StateView, *, ours: Ours | None = None) -> None:
        """A state appeared or changed; new active triggers make its node urgent.

        `ours`: the answer to our write, which may come after the event that tells of its deletion: then it is nothing.
        """
        with self.lock:
            before = self.tables.states.get(name)
            if is_late(before, view, ours, self._deleted):
                return
            if ours is None:
                self._deleted.discard(view.uid)
            if (
                before is not None
                and before.uid == view.uid
                and is_newer(before.resource_version, view.resource_version)
            ):
                return  # the answer to our own write was newer than this event
            self.tables.states[name] = view
            self.slots.state(name, before, view)
            if before is None or before.status != view.status:
                self.reported_at[name] = self.last_report_at = self._clock()
                if before is not None:
                    self.changed_at[name] = self.last_report_at
            if not self._complete.is_set():
                return
            moved = before is None or (before.uid, before.owner_uid, before.spec) != (
                view.uid,
                view.owner_uid,
                view.spec,
            )
            if moved and ours is None:
                self.dirty.add([name])
            if before is None or before.status != view.status:
                triggers = {t.name for t in view.status.active_triggers}
                fresh = before is None or triggers != {t.name for t in before.status.active_triggers}
                self.dirty.report(name, urgent=fresh and bool(triggers))

    def remove_state(self, name: str) -> None:
        """A state is gone."""
        with self.lock:
            self.reported_at.pop(name, None)
            self.changed_at.pop(name, None)
            before = self.tables.states.pop(name, None)
            if before is not None:
                self._deleted.add(before.uid)
                self.slots.state(name, before, None)
                self._mark([name])

    # --- plans ---

    def put_plan(self, name: str, view: PlanView, *, ours: Ours | None = None) -> None:
        """A plan appeared or changed. `ours`: the answer to our own write, as with `put_state`."""
        with self.lock:
            before = self.tables.plans.get(name)
            if is_late(before, view, ours, self._deleted):
                return
            if ours is None:
                self._deleted.discard(view.uid)
            if before is not None and before.uid == view.uid and before.generation > view.generation:
                return  # the answer to our own write was newer than this event
            self.slots.plan(name, before, view)
            self.tables.plans[name] = view
            if before is not None:
                self.freed |= before.workloads - view.workloads
            if before != view and ours is None:
                self._mark([name])

    def remove_plan(self, name: str) -> None:
        """A plan is gone."""
        with self.lock:
            before = self.tables.plans.pop(name, None)
            self.slots.plan(name, before, None)
            if before is not None:
                self._deleted.add(before.uid)
                self.freed |= before.workloads
                self._mark([name])

    # --- pods ---

    def put_pod(self, uid: str, view: PodView) -> None:
        """A pod appeared or changed."""
        with self.lock:
            before = self.tables.pods.get(uid)
            if before == view:
                return
            self._note_sizes(before, view)
            self._forget(before)
            self.tables.pods[uid] = view
            if view.node:
                self.tables.pods_by_node.setdefault(view.node, {})[uid] = view
                self._mark([view.node])
            if view.counts:
                nodes = self.tables.workload_nodes.setdefault(view.workload, {})
                nodes[view.node] = nodes.get(view.node, 0) + 1

    def remove_pod(self, uid: str) -> None:
        """A pod is gone."""
        with self.lock:
            view = self.tables.pods.pop(uid, None)
            self._note_sizes(view, None)
            self._forget(view)
            if view is not None and view.node:
                self._mark([view.node])

    def size(self, workload: str) -> int:
        """How many pods of the workload run or are about to; the lock is held."""
        return sum(self.tables.workload_nodes.get(workload, {}).values())

    def forget_moves(self) -> None:
        """Drops what nobody takes while no term lasts: in the next one every plan is thought over."""
        with self.lock:
            self.resized, self.freed = {}, set()

    def _note_sizes(self, before: PodView | None, after: PodView | None) -> None:
        """Notes the workloads that this change makes larger or smaller: nodes elsewhere plan by their sizes."""
        if not self._complete.is_set():
            return
        was = before.workload if before is not None and before.counts else ""
        now = after.workload if after is not None and after.counts else ""
        if was != now:
            for workload in filter(None, (was, now)):
                self.resized.setdefault(workload, self.size(workload))

    def _forget(self, view: PodView | None) -> None:
        if view is None:
            return
        on_node = self.tables.pods_by_node.get(view.node)
        if on_node is not None:
            on_node.pop(view.uid, None)
            if not on_node:
                del self.tables.pods_by_node[view.node]
        nodes = self.tables.workload_nodes.get(view.workload)
        if nodes is not None and view.counts:
            nodes[view.node] -= 1
            if not nodes[view.node]:
                del nodes[view.node]
            if not nodes:
                del self.tables.workload_nodes[view.workload]

    # --- namespaces and budgets: what changes there concerns the nodes with pods of the namespace ---

    def put_namespace(self, name: str, labels: dict[str, str]) -> None:
        """A namespace appeared or changed its labels."""
        with self.lock:
            before = self.tables.namespaces.get(name)
            self.tables.namespaces[name] = labels
            if before != labels:
                self._touch_namespace(name)

    def remove_namespace(self, name: str) -> None:
        """A namespace is gone, or it is not known any more what it says."""
        with self.lock:
            if self.tables.namespaces.pop(name, None) is not None:
                self._touch_namespace(name)

    def put_budget(self, key: tuple[str, str], view: DisruptionBudget) -> None:
        """A PodDisruptionBudget appeared or changed."""
        with self.lock:
            before = self.tables.budgets.get(key)
            self.tables.budgets[key] = view
            self.tables.budgets_by_namespace.setdefault(key[0], {})[key[1]] = view
            if before != view:
                self._touch_namespace(key[0])

    def remove_budget(self, key: tuple[str, str]) -> None:
        """A PodDisruptionBudget is gone."""
        with self.lock:
            if self.tables.budgets.pop(key, None) is not None:
                there = self.tables.budgets_by_namespace[key[0]]
                del there[key[1]]
                if not there:
                    del self.tables.budgets_by_namespace[key[0]]
                self._touch_namespace(key[0])

    def _touch_namespace(self, namespace: str) -> None:
        if not self._complete.is_set():
            return
        prefix = namespace + "/"
        workloads = (nodes for workload, nodes in self.tables.workload_nodes.items() if workload.startswith(prefix))
        self.dirty.add({node for nodes in workloads for node in nodes if node})
