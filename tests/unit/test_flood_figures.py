"""The page of a cluster's benchmark, from documents of runs."""

from typing import Any

import pytest

from memorypressure_tools.flood.figures import WITH, WITHOUT, cell, page


def _run(name: str, *, stall: float, failures: int, valid: bool = True, back: float | None = None) -> dict[str, Any]:
    return {
        "began": f"2026-11-25T20:00:0{failures % 10}Z",
        "scenario": {
            "name": name,
            "hog_mib": 600,
            "frames_per_second": 30000,
            "payload_bytes": 400,
            "flood_seconds": 15,
        },
        "machine": {"cpus": 2, "load_1_minute": 1.0},
        "node": {
            "memory_mib": 768,
            "cpus": 2,
            "kernel": "6.1",
            "swap_mib": 1024,
            "swap_bytes_per_second": 5_000_000,
        },
        "verdict": {"valid": valid, "outcome": "Killed" if valid else "ConditionNotReached", "why": "because"},
        "worst_stall_seconds": stall,
        "atomic_failures": failures,
        "kernel_oom_kills": 0,
        "reserve": {"below_half": 10, "below_min": 20, "lowest_percent_of_min": 30.0},
        "line_crossed_at": 0.5 if back else None,
        "condition_at": 0.54 if back else None,
        "decided_at": 0.55 if back else None,
        "killed_at": 0.6 if back else None,
        "half_back_seconds": back,
        "deaths": [],
        "changes": [{"at": 1.0, "what": "taint", "now": "memorypressure.dev/pressure:NoSchedule"}] if back else [],
    }


RUNS = [
    _run(WITHOUT, stall=4.0, failures=1000),
    _run(WITHOUT, stall=99.0, failures=9, valid=False),
    _run(WITH, stall=0.8, failures=300, back=0.4),
]


def test_medians_of_valid_runs_are_held_against_the_bars() -> None:
    text = page(RUNS, "make bench-cluster")
    assert "| worst stall of a bystander, s | 4 (4 to 4) | 0.8 (0.8 to 0.8) | 0.20 | at most 0.25: holds |" in text
    assert "| 1000 (1000 to 1000) | 300 (300 to 300) | 0.30 | at most 0.25: MISSED |" in text
    assert "| from that write to half of the memory back | 0.4 (0.4 to 0.4) | at most 1 s: holds |" in text
    assert "| from the decision to the write of `cgroup.kill` | 0.05 (0.05 to 0.05) | |" in text
    assert "| node tainted | 1 (1 to 1) |" in text
    assert "| taint lifted | not seen |" in text


def test_a_void_run_is_shown_and_not_counted() -> None:
    text = page(RUNS, "make bench-cluster")
    assert f"| {WITHOUT} | ConditionNotReached (void) | because |" in text
    assert "99" not in text


def test_runs_of_one_kind_alone_make_no_page() -> None:
    with pytest.raises(ValueError, match="1 valid runs without a policy and 0 with one"):
        page(RUNS[:2], "make bench-cluster")


def test_a_cell_says_how_many_runs_had_no_figure() -> None:
    assert cell([1.0, None, 3.0]) == "2 (1 to 3; 1 without)"
    assert cell([None]) == "not seen"
