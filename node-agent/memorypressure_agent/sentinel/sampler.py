"""The hot loop: sample, decide, and when a kill is decided and allowed, do it. Opens nothing, logs nowhere that blocks.

One thread runs `round()` again and again; all I/O on files that come and go, all figures of candidates, reaping, status
and log lines are the helper's (`helper`). Everything is decided by `memorypressure.engine`; here is only the order in
which things are put down and done:

    orders -> grant seen (journal) -> sample -> step -> ladder's state (journal) -> killsTotal (journal) -> cgroup.kill

All times of samples, windows, beats and cool-downs are the boot-time clock, so what the journal keeps stays comparable
for the next process of this boot, and nothing is fresh after a suspend.
"""

import errno
from dataclasses import dataclass, replace
from typing import Any, Final

from memorypressure import engine, ladder
from memorypressure.dwell import LAST_SAMPLES
from memorypressure.engine import EngineState, Inputs, Result, Rules
from memorypressure.grants import Leave, Permit, Refusal, beat_due, begin_beat, may_kill, see_grant
from memorypressure.ladder import Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.records import Decision
from memorypressure.rest import at_rest
from memorypressure.signals import Sample
from memorypressure.spec_values import Action
from memorypressure.triggers import watched_lines
from memorypressure.zone_values import Line, ZoneInfo
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.sentinel.clocks import Clocks
from memorypressure_agent.sentinel.counters import BelowLineTimes, Counts, Lag
from memorypressure_agent.sentinel.helper import Helper
from memorypressure_agent.sentinel.orders_file import OrdersFile, OrdersRead, Standing, no_orders
from memorypressure_agent.sentinel.readings import TICKS_KEPT, Readings
from memorypressure_agent.sentinel.recorder import Recorder
from memorypressure_agent.sentinel.settings import SentinelSettings

