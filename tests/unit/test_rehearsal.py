"""What the sentinel goes through before its memory is locked: it has to come to a kill, and to write nothing."""

import mmap
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import shapes

from memorypressure.engine import Rules
from memorypressure.reasons import Reason
from memorypressure.signals import Absent, MemInfo
from memorypressure.spec_values import AvailableMemory, Mode
from memorypressure.zones import parse_zoneinfo
from memorypressure_agent.host.flight_format import AREA_BYTES
from memorypressure_agent.host.flight_recorder import FlightRecorder
from memorypressure_agent.policy_file import load_policy
from memorypressure_agent.sentinel.kill_marks import KillMarks
from memorypressure_agent.sentinel.rehearsal import rehearse

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "crds" / "samples").glob("*.yaml"))
MACHINES = {
    "one node": shapes.one_node(),
    "two nodes": shapes.two_nodes(),
    "a terabyte": shapes.terabyte(),
    "a Movable zone": shapes.movable(),
    "an old kernel": shapes.one_node((4, 18)),
}
ABSENT = Absent(Reason.NOT_PRESENT, "not part of the rehearsal")
GIB = 1 << 30


def rules_of(path: Path, **changes: object) -> Rules:
    policy = load_policy(path).policy
    named = {"policy_name": policy.name, "mode": Mode.DRY_RUN, "page_bytes": 4096, "triggers": policy.triggers}
    return Rules(**{**named, "ladder": policy.ladder, "victims": policy.victims, "limits": policy.limits, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("policy", SAMPLES, ids=lambda path: path.stem)
def test_every_policy_that_is_shipped_comes_to_a_kill_on_every_machine(machine: shapes.Machine, policy: Path) -> None:
    info = parse_zoneinfo(shapes.zoneinfo(machine), 4096)
    assert rehearse(rules_of(policy), info, ABSENT, ABSENT, 1, (), ())


def test_a_policy_that_kills_for_scarce_memory_alone_comes_to_a_kill() -> None:
    default = rules_of(SAMPLES[0])
    scarce = tuple(each for each in default.triggers if isinstance(each.available_memory, AvailableMemory))
    info = parse_zoneinfo(shapes.zoneinfo(shapes.one_node()), 4096)
    memory = MemInfo(8 * GIB, 7 * GIB, 0, 0, 0)
    assert rehearse(rules_of(SAMPLES[0], triggers=scarce), info, memory, ABSENT, 1, (), ())
    assert not rehearse(rules_of(SAMPLES[0], triggers=scarce), info, ABSENT, ABSENT, 1, (), ())


def test_marks_of_kills_are_rehearsed_without_a_mark(tmp_path: Path) -> None:
    marks = KillMarks(SimpleNamespace(path=str(tmp_path)), "boot")  # type: ignore[arg-type]
    marks.rehearse()
    assert os.listxattr(tmp_path) == []
    assert marks.read(10**18) == ()


def test_the_flight_recorder_is_rehearsed_without_a_change_of_what_it_holds() -> None:
    area = mmap.mmap(-1, AREA_BYTES)
    recorder = FlightRecorder(area, 0)
    recorder.keep(3, 1)
    area[:] = bytes(index % 251 for index in range(AREA_BYTES))
    before = bytes(area)
    recorder.rehearse()
    assert bytes(area) == before
