"""The running sentinel: opens everything, starts the helper, loops, ends cleanly on SIGTERM."""

import errno
import os
import signal
import sys
from signal import sigtimedwait
from time import sleep, thread_time_ns
from typing import Any, Final

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, MemInfo
from memorypressure.version import VERSION
from memorypressure_agent.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.clocks import boot_ns, monotonic_ns, read_boot_id, unix_ns
from memorypressure_agent.host.journal import Journal, JournalLockedError
from memorypressure_agent.host.sources import HostSources, SourceState
from memorypressure_agent.sentinel import process, status
from memorypressure_agent.sentinel.candidates import Candidates, cgroup_kill_capability
from memorypressure_agent.sentinel.clocks import Clocks, Waits
from memorypressure_agent.sentinel.helper import Helper
from memorypressure_agent.sentinel.kill_marks import KillMarks
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.node_lock import NodeLock
from memorypressure_agent.sentinel.orders_file import OrdersFile
from memorypressure_agent.sentinel.readings import Readings
from memorypressure_agent.sentinel.rehearsal import rehearse
from memorypressure_agent.sentinel.sampler import Sampler
from memorypressure_agent.sentinel.settings import SentinelSettings
from memorypressure_agent.sentinel.watchdog import Watchdog

SETTLED_ROUNDS: Final = 3
STOP_SIGNALS: Final = frozenset((signal.SIGTERM, signal.SIGINT))
LOCK_EVERY_NS: Final = 2_000_000_000
VMSTAT_EVERY_NS: Final = 5_000_000_000
"""The counters are scraped every 15 s or so, and reading them sums up every CPU."""
PROGRAM: Final = "memorypressure-agent sentinel"


