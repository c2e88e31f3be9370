"""One machine under a policy: samples in, views out, and with --enforce a kill."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from memorypressure import engine
from memorypressure.engine import Inputs, Rules
from memorypressure.grants import Permit, Refusal
from memorypressure.reasons import Reason
from memorypressure.records import Decision
from memorypressure.sampling import Drains, headroom_pages, next_period_ns, observe
from memorypressure.signals import Sample
from memorypressure.spec_values import Mode
from memorypressure.triggers import watched_lines
from memorypressure.victims import Ranking
from memorypressure.zone_values import ZoneInfo
from memorypressure_agent.operator_steps import Announced, operator_decisions
from memorypressure_agent.run.figures import NodeFigures, node_figures
from memorypressure_agent.run.killer import Killer
from memorypressure_agent.run.pods import Pods, PodsNow
from memorypressure_agent.run.view import CandidateRow, View

PODS_EVERY_NS = 1_000_000_000
_RECENT = 5


class Sources(Protocol):
    """Where samples come from; `HostSources` on a real machine."""

    @property
    def page_size_bytes(self) -> int:
        """Bytes in a page of this machine."""
        ...

    def read_sample(self) -> Sample:
        """A whole sample, now."""
        ...

    def recheck_one(self) -> None:
        """Look whether a file appeared, vanished or was replaced."""
        ...


@dataclass(slots=True)
class Counts:
    """What a run came to."""

    samples: int = 0
    unreadable: int = 0
    episodes: int = 0
    decided: int = 0
    killed: int = 0
    elapsed_ns: int = 0


class Watch:
    """Takes samples as often as the pressure asks for, decides at each, and carries out what the mode allows."""

    def __init__(
        self,
        rules: Rules,
        sources: Sources,
        pods: Pods,
        now_ns: Callable[[], int] = time.monotonic_ns,
        sleep_seconds: Callable[[float], None] = time.sleep,
        unix_seconds: Callable[[], float] = time.time,
    ) -> None:
        self.now_ns = now_ns
        self.counts = Counts()
        self.has_acted = False
        """Whether the last sample led to a decision with an action."""
        self._sleep_seconds = sleep_seconds
        self._unix_seconds = unix_seconds
        self._rules = rules
        self._watched = watched_lines(rules.triggers)
        self._sources = sources
        self._pods = pods
        self._killer = Killer(pods)
        self._state = engine.start(rules)
        self._announced = Announced()
        self._drains = Drains()
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._pods_now = PodsNow((), (), "")
        self._pods_due_ns = self._started_ns = now_ns()
        self._period_ns = 0
        self._due_ns = self._started_ns
        self._inputs: Inputs | None = None
        self._decision: Decision | None = None

    def sample(self) -> None:
        """Take a sample and decide; carry the decision out when it acts."""
        now_ns = self.now_ns()
        if now_ns >= self._pods_due_ns:
            self._pods_now = self._pods.refresh()
            self._sources.recheck_one()
            self._pods_due_ns = now_ns + PODS_EVERY_NS
        begun_ns = self.now_ns()
        sample = self._sources.read_sample()
        cost_ns = self.now_ns() - begun_ns
        inputs = Inputs(
            now_ns=self.now_ns(),
            sample=sample,
            permit=self._permit(),
            candidates=self._pods_now.candidates,
            usages=self._pods_now.usages,
            outcomes=self._killer.outcomes(self.now_ns()),
            can_kill=self._pods.can_kill,
        )
        result = engine.step(self._rules, self._state, inputs)
        self._state, self._inputs, self._decision = result.state, inputs, result.decision
        self._announced, operators = operator_decisions(self._rules, result, sample, self._announced)
        self.has_acted = bool(operators) or result.decision.action is not None
        for decision in (*operators, result.decision):
            if decision.action is not None:
                self._remember(decision)
        if result.decision.acts:
            self._killer.kill(result.decision, self.now_ns())
        self._count(sample)
        self._plan_next(sample, cost_ns)

    def sleep(self, until_ns: int) -> None:
        """Sleep to the next sample, at most until then."""
        delay_ns = min(self._due_ns, until_ns) - self.now_ns()
        if delay_ns > 0:
            self._sleep_seconds(delay_ns / 1e9)

    def view(self) -> View:
        """What the last sample showed; `sample` must have been called."""
        inputs, decision = self._inputs, self._decision
        if inputs is None or decision is None:
            raise ValueError("no sample has been taken yet")
        zones = inputs.sample.zones
        nodes: tuple[NodeFigures, ...] = ()
        if isinstance(zones, ZoneInfo):
            nodes = node_figures(zones, self._watched, self._drains, inputs.now_ns)
        return View(
            unix_seconds=self._unix_seconds(),
            policy_name=self._rules.policy_name,
            mode=self._rules.mode,
            page_bytes=self._rules.page_bytes,
            period_ns=self._period_ns,
            sample=inputs.sample,
            triggers=self._rules.triggers,
            state=self._state.triggers,
            nodes=nodes,
            decision=decision,
            recent=tuple(self._recent),
            candidates=_rows(engine.ranking(self._rules, inputs, self._state.triggers.pressed_nodes)),
            candidates_note=self._pods_now.note,
        )

    def _permit(self) -> Permit | Refusal:
        """On one machine without an operator the policy's own budget is the grant."""
        if self._rules.mode is not Mode.ENFORCE:
            return Refusal(Reason.MODE_NOT_ENFORCE, f"mode is {self._rules.mode}")
        allowed = min(self._rules.limits.kills_per_hour, self._rules.hard.kills_per_hour)
        left = allowed - len(self._state.ladder.kills)
        if left <= 0:
            return Refusal(Reason.BUDGET_EXHAUSTED, f"{allowed} kills an hour are allowed, and done")
        return Permit(left, f"{left} of {allowed} kills an hour left")

    def _remember(self, decision: Decision) -> None:
        clock = time.strftime("%H:%M:%SZ", time.gmtime(self._unix_seconds()))
        self._recent.append(f"{clock} {decision.action} {decision.reason}: {decision.message}")
        self.counts.decided += 1

    def _count(self, sample: Sample) -> None:
        self.counts.samples += 1
        self.counts.unreadable += not isinstance(sample.zones, ZoneInfo)
        self.counts.episodes = self._state.ladder.episodes
        self.counts.killed = self._killer.killed
        self.counts.elapsed_ns = self.now_ns() - self._started_ns

    def _plan_next(self, sample: Sample, cost_ns: int) -> None:
        headrooms: tuple[tuple[int, int | None], ...] = ()
        if isinstance(sample.zones, ZoneInfo):
            self._drains = observe(self._drains, sample.zones, sample.time_ns)
            headrooms = tuple(
                (node.number, headroom_pages(sample.zones, node.number, self._watched))
                for node in sample.zones.counted_nodes
            )
        self._period_ns = next_period_ns(
            self._drains,
            headrooms,
            sample.time_ns,
            self._rules.page_bytes,
            cost_ns,
            watching=self._state.triggers.watching,
        )
        stale = self._decision is not None and self._decision.reason is Reason.SAMPLE_STALE
        self._due_ns = sample.time_ns if stale else sample.time_ns + self._period_ns


def _rows(ranking: Ranking) -> tuple[CandidateRow, ...]:
    """The ranked pods, then the excluded ones with their reasons."""
    ranked = [
        CandidateRow(
            name=_name(entry.candidate.namespace, entry.candidate.name),
            rank=place,
            relief_bytes=entry.relief_bytes,
            containers=len(entry.containers),
            reason="" if entry.sufficient else Reason.TOO_SMALL,
            message="",
        )
        for place, entry in enumerate(ranking.order, 1)
    ]
    excluded = [CandidateRow(each.uid, 0, None, 0, each.reason, each.message) for each in ranking.excluded]
    return (*ranked, *excluded)


def _name(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
