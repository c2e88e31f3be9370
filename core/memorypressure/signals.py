"""One sample of a machine: zones, memory and stalls at a moment, each part read, or missing with a reason."""

import re
from dataclasses import dataclass

from memorypressure.reasons import Reason
from memorypressure.zone_values import ZoneInfo

MAX_KIB = 1 << 54
"""2^64 bytes, the most an address can name; in the KiB of /proc/meminfo."""

_AMOUNT = rb"[0-9]{1,20}+"
_MEMINFO_LINE = re.compile(rb"([A-Za-z0-9_()]++): ++(" + _AMOUNT + rb")( kB)?\n")
_MEMINFO = re.compile(rb"(?:[A-Za-z0-9_()]++: ++" + _AMOUNT + rb"(?: kB)?\n)+")
_MEMINFO_WANTED = re.compile(
    rb"\n(MemTotal|MemAvailable|SwapTotal|SwapFree|Hugetlb|HugePages_Total|Hugepagesize): ++([0-9]++)( kB)?"
)
"""Behind a newline, not at a line's begin (`^`): the engine looks for a character three times as fast."""
_PERCENT = rb"([0-9]{1,3}\.[0-9]{2})"
_PSI_LINE = rb"%s avg10=" + _PERCENT + rb" avg60=" + _PERCENT + rb" avg300=" + _PERCENT + rb" total=([0-9]{1,20}+)\n"
_PSI = re.compile(_PSI_LINE % b"some" + rb"(?:" + _PSI_LINE % b"full" + rb")?")
_VMSTAT = re.compile(rb"(?:[a-z][a-z0-9_]*+ [0-9]{1,20}+\n)+")
_VMSTAT_LINE = re.compile(rb"[a-z][a-z0-9_]*+ [0-9]{1,20}+\n")
_VMSTAT_WANTED = re.compile(rb"\n(allocstall(?:_[a-z0-9]++)?|oom_kill) ([0-9]++)")
_SHOWN_CHARACTERS = 60


class SourceError(ValueError):
    """A kernel file that is not understood: which line (from 1), its text, and what should stand there."""

    def __init__(self, source: str, line_number: int, line: str, expected: str) -> None:
        super().__init__(f"{source} line {line_number}: {line!r}: expected {expected}")
        self.source = source
        self.line_number = line_number
        self.line = line
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Absent:
    """A source that this machine does not have: no pressure can come from it, and that is no fault."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A source that should be there and could not be read or understood."""

    message: str


@dataclass(frozen=True, slots=True)
class GateShut:
    """Every judged node's free pages were above its gate, so no node is below a watched line: see `gate`.

    `info` is the full reading that the gates were computed from; `clear_lines` says that they were computed for the
    lines at which triggers clear as well.
    """

    info: ZoneInfo
    node_free_pages: tuple[tuple[int, int], ...]
    clear_lines: bool


@dataclass(frozen=True, slots=True)
class MemInfo:
    """/proc/meminfo in bytes; `hugetlb_bytes` is what huge page pools hold, used or not."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    hugetlb_bytes: int


@dataclass(frozen=True, slots=True)
class PsiLine:
    """Share of time in percent over the last 10, 60 and 300 s, and the total in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


