"""Triggers over time: the dwell and the clear rule, unknown and changed input, memory and PSI."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, GateShut, MemInfo, Psi, PsiLine, Sample, Unknown
from memorypressure.spec_values import (
    AvailableMemory,
    NodesScope,
    PsiKind,
    PsiScope,
    PsiSettings,
    Trigger,
    TriggerType,
    ZoneWatermark,
)
from memorypressure.steps import cause_of
from memorypressure.triggers import TriggersState, TriggerStatus, advance, initial, watched_lines
from memorypressure.zones import Line, Zone, ZoneInfo

MS = 1_000_000
SECOND = 1000 * MS
ACTIVE, CLEAR, UNKNOWN = TriggerStatus.ACTIVE, TriggerStatus.CLEAR, TriggerStatus.UNKNOWN
PAGE = 4096
GIB = 1 << 30

# min 1000, low 1250, high 1500: reserve 500, the middle of low and high 1375
BELOW, AT_MIN, AT_LOW, AT_MIDDLE, FREE = 400, 900, 1200, 1300, 9000
HEALTHY = MemInfo(16 * GIB, 8 * GIB, 0, 0, 0)
CALM = Psi(PsiLine(0.0, 0.0, 0.0, 0), PsiLine(0.0, 0.0, 0.0, 0))


def zone(node: int, free: int, minimum: int = 1000, managed: int = 1 << 20) -> Zone:
    """A zone Normal with that much free."""
    return Zone(
        node, "Normal", free, 0, True, minimum, minimum * 5 // 4, minimum * 3 // 2, managed, 0, 0, True, (), 24, 2
    )


def nodes(*free: int, minimum: int = 1000, managed: int = 1 << 20) -> ZoneInfo:
    """NUMA nodes with one zone each."""
    return ZoneInfo(tuple(zone(node, pages, minimum, managed) for node, pages in enumerate(free)), PAGE, 0)


def watermark(
    line: Line = Line.ATOMIC_RESERVE,
    scope: NodesScope = NodesScope.ANY_NODE,
    margin: int = 0,
    below: int = 30,
    within: int = 50,
) -> Trigger:
    """A ZoneWatermark trigger, by default the default policy's."""
    return Trigger("zone", TriggerType.ZONE_WATERMARK, ZoneWatermark(line, scope, margin, below, within))


@dataclass
class Run:
    """Feeds samples to triggers and keeps the last state."""

    triggers: tuple[Trigger, ...]
    state: TriggersState = field(init=False)
    now_ns: int = 5 * SECOND

    def __post_init__(self) -> None:
        self.state = initial(self.triggers)

    def see(
        self,
        *free: int,
        after_ms: int = 10,
        times: int = 1,
        zones: ZoneInfo | GateShut | Unknown | Absent | None = None,
        memory: MemInfo | Unknown | Absent | None = HEALTHY,
        psi: Psi | Unknown | Absent | None = CALM,
    ) -> TriggerStatus:
        """One or more samples, each that long after the one before; the first trigger's status then."""
        for _ in range(times):
            self.now_ns += after_ms * MS
            reading = zones if zones is not None else nodes(*free)
            self.state = advance(self.triggers, self.state, Sample(self.now_ns, reading, memory, psi, psi))
        return self.state.triggers[0].status

    @property
    def pressed(self) -> set[int]:
        """The NUMA nodes that make an active trigger true."""
        return set(self.state.pressed_nodes)


def run(**settings: object) -> Run:
    """A run of one ZoneWatermark trigger that has seen one healthy sample of each node count it will see."""
    return Run((watermark(**settings),))  # type: ignore[arg-type]


def test_nothing_is_known_before_the_first_sample() -> None:
    started = run()
    assert started.state.unknown == ("zone",)
    assert started.see(FREE) is CLEAR
    assert started.state.unknown == ()


