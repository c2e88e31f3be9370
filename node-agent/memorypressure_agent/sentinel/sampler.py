"""The hot loop: sample, decide, and when a kill is decided and allowed, do it. Opens nothing, logs nowhere that blocks.

One thread runs `round()` again and again; all I/O on files that come and go, all figures of candidates, reaping, status
and log lines are the helper's (`helper`). Everything is decided by `memorypressure.engine`; here is only the order in
which things are put down and done:

    orders -> grant seen (journal) -> sample -> step -> ladder's state (journal) -> killsTotal (journal) -> cgroup.kill

All times of samples, windows, beats and cool-downs are the boot-time clock, so what the journal keeps stays comparable
for the next process of this boot, and nothing is fresh after a suspend.
"""

from dataclasses import dataclass, replace
from typing import Final

from memorypressure import engine
from memorypressure.dwell import LAST_SAMPLES
from memorypressure.engine import EngineState, Inputs, Result, Rules
from memorypressure.grants import Permit, Refusal, beat_due, begin_beat
from memorypressure.reasons import Reason
from memorypressure.refusals import may_kill_soon
from memorypressure.rest import at_rest
from memorypressure.signals import Sample
from memorypressure.triggers import watched_lines
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.sentinel.clocks import Clocks, Waits
from memorypressure_agent.sentinel.counters import BelowLineTimes, Counts, Lag
from memorypressure_agent.sentinel.helper import Helper
from memorypressure_agent.sentinel.kills import Kills
from memorypressure_agent.sentinel.orders_file import OrdersFile, OrdersRead, Standing, no_orders
from memorypressure_agent.sentinel.readings import Readings, sample_of
from memorypressure_agent.sentinel.recorder import Recorder
from memorypressure_agent.sentinel.settings import SentinelSettings
from memorypressure_agent.sentinel.ticks import Tick

DEFAULT_GRANT_SECONDS: Final = 900
ORDERS_LOOK_UP_NS: Final = 5_000_000_000
"""How often the path of the orders is looked at while a file of it is held, which tells by itself all but its being
moved with its directory."""
LOOK_UPS_SPARED_NS: Final = 60_000_000_000
_SECOND_NS: Final = 1_000_000_000
_SLACK_NS: Final = 5_000_000
"""As in `readings`: what is due once a second is due in the same round, and no other one is made for it."""


@dataclass(frozen=True, slots=True)
class View:
    """What the sampler last saw and decided, for the helper's status and log; replaced as a whole.

    Made in whole rounds, of which there is one a second at least.
    """

    time_ns: int
    sample: Sample
    info: ZoneInfo | None
    rules: Rules
    result: Result
    permit: Permit | Refusal
    orders: OrdersRead
    lock_held: bool


