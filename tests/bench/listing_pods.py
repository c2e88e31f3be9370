"""The API server sends 22,000 pods: as a streaming list or in pages, as JSON or as protobuf. Nothing is decoded.

    .venv/bin/python tests/bench/listing_pods.py

Prints one JSON object a line. Why the operator reads them as it does is in
docs/decisions/2026-11-25-what-the-operator-keeps-of-a-large-cluster.md.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent / "tools")]

from memorypressure_tools.controlplane import ControlPlane, Options  # noqa: E402
from memorypressure_tools.scale.etcd import Etcd  # noqa: E402
from memorypressure_tools.scale.fixture import Fixture  # noqa: E402
from memorypressure_tools.scale.observe import cpu_seconds  # noqa: E402

NODES, PODS_A_NODE, ROUNDS = 1000, 22, 2
PROTOBUF = "application/vnd.kubernetes.protobuf"
STREAM = "watch=1&allowWatchBookmarks=true&timeoutSeconds=600&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
CHUNK_BYTES = 65536


class Server:
    """A filled control plane, and raw requests to it."""

    def __init__(self, plane: ControlPlane) -> None:
        identity = plane.admin_identity
        self._pool = urllib3.PoolManager(
            ca_certs=str(plane.authority.certificate_file),
            cert_file=str(identity.certificate),
            key_file=str(identity.key),
            retries=False,
        )
        self._url = f"{plane.url}/api/v1/pods?"
        self.pid = plane.pids["kube-apiserver"]

    def _open(self, query: str, accept: str) -> Any:
        answer = self._pool.request("GET", self._url + query, headers={"Accept": accept}, preload_content=False)
        if answer.status != 200:
            raise ValueError(f"{query}: {answer.status} {answer.data[:200]!r}")
        return answer

    def json_stream(self) -> int:
        """Bytes of a streaming list as lines of JSON, to its closing bookmark."""
        size, rest = 0, b""
        answer = self._open(STREAM, "application/json")
        for chunk in answer.stream(CHUNK_BYTES):
            size += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if lines and b'"type":"BOOKMARK"' in lines[-1][:40]:
                break
        answer.close()
        return size

    def protobuf_stream(self) -> int:
        """The same as length-prefixed frames of protobuf."""
        size, rest, over = 0, b"", False
        answer = self._open(STREAM, f"{PROTOBUF};stream=watch")
        for chunk in answer.stream(CHUNK_BYTES):
            size += len(chunk)
            data, at = rest + chunk, 0
            while len(data) - at >= 4:
                length = int.from_bytes(data[at : at + 4], "big")
                if len(data) - at - 4 < length:
                    break
                over = over or b"BOOKMARK" in data[at + 4 : at + 16]
                at += 4 + length
            rest = data[at:]
            if over:
                break
        answer.close()
        return size

    def pages(self, limit: int, accept: str, token: bytes) -> int:
        """Bytes of all pages; `token`: what the first bytes of a page show to continue with."""
        size, query = 0, f"limit={limit}"
        while True:
            answer = self._open(query, accept)
            data = answer.data
            size += len(data)
            found = re.search(token, data[:600])
            if not found:
                return size
            query = f"limit={limit}&continue={found.group(1).decode()}"


@contextlib.contextmanager
def filled() -> Iterator[ControlPlane]:
    """A control plane with the pods."""
    flags = ["--quota-backend-bytes=8589934592"]
    with ControlPlane(Options(controller_manager=False, scheduler=False, etcd_flags=flags)) as plane:
        files = [word for file in sorted((TESTS.parent / "crds").glob("*.yaml")) for word in ("-f", str(file))]
        plane.kubectl("apply", "--server-side", *files)
        plane.kubectl("wait", "--for=condition=Established", *files)
        with contextlib.closing(plane.etcd_client()) as client:
            fixture = Fixture(plane.admin, Etcd(client), lambda text: print(text, file=sys.stderr))
            fixture.fill(NODES, PODS_A_NODE, mode="DryRun", at_rest=False)
        yield plane


def main() -> None:
    """All ways in turn, several rounds: the first finds the API server's caches cold."""
    json_token, protobuf_token = rb'"continue":"([^"]+)"', rb"\x1a[\x60-\xff]\x01?(ey[A-Za-z0-9_=-]+)"
    with filled() as plane:
        server = Server(plane)
        ways: dict[str, Callable[[], int]] = {
            "streaming_list_json": server.json_stream,
            "streaming_list_protobuf": server.protobuf_stream,
            "pages_of_500_json": lambda: server.pages(500, "application/json", json_token),
            "pages_of_5000_json": lambda: server.pages(5000, "application/json", json_token),
            "pages_of_500_protobuf": lambda: server.pages(500, PROTOBUF, protobuf_token),
            "pages_of_5000_protobuf": lambda: server.pages(5000, PROTOBUF, protobuf_token),
        }
        for number in range(1, ROUNDS + 1):
            for name, way in ways.items():
                started, served, own = time.monotonic(), cpu_seconds(server.pid), cpu_seconds(os.getpid())
                size = way()
                figures = {
                    "value": round(time.monotonic() - started, 2),
                    "server_cpu_seconds": round(cpu_seconds(server.pid) - served, 2),
                    "client_cpu_seconds": round(cpu_seconds(os.getpid()) - own, 2),
                    "megabytes": round(size / 1e6, 1),
                }
                print(json.dumps({"name": f"{name}_{number}", "unit": "s", "limit": None, **figures}), flush=True)


if __name__ == "__main__":
    main()
