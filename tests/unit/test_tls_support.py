"""What the tests' own servers do with clients that are gone before they are served."""

import gc
import socket
from pathlib import Path

from support.reporting import StubServer, answer

RESET = b"\1\0\0\0\0\0\0\0"
"""struct linger {on, 0 s}: close sends a reset."""


def test_clients_that_reset_before_they_are_accepted_leave_no_socket_open(tmp_path: Path) -> None:
    server = StubServer(tmp_path, lambda handler: answer(handler, 200, b"{}"))
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", server.server.server_port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    server.close()
    gc.collect()  # an unclosed socket is a ResourceWarning, which is an error here
