"""What tests of the reporter need around it: a sentinel's status, a scripted client, a small TLS API server."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.tls import server_context

from memorypressure.grants import Grant, NodeGrants, new_journal
from memorypressure.orders import Orders, encode
from memorypressure.reasons import Reason
from memorypressure.version import VERSION
from memorypressure_agent.reporter.client import ApiError
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.view import View
from memorypressure_tools.certificates import Authority

MIB = 1 << 20
UNIX_NS = 1_800_000_000_000_000_000
BOOT_NS = 5_000_000_000_000
INCARNATION = "0123456789abcdef0123456789abcdef.b0b0b0b0-0000-4000-8000-000000000001"
POLICY = "default"
Object = dict[str, Any]


def zone(node: int, name: str, managed_mib: int, *, counted: bool = True) -> Object:
    """A zone of the status; its marks are fixed shares of its size."""
    managed = managed_mib * MIB
    made: Object = {
        "numaNode": node,
        "zone": name,
        "counted": counted,
        "managedBytes": managed,
        "freeBytes": managed // 4,
        "freeCmaBytes": 0,
        "minBytes": managed // 400,
        "lowBytes": managed // 320,
        "highBytes": managed // 266,
        "boostBytes": 0,
        "errorBytes": 2 * 125 * 4096,
    }
    if counted:
        made |= {"reserveBytes": managed // 800, "floorBytes": managed * 3 // 3200, "lowmemReserveBytes": 0}
    return made


def trigger(name: str = "reserve", status: str = "Clear", message: str = "") -> Object:
    return {
        "name": name,
        "status": status,
        "sinceUnixNs": UNIX_NS - 3_000_000_000,
        "message": message or f"{name}: 0/Normal at 41% of AtomicReserve",
        "numaNodes": [0],
        "holds": status == "Active",
    }


def source(name: str, *, absent: str | None = None, failed: str | None = None, message: str = "") -> Object:
    """A source of the status: read, or with the reason why not."""
    reason = absent or failed
    return {"name": name, "up": reason is None, "absent": absent is not None, "reason": reason, "message": message}


def _histogram(counts: Mapping[float | None, int], total_seconds: float) -> Object:
    return {
        "buckets": [[bound, count] for bound, count in counts.items()],
        "sum": total_seconds,
        "count": counts[None],
        "worst": 0.01,
    }


def sentinel_status(**changes: Any) -> Object:
    """A two-node machine's status as the sentinel writes it; `changes` replace members, None included."""
    psi = {"avg10": 1.5, "avg60": 0.5, "avg300": 0.1, "totalSeconds": 12.25}
    zones = [
        zone(0, "DMA", 15, counted=False),
        zone(0, "DMA32", 2 << 10),
        zone(0, "Normal", 62 << 10),
        zone(1, "Normal", 64 << 10),
    ]
    made: Object = {
        "writtenUnixNs": UNIX_NS,
        "writtenBootNs": BOOT_NS,
        "agentVersion": VERSION,
        "pid": 7,
        "startedUnixNs": UNIX_NS - 60_000_000_000,
        "capabilities": {
            "PSI": "",
            "CgroupKill": "",
            "ProcessMrelease": "needs hostPID",
            "MemoryLocked": "",
            "Realtime": "not asked for (--realtime)",
        },
        "sources": [
            source("boost"),
            source("meminfo"),
            source("psi_node"),
            source("psi_pods", absent="NotPresent", message="no kubepods cgroup was found"),
            source("swap", absent="NoSwap", message="no swap: SwapTotal is 0"),
            source("vmstat"),
            source("vmstat_node0"),
            source("vmstat_node1"),
            source("zoneinfo"),
        ],
        "orders": {
            "standing": "Valid",
            "reason": "Accepted",
            "message": "",
            "policyName": POLICY,
            "policyGeneration": 3,
            "planUID": "plan",
            "planGeneration": 1,
            "mode": "Enforce",
        },
        "permit": {"allowed": True, "reason": "Granted", "message": ""},
        "lockHeld": False,
        "phase": "Clear",
        "episode": None,
        "decision": {"reason": "NoPressure", "message": "no trigger is active", "cause": "NoPressure"},
        "triggers": [trigger("reserve"), trigger("starving")],
        "zones": zones,
        "lowest": {
            "numaNode": 0,
            "zone": "Normal",
            "line": "AtomicReserve",
            "usableToLine": 2.5,
            "freeToMin": 1.25,
            "headroomBytes": 3 * MIB,
        },
        "memory": None,
        "vmstat": {
            "allocstall_dma": 0,
            "allocstall_dma32": 3,
            "allocstall_normal": 41,
            "allocstall_movable": 1200,
            "oom_kill": 2,
        },
        "psi": {"node": {"some": psi, "full": psi}, "pods": None},
        "topPods": [],
        "counters": {
            "rounds": 100,
            "fullReads": 60,
            "gateReads": 40,
            "kills": 2,
            "shadowKills": 0,
            "killsFailed": 1,
            "freedBytes": 512 * MIB,
            "refusals": {"Cooldown": 2, "StepNotDue": 9},
            "ended": [
                {"policy": "before", "mode": "DryRun", "result": "Success", "count": 4},
                {"policy": POLICY, "mode": "Enforce", "result": "Success", "count": 1},
                {"policy": POLICY, "mode": "Enforce", "result": "Failed", "count": 1},
            ],
        },
        "belowLine": [
            {"numaNode": node, "zone": name, "line": line, "seconds": 0.25, "episodes": 1}
            for node, name in ((0, "DMA32"), (0, "Normal"), (1, "Normal"))
            for line in ("High", "Low", "Min", "AtomicReserve")
        ],
        "killLatency": _histogram({0.05: 0, 0.1: 1, 0.25: 2, 30.0: 2, None: 2}, 0.25)
        | {"last": {"action": "0123abcd-a2", "seconds": 0.125, "unixNs": 1_799_999_999_500_000_000}},
        "loop": {"periodSeconds": 1.0, "lag": _histogram({0.001: 90, 0.01: 99, 1.0: 100, None: 100}, 0.125)},
        "helper": {"near": False, "listKept": False, "logLinesLost": 0},
        "figures": {"ageSeconds": 1.0, "failures": []},
    }
    return {**made, **changes}


