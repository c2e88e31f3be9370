"""Carries out a Kill decision through `cgroup.kill` and reports what becomes of it, one kill at a time."""

from __future__ import annotations

from dataclasses import dataclass

from memorypressure.ladder import Outcome, OutcomeKind
from memorypressure.records import Decision
from memorypressure.spec_values import Mode
from memorypressure_agent.host.containers import ContainerHandle
from memorypressure_agent.run.pods import Pods


@dataclass(slots=True)
class _Dying:
    number: int
    handles: list[ContainerHandle]


class Killer:
    """Holds the victim of the last kill until its cgroups are empty."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._dying: _Dying | None = None
        self._reports: list[Outcome] = []
        self.killed = 0
        """Kills that were written."""

    def kill(self, decision: Decision, now_ns: int) -> None:
        """Write `cgroup.kill` of the victim's containers, through the descriptors held since they were listed."""
        victim, number = decision.victim, decision.action_number
        if decision.mode is not Mode.ENFORCE or victim is None:
            raise ValueError("only a Kill decision in mode Enforce is carried out")
        handles = self._pods.handles(victim.pod.uid, victim.containers)
        written, failures = 0, []
        for handle in handles:
            try:
                written += handle.kill()
            except OSError as error:
                failures.append(f"{handle.container.container_id}: {error.strerror}")
        if not written:
            message = "; ".join(failures) or "its cgroups are gone"
            self._reports.append(Outcome(OutcomeKind.FAILED, number, now_ns, message=message))
            return
        self.killed += 1
        self._reports.append(Outcome(OutcomeKind.WRITTEN, number, now_ns, message="; ".join(failures)))
        self._dying = _Dying(number, handles)

    def outcomes(self, now_ns: int) -> tuple[Outcome, ...]:
        """What happened since the last call."""
        reports, self._reports = self._reports, []
        if self._dying is not None:
            number, handles = self._dying.number, self._dying.handles
            if any(_populated(handle) for handle in handles):
                memory = [handle.memory_bytes() for handle in handles]
                total = None if any(part is None for part in memory) else sum(part or 0 for part in memory)
                reports.append(Outcome(OutcomeKind.PROGRESS, number, now_ns, memory_bytes=total))
            else:
                reports.append(Outcome(OutcomeKind.GONE, number, now_ns))
                self._dying = None
        return tuple(reports)


def _populated(handle: ContainerHandle) -> bool:
    try:
        return handle.populated()
    except (OSError, ValueError):
        return True  # not known to be empty: the ladder's own deadline ends the wait
