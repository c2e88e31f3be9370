"""On which nodes a workload's pods may be killed now: by the plans that are stored, and by older ones still in use.

maxVictimsPerWorkload bounds these nodes. A node that lost a workload with a new plan keeps its place until it reports
that it took that plan: the state's generation that names it, as `observedGeneration`. (Whoever has no allowance cannot
use an old plan; that is the caller's to know.) All of it is read off the streams, so a replica that only watches knows
it too. A node that was never seen to hold exactly its stored plan may hold an older one with anything on it.

A Node that is gone takes everything with it that ran there, whatever is still stored under its name: plan and state go
later, by garbage collection, and what is told of them then adds nothing.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from memorypressure_operator.reports import PlanView, StateView

_Reference = tuple[str, int]  # a plan's UID and generation
_NO_PLAN: _Reference = ("", 0)


@dataclass(frozen=True, slots=True)
class _Lost:
    """A workload left a node's plan with this version of it. `told`: the state's generation that names that version."""

    plan_uid: str
    plan_generation: int
    told: int | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """The plan that a state names, since which of its generations, and the generation that the node has taken."""

    plan: _Reference
    since: int
    observed: int


class Slots:
    """Fed by the registry under its lock; `nodes`: those that exist."""

    def __init__(self, nodes: Container[str], named: dict[str, set[str]]) -> None:
        self._nodes = nodes
        self._named = named  # workload -> nodes whose stored plan has its pods
        self._lost: dict[str, dict[str, _Lost]] = {}  # node -> workload
        self._lost_by: dict[str, set[str]] = {}  # workload -> nodes
        self._plans: dict[str, _Reference] = {}
        self._told: dict[str, _Told] = {}
        self._sure: set[str] = set()
        self._unsure: set[str] = set()

    def plan(self, node: str, before: PlanView | None, after: PlanView | None) -> None:
        """A plan appeared, changed or went."""
        was = before.workloads if before else frozenset()
        now = after.workloads if after else frozenset()
        for workload in was - now:
            self._named[workload].discard(node)
            if not self._named[workload]:
                del self._named[workload]
            if before is not None and node in self._nodes:
                kept = after is not None and after.uid == before.uid
                generation = after.generation if after is not None and kept else before.generation + 1
                self._lost.setdefault(node, {})[workload] = _Lost(before.uid, generation)
                self._lost_by.setdefault(workload, set()).add(node)
        for workload in now - was:
            self._named.setdefault(workload, set()).add(node)
        if after is None:
            self._plans.pop(node, None)
        else:
            self._plans[node] = (after.uid, after.generation)
        self._judge(node)

    def state(self, node: str, before: StateView | None, after: StateView | None) -> None:
        """A state appeared, changed or went: it may name a newer plan, or say that one was taken."""
        if after is None:
            self._told.pop(node, None)
            return
        anew = before is None or before.uid != after.uid
        reference, observed = _reference(after), after.status.observed_generation
        known = self._told.get(node)
        since = after.generation if known is None or anew or known.plan != reference else known.since
        self._told[node] = _Told(reference, since, observed)
        self._judge(node)
        for workload, lost in list(self._lost.get(node, {}).items()):
            told = None if anew else lost.told
            if told is None and (reference[0] != lost.plan_uid or reference[1] >= lost.plan_generation):
                told = after.generation
            if told is not None and observed >= told:
                self._forget(node, workload)
            else:
                self._lost[node][workload] = replace(lost, told=told)

    def appeared(self, node: str) -> None:
        """The Node is there; its plan and state may have been known before."""
        self._judge(node)

    def gone(self, node: str) -> None:
        """The Node is gone, and with it everything that ran there; `nodes` has it no more."""
        for workload in list(self._lost.get(node, {})):
            self._forget(node, workload)
        self._sure.discard(node)
        self._unsure.discard(node)

    def lingering(self, workload: str, pods: Mapping[str, int]) -> frozenset[str]:
        """Nodes that may still hold an older plan with pods of the workload; `pods`: where it has any."""
        return frozenset(self._lost_by.get(workload, ())) | (self._unsure & pods.keys())

    def _judge(self, node: str) -> None:
        """Once a node holds exactly its stored plan, what it loses later is seen: it is known for good."""
        told = self._told.get(node)
        unknown = told is None and node not in self._plans
        if node in self._sure or node not in self._nodes or unknown:
            return
        if told is not None and told.plan == self._plans.get(node, _NO_PLAN) and told.observed >= told.since:
            self._sure.add(node)
            self._unsure.discard(node)
        else:
            self._unsure.add(node)

    def _forget(self, node: str, workload: str) -> None:
        del self._lost[node][workload]
        if not self._lost[node]:
            del self._lost[node]
        nodes = self._lost_by[workload]
        nodes.discard(node)
        if not nodes:
            del self._lost_by[workload]


def _reference(state: StateView) -> _Reference:
    named = state.spec.get("plan") or {}
    return str(named.get("uid") or ""), int(named.get("generation") or 0)
