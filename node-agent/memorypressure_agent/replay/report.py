"""A replay as text (a table and a summary) or as JSON lines; both are told of every decision and choose what is new."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from memorypressure.records import Decision
from memorypressure.spec_values import Action, Mode, Policy
from memorypressure_agent.text import WIDTH, duration_text, size_text

_TIME_WIDTH, _ACTION_WIDTH = 10, 8
_MESSAGE_COLUMN = _TIME_WIDTH + 2 + _ACTION_WIDTH + 1


@dataclass(slots=True)
class Dips:
    """How often and how long a NUMA node was below AtomicReserve; a sample stands for the time until the next."""

    stretches: int = 0
    total_ns: int = 0
    longest_ns: int = 0
    current_ns: int = 0
    below: bool = False

    def add(self, elapsed_ns: int, *, below: bool) -> None:
        """Count the time since the last sample, then take the new one's state."""
        if self.below:
            self.total_ns += elapsed_ns
            self.current_ns += elapsed_ns
            self.longest_ns = max(self.longest_ns, self.current_ns)
        if below and not self.below:
            self.stretches += 1
            self.current_ns = 0
        self.below = below


@dataclass(slots=True)
class Replayed:
    """What a replay came to."""

    samples: int = 0
    open_gates: int = 0
    """Readings of whole nodes that said nothing about this policy's lines."""
    first_ns: int = 0
    last_ns: int = 0
    page_bytes: int = 0
    zones: tuple[str, ...] = ()
    dips: dict[int, Dips] = field(default_factory=dict)
    decided: dict[Action, list[int]] = field(default_factory=dict)
    """Times (ns) of the decisions with an action."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Why triggers were unknown at the end -> their names."""
    lacks_low: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """What was decided, in half a sentence."""
        if not self.decided:
            return "nothing decided"
        times = (
            f"{action} at {', '.join(f'{at / 1e9:.3f} s' for at in found[:3])}{' ...' if len(found) > 3 else ''}"
            for action, found in sorted(self.decided.items(), key=lambda pair: pair[1][0])
        )
        return ", ".join(times)


class Report(Protocol):
    """Where a replay's decisions go."""

    def begin(self, policy: Policy, name: str) -> None:
        """Before the first sample."""

    def decision(self, decision: Decision) -> None:
        """For every decision of every sample, in order of time."""

    def end(self, replayed: Replayed) -> None:
        """After the last sample."""


class JsonReport:
    """One decision a line, those that differ from the one before; `every`: all."""

    def __init__(self, *, every: bool, file: TextIO | None = None) -> None:
        self._every = every
        self._file = file or sys.stdout
        self._last: tuple[object, ...] = ()

    def begin(self, policy: Policy, name: str) -> None:
        """No header: every line is a decision."""

    def decision(self, decision: Decision) -> None:
        """Write the decision unless it says what the last one said."""
        gist = (decision.phase, decision.action, decision.reason, decision.episode, decision.action_number)
        if not self._every and gist == self._last:
            return
        self._last = gist
        line = {"t": decision.time_ns / 1e9, **decision.to_json()}
        print(json.dumps(line, separators=(",", ":")), file=self._file)

    def end(self, replayed: Replayed) -> None:
        """Nothing: every line is a decision."""


class TextReport:
    """A table of the decisions that differ from the one before (`every`: all), and a summary."""

    def __init__(self, *, every: bool, file: TextIO | None = None) -> None:
        self._every = every
        self._file = file or sys.stdout
        self._last: tuple[object, ...] = ()

    def begin(self, policy: Policy, name: str) -> None:
        """What is replayed, and the table's head."""
        if policy.mode is Mode.DISABLED:
            remark = "mode Disabled: it decides nothing; set mode: DryRun to see what it would"
        elif policy.mode is Mode.ENFORCE:
            remark = "mode Enforce, replayed as DryRun: a recording cannot answer an action"
        else:
            remark = "mode DryRun"
        self._print(f"policy {policy.name}, {remark}")
        self._print(f"recording {name}")
        self._print()
        self._print(f"{'seconds':>{_TIME_WIDTH}}  {'decision':<{_ACTION_WIDTH}} reason: message")

    def decision(self, decision: Decision) -> None:
        """A row of the table."""
        gist = (decision.action, decision.reason, decision.episode, decision.action_number)
        if not self._every and gist == self._last:
            return
        self._last = gist
        head = f"{decision.time_ns / 1e9:>{_TIME_WIDTH}.3f}  {decision.action or '-':<{_ACTION_WIDTH}} "
        self._wrapped(f"{decision.reason}: {decision.message}", head)

    def end(self, replayed: Replayed) -> None:
        """The summary."""
        span = (replayed.last_ns - replayed.first_ns) / 1e9
        self._print()
        self._print(
            f"{replayed.samples} samples over {duration_text(span)} of {', '.join(replayed.zones)}; "
            f"page {size_text(replayed.page_bytes)}"
        )
        for node, dips in sorted(replayed.dips.items()):
            if dips.stretches:
                times = "once" if dips.stretches == 1 else f"{dips.stretches} times"
                self._print(
                    f"NUMA node {node} was below AtomicReserve {times}, "
                    f"{dips.total_ns / 1e6:.0f} ms in all, at longest {dips.longest_ns / 1e6:.0f} ms"
                )
            else:
                self._print(f"NUMA node {node} was never below AtomicReserve")
        for message, names in replayed.unknown.items():
            self._wrapped(
                f"{', '.join(names)} stayed unknown: {message}", "trigger " if len(names) == 1 else "triggers "
            )
        for note in replayed.notes:
            self._wrapped(note, "note: ")
        self._print(f"decided: {replayed.verdict}" if replayed.decided else "decided: nothing")

    def _wrapped(self, sentence: str, head: str) -> None:
        indent = " " * min(len(head), _MESSAGE_COLUMN)
        self._print(
            textwrap.fill(sentence, WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
        )

    def _print(self, line: str = "") -> None:
        print(line, file=self._file)
