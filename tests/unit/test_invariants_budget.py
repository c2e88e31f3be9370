"""Invariant 4: no hour sees more kills than shown, whatever crashes, pauses, lags behind or is made anew.

The simulation below is everything between a ledger and a kill: an API server with resource versions, two operators
that both believe to lead, their lagging caches and writes still under way, nodes with journals, reporters and
sentinels. Hypothesis chooses what happens next.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memorypressure import allotment, grants, ledger
from memorypressure.allotment import Closing, Desk, GrantWrite, NodeView, Round, WriteKind
from memorypressure.grants import Grant, Lease, Leave, NodeGrants, Permit
from memorypressure.ledger import Entry, Ledger
from memorypressure.spec_values import Limits, Mode, Share

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
GRANT_SECONDS = 180
NODES = ("a", "b", "c")


@dataclass(frozen=True)
class State:
    """One version of a NodeMemoryState."""

    uid: int
    version: int
    grant: Grant | None = None
    lease: Lease | None = None


@dataclass
class ApiServer:
    """Objects with resource versions; every version is kept, because caches are old."""

    version: int = 1
    states: dict[str, list[State | None]] = field(default_factory=lambda: {node: [State(1, 1)] for node in NODES})
    ledger: tuple[int, dict[str, str]] | None = None
    ever_granted: bool = False

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def live(self, node: str) -> State | None:
        return self.states[node][-1]

    def put_state(self, node: str, state: State | None) -> None:
        self.states[node].append(state)

    def write_grant(self, node: str, grant: Grant | None, uid: int, version: int) -> bool:
        live = self.live(node)
        if live is None or (live.uid, live.version) != (uid, version):
            return False
        if live.grant != grant:  # a write without a change moves nothing
            self.put_state(node, replace(live, version=self.next_version(), grant=grant))
        return True

    def write_ledger(self, data: dict[str, str], version: int | None) -> int | None:
        if (self.ledger[0] if self.ledger else None) != version:
            return None
        if self.ledger is None or self.ledger[1] != data:  # a write without a change moves nothing
            self.ledger = (self.next_version(), data)
        return self.ledger[0]


@dataclass
class Operator:
    """A process: its desk, the version of the ledger it read, and how old its caches are (index into the versions).

    Each that is opened reads another clock: that of its machine, which was booted at any time before.
    """

    clock_offset_ns: int = 0
    desk: Desk | None = None
    ledger_version: int | None = None
    cached: dict[str, int] = field(default_factory=dict)
    taken: dict[str, object] = field(default_factory=dict)  # what the nodes' views were in this desk's last round


@dataclass
class Node:
    """A machine: journal (outlives the sentinel), orders on disk, reports under way."""

    name: str
    boot_offset_ns: int
    journals: int = 0
    journal: NodeGrants | None = None
    orders: Leave | None = None
    running: bool = True


@dataclass
class Simulation:
    standing: int
    kills_per_hour: int
    now_ns: int = 1000 * SECOND
    api: ApiServer = field(default_factory=ApiServer)
    operators: tuple[Operator, Operator] = field(default_factory=lambda: (Operator(), Operator()))
    nodes: dict[str, Node] = field(default_factory=dict)
    under_way: list[Callable[[], object]] = field(default_factory=list)
    opened: int = 0  # operators so far
    kills: list[int] = field(default_factory=list)
    ceilings: dict[str, int] = field(default_factory=dict)
    pressure: dict[str, bool] = field(default_factory=dict)
    modes: dict[str, Mode] = field(default_factory=lambda: dict.fromkeys(NODES, Mode.ENFORCE))
    shown: list[tuple[int, int, int]] = field(default_factory=list)  # (when, operator, worst case of an hour)

    def __post_init__(self) -> None:
        for index in (0, 1):
            self.shown.append((0, index, self.standing + self.kills_per_hour))
        for index, name in enumerate(NODES):
            self.nodes[name] = Node(name, boot_offset_ns=index * 7_777 * SECOND)
            self.new_journal(name)

    @property
    def limits(self) -> Limits:
        share = Share(count=self.standing)
        return Limits(60, 3, Share(percent=10), Share(percent=100), 20, self.kills_per_hour, share, GRANT_SECONDS)

    # --- nodes ---

    def boot_ns(self, name: str) -> int:
        return self.now_ns + self.nodes[name].boot_offset_ns

    def new_journal(self, name: str) -> None:
        """A journal that was lost; every other time with all of memory, and the boot clock begins anew."""
        node = self.nodes[name]
        node.journals += 1
        if node.journals % 2 == 0:
            node.boot_offset_ns = -self.now_ns
        node.journal = grants.new_journal(f"{name}-{node.journals:04d}", self.boot_ns(name))
        node.orders = None
        node.running = True

    def deliver(self, name: str, age: int) -> None:
        """The reporter writes orders from a version of the state that may be old; the sentinel reads them."""
        versions = self.api.states[name]
        state = versions[max(0, len(versions) - 1 - age)]
        node = self.nodes[name]
        node.orders = None if state is None else Leave(Mode.ENFORCE, state.grant, "plan", 1, GRANT_SECONDS)
        self.tick(name)

    def tick(self, name: str) -> None:
        node = self.nodes[name]
        if not node.running or node.journal is None:
            return
        boot_ns = self.boot_ns(name)
        if grants.beat_due(node.journal, boot_ns, GRANT_SECONDS):
            node.journal = grants.begin_beat(node.journal, boot_ns)
        node.journal = grants.see_grant(node.journal, node.orders.grant if node.orders else None, boot_ns)

    def report(self, name: str, arrives: bool) -> None:
        """The reporter patches the status; a patch names the object's uid, so it never reaches a successor."""
        node, live = self.nodes[name], self.api.live(name)
        if node.journal is None or live is None:
            return
        lease, uid = node.journal.lease, live.uid

        def land() -> None:
            now = self.api.live(name)
            if now is None or now.uid != uid:
                return
            if now.lease is not None and now.lease.incarnation == lease.incarnation and now.lease.beat > lease.beat:
                return
            self.api.put_state(name, replace(now, version=self.api.next_version(), lease=lease))

        if arrives:
            land()
        else:
            self.under_way.append(land)

    def kill(self, name: str, crash: str) -> bool:
        """The sentinel kills if it may; `crash` is where it dies: nowhere, before or after the journal's write."""
        node = self.nodes[name]
        if not node.running or node.journal is None:
            return False
        self.tick(name)
        permit = grants.may_kill(node.journal, node.orders, self.boot_ns(name))
        if not isinstance(permit, Permit):
            return False
        if crash == "before":
            node.running = False
            return False
        node.journal = grants.reserve(node.journal)
        if crash == "reserved":
            node.running = False
            return False
        self.kills.append(self.now_ns)
        assert node.journal.kills_total <= self.ceilings[node.journal.incarnation]
        node.running = crash != "after"
        return True

    # --- operators ---

    def clock_ns(self, operator: Operator) -> int:
        return self.now_ns + operator.clock_offset_ns

    def open(self, index: int) -> bool:
        operator = self.operators[index]
        operator.cached.clear()
        operator.taken.clear()
        self.opened += 1
        operator.clock_offset_ns = self.opened * 7_919 % 30 * DAY
        if self.api.ledger is None:
            operator.ledger_version = None
            fresh = ledger.adopted((), used_before=self.api.ever_granted, grant_seconds=GRANT_SECONDS)
            version = self.api.write_ledger(ledger.encode(fresh), None)
        else:
            version, data = self.api.ledger
            fresh = ledger.decode(data)
        operator.ledger_version = version
        operator.desk = allotment.opened(fresh, self.clock_ns(operator))
        return True

    def views(self, index: int, lag: int) -> tuple[list[NodeView], frozenset[str], dict[str, State]]:
        """What the operator's caches say; they never go back, and never beyond what is there."""
        operator = self.operators[index]
        views, seen, absent = [], {}, set()
        for name in NODES:
            versions = self.api.states[name]
            at = max(operator.cached.get(name, 0), len(versions) - 1 - lag)
            operator.cached[name] = at
            state = versions[at]
            if state is None:
                if versions[-1] is None:  # asked for, not taken from the cache
                    absent.add(name)
                continue
            seen[name] = state
            mode = self.modes[name]
            pressed = self.pressure.get(name, False)
            views.append(NodeView(name, mode, state.grant, state.lease, "plan", 1, True, pressed, float(ord(name))))
        return views, frozenset(absent), seen

    def round(self, index: int, lag: int, stop_after: int, doubt: bool, whole: bool = True) -> None:
        """One round; after `stop_after` writes the process pauses for ever, its next write still under way.

        One that is not `whole` leaves out the nodes that the ledger does not name and that are as they were.
        """
        operator = self.operators[index]
        if operator.desk is None:
            self.open(index)
        assert operator.desk is not None
        views, absent, seen = self.views(index, lag)
        looks = {view.node: (seen[view.node].version, view.mode, view.under_pressure) for view in views}
        if not whole and operator.taken:
            named = {entry.node for entry in operator.desk.ledger.entries}
            views = [v for v in views if v.node in named or operator.taken.get(v.node) != looks[v.node]]
        desk = allotment.settled(operator.desk, views, absent, self.clock_ns(operator))
        result = allotment.decide(desk, views, self.limits, len(NODES))
        if result.write_ledger_first:
            if stop_after == 0:
                operator.desk = None
                return
            version = self.api.write_ledger(ledger.encode(result.desk.ledger), operator.ledger_version)
            if version is None:
                operator.desk = None
                return
            operator.ledger_version = version
        operator.desk = result.desk
        worst = ledger.exposure(result.desk.ledger, self.limits, len(NODES)).worst_case_hour
        self.shown.append((self.now_ns, index, worst))
        operator.taken |= {view.node: looks[view.node] for view in views}
        for number, write in enumerate(result.writes, start=1):
            del operator.taken[write.node]  # it moves by this, or the write has failed: it is looked at again
            self.write(operator, write, seen[write.node], paused=number > stop_after, doubt=doubt)

    def write(self, operator: Operator, write: GrantWrite, seen: State, paused: bool, doubt: bool) -> None:
        def land() -> bool:
            done = self.api.write_grant(write.node, write.grant, seen.uid, seen.version)
            if done and write.grant is not None:
                incarnation, ceiling = write.grant.incarnation, write.grant.kills_ceiling
                self.ceilings[incarnation] = max(ceiling, self.ceilings.get(incarnation, 0))
                self.api.ever_granted = True
            return done

        if paused:
            self.under_way.append(land)
            return
        if land() and not doubt:
            assert operator.desk is not None
            operator.desk = allotment.noted(operator.desk, write, self.clock_ns(operator))

    # --- what must hold ---

    def check(self) -> None:
        for end in self.kills:
            inside = sum(1 for time_ns in self.kills if end - HOUR < time_ns <= end)
            most = self.shown_in_the_hour_before(end)
            assert inside <= most, f"{inside} kills in the hour before {end / SECOND} s, {most} shown"

    def shown_in_the_hour_before(self, end: int) -> int:
        """The most that an operator showed within the hour, or when it began."""
        within = [worst for time_ns, _, worst in self.shown if end - HOUR < time_ns <= end]
        for index in (0, 1):
            before = [worst for time_ns, each, worst in self.shown if each == index and time_ns <= end - HOUR]
            within += before[-1:]
        return max(within)


