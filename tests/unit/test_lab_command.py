"""`make lab`: what it refuses, what it says, what its short form asks of two runs."""

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.labresults import result

from memorypressure_tools.lab.__main__ import main
from memorypressure_tools.lab.arms import OURS
from memorypressure_tools.lab.series import Cell, Result, Results


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "nobody"], "no arm 'nobody'; there are: none, ours-kill,"),
        (["--scenarios", "flood,drought"], "no scenario 'drought'; there are: flood, flood-zram,"),
        (["--at-most-seconds", "-4"], "'-4' is not a whole number from 1 to 86400"),
        (["--runs", "0"], "'0' is not a whole number from 1 to 1000"),
        (["--short", "--arms", "none"], "it takes no --arms and no --scenarios"),
        (["--kernel", "5.10"], "invalid choice: '5.10' (choose from '6.1', '6.12')"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_report_without_results_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report-only", "--output", str(tmp_path)]) == 2
    assert "nothing to report" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--report-only"], ["--scenarios", "control-flood", "--arms", "none"], ["--short"]])
def test_a_directory_that_cannot_be_written_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "6.1").mkdir()
    (tmp_path / "6.1" / "results.jsonl").mkdir()
    monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda *_: FakeLab(CALM))
    assert main([*words, "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"lab: error: {tmp_path / '6.1' / 'results.jsonl'}: Is a directory\n"


def test_two_at_once_do_not_share_a_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda *_: FakeLab(KILLED, CALM))
    (tmp_path / "6.1").mkdir()
    other = os.open(tmp_path / "6.1", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert main(["--short", "--output", str(tmp_path)]) == 1
    assert f"{tmp_path / '6.1'}: another make lab writes there" in capsys.readouterr().err
    assert main(["--report-only", "--output", str(tmp_path)]) == 2  # reading is nobody's business
    os.close(other)
    assert main(["--short", "--output", str(tmp_path)]) == 0


class FakeLab:
    """Answers each run with the next figures; None: void."""

    def __init__(self, *answers: dict[str, float] | None, agent: str = "abc") -> None:
        self.answers = list(answers)
        self.agent, self.kernel = agent, "6.1.0"
        self.asked: list[str] = []

    def run(self, cell: Cell) -> Result:
        self.asked.append(cell.scenario)
        answer = self.answers.pop(0)
        made = result(cell) if answer is None else result(cell, **answer)
        return replace(made, figures=None if answer is None else made.figures, agent=made.agent and self.agent)


KILLED = {"kills": 1, "kill_to_memory_back_ms": 200.0}
CALM = {"kills": 0}


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([KILLED, CALM], 0, "ok  control: no pod was killed"),
        ([CALM, KILLED, CALM], 0, "the flood of attempt 1 of 3 never made the reserve short"),
        ([CALM, CALM, CALM, CALM], 1, "FAILED  flood: a pod was killed"),
        ([KILLED | {"innocent_kills": 1}, CALM], 1, "FAILED  flood: it was the right one"),
        ([{"kills": 0, "below_reserve_seconds": 0.2}, CALM], 1, "FAILED  flood: a pod was killed"),
        ([KILLED, KILLED], 1, "FAILED  control: no pod was killed"),
        ([KILLED | {"kernel_oom_kills": 1}, CALM], 1, "FAILED  flood: the kernel's OOM killer had nothing to do"),
        ([None, KILLED, CALM], 0, "the flood of attempt 1 of 3 was void"),
        ([None, None, None, CALM], 1, "the flood of attempt 3 of 3 was void"),
        ([KILLED, None, CALM], 0, "the control of attempt 1 of 3 was void"),
        ([KILLED, None, None, None], 1, "the control of attempt 3 of 3 was void"),
    ],
)
def test_the_short_form_fails_unless_the_right_pod_dies_in_the_flood_and_nobody_in_the_control(
    answers: list[dict[str, float] | None],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    lab = FakeLab(*answers)
    monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda *_: lab)
    assert main(["--short", "--output", str(tmp_path)]) == code
    assert lab.asked[-1] == "control-pressure"
    assert said in capsys.readouterr().out


def test_a_series_that_goes_on_with_a_changed_agent_makes_its_runs_again_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--scenarios", "control-flood", "--arms", f"none {OURS}", "--output", str(tmp_path)]
    for agent, asked in (("abc", 2), ("abc", 0), ("abd", 1)):
        lab = FakeLab(*({} for _ in range(asked)), agent=agent)
        monkeypatch.setattr("memorypressure_tools.lab.__main__._Lab", lambda _, lab=lab: lab)
        assert main(words) == 0
        assert len(lab.asked) == asked
    said = capsys.readouterr().out
    assert "1 results are of other definitions, or of another state of the agent or the kernel" in said
    assert f"run 2 of 2, about 1 min left: control-flood / {OURS} #1" in said
    assert main(["--report-only", "--output", str(tmp_path)]) == 0


def test_runs_that_were_made_before_the_recipe_changed_can_be_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = result(Cell("control-flood", "none", 1))
    before = replace(made, recipe=made.recipe.rpartition("-")[0])
    Results(tmp_path / "6.1" / "results.jsonl").add(before)
    assert main(["--report-only", "--output", str(tmp_path)]) == 0
    assert "report of 1 runs" in capsys.readouterr().out
    assert "another definition than today's" in (tmp_path / "6.1" / "README.md").read_text("utf-8")
