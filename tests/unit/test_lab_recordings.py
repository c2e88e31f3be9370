"""Recordings of the flood lab, replayed under the default policy: a flood makes it kill, a control never does.

Each is a run of `make lab`: a flood without a killer (`none`), a control under our agent, (`hog-300`) a flood with
enough memory, in which the reserve was never short, or (`busy`) six seconds of a control on a machine that had little
time for it, up to the kill by the default's `drained` of that day. `control-zram_ours` is six seconds, too: below half
of min for 48 ms, for which the default's line and time without its `takenBy` would kill. In `control-cache_ours` usable
memory was below half of min for 10 ms, and one atomic allocation failed. Read one by hand:

    zcat FILE | memorypressure-agent replay --policy crds/samples/default.yaml -
"""

import gzip
import io
from pathlib import Path

import pytest

from memorypressure.spec_values import Action, Policy
from memorypressure_agent.policy_file import load_policy
from memorypressure_agent.replay.player import play
from memorypressure_agent.replay.report import Replayed
from memorypressure_tools.lab.scenarios import SCENARIOS

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDINGS = sorted((REPOSITORY / "tests" / "fixtures" / "lab").glob("*.csv.gz"))
DEFAULT = load_policy(REPOSITORY / "crds" / "samples" / "default.yaml").policy


class Silent:
    """A report that nobody reads."""

    def decision(self, _decision: object) -> None:
        return


def replayed(path: Path, policy: Policy = DEFAULT) -> Replayed:
    content = gzip.decompress(path.read_bytes())
    return play(policy, path.name, io.BytesIO(content), 0, 4096, Silent())  # type: ignore[arg-type]


def scenario_of(path: Path) -> str:
    return path.name.split("_")[0]


def test_there_are_recordings_of_floods_and_of_every_control() -> None:
    recorded = {scenario_of(path) for path in RECORDINGS}
    assert {name for name, each in SCENARIOS.items() if each.is_control} <= recorded
    assert sum(not SCENARIOS[name].is_control for name in recorded) >= 2


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_the_default_policy_kills_in_a_flood_and_in_no_control(path: Path) -> None:
    kills = replayed(path).decided.get(Action.KILL, [])
    assert bool(kills) is not SCENARIOS[scenario_of(path)].is_control