def under_pressure(**changes: Any) -> Object:
    """The status with one active trigger, near the line."""
    made = sentinel_status(
        triggers=[trigger("reserve", "Active"), trigger("starving")],
        decision={"reason": "Cooldown", "message": "40 s are left", "cause": "AtomicReserveBreached"},
        topPods=[{"uid": "pod-1", "namespace": "d", "name": "p", "reliefBytes": 64 * MIB, "overRequest": True}],
        helper={"near": True, "listKept": True, "logLinesLost": 0},
    )
    return {**made, **changes}


def grants(**changes: Any) -> NodeGrants:
    made = new_journal(INCARNATION, BOOT_NS - 10_000_000_000)
    return NodeGrants(
        **{
            "incarnation": made.incarnation,
            "kills_total": 0,
            "beats": made.beats,
            "ceiling_seen": 0,
            "fence_beat": made.fence_beat,
            "fence_ceiling": made.fence_ceiling,
            **changes,
        }
    )


def view(status: Object | None = None, **changes: Any) -> View:
    """What was read of a journal whose sentinel wrote `status` just now."""
    given = {"status": sentinel_status() if status is None else status, "grants": grants(), **changes}
    return View(**{"unix_ns": UNIX_NS, "boot_ns": BOOT_NS, **given})


def link_state(orders: Orders | None = None, **changes: Any) -> LinkState:
    """A link that stands, with these orders in force."""
    found: Object = {
        "connected": True,
        "problem": "",
        "last_contact_seconds": 0.0,
        "synced_unix_seconds": 1_800_000_000.0,
        "state": {"metadata": {"uid": "state-uid", "generation": 4}, "spec": {}},
        "orders": orders,
        "generation": 4,
        "reason": None if orders is not None else Reason.NO_ORDERS,
        "message": "" if orders is not None else "no policy is in force on this node",
    }
    return LinkState(**{**found, **changes})


