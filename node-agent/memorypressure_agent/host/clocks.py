"""The three clocks of the agent, each for one purpose, as integer nanoseconds.

Samples and windows use CLOCK_MONOTONIC, beats and grants CLOCK_BOOTTIME (it goes on during suspend, so a grant expires
while the machine sleeps), records for people CLOCK_REALTIME. The first two start anew with each boot and are the same
in every process, so stored values stay comparable as long as the boot id is the same.
"""

import time
from collections.abc import Callable
from functools import partial

BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


monotonic_ns: Callable[[], int] = time.monotonic_ns
"""Nanoseconds of CLOCK_MONOTONIC."""

boot_ns: Callable[[], int] = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""Nanoseconds of CLOCK_BOOTTIME."""


def unix_ns() -> int:
    """Nanoseconds since 1970, for records that people read; never compared."""
    return time.time_ns()


def read_boot_id() -> str | None:
    """This boot's id (36 characters), or None where the kernel does not tell.

    Read from the process's own /proc whatever `--proc-root` says: it identifies the clocks above, not the zones.
    """
    try:
        with open(BOOT_ID_FILE, encoding="ascii") as file:
            boot_id = file.read(64).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return boot_id if len(boot_id) == 36 else None
