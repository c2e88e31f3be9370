"""The second thread: candidates' figures, what becomes of a kill, status for the reporter, log lines.

It is started before the first sample and never decides anything. The sampler hands work over by appending to deques and
replacing attributes, both atomic in CPython, and wakes it by an event.
"""

import _thread
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import sleep
from typing import Any, Final

from memorypressure.ladder import Outcome, OutcomeKind
from memorypressure.records import Victim
from memorypressure_agent.host.clocks import boot_ns, unix_ns
from memorypressure_agent.host.containers import ContainerHandle
from memorypressure_agent.sentinel.candidates import Candidates, Killed, Snapshot, total
from memorypressure_agent.sentinel.counters import KILL_BUCKETS_SECONDS, Lag, LastKill
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.process import become_realtime, empty_free_lists, end_realtime, release_memory

FIGURES_WATCHING_NS: Final = 1_000_000_000
FIGURES_NEAR_NS: Final = 8_000_000_000
"""Under the 10 s after which figures are too old for a kill."""
FIGURES_FAR_NS: Final = 15_000_000_000
LIST_EVERY_NS: Final = 10_000_000_000
"""The list of containers is renewed with the first figures read so long after it: every 10 s while a window runs, else
every 15 s or so. It is how soon a container that was started anew is found."""
CAPABILITY_EVERY_NS: Final = 30_000_000_000
EMPTY_EVERY_NS: Final = 5_000_000_000
STATUS_EVERY_NS: Final = 1_000_000_000
STATUS_AT_REST_NS: Final = 4_000_000_000
"""While nothing is going on; the reporter takes 10 s of silence for a fault."""
LONGEST_PAUSE_SECONDS: Final = 2.0
"""As much as a watchdog counts of the time between two questions."""
LONGEST_REST_SECONDS: Final = 1.0
FOLLOW_SECONDS: Final = 0.02
GIVE_WAY_SECONDS: Final = 0.0005
GIVE_WAY_TIMES: Final = 20
PROGRESS_EVERY_NS: Final = 200_000_000
STOP_SECONDS: Final = 5.0
HURRIED_PRIORITY: Final = 5
"""Under the sampler's. A helper that waits for a core while it holds the interpreter makes the sampler wait, too; and
what a victim held is to come back before the next burst."""
FOLLOW_AT_MOST_NS: Final = 120_000_000_000
MOST_RELEASED: Final = 64
"""Processes of a victim whose memory is taken from them; the rest exit by themselves."""