class Lines:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[Reason, str]] = []

    def __call__(self, reason: Reason, message: str) -> None:
        self.lines.append((reason, message))

    def text(self) -> str:
        return "\n".join(f"{reason}: {message}" for reason, message in self.lines)


def state_object(node: str, orders: Orders | None, *, generation: int = 1, uid: str = "state-uid") -> Object:
    """The NodeMemoryState that makes these orders; None: no policy."""
    spec: Object = {"nodeName": node, "mode": "Disabled"}
    if orders is not None:
        spec = {
            "nodeName": node,
            "mode": orders.mode.value,
            "policyName": orders.policy_name,
            "plan": {"uid": orders.plan_uid, "generation": orders.plan_generation},
        }
        if orders.grant is not None:
            spec["grant"] = grant_object(orders.grant)
    return {"metadata": {"name": node, "uid": uid, "generation": generation, "resourceVersion": "7"}, "spec": spec}


def grant_object(grant: Grant) -> Object:
    return {
        "incarnation": grant.incarnation,
        "beat": grant.beat,
        "killsCeiling": grant.kills_ceiling,
        "planUID": grant.plan_uid,
        "planGeneration": grant.plan_generation,
    }


def plan_object(node: str, orders: Orders) -> Object:
    """The NodeMemoryPlan that makes these orders."""
    value = json.loads(encode(orders))
    spec = {name: value[name] for name in ("policy", "triggers", "ladder", "victims", "limits", "pods")}
    meta = {"name": node, "uid": orders.plan_uid, "generation": orders.plan_generation}
    return {"metadata": meta, "spec": {"nodeName": node, **spec}}


class ScriptedClient:
    """Stands for `ApiClient`: objects by path, watches as lists of events; an ApiError in their place is raised."""

    def __init__(self) -> None:
        self.objects: dict[str, Object | ApiError] = {}
        self.watches: list[list[Object] | ApiError] = []
        self.patches: list[list[Object]] = []
        self.refuse_patches: ApiError | None = None
        self.gets: list[str] = []
        self.queries: list[Mapping[str, str]] = []

    def get(self, path: str) -> Object:
        self.gets.append(path)
        found = self.objects.get(path, not_found(path))
        if isinstance(found, ApiError):
            raise found
        return found

    def watch(self, path: str, query: Mapping[str, str], silence_seconds: float) -> Iterator[Object]:
        self.queries.append(query)
        found = self.watches.pop(0) if self.watches else []
        if isinstance(found, ApiError):
            raise found
        yield from found

    def patch(self, path: str, operations: list[Object]) -> Object:
        if self.refuse_patches is not None:
            raise self.refuse_patches
        self.patches.append(json.loads(json.dumps(operations)))
        return {}


def not_found(path: str) -> ApiError:
    return ApiError(404, f'"{path.rpartition("/")[2]}" not found', names_object=True)


class StubServer:
    """A TLS server on loopback that answers with `handle(handler)`; its certificate is of an authority of its own."""

    def __init__(self, directory: Path, handle: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.authority = Authority(directory)
        self.context = server_context(self.authority, "server")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def do_GET(self) -> None:
                handle(self)

            def do_PATCH(self) -> None:
                handle(self)

            def do_POST(self) -> None:
                handle(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the parent's name
                """Nothing: a test says what it saw."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Nothing: clients that refuse the certificate are part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = self.context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join(5)
        self.server.server_close()


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def answer_chunks(handler: BaseHTTPRequestHandler, *chunks: bytes, end: bool = True) -> None:
    """A chunked answer, as watches are; without `end` it stays open until the client goes."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.wfile.flush()
    if end:
        handler.wfile.write(b"0\r\n\r\n")
        return
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.rfile.read(1)


def eventually(check: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first truthy value of `check`; fails with `what` after the limit."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
