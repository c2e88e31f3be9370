"""The arithmetic of `make scale`: fits, windows, the simulated cluster's names, what counts as a missed bar."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from memorypressure_tools.scale import observe, report, shapes
from memorypressure_tools.scale.__main__ import main
from memorypressure_tools.scale.model import fit, growth
from memorypressure_tools.scale.shapes import PodShape
from memorypressure_tools.scale.writers import Agents, Report, heartbeats, pressure


def test_a_straight_line_is_found_with_its_base_and_without_residuals() -> None:
    line = fit([100, 1000, 5000], [71.0, 80.0, 120.0])
    assert line is not None
    assert line.base == pytest.approx(70)
    assert line.slope == pytest.approx(0.01)
    assert line.at(10_000) == pytest.approx(170)
    assert max(map(abs, line.residuals)) < 1e-9


def test_residuals_are_what_was_measured_less_what_the_line_has() -> None:
    line = fit([100, 200, 300], [1.0, 2.0, 4.0])
    assert line is not None
    for size, value, residual in zip((100, 200, 300), (1.0, 2.0, 4.0), line.residuals, strict=True):
        assert residual == pytest.approx(value - line.at(size))
        assert abs(residual) > 0.01


def test_one_size_makes_no_line_and_two_no_growth() -> None:
    assert fit([100], [1.0]) is None
    assert growth([100, 1000], [1.0, 2.0]) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 10.0, 50.0], 1.0), ([1.0, 100.0, 2500.0], 5.45), ([5.0, 5.0, 5.0], None)],
    ids=["linear", "quadratic", "flat"],
)
def test_growth_is_1_for_a_line_and_more_for_what_bends_upwards(values: list[float], expected: float | None) -> None:
    found = growth([100, 1000, 5000], values)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.01))


def sized(nodes: int, rss_mib: float) -> dict[str, Any]:
    return {"plan": {"nodes": nodes}, "idle": {"rss_mib": rss_mib}}


def test_a_cost_of_the_operator_that_grows_worse_than_linearly_is_a_missed_bar() -> None:
    assert report.above([sized(100, 70), sized(1000, 84), sized(5000, 146)]) == []
    problems = report.above([sized(100, 70), sized(1000, 71), sized(5000, 146)])
    assert problems == ["resident memory, idle: grows worse than linearly, it bends by 16.88"]


def test_a_percentile_is_a_measured_value() -> None:
    values = [float(number) for number in range(1, 101)]
    assert observe.percentile(values, 50) == 50
    assert observe.percentile(values, 99) == 99
    assert observe.percentile([3.0, 1.0], 99) == 3
    assert observe.percentile([7.0], 1) == 7


def test_one_bad_second_moves_the_worst_value_and_not_the_median_of_the_windows() -> None:
    rows = [(second + part / 10, 1.0, 900.0 if second == 3 else 10.0) for second in range(10) for part in range(10)]
    found = observe.summary(rows, 2)
    assert found["p99_ms"] == 10
    assert found["worst_ms"] == 900


def test_a_report_counts_from_when_it_was_due_to_the_first_look_at_it_or_a_later_version() -> None:
    reports = [
        Report("a", "Beat", due=10.0, sent=10.2, answered=10.3, version=7),
        Report("b", "Beat", due=11.0, sent=11.0, answered=11.1, version=9),
        Report("c", "Beat", due=12.0, sent=12.0, answered=12.1, version=0, problem="500"),
    ]
    rows, missed = observe.latencies(reports, {"a": [(10.1, 6), (10.5, 8)], "b": [(11.2, 8)]})
    assert [(due, round(answer), round(decision)) for due, answer, decision in rows] == [(10.0, 300, 500)]
    assert missed == 1


def test_the_decision_log_is_read_by_node(tmp_path: Path) -> None:
    log = tmp_path / "decisions"
    log.write_text("1.5\ta\t7\n1.6\tb\t8\n1.7\ta\t9\n")
    assert observe.decisions(log) == {"a": [(1.5, 7), (1.7, 9)], "b": [(1.6, 8)]}


def test_only_whole_lines_of_the_audit_log_are_counted_and_each_once(tmp_path: Path) -> None:
    log = tmp_path / "audit"
    line = json.dumps({"verb": "patch", "objectRef": {"resource": "nodes", "subresource": "status"}})
    log.write_text(f"{line}\n{line}\n{line[:20]}")
    audit = observe.Audit(log)
    assert audit.writes() == {"patch nodes/status": 2}
    log.write_text(f"{line}\n{line}\n{line}\n")
    assert audit.writes() == {"patch nodes/status": 1}
    assert audit.writes() == {}


def test_copies_are_made_on_stored_bytes_so_their_names_have_the_templates_length() -> None:
    pods = [PodShape(node, slot) for node in (0, 7, 4999) for slot in range(22)]
    assert {len(pod.app) for pod in pods} == {len(shapes.APP_TEMPLATE)}
    assert {len(pod.namespace) for pod in pods} == {len(shapes.NAMESPACE_TEMPLATE)}
    assert {len(shapes.node_name(pod.node)) for pod in pods} == {len(shapes.NODE_TEMPLATE)}
    assert len({pod.uid for pod in pods}) == len({(pod.namespace, pod.name) for pod in pods}) == len(pods)


def test_a_workload_has_one_pod_on_each_node_of_its_group() -> None:
    pods = [PodShape(node, slot) for node in range(22, 44) for slot in range(22)]
    mine = [pod for pod in pods if pod.app == PodShape(30, 3).app]
    assert sorted(pod.node for pod in mine) == list(range(22, 44))
    assert len({pod.namespace for pod in mine}) == 1


def test_heartbeats_reach_every_node_before_the_first_has_its_second() -> None:
    for count in (100, 1000, 5000):
        agents = Agents([shapes.node_name(number) for number in range(count)])
        assert len({node for node, _ in itertools.islice(heartbeats(agents), count)}) == count


def test_a_bad_hour_has_nodes_that_come_under_pressure_and_nodes_that_leave_it() -> None:
    agents = Agents([shapes.node_name(number) for number in range(100)])
    kinds = []
    for node, kind in itertools.islice(pressure(agents), 1000):
        agents.body(node, kind)
        kinds.append(kind)
    assert kinds.count("Pressed") >= 50
    assert kinds.count("Cleared") >= 50
    assert 10 <= len(agents.pressed) <= 60


def result(nodes: int, rss: float = 100.0) -> dict[str, Any]:
    return {
        "plan": {"nodes": nodes, "pods_a_node": 22, "mode": "Enforce"},
        "baseline_rss_mib": 61.5,
        "sync": {"seconds": 3.0, "cpu_seconds": 2.0},
        "idle": {"rss_mib": rss, "pss_mib": rss - 10, "writes": {"update leases": 3}},
        "load": {"decision_ms": {"p50_ms": 10.0, "p99_ms": 20.0, "worst_ms": 30.0}, "got_a_second": 50.0},
    }


def test_the_report_shows_each_size_and_says_which_bar_is_missed_and_by_which_value() -> None:
    results = [result(100, 72.0), result(1000, 90.0), result(5000, 161.0)]
    text = report.markdown(results, "make scale", {"CPUs:": 2})
    assert "| resident memory, idle, MiB | 160 | 72 | 90 | 161 |" in text
    assert "- **Missed**: 5,000 nodes: resident memory, idle: 161 MiB, the bar is 160." in text
    assert report.above(results) == ["5,000 nodes: resident memory, idle: 161 MiB, the bar is 160"]
    assert report.above([result(100), result(20_000, 400.0)]) == []


def test_a_write_while_idle_that_is_neither_the_lease_nor_a_grant_is_a_missed_bar() -> None:
    told = result(100)
    told["idle"]["writes"] |= {"patch nodememorystates": 9}
    assert report.above([told]) == []
    told["idle"]["writes"] |= {"patch memorypressurepolicies/status": 1}
    assert report.above([told]) == ["100 nodes: writes while idle, neither Lease nor grants: 1 in all, the bar is 0"]


def test_a_move_that_was_not_through_is_a_missed_bar() -> None:
    moved = result(5000) | {"moves": {"all": {"disabled": {"seconds": 59.0}, "labels away": {"seconds": None}}}}
    assert report.above([moved]) == [
        "5,000 nodes: labels changed, no policy selects them: not through when the measurement gave up"
    ]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    report.plot([result(100), result(1000)], tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("sizes", ["many", "0", "100,", "60000"])
def test_sizes_that_cannot_be_are_refused_with_an_example(
    sizes: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--sizes", sizes, "--output", str(tmp_path)])
    assert end.value.code == 2
    assert f"--sizes {sizes}" in capsys.readouterr().err