def test_thirty_milliseconds_below_at_ten_each_make_it_active() -> None:
    observed = run()
    observed.see(FREE)
    assert [observed.see(BELOW) for _ in range(4)] == [CLEAR, CLEAR, CLEAR, ACTIVE]
    assert observed.state.active == observed.state.holding == ("zone",)
    assert observed.pressed == {0}
    assert observed.state.triggers[0].since_ns == observed.now_ns


def test_time_below_lies_between_two_samples_below() -> None:
    observed = run(below=30)
    observed.see(FREE)
    observed.see(BELOW, times=3)
    assert observed.see(FREE) is CLEAR, "the third may have been over at once"
    assert observed.see(BELOW) is CLEAR
    assert observed.see(BELOW) is ACTIVE


def test_dips_that_no_two_samples_in_a_row_see_never_act_however_many() -> None:
    observed = run(below=10, within=400)
    observed.see(FREE)
    for _ in range(50):
        assert observed.see(BELOW, after_ms=60) is CLEAR
        assert observed.see(FREE) is CLEAR


@pytest.mark.parametrize("gap_ms", [1, 10, 50, 100, 250])
def test_one_or_two_samples_never_act_whatever_the_gaps(gap_ms: int) -> None:
    observed = run()
    observed.see(FREE, times=5, after_ms=gap_ms)
    for _ in range(3):
        seen = [observed.see(BELOW, after_ms=gap_ms), observed.see(BELOW, after_ms=gap_ms)]
        seen += [observed.see(FREE, after_ms=gap_ms) for _ in range(4)]
        assert seen == [CLEAR] * 6


def test_three_of_the_last_five_are_enough_and_two_are_not() -> None:
    observed = run(below=10)
    observed.see(FREE)
    assert [observed.see(free) for free in (BELOW, BELOW, FREE, FREE, FREE, BELOW)] == [CLEAR] * 6
    observed = run(below=10)
    observed.see(FREE)
    assert [observed.see(free) for free in (BELOW, BELOW, FREE, FREE, BELOW)] == [CLEAR] * 4 + [ACTIVE]


def test_slow_samples_count_by_the_span_of_the_last_five() -> None:
    observed = run(below=30, within=50)
    observed.see(FREE, after_ms=100)
    assert [observed.see(BELOW, after_ms=100) for _ in range(3)] == [CLEAR, CLEAR, ACTIVE]


def test_a_long_dwell_adds_up_the_time_below_within_its_window() -> None:
    observed = run(line=Line.LOW, below=900, within=1000)
    observed.see(FREE)
    assert observed.see(AT_LOW, times=90) is CLEAR
    assert observed.see(AT_LOW) is ACTIVE
    observed = run(line=Line.LOW, below=900, within=1000)
    for _ in range(20):
        observed.see(AT_LOW, times=17)
        observed.see(FREE, times=3)
    assert observed.state.active == ()


def test_a_gap_of_more_than_250_ms_restarts_the_window() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=3)
    assert [observed.see(BELOW, after_ms=251), observed.see(BELOW), observed.see(BELOW)] == [CLEAR] * 3
    assert observed.see(BELOW) is ACTIVE


@pytest.mark.parametrize("gap_ms", [251, 1000, 60_000])
def test_samples_with_long_gaps_never_add_up(gap_ms: int) -> None:
    observed = run()
    observed.see(FREE)
    assert {observed.see(BELOW, after_ms=gap_ms) for _ in range(50)} == {CLEAR}


def test_a_sample_handed_in_twice_counts_once() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=3)
    before = observed.state
    observed.see(BELOW, after_ms=0, times=10)
    assert observed.state is before


def test_a_clock_that_goes_back_restarts_the_windows() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=3)
    assert observed.see(BELOW, after_ms=-20) is CLEAR
    assert [observed.see(BELOW) for _ in range(3)] == [CLEAR, CLEAR, ACTIVE]


