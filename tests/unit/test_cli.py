"""The console script `memorypressure-agent`, started as users and images start it."""

import subprocess
import sys
from pathlib import Path

import pytest

from memorypressure.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
HEAVY = ("yaml", "matplotlib", "numpy", "urllib3", "prometheus_client", "kubernetes", "kopf", "ssl", "http.client")


def agent(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=False)


def modules_after(code: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter that ran the code."""
    listing = "import sys\ntry:\n " + code + "\nexcept SystemExit: pass\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.rpartition("MODULES ")[2].split())


def test_version_is_the_one_version_number() -> None:
    done = agent("--version")
    assert (done.returncode, done.stdout) == (0, f"memorypressure-agent {VERSION}\n")


def test_help_lists_every_subcommand_and_the_exit_codes() -> None:
    done = agent("--help")
    assert done.returncode == 0
    for word in ("sentinel", "reporter", "run", "record", "replay", "exit codes:", "examples:"):
        assert word in done.stdout


@pytest.mark.parametrize("subcommand", ["run", "record", "replay"])
def test_help_of_a_subcommand_has_examples_and_fits_80_columns(subcommand: str) -> None:
    done = subprocess.run(
        [SCRIPT, subcommand, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0
    assert f"memorypressure-agent {subcommand} " in done.stdout.partition("examples:")[2]
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


BAD_USAGE = {
    "no subcommand": ((), "the following arguments are required: SUBCOMMAND"),
    "an unknown subcommand": (("rnu",), "invalid choice: 'rnu'"),
    "an unknown option": (("replay", "--polcy", "x", "y"), "the following arguments are required: --policy"),
    "an abbreviated option": (("replay", "--pol", "x", "y"), "the following arguments are required: --policy"),
    "a policy is required": (("run",), "the following arguments are required: --policy"),
    "an interval in words": (
        ("run", "--policy", "x", "--interval", "1s"),
        "argument --interval: '1s' is not a number from 0.1 to 3600",
    ),
    "an interval that is not a number": (
        ("run", "--policy", "x", "--interval", "nan"),
        "argument --interval: 'nan' is not a number from 0.1 to 3600",
    ),
    "a page size in KiB": (
        ("replay", "--policy", "x", "--page-size", "4", "y"),
        "argument --page-size: '4' is no page size in bytes: choose from 4096, 8192, 16384, 32768, 65536",
    ),
    "a period of nothing": (
        ("record", "--period-ms", "0"),
        "argument --period-ms: '0' is not a number from 1 to 60000",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_USAGE.values(), ids=BAD_USAGE.keys())
def test_bad_usage_says_what_is_wrong_and_exits_with_2(arguments: tuple[str, ...], message: str) -> None:
    done = agent(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["['--help']", "['--version']"])
def test_help_and_version_import_no_subcommand_and_nothing_heavy(words: str) -> None:
    modules = modules_after(f"from memorypressure_agent.cli import main; main({words})")
    assert not modules & set(HEAVY)
    ours = {name for name in modules if name.startswith("memorypressure_agent.")}
    assert ours == {"memorypressure_agent.cli", "memorypressure_agent.errors"}


@pytest.mark.parametrize(
    ("subcommand", "others"),
    [
        ("record", ("run", "reporter", "sentinel")),
        ("replay", ("run", "reporter", "sentinel", "record")),
        ("run", ("reporter", "replay", "record")),
    ],
)
def test_help_of_a_subcommand_imports_none_of_the_others(subcommand: str, others: tuple[str, ...]) -> None:
    modules = modules_after(f"from memorypressure_agent.cli import main; main(['{subcommand}', '--help'])")
    for other in others:
        assert not {name for name in modules if name.startswith(f"memorypressure_agent.{other}.main")}
    assert not modules & {"matplotlib", "numpy", "urllib3", "prometheus_client"}


FLOOD = "tests/fixtures/captures/timeline-6.1-1node-flood.csv"


@pytest.mark.parametrize(
    "words",
    ["record --seconds 5 --period-ms 1", f"replay --policy crds/samples/default.yaml --json --all {FLOOD}"],
)
def test_a_reader_that_has_seen_enough_is_no_error_message(words: str) -> None:
    done = subprocess.run(
        f"{SCRIPT} {words} | head -c 100 > /dev/null",
        shell=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        "record --seconds 0.1",
        f"replay --policy crds/samples/default.yaml {FLOOD}",
        "run --policy crds/samples/default.yaml --once",
    ],
)
def test_output_that_has_no_room_is_said_in_one_line_and_fails(words: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [SCRIPT, *words.split()],
            cwd=REPOSITORY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    name = words.partition(" ")[0]
    assert done.stderr == f"memorypressure-agent {name}: error: cannot write standard output: No space left on device\n"
    assert done.returncode == 1