@dataclass(frozen=True, slots=True)
class Psi:
    """A memory pressure file; `full` is None where the kernel prints only `some`."""

    some: PsiLine
    full: PsiLine | None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read at `time_ns` (monotonic).

    A part that is None was not read this time: its triggers stay as they are, for 3 s at most. A reading must never be
    handed in twice, it would count as two samples.
    """

    time_ns: int
    zones: ZoneInfo | GateShut | Unknown | Absent
    memory: MemInfo | Unknown | Absent | None
    psi_node: Psi | Unknown | Absent | None
    psi_pods: Psi | Unknown | Absent | None


def parse_meminfo(text: bytes) -> MemInfo:
    """What triggers need of /proc/meminfo; raises SourceError.

    Huge pages are `Hugetlb` (all sizes), on older kernels HugePages_Total pages of the default size, and 0 on a
    kernel that prints neither (CONFIG_HUGETLB_PAGE=n).
    """
    if _MEMINFO.fullmatch(text) is None:
        offset = 0
        while found := _MEMINFO_LINE.match(text, offset):
            offset = found.end()
        raise _error("meminfo", text, offset, "'Name:   N kB'")
    values: dict[bytes, int] = {}
    for found in _MEMINFO_WANTED.finditer(b"\n" + text):
        name, amount, unit = found.groups()
        if (unit is None) != (name == b"HugePages_Total"):
            raise _error("meminfo", text, found.start(), "a count of pages" if unit else "an amount in kB")
        if name in values:
            raise _error("meminfo", text, found.start(), f"{name.decode()} only once")
        values[name] = int(amount)
        if values[name] > MAX_KIB:
            raise _error("meminfo", text, found.start(), "at most 2^64 bytes")
    for name in (b"MemTotal", b"MemAvailable", b"SwapTotal", b"SwapFree"):
        if name not in values:
            raise _error("meminfo", text, len(text), f"a line {name.decode()}")
    if b"Hugetlb" in values:
        hugetlb = values[b"Hugetlb"]
    elif (b"HugePages_Total" in values) != (b"Hugepagesize" in values):
        raise _error("meminfo", text, len(text), "HugePages_Total and Hugepagesize, or neither")
    else:
        hugetlb = values.get(b"HugePages_Total", 0) * values.get(b"Hugepagesize", 0)
    total = values[b"MemTotal"]
    if not total or max(values[b"MemAvailable"], hugetlb) > total:
        raise _error("meminfo", text, text.find(b"MemTotal:"), "MemTotal not less than MemAvailable and huge pages")
    return MemInfo(
        total * 1024,
        values[b"MemAvailable"] * 1024,
        values[b"SwapTotal"] * 1024,
        values[b"SwapFree"] * 1024,
        hugetlb * 1024,
    )


def parse_psi(text: bytes) -> Psi:
    """/proc/pressure/memory or a cgroup's memory.pressure; raises SourceError."""
    found = _PSI.fullmatch(text)
    if found is None:
        start = _PSI.match(text)
        raise _error("pressure", text, start.end() if start else 0, "'some' or 'full avg10=0.00 ... total=0'")
    values = found.groups()
    some = PsiLine(float(values[0]), float(values[1]), float(values[2]), int(values[3]))
    full = None if values[4] is None else PsiLine(float(values[4]), float(values[5]), float(values[6]), int(values[7]))
    for line in (some, full):
        if line is not None and max(line.avg10, line.avg60, line.avg300) > 100:
            raise _error("pressure", text, 0 if line is some else found.start(5), "averages from 0 to 100")
    return Psi(some, full)


def parse_vmstat(text: bytes) -> dict[str, int]:
    """Of /proc/vmstat, as the kernel names them: entries into direct reclaim by zone, and kills of its OOM killer.

    `allocstall_<zone>` (since 4.10; before `allocstall` alone) and `oom_kill` (since 4.13); what the kernel does not
    count is not there. Raises SourceError.
    """
    if _VMSTAT.fullmatch(text) is None:
        offset = 0
        while found := _VMSTAT_LINE.match(text, offset):
            offset = found.end()
        raise _error("vmstat", text, offset, "a counter's name and number")
    counters: dict[str, int] = {}
    for found in _VMSTAT_WANTED.finditer(b"\n" + text):
        name = found[1].decode("ascii")
        if name in counters:
            raise _error("vmstat", text, found.start(), f"{name} only once")
        counters[name] = int(found[2])
    return counters


def _error(source: str, text: bytes, offset: int, expected: str) -> SourceError:
    start = text.rfind(b"\n", 0, offset) + 1
    line = text[start:].split(b"\n", 1)[0]
    shown = line[:_SHOWN_CHARACTERS].decode("ascii", "backslashreplace") or "end of text"
    return SourceError(source, text.count(b"\n", 0, start) + 1, shown, expected)