@pytest.mark.parametrize(
    ("line", "below", "not_yet_clear", "clear"),
    [
        (Line.ATOMIC_RESERVE, 400, 1250, 1251),
        (Line.MIN, 900, 1250, 1251),
        (Line.LOW, 1200, 1375, 1376),
        (Line.HIGH, 1400, 1500, 1501),
    ],
)
def test_a_trigger_clears_after_two_seconds_above_its_clear_line(
    line: Line, below: int, not_yet_clear: int, clear: int
) -> None:
    observed = run(line=line)
    observed.see(FREE)
    assert observed.see(below, times=4) is ACTIVE
    assert observed.see(not_yet_clear, after_ms=100, times=50) is ACTIVE
    assert observed.see(clear, after_ms=100, times=20) is ACTIVE
    assert observed.see(clear, after_ms=100) is CLEAR
    assert observed.pressed == set()


def test_one_dip_under_the_clear_line_starts_the_two_seconds_anew() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=4)
    observed.see(FREE, after_ms=100, times=19)
    observed.see(AT_LOW)
    assert observed.see(FREE, after_ms=100, times=20) is ACTIVE
    assert observed.see(FREE, after_ms=100) is CLEAR


def test_a_gap_starts_the_two_seconds_anew() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=4)
    observed.see(FREE, after_ms=100, times=19)
    assert observed.see(FREE, after_ms=5000) is ACTIVE
    assert observed.see(FREE, after_ms=100, times=20) is CLEAR


def test_a_margin_above_low_is_cleared_only_above_itself() -> None:
    observed = run(margin=400)
    observed.see(FREE)
    assert observed.see(2500, times=4) is ACTIVE
    assert observed.see(2500, after_ms=100, times=40) is ACTIVE
    assert observed.see(2501, after_ms=100, times=21) is CLEAR


def test_any_node_does_not_add_up_nodes_that_dip_in_turn() -> None:
    observed = run()
    observed.see(FREE, FREE)
    for _ in range(20):
        assert observed.see(BELOW, FREE) is CLEAR
        assert observed.see(FREE, BELOW) is CLEAR
        assert observed.see(FREE, FREE) is CLEAR


def test_any_node_is_active_by_one_node_and_names_those_that_joined() -> None:
    observed = run()
    observed.see(FREE, FREE)
    assert observed.see(FREE, BELOW, times=4) is ACTIVE
    assert observed.pressed == {1}
    observed.see(BELOW, BELOW, times=4)
    assert observed.pressed == {0, 1}
    assert observed.see(BELOW, FREE, after_ms=100, times=25) is ACTIVE
    assert observed.pressed == {0}
    assert observed.see(FREE, FREE, after_ms=100, times=25) is CLEAR


def test_all_nodes_wants_all_of_them_in_the_same_samples() -> None:
    observed = run(scope=NodesScope.ALL_NODES)
    observed.see(FREE, FREE)
    assert observed.see(BELOW, FREE, times=50) is CLEAR
    assert observed.see(BELOW, BELOW, times=4) is ACTIVE
    assert observed.pressed == {0, 1}


def test_all_nodes_is_over_when_one_of_them_has_been_clear_for_two_seconds() -> None:
    observed = run(scope=NodesScope.ALL_NODES)
    observed.see(FREE, FREE)
    observed.see(BELOW, BELOW, times=4)
    assert observed.see(BELOW, AT_LOW, after_ms=100, times=50) is ACTIVE
    assert observed.state.holding == ()
    assert observed.see(BELOW, FREE, after_ms=100, times=21) is CLEAR


