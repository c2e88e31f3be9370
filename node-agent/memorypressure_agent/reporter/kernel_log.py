"""What `memorypressure-agent kernel-log` wrote, read at a scrape."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memorypressure_agent.host.clocks import boot_ns
from memorypressure_agent.kernel_log.failures import LONGEST_BYTES, Failures, FailuresError, decode

SILENT_NS: Final = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The failures counted, None where they are not known, and then why."""

    failures: Failures | None
    problem: str = ""


class KernelLogFile:
    """The file that another container of the pod writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Reading:
        """What it says now; a file that is not there, not understood or old says nothing."""
        try:
            with self._path.open("rb") as file:
                failures, written_ns, problem = decode(file.read(LONGEST_BYTES + 1))
        except OSError as error:
            return Reading(None, f"{self._path}: {error.strerror}")
        except FailuresError as error:
            return Reading(None, f"{self._path}: {error}")
        age_ns = boot_ns() - written_ns
        if not problem and not 0 <= age_ns <= SILENT_NS:
            problem = f"{self._path}: written {age_ns / 1e9:.0f} s ago"
        return Reading(None if problem else failures, problem)
