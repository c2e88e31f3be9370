"""A rehearsal of the worst round, before memory is locked: what a kill needs of code and heap is then there.

Nothing of it leaves this module: the state, the sample and the victim are its own, and no file is written.
"""

import json
from dataclasses import replace
from typing import Final

from memorypressure import engine, ladder
from memorypressure.engine import Inputs, Rules
from memorypressure.grants import Permit
from memorypressure.signals import Absent, Sample
from memorypressure.spec_values import Mode
from memorypressure.victims import Candidate, ContainerUsage, Usage
from memorypressure.zone_values import ZoneInfo

ROUNDS: Final = 12
APART_NS: Final = 20_000_000
RELIEF_BYTES: Final = 1 << 40
_CANDIDATE: Final = Candidate("rehearsal", "-", "-", 0, "BestEffort", 0, 0)
_USAGE: Final = Usage("rehearsal", (ContainerUsage("-", RELIEF_BYTES, RELIEF_BYTES, 3),), 1 << 30)


def rehearse(
    rules: Rules,
    info: ZoneInfo,
    absent: Absent,
    now_ns: int,
    candidates: tuple[Candidate, ...],
    usages: tuple[Usage, ...],
) -> bool:
    """Decides over a machine like this one without a free page, and puts the decision into words; whether it killed."""
    empty = replace(info, zones=tuple([replace(zone, free_pages=0, free_cma_pages=0) for zone in info.zones]))
    rules = replace(rules, mode=Mode.ENFORCE)
    state = engine.start(rules, ladder.initial(now_ns, unknown_past=False))
    killed = False
    for number in range(ROUNDS):
        at_ns = now_ns + number * APART_NS
        inputs = Inputs(
            now_ns=at_ns,
            sample=Sample(at_ns, empty, absent, absent, absent),
            permit=Permit(1),
            candidates=(*candidates, _CANDIDATE),
            usages=(*usages, _USAGE),
        )
        result = engine.step(rules, state, inputs)
        state = result.state
        json.dumps(result.decision.to_json())
        json.dumps(ladder.durable(state.ladder))
        killed = killed or result.decision.acts
    return killed
