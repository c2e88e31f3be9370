"""TCP ports on loopback: one that is free, and those that a process listens on."""

import contextlib
import random
import re
import socket
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
# Below the kernel's range for outgoing connections (net.ipv4.ip_local_port_range begins at 32768): a port stays ours
# while the API server is down for an outage test.
PORTS: Final = range(20000, 32000)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 -- no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def listening_ports(pid: int) -> set[int]:
    """TCP ports that the process listens on, by its sockets in /proc; empty when it is gone."""
    inodes: set[str] = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
                if found:
                    inodes.add(found.group(1))
        tables = [Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    except OSError:
        return set()
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {int(row[1].rsplit(":", 1)[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}
