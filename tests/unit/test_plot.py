"""The picture of a replay."""

import subprocess
import sys
from pathlib import Path

import pytest

from memorypressure_agent.replay.plot import _runs, _thinned

SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
REPOSITORY = Path(__file__).resolve().parent.parent.parent
FLOOD = REPOSITORY / "tests/fixtures/captures/timeline-6.1-1node-flood.csv"
MAIL = REPOSITORY / "tests/fixtures/timelines/mail-2020-two-nodes.csv"
DEFAULT = REPOSITORY / "crds/samples/default.yaml"


def plot(target: Path, recording: Path) -> "subprocess.CompletedProcess[str]":
    arguments = [SCRIPT, "replay", "--policy", DEFAULT, "--json", "--plot", target, recording]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


def test_a_png_shows_zones_zoom_and_triggers(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    done = plot(tmp_path / "p.png", FLOOD)
    assert done.returncode == 0, done.stderr
    assert f"picture written to {tmp_path}/p.png" in done.stderr
    with image.open(tmp_path / "p.png") as picture:
        width, height = picture.size
        colors = {color for _, color in picture.convert("RGB").getcolors(maxcolors=1 << 20)}
    assert (width, height > 800) == (1320, True)
    assert {(0x1F, 0x3B, 0x73), (0xD6, 0x27, 0x28), (0xFF, 0x99, 0x00)} <= colors, "usable, AtomicReserve, Min"


def test_an_svg_names_what_it_shows(tmp_path: Path) -> None:
    done = plot(tmp_path / "p.svg", MAIL)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "p.svg").read_text()
    for words in (
        "NUMA node 0, zone Normal",
        "NUMA node 1, zone Normal",
        "AtomicReserve",
        "Kill (AtomicReserveBreached)",
    ):
        assert f"<!-- {words} -->" in text or f"<!--  {words} -->" in text, words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("p.jpg", "p.jpg: write a name that ends in .png, .svg or .pdf"),
        ("nowhere/p.png", "nowhere/p.png: its directory is not there"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_replay(tmp_path: Path, name: str, message: str) -> None:
    done = plot(tmp_path / name, FLOOD)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_without_matplotlib_it_is_said_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('made unavailable')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from memorypressure_agent.cli import main; "
        f"sys.exit(main(['replay', '--policy', {str(DEFAULT)!r}, '--plot', '{tmp_path}/p.png', {str(FLOOD)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "--plot needs matplotlib (made unavailable); install the extra: pip install" in done.stderr


def test_without_a_plot_matplotlib_is_not_imported() -> None:
    code = (
        "import sys; from memorypressure_agent.cli import main; "
        f"main(['replay', '--policy', {str(DEFAULT)!r}, '--json', {str(MAIL)!r}]); "
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def test_thinning_keeps_the_depth_of_every_dip() -> None:
    values = [1000] * 100_000
    values[54_321] = 3
    kept = _thinned(values)
    assert len(kept) < 20_000
    assert 54_321 in kept


def test_runs_cover_the_time_without_gaps() -> None:
    assert _runs([0, 0, 1, 1, 2], [0.0, 1.0, 2.0, 3.0, 4.0]) == [(0, 0.0, 2.0), (1, 2.0, 4.0), (2, 4.0, 4.0)]
