"""A temporary directory of one process, removed also when its owner was killed: the next process sweeps it."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "memory-pressure-control-plane-"
_LOCK: Final = "owner"


class RunDirectory:
    """A directory below the system's temporary directory; its lock shows that the owner lives."""

    def __init__(self, parent: Path | None = None) -> None:
        base = parent or Path(tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        # Not inheritable (PEP 446): the lock ends with this process, not with its children.
        self._descriptor = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Removes the directory; a second call does nothing."""
        if self._descriptor >= 0:
            shutil.rmtree(self.path)
            os.close(self._descriptor)
            self._descriptor = -1


def _sweep(base: Path) -> None:
    """Removes this user's directories whose owner is gone."""
    for path in base.glob(PREFIX + "*"):
        try:
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            continue  # another user's, or its owner is about to lock it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)  # two sweeps at once may meet here
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
