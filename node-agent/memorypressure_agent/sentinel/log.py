"""Log lines to standard error that can never hold the process up: a full pipe loses lines, and the loss is told."""

import json
import os
import select
from collections import deque
from typing import Final

from memorypressure.records import rfc3339

STDERR: Final = 2
LONGEST_LINE_BYTES: Final = 2048
"""A pipe that polls as writable takes a write of up to PIPE_BUF (4096) bytes without blocking."""


class Log:
    """A queue that any thread fills and one thread writes out."""

    def __init__(self, *, as_json: bool, descriptor: int = STDERR) -> None:
        self._json = as_json
        self._descriptor = descriptor
        self._queue: deque[tuple[int, str, str]] = deque(maxlen=1000)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.lost = 0
        self._told = 0

    def put(self, unix_ns: int, reason: str, message: str) -> None:
        """Queues a line; the oldest of 1000 gives way."""
        self.lost += len(self._queue) == self._queue.maxlen
        self._queue.append((unix_ns, reason, message))

    def flush(self) -> None:
        """Writes what can be written now; first how many lines before it nobody took in time."""
        while self._queue:
            if not self._poll.poll(0):
                return
            unix_ns, reason, message = self._queue.popleft()
            if self.lost != self._told:
                self._told, lost = self.lost, self.lost - self._told
                message = f"({lost} log lines before this one were lost) {message}"
            try:
                os.write(self._descriptor, self._line(unix_ns, reason, message))
            except OSError:
                self.lost += 1
                return

    def emergency(self, line: str) -> None:
        """Writes a line at once, by any thread, if that can be done without waiting."""
        if self._poll.poll(0):
            try:
                os.write(self._descriptor, line.encode("utf-8", "replace") + b"\n")
            except OSError:
                self.lost += 1

    def _line(self, unix_ns: int, reason: str, message: str) -> bytes:
        if self._json:
            text = json.dumps({"time": rfc3339(unix_ns), "reason": reason, "message": message[:1500]})
        else:
            text = f"{rfc3339(unix_ns)} {reason}: {message}"
        line = text.replace("\n", " ").encode("utf-8", "replace")
        return line[: LONGEST_LINE_BYTES - 1] + b"\n"