def test_nodes_without_counted_zones_neither_make_nor_hinder_all_nodes() -> None:
    empty = zone(1, 0, managed=0)
    movable = replace(zone(2, FREE), name="Movable")
    observed = run(scope=NodesScope.ALL_NODES)
    pressed = ZoneInfo((zone(0, BELOW), empty, movable), PAGE, 0)
    assert observed.see(zones=pressed, times=5) is ACTIVE
    assert observed.pressed == {0}
    nothing = run(scope=NodesScope.ALL_NODES)
    assert nothing.see(zones=ZoneInfo((movable,), PAGE, 0), times=9) is CLEAR


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(nodes(BELOW, minimum=1001), id="min"),
        pytest.param(nodes(BELOW, managed=(1 << 20) - 1), id="managed"),
        pytest.param(ZoneInfo((replace(zone(0, BELOW), protection=(3,)),), PAGE, 0), id="protection"),
        pytest.param(nodes(BELOW, BELOW), id="another node"),
    ],
)
def test_changed_watermarks_and_sizes_restart_every_window(changed: ZoneInfo) -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=3)
    assert [observed.see(zones=changed) for _ in range(4)] == [CLEAR, CLEAR, CLEAR, ACTIVE]


def test_changed_watermarks_restart_the_two_seconds_and_leave_an_active_trigger_active() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=4)
    observed.see(FREE, after_ms=100, times=19)
    assert observed.see(zones=nodes(FREE, minimum=1001), after_ms=100, times=20) is ACTIVE
    assert observed.see(zones=nodes(FREE, minimum=1001), after_ms=100) is CLEAR


def test_a_moving_boost_restarts_nothing() -> None:
    observed = run()
    observed.see(FREE)
    for boost in (0, 500, 100, 1500):
        boosted = replace(zone(0, BELOW), boost_pages=boost, min_pages=1000 + boost, low_pages=3000, high_pages=4000)
        observed.see(zones=ZoneInfo((boosted,), PAGE, 0))
    assert observed.state.active == ("zone",)


def test_unknown_is_no_pressure_and_ends_the_dwell() -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=3)
    assert observed.see(zones=Unknown("line 7: ...")) is UNKNOWN
    assert observed.state.triggers[0].message == "line 7: ..."
    assert observed.state.active == ()
    assert [observed.see(BELOW) for _ in range(4)] == [CLEAR, CLEAR, CLEAR, ACTIVE]


def test_unknown_samples_in_between_never_let_the_dwell_be_reached() -> None:
    observed = run()
    for _ in range(50):
        assert observed.see(BELOW, times=3) is CLEAR
        assert observed.see(zones=Unknown("torn")) is UNKNOWN


def test_an_active_trigger_whose_source_was_unknown_is_proven_again_or_proven_clear() -> None:
    pressed, relieved = run(), run()
    for observed in (pressed, relieved):
        observed.see(FREE)
        assert observed.see(BELOW, times=4) is ACTIVE
        assert observed.see(zones=Unknown("gone"), times=300) is UNKNOWN
        assert observed.see(zones=Absent(Reason.NOT_PRESENT, "not there")) is UNKNOWN
    assert [pressed.see(BELOW) for _ in range(4)] == [UNKNOWN, UNKNOWN, UNKNOWN, ACTIVE]
    assert relieved.see(FREE, after_ms=100, times=20) is UNKNOWN
    assert relieved.see(FREE, after_ms=100) is CLEAR


def test_a_shut_gate_is_a_sample_that_is_not_below() -> None:
    observed = run()
    shut = GateShut(nodes(BELOW), ((0, FREE),), clear_lines=False)
    observed.see(FREE)
    observed.see(BELOW, times=2)
    observed.see(zones=shut, times=2)
    assert observed.see(BELOW, times=3) is CLEAR
    assert observed.see(BELOW) is ACTIVE


@pytest.mark.parametrize(("clear_lines", "status"), [(True, CLEAR), (False, ACTIVE)])
def test_a_shut_gate_clears_only_if_it_was_made_for_the_clear_lines(clear_lines: bool, status: TriggerStatus) -> None:
    observed = run()
    observed.see(FREE)
    observed.see(BELOW, times=4)
    shut = GateShut(nodes(BELOW), ((0, FREE),), clear_lines=clear_lines)
    assert observed.see(zones=shut, after_ms=100, times=40) is status


def memory_trigger(swap_free: int | None = 10, at_most: int | None = None, at_least: int | None = None) -> Trigger:
    """MemAvailable under 5 %."""
    settings = AvailableMemory(5, at_most, swap_free, at_least)
    return Trigger("scarce", TriggerType.AVAILABLE_MEMORY, available_memory=settings)


