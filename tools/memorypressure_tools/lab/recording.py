"""A run's timeline: as zones that core judges, and as a recording that `memorypressure-agent replay` reads."""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from memorypressure.zone_values import NumaNode, Zone, ZoneInfo
from memorypressure.zones import ZoneInfoError, parse_zoneinfo
from memorypressure_tools.lab.rundata import VoidRunError, columns

PAGE_BYTES: Final = 4096
_FIGURES: Final = ("mem_total", "mem_available", "swap_total", "swap_free")
_ZONE: Final = ("free", "boost", "min", "low", "high", "managed", "protection")
_USES: Final = ("stat_threshold", "cpus", "held", "zspages")
_HEADER: Final = ("t", "node", "zone", *_ZONE, *_USES, *_FIGURES)


@dataclass(frozen=True, slots=True)
class ZoneSample:
    """All zones at one moment of the guest's boot-time clock."""

    at: float
    info: ZoneInfo


def zone_samples(directory: Path) -> list[ZoneSample]:
    """The timeline of a run. Protection, which the sampler leaves out, is that of the idle guest: it is constant."""
    idle = _idle(directory)
    known = {(zone.node, zone.name): zone for zone in idle.zones}
    found = []
    for at, rows in groupby(columns(directory, "timeline.zones.csv"), key=itemgetter("t")):
        zones = tuple(_zone(known, row) for row in rows)
        found.append(ZoneSample(float(at), ZoneInfo(zones, PAGE_BYTES, idle.normal_index)))
    return found


def write_recording(directory: Path, destination: Path) -> None:
    """The run's timeline in the format of `replay`, time counted from its first sample, uncounted zones left out."""
    samples = zone_samples(directory)
    figures = _Figures(columns(directory, "timeline.vmstat.csv"))
    with destination.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        for sample in samples:
            cells = figures.at(sample.at)
            for node in sample.info.counted_nodes:
                for place, counted in enumerate(node.counted):
                    zone = counted.zone
                    held = zone.held_pages if place else _held_by_all_but(node, zone)
                    writer.writerow(
                        (
                            f"{sample.at - samples[0].at:.4f}",
                            zone.node,
                            zone.name,
                            zone.free_pages,
                            zone.boost_pages,
                            zone.min_pages,
                            zone.low_pages,
                            zone.high_pages,
                            zone.managed_pages,
                            counted.protection_pages,
                            zone.stat_threshold_pages,
                            zone.cpus,
                            held,
                            zone.compressed_pages,
                            *cells,
                        )
                    )


def _held_by_all_but(node: NumaNode, first: Zone) -> int:
    """What the row of a node's first counted zone must say is held for the node to have the unclaimed pages it has.

    The uncounted zones are left out, and with 4.8 and later one of them may be the one that tells of all the node.
    """
    others = sum(
        each.zone.managed_pages - each.zone.free_pages - each.zone.held_pages
        for each in node.counted
        if each.zone is not first
    )
    return first.managed_pages - first.free_pages - ((node.unclaimed_pages or 0) - others)


class _Figures:
    """Memory and swap in pages at a moment: the latest row that was read before it."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self._rows: Iterator[dict[str, str]] = iter(rows)
        self._next = next(self._rows, None)
        self._cells: tuple[str, ...] = ("",) * len(_FIGURES)

    def at(self, moment: float) -> tuple[str, ...]:
        """The cells at that moment; moments must not go back."""
        while self._next is not None and float(self._next["t"]) <= moment + 0.005:
            self._cells = tuple(str(int(self._next[f"{name}_kib"]) * 1024 // PAGE_BYTES) for name in _FIGURES)
            self._next = next(self._rows, None)
        return self._cells


def _idle(directory: Path) -> ZoneInfo:
    path = directory / "zoneinfo.txt"
    try:
        return parse_zoneinfo(path.read_bytes(), PAGE_BYTES)
    except OSError as error:
        raise VoidRunError(f"zoneinfo.txt: {error.strerror}") from error
    except ZoneInfoError as error:
        raise VoidRunError(f"zoneinfo.txt: {error}") from error


def _zone(known: dict[tuple[int, str], Zone], row: dict[str, str]) -> Zone:
    key = (int(row["node"]), row["zone"])
    if key not in known:
        raise VoidRunError(f"timeline.zones.csv: zone {key[1]} of node {key[0]} is not in zoneinfo.txt")
    return replace(
        known[key],
        free_pages=int(row["free"]),
        boost_pages=int(row["boost"]),
        min_pages=int(row["min"]),
        low_pages=int(row["low"]),
        high_pages=int(row["high"]),
        managed_pages=int(row["managed"]),
        stat_threshold_pages=int(row["stat_threshold"]),
        cpus=int(row["cpus"]),
        held_pages=int(row["held"]),
        compressed_pages=int(row["zspages"]),
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m memorypressure_tools.lab.recording RUN_DIRECTORY RECORDING.csv")
    try:
        write_recording(Path(sys.argv[1]), Path(sys.argv[2]))
    except (VoidRunError, OSError) as failure:
        sys.exit(f"recording: {failure}")