# --- single stories ---


def in_touch(simulation: Simulation, name: str) -> None:
    simulation.deliver(name, 0)
    simulation.report(name, arrives=True)


def armed(simulation: Simulation, name: str, index: int = 0) -> None:
    """Brings a grant to the node, which must be the one with pressure."""
    simulation.pressure = {name: True}
    simulation.report(name, arrives=True)
    for _ in range(4):
        simulation.round(index, lag=0, stop_after=9, doubt=False)
        for each in NODES:
            in_touch(simulation, each)
    journal = simulation.nodes[name].journal
    assert journal is not None
    assert isinstance(grants.may_kill(journal, simulation.nodes[name].orders, simulation.boot_ns(name)), Permit)


def test_a_node_kills_within_its_grant_and_is_given_another_while_the_hour_has_room() -> None:
    simulation = Simulation(standing=1, kills_per_hour=2)
    for _ in range(3):
        armed(simulation, "a")
        assert simulation.kill("a", "no")
        assert not simulation.kill("a", "no")
        in_touch(simulation, "a")
    for _ in range(3):
        simulation.round(0, 0, 9, doubt=False)
        in_touch(simulation, "a")
    assert not simulation.kill("a", "no")
    simulation.now_ns += 3901 * SECOND
    in_touch(simulation, "a")
    armed(simulation, "a")
    assert simulation.kill("a", "no")
    simulation.check()