def memory(available_mib: int, swap_total_mib: int = 0, swap_free_mib: int = 0, huge_mib: int = 0) -> MemInfo:
    """10000 MiB of memory."""
    return MemInfo(10_000 << 20, available_mib << 20, swap_total_mib << 20, swap_free_mib << 20, huge_mib << 20)


@pytest.mark.parametrize(
    ("trigger", "reading", "scarce"),
    [
        (memory_trigger(), memory(499), True),
        (memory_trigger(), memory(500), False),
        (memory_trigger(), memory(499, 1000, 99), True),
        (memory_trigger(), memory(499, 1000, 100), False),
        (memory_trigger(), memory(501, 1000, 0), False),
        (memory_trigger(None), memory(499, 1000, 1000), True),
        (memory_trigger(), memory(260, huge_mib=5000), False),
        (memory_trigger(), memory(240, huge_mib=5000), True),
        (memory_trigger(at_most=100 << 20), memory(99), True),
        (memory_trigger(at_most=100 << 20), memory(100), False),
        (memory_trigger(at_least=700 << 20), memory(699), True),
        (memory_trigger(at_least=700 << 20), memory(700), False),
        (memory_trigger(at_least=400 << 20), memory(499), True),
        (memory_trigger(at_least=400 << 20), memory(500), False),
        (memory_trigger(at_least=5000 << 20), memory(999), True),
        (memory_trigger(at_least=5000 << 20), memory(1000), False),
        (memory_trigger(at_least=5000 << 20), memory(499, huge_mib=5000), True),
        (memory_trigger(at_least=5000 << 20), memory(500, huge_mib=5000), False),
        (memory_trigger(at_most=100 << 20, at_least=700 << 20), memory(100), False),
    ],
)
def test_memory_is_scarce_under_a_share_of_what_is_no_huge_page_within_its_bounds_and_with_swap_also_used(
    trigger: Trigger, reading: MemInfo, scarce: bool
) -> None:
    observed = Run((trigger,))
    statuses = [observed.see(FREE, memory=reading) for _ in range(3)]
    assert statuses == [CLEAR, CLEAR, ACTIVE if scarce else CLEAR]
    assert observed.pressed == set()


def test_scarce_memory_clears_a_tenth_above_for_two_seconds_at_any_pace_down_to_one_a_second() -> None:
    observed = Run((memory_trigger(),))
    assert observed.see(FREE, memory=memory(400), after_ms=1000, times=3) is ACTIVE
    assert observed.see(FREE, memory=memory(549), after_ms=1000, times=9) is ACTIVE
    assert observed.see(FREE, memory=memory(550), after_ms=1000, times=2) is ACTIVE
    assert observed.see(FREE, memory=memory(550), after_ms=1000) is CLEAR


def test_memory_that_was_not_read_changes_nothing_for_three_seconds_and_is_unknown_then() -> None:
    observed = Run((memory_trigger(),))
    observed.see(FREE, memory=memory(400), times=2)
    assert observed.see(FREE, memory=None, after_ms=100, times=29) is CLEAR
    assert observed.see(FREE, memory=memory(400)) is ACTIVE
    assert observed.see(FREE, memory=None, after_ms=100, times=30) is ACTIVE
    assert observed.see(FREE, memory=None) is UNKNOWN
    assert observed.see(FREE, memory=Unknown("meminfo line 3")) is UNKNOWN


