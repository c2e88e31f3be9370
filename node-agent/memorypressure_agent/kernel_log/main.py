"""`memorypressure-agent kernel-log`: reads the kernel log every few seconds and writes how many allocations failed.

A process of its own, because only it has the capability SYSLOG; it has no other right, no token and no host mount.
"""

import argparse
import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import Final

from memorypressure_agent.arguments import check_file, number_between
from memorypressure_agent.errors import EXIT_OK, AgentError, BadInputError
from memorypressure_agent.host.clocks import boot_ns, unix_ns
from memorypressure_agent.kernel_log.failures import TAIL_BYTES, Failures, encode, found_in, new_part
from memorypressure_agent.reporter.files import replace_file
from memorypressure_agent.sentinel.log import Log

SYSLOG_ACTION_READ_ALL: Final = 3
BUFFER_BYTES: Final = 1 << 18
"""The newest 256 KiB: some sixty of the kernel's messages about a failure, of which there is one in 10 s."""
PERIOD_SECONDS: Final = 5.0

EPILOG = """\
It counts from its own start on. The kernel's log leaves most failures out: one message in 10 seconds, and none for
network receive since 6.12. Needs the capability SYSLOG, or root.

example:
  memorypressure-agent kernel-log --output /run/kernel-log/failures.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kernel-log`."""
    parser.description = "Counts failed page allocations in the kernel log, for the reporter's metrics."
    parser.epilog = EPILOG
    parser.add_argument("--output", required=True, metavar="FILE", help="file for `reporter --kernel-log`; on a tmpfs")
    parser.add_argument(
        "--period-seconds",
        type=number_between(0.1, 30),
        default=PERIOD_SECONDS,
        metavar="N",
        help=f"time between two looks at the log (default: {PERIOD_SECONDS:g})",
    )


def main(arguments: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT."""
    check_file("--output", arguments.output, written=True)
    output = Path(arguments.output)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    log = Log(as_json=False)
    watch = Watch()
    told: str | None = None  # None: nothing was written yet
    while True:
        watch.look()
        try:
            replace_file(output, encode(watch.failures, boot_ns(), watch.problem))
        except OSError as error:
            if told is None:
                raise BadInputError(f"--output {output}: {error.strerror}") from error
            raise AgentError(
                f"--output {output}: {error.strerror}; it was written before, the next start counts from 0"
            ) from error
        if watch.problem != told:
            log.put(unix_ns(), "Unreadable" if watch.problem else "Accepted", watch.problem or "the log is read")
            told = watch.problem
        log.flush()
        if ended.wait(arguments.period_seconds):
            return EXIT_OK


class Watch:
    """The failures seen since the first look, which counts nothing."""

    def __init__(self) -> None:
        self.failures = Failures()
        self.problem = ""
        self._tail: bytes | None = None
        self._buffer = ctypes.create_string_buffer(BUFFER_BYTES)
        self._library = ctypes.CDLL(None, use_errno=True)

    def look(self) -> None:
        """Takes over what is new in the log. One that cannot be read is a problem, and tried again."""
        length = self._library.klogctl(SYSLOG_ACTION_READ_ALL, self._buffer, BUFFER_BYTES)
        if length < 0:
            why = os.strerror(ctypes.get_errno())
            self.problem = f"the kernel log cannot be read: {why} (needs the capability SYSLOG, and seccomp's leave)"
            return
        self.problem = ""
        self.take(self._buffer.raw[:length])

    def take(self, text: bytes) -> None:
        """Counts what of the log's text is new."""
        if self._tail is not None:
            self.failures += found_in(new_part(text, self._tail))
        self._tail = text[-TAIL_BYTES:]
