"""Views of made-up machines: width, words, and the figures in them."""

import io
import itertools

from hypothesis import given
from hypothesis import strategies as st

from memorypressure import engine
from memorypressure.engine import Inputs
from memorypressure.grants import Refusal
from memorypressure.reasons import Reason
from memorypressure.sampling import Drains, observe
from memorypressure.signals import Absent, MemInfo, Sample, Unknown
from memorypressure.spec import parse_policy
from memorypressure.triggers import watched_lines
from memorypressure.zone_values import Line, Zone, ZoneInfo
from memorypressure_agent.run.figures import node_figures
from memorypressure_agent.run.screen import Log
from memorypressure_agent.run.view import CandidateRow, View, view_json, view_lines
from memorypressure_agent.text import duration_text, size_text

ABSENT = Absent(Reason.NO_SWAP, "there is none")
POLICY = parse_policy(
    {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {"name": "a-name-as-long-as-a-label-may-be-and-no-longer-than-that-is-o"},
        "spec": {
            "nodeSelector": {},
            "triggers": [
                {"name": "reserve", "type": "ZoneWatermark", "zoneWatermark": {"line": "AtomicReserve"}},
                {"name": "scarce", "type": "AvailableMemory", "availableMemory": {"percent": 5}},
            ],
            "ladder": [{"action": "Kill", "triggers": ["reserve"], "afterSeconds": 0}],
        },
    }
)
RULES = engine.rules_from_policy(POLICY, 4096)


def view_of(zones: ZoneInfo | Unknown, drains: Drains, **more: object) -> View:
    taken = Sample(10**9, zones, MemInfo(1 << 33, 1 << 32, 0, 0, 0), ABSENT, ABSENT)
    result = engine.step(RULES, engine.start(RULES), Inputs(10**9, taken, Refusal(Reason.NO_GRANT, "none")))
    figures = node_figures(zones, watched_lines(RULES.triggers), drains, 10**9) if isinstance(zones, ZoneInfo) else ()
    fields = {
        "unix_seconds": 1_800_000_000.0,
        "policy_name": RULES.policy_name,
        "mode": RULES.mode,
        "page_bytes": 4096,
        "period_ns": 10_000_000,
        "sample": taken,
        "triggers": RULES.triggers,
        "state": result.state.triggers,
        "nodes": figures,
        "decision": result.decision,
        "recent": (),
        "candidates": (),
        "candidates_note": "",
    } | more
    return View(**fields)  # type: ignore[arg-type]


def zones_of(*free: int) -> ZoneInfo:
    return ZoneInfo(
        tuple(Zone(n, "Normal", f, 0, True, 10_000, 12_500, 15_000, 1 << 20) for n, f in enumerate(free)), 4096, 0
    )


pages = st.integers(min_value=0, max_value=1 << 52)


@given(st.lists(st.tuples(pages, pages, pages, pages), min_size=1, max_size=8), st.text(max_size=300))
def test_no_line_is_wider_than_80_columns_whatever_the_figures(figures: list[tuple[int, ...]], words: str) -> None:
    zones = tuple(
        Zone(
            node,
            "Normal",
            free,
            0,
            True,
            low,
            low,
            low,
            managed,
            protection=(protection,),
            cpus=9,
            stat_threshold_pages=125,
        )
        for node, (free, low, managed, protection) in enumerate(figures)
    )
    row = CandidateRow(words, 1, 1 << 60, 1, "NoFigures", words)
    lines = view_lines(
        view_of(ZoneInfo(zones, 4096, 0), Drains(), candidates=(row,), candidates_note=words, recent=(words,))
    )
    assert [line for line in lines if len(line) > 80] == []


def test_headroom_and_time_to_the_line_come_from_the_drain_seen() -> None:
    drains = observe(observe(Drains(), zones_of(25_000), 0), zones_of(15_000), 10**9)
    view = view_of(zones_of(15_000), drains)
    (node,) = view.nodes
    assert (node.line, node.headroom_pages, node.drain_pages_per_second) == (Line.ATOMIC_RESERVE, 10_000, 10_000)
    assert "NUMA node 0: BELOW High; 39.1 MiB to AtomicReserve, 1.00 s at the drain seen (39.1 MiB/s)" in "\n".join(
        view_lines(view)
    ).replace("\n                         ", " ")
    shown = view_json(view)["nodes"][0]
    assert (shown["headroomPages"], shown["drainPagesPerSecond"], shown["secondsToLine"]) == (10_000, 10_000, 1.0)


def test_zones_that_are_not_understood_are_told_as_unknown() -> None:
    view = view_of(Unknown("zoneinfo: line 3: 'x': expected a number"), Drains())
    assert "zones      unknown: zoneinfo: line 3: 'x': expected a number" in view_lines(view)
    assert view_json(view)["nodes"] == {"unknown": {"message": "zoneinfo: line 3: 'x': expected a number"}}


def test_a_log_repeats_itself_only_after_its_time() -> None:
    file = io.StringIO()
    log = Log(file, every_seconds=60)
    clear, low = view_of(zones_of(99_000), Drains()), view_of(zones_of(11_000), Drains())
    shown = []
    for seconds, view in zip(itertools.count(0, 20), (clear, clear, low, low, low, low, low), strict=False):
        before = file.tell()
        log.show(view_at(view, seconds))
        shown.append(file.tell() > before)
    assert shown == [True, False, True, False, False, True, False]


def view_at(view: View, seconds: int) -> View:
    return View(**{name: getattr(view, name) for name in View.__slots__} | {"unix_seconds": 1_800_000_000.0 + seconds})


def test_sizes_fit_eight_characters_and_durations_two_units() -> None:
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 KiB", 4096: "4.0 KiB", 1 << 20: "1.0 MiB", -4096: "-4.0 KiB"}
    assert {size: size_text(size) for size in sizes} == sizes
    assert all(len(size_text(1 << shift)) <= 8 for shift in range(60))
    times = {0.5: "0.50 s", 42: "42 s", 450: "7 min 30 s", 11_520: "3 h 12 min", 10**6: "over a day"}
    assert {seconds: duration_text(seconds) for seconds in times} == times