def test_a_crash_between_the_count_and_the_kill_counts_as_a_kill() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    armed(simulation, "a")
    assert not simulation.kill("a", "reserved")
    simulation.nodes["a"].running = True
    assert not simulation.kill("a", "no")


def test_an_old_grant_that_arrives_after_its_allowance_was_given_away_is_worth_nothing() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    armed(simulation, "a")
    old = simulation.nodes["a"].orders
    armed(simulation, "b")
    assert simulation.kill("b", "no")
    simulation.nodes["a"].orders = old
    assert not simulation.kill("a", "no")


def test_an_old_grant_is_worth_nothing_even_to_a_node_that_never_saw_it() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    simulation.pressure = {"a": True}
    simulation.report("a", arrives=True)
    simulation.round(0, 0, 9, doubt=False)
    raised = len(simulation.api.states["a"]) - 1
    armed(simulation, "b")
    assert simulation.kill("b", "no")
    simulation.deliver("a", len(simulation.api.states["a"]) - 1 - raised)
    assert simulation.nodes["a"].orders is not None
    assert simulation.nodes["a"].orders.grant is not None
    assert simulation.nodes["a"].orders.grant.kills_ceiling == 1
    assert not simulation.kill("a", "no")


def test_what_a_node_that_is_cut_off_may_have_used_counts_as_killed() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    armed(simulation, "a")
    assert simulation.kill("a", "no")  # and nobody hears of it
    simulation.pressure = {"b": True}
    for _ in range(30):
        simulation.now_ns += 20 * SECOND
        in_touch(simulation, "b")
        simulation.round(0, 0, 9, doubt=False)
        assert not simulation.kill("b", "no")


