"""The lab's recordings under the sentinel's own sampler, which chooses its moments itself: no control makes it kill.

A replay takes every row of a recording; the sampler looks in between, skips rows and comes back when a dip begins, so
its windows hold other samples. A row stands until the next one, and the phase shifts the first sample against them.
"""

import bisect
import csv
import gzip
import io
from dataclasses import replace
from pathlib import Path

import pytest
from support.samplerbench import MS, SECOND, UID, Bench
from support.sentinellab import candidate, grant_for, orders

from memorypressure.orders import encode
from memorypressure.spec_values import TakenBy, Trigger
from memorypressure_agent.policy_file import load_policy
from memorypressure_tools.floodplayer import Reading
from memorypressure_tools.lab.scenarios import SCENARIOS

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDINGS = sorted((REPOSITORY / "tests" / "fixtures" / "lab").glob("*.csv.gz"))
DEFAULT = load_policy(REPOSITORY / "crds" / "samples" / "default.yaml").policy
RESERVE = next(each for each in DEFAULT.triggers if each.name == "reserve")
PHASES_MS = (0, 2, 4, 6, 8)
AROUND_NS = 2 * SECOND
NEAR = 0.8
"""Of min: the policy's line is at three quarters of it."""
FIGURES_NS = 900 * MS

Rows = list[tuple[int, Reading]]


def rows_of(path: Path) -> Rows:
    """Nanoseconds and what the zone then showed, from 2 s before the first row near the line to 2 s after the last."""
    content = gzip.decompress(path.read_bytes()).decode()
    rows = [
        (int(float(row["t"]) * SECOND), _reading(row))
        for row in csv.DictReader(io.StringIO(content))
        if row["free"] and row["min"]
    ]
    below = [at for at, shown in rows if shown.free_pages < NEAR * (shown.min_pages - shown.boost_pages)]
    if not below:
        return []
    first, last = below[0] - AROUND_NS, below[-1] + AROUND_NS
    return [(at - first, shown) for at, shown in rows if first <= at <= last]


def _reading(row: dict[str, str]) -> Reading:
    held = int(row["held"]) if row.get("held") else None
    zone = int(row["free"]), int(row["boost"] or 0), int(row["min"])
    return Reading(0.0, *zone, held, int(row.get("zspages") or 0), int(row.get("stat_threshold") or 12))


def killed_at(bench: Bench, rows: Rows, trigger: Trigger, phase_ms: int) -> float | None:
    """Seconds into the recording at which the sampler killed, or None. A round costs it no time."""
    grant = grant_for(bench.journal.incarnation)
    bench.orders_path.write_bytes(encode(orders(candidate(UID, "a"), grant=grant, triggers=(trigger,))))
    for _ in range(3):
        bench.round(1000, 90_000)
    bench.helper.candidates.wanted = frozenset((UID,))
    bench.helper.candidates.refresh(hold=False)
    times = [at for at, _ in rows]
    start, wait, figures, shown = bench.now, phase_ms * MS + 1, -FIGURES_NS, -1
    while True:
        bench.now += wait
        at = bench.now - start
        if at > times[-1]:
            return None
        if at - figures >= FIGURES_NS:
            figures = at
            bench.helper.candidates.refresh(hold=True)
        row = max(0, bisect.bisect_right(times, at) - 1)
        if row != shown:
            shown = row
            bench.machine.show(rows[row][1])
        wait = bench.sampler.round() or MS
        if bench.tree.killed():
            return at / SECOND


def recordings(*, controls: bool) -> list[Path]:
    """Those that say what a zone's free memory was; a leak stays above every line."""
    found = [path for path in RECORDINGS if SCENARIOS[path.name.split("_")[0]].is_control is controls]
    return [path for path in found if not path.name.startswith("leak")]


@pytest.mark.parametrize("path", recordings(controls=True), ids=lambda path: path.name)
def test_a_control_never_kills_whenever_the_sampler_looks(path: Path, tmp_path: Path) -> None:
    rows = rows_of(path)
    if not rows:
        return  # never near it: what a replay says of it is all there is to say
    for phase_ms in PHASES_MS:
        (tmp_path / str(phase_ms)).mkdir()
        bench = Bench(tmp_path / str(phase_ms), dry_run_only=False)
        assert killed_at(bench, rows, RESERVE, phase_ms) is None, f"killed in phase {phase_ms} ms"
        bench.close()


@pytest.mark.parametrize("path", recordings(controls=False), ids=lambda path: path.name)
def test_a_flood_kills_under_the_sampler(path: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, dry_run_only=False)
    assert killed_at(bench, rows_of(path), RESERVE, 0) is not None
    bench.close()


@pytest.mark.parametrize("below_ms", [15, 25])
def test_swapping_to_zram_kills_when_nobody_asks_who_took_the_reserve(below_ms: int, tmp_path: Path) -> None:
    """The recording that asks the question: the line and the time alone, also a longer one, kill for nothing in it."""
    assert RESERVE.zone_watermark is not None
    path = REPOSITORY / "tests" / "fixtures" / "lab" / "control-zram_none.csv.gz"
    by_any = replace(RESERVE.zone_watermark, below_ms=below_ms, taken_by=TakenBy.ANY)
    shorter = replace(RESERVE, zone_watermark=by_any)
    killed = []
    for phase_ms in PHASES_MS:
        (tmp_path / str(phase_ms)).mkdir()
        bench = Bench(tmp_path / str(phase_ms), dry_run_only=False)
        killed.append(killed_at(bench, rows_of(path), shorter, phase_ms) is not None)
        bench.close()
    assert any(killed)