@pytest.mark.parametrize(
    ("scope", "kind", "window", "line", "active"),
    [
        (PsiScope.NODE, PsiKind.FULL, 10, PsiLine(20.0, 0.0, 0.0, 1), True),
        (PsiScope.NODE, PsiKind.FULL, 10, PsiLine(19.99, 99.0, 99.0, 1), False),
        (PsiScope.PODS, PsiKind.FULL, 60, PsiLine(0.0, 20.0, 0.0, 1), True),
        (PsiScope.PODS, PsiKind.FULL, 300, PsiLine(0.0, 0.0, 20.0, 1), True),
        (PsiScope.NODE, PsiKind.SOME, 10, PsiLine(99.0, 0.0, 0.0, 1), False),
    ],
)
def test_psi_compares_the_average_it_was_asked_for(
    scope: PsiScope, kind: PsiKind, window: int, line: PsiLine, active: bool
) -> None:
    trigger = Trigger("stalled", TriggerType.PSI, psi=PsiSettings(scope, kind, window, 20))
    observed = Run((trigger,))
    assert observed.see(FREE, psi=Psi(CALM.some, line), times=3) is (ACTIVE if active else CLEAR)


def test_psi_that_this_kernel_does_not_print_is_unknown() -> None:
    observed = Run((Trigger("stalled", TriggerType.PSI, psi=PsiSettings(PsiScope.NODE, PsiKind.FULL, 10, 20)),))
    assert observed.see(FREE, psi=Psi(CALM.some, None), times=5) is UNKNOWN
    assert observed.see(FREE, psi=Absent(Reason.NOT_PRESENT, "no /proc/pressure"), times=5) is UNKNOWN
    assert observed.state.triggers[0].message == "no /proc/pressure"


def test_every_trigger_has_its_own_source_and_an_unknown_one_leaves_the_others_alone() -> None:
    observed = Run((watermark(), memory_trigger()))
    observed.see(FREE, memory=memory(400), zones=Unknown("torn"), times=5)
    assert (observed.state.active, observed.state.unknown) == (("scarce",), ("zone",))
    assert observed.state.of("scarce").status is ACTIVE
    with pytest.raises(KeyError):
        observed.state.of("zones")


def test_sampling_must_stay_fast_while_something_is_open() -> None:
    observed = run()
    assert not observed.state.watching
    observed.see(FREE)
    assert not observed.state.watching
    observed.see(BELOW)
    assert (observed.state.watching, observed.state.below_low) == (True, True)
    observed.see(FREE, times=6)
    assert (observed.state.watching, observed.state.below_low) == (False, False)
    observed.see(BELOW, times=4)
    observed.see(FREE, after_ms=100, times=20)
    assert observed.state.watching
    observed.see(FREE, after_ms=100)
    assert not observed.state.watching


def test_messages_carry_the_figures() -> None:
    observed = run(margin=10)
    observed.see(FREE, FREE)
    observed.see(FREE, BELOW, times=4)
    assert observed.state.triggers[0].message == (
        "in 4 of the last 5 samples, 30 ms in all; at this one: "
        "NUMA node 1 below AtomicReserve with a margin of 10 %: "
        "Normal usable 400 pages (1.6 MiB), line 550 pages (2.1 MiB), min 1000 pages (3.9 MiB), uncertain by 48 pages; "
        "NUMA node 0 above AtomicReserve with a margin of 10 %: "
        "Normal usable 9000 pages (35.2 MiB), line 550 pages (2.1 MiB), min 1000 pages (3.9 MiB), uncertain by 48 pages"
    )
    scarce = Run((memory_trigger(),))
    scarce.see(FREE, memory=memory(400, 1000, 50), times=3)
    assert scarce.state.triggers[0].message == (
        "in 3 of the last 5 samples, 20 ms in all; at this one: "
        "MemAvailable 400 MiB, threshold 500 MiB; SwapFree 50 MiB, 5.0 % of swap, threshold 10 %"
    )


@pytest.mark.parametrize(
    ("trigger", "reason"),
    [
        (watermark(), Reason.ATOMIC_RESERVE_BREACHED),
        (watermark(Line.MIN), Reason.MIN_BREACHED),
        (watermark(Line.LOW), Reason.LOW_BREACHED),
        (watermark(Line.HIGH), Reason.HIGH_BREACHED),
        (memory_trigger(), Reason.AVAILABLE_MEMORY_LOW),
        (Trigger("p", TriggerType.PSI, psi=PsiSettings(PsiScope.NODE, PsiKind.FULL, 10, 20)), Reason.PSI_HIGH),
    ],
)
def test_a_breach_is_named_by_type_and_line(trigger: Trigger, reason: Reason) -> None:
    assert cause_of(trigger) is reason


