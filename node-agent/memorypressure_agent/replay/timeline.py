"""A recording (CSV) -> its samples, one at a time; every complaint names the file, the line and the column.

The file is streamed: an hour at 10 ms is a million rows. A sample is all rows of one time, up to a zone that is there
again (a recorder with a coarse clock takes two samples in one tick). Each sample must list the zones of the first: with
a node missing, "all nodes are below" would be an accident of the recording.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from memorypressure_agent.errors import BadInputError
from memorypressure_agent.replay.columns import BY_NAME, MAX_PAGES, REQUIRED, WHOLE_NODE, ZONE_NAMES, Column, Kind

MAX_LINE_BYTES = 4096
GZIP_MAGIC = b"\x1f\x8b"
HEADER_EXAMPLE = ",".join(REQUIRED)

_SECONDS = re.compile(r"[0-9]{1,11}(?:\.[0-9]{1,9})?")
_WHOLE = re.compile(r"[0-9]{1,19}")
_LIMITS = {Kind.NODE: 1023, Kind.PAGES: MAX_PAGES, Kind.COUNT: 65536, Kind.MICROSECONDS: 1 << 63}
_GATE_COLUMNS = ("t", "node", "zone", "free")
_MAX_TIME_NS = 10_000_000_000 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class RecordedZone:
    """One row; None: the recording does not say. Pages, boost included in `min`, `low` and `high`."""

    node: int
    name: str
    free: int
    boost: int | None
    min: int
    low: int | None
    high: int | None
    managed: int | None
    protection: int | None
    free_cma: int | None
    stat_threshold: int | None
    cpus: int | None
    held: int | None
    zspages: int | None


@dataclass(frozen=True, slots=True)
class RecordedSample:
    """All rows of one time. `figures` holds the columns that a sample has once, where they are given.

    A gate reading has no zones, but `node_free`: (NUMA node, free pages of all its zones).
    """

    line_number: int
    time_ns: int
    zones: tuple[RecordedZone, ...]
    figures: dict[str, float]
    node_free: tuple[tuple[int, int], ...] = ()


def read_timeline(name: str, file: BinaryIO) -> Iterator[RecordedSample]:
    """The samples of a recording, in order of time.

    Raises `BadInputError` at the first row that cannot be understood; what came before it has been yielded.
    """
    rows = csv.reader(_lines(name, file), strict=True)
    try:
        header = next((row for row in rows if row), None)
        if header is None:
            raise BadInputError(f"{name}: is empty; a recording begins with a header such as {HEADER_EXAMPLE}")
        columns = _columns(name, rows.line_num, header)
        yield from _samples(name, _rows(name, rows, columns))
    except csv.Error as error:
        raise BadInputError(f"{name}:{rows.line_num}: not CSV: {error}") from error


def _lines(name: str, file: BinaryIO) -> Iterator[str]:
    number = 0
    while line := _line(name, file):
        number += 1
        if number == 1 and line.startswith(GZIP_MAGIC):
            raise BadInputError(f"{name}: is compressed; unpack it: zcat {name} | memorypressure-agent replay ... -")
        if len(line) > MAX_LINE_BYTES:
            raise BadInputError(f"{name}:{number}: longer than {MAX_LINE_BYTES} bytes; not a recording in CSV")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadInputError(f"{name}:{number}: not text; a recording is CSV in UTF-8") from None
        if "\0" in text:
            raise BadInputError(f"{name}:{number}: not text (a NUL byte); a recording is CSV in UTF-8")
        yield text


def _line(name: str, file: BinaryIO) -> bytes:
    try:
        return file.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise BadInputError(f"{name}: cannot read the recording: {error.strerror}") from error


def _columns(name: str, line_number: int, header: Sequence[str]) -> tuple[Column, ...]:
    names = [cell.strip() for cell in header]
    where = f"{name}:{line_number}"
    for position, cell in enumerate(names, 1):
        if cell not in BY_NAME:
            close = difflib.get_close_matches(cell, BY_NAME, n=1)
            meant = f" (did you mean '{close[0]}'?)" if close else ""
            raise BadInputError(
                f"{where}: column {position}: unknown column {cell[:40]!r}{meant}; known are: {', '.join(BY_NAME)}"
            )
        if cell in names[: position - 1]:
            first = names.index(cell) + 1
            raise BadInputError(f"{where}: column {position}: '{cell}' is already column {first}; name it once")
    missing = [required for required in REQUIRED if required not in names]
    if missing:
        raise BadInputError(
            f"{where}: no column {', '.join(repr(m) for m in missing)}; a recording needs {HEADER_EXAMPLE}"
        )
    return tuple(BY_NAME[cell] for cell in names)


@dataclass(frozen=True, slots=True)
class _Row:
    line_number: int
    time_ns: int
    zone: RecordedZone
    figures: dict[str, float]


def _rows(name: str, rows: Iterable[list[str]], columns: tuple[Column, ...]) -> Iterator[_Row]:
    for cells in rows:
        if not cells:
            continue
        line_number: int = rows.line_num  # type: ignore[attr-defined]
        if len(cells) != len(columns):
            raise BadInputError(
                f"{name}:{line_number}: {len(cells)} cells, the header has {len(columns)} columns; "
                "is the recording cut off here?"
            )
        values: dict[str, float] = {}
        for column, cell in zip(columns, cells, strict=True):
            if column.kind is Kind.ZONE:
                continue
            try:
                value = _value(column, cell.strip())
            except ValueError as error:
                raise BadInputError(f"{name}:{line_number}: column '{column.name}': {error}") from None
            if value is not None:
                values[column.name] = value
        zone_name = cells[columns.index(BY_NAME["zone"])].strip()
        if zone_name not in (*ZONE_NAMES, WHOLE_NODE):
            raise BadInputError(f"{name}:{line_number}: column 'zone': {zone_name[:40]!r} is not {Kind.ZONE.value}")
        complaint = _misplaced(zone_name, values)
        if complaint:
            raise BadInputError(f"{name}:{line_number}: {complaint}")
        zone = _zone(zone_name, values)
        complaint = _contradiction(zone) if zone_name != WHOLE_NODE else None
        if complaint:
            raise BadInputError(f"{name}:{line_number}: {complaint}")
        figures = {c.name: values[c.name] for c in columns if c.per_sample and c.name in values}
        yield _Row(line_number, int(values["t"]), zone, figures)


def _value(column: Column, cell: str) -> float | None:
    """The cell's value, times in ns; None for an empty cell that may be empty."""
    if not cell and column.may_be_empty:
        return None
    shown = f"{cell[:40]!r} is not {column.kind.value}"
    if column.kind is Kind.SECONDS:
        if not _SECONDS.fullmatch(cell):
            raise ValueError(shown)
        whole, _, fraction = cell.partition(".")
        time_ns = int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0"))
        if time_ns > _MAX_TIME_NS:
            raise ValueError(shown)
        return time_ns
    if column.kind is Kind.PERCENT:
        try:
            percent = float(cell)
        except ValueError:
            percent = -1.0
        if not 0.0 <= percent <= 100.0:
            raise ValueError(shown)
        return percent
    if not _WHOLE.fullmatch(cell):
        raise ValueError(shown)
    number = int(cell)
    if column.kind is Kind.BYTES:
        if not 4096 <= number <= 65536 or number & (number - 1):
            raise ValueError(shown)
    elif number > _LIMITS[column.kind]:
        raise ValueError(shown)
    return number


