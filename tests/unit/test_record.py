"""Recording: ticks by a fake clock, and what a row holds."""

import io
from dataclasses import dataclass, field

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, MemInfo, Psi, PsiLine, Sample, Unknown
from memorypressure.zone_values import Zone, ZoneInfo
from memorypressure_agent.record.main import Recorded, record
from memorypressure_agent.replay.samples import to_sample
from memorypressure_agent.replay.timeline import read_timeline

MS = 1_000_000
ABSENT = Absent(Reason.NOT_PRESENT, "none")
ZONES = ZoneInfo(
    (
        Zone(0, "DMA", 3840, 0, True, 21, 26, 31, 3840, 0, 0, True, (0, 3018, 11850), 4, 2),
        Zone(0, "Normal", 5000, 7, True, 900, 1100, 1300, 90_000, 11, 40, True, (0, 0, 0), 32, 2),
        Zone(0, "Movable", 0, 0, True, 32, 32, 32, 0, 0, 0, True, (0, 0, 0)),
    ),
    4096,
    2,
)
MEMORY = MemInfo(1 << 33, 1 << 32, 1 << 30, 1 << 29, 1 << 21)
PSI = Psi(PsiLine(1.5, 2.25, 3.0, 1234), None)


@dataclass
class Machine:
    """A clock that moves by sleeping, and by `slow_ms` for each sample."""

    slow_ms: int = 0
    parts: list[ZoneInfo | Unknown] = field(default_factory=list)
    now: int = 5_000 * MS

    def now_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def read_sample(self) -> Sample:
        taken = Sample(self.now, self.parts.pop(0) if self.parts else ZONES, MEMORY, PSI, ABSENT)
        self.now += self.slow_ms * MS
        return taken

    def record(self, length_ms: int) -> tuple[Recorded, str]:
        file = io.StringIO()
        done = record(
            self,
            file,
            page_bytes=4096,
            period_ns=10 * MS,
            length_ns=length_ms * MS,
            now_ns=self.now_ns,
            sleep=self.sleep,
        )
        return done, file.getvalue()


def test_a_sample_is_taken_every_period_from_0_to_the_end() -> None:
    done, text = Machine().record(50)
    assert done == Recorded(samples=6, unreadable=0, worst_lateness_ns=0)
    assert [line.split(",")[0] for line in text.splitlines()[1::3]] == [f"0.0{tick}0000" for tick in range(6)]


def test_ticks_that_a_slow_sample_missed_are_left_out_not_caught_up() -> None:
    done, text = Machine(slow_ms=25).record(60)
    assert done.samples == 3
    assert [line.split(",")[0] for line in text.splitlines()[1::3]] == ["0.000000", "0.030000", "0.060000"]


def test_what_cannot_be_read_is_counted_and_left_out() -> None:
    done, text = Machine(parts=[ZONES, Unknown("made unreadable"), ZONES]).record(20)
    assert (done.samples, done.unreadable, len(text.splitlines())) == (2, 1, 7)


def test_what_is_recorded_is_what_a_replay_sees() -> None:
    _, text = Machine().record(0)
    (recorded,) = read_timeline("r.csv", io.BytesIO(text.encode()))
    seen = to_sample("r.csv", recorded, 4096)
    assert isinstance(seen.zones, ZoneInfo)
    assert (seen.memory, seen.psi_node) == (MEMORY, PSI)
    assert isinstance(seen.psi_pods, Unknown)
    (node,), (original,) = seen.zones.counted_nodes, ZONES.counted_nodes
    assert [(c.zone.name, c.lines, c.zone.usable_pages, c.zone.error_pages) for c in node.counted] == [
        (c.zone.name, c.lines, c.zone.usable_pages, c.zone.error_pages) for c in original.counted
    ]
