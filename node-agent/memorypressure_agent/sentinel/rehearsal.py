"""A rehearsal of a kill, before memory is locked: what it needs of code and heap is then there.

A page of the interpreter that is touched for the first time after `cgroup.kill` is read from a disk that everybody
waits for, into memory that has to be reclaimed first, by a thread that holds the interpreter: the victim's memory came
back 1.7 s after the kill then. Nothing of it leaves this module: the state, the samples and the victim are its own, and
no file is written.
"""

import json
from dataclasses import replace
from typing import Final

from memorypressure import engine, ladder
from memorypressure.engine import Inputs, Rules
from memorypressure.grants import Permit
from memorypressure.ladder import Outcome, OutcomeKind
from memorypressure.records import ActionResult, Decision, action_record
from memorypressure.signals import Absent, MemInfo, Sample
from memorypressure.spec_values import Mode
from memorypressure.victims import Candidate, ContainerUsage, Usage
from memorypressure.zone_values import ZoneInfo

ROUNDS: Final = 24
APART_NS: Final = 200_000_000
"""Together 4.8 s, so that windows of seconds run full; under the gap of 250 ms that would restart them."""
RELIEF_BYTES: Final = 1 << 40
_AFTER_A_KILL: Final = (OutcomeKind.WRITTEN, OutcomeKind.PROGRESS, OutcomeKind.GONE)
_CANDIDATE: Final = Candidate("rehearsal", "-", "-", 0, "BestEffort", 0, 0)
_USAGE: Final = Usage("rehearsal", (ContainerUsage("-", RELIEF_BYTES, RELIEF_BYTES, 3),), 1 << 30)


def rehearse(
    rules: Rules,
    info: ZoneInfo,
    memory: MemInfo | Absent,
    absent: Absent,
    now_ns: int,
    candidates: tuple[Candidate, ...],
    usages: tuple[Usage, ...],
) -> bool:
    """Decides over a machine like this one whose free pages all went to buffers at once; whether that came to a kill.

    Follows the kill to its end, and puts into words what is put down of it. `absent` stands for PSI, which is not
    rehearsed: it never kills alone.
    """
    full = replace(info, zones=tuple([replace(zone, free_pages=zone.managed_pages) for zone in info.zones]))
    empty = replace(info, zones=tuple([replace(zone, free_pages=0, free_cma_pages=0) for zone in info.zones]))
    if isinstance(memory, MemInfo):
        memory = replace(memory, available_bytes=0, swap_free_bytes=0)
    rules = replace(rules, mode=Mode.ENFORCE)
    state = engine.start(rules, ladder.initial(now_ns, unknown_past=False))
    killed: Decision | None = None
    reports: list[OutcomeKind] = []
    for number in range(ROUNDS):
        at_ns = now_ns + number * APART_NS
        outcome = () if killed is None or not reports else (Outcome(reports.pop(0), killed.action_number, at_ns, 0),)
        inputs = Inputs(
            now_ns=at_ns,
            sample=Sample(at_ns, empty if number else full, memory, absent, absent),
            permit=Permit(1),
            candidates=(*candidates, _CANDIDATE),
            usages=(*usages, _USAGE),
            outcomes=outcome,
        )
        result = engine.step(rules, state, inputs)
        state = result.state
        json.dumps(result.decision.to_json())
        json.dumps(ladder.durable(state.ladder))
        if result.decision.acts and killed is None:
            killed, reports = result.decision, list(_AFTER_A_KILL)
            json.dumps(action_record(killed, "rehearsal", at_ns, ActionResult.SUCCESS).to_json())
    return killed is not None
