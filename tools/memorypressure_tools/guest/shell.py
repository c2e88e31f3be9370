"""A root shell in a guest, over a forwarded TCP port: one connection for each script."""

import base64
import contextlib
import gzip
import re
import secrets
import select
import shlex
import socket
import sys
import time
from dataclasses import dataclass
from typing import Final

from memorypressure_tools.guest.machine import LOOPBACK

PORT: Final = 2323
"""Where /sbin/guest-shell listens in the guest."""
POLL_SECONDS: Final = 0.2
CHUNK_BYTES: Final = 60_000


class GuestError(Exception):
    """A guest did not do what was asked; the text says what, and shows what it said."""


class GuestTimeoutError(GuestError):
    """No answer in the given time."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a script wrote, standard error included, and its exit code."""

    output: str
    code: int


@dataclass(frozen=True, slots=True)
class Shell:
    """The shell of one guest; `token` is the word that it wants to hear first."""

    port: int
    token: str
    address: str = LOOPBACK

    def run(self, script: str, *, seconds: float = 30.0, check: bool = True, attempts: int = 1) -> str:
        """What the script wrote; GuestError for an exit code other than 0 (with `check`), or without an answer in time.

        `attempts` above 1 is for scripts that may run twice. What a script leaves running in the background has to
        have its output redirected, else it is cut off.
        """
        for attempt in range(attempts):
            try:
                result = self._once(script, seconds)
                break
            except (GuestTimeoutError, OSError) as error:
                if attempt == attempts - 1:
                    raise GuestTimeoutError(f"no answer from the guest's shell ({error}) to: {script[:200]}") from error
                time.sleep(POLL_SECONDS)
        if check and result.code != 0:
            raise GuestError(f"code {result.code} in the guest from: {script[:400]}\n{result.output[-2000:]}")
        return result.output

    def wait(self, seconds: float) -> None:
        """Returns when the shell answers; GuestTimeoutError if it does not in that time."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._once("true", min(5.0, seconds))
                return
            except (OSError, GuestTimeoutError):
                if time.monotonic() > end:
                    raise GuestTimeoutError(f"no shell in the guest after {seconds:.0f} s") from None
                time.sleep(POLL_SECONDS)

    def write(self, inside: str, content: str | bytes, mode: int = 0o644) -> None:
        """Writes a file in the guest."""
        data = base64.b64encode(content.encode() if isinstance(content, str) else content).decode()
        name = shlex.quote(inside)
        self.run(f": > {name}.part")
        for start in range(0, len(data), CHUNK_BYTES):
            self.run(f"echo {data[start : start + CHUNK_BYTES]} | base64 -d >> {name}.part")
        self.run(f"chmod {mode:o} {name}.part && mv {name}.part {name}")

    def read(self, inside: str, *, seconds: float = 30.0, attempts: int = 3) -> bytes:
        """The contents of a file in the guest."""
        text = self.run(f"gzip -1 < {shlex.quote(inside)} | base64", seconds=seconds, attempts=attempts)
        return gzip.decompress(base64.b64decode(text))

    def _once(self, script: str, seconds: float) -> Result:
        mark = f"end-{secrets.token_hex(8)}"
        # In a shell of its own: an `exit`, or a syntax error, must not take the mark with it.
        text = f"{self.token}\nsh -c {shlex.quote(script)} </dev/null; echo {mark}:$?\nexit\n"
        end = time.monotonic() + seconds
        received = bytearray()
        with socket.create_connection((self.address, self.port), timeout=seconds) as connection:
            connection.sendall(text.encode())
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise GuestTimeoutError(f"no end after {seconds:.0f} s; so far: {_tail(received)}")
                connection.settimeout(left)
                try:
                    part = connection.recv(1 << 16)
                except TimeoutError:
                    continue
                received += part
                found = re.search(rf"{mark}:(\d+)\n".encode(), received[-(len(part) + 64) :])
                if found:
                    body = received[: received.rindex(mark.encode())]
                    return Result(body.decode("utf-8", errors="replace"), int(found.group(1)))
                if not part:
                    raise GuestTimeoutError(f"the connection was closed; so far: {_tail(received)}")

    def interact(self) -> None:
        """Connects this terminal with a shell in the guest until either ends."""
        with socket.create_connection((self.address, self.port)) as connection:
            connection.sendall(f"{self.token}\nexec sh -i\n".encode())
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    ready, _, _ = select.select([connection, sys.stdin], [], [])
                    if connection in ready:
                        part = connection.recv(1 << 16)
                        if not part:
                            return
                        sys.stdout.write(part.decode("utf-8", errors="replace"))
                        sys.stdout.flush()
                    if sys.stdin in ready:
                        line = sys.stdin.readline()
                        if not line:
                            return
                        connection.sendall(line.encode())


def _tail(received: bytearray) -> str:
    return received[-300:].decode("utf-8", errors="replace") or "nothing"
