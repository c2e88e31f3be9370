"""The certificate that the metrics are served with: read again when its files change, as cert-manager changes them."""

import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Final

from memorypressure.reasons import Reason
from memorypressure_agent.reporter.log import Log

_Stamp = tuple[tuple[int, int], ...]
NOT_READ: Final = "its files were not read yet"


class ServingCertificate:
    """Wraps accepted connections in TLS 1.2 or newer. A new pair that cannot be used leaves the old one in force."""

    def __init__(self, certificate: Path, key: Path, log: Log) -> None:
        self._files = (certificate, key)
        self._log = log
        self._guard = threading.Lock()
        self._stamp: _Stamp | None = None
        self._context: ssl.SSLContext | None = None
        self._problem = NOT_READ
        self.refresh()

    def health(self) -> tuple[bool, str]:
        """Whether connections are served, and a line that says why not."""
        self.refresh()
        if self._context is None:
            return False, f"metrics: not served, {self._problem}"
        return (
            True,
            f"metrics: served over TLS {self._problem and f'with the former certificate, {self._problem}'}".rstrip(),
        )

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """The connection after the handshake. Raises OSError, also when there is no certificate."""
        context = self.refresh()
        if context is None:
            raise ConnectionAbortedError(self._problem)
        return context.wrap_socket(connection, server_side=True)

    def refresh(self) -> ssl.SSLContext | None:
        """What connections are served with now, read anew if a file is another than before."""
        with self._guard:
            try:
                stamp: _Stamp | None = tuple((found.st_ino, found.st_mtime_ns) for found in map(os.stat, self._files))
            except OSError as error:
                self._say(f"{error.filename}: {error.strerror}")
                self._stamp = None
                return self._context
            if stamp != self._stamp:
                self._read(stamp)
            return self._context

    def _read(self, stamp: _Stamp | None) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            self._say(f"{certificate} and {key} are no certificate chain with its key in PEM form: {reason}")
        else:
            self._context, self._problem = context, ""
            self._log(Reason.ACCEPTED, "the metrics' certificate was read")
        self._stamp = stamp

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._log(Reason.UNREADABLE, f"the metrics' certificate cannot be used: {problem}")
        self._problem = problem


def _no_password() -> str:
    """Without it OpenSSL would ask a terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")
