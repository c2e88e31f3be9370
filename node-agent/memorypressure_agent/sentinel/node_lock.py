"""One acting sentinel per node: a lock on the pods' cgroup directory, which all agents of a node see."""

import fcntl
import os

from memorypressure_agent.host.cgroups import PodsTree


class NodeLock:
    """An flock on the kubepods directory; the kernel drops it when the process ends, however it ends."""

    def __init__(self, tree: PodsTree) -> None:
        self._tree = tree
        self._fd = -1
        self.message = ""
        """Why it is not held."""

    def free_for_us(self, *, look_up: bool = True) -> bool:
        """Takes the lock if it can be had; False while another process holds it.

        Once it is ours that costs a look whether the directory is still there; not even that without `look_up`. Where
        there is no pods' directory there is nothing to lock and nothing to kill: that is a missing capability.
        """
        if self._fd >= 0:
            if not look_up or self._is_in_place():
                return True
            os.close(self._fd)  # the directory was removed, and others see another one or none
            self._fd = -1
        if self._tree.path is None and not self._tree.locate():
            return True
        try:
            directory = os.open(str(self._tree.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError as error:
            self.message = f"{self._tree.path}: {error.strerror}, so the node's lock cannot be tried"
            return False
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(directory)
            self.message = (
                f"another sentinel acts on this node (it holds the lock on {self._tree.path})"
                if isinstance(error, BlockingIOError)
                else f"{self._tree.path}: {error.strerror}"
            )
            return False
        self._fd = directory
        return True

    def _is_in_place(self) -> bool:
        held = os.fstat(self._fd)
        try:
            found = os.stat(str(self._tree.path))
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)
