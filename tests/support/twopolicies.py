"""One node that goes from policy to policy and back, with everything that may go wrong on the way.

Rounds, grants and ledgers are the operator's own code, over an API server in memory that keeps every version: there are
two operators with old caches and old policies, and the node's journals are replaced while their processes live on.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from support.fakecluster import Clock, FakeCluster

from memorypressure import grants, ledger
from memorypressure.grants import Leave, NodeGrants, Permit
from memorypressure.selection import select
from memorypressure.spec import Mode, Policy, parse_policy
from memorypressure_operator import kills as kills_module
from memorypressure_operator import objects
from memorypressure_operator import settings as settings_module
from memorypressure_operator.api import Answer
from memorypressure_operator.budget import Budgets
from memorypressure_operator.errors import ApiRefused, ApiUnreachable
from memorypressure_operator.granting import Granting
from memorypressure_operator.holdings import Holdings
from memorypressure_operator.inforce import InForce
from memorypressure_operator.memory import NodeMemory
from memorypressure_operator.recency import Ours
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanView, StateView, decode_state
from memorypressure_operator.rounds import Rounds
from memorypressure_operator.tables import PolicyEntry
from memorypressure_operator.views import NodeView

NODE = "n"
NAMES = ("a", "b")
HOUR = 3600.0
SETTINGS = settings_module.parse({"namespace": "own"}, {})


def policy(
    name: str, *, grant_seconds: int = 180, priority: int = 0, mode: str = "Enforce", per_hour: int = 0
) -> Policy:
    """One standing kill, on every node."""
    spec = {
        "mode": mode,
        "priority": priority,
        "nodeSelector": {},
        "triggers": [{"name": "min", "type": "ZoneWatermark", "zoneWatermark": {"line": "Min"}}],
        "ladder": [{"action": "Kill", "triggers": ["min"], "afterSeconds": 0}],
        "limits": {"grantSeconds": grant_seconds, "maxStandingKills": 1, "killsPerHour": per_hour},
    }
    metadata = {"name": name, "uid": f"uid-{name}", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    kind = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy"}
    return parse_policy({**kind, "metadata": metadata, "spec": spec})


class World:
    """The API server, the node's journals (the newest last) and what they killed."""

    def __init__(self) -> None:
        self.clock, self.cluster = Clock(), FakeCluster()
        self.policies: dict[str, Policy] = {"a": policy("a")}
        self.states: list[StateView | None] = []
        self.plans: list[tuple[PlanView, int]] = []
        self.agents: list[Agent] = []
        self.under_way: list[Callable[[], object]] = []
        self.kills: list[tuple[str, float]] = []  # the policy whose grant allowed it, and when
        self.shown: set[str] = set()  # policies whose status shows their worst hour
        self.uids = 0
        self.make_state()
        self.replace_journal()

    def make_state(self) -> None:
        """The state made, or made anew."""
        self.uids += 1
        self.cluster.version += 1
        version = str(self.cluster.version)
        meta = {"name": NODE, "uid": f"s{self.uids}", "generation": 1, "resourceVersion": version}
        self.cluster.states[NODE] = {"metadata": meta, "spec": {"nodeName": NODE}}
        self.keep()

    def delete_state(self) -> None:
        self.cluster.states.pop(NODE, None)
        self.keep()

    def keep(self) -> None:
        """Notes the state's version."""
        body = self.cluster.states.get(NODE)
        view = decode_state(json.dumps(body).encode()) if body is not None else None
        if not self.states or view != self.states[-1]:
            self.states.append(view)

    def replace_journal(self) -> "Agent":
        self.agents.append(Agent(self, f"i{len(self.agents) + 1}"))
        return self.agents[-1]

    def grant(self) -> Mapping[str, Any]:
        """What the state grants now."""
        state = self.states[-1]
        return (state.spec.get("grant") or {}) if state is not None else {}

    def ledger(self, name: str) -> ledger.Ledger:
        held = self.cluster.config_maps.get(f"ledger-{name}")
        return ledger.decode(held["data"]) if held is not None else ledger.Ledger()

    def most_in_an_hour(self, policy: str) -> int:
        times = [at for name, at in self.kills if name == policy]
        return max((sum(end - HOUR < at <= end for at in times) for end in times), default=0)


