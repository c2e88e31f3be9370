"""Log lines of the reporter: `time reason: message` on standard error, or a JSON object a line."""

import json
import sys
import time
from collections.abc import Callable

from memorypressure.reasons import Reason
from memorypressure.records import rfc3339

Log = Callable[[Reason, str], None]


def make_log(*, as_json: bool) -> Log:
    """A function that logs a reason and a sentence, from any thread.

    Each line is one write, so lines do not mix. A log that nobody takes any more is no reason to end.
    """

    def log(reason: Reason, message: str) -> None:
        stamp, text = rfc3339(time.time_ns()), message.replace("\n", " ")
        line = (
            json.dumps({"time": stamp, "reason": reason, "message": text}) if as_json else f"{stamp} {reason}: {text}"
        )
        try:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return

    return log
