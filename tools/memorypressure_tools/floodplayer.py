"""A node's files on disk that follow a recorded flood: zoneinfo, node vmstat, meminfo and PSI under roots of their own.

The whole of an idle capture is written with the recorded values put in, so that a reader meets a complete file. Every
file keeps its length and is replaced by one `pwrite`: a reader sees the old text or the new one, never an end between
them. The lengths are kept by padding counters whose numbers nobody judges.
"""

import csv
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = 4096
NUMBER_WIDTH: Final = 12
PADDED: Final = re.compile(r"^(      nr_zone_inactive_anon) +(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """One row of a timeline, in pages; `min_pages` as printed, boost included.

    `held_pages` (of which `compressed_pages` are zsmalloc's) is None where it is not told: then what free memory falls
    by went to nobody, as in a flood.
    """

    at_seconds: float
    free_pages: int
    boost_pages: int
    min_pages: int
    held_pages: int | None = None
    compressed_pages: int = 0
    stat_threshold_pages: int | None = None


def timeline(path: Path) -> Iterator[Reading]:
    """The rows of a recording of one node and one zone (columns t, free, boost, min)."""
    with path.open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            yield Reading(float(row["t"]), int(row["free"]), int(row["boost"]), int(row["min"]))


class FakeNode:
    """The files of a one-node machine under `directory`/proc and `directory`/sys, made from an idle capture."""

    def __init__(self, directory: Path, idle_capture: Path, zone: str = "DMA32") -> None:
        self.proc = directory / "proc"
        self.sys = directory / "sys"
        self._text = idle_capture.read_text(encoding="ascii")
        self._zone = zone
        start, end = self._zone_span(self._text)
        self._idle = {
            name: self._value(name, self._text[start:end]) for name in ("free", "boost", "min", "low", "high")
        }
        self._managed_pages = sum(
            int(number) for number in re.findall(r"^        managed +(\d+)$", self._text, re.MULTILINE)
        )
        self._free_elsewhere_pages = (
            sum(int(number) for number in re.findall(r"^  pages free +(\d+)$", self._text, re.MULTILINE))
            - self._idle["free"]
        )
        self._fds: dict[str, tuple[int, int]] = {}
        node = self.sys / "devices/system/node/node0"
        pressure = self.proc / "pressure"
        node.mkdir(parents=True)
        pressure.mkdir(parents=True)
        (self.sys / "devices/system/node/online").write_text("0\n", encoding="ascii")
        self._paths = {
            "zoneinfo": self.proc / "zoneinfo",
            "vmstat": node / "vmstat",
            "meminfo": self.proc / "meminfo",
            "pressure": pressure / "memory",
        }
        self.idle()

    def idle(self) -> None:
        """The state of the capture: far from every line."""
        self.show(Reading(0.0, self._idle["free"], self._idle["boost"], self._idle["min"]))

    def show(self, reading: Reading) -> None:
        """Writes all files for one reading; low and high rise with the boost, as the kernel adds it to all three."""
        texts = {
            "vmstat": self._vmstat(reading),
            "zoneinfo": self._zoneinfo(reading),
            "meminfo": self._meminfo(reading),
            "pressure": _pressure(),
        }
        for name, text in texts.items():
            self._write(name, text.encode("ascii"))

    def play(self, readings: Iterator[Reading], slowdown: float, keep_on: Callable[[], bool] = lambda: True) -> None:
        """Shows the readings in their own rhythm, `slowdown` times slower, until they end or `keep_on()` is false."""
        began: float | None = None
        for reading in readings:
            if not keep_on():
                return
            if began is None:
                began = time.monotonic() - reading.at_seconds * slowdown
            time.sleep(max(0.0, began + reading.at_seconds * slowdown - time.monotonic()))
            self.show(reading)

    def close(self) -> None:
        """Closes the files; they stay on disk."""
        for fd, _ in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _zone_span(self, text: str) -> tuple[int, int]:
        header = re.search(rf"^Node 0, zone +{self._zone}$", text, re.MULTILINE)
        if header is None:
            raise ValueError(f"the capture has no zone {self._zone} on node 0")
        following = text.find("\nNode ", header.end())
        return header.start(), len(text) if following < 0 else following + 1

    def _value(self, name: str, block: str) -> int:
        found = re.search(rf"^  (?:pages |      ){name} +(\d+)$", block, re.MULTILINE)
        if found is None:
            raise ValueError(f"zone {self._zone} of the capture has no line {name}")
        return int(found[1])

    def _zoneinfo(self, reading: Reading) -> str:
        start, end = self._zone_span(self._text)
        block = self._text[start:end]
        wanted = {
            "free": reading.free_pages,
            "boost": reading.boost_pages,
            "min": reading.min_pages,
            "low": self._idle["low"] - self._idle["boost"] + reading.boost_pages,
            "high": self._idle["high"] - self._idle["boost"] + reading.boost_pages,
        }
        for name, pages in wanted.items():
            block = re.sub(rf"^(  (?:pages |      ){name} +)\d+$", rf"\g<1>{pages}", block, count=1, flags=re.MULTILINE)
        block = re.sub(
            r"^(      nr_free_pages) +\d+$", rf"\g<1> {reading.free_pages}", block, count=1, flags=re.MULTILINE
        )
        if reading.stat_threshold_pages is not None:
            block = re.sub(r"(vm stats threshold:) \d+", rf"\g<1> {reading.stat_threshold_pages}", block)
        if reading.held_pages is None:
            return _padded(self._text[:start] + block + self._text[end:], len(self._text) + 10 * NUMBER_WIDTH)
        block = re.sub(r"(      nr_zspages +)\d+", rf"\g<1>{reading.compressed_pages}", block)
        text = self._text[:start] + block + self._text[end:]
        held_by_others = reading.held_pages - reading.compressed_pages
        text = re.sub(r"(      nr_inactive_anon) \d+", rf"\g<1> {held_by_others}", text, count=1)
        return _padded(text, len(self._text) + 10 * NUMBER_WIDTH)

    def _vmstat(self, reading: Reading) -> str:
        free = reading.free_pages + self._free_elsewhere_pages
        return f"nr_free_pages {free}\nnr_zone_inactive_anon {0:0>{NUMBER_WIDTH + 8 - len(str(free))}}\n"

    def _meminfo(self, reading: Reading) -> str:
        kib = PAGE_BYTES // 1024
        free = reading.free_pages + self._free_elsewhere_pages
        rows = {
            "MemTotal": self._managed_pages * kib,
            "MemFree": free * kib,
            # Memory that reclaim still can free: in the recorded condition there always was some.
            "MemAvailable": max(free, self._managed_pages // 4) * kib,
            "SwapTotal": 1048572,
            "SwapFree": 786432,
        }
        text = "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in rows.items())
        return text + f"{'HugePages_Total:':<16}{0:>8}\n{'Hugepagesize:':<16}{2048:>8} kB\n{'Hugetlb:':<16}{0:>8} kB\n"

    def _write(self, name: str, data: bytes) -> None:
        if name not in self._fds:
            fd = os.open(self._paths[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            self._fds[name] = (fd, len(data))
        fd, length = self._fds[name]
        if len(data) != length:
            raise ValueError(f"{name}: {len(data)} bytes instead of {length}: a reader could see a torn file")
        os.pwrite(fd, data, 0)


def _padded(text: str, length: int) -> str:
    """`text` with spaces put before the number of its last padded counter, so that it has `length` characters."""
    found = list(PADDED.finditer(text))[-1]
    number = found[2]
    spaces = length - len(text) + (found.end() - found.start()) - len(found[1]) - len(number)
    return text[: found.start()] + found[1] + " " * spaces + number + text[found.end() :]


def _pressure() -> str:
    line = "avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    return f"some {line}full {line}"
