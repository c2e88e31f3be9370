"""Clocks that step, a machine that slept, orders replaced while they are read: what the sampler does then."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.samplerbench import BELOW_RESERVE_PAGES, MS, SECOND, UID, Bench
from support.sentinellab import candidate, grant_for, orders

from memorypressure.orders import encode
from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode

HOUR = 3600 * SECOND


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, dry_run_only=False)
    yield made
    made.close()


def settle(bench: Bench) -> None:
    """Far from every line, with fresh figures of the one candidate."""
    for _ in range(3):
        bench.round(1000, 90_000)
    bench.read_figures(UID)


def test_three_samples_below_kill_whom_the_orders_name(bench: Bench) -> None:
    settle(bench)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == {"c0de01"}, bench.sampler.view and bench.sampler.view.result.decision
    assert bench.journal.grants.kills_total == 1


@pytest.mark.parametrize(
    "step_seconds", [-86_400, -1, 1, 86_400 * 365], ids=["a day back", "a second back", "on", "a year"]
)
def test_a_wall_clock_that_steps_changes_no_decision(bench: Bench, step_seconds: int) -> None:
    settle(bench)
    for number in range(5):
        bench.unix_ns += step_seconds * SECOND * (1 if number % 2 else 2)
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == {"c0de01"}


def test_after_a_suspend_nothing_of_before_counts(bench: Bench) -> None:
    settle(bench)
    for _ in range(2):
        bench.round(20, BELOW_RESERVE_PAGES)  # one sample more would kill
    bench.now += HOUR
    bench.round(0, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == set(), "the window began anew"
    bench.read_figures(UID)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == set()
    assert bench.reason is Reason.GRANT_EXPIRED, "the leave ran out while it slept"
    assert bench.journal.grants.kills_total == 0


def test_figures_from_before_a_suspend_choose_nobody(bench: Bench) -> None:
    settle(bench)
    bench.now += 60 * SECOND
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == set()
    assert bench.reason is Reason.NO_FIGURES


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_orders_that_are_written_in_place_and_read_halfway_disarm_until_they_are_whole(
    bench: Bench, part: float
) -> None:
    settle(bench)
    whole = bench.orders_path.read_bytes()
    bench.orders_path.write_bytes(whole[: int(len(whole) * part)])
    bench.round(1000, 90_000)
    bench.read_figures(UID)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == set()
    assert bench.reason in (Reason.ORDERS_INVALID, Reason.WRONG_VERSION)
    bench.orders_path.write_bytes(whole)
    bench.round(1000, BELOW_RESERVE_PAGES)
    bench.read_figures(UID)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.reason is Reason.CEILING_REACHED, "the leave was given back meanwhile, and has to be given anew"
    grants = bench.journal.grants
    given = orders(candidate(UID, "a"), grant=grant_for(grants.incarnation, beat=grants.beat))
    bench.orders_path.write_bytes(encode(given))
    bench.round(1000, BELOW_RESERVE_PAGES)
    bench.read_figures(UID)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == {"c0de01"}


def test_orders_that_are_replaced_while_pressure_lasts_hold_from_the_next_sample_on(
    bench: Bench, tmp_path: Path
) -> None:
    settle(bench)
    given = orders(candidate(UID, "a"), grant=grant_for(bench.journal.incarnation))
    new = tmp_path / "new"
    new.write_bytes(encode(replace(given, pods=())))
    for _ in range(2):
        bench.round(20, BELOW_RESERVE_PAGES)
    new.rename(bench.orders_path)  # the next sample would have killed
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
        assert bench.reason is Reason.NO_VICTIM
    assert bench.tree.killed() == set()


@pytest.mark.parametrize("how", ["replaced", "written in place", "removed"])
def test_invariant_8_what_the_orders_say_holds_from_the_next_sample_on(bench: Bench, tmp_path: Path, how: str) -> None:
    settle(bench)
    for _ in range(2):
        bench.round(20, BELOW_RESERVE_PAGES)
    disabled = encode(orders(candidate(UID, "a"), mode=Mode.DISABLED, grant=grant_for(bench.journal.incarnation)))
    if how == "replaced":
        (tmp_path / "new").write_bytes(disabled)
        (tmp_path / "new").rename(bench.orders_path)
    elif how == "written in place":
        bench.orders_path.write_bytes(disabled)
    else:
        bench.orders_path.unlink()
    bench.round(10, BELOW_RESERVE_PAGES)  # the third sample below: it would have killed
    assert bench.sampler.rules.mode is Mode.DISABLED
    assert bench.reason is (Reason.NO_ORDERS if how == "removed" else Reason.MODE_DISABLED)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == set()


@pytest.fixture
def looked_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were given to `stat`."""
    paths: list[str] = []
    stat = os.stat

    def counted(path: int | str, **options: bool) -> os.stat_result:
        paths.append(str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", counted)
    return paths


def test_while_a_node_is_short_no_path_is_looked_up_and_new_orders_hold_all_the_same(
    bench: Bench, tmp_path: Path, looked_up: list[str]
) -> None:
    none = orders(candidate(UID, "a"), grant=grant_for(bench.journal.incarnation, ceiling=0))
    bench.orders_path.write_bytes(encode(none))
    settle(bench)
    for _ in range(3):
        bench.round(20, BELOW_RESERVE_PAGES)
    looked_up.clear()
    for _ in range(200):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert looked_up == []
    bench.read_figures(UID)
    grants = bench.journal.grants
    (tmp_path / "new").write_bytes(encode(replace(none, grant=grant_for(grants.incarnation, beat=grants.beat))))
    (tmp_path / "new").rename(bench.orders_path)
    bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == {"c0de01"}


def test_a_node_that_stays_short_has_its_look_ups_again_after_a_minute(
    bench: Bench, looked_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.orders_path.write_bytes(encode(orders(candidate(UID, "a"))))  # without a grant, so no kill looks at the path
    settle(bench)
    monkeypatch.setattr(bench.readings, "recheck", lambda: looked_up.append("sources"))
    looked_up.clear()
    for _ in range(2 * 59):
        bench.round(500, BELOW_RESERVE_PAGES)
        assert bench.sampler.spares_look_ups
    assert looked_up == []
    for _ in range(2 * 11):
        bench.round(500, BELOW_RESERVE_PAGES)
    assert not bench.sampler.spares_look_ups
    assert looked_up.count("sources") >= 10
    assert looked_up.count(str(bench.orders_path)) in (2, 3), "every 5 s"


def test_orders_are_found_where_their_directory_was_replaced(bench: Bench, tmp_path: Path) -> None:
    """The file held stays whole and linked, elsewhere: only its path tells."""
    bench.orders_file.path = str(tmp_path / "place" / "orders")
    (tmp_path / "place").mkdir()
    bench.orders_path.rename(tmp_path / "place" / "orders")
    settle(bench)
    assert bench.sampler.rules.mode is Mode.ENFORCE
    (tmp_path / "place").rename(tmp_path / "elsewhere")
    (tmp_path / "place").mkdir()
    for _ in range(5):
        bench.round(1000, 90_000)
    assert bench.sampler.rules.mode is Mode.DISABLED
    bench.round(20, BELOW_RESERVE_PAGES)
    (tmp_path / "elsewhere" / "orders").rename(tmp_path / "place" / "orders")
    bench.round(1000, BELOW_RESERVE_PAGES)
    assert bench.sampler.rules.mode is Mode.ENFORCE, "without a file its path is looked up also while a node is short"


def test_nobody_is_killed_under_orders_whose_directory_was_replaced_while_a_node_is_short(
    bench: Bench, tmp_path: Path
) -> None:
    """Their path is not looked up then, but before a kill."""
    bench.orders_file.path = str(tmp_path / "place" / "orders")
    (tmp_path / "place").mkdir()
    bench.orders_path.rename(tmp_path / "place" / "orders")
    settle(bench)
    for _ in range(2):
        bench.round(20, BELOW_RESERVE_PAGES)
    (tmp_path / "place").rename(tmp_path / "elsewhere")
    (tmp_path / "place").mkdir()
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == set()
    assert bench.journal.grants.kills_total == 0
    assert bench.sampler.rules.mode is Mode.DISABLED, "and from then on they do not hold"


def test_orders_that_are_replaced_after_a_sample_was_decided_on_hold_from_the_next_and_cost_no_kill(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill that is refused costs a cool-down; orders are replaced whenever a plan or a grant is renewed."""
    settle(bench)
    (tmp_path / "new").write_bytes(encode(orders(candidate(UID, "a"), mode=Mode.DISABLED)))
    in_place = bench.journal.in_place

    def replaced() -> bool:
        (tmp_path / "new").rename(bench.orders_path)
        return in_place()

    monkeypatch.setattr(bench.journal, "in_place", replaced)
    for _ in range(3):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == {"c0de01"}
    bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.sampler.rules.mode is Mode.DISABLED


def test_a_node_that_is_no_longer_short_has_the_orders_looked_for_within_five_seconds(
    bench: Bench, looked_up: list[str]
) -> None:
    settle(bench)
    looked_up.clear()
    for _ in range(20):
        bench.round(1000, 90_000)
    assert looked_up.count(str(bench.orders_path)) == 4


def test_a_pod_that_was_replaced_under_its_name_is_not_the_one_that_is_killed(bench: Bench) -> None:
    """Its cgroup was made anew after the figures were read; the descriptor held leads to the one that is gone."""
    settle(bench)
    directory = bench.tree.pod_directory(UID)
    directory.rename(directory.with_name("gone"))
    bench.tree.add_pod(UID)
    bench.tree.add_container(UID, "c0de01", None)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert (directory / "c0de01/cgroup.kill").read_text() == "", "the new one lives"
    assert bench.journal.grants.kills_total == 1


def test_the_period_of_a_machine_that_slept_is_not_the_sum_of_what_it_missed(bench: Bench) -> None:
    settle(bench)
    bench.now += 8 * HOUR
    assert bench.round(0, 90_000) <= SECOND
    assert bench.round(10, 90_000) >= 10 * MS


@pytest.mark.parametrize("granted", [True, False], ids=["with a grant", "without a grant"])
def test_where_every_sample_takes_too_long_the_loop_sleeps_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, granted: bool
) -> None:
    grant = grant_for(bench.journal.incarnation) if granted else None
    bench.orders_path.write_bytes(encode(orders(candidate(UID, "a"), grant=grant)))
    settle(bench)
    sources = bench.readings._sources
    read = sources.read_zoneinfo

    def slowly() -> object:
        bench.now += 60 * MS
        return read()

    monkeypatch.setattr(sources, "read_zoneinfo", slowly)
    periods = [bench.round(0, BELOW_RESERVE_PAGES) for _ in range(60)]
    assert periods.count(0) <= 1
    assert bench.reason is (Reason.SAMPLE_STALE if granted else Reason.NO_GRANT)
    assert bench.tree.killed() == set()


@pytest.mark.parametrize(
    ("mode", "ceiling", "worth"),
    [(Mode.ENFORCE, 1, True), (Mode.ENFORCE, 0, False), (Mode.DRY_RUN, 0, True), (Mode.DISABLED, 1, False)],
    ids=["a permit", "no permit", "DryRun", "Disabled"],
)
def test_time_is_spent_on_a_hurry_only_where_a_kill_could_follow(
    bench: Bench, mode: Mode, ceiling: int, worth: bool
) -> None:
    grant = grant_for(bench.journal.incarnation, ceiling=ceiling)
    bench.orders_path.write_bytes(encode(orders(candidate(UID, "a"), mode=mode, grant=grant)))
    settle(bench)
    bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.readings.worth_a_hurry is worth
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.sampler.state.triggers.watching
    assert bench.readings.worth_a_hurry is False, "it waits for its victim, or nothing may be killed"


def test_a_kill_before_a_restart_has_not_ended_while_figures_cannot_be_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(bench)
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.tree.killed() == {"c0de01"}
    bench.sampler.take_journal(bench.journal)  # as a process does that is started after it
    bench.now += SECOND

    def refused(*_words: object, **_options: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as without_descriptors:
        without_descriptors.setattr(os, "open", refused)
        bench.helper.candidates.refresh(hold=False)
    bench.round(20, BELOW_RESERVE_PAGES)
    assert bench.sampler.state.ladder.kill is not None
    assert [usage.uid for usage in bench.helper.snapshot.usages] == [UID], "what is held stays"


def test_the_wall_clocks_lead_of_this_boot_outlives_the_process(bench: Bench) -> None:
    lead = bench.helper.candidates.unix_minus_clock_ns
    settle(bench)
    bench.unix_ns += 86_400 * SECOND  # set forward while no sentinel ran
    bench.sampler.take_journal(bench.journal)
    assert bench.helper.candidates.unix_minus_clock_ns == lead, "so no pod that is seen now is taken for a day older"
