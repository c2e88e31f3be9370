"""The server's side of TLS for proxies and stubs of the tests."""

import ssl
from threading import Lock

from memorypressure_tools.certificates import Authority

_ISSUING = Lock()
"""Servers of one name write the same two files; tests that run at once make several."""


class Accepted(ssl.SSLSocket):
    """A socket that closes itself.

    A client may reset its connection before it is accepted (a killed process, a timeout). ssl then raises out of
    `accept` and drops the socket that it had just made, unclosed: a ResourceWarning (`_create` of CPython 3.11's ssl).
    """

    def __del__(self) -> None:
        self.close()


def server_context(authority: Authority, name: str) -> ssl.SSLContext:
    """A context with a new certificate for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = Accepted
    with _ISSUING:
        pair = authority.issue(name, name, names=["127.0.0.1"])
        context.load_cert_chain(pair.certificate, pair.key)
    return context
