"""The sentinel's status: what the reporter reads must always fit, whatever the machine is like."""

from pathlib import Path

import pytest
from support.reporting import sentinel_status, trigger, zone

from memorypressure.zone_values import Line
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter.shape import complaint
from memorypressure_agent.sentinel import helper
from memorypressure_agent.sentinel.candidates import Candidates
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.status import with_less_and_less


@pytest.mark.parametrize(
    ("nodes", "text", "left_out"),
    [
        (2, 40, []),
        (150, 40, ["figures", "belowLine"]),
        (400, 40, ["figures", "belowLine", "zones", "topPods"]),
        (2, 20_000, ["figures", "belowLine", "zones", "topPods", "sources", "triggers"]),
    ],
    ids=["two nodes", "150 nodes", "400 nodes", "endless messages"],
)
def test_a_status_that_has_no_room_is_written_with_less_in_it_and_says_what(
    tmp_path: Path, nodes: int, text: int, left_out: list[str]
) -> None:
    whole = sentinel_status(
        zones=[zone(node, name, 1 << 20) for node in range(nodes) for name in ("DMA32", "Normal")],
        belowLine=[
            {"numaNode": node, "zone": "Normal", "line": line.value, "seconds": 0.0, "episodes": int(node < 2)}
            for node in range(nodes)
            for line in Line
        ],
        triggers=[{**trigger(f"trigger{number}"), "message": "x" * text} for number in range(16)],
    )
    journal = Journal(str(tmp_path / "journal"), "1" * 36)
    assert any(journal.write_status(lesser) for lesser in with_less_and_less(whole))
    with JournalReader(journal.path) as reader:
        reader.refresh()
        record = reader.status()
    journal.close()
    assert record is not None
    assert record.values.get("leftOut", []) == left_out
    assert complaint(record.values) == ""
    assert record.values["orders"] == whole["orders"]
    assert [each["status"] for each in record.values["triggers"]] == ["Clear"] * 16


def test_the_status_is_written_every_four_seconds_at_rest_and_once_a_second_while_something_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**12]
    written: list[int] = []
    monkeypatch.setattr(helper, "boot_ns", lambda: now[0])
    candidates = Candidates(PodsTree(str(tmp_path)), "", lambda: now[0])
    made = helper.Helper(candidates, Log(as_json=False), lambda: written.append(now[0]), lambda: "", can_release=False)

    def seconds(count: int) -> int:
        written.clear()
        for _ in range(count * 10):
            now[0] += 100_000_000
            made._turn()
        return len(written)

    made.near(False, watching=False, busy=False, hold=False)
    assert seconds(40) == 10
    made.near(True, watching=True, busy=True, hold=False)
    assert seconds(10) == 10
    made.do_all_now()
    assert seconds(1) >= 1