def test_the_watched_lines_are_those_of_zone_triggers_each_once() -> None:
    triggers = (watermark(), watermark(Line.LOW, margin=5), memory_trigger(), watermark(scope=NodesScope.ALL_NODES))
    assert watched_lines(triggers) == ((Line.ATOMIC_RESERVE, 0), (Line.LOW, 5))


@dataclass
class Oracle:
    """The dwell and the clear rule of one node by their definition, over everything seen since the last restart."""

    below_ns: int
    within_ns: int
    seen: list[tuple[int, bool, bool]] = field(default_factory=list)
    active: bool = False

    def see(self, now: int, *, below: bool, above: bool) -> bool:
        """Whether the trigger is active after this sample."""
        if self.seen and now - self.seen[-1][0] > 250 * MS:
            self.seen.clear()
        self.seen.append((now, below, above))
        last = self.seen[-5:]
        start = min(now - self.within_ns, last[0][0])
        time_below = sum(
            max(0, end - max(begin, start))
            for (begin, held, _), (end, holds, _) in zip(self.seen, self.seen[1:], strict=False)
            if held and holds
        )
        if sum(held for _, held, _ in last) >= 3 and time_below >= self.below_ns:
            self.active = True
        elif self.active:
            since = None
            for time, _, clear in reversed(self.seen):
                if not clear:
                    break
                since = time
            self.active = since is None or now - since < 2 * SECOND
        return self.active


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 30), st.sampled_from([100, 200, 250, 251, 900])),
            st.sampled_from([BELOW, BELOW, AT_MIN, AT_LOW, FREE, FREE]),
            st.integers(1, 12),
        ),
        max_size=40,
    ),
    st.integers(0, 400),
    st.integers(0, 600),
)
def test_the_windows_say_what_their_definition_says(
    stretches: list[tuple[int, int, int]], below_ms: int, within_ms: int
) -> None:
    observed = run(below=below_ms, within=within_ms)
    oracle = Oracle(below_ms * MS, within_ms * MS)
    for gap_ms, free, times in stretches:
        for _ in range(times):
            status = observed.see(free, after_ms=gap_ms)
            expected = oracle.see(observed.now_ns, below=free <= 500, above=free > 1250)
            assert (status is ACTIVE) == expected
            for _, window in observed.state.triggers[0].windows:
                assert window.held_ns == sum(end - start for start, end in window.stretches)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from([BELOW, FREE, None]), st.sampled_from([400, 9000, None])),
        max_size=60,
    )
)
def test_no_trigger_is_ever_active_on_fewer_than_three_samples_below_since_the_last_unknown(
    samples: list[tuple[int, int | None, int | None]],
) -> None:
    observed = Run((watermark(below=0, within=10), memory_trigger()))
    below = scarce = 0
    for gap_ms, free, available in samples:
        if not gap_ms:
            continue
        below = 0 if free is None else below + (free == BELOW)
        scarce = 0 if available is None else scarce + (available == 400)
        observed.see(
            zones=Unknown("torn") if free is None else nodes(free),
            memory=Unknown("torn") if available is None else memory(available),
            after_ms=gap_ms,
        )
        if below < 3:
            assert "zone" not in observed.state.active
        if scarce < 3:
            assert "scarce" not in observed.state.active


def test_memory_of_a_window_is_bounded_by_its_changes_not_by_its_samples() -> None:
    observed = run(line=Line.LOW, below=60_000, within=60_000)
    observed.see(FREE)
    observed.see(AT_LOW, times=5000)
    ((_, window),) = observed.state.triggers[0].windows
    assert len(window.stretches) == 1
