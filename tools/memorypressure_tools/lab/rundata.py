"""What a guest brought back, read strictly: a file that is missing or cut off makes the run void, not a zero."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIGKILL: Final = 9
SIGTERM: Final = 15
_SI_KERNEL: Final = 128

_GIVE_UP = re.compile(r"gfp:\s+(0x[0-9a-fA-F]+|\d+)\s*\}\s*hitcount:\s+(\d+)")
_SIGNAL = re.compile(
    r"^\s*(?P<sender>.*)-(?P<sender_pid>\d+)\s+(?:\(.*?\)\s+)?\[\d+\]\s+\S+\s+(?P<at>\d+\.\d+): signal_generate: "
    r"sig=(?P<number>\d+) errno=\S+ code=(?P<code>-?\d+) comm=(?P<comm>.*) pid=(?P<pid>\d+) grp=\d+ res=\d+"
)
_HIGH: Final = 0x20
_DIRECT_RECLAIM: Final = 0x400
_NORETRY: Final = 0x10000


class VoidRunError(Exception):
    """A run whose files cannot be used; the text names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A KILL or TERM that was sent; `at` on the guest's boot-time clock."""

    at: float
    number: int
    pid: int
    comm: str
    sender: str
    by_kernel: bool


@dataclass(frozen=True, slots=True)
class Stall:
    """One turn of the canary: when it began and how long its 64 fresh pages took, seconds."""

    at: float
    seconds: float


def text(directory: Path, name: str) -> str:
    """The content of a file of the run; VoidRunError when it is not there, or cut off within a line."""
    try:
        content = (directory / name).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise VoidRunError(f"{name}: {error.strerror}") from error
    if content and not content.endswith("\n"):
        raise VoidRunError(f"{name}: cut off: {content.rpartition(chr(10))[2][:80]!r}")
    return content


def marks(directory: Path) -> dict[str, float]:
    """Moments of the run's script by name: `start`, `flood`, `end`."""
    found: dict[str, float] = {}
    for line in text(directory, "marks.txt").splitlines():
        name, _, value = line.partition(" ")
        found[name] = float(value)
    for name in ("start", "flood", "end"):
        if name not in found:
            raise VoidRunError(f"marks.txt: no moment {name!r}: the run's script did not come to its end")
    return found


def require_armed(directory: Path) -> None:
    """VoidRunError when a killer could not act as the load began: ours had no leave, systemd-oomd watched no pod."""
    said = text(directory, "armed.txt").strip()
    if not said.startswith("armed: "):
        raise VoidRunError(f"armed.txt: {said or 'empty'}")


def pods(directory: Path) -> dict[int, str]:
    """Process id -> name of its pod."""
    found: dict[int, str] = {}
    for line in text(directory, "pids.txt").splitlines():
        name, _, pid = line.partition(" ")
        if pid.strip().isdigit():
            found[int(pid)] = name
    return found


def give_ups(directory: Path) -> dict[int, int]:
    """Flags of allocations that the kernel gave up (`warn_alloc`, also where it prints nothing) -> how often."""
    content = text(directory, "giveups.txt")
    if "Totals:" not in content:
        raise VoidRunError("giveups.txt: no histogram: the probe on warn_alloc was not there")
    return {int(flags, 0): int(count) for flags, count in _GIVE_UP.findall(content)}


def is_atomic(flags: int) -> bool:
    """Whether these are GFP_ATOMIC's: __GFP_HIGH and no direct reclaim (include/linux/gfp_types.h, 6.1 and 6.12).

    With __GFP_NORETRY it is a first try of SLUB's, which tries once more without (mm/slub.c, allocate_slab).
    """
    return bool(flags & _HIGH) and not flags & (_DIRECT_RECLAIM | _NORETRY)


def signals(directory: Path) -> list[Signal]:
    """Every KILL and TERM of the run, in order of time."""
    found = []
    for line in text(directory, "signals.txt").splitlines():
        if "signal_generate" not in line or line.startswith("#"):
            continue
        match = _SIGNAL.match(line)
        if match is None:
            raise VoidRunError(f"signals.txt: not understood: {line[:120]}")
        found.append(
            Signal(
                at=float(match["at"]),
                number=int(match["number"]),
                pid=int(match["pid"]),
                comm=match["comm"],
                sender=match["sender"].strip(),
                by_kernel=int(match["code"]) == _SI_KERNEL,
            )
        )
    return sorted(found, key=lambda signal: signal.at)


def stalls(directory: Path, start: float, end: float) -> list[Stall]:
    """Every turn of the canary that began in the run; one that had not come back at its end lasts until then."""
    found = []
    for line in text(directory, "canary.csv").splitlines()[1:]:
        at, _, seconds = line.partition(",")
        if start <= float(at) < end:
            found.append(Stall(float(at), min(float(seconds), end - float(at))))
    if not found:
        raise VoidRunError("canary.csv: not one turn of the bystander")
    return found


def columns(directory: Path, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file; VoidRunError when there is none."""
    rows = list(csv.DictReader(text(directory, name).splitlines()))
    if not rows:
        raise VoidRunError(f"{name}: no row")
    return rows


def numbers(directory: Path, name: str) -> dict[str, int]:
    """Lines `name value` as a mapping; other lines are left out."""
    found: dict[str, int] = {}
    for line in text(directory, name).splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and re.fullmatch(r"-?\d+", words[1]):
            found[words[0]] = int(words[1])
    return found


def udp_counters(directory: Path) -> Mapping[str, int]:
    """The `Udp:` counters of /proc/net/snmp."""
    lines = [line.split()[1:] for line in text(directory, "snmp.txt").splitlines() if line.startswith("Udp:")]
    return {} if len(lines) < 2 else dict(zip(lines[0], map(int, lines[1]), strict=False))


def received_frames(directory: Path, interface: str = "eth1") -> tuple[int, int]:
    """(received, dropped) frames of an interface by /proc/net/dev."""
    for line in text(directory, "netdev.txt").splitlines():
        name, colon, rest = line.strip().partition(":")
        if colon and name == interface:
            words = rest.split()
            return int(words[1]), int(words[3])
    raise VoidRunError(f"netdev.txt: no interface {interface}")