class Agent:
    """A journal with its sentinel and reporter."""

    def __init__(self, world: World, incarnation: str) -> None:
        self.world = world
        self.journal: NodeGrants = grants.new_journal(incarnation, self.boot_ns)
        self.orders: Leave | None = None

    @property
    def boot_ns(self) -> int:
        return int(self.world.clock.now * 1e9)

    @property
    def grant_seconds(self) -> int:
        return self.orders.grant_seconds if self.orders is not None else 180

    def read(self, state_age: int = 0, plan_age: int = 0) -> None:
        """Orders of versions that may be old, each by itself."""
        states, plans = self.world.states, self.world.plans
        state = states[max(0, len(states) - 1 - state_age)]
        if state is None or not plans:
            self.orders = None
        else:
            plan, seconds = plans[max(0, len(plans) - 1 - plan_age)]
            value = state.spec.get("grant")
            grant = None
            if value is not None:
                names = ("incarnation", "beat", "killsCeiling", "planUID", "planGeneration")
                grant = grants.Grant(*(value[name] for name in names))
            self.orders = Leave(Mode(state.spec.get("mode", "Disabled")), grant, plan.uid, plan.generation, seconds)
        self.tick()

    def tick(self) -> None:
        if grants.beat_due(self.journal, self.boot_ns, self.grant_seconds):
            self.journal = grants.begin_beat(self.journal, self.boot_ns)
        grant = self.orders.grant if self.orders is not None else None
        self.journal = grants.see_grant(self.journal, grant, self.boot_ns)

    def report(self, *, arrives: bool = True) -> None:
        world, lease = self.world, self.journal.lease
        uid = world.cluster.states.get(NODE, {}).get("metadata", {}).get("uid")

        def land() -> None:
            held = world.cluster.states.get(NODE)
            if held is None or held["metadata"]["uid"] != uid:
                return
            before = held.get("status", {}).get("lease") or {}
            if before.get("incarnation") == lease.incarnation and before["beat"] > lease.beat:
                return
            told = {
                "incarnation": lease.incarnation,
                "beat": lease.beat,
                "killsTotal": lease.kills_total,
                "ceilingSeen": lease.ceiling_seen,
            }
            world.cluster.version += 1
            held["metadata"] = held["metadata"] | {"resourceVersion": str(world.cluster.version)}
            held["status"] = {"lease": told, "capabilities": ["CgroupKill"], "lastReportTime": str(world.clock.now)}
            world.keep()

        if arrives:
            land()
        else:
            world.under_way.append(land)

    def in_touch(self) -> None:
        self.read()
        self.report()

    def kill(self) -> bool:
        self.tick()
        if not isinstance(grants.may_kill(self.journal, self.orders, self.boot_ns), Permit):
            return False
        self.journal = grants.reserve(self.journal)
        allowed_by = self.orders.grant.plan_generation if self.orders is not None and self.orders.grant else 0
        self.world.kills.append((self.world.plans[allowed_by - 1][0].policy, self.world.clock.now))
        return True


class Leader:
    """One operator process. `fate`: what becomes of each of its writes; "" is the ordinary one."""

    def __init__(self, world: World, fate: Callable[[], str] = lambda: "") -> None:
        self.world, self.fate = world, fate
        self.policies: Mapping[str, Policy] = dict(world.policies)
        self.at = 0
        self.memory = NodeMemory(selection=select(self.policies.values(), {}))
        memories = {NODE: self.memory}
        self.registry = Registry(world.clock, 0.0)
        self.registry.put_node(NODE, NodeView(NODE, "uid-n", {}, (), ready=True))
        api: Any = self
        self.budgets = Budgets(api, "own", "ledger", world.clock, lambda: None)
        self.holdings = Holdings(self.budgets, self.registry, world.clock)
        self.in_force = InForce(self.registry, memories)
        granting = Granting(api, self.budgets, lambda: True, world.clock, self.took)
        self.rounds = Rounds(
            granting, self.budgets, self.holdings, self.in_force, self.registry, memories, world.clock, SETTINGS
        )
        for name in self.budgets.names():
            self.budgets.store(name)

    def took(self, name: str, state: StateView) -> None:
        self.registry.put_state(name, state, ours=Ours.CHANGED)

    # --- the API ---

    def get(self, path: str, **_: Any) -> Answer:
        return self.world.cluster.get(path)

    def request(self, method: str, path: str, **more: Any) -> Answer:
        fate = self.fate()

        def land() -> Answer:
            if "/nodememorystates/" in path and NODE not in self.world.cluster.states:
                raise ApiRefused(404, "NotFound", "gone")
            if method == "DELETE":
                self._precondition(path.rsplit("/", 1)[1], **more)
            answer = self.world.cluster.request(method, path, **more)
            self.world.keep()
            return answer

        if fate == "late":
            self.world.under_way.append(land)
            raise ApiUnreachable("no answer yet")
        if fate == "lost":
            raise ApiUnreachable("not sent")
        answer = land()
        if fate == "doubt":
            raise ApiUnreachable("no answer")
        return answer

    def _precondition(self, config_map: str, *, body: Any) -> None:
        held = self.world.cluster.config_maps.get(config_map)
        if held is None:
            raise ApiRefused(404, "NotFound", "gone")
        if held["metadata"]["resourceVersion"] != body["preconditions"]["resourceVersion"]:
            raise ApiRefused(409, "Conflict", "stale")

    # --- one pass ---

    def run(self, *, lag: int = 0, new_policies: bool = True) -> None:
        """Looks at the node and makes the rounds that are due."""
        if new_policies:
            self.policies = dict(self.world.policies)
        self.at = max(self.at, len(self.world.states) - 1 - lag)
        state = self.world.states[self.at]
        if state is None:
            self.registry.remove_state(NODE)
        else:
            self.registry.put_state(NODE, state)
        self._show()
        try:
            self._look()
            self.rounds.run(self.policies)
        except (ApiUnreachable, ApiRefused):
            pass

    def _show(self) -> None:
        """The policies with their statuses, which show a worst hour once there is a ledger."""
        self.world.shown &= self.world.policies.keys()
        for name, each in self.policies.items():
            if name in self.budgets.stores and self.budgets.stores[name].desk is not None:
                self.world.shown.add(name)
            worst = 1 + each.limits.kills_per_hour if name in self.world.shown else 0
            status = {"exposure": {"worstCaseHour": worst}}
            self.registry.tables.policies[name] = PolicyEntry(name, f"uid-{name}", 1, "1", each, "", status)

    def _look(self) -> None:
        selection = self.memory.selection = select(self.policies.values(), {})
        self.in_force.chose(NODE, selection)
        chosen, state = selection.policy, self.registry.tables.states.get(NODE)
        plan = self.world.plans[-1][0] if self.world.plans else None
        if chosen is not None and self.holdings.may_plan(NODE, chosen.limits.grant_seconds):
            wanted = chosen.name, str(chosen.limits)
            if plan is None or (plan.policy, plan.digest) != wanted:
                generation = plan.generation + 1 if plan is not None else 1
                plan = PlanView(NODE, "plan", generation, "", wanted[1], chosen.name, 1, 0, frozenset())
                self.world.plans.append((plan, chosen.limits.grant_seconds))
        if plan is not None:
            self.registry.put_plan(NODE, plan)
        name = chosen.name if chosen is not None else ""
        if state is not None:
            orders = {"nodeName": NODE, "mode": selection.mode.value, "policyName": name or None}
            if any(state.spec.get(key) != value for key, value in orders.items()):
                api: Any = self
                stored = objects.write_state(api, self.registry.tables.nodes[NODE], state, orders)
                if stored is not None:
                    self.registry.put_state(NODE, stored, ours=Ours.CHANGED)
                state = self.registry.tables.states[NODE]
            kills_module.counted(self.memory, state.status, self.world.clock())
            kills_module.settle(self.memory, {}, self.world.clock())
        self.rounds.touch(name, NODE)