MOST_AGE_AT_KILL_NS: Final = 1_000_000_000
"""How old the sample behind a kill may be when it is written; longer than the journal's write ever took in a flood."""
MOST_FIGURES_AGE_NS: Final = 10_000_000_000
"""The helper is told to read them anew when a window begins to run; in a stall it may need so long."""
DEFAULT_GRANT_SECONDS: Final = 900
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
        self._is_short = False
        self._publish = True  # a first status as soon as there is something to say
        self._leave: Leave | None = None
        self._watching = False
        self._resting = False  # the last round was a short one
        self._chores_ns = 0
        self._ticks_cpu_ns = 0
        self._ticks_kept = 0  # of the readings' last ticks, those that are not in the flight recorder yet
        self._guarding_until_ns = 0  # when the next sample is due; until then gates are looked at. 0: they are not
        self._looks = 0
        self._looks_cpu_ns = 0
        self._before: Result | None = None  # of the last round, under the rules that still hold
        self.period_ns = 0
        """From the last sample to the next one."""
        self._kept_state: dict[str, Any] = {}
        self._pending: dict[str, Any] | None = None
        self.orders = no_orders(orders_file.path)
        self.rules = self.orders.rules(settings, page_bytes)
        self.journal = journal
        self.state: EngineState
        self.lock_held = False
        self.below = BelowLineTimes()
        self.counts = Counts()
        self._recorder = Recorder(helper, clocks, self.counts)
        self.lag = Lag()
        self.view: View | None = None
        self.take_journal(journal)

    def take_journal(self, journal: Journal | None) -> None:
        """Begins from what a journal keeps; without one nothing is remembered and nothing may be killed."""
        self.journal = self._recorder.journal = journal
        now = self._clocks.boot_ns()
        kept = journal.read_state() if journal is not None else None
        kept = kept if kept is not None else {}
        restored = ladder.restored(kept.get("ladder"), now)
        self._pending = kept.get("pending") if restored.kill is not None else None
        self._resumed_ns = now if self._pending is not None else None
        self._kept_state = {}
        lead = kept.get("unixMinusBoot")
        self._unix_minus_boot_ns = lead if type(lead) is int else self._clocks.unix_ns() - now
        self._helper.candidates.unix_minus_clock_ns = self._unix_minus_boot_ns
        if journal is not None and self._orders_checked_ns is not None:
            journal.write_grants(see_grant(journal.grants, self.orders.grant, now))
        self.state = engine.start(self.rules, restored)
        self._before, self._watching, self._resting = None, False, False
        self._was_stale = False
        self._guarding_until_ns = 0
        self._readings.ticks.clear()

    def round(self) -> int:
        """One turn: samples, decides, acts. Nanoseconds from the sample to the next one; 0: at once."""
        now = self._clocks.boot_ns()
        if self._resting and not (self._publish or self._helper.has_outcomes) and now < self._chores_ns:
            period = self._readings.tick(now)
            if period is not None:
                return self._ticked(period)
        if now < self._guarding_until_ns and not (self._publish or self._helper.has_outcomes):
            self.counts.rounds += 1
            self._looks += 1
            wait = self._readings.look()
            if wait is not None:
                return min(wait, self._guarding_until_ns - now)
        self._catch_up()
        if self._orders_checked_ns is None or now - self._orders_checked_ns >= _SECOND_NS - _SLACK_NS:
            self._orders_checked_ns = now
            self._chores_ns = now + _SECOND_NS - _SLACK_NS
            self._read_orders(now)
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

    def put_down_ticks(self) -> None:
        """Records the readings of the last ticks, and charges what they cost; all in one go.

        Near a line each tick wakes up with cold caches: what can be done for sixteen of them together costs a fifth.
        """
        readings, count = self._readings, self._ticks_kept
        if not count:
            return
        self._ticks_kept = 0
        if self.journal is not None:
            self.journal.flight.add_gates(tuple(readings.ticks)[-count:])
        cpu = self._clocks.cpu_ns()
        readings.charge(cpu - self._ticks_cpu_ns, count)
        self._ticks_cpu_ns = cpu

    def _ticked(self, period: int) -> int:
        """A round in which only the gates were read, and nothing is decided anew: see `_catch_up`."""
        self.counts.rounds += 1
        self._ticks_kept += 1
        if self._ticks_kept == TICKS_KEPT:
            self.put_down_ticks()
        self.period_ns = period
        return period

    def _catch_up(self) -> None:
        """Brings the state to the last rounds in which only gates were read, as if each had been stepped.

        Of a state at rest the times of the last five samples are all that is kept, so these five are stepped.
        """
        self.put_down_ticks()
        readings, before = self._readings, self._before
        samples = readings.samples_of_ticks(LAST_SAMPLES)
        readings.ticks.clear()
        if not samples or before is None:
            return
        times = tuple([sample.time_ns for sample in samples])
        for time_ns in times:
            self.below.observe(None, time_ns)
        result = at_rest(self.rules, before, samples[-1], times[-1], times[:-1])
        if result is not None:
            self.state, self._before = result.state, result
            return
        for sample in samples:
            result = self._before = self._step(sample, self._permit())
            self.state = result.state

    def _rest(self, sample: Sample, result: Result, began: int) -> int:
        """The end of a round in which nothing is going on."""
        self.state, self._before = result.state, result
        self._is_short = self._short(result)
        if isinstance(sample.zones, ZoneInfo):
            self._show(sample, result, self._granted())
        self._ticks_cpu_ns = self._clocks.cpu_ns()
        self._readings.charge(self._ticks_cpu_ns - began)
        self.period_ns = self._readings.period_ns(watching=False)
        self._helper.near(self.period_ns < _SECOND_NS, watching=False, busy=False, hold=self._is_short)
        return self.period_ns

    def _at_rest(self, sample: Sample, now: int) -> Result | None:
        """The round's result when nothing is going on; None: it takes a whole step."""
        if self._before is None or self._publish or self._pending is not None or self._helper.has_outcomes:
            return None
        return at_rest(self.rules, self._before, sample, now)

    def _whole_round(self, sample: Sample, began: int) -> int:
        permit = self._permit()
        result = self._step(sample, permit)
        decision = result.decision
        stale = decision.reason is Reason.SAMPLE_STALE
        self.state, self._before = result.state, result
        self._readings.charge(self._clocks.cpu_ns() - began)
        self._keep(decision)
        if decision.acts:
            self._kill(decision, sample.time_ns)
        self._recorder.result(result, self.rules.policy_name)
        running = result.state.ladder.running
        if self.journal is not None and running is not None and result.state.ladder.clear_since_ns is None:
            self.journal.flight.keep(running.number, sample.time_ns)
        watching = self._watching = result.state.triggers.watching
        self.period_ns = self._readings.period_ns(watching=watching)
        if stale and not self._was_stale:
            self.period_ns = 0  # once: where each sample takes so long no sleep would be left
        self._was_stale = stale
        self._show(sample, result, permit)
        if self._publish:
            self._publish = False
            self._helper.publish()
        self._is_short = self._short(result)
        near = watching or self.period_ns < _SECOND_NS
        self._helper.near(near, watching=watching, busy=True, hold=self._is_short)
        return self._guarded(sample.time_ns) if watching else self.period_ns

    def _guarded(self, sampled_ns: int) -> int:
        """Nanoseconds to the next round, which may be a look at the gates alone, well before the next sample."""
        first = self._readings.guard(self.period_ns)
        if first is None:
            return self.period_ns
        self._guarding_until_ns = sampled_ns + self.period_ns
        self._looks_cpu_ns = self._clocks.cpu_ns()
        return first

    def _show(self, sample: Sample, result: Result, permit: Permit | Refusal) -> None:
        self.view = View(
            sample.time_ns, sample, self._readings.info, self.rules, result, permit, self.orders, self.lock_held
        )

    def _short(self, result: Result) -> bool:
        """Whether a NUMA node is below Min: then the list of candidates' cgroups stays as it is."""
        info = self._readings.info
        return result.state.triggers.below_low and info is not None and any(node.below(Line.MIN) for node in info.nodes)

    def _read_orders(self, now: int) -> None:
        if not self._is_short:  # looking a path up allocates, and that waits for reclaim now
            self._readings.recheck()
        read = self._orders_file.poll()
        if read is None:
            return
        self.orders = read
        self.rules = read.rules(self._settings, self._page_bytes)
        self._leave = read.leave(self.rules.mode)
        self._before = None
        memory = tuple(each.available_memory for each in self.rules.triggers if each.available_memory is not None)
        self._readings.watch(watched_lines(self.rules.triggers), memory)
        self._helper.want(read.candidate_uids)
        if self.journal is not None:
            self.journal.write_grants(see_grant(self.journal.grants, read.grant, now))
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

    def _granted(self) -> Permit | Refusal:
        """What the node's own obstacles and the grant say to a kill at this moment."""
        now = self._clocks.boot_ns()
        if self.journal is None:
            return Refusal(Reason.LOCK_HELD, "another sentinel writes the journal")
        hour_ago = now - ladder.HOUR_NS
        kills = sum(1 for time_ns in self.journal.kill_times if time_ns > hour_ago)
        if kills >= self._settings.max_kills_per_hour:
            message = f"{kills} kills in the last hour; --max-kills-per-hour is {self._settings.max_kills_per_hour}"
            return Refusal(Reason.AGENT_LIMIT, message)
        return may_kill(self.journal.grants, self._leave, now)

    def _permit(self) -> Permit | Refusal:
        """The same, and whether the candidates' figures are fresh: a kill may be due."""
        permit = self._granted()
        if isinstance(permit, Permit):
            age = self._clocks.boot_ns() - self._helper.snapshot.time_ns
            if age > MOST_FIGURES_AGE_NS:
                self._helper.wake()
                return Refusal(Reason.NO_FIGURES, f"the candidates' figures are {age / 1e9:.1f} s old")
        return permit

    def _step(self, sample: Sample, permit: Permit | Refusal) -> Result:
        outcomes = (*self._helper.take_outcomes(), *self._resumed())
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
        if self._pending is not None and result.state.ladder.kill is None:
            self._recorder.kill_ended(self._pending, outcomes)
            self._pending = None
        return result

    def _told(self, result: Result) -> Result:
        """The result with the real reason: without valid orders the mode is Disabled, but nobody asked for that."""
        decision = result.decision
        if self.orders.standing is Standing.VALID or decision.reason is not Reason.MODE_DISABLED:
            return result
        return replace(result, decision=replace(decision, reason=self.orders.reason, message=self.orders.message))

    def _resumed(self) -> tuple[Outcome, ...]:
        """The end of a kill that an earlier process began, once figures show that nothing lives in its containers."""
        pending, snapshot = self._pending, self._helper.snapshot
        if pending is None or self._resumed_ns is None or snapshot.time_ns <= self._resumed_ns:
            return ()
        uid = pending["pod"]["uid"]
        if uid not in snapshot.wanted or snapshot.failures:
            return ()
        living = {
            container.id
            for usage in snapshot.usages
            if usage.uid == uid
            for container in usage.containers
            if container.processes
        }
        if living.intersection(pending["containers"]):
            return ()
        self._resumed_ns = None
        message = "its cgroup was empty when a new sentinel looked"
        return (Outcome(OutcomeKind.GONE, pending["number"], self._clocks.boot_ns(), None, message),)

    def _keep(self, decision: Decision) -> None:
        """Puts the ladder's state into the journal if it changed; before a kill, with the kill in it."""
        if self.journal is None:
            return
        if decision.acts and decision.victim is not None:
            self._pending = {
                "number": decision.action_number,
                "unixNs": self._clocks.unix_ns(),
                "cause": decision.cause.value,
                "message": decision.message,
                "pod": decision.victim.pod.to_json(),
                "containers": list(decision.victim.containers),
                "policy": self.rules.policy_name,
            }
        kept = {
            "ladder": ladder.durable(self.state.ladder),
            "pending": self._pending,
            "unixMinusBoot": self._unix_minus_boot_ns,
        }
        if kept != self._kept_state:
            self.journal.write_state(kept)
            self._kept_state = kept

    def _kill(self, decision: Decision, sampled_ns: int) -> None:
        """Counts the kill, then does it. Whatever fails after the count is a kill that was spent.

        The journal's write before it may have waited for memory, and the process may have been stopped or the machine
        suspended, so the sample's age and the permit are looked at once more.
        """
        victim = decision.victim
        if victim is None or self.journal is None or decision.action is not Action.KILL:
            raise AssertionError(f"a decision that acts without victim or journal: {decision}")
        if not self.journal.in_place():
            self._helper.fail_kill(
                decision.action_number, f"{self.journal.path} was replaced; nobody could count a kill"
            )
            return
        began = self._clocks.boot_ns()
        permit = self._granted()
        age_ns = began - sampled_ns
        if isinstance(permit, Refusal) or age_ns > MOST_AGE_AT_KILL_NS:
            why = permit.message if isinstance(permit, Refusal) else f"the sample is {age_ns / 1e9:.1f} s old"
            self._helper.fail_kill(decision.action_number, f"too late for a kill: {why}")
            return
        number = self.journal.count_kill(began)
        try:
            killed = self._helper.candidates.kill(victim.pod.uid, victim.containers)
        except (OSError, KeyError) as error:
            text = "its cgroup was removed" if getattr(error, "errno", None) == errno.ENODEV else str(error)
            self._helper.fail_kill(decision.action_number, f"cgroup.kill of {victim.pod.uid}: {text}")
            return
        self._helper.watch(decision.action_number, victim, killed, began)
        self.counts.kills += 1
        self._helper.log("Killed", f"kill {number}: {decision.message}")

    def _measure(self, sample: Sample) -> None:
        """Counters and the flight recorder."""
        zones = sample.zones
        self.below.observe(zones if isinstance(zones, ZoneInfo) else None, sample.time_ns)
        if self.journal is not None:
            self.journal.flight.add(sample)