def test_an_allowance_that_ran_out_on_the_node_is_given_to_another_and_never_earlier() -> None:
    simulation = Simulation(standing=1, kills_per_hour=1)
    armed(simulation, "a")
    simulation.pressure = {"b": True}
    killed_after = None
    for seconds in range(0, 400, 5):
        simulation.now_ns += 5 * SECOND
        in_touch(simulation, "b")
        simulation.round(0, 0, 9, doubt=False)
        in_touch(simulation, "b")
        if simulation.kill("b", "no"):
            killed_after = seconds + 5
            break
    assert killed_after is not None
    assert 198 <= killed_after <= 210
    assert not simulation.kill("a", "no"), "its grant is older than grantSeconds"


def test_a_new_incarnation_costs_what_the_old_one_had_left() -> None:
    simulation = Simulation(standing=1, kills_per_hour=1)
    armed(simulation, "a")
    simulation.new_journal("a")
    armed(simulation, "a")
    assert simulation.kill("a", "no")
    in_touch(simulation, "a")
    for _ in range(4):
        simulation.round(0, 0, 9, doubt=False)
        in_touch(simulation, "a")
    assert not simulation.kill("a", "no")


def test_a_leader_that_slept_cannot_raise_on_top_of_its_successor() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    armed(simulation, "a")
    simulation.open(1)  # both have read the same ledger
    simulation.pressure = {"b": True}
    simulation.round(0, 0, 9, doubt=False)  # closes a, to give to b
    in_touch(simulation, "a")  # and a acknowledges
    in_touch(simulation, "b")
    simulation.pressure = {"a": True}
    simulation.round(1, 0, 9, doubt=False)  # the other leader gives a its allowance back: the ledger's sums stay
    in_touch(simulation, "a")
    simulation.pressure = {"b": True}
    simulation.round(0, 2, 9, doubt=False)  # the first one still sees the acknowledgement
    in_touch(simulation, "b")
    assert simulation.kill("a", "no")
    assert not simulation.kill("b", "no")


