"""The columns of a recording: one table for the reader, the recorder, `--help` and the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_PAGES = 1 << 52
"""2^52 pages of 4 KiB are more than a 64-bit machine can address."""


class Kind(Enum):
    """How a cell is written, and the sentence about it in error messages."""

    SECONDS = "seconds such as 12.345, from 0 to 10000000000, with at most nine digits after the point"
    NODE = "a NUMA node number from 0 to 1023"
    ZONE = "one of DMA, DMA32, Normal, HighMem, Movable, Device, or Node"
    PAGES = "a whole number of pages from 0 to 2^52"
    COUNT = "a whole number from 0 to 65536"
    PERCENT = "a percentage from 0 to 100"
    MICROSECONDS = "a whole number of microseconds from 0 to 2^63"
    BYTES = "a page size in bytes: a power of two from 4096 to 65536"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, how its cells are written, and what it means when it is not there."""

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    may_be_empty: bool = False
    per_sample: bool = False
    """All rows of one time carry the same value."""


def _required(name: str, kind: Kind, meaning: str, *, may_be_empty: bool = False) -> Column:
    return Column(name, kind, meaning, required=True, may_be_empty=may_be_empty)


def _zone(name: str, kind: Kind, meaning: str) -> Column:
    return Column(name, kind, meaning, may_be_empty=True)


def _sample(name: str, kind: Kind, meaning: str) -> Column:
    return Column(name, kind, meaning, may_be_empty=True, per_sample=True)


ZONE_NAMES = ("DMA", "DMA32", "Normal", "HighMem", "Movable", "Device")
"""In the kernel's order (`enum zone_type`)."""

WHOLE_NODE = "Node"
"""In place of a zone: the row holds a gate reading, the free pages of all zones of the NUMA node, and nothing else."""

COLUMNS = (
    _required("t", Kind.SECONDS, "time of the sample; rows of one sample share it; never goes back"),
    _required("node", Kind.NODE, "NUMA node"),
    _required(
        "zone", Kind.ZONE, "zone, as /proc/zoneinfo names it; Node: 'free' is the whole node's, nothing else given"
    ),
    _required("free", Kind.PAGES, "'pages free'"),
    _required("boost", Kind.PAGES, "'boost'; empty: the kernel (before 5.16) does not say", may_be_empty=True),
    _required("min", Kind.PAGES, "'min', boost included; empty only in rows of a whole node", may_be_empty=True),
    _zone("low", Kind.PAGES, "'low', boost included; without it: no line Low, and nothing is seen to clear"),
    _zone("high", Kind.PAGES, "'high', boost included; without it: no line High"),
    _zone("managed", Kind.PAGES, "'managed'; without it every DMA, DMA32 and Normal zone counts, and none as closed"),
    _zone("protection", Kind.PAGES, "entry of 'protection' for class Normal; without it 0"),
    _zone("free_cma", Kind.PAGES, "'nr_free_cma'; without it 0"),
    _zone("stat_threshold", Kind.COUNT, "'vm stats threshold'; with cpus gives the counters' error"),
    _zone("cpus", Kind.COUNT, "CPUs listed under 'pagesets'"),
    _zone("held", Kind.PAGES, "pages in LRU lists, on per-CPU lists, ...; without it takenBy counts as Any"),
    _zone("zspages", Kind.PAGES, "'nr_zspages', which is part of them; without it 0"),
    _sample("mem_total", Kind.PAGES, "MemTotal"),
    _sample(
        "mem_available", Kind.PAGES, "MemAvailable; mem_* and swap_*: without all of them AvailableMemory is unknown"
    ),
    _sample("hugetlb", Kind.PAGES, "Hugetlb; without it 0"),
    _sample("swap_total", Kind.PAGES, "SwapTotal; 0: no swap"),
    _sample("swap_free", Kind.PAGES, "SwapFree"),
    *(
        _sample(f"psi_{scope}{kind}_{figure}", Kind.PERCENT if figure != "total_us" else Kind.MICROSECONDS, meaning)
        for scope, meaning in (("", "PSI memory of the machine"), ("pods_", "PSI memory of the pods' cgroup"))
        for kind in ("some", "full")
        for figure in ("avg10", "avg60", "avg300", "total_us")
    ),
    _sample("page_size", Kind.BYTES, "bytes in a page; without it --page-size"),
)

BY_NAME = {column.name: column for column in COLUMNS}
REQUIRED = tuple(column.name for column in COLUMNS if column.required)


def help_text() -> str:
    """The columns as lines of `--help`, at most 80 characters wide."""
    width = 16
    lines = ["columns (pages unless said otherwise; the first six must be there):"]
    psi_said = False
    for column in COLUMNS:
        name, meaning = column.name, column.meaning
        if name.startswith("psi_"):
            if psi_said:
                continue
            psi_said = True
            lines.append("  psi_[pods_]KIND_FIGURE")
            name = ""
            meaning = "PSI memory of the machine or the pods; KIND some, full; FIGURE avg10, avg60, avg300, total_us"
        lines.extend(_wrapped(name, meaning, width))
    return "\n".join(lines)


def _wrapped(name: str, meaning: str, width: int) -> list[str]:
    lines, current = [], f"  {name:<{width}}"
    for word in meaning.split():
        if len(current) + 1 + len(word) > 79:
            lines.append(current)
            current = " " * (width + 2)
        current += f" {word}"
    return [*lines, current]
