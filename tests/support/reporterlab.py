"""Real reporter processes on a real API server: with a real sentinel, or with a journal that the test itself writes."""

import base64
import contextlib
import json
import re
import select
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from support.operator_lab import GROUP, Lab, Object, wait_for
from support.pathlab import NodeAgent, PathLab
from support.reporting import plan_object, sentinel_status, state_object

from memorypressure.orders import Orders
from memorypressure_agent.host.clocks import boot_ns, read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.processes import Child

QUICK = (
    "import sys\n"
    "from memorypressure_agent.reporter import link, pace\n"
    "pace.LONGEST_BACKOFF_SECONDS = link.LONGEST_BACKOFF_SECONDS = 2.0\n"
    "pace.TRANSITION_SECONDS = 1.0\n"
    "from memorypressure_agent.cli import main\n"
    "sys.exit(main())\n"
)
"""The reporter with shortened timers: the same process but for three constants."""


class ReporterNode(NodeAgent):
    """A node whose NodeMemoryState and NodeMemoryPlan a test writes itself; there is no operator."""

    lab: PathLab

    def __init__(self, lab: PathLab, name: str) -> None:
        directory = lab.directory / name
        (directory / "cgroup/kubepods").mkdir(parents=True)
        super().__init__(lab, lab.prefix + name, directory, directory / "cgroup")
        lab.nodes.append(self)  # type: ignore[arg-type]

    # --- its objects ---

    def make_state(self, orders: Orders | None = None) -> None:
        """Creates the state, and first the plan that it names."""
        admin, spec = self.lab.admin, state_object(self.name, None)["spec"]
        kind = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "NodeMemoryState"}
        if orders is not None:
            spec = self._spec(orders)
        admin.must("POST", f"{GROUP}/nodememorystates", {**kind, "metadata": {"name": self.name}, "spec": spec})

    def order(self, orders: Orders) -> None:
        """Writes plan and state."""
        path = f"{GROUP}/nodememorystates/{self.name}"
        self.lab.admin.must("PATCH", path, {"spec": self._spec(orders)}, MERGE_PATCH)

    def _spec(self, orders: Orders) -> Object:
        plan = plan_object(self.name, orders)
        body = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "NodeMemoryPlan", "spec": plan["spec"]}
        body["metadata"] = {"name": self.name}
        path = f"{GROUP}/nodememoryplans"
        answer = self.lab.admin.request("POST", path, body)
        if answer.status == 409:
            answer = self.lab.admin.request("PATCH", f"{path}/{self.name}", {"spec": plan["spec"]}, MERGE_PATCH)
        assert answer.status in (200, 201), answer
        meta = answer.body["metadata"]
        spec: Object = state_object(self.name, orders)["spec"]
        return {**spec, "plan": {"uid": meta["uid"], "generation": meta["generation"]}}

    def withdraw(self) -> None:
        """The policy goes: what the operator then writes."""
        path = f"{GROUP}/nodememorystates/{self.name}"
        nothing = {"mode": "Disabled", "policyName": None, "plan": None, "grant": None}
        self.lab.admin.must("PATCH", path, {"spec": nothing}, MERGE_PATCH)

    def delete_state(self) -> None:
        self.lab.admin.must("DELETE", f"{GROUP}/nodememorystates/{self.name}")

    # --- the reporter ---

    def report(self, *, quick: bool = False, **changes: str) -> Child:
        """Starts the reporter; `changes` are options, by their names with underscores; empty ones are flags."""
        plane = self.lab.plane
        options = {
            "orders": self.machine.orders_path,
            "journal": self.machine.journal_path,
            "server": plane.url,
            "token-file": self.lab.token_file,
            "ca-file": plane.authority.certificate_file,
            "node-name": self.name,
            "metrics-address": "127.0.0.1",
            "metrics-port": "0",
        } | {name.replace("_", "-"): value for name, value in changes.items()}
        script = [sys.executable, "-c", QUICK] if quick else [Path(sys.executable).with_name("memorypressure-agent")]
        words = [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
        self.log = self.directory / f"reporter-{time.monotonic_ns()}.log"
        self.reporter = Child(f"reporter of {self.name}", [*script, "reporter", *words], self.log, self.directory)
        return self.reporter

    def said(self) -> str:
        """The log of the last reporter."""
        return self.log.read_text(encoding="utf-8")

    def ask(self, path: str) -> tuple[int, str]:
        """Status code and text of the reporter's answer."""
        port = wait_for(lambda: re.search(r"metrics on port (\d+)", self.said()), "its port")[1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class WrittenJournal:
    """A journal that the test writes as a sentinel does: a status twice a second from a thread, actions when told."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(str(path), read_boot_id())
        self.status = sentinel_status()
        self.ids: list[str] = []
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_on, name="journal", daemon=True)
        self._thread.start()

    def _keep_on(self) -> None:
        while not self._stopping.is_set():
            with self._guard:
                self.journal.write_status({**self.status, "writtenBootNs": boot_ns()})
            self._stopping.wait(0.5)

    def act(self) -> None:
        """Records an action."""
        with self._guard:
            identity = f"{self.journal.incarnation[:8]}-a{len(self.ids) + 1}"
            record: Object = {
                "id": identity,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000001Z",
                "action": "Kill",
                "mode": "DryRun",
                "result": "Success",
                "reason": "AtomicReserveBreached",
            }
            self.journal.write_decision({"kind": "action", "record": record, "message": "why", "outcome": ""})
            self.ids.append(identity)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(5)
        self.journal.close()


def told(states: list[Object]) -> list[str]:
    """Ids in the order in which somebody who remembers only the version before meets them; twice if they come back."""
    found: list[str] = []
    before: set[str] = set()
    for state in states:
        now = [action["id"] for action in reversed(state.get("status", {}).get("recentActions", []))]
        found += [identity for identity in now if identity not in before]
        before = set(now)
    return found


class Wire:
    """A TCP line to the API server that can be cut: then connections are refused, and those that stood break off."""

    def __init__(self, port: int) -> None:
        self._far = ("127.0.0.1", port)
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._accepting = self._accept_on(self._listener)

    def _accept_on(self, listener: socket.socket) -> threading.Thread:
        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        return thread

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._far) as far:
            with self._guard:
                self._open |= {near, far}
            with contextlib.suppress(OSError):
                while True:
                    ready, _, _ = select.select([near, far], [], [], 60)
                    for one in ready:
                        data = one.recv(65536)
                        if not data:
                            return
                        (far if one is near else near).sendall(data)

    def cut(self) -> None:
        """Begins an outage."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        """Ends it."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accepting = self._accept_on(self._listener)

    def close(self) -> None:
        """Ends everything."""
        with contextlib.suppress(OSError):
            self.cut()


def signed_again(token: str, key: ec.EllipticCurvePrivateKey, **claims: Any) -> str:
    """The token with other claims, signed by a key."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    payload = token.split(".")[1]
    found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    body = f"{part(json.dumps({'alg': 'ES256', 'typ': 'JWT'}).encode())}.{part(json.dumps(found | claims).encode())}"
    r, s = utils.decode_dss_signature(key.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{body}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def signing_key(lab: Lab) -> ec.EllipticCurvePrivateKey:
    """The key that the control plane signs service accounts' tokens with."""
    pem = (lab.plane.directory / "pki/sa.key").read_bytes()
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def lines_of(text: str) -> Iterator[str]:
    """Log lines without their times."""
    return (line.partition(" ")[2] for line in text.splitlines())
