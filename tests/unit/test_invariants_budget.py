"""No hour sees more kills than shown, whatever crashes, pauses, lags behind or is made anew.

Hypothesis, or a weighted throw, chooses what happens next in the simulation.
"""

from dataclasses import replace
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
from support.budgetsimulation import GRANT_SECONDS, NODES, SECOND, Simulation, State

from memorypressure import allotment, grants, ledger
from memorypressure.allotment import Closing, Desk, NodeView, Round, WriteKind
from memorypressure.grants import Grant, Lease, Permit
from memorypressure.ledger import Entry, Ledger
from memorypressure.spec_values import Mode

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
