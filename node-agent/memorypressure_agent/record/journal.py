"""A sentinel's flight recorder -> a recording: all of it, the last seconds, or one episode that was kept.

Read while the sentinel writes, or from a copy of its journal on another machine; nothing of the journal is changed.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from memorypressure.records import rfc3339
from memorypressure.signals import Sample
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.host.flight_reader import FlightSample, episodes, rings
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.record.rows import HEADER, gate_rows, sample_rows
from memorypressure_agent.text import duration_text


@dataclass(frozen=True, slots=True)
class Flight:
    """What a journal's flight recorder holds. `unix_minus_boot_ns` turns its times into those for people."""

    samples: list[FlightSample]
    episodes: dict[int, list[FlightSample]]
    unix_minus_boot_ns: int | None

    def when(self, time_ns: int) -> str:
        """A time for people, in UTC; of the journal's own clock where the journal has no status yet."""
        if self.unix_minus_boot_ns is None:
            return f"{time_ns / 1e9:.3f} s after boot"
        return rfc3339(time_ns + self.unix_minus_boot_ns)


def read_flight(path: str) -> Flight:
    """The flight recorder of a journal; BadInputError says why it cannot be read."""
    try:
        with JournalReader(path) as reader:
            reader.refresh()
            area = reader.flight()
            status = reader.status()
    except JournalError as error:
        raise BadInputError(f"--journal {error}; name the file that `sentinel --journal` writes, or a copy") from error
    shift = None
    if status is not None:
        unix_ns, boot_ns = status.values.get("writtenUnixNs"), status.values.get("writtenBootNs")
        shift = unix_ns - boot_ns if isinstance(unix_ns, int) and isinstance(boot_ns, int) else None
    return Flight(rings(area), episodes(area), shift)


def chosen(flight: Flight, path: str, episode: int | None, seconds: float | None) -> list[FlightSample]:
    """The samples asked for, of the zones that the machine has now; BadInputError when there are none."""
    if episode is None:
        samples = flight.samples
    else:
        samples = flight.episodes.get(episode, [])
        if not samples:
            there = ", ".join(map(str, flight.episodes)) or "none"
            raise BadInputError(
                f"--episode {episode}: {path} keeps no such episode; kept are: {there} "
                "(one that has just begun is found without --episode)"
            )
    if seconds is not None and samples:
        since_ns = samples[-1].time_ns - int(seconds * 1e9)
        samples = [each for each in samples if each.time_ns >= since_ns]
    if not any(each.zones for each in samples):
        raise BadInputError(f"--journal {path}: its flight recorder holds no sample yet")
    return samples


def of_one_machine(samples: Sequence[FlightSample]) -> tuple[list[FlightSample], int]:
    """The samples since the machine last had other zones (a recording has the same in all), and how many came before.

    What could not be read is left out, as are gates before the first sample of all zones.
    """
    start, shape = 0, None
    for index, sample in enumerate(samples):
        if sample.zones is not None:
            now = [(zone.node, zone.name) for zone in sample.zones.zones]
            if now != shape:
                start, shape = index, now
    return [each for each in samples[start:] if each.zones or each.node_free_pages], start


def write_recording(samples: Sequence[FlightSample], file: TextIO) -> None:
    """Writes samples as `replay` reads them; the first one's time is 0."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    start_ns = samples[0].time_ns
    for each in samples:
        if each.zones is not None:
            sample = Sample(each.time_ns, each.zones, each.memory, each.psi_node, each.psi_pods)
            writer.writerows(sample_rows(sample, each.zones, start_ns, each.page_bytes))
        else:
            writer.writerows(gate_rows(each.node_free_pages, each.time_ns, start_ns, each.page_bytes))
    file.flush()


def listing(flight: Flight) -> str:
    """What a flight recorder holds, as a table for people."""
    rows = [("", "begin", "length", "samples")]
    if flight.samples:
        rows.append(("everything", *_row(flight, flight.samples)))
    rows += [(f"episode {number}", *_row(flight, samples)) for number, samples in flight.episodes.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(flight: Flight, samples: Sequence[FlightSample]) -> tuple[str, str, str]:
    begin, end = samples[0].time_ns, samples[-1].time_ns
    return flight.when(begin), duration_text((end - begin) / 1e9), str(len(samples))