class Wake:
    """Wakes one waiting thread. `threading.Event` in small: importing threading would cost 0.4 MiB (see `lean`)."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Ends the running wait, or the next one at once."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:  # somebody else did between the two lines
                return

    def wait(self, seconds: float) -> None:
        """Returns after `set()`, or after that time."""
        self._lock.acquire(timeout=seconds)


@dataclass(slots=True)
class _Followed:
    """A kill that is waited for."""

    action_number: int
    victim: Victim
    killed: Killed
    began_ns: int
    last_progress_ns: int = 0


@dataclass(frozen=True, slots=True)
class KillEnd:
    """What a kill came to: the bytes that came back, None when not known, and containers that it did not reach."""

    freed_bytes: int | None
    failures: tuple[str, ...]


_NOTHING_KNOWN: Final = KillEnd(None, ())


class Helper:
    """Runs from `start()` to `stop()`. Everything public is for the sampler's thread."""

    def __init__(
        self,
        candidates: Candidates,
        log: Log,
        write_status: Callable[[], None],
        kill_capability: Callable[[], str],
        *,
        can_release: bool,
        realtime: bool = False,
    ) -> None:
        """`write_status` is called once a second, at rest every 4 s.

        `kill_capability` tells why nothing can be killed, or ''.
        """
        self.candidates = candidates
        self.kill_failure = kill_capability()
        """Why `cgroup.kill` cannot be written; empty when it can."""
        candidates.tree_can_kill = not self.kill_failure
        self.failure: BaseException | None = None
        """What ended the thread, if anything did; the sampler must not go on without it."""
        self.kill_latency = Lag(KILL_BUCKETS_SECONDS)
        """From the count of a kill to its empty cgroup."""
        self.last_kill: LastKill | None = None
        self._log = log
        self._write_status = write_status
        self._kill_capability = kill_capability
        self._can_release = can_release
        self._realtime = realtime
        self._hurried = False
        self._thread_id = 0
        self._woken = Wake()
        self._ended = Wake()
        self._stopping = False
        self._near = False
        self._hold = False
        self.after_kill: Callable[[], None] | None = None
        """Called in the turn after a kill was counted, whatever became of it."""
        self._kill_counted = False
        self.stand_back = False
        """The sampler is in a round that may kill: two threads that both run get half of the interpreter each."""
        candidates.between_pods = self._give_way
        self.turns = 0
        """Turns that the thread has made, for the watchdog over it."""
        self.each_turn: Callable[[], None] | None = None
        """Called in each turn, at least every 2 s."""
        self._listed: frozenset[str] = frozenset()
        self._outcomes: deque[Outcome] = deque()
        self._kills: deque[_Followed] = deque()
        self._ends: dict[int, KillEnd] = {}
        self._emptied_ns = boot_ns()
        self._figures_ns = 0
        self._list_ns = 0
        self._watching = False
        self._busy = False
        self._status_ns = 0
        self._capability_ns = boot_ns()

    @property
    def snapshot(self) -> Snapshot:
        """The latest figures."""
        return self.candidates.snapshot

    def want(self, uids: frozenset[str]) -> None:
        """Takes the candidates of other orders."""
        self.candidates.wanted = uids
        self.wake()

    def near(self, near: bool, *, watching: bool, busy: bool, hold: bool) -> None:
        """Says how near a line is, which decides how often figures are read.

        `near`: every 8 s; `watching` (a window runs): once a second; `busy`: the status is written once a second,
        at rest every 4 s; `hold`: the list of cgroups stays as it is, but for pods that become wanted.
        """
        woken = (near and not self._near) or (watching and not self._watching) or (busy and not self._busy)
        self._near, self._watching, self._busy, self._hold = near, watching, busy, hold
        self._hurry()
        if woken:
            self.wake()

    def _hurry(self) -> None:
        """Under SCHED_FIFO near a line and while a kill is followed, as far as real time was asked for."""
        hurried = self._near or bool(self._kills)
        if not self._realtime or not self._thread_id or hurried == self._hurried:
            return
        self._hurried = hurried
        if hurried:
            become_realtime(self._thread_id, HURRIED_PRIORITY)
        else:
            end_realtime(self._thread_id)

    def wake(self) -> None:
        """Makes the helper look at once."""
        self._woken.set()

    def publish(self) -> None:
        """Has the status written now, not within a second."""
        self._status_ns = 0
        self.wake()

    def do_all_now(self) -> None:
        """Has all that is done from time to time done now."""
        self._figures_ns = self._list_ns = self._capability_ns = self._emptied_ns = 0
        self.publish()

    def log(self, reason: str, message: str) -> None:
        """Queues a log line."""
        self._log.put(unix_ns(), reason, message)

    def watch(self, action_number: int, victim: Victim, killed: Killed, began_ns: int) -> None:
        """Follows a kill that was written: reaps, reports progress and the end as outcomes."""
        self._outcomes.append(Outcome(OutcomeKind.WRITTEN, action_number, boot_ns(), killed.memory_bytes))
        self._kill_counted = True
        self.candidates.begin_dying(victim.pod.uid)
        self._kills.append(_Followed(action_number, victim, killed, began_ns))
        self._hurry()
        self.wake()

    def fail_kill(self, action_number: int, message: str) -> None:
        """Reports a kill that could not be written."""
        self._outcomes.append(Outcome(OutcomeKind.FAILED, action_number, boot_ns(), None, message))
        self._kill_counted = True

    @property
    def has_outcomes(self) -> bool:
        """Whether `take_outcomes` would give any."""
        return bool(self._outcomes)

    def take_outcomes(self) -> Iterator[Outcome]:
        """What became of kills since the last call."""
        while self._outcomes:
            yield self._outcomes.popleft()

    def take_end(self, action_number: int) -> KillEnd:
        """What a kill came to, once it is over."""
        return self._ends.pop(action_number, _NOTHING_KNOWN)

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        self._stopping = True
        self.wake()
        self._ended.wait(STOP_SECONDS)

    def start(self) -> None:
        """Starts the thread."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self._thread_id = _thread.get_native_id()
        took_seconds = 0.0
        try:
            while not self._stopping:
                self._wait(took_seconds)
                began = boot_ns()
                self._turn()
                took_seconds = (boot_ns() - began) / 1e9
            self._write_status()
            self._log.flush()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._ended.set()

    def _wait(self, took_seconds: float) -> None:
        """Waits until something is due or asked for, but as long as the last turn took, a second at most.

        So half is slept where reading figures takes as long as the time until they are due, or wanted, again: only a
        kill that is to be followed is worth more.
        """
        rested_ns = boot_ns() + int(min(took_seconds, LONGEST_REST_SECONDS) * 1e9)
        self._woken.wait(FOLLOW_SECONDS if self._kills else self._pause_seconds())
        while not self._kills and not self._stopping and (left_ns := rested_ns - boot_ns()) > 0:
            self._woken.wait(left_ns / 1e9)

    def _figures_every_ns(self) -> int:
        if self._watching:
            return FIGURES_WATCHING_NS
        return FIGURES_NEAR_NS if self._near else FIGURES_FAR_NS

    def _status_every_ns(self) -> int:
        return STATUS_EVERY_NS if self._busy else STATUS_AT_REST_NS

    def _pause_seconds(self) -> float:
        due = min(self._figures_ns + self._figures_every_ns(), self._status_ns + self._status_every_ns())
        return min(max(0.0, (due - boot_ns()) / 1e9), LONGEST_PAUSE_SECONDS)

    def _turn(self) -> None:
        self.turns += 1
        if self.each_turn is not None:
            self.each_turn()
        for followed in tuple(self._kills):
            self._follow(followed)
        if self._kill_counted and self.after_kill is not None:
            self._kill_counted = False
            self.after_kill()
        now = boot_ns()
        wanted = self.candidates.wanted
        if now - self._figures_ns >= self._figures_every_ns() or wanted != self._listed:
            keep = self._hold or (wanted == self._listed and now - self._list_ns < LIST_EVERY_NS)
            self.candidates.refresh(hold=keep)
            self._listed, self._figures_ns = wanted, now
            if not keep:
                self._list_ns = now
        if now - self._capability_ns >= CAPABILITY_EVERY_NS and not self._hold:
            self._capability_ns = now
            self.kill_failure = self._kill_capability()
            self.candidates.tree_can_kill = not self.kill_failure
        if now - self._emptied_ns >= EMPTY_EVERY_NS and not self._hold:
            self._emptied_ns = now
            empty_free_lists()
        if now - self._status_ns >= self._status_every_ns():
            self._status_ns = now
            self._write_status()
        self._log.flush()

    def _give_way(self) -> None:
        for _ in range(GIVE_WAY_TIMES):
            if not self.stand_back:
                return
            sleep(GIVE_WAY_SECONDS)

    def _follow(self, followed: _Followed) -> None:
        killed = followed.killed
        if self._can_release and followed.last_progress_ns == 0:
            self._release(killed)
        now = boot_ns()
        empty = not any(_lives(each.handle) for each in killed.reached)
        left = total(each.left_bytes() for each in killed.reached)
        if empty:
            seconds = (now - followed.began_ns) / 1e9
            freed = total(each.freed_bytes() for each in killed.reached)
            self._ends[followed.action_number] = KillEnd(freed, killed.failures)
            self.kill_latency.observe(now - followed.began_ns)
            self.last_kill = LastKill(followed.action_number, now - followed.began_ns, now)
            message = f"its cgroup was empty after {seconds * 1000:.0f} ms"
            self._outcomes.append(Outcome(OutcomeKind.GONE, followed.action_number, now, left, message))
            self._forget(followed)
        elif now - followed.last_progress_ns >= PROGRESS_EVERY_NS:
            followed.last_progress_ns = now
            self._outcomes.append(Outcome(OutcomeKind.PROGRESS, followed.action_number, now, left))
            if now - followed.began_ns >= FOLLOW_AT_MOST_NS:
                self._forget(followed)

    def _release(self, killed: Killed) -> None:
        for pid in killed.pids[:MOST_RELEASED]:
            failure = release_memory(pid)
            if failure:
                self.log("ActionFailed", f"pid {pid}: {failure}; it is left to exit by itself")

    def _forget(self, followed: _Followed) -> None:
        self._kills.remove(followed)
        self._hurry()
        self.candidates.end_dying(followed.victim.pod.uid)
        self.candidates.give_up(followed.killed.handles)

    def status(self) -> dict[str, Any]:
        """The helper's own figures, for the status."""
        return {"near": self._near, "listKept": self._hold, "logLinesLost": self._log.lost}


def _lives(handle: ContainerHandle) -> bool:
    try:
        return handle.populated()
    except (OSError, ValueError):
        return True  # not known to be empty