def run(settings: SentinelSettings) -> int:
    """Runs until a signal ends it; the exit code."""
    # Blocked, and taken by the loop's wait: no handler ever runs in the middle of a round. The helper inherits it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        journal = _open_journal(settings)
    except OSError as error:
        print(f"{PROGRAM}: error: --journal {settings.journal_path}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT) else EXIT_BAD_INPUT
    return Service(settings, journal).loop()


class Service:
    """All parts of a sentinel, wired."""

    def __init__(self, settings: SentinelSettings, journal: Journal | None) -> None:
        self._settings = settings
        self._started_unix_ns = unix_ns()
        process.raise_descriptor_limit()
        tree = PodsTree(settings.roots.cgroup)
        self._lock = NodeLock(tree)
        self._sources = HostSources(settings.roots, lambda: tree.path, boot_ns)
        self._log = Log(as_json=settings.log_json)
        self._mrelease = process.mrelease_capability()
        self._helper = Helper(
            Candidates(tree, settings.own_pod_uid, boot_ns),
            self._log,
            self._write_status,
            lambda: cgroup_kill_capability(tree),
            can_release=not self._mrelease,
            realtime=settings.realtime,
        )
        self._readings = Readings(self._sources, boot_ns)
        self._sampler = Sampler(
            settings,
            self._readings,
            journal,
            self._helper,
            OrdersFile(settings.orders_path),
            Clocks(boot_ns, unix_ns, thread_time_ns),
            self._sources.page_size_bytes,
        )
        self._capabilities: dict[str, str] = {}
        self._chores_ns = 0
        self._waits = Waits(monotonic_ns, boot_ns, sleep)
        self._stopping = False
        self._settled = False
        self._vmstat_ns: int | None = None
        self._vmstat: dict[str, int] | None = None
        limit_ns = settings.watchdog_seconds * 1_000_000_000
        self._over_sampler, self._over_helper = Watchdog(limit_ns), Watchdog(limit_ns)
        self._helper.each_turn = self._watch_sampler
        self._marks = KillMarks(tree, read_boot_id())
        self._helper.after_kill = self._mark_kills
        self._remember_kills()

    def loop(self) -> int:
        """Samples until a signal comes; the exit code."""
        sampler, helper, waits = self._sampler, self._helper, self._waits
        process.stop_collecting()
        process.share_the_interpreter_quickly()
        self._try_lock()
        helper.start()
        self._announce()
        self._waits.woke_ns = monotonic_ns()
        while not self._stopping:
            period = sampler.round(waits)
            if helper.failure is not None:
                print(f"{PROGRAM}: error: the helper thread ended: {helper.failure!r}", file=sys.stderr)
                return EXIT_FAILED
            for late_ns in waits.late_ns:
                sampler.lag.observe(late_ns)
            waits.late_ns.clear()
            if waits.woke_ns >= self._chores_ns:
                self._chores_ns = waits.woke_ns + LOCK_EVERY_NS
                if sampler.journal is not None and not sampler.journal.in_place(look_up=not sampler.spares_look_ups):
                    print(
                        f"{PROGRAM}: error: {sampler.journal.path} was removed or replaced; start again",
                        file=sys.stderr,
                    )
                    return EXIT_FAILED
                if self._over_helper.stuck(helper.turns, waits.woke_ns):
                    self._end_stuck("the helper thread made no turn", self._over_helper)
                self._try_lock()
            if not self._settled and sampler.counts.rounds >= SETTLED_ROUNDS:
                self._settled = True
                self._settle()
            if not self._stopping:
                self._pause(period)
        sampler.stop()
        helper.log("Stopped", "stopped by a signal; the journal keeps what the next sentinel must know")
        helper.stop()
        if sampler.journal is not None:
            sampler.journal.close()
        return EXIT_OK

    def _pause(self, period_ns: int) -> None:
        """Waits until so long after the last waking.

        A signal ends the loop: it is asked for here, so no handler ever runs in the middle of a round. Between two
        readings of gates alone (`Ticks.run`) it is not: there is another pause within a second.
        """
        waits = self._waits
        now = monotonic_ns()
        due = max(waits.woke_ns + period_ns, now)
        taken = sigtimedwait(STOP_SIGNALS, (due - now) / 1e9)
        waits.woke_ns = woke = monotonic_ns()
        waits.late_ns.append(woke - due)
        # CPython returns a value without meaning, not None, when a wait that was interrupted (a SIGCONT after a
        # freeze) finds its time up: Modules/signalmodule.c, 3.11 to 3.14.
        if taken is not None and taken.si_signo in STOP_SIGNALS:
            self._stopping = True

    def _remember_kills(self) -> None:
        """Counts the kills of this boot's other journals towards the hour of `--max-kills-per-hour`."""
        journal = self._sampler.journal
        if journal is not None:
            now = boot_ns()
            if journal.kill_times:  # the process that counted them may have died before it put them down
                self._marks.add(journal.kill_times, now)
            journal.remember_kills(self._marks.read(now))

    def _mark_kills(self) -> None:
        """Called by the helper thread after a kill."""
        journal = self._sampler.journal
        if journal is not None:
            why = self._marks.add(journal.kill_times, boot_ns())
            if why:
                self._helper.log("ActionFailed", f"a new journal would not know of this kill: {why}")

    def _watch_sampler(self) -> None:
        """Called by the helper thread: ends the process when the sampler stands still."""
        if self._over_sampler.stuck(self._sampler.progress, monotonic_ns()):
            self._end_stuck("the sampler made no round", self._over_sampler)

    def _end_stuck(self, what: str, watchdog: Watchdog) -> None:
        """Ends the process at once: what is stuck would not let it end in order. The journal is whole at any time."""
        message = f"{what} for {watchdog.still_ns / 1e9:.0f} s; ending, to be started again"
        self._log.emergency(f"{PROGRAM}: error: {message}")
        os._exit(EXIT_FAILED)

    def _rehearse(self) -> None:
        """Goes through a kill once, so that its code and its heap are there when memory is locked."""
        sampler, readings = self._sampler, self._readings
        process.reserve_heap()
        process.use_rare_code()
        self._marks.rehearse()
        if sampler.journal is not None:
            sampler.journal.flight.rehearse()
        if readings.info is not None:
            absent = Absent(Reason.NOT_PRESENT, "not part of the rehearsal")
            memory = readings.memory if isinstance(readings.memory, MemInfo) else absent
            usages = self._helper.snapshot.usages
            rehearse(sampler.rules, readings.info, memory, absent, boot_ns(), sampler.orders.candidates, usages)

    def _settle(self) -> None:
        """Makes the process small and keeps it in memory; what is not allowed becomes a capability that is missing."""
        process.give_back_startup_pages()
        self._rehearse()
        not_there = process.bring_in_code()
        not_locked = process.lock_memory()
        if self._sampler.journal is not None:
            self._sampler.journal.keep_resident()
        self._mrelease = process.mrelease_capability()  # once more, for the pages that a kill will need
        self._capabilities = {
            "MemoryLocked": not_locked or not_there,
            "Realtime": process.become_realtime() if self._settings.realtime else "not asked for (--realtime)",
            "ProcessMrelease": self._mrelease,
        }
        told = f"memory is not locked: {not_locked}" if not_locked else "memory is locked"
        self._helper.log("Settled", f"{told}; {not_there}" if not_there else told)
        known = self._all_capabilities(self._sources.states())  # PSI only now: the sources have been read
        self._tell_missing({name: known[name] for name in ("Realtime", "ProcessMrelease", "PSI")})
        self._helper.do_all_now()  # what its work needs of code and heap is there then, the log's too

    def _try_lock(self) -> None:
        """Takes the node's lock and the journal when another sentinel gave them up. Between rounds only."""
        sampler = self._sampler
        if sampler.journal is None:
            try:
                sampler.take_journal(_open_journal(self._settings))
                self._remember_kills()
                if sampler.journal is not None:
                    sampler.journal.keep_resident()
            except OSError as error:
                self._helper.log("LockHeld", f"--journal {self._settings.journal_path}: {error.strerror}")
        held = not self._lock.free_for_us(look_up=not sampler.spares_look_ups)
        if held != sampler.lock_held:
            self._helper.log("LockHeld", self._lock.message if held else "the node's lock is ours now")
        sampler.lock_held = held

    def _announce(self) -> None:
        settings, journal = self._settings, self._sampler.journal
        where = "observing only" if settings.orders_path is None else f"orders from {settings.orders_path}"
        kept = "without a journal: another sentinel writes it" if journal is None else journal.opened_because
        self._helper.log("Started", f"version {VERSION}, {where}, journal {settings.journal_path}: {kept}")
        self._tell_missing(self._all_capabilities(self._sources.states()))

    def _tell_missing(self, capabilities: dict[str, str]) -> None:
        """Logs why each of these is not there that was asked for."""
        for name, failure in capabilities.items():
            if failure and not failure.startswith("not asked for"):
                self._helper.log("CapabilityMissing", f"{name}: {failure}")

    def _all_capabilities(self, sources: tuple[SourceState, ...]) -> dict[str, str]:
        psi = next((state for state in sources if state.name == "psi_node"), None)
        return {
            **self._capabilities,
            "CgroupKill": self._helper.kill_failure,
            "PSI": "" if psi is None or psi.up else psi.message,
        }

    def _event_counters(self) -> dict[str, int] | None:
        """The counters of /proc/vmstat, a few seconds old at most; None while they cannot be read."""
        now = monotonic_ns()
        if self._vmstat_ns is None or now - self._vmstat_ns >= VMSTAT_EVERY_NS:
            self._vmstat_ns = now
            if not self._sampler.spares_look_ups:
                self._sources.reopen_vmstat()
            read = self._sources.read_vmstat()
            self._vmstat = read if isinstance(read, dict) else None
        return self._vmstat

    def _write_status(self) -> None:
        """Called by the helper thread."""
        sampler = self._sampler
        view, journal = sampler.view, sampler.journal
        if view is None or journal is None:
            return
        times = status.Times(unix_ns(), boot_ns(), self._started_unix_ns, os.getpid())
        snapshot = self._helper.snapshot
        events = self._event_counters()  # before the states of the sources, of which it is one
        sources = self._sources.states()
        values: dict[str, Any] = status.build(view, self._readings, sampler.counts, times, sources, snapshot.usages)
        values["vmstat"] = events
        values["capabilities"] = self._all_capabilities(sources)
        values["belowLine"] = sampler.below.entries()
        latency, last = self._helper.kill_latency.to_json(), self._helper.last_kill
        values["killLatency"] = latency | {"last": status.last_kill(last, journal.incarnation, times)}
        values["loop"] = {"periodSeconds": sampler.period_ns / 1e9, "lag": sampler.lag.to_json()}
        values["helper"] = self._helper.status()
        values["figures"] = {
            "ageSeconds": (times.boot_ns - snapshot.time_ns) / 1e9,
            "failures": list(snapshot.failures),
        }
        for lesser in status.with_less_and_less(values):
            if journal.write_status(lesser):
                return
        self._helper.log("ActionFailed", "the status has no room in the journal and was not written")


def _open_journal(settings: SentinelSettings) -> Journal | None:
    """The journal; None while another sentinel writes it."""
    try:
        return Journal(settings.journal_path, read_boot_id())
    except JournalLockedError:
        return None
