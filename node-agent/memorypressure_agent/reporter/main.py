"""The reporter process: arguments in, threads started, a clean end on SIGTERM."""

import argparse
import contextlib
import errno
import gc
import os
import signal
import socket
import threading
from pathlib import Path

from memorypressure.reasons import Reason
from memorypressure.version import VERSION
from memorypressure.victims import is_pod_uid
from memorypressure_agent.errors import EXIT_FAILED, EXIT_OK, BadInputError
from memorypressure_agent.reporter.client import ApiClient, Endpoint, SettingsError
from memorypressure_agent.reporter.endpoint import serve
from memorypressure_agent.reporter.files import take_lock
from memorypressure_agent.reporter.link import Link
from memorypressure_agent.reporter.log import make_log
from memorypressure_agent.reporter.metrics import NodeCollector, new_registry
from memorypressure_agent.reporter.publisher import Publisher
from memorypressure_agent.sentinel.libc import call
from memorypressure_agent.sentinel.process import give_back_startup_pages

DEFAULT_METRICS_PORT = 9464
M_ARENA_MAX = -8
"""Parameter of mallopt, malloc.h of glibc."""
STOP_SECONDS = 8.0
"""Less than the pod's terminationGracePeriodSeconds, 10."""
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")

EPILOG = """\
In a pod the API server, token and CA are those of the pod's service account. The token must be bound to a pod on this
node: the chart's admission policy lets it write this node's state only.

example, outside of a cluster:
  memorypressure-agent reporter --node-name worker-7 --orders /run/mp/orders.json --journal /run/mp/journal \\
      --server https://10.0.0.1:6443 --token-file token --ca-file ca.crt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `memorypressure-agent reporter`."""
    parser.epilog = EPILOG
    parser.add_argument("--orders", required=True, metavar="FILE", help="orders file to write for the sentinel")
    parser.add_argument("--journal", required=True, metavar="FILE", help="the sentinel's journal, only read")
    parser.add_argument(
        "--node-name", default=os.environ.get("NODE_NAME"), metavar="NAME", help="this Node (default: $NODE_NAME)"
    )
    parser.add_argument(
        "--own-pod-uid",
        default=os.environ.get("POD_UID", ""),
        metavar="UID",
        help="UID of the agent's pod, which is never ordered to be killed (default: $POD_UID)",
    )
    parser.add_argument("--server", metavar="URL", help="API server (default: that of the pod)")
    parser.add_argument("--token-file", metavar="FILE", help="bearer token (default: that of the pod)")
    parser.add_argument("--ca-file", metavar="FILE", help="CA of the API server (default: that of the pod)")
    parser.add_argument(
        "--metrics-address", default="", metavar="ADDRESS", help="address to serve metrics and probes on (default: all)"
    )
    parser.add_argument(
        "--metrics-port",
        type=_port,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help=f"port of /metrics, /healthz, /readyz; 0: a free one, which is logged (default: {DEFAULT_METRICS_PORT})",
    )
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="of lines on standard error")


def main(arguments: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. Raises BadInputError for settings that cannot be used."""
    node_name = _node_name(arguments.node_name)
    own_pod_uid = _own_pod_uid(arguments.own_pod_uid)
    orders, journal = Path(arguments.orders), Path(arguments.journal)
    for option, path in (("--orders", orders), ("--journal", journal)):
        if not path.parent.is_dir():
            raise BadInputError(f"{option} {path}: there is no directory {path.parent}; create it or mount it there")
        if path.is_dir():
            raise BadInputError(f"{option} {path}: is a directory; name a file in it, such as {path / path.name}")
    try:
        endpoint = Endpoint.find(arguments.server, arguments.token_file, arguments.ca_file, os.environ)
    except SettingsError as error:
        raise BadInputError(str(error)) from error
    lock = _lock(orders)
    try:
        return _run(arguments, node_name, own_pod_uid, orders, journal, endpoint)
    finally:
        os.close(lock)


def _run(
    arguments: argparse.Namespace, node_name: str, own_pod_uid: str, orders: Path, journal: Path, endpoint: Endpoint
) -> int:
    _stay_small()
    log = make_log(as_json=arguments.log_format == "json")
    agent = f"memorypressure-agent/{VERSION}"
    link = Link(ApiClient(endpoint, agent), node_name, own_pod_uid, orders, log)
    publisher = Publisher(ApiClient(endpoint, agent), node_name, str(journal), link, log)
    registry = new_registry(NodeCollector(lambda: publisher.view, lambda: link.state))
    try:
        server = serve(arguments.metrics_address, arguments.metrics_port, registry, publisher.live, publisher.ready)
    except OSError as error:
        address = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        option = (
            f"--metrics-address {arguments.metrics_address}" if address else f"--metrics-port {arguments.metrics_port}"
        )
        raise BadInputError(f"{option}: {error.strerror}; choose another one") from error

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    log(Reason.ACCEPTED, f"reporter {VERSION} of node {node_name}; metrics on port {server.server_port}")
    link.start()
    publisher.start()
    while not ended.wait(1.0):
        dead = [thread.name for thread in (link, publisher) if not thread.is_alive()]
        if dead:
            log(Reason.ACTION_FAILED, f"thread {dead[0]} has ended; so does the reporter, to be started anew")
            return EXIT_FAILED
    link.stop()
    publisher.stop()
    publisher.join(timeout=STOP_SECONDS)
    server.shutdown()
    return EXIT_OK


def _stay_small() -> None:
    """One heap for all threads (each further arena of glibc keeps 1 MiB or so), and nothing that only start-up used."""
    with contextlib.suppress(OSError):  # musl has no mallopt, and no arenas either
        call("mallopt", M_ARENA_MAX, 1)
    gc.freeze()
    give_back_startup_pages()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text[:20]}' is no port: give a whole number from 0 to 65535")
    return int(text)


def _lock(orders: Path) -> int:
    try:
        lock = take_lock(orders)
    except OSError as error:
        raise BadInputError(f"--orders {orders}: nothing can be written beside it: {error.strerror}") from error
    if lock is None:
        raise BadInputError(f"--orders {orders}: another reporter writes it; stop that one, or name another file")
    return lock


def _own_pod_uid(uid: str) -> str:
    if uid and not is_pod_uid(uid):
        raise BadInputError(f"--own-pod-uid {uid[:60]!r}: not a pod's UID (letters, digits and '-', at most 64)")
    return uid


def _node_name(name: str | None) -> str:
    if not name:
        raise BadInputError("--node-name is missing: give the name of this Node, or set NODE_NAME")
    if len(name) > 253 or not set(name) <= NAME_CHARACTERS or not name[0].isalnum() or not name[-1].isalnum():
        raise BadInputError(f"--node-name {name[:60]!r}: not a Node's name (lower-case letters, digits, '-' and '.')")
    return name
