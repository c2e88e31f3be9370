"""`make demo`: the agent on this machine and a recorded flood, then a cluster with the chart, a flood and a kill.

The first stages need neither root nor a cluster, and are done by the real console script; meanwhile the programs of the
cluster are built where they are missing. Exit code 0 only if every expectation was met, 3 where the machine lacks
something for the cluster's part.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from memorypressure_tools import demo_cluster

REPOSITORY = Path(__file__).resolve().parent.parent
AGENT = Path(sys.executable).with_name("memorypressure-agent")
POLICY = Path("crds/samples/default.yaml")
RECORDINGS = Path("tests/fixtures/captures")
FLOOD = RECORDINGS / "timeline-6.1-1node-flood.csv"
NO_FLOOD = RECORDINGS / "timeline-6.1-1node-noflood.csv"
PICTURE = Path("build/demo/flood.png")
LIVE_SECONDS = 6
STAGE_SECONDS = 120
"""A stage that takes longer than this has failed."""


class ExpectationError(Exception):
    """A stage did not show what it should."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all stages; 0 when each showed what it should."""
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="This machine live, a recorded flood replayed, then a cluster: chart, flood, eviction, kill.",
        epilog="KEEP=1 in the environment keeps the cluster running until Ctrl-C. Exit codes: 0 all was seen as it "
        "should be, 1 something was not, 3 the machine lacks something for the cluster's part.",
    )
    parser.parse_args(arguments)
    started = time.monotonic()
    demo_cluster.start_preparation()
    code = _run_stages()
    _say(f"first form done after {time.monotonic() - started:.0f} s")
    return code or demo_cluster.run()


def _run_stages() -> int:
    try:
        for stage in (live_view, flood, no_flood):
            stage()
    except (ExpectationError, subprocess.SubprocessError, OSError) as error:
        _say(f"FAILED: {error}")
        return 1
    return 0


def live_view() -> None:
    """This machine's zones, triggers and decisions for some seconds."""
    _say(f"1. this machine, live for {LIVE_SECONDS} s: zones and lines, triggers, decisions (DryRun)")
    _agent("run", "--policy", POLICY, "--log-every", "3", "--duration", LIVE_SECONDS)


def flood() -> None:
    """The recorded flood: a kill is decided, and a picture drawn."""
    _say("2. a recording: a VM whose network flood eats the atomic reserve while reclaim keeps succeeding")
    (REPOSITORY / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    _agent("replay", "--policy", POLICY, "--plot", PICTURE, FLOOD)
    kills = _kills_in(FLOOD)
    if not kills:
        raise ExpectationError(f"no Kill was decided over {FLOOD}")
    if not (REPOSITORY / PICTURE).stat().st_size:
        raise ExpectationError(f"{PICTURE} is empty")
    _say(f"   as expected: Kill decided at {kills[0]:.3f} s; the picture: {REPOSITORY / PICTURE}")


def no_flood() -> None:
    """The control without a flood: nothing is decided."""
    _say("3. the control: the same memory pressure without the flood")
    _agent("replay", "--policy", POLICY, NO_FLOOD)
    kills = _kills_in(NO_FLOOD)
    if kills:
        raise ExpectationError(f"a Kill was decided over {NO_FLOOD} at {kills[0]:.3f} s")
    _say("   as expected: no Kill")


def _kills_in(recording: Path) -> list[float]:
    lines = _agent("replay", "--policy", POLICY, "--json", recording, quiet=True).splitlines()
    decisions = [json.loads(line) for line in lines]
    if not decisions:
        raise ExpectationError(f"replay printed no decision over {recording}")
    return [float(decision["t"]) for decision in decisions if decision["action"] == "Kill"]


def _agent(*arguments: object, quiet: bool = False) -> str:
    """Run the console script from the repository, show the command; its output when `quiet`."""
    words = [str(argument) for argument in arguments]
    if not quiet:
        print(f"$ memorypressure-agent {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [AGENT, *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        timeout=STAGE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ExpectationError(f"memorypressure-agent {words[0]} ended with exit code {done.returncode}")
    return done.stdout or ""


def _say(text: str) -> None:
    print(f"\n== {text}" if not text.startswith(" ") else text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
