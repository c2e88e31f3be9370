"""The parsers under coverage-guided fuzzing: a bounded run each time, long ones in `make soak` and `make fuzz`."""

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import FIXTURES, TARGETS

from memorypressure_tools.arguments import whole_number

TESTS = Path(__file__).resolve().parents[1]
RUNS = 10_000


def minutes(text: str) -> int:
    """What FUZZ_MINUTES says; ValueError with its name."""
    try:
        return whole_number(1, 10_000)(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"FUZZ_MINUTES={text}: {error}") from None


LONG_SECONDS = 60 * minutes(os.environ.get("FUZZ_MINUTES") or "10")
"""For each parser."""
FOUND = 77
GUIDED = importlib.util.find_spec("atheris") is not None
GUIDABLE = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 15)
"""Where requirements/dev.txt has atheris."""
FORMER = sorted((FIXTURES / "fuzz").glob("*/*"))


def engine(*words: str, program: str = "from fuzz.engine import main; sys.exit(main())") -> tuple[int, str]:
    """Exit code and output of a run in a process of its own: libFuzzer ends the one that it runs in."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'tools'}"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}", *words],
        env=environment,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LONG_SECONDS + 120,
        check=False,
    )
    return done.returncode, done.stdout[-6000:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "ordres"], "--target ordres: there is no such target; there are: "),
        (["--target", "ordres", "--replay", __file__], "--target ordres: there is no such target; there are: "),
        (["--seconds", "-1"], "--seconds: '-1' is not a whole number from 0"),
    ],
)
def test_a_wrong_option_ends_with_2_and_says_what_there_is(words: list[str], message: str) -> None:
    code, output = engine(*words)
    assert code == 2
    assert message in output


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_understood_or_refused_as_documented(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for seed in seeds:
        TARGETS[name].check(seed)


@pytest.mark.parametrize("file", FORMER, ids=lambda file: f"{file.parent.name}: {file.name}")
def test_what_was_found_once_stays_mended(file: Path) -> None:
    TARGETS[file.parent.name].check(file.read_bytes())


def test_fuzzing_is_guided_by_coverage_wherever_its_engine_can_be_installed() -> None:
    assert GUIDED or not GUIDABLE, "atheris is locked in requirements/dev.txt for this machine: run make setup"


def test_a_bounded_run_over_all_parsers_finds_nothing(tmp_path: Path) -> None:
    code, output = engine(f"--runs={RUNS}", "--seed=1", f"--findings={tmp_path}")
    assert code == 0, output
    if GUIDED:
        assert f"stat::number_of_executed_units: {RUNS}" in output
        assert len(list((tmp_path / "corpus-all").iterdir())) > 150, "inputs that reached new code were kept"


@pytest.mark.parametrize(
    ("target", "damage"),
    [
        ("psi", "targets.parse_psi = lambda text: real(text.replace(b'1.53', b'1.54'))"),
        ("meminfo", "targets.parse_psi = real; targets.SourceError = KeyError"),
    ],
    ids=["a wrong value", "an error of another kind"],
)
def test_a_broken_parser_is_found(tmp_path: Path, target: str, damage: str) -> None:
    start = "import fuzz.engine; sys.exit(fuzz.engine.main())"
    program = f"from fuzz import kernel_files as targets; real = targets.parse_psi; {damage}; {start}"
    code, output = engine(f"--target={target}", "--runs=3000", "--seed=1", f"--findings={tmp_path}", program=program)
    assert code == FOUND, output
    (crash,) = tmp_path.glob("crash-*")
    code, output = engine(f"--target={target}", f"--replay={crash}", program=program)
    assert code == 1
    assert target in output


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_a_long_run_of_each_parser_finds_nothing(name: str) -> None:
    build = TESTS.parent / "build" / "fuzz"
    code, output = engine(f"--target={name}", f"--seconds={LONG_SECONDS}", f"--findings={build}")
    assert code == 0, output
    assert GUIDED, "without atheris the long run is a blind one: run it on Linux, x86_64"
