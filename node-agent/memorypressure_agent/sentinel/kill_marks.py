"""Times of the last hour's kills, kept on the pods' cgroup directory: they outlive the journal of a replaced pod.

A cgroup directory is gone with the boot, as are the boot-time clocks in here, and every agent of the node sees the same
one. Extended attributes named `user.*` on cgroups need Linux 5.7, uid 0 and a writable mount, and no capability. Where
they are not to be had, the hour of `--max-kills-per-hour` begins anew with a new journal, as it did before; the
cluster's ledger and the first cool-down bound that.
"""

import os
from typing import Final

from memorypressure_agent.host.cgroups import PodsTree

NAME: Final = "user.memorypressure.kills"
MOST_TIMES: Final = 64
MOST_BYTES: Final = 4096


class KillMarks:
    """The attribute on the kubepods directory. Writing allocates: for the helper thread, after a kill."""

    def __init__(self, tree: PodsTree, boot_id: str | None) -> None:
        self._tree = tree
        self._boot_id = boot_id

    def read(self, now_ns: int) -> tuple[int, ...]:
        """Boot-time clocks of kills that any journal of this boot counted, oldest first; none where nothing is kept."""
        return () if self._tree.path is None else self._read(self._tree.path, now_ns)

    def add(self, times: tuple[int, ...], now_ns: int) -> str:
        """Keeps these times beside those that are there; empty, or why not."""
        if self._tree.path is None or self._boot_id is None:
            return "there is no pods' cgroup directory"
        return self._add(self._tree.path, times, now_ns)

    def rehearse(self) -> None:
        """Fails to keep a time, for a file without a name: the code for it, and for an error's words, is there then."""
        self._add("", (1,), 1)

    def _read(self, path: str, now_ns: int) -> tuple[int, ...]:
        try:
            value = os.getxattr(path, NAME)
        except OSError:
            return ()
        boot_id, *words = value[:MOST_BYTES].decode("ascii", "replace").split()[: MOST_TIMES + 1] or [""]
        if boot_id != self._boot_id or not all(word.isascii() and word.isdigit() for word in words):
            return ()
        return tuple(sorted(time for time in map(int, words) if time <= now_ns))

    def _add(self, path: str, times: tuple[int, ...], now_ns: int) -> str:
        kept = sorted({*self._read(path, now_ns), *times})[-MOST_TIMES:]
        try:
            os.setxattr(path, NAME, " ".join([self._boot_id or "", *map(str, kept)]).encode("ascii"))
        except OSError as error:
            return f"{path}: {NAME}: {error.strerror}"
        return ""
