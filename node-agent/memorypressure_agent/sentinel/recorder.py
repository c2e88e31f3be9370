"""What is put down of the sampler's rounds: decisions, ends of kills, episodes; in the journal and as log lines."""

from typing import Any, Final

from memorypressure.engine import Result
from memorypressure.ladder import Outcome, OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.records import ActionRecord, ActionResult, Decision, action_id, action_record, pod_ref_from
from memorypressure.spec_values import Action, Mode
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.sentinel.clocks import Clocks
from memorypressure_agent.sentinel.counters import Counts
from memorypressure_agent.sentinel.helper import Helper

_QUIET: Final = frozenset((Reason.SAMPLE_STALE,))
"""Reasons that are answered by another sample at once: counted nowhere, not put down."""


class Recorder:
    """Writes a record when something is new: an action, another reason, an episode's begin, change or end."""

    def __init__(self, helper: Helper, clocks: Clocks, counts: Counts) -> None:
        self._helper = helper
        self._clocks = clocks
        self._counts = counts
        self._decided: tuple[object, ...] = ()
        self._episode: tuple[object, ...] = ()
        self.journal: Journal | None = None

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record with the time for people; nowhere while there is no journal."""
        if self.journal is not None:
            self.journal.write_decision({"unixNs": self._clocks.unix_ns(), **record})

    def result(self, result: Result, policy: str) -> None:
        """Records a round's decision and episode if they are new.

        DryRun records nothing between its one action of an episode and the episode's end.
        """
        decision = result.decision
        running = result.state.ladder.running
        shadowed = decision.mode is Mode.DRY_RUN and running is not None and running.would_have > 0
        key = (decision.action, decision.reason, decision.mode, decision.episode)
        if decision.action is not None or (key != self._decided and decision.reason not in _QUIET and not shadowed):
            self._decided = key
            self.write({"kind": "decision", "policy": policy, **decision.to_json()})
            if decision.action is None:
                self._nothing_done(decision)
            elif not decision.acts:
                self._shadow(decision, policy)
        self._record_episode(result, policy)

    def kill_ended(
        self, pending: dict[str, Any], outcomes: tuple[Outcome, ...], not_seen: str, *, counted: bool
    ) -> None:
        """Records how the kill ended, also one that an earlier process began; `not_seen`: why no end of it was seen.

        `counted`: it stands in the journal's count, which is raised right before `cgroup.kill` is written. What was
        counted and did not fail was done: a SIGKILL cannot be taken back, however long its processes take to end.
        """
        mine = [each for each in outcomes if each.action_number == pending["number"]]
        last = next((o for o in reversed(mine) if o.kind in (OutcomeKind.GONE, OutcomeKind.FAILED)), None)
        end = self._helper.take_end(pending["number"])
        if last is not None and last.kind is OutcomeKind.FAILED:
            result, message = ActionResult.FAILED, last.message
        elif not counted:  # a pod that went by itself, too
            result, message = ActionResult.FAILED, "the sentinel that decided it ended before cgroup.kill was written"
        elif last is None:
            result, message = ActionResult.INCOMPLETE, not_seen
        elif end.failures:
            result, message = ActionResult.INCOMPLETE, f"{last.message}; not killed: {', '.join(end.failures)}"
        else:
            result, message = ActionResult.SUCCESS, last.message
        self._counts.kills_failed += result is ActionResult.FAILED
        self._counts.freed_bytes += end.freed_bytes or 0
        self._counts.end(pending["policy"], Mode.ENFORCE.value, result.value)
        if self.journal is not None:
            record = ActionRecord(
                id=action_id(self.journal.incarnation, pending["number"]),
                time_unix_ns=pending["unixNs"],
                action=Action.KILL,
                mode=Mode.ENFORCE,
                result=result,
                reason=Reason(pending["cause"]),
                pod=pod_ref_from(pending["pod"]),
                freed_bytes=end.freed_bytes,
            )
            self.write(
                {
                    "kind": "action",
                    "policy": pending["policy"],
                    "record": record.to_json(),
                    "message": pending["message"],
                    "outcome": message,
                }
            )
        self._helper.log(result.value, f"{pending['pod']['namespace']}/{pending['pod']['name']}: {message}")

    def _nothing_done(self, decision: Decision) -> None:
        if decision.reason is not Reason.NO_PRESSURE:
            refusals = self._counts.refusals
            refusals[decision.reason.value] = refusals.get(decision.reason.value, 0) + 1
        self._helper.log(decision.reason.value, decision.message)

    def _shadow(self, decision: Decision, policy: str) -> None:
        self._counts.shadow_kills += 1
        self._counts.end(policy, decision.mode.value, ActionResult.SUCCESS.value)
        self._helper.log(decision.reason.value, decision.message)
        if self.journal is not None:
            record = action_record(decision, self.journal.incarnation, self._clocks.unix_ns(), ActionResult.SUCCESS)
            self.write(
                {
                    "kind": "action",
                    "policy": policy,
                    "record": record.to_json(),
                    "message": decision.message,
                    "outcome": "",
                }
            )

    def _record_episode(self, result: Result, policy: str) -> None:
        episode = result.state.ladder.episode
        if episode is None:
            return
        key = (episode.number, episode.end_ns, episode.worst, episode.victims + episode.would_have)
        if key == self._episode:
            return
        begun = not self._episode or self._episode[0] != episode.number
        self._episode = key
        if self.journal is not None:
            shift = self._clocks.unix_ns() - self._clocks.boot_ns()
            record = episode.record(self.journal.incarnation, shift)
            self.write({"kind": "episode", "policy": policy, "record": record.to_json()})
        if episode.end_ns is not None:
            self._helper.log(Reason.PRESSURE_CLEARED.value, f"episode {episode.number} ended: {episode.outcome.value}")
        elif begun:
            self._helper.log(Reason.PRESSURE_STARTED.value, f"episode {episode.number}: {episode.worst}")
