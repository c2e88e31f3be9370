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
from wsgiref.simple_server import WSGIServer

from memorypressure.reasons import Reason
from memorypressure.version import VERSION
from memorypressure_agent.arguments import check_file, checked_pod_uid
from memorypressure_agent.errors import EXIT_FAILED, EXIT_OK, BadInputError
from memorypressure_agent.reporter.access import Access
from memorypressure_agent.reporter.certificate import ServingCertificate
from memorypressure_agent.reporter.client import ApiClient, Endpoint, SettingsError
from memorypressure_agent.reporter.endpoint import Application, Health, Wrap, metrics, probes, serve
from memorypressure_agent.reporter.files import take_lock
from memorypressure_agent.reporter.kernel_log import KernelLogFile
from memorypressure_agent.reporter.link import Link
from memorypressure_agent.reporter.log import Log, make_log
from memorypressure_agent.reporter.metrics import NodeCollector, new_registry
from memorypressure_agent.reporter.publisher import Publisher
from memorypressure_agent.sentinel.libc import call
from memorypressure_agent.sentinel.process import give_back_startup_pages

DEFAULT_METRICS_PORT = 9464
M_ARENA_MAX = -8
"""Parameter of mallopt, malloc.h of glibc."""
REVIEW_SECONDS = 4.0
"""For one question to the API server while somebody who scrapes waits."""
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
    parser.add_argument(
        "--probe-port",
        type=_port,
        metavar="PORT",
        help="port of /healthz and /readyz alone, always in clear (default: they are on --metrics-port)",
    )
    parser.add_argument(
        "--metrics-tls-cert",
        metavar="FILE",
        help="serve /metrics over TLS with this certificate chain (PEM), which is read again when it changes; "
        "needs --probe-port",
    )
    parser.add_argument("--metrics-tls-key", metavar="FILE", help="private key of --metrics-tls-cert (PEM)")
    parser.add_argument(
        "--metrics-authorization",
        action="store_true",
        help="serve /metrics only to bearer tokens whose user may get the non-resource URL /metrics; the API server is "
        "asked (TokenReview, SubjectAccessReview); needs --metrics-tls-cert",
    )
    parser.add_argument(
        "--kernel-log",
        metavar="FILE",
        help="what `memorypressure-agent kernel-log` writes, for memorypressure_page_allocation_failures_total "
        "(default: no such metric)",
    )
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="of lines on standard error")


def main(arguments: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. Raises BadInputError for settings that cannot be used."""
    node_name = _node_name(arguments.node_name)
    own_pod_uid = checked_pod_uid("--own-pod-uid", arguments.own_pod_uid)
    check_file("--orders", arguments.orders, written=True)
    check_file("--journal", arguments.journal, written=False)
    if os.path.realpath(arguments.orders) == os.path.realpath(arguments.journal):
        raise BadInputError(f"--orders {arguments.orders}: is the sentinel's journal too; give each its own name")
    if arguments.kernel_log is not None:
        check_file("--kernel-log", arguments.kernel_log, written=False)
    orders, journal = Path(arguments.orders), Path(arguments.journal)
    _check_metrics(arguments)
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
    kernel_log = KernelLogFile(Path(arguments.kernel_log)).read if arguments.kernel_log else None
    registry = new_registry(NodeCollector(lambda: publisher.view, lambda: link.state, kernel_log))
    guard = Access(ApiClient(endpoint, agent, REVIEW_SECONDS), log).verdict if arguments.metrics_authorization else None
    servers = _serving(arguments, metrics(registry, guard), publisher, log)

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ports = [f"{what} on port {server.server_port}" for what, server in servers.items()]
    log(Reason.ACCEPTED, f"reporter {VERSION} of node {node_name}; {', '.join(ports)}")
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
    for server in servers.values():
        server.shutdown()
    return EXIT_OK


def _serving(
    arguments: argparse.Namespace, exposition: dict[str, Application], publisher: Publisher, log: Log
) -> dict[str, WSGIServer]:
    """The servers by what they serve, running. Raises BadInputError for an address or port that cannot be had."""
    address, certificate = arguments.metrics_address, None
    if arguments.metrics_tls_cert:
        certificate = ServingCertificate(Path(arguments.metrics_tls_cert), Path(arguments.metrics_tls_key), log)
    wrap = None if certificate is None else certificate.wrap

    def ready() -> Health:
        found = publisher.ready()
        if certificate is None:
            return found
        ok, line = certificate.health()
        return Health(found.ok and ok, (*found.lines, f"{'ok' if ok else 'NOT'} {line}"))

    answers = probes(publisher.live, ready)
    if arguments.probe_port is None:
        return {"metrics": _serve(address, "--metrics-port", arguments.metrics_port, {**exposition, **answers}, wrap)}
    return {
        "metrics": _serve(address, "--metrics-port", arguments.metrics_port, exposition, wrap),
        "probes": _serve(address, "--probe-port", arguments.probe_port, answers, None),
    }


def _serve(address: str, option: str, port: int, paths: dict[str, Application], wrap: Wrap | None) -> WSGIServer:
    try:
        return serve(address, port, paths, wrap)
    except OSError as error:
        wrong = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        named = f"--metrics-address {address}" if wrong else f"{option} {port}"
        raise BadInputError(f"{named}: {error.strerror}; choose another one") from error


def _check_metrics(arguments: argparse.Namespace) -> None:
    certificate, key = arguments.metrics_tls_cert, arguments.metrics_tls_key
    if bool(certificate) != bool(key):
        given, missing = ("cert", "key") if certificate else ("key", "cert")
        raise BadInputError(
            f"--metrics-tls-{given} needs --metrics-tls-{missing}: a certificate and its key go together"
        )
    if certificate and arguments.probe_port is None:
        raise BadInputError(
            "--metrics-tls-cert needs --probe-port: probes stay in clear, so that they answer without a certificate too"
        )
    if arguments.metrics_authorization and not certificate:
        raise BadInputError("--metrics-authorization needs --metrics-tls-cert: a token is never asked for in clear")
    if arguments.probe_port and arguments.probe_port == arguments.metrics_port:
        raise BadInputError(f"--probe-port and --metrics-port are both {arguments.probe_port}: give two ports")


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


def _node_name(name: str | None) -> str:
    if not name:
        raise BadInputError("--node-name is missing: give the name of this Node, or set NODE_NAME")
    if len(name) > 253 or not set(name) <= NAME_CHARACTERS or not name[0].isalnum() or not name[-1].isalnum():
        raise BadInputError(f"--node-name {name[:60]!r}: not a Node's name (lower-case letters, digits, '-' and '.')")
    return name
