"""What is needed for a kill and what is known of the last ones: leave, the journal's state, the write, pods killed.

    permit -> decision -> the ladder's state with the kill in it (journal) -> killsTotal (journal) -> cgroup.kill

**A pod that was killed is stopped again only by a new permit.** Its containers may be started again in it before the
operator's eviction comes, and grow again. What was granted before the kill was not meant for them, so its UID is kept
in the journal until the ceiling is raised above the lowest one seen since; until then it is no victim, and nobody is
stopped in its place (`victims`: state Killed).
"""

from collections.abc import Callable
from typing import Any, Final

from memorypressure import ladder
from memorypressure.grants import Grant, Leave, Permit, Refusal, may_kill, see_grant
from memorypressure.ladder import LadderState, Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.records import Decision
from memorypressure.spec_values import Action
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.sentinel.clocks import Clocks
from memorypressure_agent.sentinel.counters import Counts
from memorypressure_agent.sentinel.helper import Helper
from memorypressure_agent.sentinel.recorder import Recorder

MOST_AGE_AT_KILL_NS: Final = 1_000_000_000
"""How old the sample behind a kill may be when it is written; longer than the journal's write ever took in a flood."""
MOST_FIGURES_AGE_NS: Final = 10_000_000_000
"""The helper is told to read them anew when a window begins to run; in a stall it may need so long."""
MOST_LISTING_NS: Final = 200_000_000
"""How long a kill waits for the helper to look for pods that new orders name: one of them may be the first to go."""
MOST_KILLED_KEPT: Final = 64
"""UIDs of killed pods; as many kills as `--max-kills-per-hour` can allow."""


