"""Waiting for something in a test, always with a limit; and the clock in the API's form."""

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

WAIT_SECONDS = 60.0  # cases that run at once wait for each other on a machine that others use too


def now(offset_seconds: float = 0.0) -> str:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=offset_seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def wait_for(check: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true result of `check`; fails with `what` after the limit."""
    end = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
