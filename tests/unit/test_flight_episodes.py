"""The flight recorder keeps episodes: from 5 s before to 30 s after, over restarts, rehearsed before a kill."""

import mmap
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flightsamples import MACHINE, MS, SECOND, START, free_of, full, machine_of, with_free

from memorypressure_agent.host import flight_format as layout
from memorypressure_agent.host.flight_reader import episodes, rings
from memorypressure_agent.host.flight_recorder import FlightRecorder


def test_an_episode_is_kept_with_5_s_before_and_30_s_after_whatever_comes_later(area: mmap.mmap) -> None:
    recorder, machine = FlightRecorder(area, 0), machine_of(3)
    began, ended = START + 60 * SECOND, START + 75 * SECOND
    for tick in range(12_000):
        now = START + tick * 10 * MS
        recorder.add(full(now, with_free(machine, tick, 7, 8), slow=tick % 100 == 0))
        if began <= now <= ended:
            recorder.keep(1, now)
    in_rings = (layout.FAST_BLOCKS + layout.SLOW_BLOCKS) * layout.BLOCK_BYTES
    area[:in_rings] = bytes(in_rings)  # as if it were long ago
    (number,) = episodes(area[:])
    times = [each.time_ns for each in episodes(area[:])[number]]
    assert number == 1
    assert times[0] <= began - 5 * SECOND
    assert times[-1] >= ended + 30 * SECOND
    wanted = [each for each in times if began - 5 * SECOND <= each <= ended + 30 * SECOND]
    assert len(wanted) == 50 * 100 + 1, "not one sample is missing"


@pytest.mark.parametrize(("zones", "telling_nodes", "apart_ns"), [(3, 0, 10 * MS), (5, 2, SECOND)])
def test_a_long_episode_keeps_its_begin_and_its_end(
    area: mmap.mmap, zones: int, telling_nodes: int, apart_ns: int
) -> None:
    """Where all zones of two nodes were read every 10 ms to the end, the first seconds after it are slow samples."""
    recorder, machine = FlightRecorder(area, 0), machine_of(zones, telling_nodes)
    began, ended = START + 10 * SECOND, START + 210 * SECOND
    for tick in range(250 * 100):
        now = START + tick * 10 * MS
        recorder.add(full(now, machine, slow=tick % 100 == 0))
        if began <= now <= ended:
            recorder.keep(4, now)
    times = [each.time_ns for each in episodes(area[:])[4]]
    assert times[0] <= began - 5 * SECOND
    assert times[-1] >= ended + 30 * SECOND
    ((gap_from, gap_to),) = [(before, after) for before, after in pairwise(times) if after - before > 2 * SECOND]
    assert began < gap_from < gap_to <= ended, "one stretch in the middle is left out"
    after = [each for each in times if each >= ended]
    assert max(second - first for first, second in pairwise(after)) == apart_ns


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12 * layout.BLOCK_BYTES - 1), st.integers(1, 255)), min_size=1, max_size=20))
def test_damage_of_an_episode_loses_samples_and_invents_none(damage: list[tuple[int, int]]) -> None:
    with mmap.mmap(-1, layout.AREA_BYTES) as area:
        recorder, written = FlightRecorder(area, 0), set()
        for tick in range(1_000):
            now, free = START + tick * 10 * MS, tick * 7 % 30_000
            recorder.add(full(now, with_free(MACHINE, 1, free, 2), slow=tick % 100 == 0))
            recorder.keep(1, now)
            written.add((now, (1, free, 2)))
        recorder.add(full(START + 60 * SECOND, with_free(MACHINE, 1, 5, 2)))
        written.add((START + 60 * SECOND, (1, 5, 2)))
        whole = episodes(area[:])
        assert {(each.time_ns, free_of(each)) for each in whole[1]} == written
        slot = (layout.FAST_BLOCKS + layout.SLOW_BLOCKS + layout.EPISODE_BLOCKS) * layout.BLOCK_BYTES  # of episode 1
        assert any(area[slot : slot + 8])
        for offset, change in damage:
            area[slot + offset] ^= change
        found = episodes(area[:])
        assert {(each.time_ns, free_of(each)) for kept in found.values() for each in kept} <= written


def test_eight_episodes_are_kept_and_the_ninth_replaces_the_first(area: mmap.mmap) -> None:
    recorder, now = FlightRecorder(area, 0), START
    for number in range(1, 10):
        for second in range(50):
            now += SECOND
            recorder.add(full(now, MACHINE))
            if second < 10:
                recorder.keep(number, now)
    assert list(episodes(area[:])) == list(range(2, 10))


def test_what_an_episode_runs_when_it_begins_was_rehearsed_and_the_rehearsal_changes_nothing(area: mmap.mmap) -> None:
    """What is not is read from a disk when an episode begins, which is the moment of a kill."""
    fresh = mmap.mmap(-1, layout.AREA_BYTES)
    rehearsed = FlightRecorder(fresh, 0)
    rehearsed.add(full(START, with_free(MACHINE, 3840, 70, 80)))
    before = fresh[:]
    in_rehearsal = called(rehearsed.rehearse)
    assert fresh[:] == before
    fresh.close()
    recorder = FlightRecorder(area, 0)
    for number in range(2000):
        recorder.add(full(START + number * 10 * MS, with_free(MACHINE, 3840, 70, number)))
    in_episode = called(partial(recorder.keep, 1, START + 20 * SECOND))
    assert len(episodes(area[:])[1]) > 100
    assert in_episode - in_rehearsal == {"FlightRecorder.keep", "FlightRecorder._copy"}


def called(work: Callable[[], object]) -> set[str]:
    """The functions that it calls, also those of the interpreter."""
    found: set[str] = set()

    def see(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found.add(frame.f_code.co_qualname)
        elif event == "c_call":
            found.add(getattr(argument, "__qualname__", repr(argument)))

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found - {"setprofile"}


def test_a_new_process_goes_on_where_the_one_before_stopped(area: mmap.mmap) -> None:
    lives, samples = 3, 600
    for life in range(lives):
        recorder = FlightRecorder(area, 0)
        for tick in range(samples):
            now = START + (life * samples + tick) * 10 * MS
            recorder.add(full(now, MACHINE, slow=tick % 100 == 0))
            recorder.keep(1, now)
    assert len(rings(area[:])) == lives * samples
    recorder.add(full(START + 60 * SECOND, MACHINE))
    kept = {each.time_ns for each in episodes(area[:])[1]}
    assert kept == {START + tick * 10 * MS for tick in range(lives * samples)} | {START + 60 * SECOND}


def test_pressure_that_comes_back_within_an_episode_is_kept_from_5_s_before(area: mmap.mmap) -> None:
    recorder = FlightRecorder(area, 0)
    for second in range(400):
        now = START + second * SECOND
        recorder.add(full(now, MACHINE))
        if second in (100, 300):
            recorder.keep(1, now)
    seconds = {(each.time_ns - START) // SECOND for each in episodes(area[:])[1]}
    assert seconds >= {*range(95, 131), *range(295, 331)}