def _zone(zone_name: str, values: dict[str, float]) -> RecordedZone:
    def pages(name: str) -> int | None:
        return int(values[name]) if name in values else None

    return RecordedZone(
        node=int(values["node"]),
        name=zone_name,
        free=int(values["free"]),
        boost=pages("boost"),
        min=int(values.get("min", 0)),
        low=pages("low"),
        high=pages("high"),
        managed=pages("managed"),
        protection=pages("protection"),
        free_cma=pages("free_cma"),
        stat_threshold=pages("stat_threshold"),
        cpus=pages("cpus"),
        held=pages("held"),
        zspages=pages("zspages"),
    )


def _misplaced(zone_name: str, values: dict[str, float]) -> str | None:
    """A zone's row must tell its min, the row of a whole node nothing but its free pages."""
    if zone_name != WHOLE_NODE:
        return None if "min" in values else f"column 'min': '' is not {Kind.PAGES.value}"
    given = next((column for column in values if not BY_NAME[column].per_sample and column not in _GATE_COLUMNS), None)
    return None if given is None else f"column '{given}': must be empty in a row of a whole node"


def _contradiction(zone: RecordedZone) -> str | None:
    """What no kernel prints: then columns are exchanged or the file is not what it says."""
    if zone.boost is not None and zone.boost > zone.min:
        return f"boost {zone.boost} is more than min {zone.min}, which includes it; are columns exchanged?"
    if zone.low is not None and zone.low < zone.min:
        return f"low {zone.low} is less than min {zone.min}; are columns exchanged?"
    if zone.high is not None and zone.high < (zone.low or zone.min):
        return f"high {zone.high} is less than {'min' if zone.low is None else 'low'}; are columns exchanged?"
    if zone.free_cma is not None and zone.free_cma > zone.free:
        return f"free_cma {zone.free_cma} is more than free {zone.free}, which includes it; are columns exchanged?"
    return None


