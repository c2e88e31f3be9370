"""Log lines of the reporter: `time reason: message` on standard error, or a JSON object a line."""

import json
import logging
import sys
from collections.abc import Callable

from memorypressure.reasons import Reason
from memorypressure.records import rfc3339

Log = Callable[[Reason, str], None]


class _Lines(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        time, reason, message = rfc3339(int(record.created * 1e9)), record.name, record.getMessage().replace("\n", " ")
        if self._json:
            return json.dumps({"time": time, "reason": reason, "message": message})
        return f"{time} {reason}: {message}"


def make_log(*, as_json: bool) -> Log:
    """A function that logs a reason and a sentence."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json=as_json))

    def log(reason: Reason, message: str) -> None:
        handler.handle(logging.LogRecord(reason.value, logging.INFO, "", 0, message, None, None))

    return log
