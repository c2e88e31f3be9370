"""Turns this process into a command that dies with the parent: `exec_tied.py PARENT_PID COMMAND ARGUMENT...`.

Run as a script by `processes.Child`, isolated and without site (`python -I -S`); the command keeps the process id.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); survives execve of a program without set-uid bits or capabilities


def main() -> None:
    """Never returns: becomes the command, or exits because the parent is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the call above; then no signal comes.
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 -- it is the purpose


if __name__ == "__main__":
    main()
