"""The soak's plan, and what counts as flat. Pure: the same seed gives the same steps."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

OURS: Final = ("sentinel", "reporter", "operator")
"""Processes whose memory and descriptors are watched."""
RESTARTED_OURS: Final = (*OURS, "agent pod")
RESTARTED_NODE: Final = ("kubelet", "containerd")
WARM_UP_SECONDS: Final = 45.0
"""Of a process, in which it still grows: imports, first streams, first metrics."""
SHORTEST_LIFE_SECONDS: Final = 60.0
"""After the warm-up; a shorter life says nothing."""
MOST_GROWTH_KIB: Final = {"sentinel": 512, "reporter": 2048, "operator": 6144}
"""Of a process's own memory, from the first to the last third of a life: a leak of one report or one event grows by
more within minutes."""
MOST_MORE_DESCRIPTORS: Final = 4
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """A duration such as 90s, 20m or 2h, in seconds; ValueError that says what is understood."""
    found = re.fullmatch(r"(\d+)([smh])", text.strip())
    if found is None or not int(found[1]):
        raise ValueError(f"SOAK={text}: a number of seconds, minutes or hours above 0, for example 240s, 20m or 2h")
    return float(int(found[1]) * _UNITS[found[2]])


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done; what the numbers mean depends on `kind`."""

    kind: str
    target: str = ""
    seconds: int = 0
    mebibytes: int = 0
    frames_per_second: int = 0

    def __str__(self) -> str:
        words = [self.kind, self.target]
        words += [f"{self.mebibytes} MiB"] if self.mebibytes else []
        words += [f"{self.frames_per_second} frames/s"] if self.frames_per_second else []
        words += [f"for {self.seconds} s"] if self.seconds else []
        return " ".join(word for word in words if word)


def steps(seed: int) -> Iterator[Step]:
    """For ever: rounds in which each kind comes once, in random order with random figures.

    Only `flood` may end by a kill: `memory` stays far from the lines, `frames` floods a node whose memory is free.
    """
    chance = random.Random(seed)
    while True:
        ours = chance.choice(RESTARTED_OURS)
        made = [
            Step("calm", seconds=chance.randint(5, 20)),
            Step("memory", seconds=chance.randint(10, 30), mebibytes=chance.randint(40, 160)),
            Step("page cache", mebibytes=chance.randint(50, 320)),
            Step("frames", seconds=chance.randint(5, 12), frames_per_second=chance.randint(5_000, 40_000)),
            Step("flood", seconds=chance.randint(8, 15), frames_per_second=chance.randint(25_000, 35_000)),
            Step("restart", target=chance.choice(RESTARTED_NODE)),
        ]
        chance.shuffle(made)
        # Ours last: so that a process lives for a whole round before it has to go.
        yield from [*made, Step("restart", target=ours)]


class Look(NamedTuple):
    """What a process had at one time: seconds since the soak began, KiB, descriptors.

    Its own memory is anonymous or tmpfs (RssAnon, RssShmem). Pages of files are the page cache's: how many of a
    program's are mapped changes with what the cache holds when one is asked for (mm/filemap.c, filemap_map_pages).
    """

    at: float
    own_kib: int
    file_kib: int
    descriptors: int


@dataclass(slots=True)
class Life:
    """What one process of ours used, from one look to the next."""

    part: str
    pid: int
    looks: list[Look] = field(default_factory=list)

    def judged(self) -> list[Look]:
        """The looks after the warm-up; empty for a life that is too short to say anything."""
        looks = [look for look in self.looks if look.at >= self.looks[0].at + WARM_UP_SECONDS]
        enough = len(looks) >= 6 and looks[-1].at - looks[0].at >= SHORTEST_LIFE_SECONDS
        return looks if enough else []

    def growth(self) -> Look | None:
        """What the last third has more than the first, by medians; None for a short life."""
        looks = self.judged()
        if not looks:
            return None
        third = max(2, len(looks) // 3)
        first, last = (
            [median(values) for values in zip(*part, strict=True)] for part in (looks[:third], looks[-third:])
        )
        at, *grown = (late - early for early, late in zip(first, last, strict=True))
        return Look(at, *map(round, grown))


def add_look(lives: list[Life], part: str, pid: int, look: Look) -> None:
    """Puts what was seen of a process to its life, or begins one."""
    life = next((each for each in lives if (each.part, each.pid) == (part, pid)), None)
    if life is None:
        life = Life(part, pid)
        lives.append(life)
    life.looks.append(look)


def not_flat(lives: Sequence[Life]) -> list[str]:
    """Sentences about lives that grew, and about parts of which no life was long enough to be judged."""
    found = []
    for part in OURS:
        grown = [(life, growth) for life in lives if life.part == part and (growth := life.growth()) is not None]
        if not grown:
            found.append(f"{part}: no life of {WARM_UP_SECONDS + SHORTEST_LIFE_SECONDS:.0f} s was seen")
        for life, more in grown:
            if more.own_kib > MOST_GROWTH_KIB[part]:
                found.append(f"{part} (pid {life.pid}) grew by {more.own_kib} KiB, at most {MOST_GROWTH_KIB[part]}")
            if more.descriptors > MOST_MORE_DESCRIPTORS:
                found.append(f"{part} (pid {life.pid}) has {more.descriptors} more descriptors than at first")
    return found
