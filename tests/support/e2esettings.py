"""NODES, RUNS, SOAK and SEED of a session of end-to-end tests, read before anything is started."""

import argparse
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from support.e2esoak import seconds_of

from memorypressure_tools.arguments import whole_number

DEFAULT_SOAK = "20m"


@dataclass(frozen=True, slots=True)
class Settings:
    """Nodes of the cluster, how often a test that takes `number` is run, the soak's length and its seed."""

    nodes: int
    runs: int
    soak_seconds: float
    seed: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """ValueError that names the variable; one that is empty or not there has its default."""
        seed = str(random.randrange(10**6))
        return cls(
            nodes=_number(environment, "NODES", "1", whole_number(1, 2)),
            runs=_number(environment, "RUNS", "1", whole_number(1, 1000)),
            soak_seconds=seconds_of(environment.get("SOAK") or DEFAULT_SOAK),
            seed=_number(environment, "SEED", seed, whole_number(0, 10**9)),
        )


def _number(environment: Mapping[str, str], name: str, default: str, read: Callable[[str], int]) -> int:
    try:
        return read(environment.get(name) or default)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name}={environment[name]}: {error}") from error