def _samples(name: str, rows: Iterator[_Row]) -> Iterator[RecordedSample]:
    expected: dict[bool, frozenset[tuple[int, str]]] = {}  # of zones, and of whole nodes
    group: list[_Row] = []
    keys: set[tuple[int, str]] = set()

    def sample() -> RecordedSample:
        gate = group[0].zone.name == WHOLE_NODE
        first = expected.setdefault(gate, frozenset(keys))
        if keys != first:
            only_here = ", ".join(f"{node}/{zone}" for node, zone in sorted(keys - first))
            missing = ", ".join(f"{node}/{zone}" for node, zone in sorted(first - keys))
            what = " and ".join(
                part for part in (missing and f"lacks {missing}", only_here and f"adds {only_here}") if part
            )
            raise BadInputError(
                f"{name}:{group[0].line_number}: the sample that begins here {what}; "
                "each sample must list the zones of the first (is the recording cut off here?)"
            )
        if gate:
            node_free = tuple((row.zone.node, row.zone.free) for row in group)
            return RecordedSample(group[0].line_number, group[0].time_ns, (), group[0].figures, node_free)
        return RecordedSample(
            group[0].line_number, group[0].time_ns, tuple(row.zone for row in group), group[0].figures
        )

    for row in rows:
        key = (row.zone.node, row.zone.name)
        if group and (row.time_ns != group[0].time_ns or key in keys):
            if row.time_ns < group[0].time_ns:
                raise BadInputError(
                    f"{name}:{row.line_number}: t {_seconds(row.time_ns)} comes after {_seconds(group[0].time_ns)}; "
                    "the time must not go back"
                )
            yield sample()
            group.clear()
            keys.clear()
        if group and row.figures != group[0].figures:
            differing = min(
                k for k in {**row.figures, **group[0].figures} if row.figures.get(k) != group[0].figures.get(k)
            )
            raise BadInputError(
                f"{name}:{row.line_number}: column '{differing}': differs from line {group[0].line_number}; "
                "rows of one time carry one value"
            )
        keys.add(key)
        group.append(row)
    if not group:
        raise BadInputError(f"{name}: no sample after the header; record some rows")
    yield sample()


def _seconds(time_ns: int) -> str:
    return f"{time_ns / 1e9:.3f}"
