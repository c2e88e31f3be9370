"""Everything between a ledger and a kill, simulated: what crashes, pauses, lags behind or is made anew at will.

An API server with resource versions, two operators that both believe to lead, their lagging caches and writes still
under way, nodes with journals, reporters and sentinels. Ledger, grants and allotment are the real ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from memorypressure import allotment, grants, ledger
from memorypressure.allotment import Desk, GrantWrite, NodeView
from memorypressure.grants import Grant, Lease, Leave, NodeGrants, Permit
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
