"""A FIFO without room in the place of a file: whoever writes to it waits there, visibly, and can be killed there."""

import os
from pathlib import Path


def full_fifo(path: Path) -> int:
    """Puts the FIFO at `path`; the descriptor by which it can be emptied."""
    path.unlink()
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        return descriptor


def waits_in_a_write(pid: int) -> bool:
    """Whether the process waits in a write to a pipe."""
    return Path(f"/proc/{pid}/wchan").read_text().startswith(("pipe_write", "anon_pipe_write")) or (
        Path(f"/proc/{pid}/syscall").read_text().split()[0] == "1"
    )


def drained(descriptor: int) -> bytes:
    """What was in the FIFO."""
    found = b""
    try:
        while chunk := os.read(descriptor, 1 << 16):
            found += chunk
    except BlockingIOError:
        return found
    return found
