"""A real Kubernetes control plane on loopback: etcd, kube-apiserver, controller manager and scheduler.

For tests (`with ControlPlane() as plane`), for `make controlplane`, and by hand (`python -m memorypressure_tools up`).
What shows that an answer is ours: the child runs before and after it, and the server's certificate is from a
certificate authority that was made for this start. An open port shows nothing.
"""

import contextlib
import functools
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import urllib3

from memorypressure_tools import controlplane_commands as commands
from memorypressure_tools import toolcache
from memorypressure_tools.apiclient import ApiClient
from memorypressure_tools.certificates import Authority, Pair, write_signing_key
from memorypressure_tools.controlplane_commands import Command, Files, Options
from memorypressure_tools.ports import LOOPBACK, free_port, listening_ports
from memorypressure_tools.processes import Child, ChildDiedError
from memorypressure_tools.rundirectory import RunDirectory

READY_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.05
START_ATTEMPTS: Final = 8
SERVER_NAMES: Final = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    LOOPBACK,
    "10.96.0.1",
)


class ControlPlaneError(Exception):
    """The control plane could not be started; the text says which part and shows the end of its log."""


class ControlPlane:
    """A control plane; `start` and `stop`, or a `with` block. Its processes end with this process, however it ends."""

    def __init__(self, options: Options | None = None, *, pick_port: Callable[[], int] = free_port) -> None:
        self.options = options or Options()
        self._pick_port = pick_port
        self._children: dict[str, Child] = {}
        self._clients: list[ApiClient] = []
        self._ports: dict[str, int] = {}
        self._issued = 0
        self._run: RunDirectory | None = None
        self._tools: Mapping[str, Path] = {}

    def start(self) -> Self:
        """Starts all parts and returns when they are ready; raises ToolMissingError or ControlPlaneError."""
        self._tools = toolcache.ensure(toolcache.CONTROL_PLANE)
        self._run = RunDirectory(self.options.parent)
        try:
            self._prepare()
            self._start_etcd()
            self._start_with_free_port("kube-apiserver", self._apiserver_command)
            self.kubeconfig = self.authority.kubeconfig(
                self.directory / "admin.kubeconfig", self.url, identity=self._admin_identity
            )
            self.admin = self._client(identity=self._admin_identity)
            self._wait("kube-apiserver", self.admin, "/readyz")
            self._start_controllers()
        except BaseException:
            self.stop()
            raise
        return self

    def _prepare(self) -> None:
        self.logs.mkdir()
        self.authority = Authority(self.directory / "pki")
        names = [*SERVER_NAMES, self.options.bind_address, *self.options.server_names]
        self._admin_identity = self.authority.issue("admin", "admin", ["system:masters"])
        self._files = Files(
            tools=self._tools,
            directory=self.directory,
            authority=self.authority.certificate_file,
            serving=self.authority.issue("server", "kube-apiserver", names=list(dict.fromkeys(names))),
            admin=self._admin_identity,
            kubelet_client=self.authority.issue("kubelet-client", "kubelet-client", ["system:masters"]),
        )
        write_signing_key(self.directory / "pki/sa.key", self.directory / "pki/sa.pub")

    @property
    def directory(self) -> Path:
        """The run directory: keys, logs, etcd's data; removed by `stop`."""
        if self._run is None:
            raise ControlPlaneError("the control plane is not running")
        return self._run.path

    @property
    def logs(self) -> Path:
        """Where every part writes `<name>.log`."""
        return self.directory / "logs"

    @property
    def url(self) -> str:
        """The API server's address on this machine."""
        return f"https://{LOOPBACK}:{self._ports['kube-apiserver']}"

    @property
    def port(self) -> int:
        """The API server's port; the same after an outage."""
        return self._ports["kube-apiserver"]

    @property
    def etcd_url(self) -> str:
        """The client address of etcd; it wants a client certificate (`etcd_identity`)."""
        return f"https://{LOOPBACK}:{self._ports['etcd']}"

    @property
    def etcd_identity(self) -> Pair:
        """The certificate and key that etcd accepts; `authority.certificate_file` is what its own is signed by."""
        return self._admin_identity

    @property
    def admin_identity(self) -> Pair:
        """The administrator's certificate and key."""
        return self._admin_identity

    def etcd_client(self) -> ApiClient:
        """A client for etcd's JSON gateway: fixtures of thousands of objects are written past the API server."""
        return self._client(self.etcd_url, identity=self.etcd_identity)

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each part that was started."""
        return {name: child.pid for name, child in self._children.items()}

    def check(self) -> None:
        """Raises ChildDiedError with the end of its log for a part that ended by itself."""
        for child in self._children.values():
            child.check()

    # -- starting

    def _etcd_command(self, port: int) -> Command:
        return commands.etcd(self._files, self.options, port, self._pick_port())

    def _apiserver_command(self, port: int) -> Command:
        return commands.apiserver(self._files, self.options, port, self.etcd_url)

    def _start_etcd(self) -> None:
        self._start_with_free_port("etcd", self._etcd_command)
        with contextlib.closing(self._client(self.etcd_url, identity=self.etcd_identity)) as client:
            self._wait("etcd", client, "/health")

    def _start_controllers(self) -> None:
        """Starts controller manager and scheduler; only now, because they exit at once before RBAC is set up."""
        wanted = {
            "kube-controller-manager": self.options.controller_manager,
            "kube-scheduler": self.options.scheduler,
        }
        for name in (name for name, on in wanted.items() if on):
            identity = self.authority.issue(name, f"system:{name}")
            self.authority.kubeconfig(self.directory / f"{name}.kubeconfig", self.url, identity=identity)
            self._start_with_free_port(name, functools.partial(commands.component, self._files, self.options, name))
        for name in (name for name, on in wanted.items() if on):
            address = f"https://{LOOPBACK}:{self._ports[name]}"
            with contextlib.closing(self._client(address, identity=self._admin_identity)) as client:
                self._wait(name, client, "/healthz")
        if self.options.controller_manager:
            self.wait_for_service_account("default")

    def _start_with_free_port(self, name: str, command: Callable[[int], Command]) -> None:
        """Starts a part on a port that it could bind; a port that somebody took in between costs another attempt."""
        for attempt in range(1, START_ATTEMPTS + 1):
            port = self._pick_port()
            log = self.logs / f"{name}.log"
            child = Child(name, command(port), log, self.directory)
            self._ports[name], self._children[name] = port, child
            outcome = self._bound(child, port)
            if outcome:
                return
            if "address already in use" not in child.tail() or attempt == START_ATTEMPTS:
                child.check()
            log.unlink()

    def _bound(self, child: Child, port: int) -> bool:
        """True when the child itself listens on the port, False when it ended; found by its sockets, not by asking."""
        end = time.monotonic() + READY_SECONDS
        while child.alive():
            if port in listening_ports(child.pid):
                return True
            if time.monotonic() > end:
                raise ControlPlaneError(f"{child.name} does not listen after {READY_SECONDS:.0f} s:\n{child.tail()}")
            time.sleep(POLL_SECONDS)
        return False

    def _wait(self, name: str, client: ApiClient, path: str) -> None:
        """Returns when the part answers `path` with 200 over TLS of our authority, and its process runs after that."""
        child = self._children[name]
        end = time.monotonic() + READY_SECONDS
        said = "no answer"
        while time.monotonic() < end:
            child.check()
            try:
                answer = client.request("GET", path)
                said = f"{answer.status}: {str(answer.body)[-400:]}"
            except urllib3.exceptions.HTTPError as error:
                said = str(error)
            else:
                if answer.status == 200:
                    child.check()
                    return
            time.sleep(POLL_SECONDS)
        raise ControlPlaneError(f"{name} is not ready after {READY_SECONDS:.0f} s; last: {said}\n{child.tail()}")

    # -- stopping, outages

    def stop(self) -> None:
        """Ends every part within seconds and removes the run directory; a second call does nothing."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        for name in ("kube-scheduler", "kube-controller-manager"):
            if name in self._children:
                self._children.pop(name).stop()
        # Both take longer than 3 s over a TERM while watches are open, and have nothing to save.
        for name in ("kube-apiserver", "etcd"):
            if name in self._children:
                self._children.pop(name).stop(hard=True)
        if self._run is not None:
            self._run.remove()
            self._run = None

    def stop_apiserver(self) -> None:
        """Begins an outage: kills the API server, connections are refused; data, port and identities are kept."""
        self._children.pop("kube-apiserver").stop(hard=True)

    def start_apiserver(self) -> None:
        """Ends an outage: the API server on the same port with the same data; returns when it is ready."""
        if "kube-apiserver" in self._children:
            raise ControlPlaneError("the API server runs already")
        child = Child(
            "kube-apiserver", self._apiserver_command(self.port), self.logs / "kube-apiserver.log", self.directory
        )
        self._children["kube-apiserver"] = child
        self._wait("kube-apiserver", self.admin, "/readyz")

    def freeze_apiserver(self) -> None:
        """Begins another kind of outage: connections are accepted by the kernel, nothing answers."""
        self._children["kube-apiserver"].freeze()

    def thaw_apiserver(self) -> None:
        """Ends the outage of `freeze_apiserver`."""
        self._children["kube-apiserver"].send(signal.SIGCONT)

    # -- clients

    def _client(
        self, server: str | None = None, *, identity: Pair | None = None, token: str | None = None
    ) -> ApiClient:
        client = ApiClient(server or self.url, str(self.authority.certificate_file), identity=identity, token=token)
        self._clients.append(client)
        return client

    def identity(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """A client certificate for a user with groups."""
        self._issued += 1
        return self.authority.issue(f"client-{self._issued}", user, groups)

    def client(self, user: str, groups: Sequence[str] = ()) -> ApiClient:
        """A REST client as that user."""
        return self._client(identity=self.identity(user, groups))

    def client_with_token(self, token: str) -> ApiClient:
        """A REST client with a bearer token, for example one from `token`."""
        return self._client(token=token)

    def node_client(self, node: str) -> ApiClient:
        """A REST client as the kubelet of that node."""
        return self.client(f"system:node:{node}", ["system:nodes"])

    def write_kubeconfig(
        self, name: str, *, identity: Pair | None = None, token: str | None = None, server: str | None = None
    ) -> Path:
        """Path of a new kubeconfig with that identity or token; `server` as a guest sees it, for example."""
        path = self.directory / f"{name}.kubeconfig"
        return self.authority.kubeconfig(path, server or self.url, identity=identity, token=token)

    def token(self, namespace: str, service_account: str, pod: str | None = None, *, seconds: int = 3600) -> str:
        """A service account's token by TokenRequest, bound to a pod of that name (and so to its node) if given."""
        spec: dict[str, object] = {"expirationSeconds": seconds}
        if pod is not None:
            uid = self.admin.must("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        return str(self.admin.must("POST", path, body)["status"]["token"])

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True, timeout_seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The result of kubectl as administrator; with `check`, ControlPlaneError with its output when it fails."""
        command = [str(self._tools["kubectl"]), "--kubeconfig", str(self.kubeconfig), *words]
        done = subprocess.run(
            command, input=stdin or "", capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
        if check and done.returncode != 0:
            raise ControlPlaneError(f"kubectl {' '.join(words)}: {done.returncode}: {done.stderr or done.stdout}")
        return done

    def wait_for_service_account(self, namespace: str, name: str = "default", *, seconds: float = 30.0) -> None:
        """Returns when the service account exists; before that, admission refuses every pod of the namespace."""
        end = time.monotonic() + seconds
        while self.admin.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}").status != 200:
            self.check()
            if time.monotonic() > end:
                raise ControlPlaneError(f"no service account {namespace}/{name} after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


__all__ = ["ChildDiedError", "ControlPlane", "ControlPlaneError", "Options"]
