"""The reporter as a process: one of whose threads ended does not go on as if it reported."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from memorypressure_agent.reporter.link import Link
from memorypressure_agent.reporter.publisher import Publisher

def fails(self):
    raise RuntimeError("nobody thought of this")

{thread}.run = fails
from memorypressure_agent.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(("thread", "name"), [("Link", "link"), ("Publisher", "publisher")])
def test_a_thread_that_ended_ends_the_process_to_be_started_anew(tmp_path: Path, thread: str, name: str) -> None:
    (tmp_path / "file").write_text("x")
    words = [
        "reporter",
        "--node-name=n",
        f"--orders={tmp_path}/orders.json",
        f"--journal={tmp_path}/journal",
        "--server=https://127.0.0.1:1",
        f"--token-file={tmp_path}/file",
        f"--ca-file={tmp_path}/file",
        "--metrics-port=0",
        "--metrics-address=127.0.0.1",
    ]
    program = PROGRAM.format(thread=thread)
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"thread {name} has ended; so does the reporter, to be started anew" in done.stderr
    assert "RuntimeError: nobody thought of this" in done.stderr, "and why it ended is in the log"