class Sampler:
    """The sampler's state; `round()` is one turn of the loop. For one thread."""

    def __init__(
        self,
        settings: SentinelSettings,
        readings: Readings,
        journal: Journal | None,
        helper: Helper,
        orders_file: OrdersFile,
        clocks: Clocks,
        page_bytes: int,
    ) -> None:
        self._settings = settings
        self._readings = readings
        self._helper = helper
        self._orders_file = orders_file
        self._clocks = clocks
        self._page_bytes = page_bytes
        self._orders_checked_ns: int | None = None
        self._orders_looked_up_ns = 0
        self._is_short = False
        self._at_ease_ns = 0  # when no node was short for the last time
        self._publish = True  # a first status as soon as there is something to say
        self._watching = False
        self._resting = False  # ticks may follow: nothing is going on
        self._chores_ns = 0
        self._ticks_cpu_ns = 0
        self._guarding_until_ns = 0  # when the next sample is due; until then gates are looked at. 0: they are not
        self._looks = 0
        self._looks_cpu_ns = 0
        self._passed: tuple[Tick, ...] = ()  # the last readings of gates alone, not stepped yet
        self._passed_info: ZoneInfo | None = None  # the zones that their gates were made of
        self._before: Result | None = None  # of the last round, under the rules that still hold
        self._period_ns = 0
        self.orders = no_orders(orders_file.path)
        self.rules = self.orders.rules(settings, page_bytes)
        self.journal = journal
        self.state: EngineState
        self.lock_held = False
        self.below = BelowLineTimes()
        self.counts = Counts()
        self._recorder = Recorder(helper, clocks, self.counts)
        self.kills = Kills(settings.max_kills_per_hour, helper, clocks, self._recorder, self.counts)
        self.lag = Lag()
        self.view: View | None = None
        self.take_journal(journal)

    def take_journal(self, journal: Journal | None) -> None:
        """Begins from what a journal keeps; without one nothing is remembered and nothing may be killed."""
        self.journal = self._recorder.journal = journal
        restored = self.kills.take_journal(journal)
        if journal is not None and restored.running is not None:  # its last 30 s may be under way
            journal.flight.keep(restored.running.number, self._clocks.boot_ns())
        if self._orders_checked_ns is not None:
            self.kills.see_orders(self.orders.leave(self.rules.mode), self.orders.grant, self._clocks.boot_ns())
        self.state = engine.start(self.rules, restored)
        self._before, self._watching, self._resting = None, False, False
        self._was_stale = False
        self._guarding_until_ns = 0
        self._readings.ticks.forget()
        self._passed, self._passed_info = (), None

    @property
    def period_ns(self) -> int:
        """From the last sample, or reading of gates, to the next one."""
        ticks = self._readings.ticks
        return ticks.period_ns if ticks.taken else self._period_ns

    @property
    def progress(self) -> int:
        """A number that changes with each round, also while `round` goes on for long: for the watchdog."""
        return self.counts.rounds + self._readings.ticks.count

    @property
    def spares_look_ups(self) -> bool:
        """Whether a NUMA node is below Min, for less than a minute: no path is looked up then that need not be.

        Looking one up allocates, and so waits for reclaim.
        """
        return self._is_short and self._clocks.boot_ns() - self._at_ease_ns < LOOK_UPS_SPARED_NS

    def round(self, waits: Waits | None = None) -> int:
        """One turn: samples, decides, acts. Nanoseconds from the sample to the next one; 0: at once.

        While nothing is going on it is many turns, with `waits` between them: see `Ticks.run`.
        """
        now = self._clocks.boot_ns()
        if self._resting and not (self._publish or self._helper.has_outcomes):
            period = self._ticked(now, waits)
            if period is not None:
                return period
            now = self._clocks.boot_ns()
        if now < self._guarding_until_ns and not (self._publish or self._helper.has_outcomes):
            self.counts.rounds += 1
            self._looks += 1
            wait = self._readings.look()
            if wait is not None:
                return min(wait, self._guarding_until_ns - now)
        self._take_ticks()
        chores_are_due = self._orders_checked_ns is None or now - self._orders_checked_ns >= _SECOND_NS - _SLACK_NS
        if chores_are_due:
            self._orders_checked_ns = now
            self._chores_ns = now + _SECOND_NS - _SLACK_NS
            if not self._is_short:
                self._at_ease_ns = now
            if not self.spares_look_ups:
                self._readings.recheck()
        self._read_orders(now, look_up=chores_are_due and self._look_up_is_due(now))
        if chores_are_due:
            self._beat(now)
        self._helper.stand_back = self._watching
        began = self._clocks.cpu_ns()
        if self._looks:
            self._readings.charge_looks(began - self._looks_cpu_ns, self._looks)
            self._looks = 0
        self._guarding_until_ns = 0
        sample = self._readings.sample(watching=self._watching)
        self._measure(sample)
        self.counts.rounds += 1
        resting = self._at_rest(sample, self._clocks.boot_ns())
        self._resting = resting is not None
        period = self._whole_round(sample, began) if resting is None else self._rest(sample, resting, began)
        self._helper.stand_back = False
        return period

    def _ticked(self, now: int, waits: Waits | None) -> int | None:
        """Rounds in which only the gates are read, and nothing is decided (see `_take_ticks`); None: a whole one."""
        ticks = self._readings.ticks
        before = ticks.count
        period = ticks.run(now, self._chores_ns, waits)
        self.counts.rounds += ticks.count - before
        if ticks.is_full:
            self.put_down_ticks()
        return period

    def stop(self) -> None:
        """Puts down what only this process knows: the last readings, and the kill that is waited for."""
        self.put_down_ticks()
        self.kills.stop(self.state.ladder)

    def put_down_ticks(self) -> None:
        """Records the readings of the last ticks, and charges what they cost; all in one go.

        Near a line each tick wakes up with cold caches: what can be done for sixteen of them together costs a fifth.
        """
        taken = self._readings.ticks.take_unrecorded()
        if not taken:
            return
        if self.journal is not None:
            self.journal.flight.add_gates(taken)
        cpu = self._clocks.cpu_ns()
        self._readings.charge(cpu - self._ticks_cpu_ns, len(taken))
        self._ticks_cpu_ns = cpu

    def _take_ticks(self) -> None:
        """Takes the rounds in which only gates were read: put down and counted, and to be stepped with what comes next.

        Of a state at rest the times of the last five samples are all that is kept, so these five are stepped.
        """
        self.put_down_ticks()
        ticks, info = self._readings.ticks, self._readings.info
        if not ticks.taken:
            return
        passed = tuple(ticks.taken)[-LAST_SAMPLES:]
        ticks.forget()
        if info is None or self._before is None:
            return
        self._passed, self._passed_info = passed, info
        self.below.observe(None, passed[0][0])
        self.below.observe(None, passed[-1][0])  # what was above every line at both was so at those between

    def _catch_up(self) -> None:
        """Brings the state to the last rounds in which only gates were read, as if each had been stepped."""
        self._take_ticks()
        passed, info, before = self._passed, self._passed_info, self._before
        self._passed, self._passed_info = (), None
        if not passed or info is None or before is None:
            return
        times = tuple([time_ns for time_ns, _ in passed])
        result = at_rest(self.rules, before, sample_of(passed[-1], info), times[-1], times[:-1])
        if result is not None:
            self.state, self._before = result.state, result
            return
        for tick in passed:
            result = self._before = self._step(sample_of(tick, info), self.kills.permit())
            self.state = result.state

    def _rest(self, sample: Sample, result: Result, began: int) -> int:
        """The end of a round in which nothing is going on."""
        self.state, self._before = result.state, result
        self._is_short = self._short(result)
        if isinstance(sample.zones, ZoneInfo):
            self._show(sample, result, self.kills.granted())
        self._ticks_cpu_ns = self._clocks.cpu_ns()
        self._readings.charge(self._ticks_cpu_ns - began)
        self._period_ns = self._readings.period_ns(watching=False)
        self._helper.near(self._period_ns < _SECOND_NS, watching=False, busy=False, hold=self._is_short)
        return self._guarded(sample.time_ns)

    def _at_rest(self, sample: Sample, now: int) -> Result | None:
        """The round's result when nothing is going on; None: it takes a whole step."""
        may_rest = not (self._publish or self.kills.under_way or self._helper.has_outcomes)
        before, passed = self._before, self._passed
        if passed:
            if may_rest and before is not None:
                result = at_rest(self.rules, before, sample, now, tuple([time_ns for time_ns, _ in passed]))
                if result is not None:
                    self._passed, self._passed_info = (), None
                    return result
            self._catch_up()
            before = self._before
        return at_rest(self.rules, before, sample, now) if may_rest and before is not None else None

    def _whole_round(self, sample: Sample, began: int) -> int:
        permit = self.kills.permit()
        result = self._step(sample, permit)
        decision = result.decision
        stale = decision.reason is Reason.SAMPLE_STALE
        self.state, self._before = result.state, result
        self._readings.charge(self._clocks.cpu_ns() - began)
        self.kills.keep(self.state.ladder, decision, self.rules.policy_name)
        if decision.acts:
            self.kills.kill(decision, sample.time_ns, self._orders_file.leads_to_what_was_read)
        self._recorder.result(result, self.rules.policy_name)
        running = result.state.ladder.running
        if self.journal is not None and running is not None and result.state.ladder.clear_since_ns is None:
            self.journal.flight.keep(running.number, sample.time_ns)
        watching = self._watching = result.state.triggers.watching
        if watching:
            now = self._clocks.boot_ns()
            worth = may_kill_soon(self.rules.ladder_config, result.state.ladder, permit, now)
            self._readings.worth_a_hurry = worth and not self.lock_held and not self._helper.kill_failure
        self._period_ns = self._readings.period_ns(watching=watching)
        if stale and not self._was_stale:
            self._period_ns = 0  # once: where each sample takes so long no sleep would be left
        self._was_stale = stale
        self._show(sample, result, permit)
        if self._publish:
            self._publish = False
            self._helper.publish()
        self._is_short = self._short(result)
        near = watching or self._period_ns < _SECOND_NS
        self._helper.near(near, watching=watching, busy=True, hold=self._is_short)
        return self._guarded(sample.time_ns)

    def _guarded(self, sampled_ns: int) -> int:
        """Nanoseconds to the next round, which may be a look at the gates alone, well before the next sample."""
        first = self._readings.guard(self._period_ns)
        if first is None:
            return self._period_ns
        self._guarding_until_ns = sampled_ns + self._period_ns
        self._looks_cpu_ns = self._clocks.cpu_ns()
        return first

    def _show(self, sample: Sample, result: Result, permit: Permit | Refusal) -> None:
        self.view = View(
            sample.time_ns, sample, self._readings.info, self.rules, result, permit, self.orders, self.lock_held
        )

    def _short(self, result: Result) -> bool:
        """Whether a NUMA node is below Min: then the list of candidates' cgroups stays as it is, too."""
        info = self._readings.info
        return result.state.triggers.below_low and info is not None and any(node.below(Line.MIN) for node in info.nodes)

    def _look_up_is_due(self, now: int) -> bool:
        """Once a second while there is no file; of one that is held seldom, and not while look-ups are spared."""
        if self._orders_file.is_held:
            if self.spares_look_ups or now - self._orders_looked_up_ns < ORDERS_LOOK_UP_NS - _SLACK_NS:
                return False
            self._orders_looked_up_ns = now
        return True

    def _read_orders(self, now: int, *, look_up: bool) -> None:
        read = self._orders_file.poll(look_up=look_up)
        if read is None:
            return
        self._catch_up()  # under the rules that held then
        self.orders = read
        self.rules = read.rules(self._settings, self._page_bytes)
        self._before = None
        memory = tuple(each.available_memory for each in self.rules.triggers if each.available_memory is not None)
        self._readings.watch(watched_lines(self.rules.triggers), memory)
        self._helper.want(read.candidate_uids)
        self.kills.see_orders(read.leave(self.rules.mode), read.grant, now)
        if self.journal is not None:
            self._recorder.write(
                {
                    "kind": "orders",
                    "standing": read.standing.value,
                    "reason": read.reason.value,
                    "message": read.message,
                    "mode": self.rules.mode.value,
                }
            )
        self._helper.log(read.standing.value, f"orders: {read.message}")
        self._publish = True

    def _beat(self, now: int) -> None:
        journal = self.journal
        if journal is None:
            return
        seconds = self.rules.limits.grant_seconds if self.orders.standing is Standing.VALID else DEFAULT_GRANT_SECONDS
        if beat_due(journal.grants, now, seconds):
            journal.write_grants(begin_beat(journal.grants, now))

    def _step(self, sample: Sample, permit: Permit | Refusal) -> Result:
        outcomes = self.kills.outcomes()
        inputs = Inputs(
            now_ns=self._clocks.boot_ns(),
            sample=sample,
            permit=permit,
            candidates=self.orders.candidates,
            usages=self._helper.snapshot.usages,
            outcomes=outcomes,
            can_kill=not self._helper.kill_failure,
            lock_held=self.lock_held or self.journal is None,
        )
        result = self._told(engine.step(self.rules, self.state, inputs))
        self.kills.see(result.state.ladder, outcomes)
        return result

    def _told(self, result: Result) -> Result:
        """The result with the real reason: without valid orders the mode is Disabled, but nobody asked for that."""
        decision = result.decision
        if self.orders.standing is Standing.VALID or decision.reason is not Reason.MODE_DISABLED:
            return result
        return replace(result, decision=replace(decision, reason=self.orders.reason, message=self.orders.message))

    def _measure(self, sample: Sample) -> None:
        """Counters and the flight recorder."""
        zones = sample.zones
        self.below.observe(zones if isinstance(zones, ZoneInfo) else None, sample.time_ns)
        if self.journal is not None:
            self.journal.flight.add(sample)