class WildRun:
    """Steps weighted towards what really happens, with a share of chaos."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = World()
        self.chaos = self.random.choice([0.0, 0.1, 0.3])
        self.spans = self.random.choice([(1, 5, 20, 20, 61, 61, 100, 199), (20, 61, 199, 400, 1500)])
        self.leaders = [Leader(self.world, self._fate), Leader(self.world, self._fate)]

    def _wild(self) -> bool:
        return self.random.random() < self.chaos

    def _fate(self) -> str:
        return self.random.choice(["late", "lost", "doubt"]) if self.random.random() < self.chaos / 2 else ""

    def step(self) -> None:
        random, world, draw = self.random, self.world, self.random.random()
        lag = random.choice([1, 2, 4, 8]) if self._wild() else 0
        agent = random.choice(world.agents[-2:]) if self._wild() else world.agents[-1]
        if draw < 0.36:
            world.clock.now += 1
            self.leaders[random.choice([0, 1]) if self._wild() else 0].run(lag=lag, new_policies=not self._wild())
        elif draw < 0.62:
            agent.read(lag, random.choice([0, 1, 2]) if self._wild() else 0)
            agent.report(arrives=not self._wild())
        elif draw < 0.76:
            agent.kill()
        elif draw < 0.85:
            world.clock.now += random.choice(self.spans)
        elif draw < 0.89:
            world.replace_journal().in_touch()
        elif draw < 0.93:
            world.policies = self._policies()
        elif draw < 0.95:
            self.leaders[0] = Leader(world, self._fate)
        elif world.under_way:
            with contextlib.suppress(ApiRefused):
                world.under_way.pop(random.randrange(len(world.under_way)))()
        elif self._wild():
            world.delete_state()
            if random.random() < 0.8:
                world.make_state()

    def _policies(self) -> dict[str, Policy]:
        random, found = self.random, {}
        for place, name in enumerate(random.choice([("a",), ("b",), ("a", "b"), ("b", "a"), ()])):
            mode, seconds = random.choice(["Enforce"] * 3 + ["DryRun"]), random.choice([180, 180, 400, 900])
            found[name] = policy(name, priority=-place, mode=mode, grant_seconds=seconds)
        return found


def wild_run(seed: int, steps: int) -> World:
    """What became of one node in so many random steps."""
    run = WildRun(seed)
    for _ in range(steps):
        run.step()
    return run.world