class Kills:
    """Permits and does kills, and keeps what a process that comes later must know. For the sampler's thread."""

    def __init__(
        self, max_kills_per_hour: int, helper: Helper, clocks: Clocks, recorder: Recorder, counts: Counts
    ) -> None:
        self._max_kills_per_hour = max_kills_per_hour
        self._helper = helper
        self._clocks = clocks
        self._recorder = recorder
        self._counts = counts
        self._journal: Journal | None = None
        self._leave: Leave | None = None
        self._orders_ns = -MOST_LISTING_NS  # when they were taken
        self._pending: dict[str, Any] | None = None
        self._resumed_ns: int | None = None
        self._kept_state: dict[str, Any] = {}
        self._unix_minus_boot_ns = 0
        self._killed: tuple[str, ...] = ()
        self._least_ceiling = 0

    @property
    def under_way(self) -> bool:
        """Whether a kill is waited for."""
        return self._pending is not None

    def take_journal(self, journal: Journal | None) -> LadderState:
        """The ladder's state that a journal keeps; without one nothing is remembered and nothing may be killed."""
        self._journal = journal
        now = self._clocks.boot_ns()
        kept = journal.read_state() if journal is not None else None
        kept = kept if kept is not None else {}
        state = ladder.restored(kept.get("ladder"), now)
        self._pending = kept.get("pending") if state.kill is not None else None
        self._resumed_ns = now if self._pending is not None else None
        self._kept_state = {}
        lead = kept.get("unixMinusBoot")
        self._unix_minus_boot_ns = lead if type(lead) is int else self._clocks.unix_ns() - now
        self._helper.candidates.unix_minus_clock_ns = self._unix_minus_boot_ns
        killed, ceiling = kept.get("killed"), kept.get("killedCeiling")
        whole = isinstance(killed, list) and type(ceiling) is int
        self._killed = tuple([str(uid) for uid in killed or ()][-MOST_KILLED_KEPT:]) if whole else ()
        self._least_ceiling = ceiling if whole and type(ceiling) is int else 0
        self._helper.candidates.killed = frozenset(self._killed)
        if self._pending is not None and not self._counted(self._pending):
            self._forget_killed(self._pending["pod"]["uid"])
        return state

    def see_orders(self, leave: Leave | None, grant: Grant | None, now_ns: int) -> None:
        """Takes what other orders say about killing, and puts the grant that was seen into the journal."""
        self._leave, self._orders_ns = leave, now_ns
        journal = self._journal
        if journal is None:
            return
        journal.write_grants(see_grant(journal.grants, grant, now_ns))
        ceiling = journal.grants.ceiling_seen
        if not self._killed:
            return
        if ceiling > self._least_ceiling:
            self._killed = ()
        else:
            self._least_ceiling = ceiling
        self._helper.candidates.killed = frozenset(self._killed)

    def granted(self) -> Permit | Refusal:
        """What the node's own obstacles and the grant say to a kill at this moment."""
        now = self._clocks.boot_ns()
        journal = self._journal
        if journal is None:
            return Refusal(Reason.LOCK_HELD, "another sentinel writes the journal")
        hour_ago = now - ladder.HOUR_NS
        kills = sum(1 for time_ns in journal.kill_times if time_ns > hour_ago)
        if kills >= self._max_kills_per_hour:
            message = f"{kills} kills in the last hour; --max-kills-per-hour is {self._max_kills_per_hour}"
            return Refusal(Reason.AGENT_LIMIT, message)
        return may_kill(journal.grants, self._leave, now)

    def permit(self) -> Permit | Refusal:
        """The same, and whether the candidates' figures are there and fresh: a kill may be due."""
        permit = self.granted()
        if isinstance(permit, Permit):
            now = self._clocks.boot_ns()
            if now - self._orders_ns < MOST_LISTING_NS and self._helper.candidates.has_unlisted:
                return Refusal(Reason.NO_FIGURES, "pods that new orders name are being looked for")
            age = now - self._helper.snapshot.time_ns
            if age > MOST_FIGURES_AGE_NS:
                self._helper.wake()
                return Refusal(Reason.NO_FIGURES, f"the candidates' figures are {age / 1e9:.1f} s old")
        return permit

    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of kills since the last call."""
        return (*self._helper.take_outcomes(), *self._resumed())

    def see(self, state: LadderState, outcomes: tuple[Outcome, ...]) -> None:
        """Records the end of the kill under way once the ladder waits for it no longer."""
        if state.kill is None:
            self._tell(outcomes, "the wait for its cgroup to be empty has ended")

    def stop(self, state: LadderState) -> None:
        """Records the kill under way as far as it is known: its journal may go with the pod.

        A process that continues the journal waits for it all the same (`LadderState.kill`), and tells nothing more.
        """
        if self._pending is not None:
            self._tell(self.outcomes(), "the sentinel was stopped before its cgroup was empty")
            self._put_down(state)

    def _tell(self, outcomes: tuple[Outcome, ...], not_seen: str) -> None:
        if self._pending is not None:
            self._recorder.kill_ended(self._pending, outcomes, not_seen, counted=self._counted(self._pending))
            self._pending = None

    def _counted(self, pending: dict[str, Any]) -> bool:
        """Whether the journal counts it. One of which an earlier version kept no count is not known to be undone."""
        return self._journal is not None and self._journal.grants.kills_total > pending.get("killsTotal", -1)

    def keep(self, state: LadderState, decision: Decision, policy: str) -> None:
        """Puts what must outlive this process into the journal if it changed; before a kill, with the kill in it."""
        journal = self._journal
        if journal is not None and decision.acts and decision.victim is not None:
            uid = decision.victim.pod.uid
            self._pending = {
                "number": decision.action_number,
                "unixNs": self._clocks.unix_ns(),
                "killsTotal": journal.grants.kills_total,
                "cause": decision.cause.value,
                "message": decision.message,
                "pod": decision.victim.pod.to_json(),
                "containers": list(decision.victim.containers),
                "policy": policy,
            }
            self._killed = (*[other for other in self._killed if other != uid], uid)[-MOST_KILLED_KEPT:]
            self._least_ceiling = journal.grants.ceiling_seen
        self._put_down(state)

    def _put_down(self, state: LadderState) -> None:
        kept = {
            "ladder": ladder.durable(state),
            "pending": self._pending,
            "unixMinusBoot": self._unix_minus_boot_ns,
            "killed": list(self._killed),
            "killedCeiling": self._least_ceiling,
        }
        if self._journal is not None and kept != self._kept_state:
            self._journal.write_state(kept)
            self._kept_state = kept

    def kill(self, decision: Decision, sampled_ns: int, in_place: Callable[[], bool]) -> None:
        """Counts the kill, then does it. Whatever fails after the count is a kill that was spent.

        The journal's write before it may have waited for memory, and the process may have been stopped or the machine
        suspended, so the sample's age and the permit are looked at once more. `in_place`: whether the orders still are.
        """
        victim, journal = decision.victim, self._journal
        if victim is None or journal is None or decision.action is not Action.KILL:
            raise AssertionError(f"a decision that acts without victim or journal: {decision}")
        if not journal.in_place():
            self._fail(decision, f"{journal.path} was replaced; nobody could count a kill")
            return
        if not in_place():
            self._fail(decision, "the orders that it is based on are no longer at their path")
            return
        began = self._clocks.boot_ns()
        permit = self.granted()
        age_ns = began - sampled_ns
        if isinstance(permit, Refusal) or age_ns > MOST_AGE_AT_KILL_NS:
            why = permit.message if isinstance(permit, Refusal) else f"the sample is {age_ns / 1e9:.1f} s old"
            self._fail(decision, f"too late for a kill: {why}")
            return
        number = journal.count_kill(began)
        try:
            killed = self._helper.candidates.kill(victim.pod.uid, victim.containers)
        except (OSError, KeyError) as error:
            text = getattr(error, "strerror", None) or str(error)
            self._fail(decision, f"cgroup.kill of {victim.pod.uid}: {text}")
            return
        self._helper.candidates.killed = frozenset(self._killed)
        self._helper.watch(decision.action_number, victim, killed, began)
        self._counts.kills += 1
        self._helper.log("Killed", f"kill {number}: {decision.message}")

    def _fail(self, decision: Decision, why: str) -> None:
        if decision.victim is not None:
            self._forget_killed(decision.victim.pod.uid)
        self._helper.fail_kill(decision.action_number, why)

    def _forget_killed(self, uid: str) -> None:
        """Nothing of it was killed, so the pod may be a victim again: no permit would come that ends its mark."""
        self._killed = tuple([other for other in self._killed if other != uid])
        self._helper.candidates.killed = frozenset(self._killed)

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