def test_a_lost_ledger_grants_nothing_until_every_old_kill_is_an_hour_old() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    armed(simulation, "a")
    assert simulation.kill("a", "no")
    in_touch(simulation, "a")
    simulation.api.ledger = None
    simulation.operators[0].desk = None
    waited = 0
    while waited < 6000:
        simulation.now_ns += 60 * SECOND
        waited += 60
        in_touch(simulation, "a")
        simulation.round(0, 0, 9, doubt=False)
        in_touch(simulation, "a")
        if simulation.kill("a", "no"):
            break
    assert 3600 < waited < 6000


def test_a_first_ledger_grants_at_once() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    armed(simulation, "b")
    assert simulation.kill("b", "no")


def test_a_write_that_another_process_has_under_way_fails_after_a_closing() -> None:
    simulation = Simulation(standing=1, kills_per_hour=0)
    simulation.pressure = {"a": True}
    simulation.report("a", arrives=True)
    simulation.round(0, 0, stop_after=0, doubt=False)  # no ledger yet: begins one
    operator = simulation.operators[0]
    operator.desk = None
    simulation.open(0)
    desk = operator.desk
    assert desk is not None
    views, absent, seen = simulation.views(0, 0)
    settled = allotment.settled(desk, views, absent, simulation.clock_ns(operator))
    result = allotment.decide(settled, views, simulation.limits, 3)
    operator.ledger_version = simulation.api.write_ledger(ledger.encode(result.desk.ledger), operator.ledger_version)
    (write,) = result.writes
    operator.desk = None
    armed(simulation, "b", index=1)  # closes a, whose ledger entry it found, and raises b
    assert not simulation.api.write_grant("a", write.grant, seen["a"].uid, seen["a"].version)
    assert simulation.kill("b", "no")


LEASE = Lease("a-0001", beat=1, kills_total=0, ceiling_seen=0)
ZERO = Grant("a-0001", 1, 0, "plan", 1)
HELD = Ledger(serial=7, entries=(Entry("a", "a-0001", 1, 0, beat=1, grant_seconds=GRANT_SECONDS),))


def one_round(mode: Mode, grant: Grant | None, closings: dict[str, Closing]) -> Round:
    view = NodeView("a", mode, grant, LEASE, "plan", 1, armable=True)
    desk = Desk(HELD, 0, closings=closings)
    return allotment.decide(desk, [view], Simulation(1, 1).limits, 1)


def test_a_raise_always_moves_the_ledger_even_if_its_sums_stay() -> None:
    result = one_round(Mode.ENFORCE, ZERO, {})
    assert [write.kind for write in result.writes] == [WriteKind.RAISE]
    assert result.write_ledger_first
    assert result.desk.ledger.entries == HELD.entries
    assert ledger.encode(result.desk.ledger) != ledger.encode(HELD)


