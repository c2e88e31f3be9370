"""Options of the verbs that cannot be: refused with code 2 and what to write, before anything is built or started."""

from collections.abc import Callable
from pathlib import Path

import pytest

from memorypressure_tools.cluster.__main__ import main as cluster
from memorypressure_tools.flood import bench, demo
from memorypressure_tools.images.__main__ import main as images
from memorypressure_tools.scale.__main__ import main as scale


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        (cluster, ["up", "--memory", "10"], "--memory: '10' is not a whole number from 512 to 65536"),
        (cluster, ["up", "--kernel", "5.4"], "--kernel: invalid choice: '5.4' (choose from '6.1', '6.12')"),
        (cluster, ["up", "--nodes", "3"], "--nodes: invalid choice: 3"),
        (
            cluster,
            ["up", "--kubelet-eviction", "some"],
            "--kubelet-eviction: 'some' is no threshold such as 100Mi or 10%",
        ),
        (cluster, ["up", "--state", "FILE/state"], "--state: FILE/state: FILE is no directory"),
        (demo.main, ["--runs", "0"], "--runs: '0' is not a whole number from"),
        (bench.main, ["--runs", "x"], "--runs: 'x' is not a whole number from"),
        (bench.main, ["--output", "FILE/page.md"], "--output: FILE: FILE is no directory"),
        (bench.main, ["--results", "."], "--results goes with --report-only: new runs are kept in build/runs"),
        (images, ["--output", "FILE"], "--output: FILE: FILE is no directory"),
        (images, ["--builder", "python:3"], "--builder goes with --base"),
        (scale, ["--pods", "-1"], "--pods: '-1' is not a whole number from 1 to 500"),
        (scale, ["--rate", "0"], "--rate: '0' is not a number from 0.1 to 1000"),
        (scale, ["--idle-seconds", "nan"], "--idle-seconds: 'nan' is not a number from 1 to 86400"),
        (scale, ["--output", "FILE"], "--output: FILE: FILE is no directory"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: Callable[[list[str]], int],
    words: list[str],
    message: str,
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as ended:
        verb([word.replace("FILE", str(file)) for word in words])
    assert ended.value.code == 2
    assert message.replace("FILE", str(file)) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_among_the_kept_runs_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.json").write_text("{")
    assert bench.main(["--report-only", "--results", str(tmp_path), "--output", str(tmp_path / "page.md")]) == 1
    assert f"bench-cluster: {tmp_path}: cut.json is no run: JSONDecodeError" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
