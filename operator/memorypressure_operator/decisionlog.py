"""When which report was looked at, a line each: for measurements from outside and for questions afterwards."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from memorypressure_operator.errors import SettingsError

log = logging.getLogger(__name__)


class DecisionLog:
    """Appends lines `monotonic seconds TAB node TAB resourceVersion`; without a path it does nothing.

    What cannot be written any more ends it: nothing waits for a measurement.
    """

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._descriptor = -1
        if path:
            try:
                self._descriptor = os.open(Path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise SettingsError(f"--decision-log {path}: cannot be written: {error.strerror}") from None

    def looked(self, node: str, version: str) -> None:
        """Notes that this version of the node's state was judged: which steps are due, which episode runs."""
        if self._descriptor < 0:
            return
        try:
            os.write(self._descriptor, f"{self._clock():.6f}\t{node}\t{version}\n".encode())
        except OSError as error:
            log.warning("--decision-log ends here, it cannot be written any more: %s", error.strerror)
            os.close(self._descriptor)
            self._descriptor = -1