def test_a_raise_ends_a_closing_before_it_is_written() -> None:
    result = one_round(Mode.ENFORCE, ZERO, {"a-0001": Closing("a-0001", 0, 1)})
    assert [write.kind for write in result.writes] == [WriteKind.RAISE]
    assert result.desk.closings == {}


def test_a_closing_always_moves_the_state_even_if_a_zero_grant_is_there_already() -> None:
    for there in (ZERO, None, replace(ZERO, kills_ceiling=1)):
        (write,) = one_round(Mode.DISABLED, there, {}).writes
        assert write.kind is WriteKind.LOWER
        assert write.grant != there
        assert write.grant in (None, ZERO)
        assert write.closes == (Closing("a-0001", 0, 1),)


def test_rounds_without_news_write_nothing() -> None:
    simulation = Simulation(standing=2, kills_per_hour=1)
    armed(simulation, "a")
    for _ in range(3):
        simulation.round(0, 0, 9, doubt=False)
        for name in NODES:
            in_touch(simulation, name)
    before = simulation.api.version
    for _ in range(5):
        simulation.round(0, 0, 9, doubt=False)
    assert simulation.api.version == before


# --- everything at once ---

nodes = st.sampled_from(NODES)
indexes = st.integers(0, 1)
lags = st.sampled_from([0, 0, 0, 1, 2, 4])


class Budget(RuleBasedStateMachine):
    """Everything that can happen, in any order."""

    @initialize(standing=st.integers(0, 2), per_hour=st.integers(0, 2))
    def begin(self, standing: int, per_hour: int) -> None:
        self.simulation = Simulation(standing, per_hour)
        for name in NODES:
            self.simulation.report(name, arrives=True)

    @rule(
        index=indexes,
        lag=lags,
        stop_after=st.sampled_from([9, 9, 9, 0, 1, 2]),
        doubt=st.sampled_from([False] * 4 + [True]),
        whole=st.booleans(),
    )
    def operator_round(self, index: int, lag: int, stop_after: int, doubt: bool, whole: bool) -> None:
        self.simulation.round(index, lag, stop_after, doubt, whole)

    @rule(index=indexes)
    def operator_restarts(self, index: int) -> None:
        self.simulation.operators[index].desk = None

    @rule(name=nodes, age=lags, arrives=st.sampled_from([True, True, True, False]))
    def node_in_touch(self, name: str, age: int, arrives: bool) -> None:
        self.simulation.deliver(name, age)
        self.simulation.report(name, arrives)

    @rule(name=nodes, age=lags)
    def orders_arrive(self, name: str, age: int) -> None:
        self.simulation.deliver(name, age)

    @rule(name=nodes, crash=st.sampled_from(["no", "no", "no", "no", "before", "reserved", "after"]))
    def node_kills(self, name: str, crash: str) -> None:
        self.simulation.kill(name, crash)

    @rule(name=nodes)
    def sentinel_restarts(self, name: str) -> None:
        self.simulation.nodes[name].running = True

    @rule(name=nodes)
    def pod_is_replaced(self, name: str) -> None:
        self.simulation.new_journal(name)

    @rule(name=nodes)
    def state_is_made_anew(self, name: str) -> None:
        api = self.simulation.api
        if api.live(name) is not None:
            api.put_state(name, None)
        api.put_state(name, State(api.next_version(), api.version))

    @rule(name=nodes)
    def state_is_deleted(self, name: str) -> None:
        if self.simulation.api.live(name) is not None:
            self.simulation.api.put_state(name, None)

    @rule(name=nodes, mode=st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.DRY_RUN]))
    def mode_changes(self, name: str, mode: Mode) -> None:
        self.simulation.modes[name] = mode

    @rule(standing=st.integers(0, 2), per_hour=st.integers(0, 2))
    def policy_is_edited(self, standing: int, per_hour: int) -> None:
        self.simulation.standing, self.simulation.kills_per_hour = standing, per_hour

    @rule(name=nodes, pressed=st.booleans())
    def pressure_moves(self, name: str, pressed: bool) -> None:
        self.simulation.pressure[name] = pressed

    @rule()
    def ledger_is_deleted(self) -> None:
        self.simulation.api.ledger = None

    @precondition(lambda self: self.simulation.under_way)
    @rule(data=st.data())
    def something_lands(self, data: st.DataObject) -> None:
        waiting = self.simulation.under_way
        waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))()

    @rule(seconds=st.sampled_from([1, 20, 61, 181, 199, 400, 1500, 3400]))
    def time_passes(self, seconds: int) -> None:
        self.simulation.now_ns += seconds * SECOND

    @invariant()
    def no_hour_sees_more_kills_than_shown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.check()


def wild_run(seed: int, steps: int) -> Simulation:
    """A long run weighted towards what really happens, with a share of chaos; checked after every step."""
    random = Random(seed)
    simulation = Simulation(random.choice([0, 1, 1, 2]), random.choice([0, 0, 1, 2]))
    for name in NODES:
        simulation.report(name, arrives=True)
    chaos = random.choice([0.0, 0.1, 0.3])

    def wild() -> bool:
        return random.random() < chaos

    for _ in range(steps):
        name, draw = random.choice(NODES), random.random()
        lag = random.choice([1, 2, 4, 8]) if wild() else 0
        if draw < 0.3:
            stop_after = random.choice([0, 1, 2]) if wild() else 9
            whole = random.random() < 0.3
            simulation.round(random.choice([0, 1]), lag, stop_after, random.random() < chaos / 2, whole)
        elif draw < 0.55:
            simulation.deliver(name, lag)
            simulation.report(name, arrives=not wild())
        elif draw < 0.75:
            simulation.kill(name, random.choice(["before", "reserved", "after"]) if wild() else "no")
        elif draw < 0.85:
            simulation.now_ns += random.choice([1, 5, 20, 61, 61, 181, 199, 400, 1500]) * SECOND
        elif draw < 0.88:
            simulation.nodes[name].running = True
        elif draw < 0.92:
            if simulation.under_way:
                simulation.under_way.pop(random.randrange(len(simulation.under_way)))()
        elif draw < 0.94:
            simulation.pressure[name] = random.random() < 0.5
        elif draw < 0.945:
            simulation.standing, simulation.kills_per_hour = random.choice([0, 1, 2]), random.choice([0, 0, 1, 2])
        elif wild():
            disaster(simulation, name, random)
        simulation.check()
    return simulation


def disaster(simulation: Simulation, name: str, random: Random) -> None:
    api = simulation.api
    match random.randrange(5):
        case 0:
            simulation.new_journal(name)
        case 1:
            if api.live(name) is not None:
                api.put_state(name, None)
            if random.random() < 0.7:
                api.put_state(name, State(api.next_version(), api.version))
        case 2:
            simulation.modes[name] = random.choice([Mode.ENFORCE, Mode.DRY_RUN])
        case 3:
            if random.random() < 0.1:
                api.ledger = None
        case _:
            simulation.operators[random.choice([0, 1])].desk = None


def test_no_hour_sees_more_kills_than_the_shown_worst_case_in_wild_runs() -> None:
    kills = sum(len(wild_run(seed, steps=300).kills) for seed in range(400))
    assert kills > 330, "the runs must get as far as kills, or they show nothing"


@pytest.mark.soak
def test_no_hour_sees_more_kills_than_the_shown_worst_case_in_many_wild_runs() -> None:
    assert sum(len(wild_run(seed, steps=600).kills) for seed in range(100_000, 140_000)) > 40_000


def test_no_hour_sees_more_kills_than_the_shown_worst_case() -> None:
    checks = settings(
        max_examples=60,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(Budget, settings=checks)


@pytest.mark.soak
def test_no_hour_sees_more_kills_than_the_shown_worst_case_in_long_runs() -> None:
    checks = settings(
        max_examples=5000, stateful_step_count=120, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Budget, settings=checks)
