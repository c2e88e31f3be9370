"""The launcher itself: whose servers these are, what they enforce, how they go away."""

import base64
import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3

from memorypressure_tools import rundirectory
from memorypressure_tools.apiclient import STRATEGIC_PATCH, ApiClient
from memorypressure_tools.controlplane import ChildDiedError, ControlPlane, Options
from memorypressure_tools.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
GONE_SECONDS = 10.0
PAUSE = {"containers": [{"name": "main", "image": "pause"}]}


def _until(condition: Callable[[], bool], seconds: float = GONE_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _bare(**options: object) -> Options:
    return Options(controller_manager=False, scheduler=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def own_plane(controlplane: ControlPlane) -> Iterator[ControlPlane]:
    """A second control plane, for tests that take it down; the session's one has made sure that the tools are there."""
    with ControlPlane(_bare()) as plane:
        yield plane


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """The port of somebody else's server, which answers every request with 200 and `{"health": "true"}`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"health": "true"}')

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_servers_report_the_pinned_version(controlplane: ControlPlane) -> None:
    version = controlplane.admin.must("GET", "/version")
    pinned = (REPOSITORY / "tools/controlplane/go.mod").read_text(encoding="utf-8")
    assert f"k8s.io/kubernetes {version['gitVersion']} " in pinned
    assert version["gitVersion"] != "v0.0.0"


def test_every_part_runs_as_the_child_whose_pid_is_known(controlplane: ControlPlane) -> None:
    assert set(controlplane.pids) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
    for name, pid in controlplane.pids.items():
        assert Path(f"/proc/{pid}/exe").readlink().name == name


def test_a_user_without_a_role_is_refused(controlplane: ControlPlane, namespace: str) -> None:
    answer = controlplane.client("nobody-special").request("GET", f"/api/v1/namespaces/{namespace}/pods")
    assert answer.status == 403
    assert 'User "nobody-special" cannot list resource "pods"' in answer.body["message"]


def test_a_node_reads_only_secrets_of_its_own_pods(controlplane: ControlPlane, namespace: str, prefix: str) -> None:
    admin = controlplane.admin
    for name in ("mine", "other"):
        admin.must("POST", f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}})
    admin.must("POST", "/api/v1/nodes", {"metadata": {"name": prefix + "a"}})
    volume = {"name": "s", "secret": {"secretName": "mine"}}
    pod = {"metadata": {"name": "p"}, "spec": PAUSE | {"nodeName": prefix + "a", "volumes": [volume]}}
    admin.must("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    node = controlplane.node_client(prefix + "a")
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    # The authorizer learns of the pod from its own watch.
    assert _until(lambda: node.request("GET", f"{secrets}/mine").status == 200)
    refused = node.request("GET", f"{secrets}/other")
    assert refused.status == 403
    assert "no relationship found between node" in refused.body["message"]


def test_a_node_changes_itself_and_no_other_node(controlplane: ControlPlane, prefix: str) -> None:
    for name in ("a", "b"):
        controlplane.admin.must("POST", "/api/v1/nodes", {"metadata": {"name": prefix + name}})
    node = controlplane.node_client(prefix + "a")
    patch = {"status": {"nodeInfo": {"kernelVersion": "6.1"}}}
    own = node.request("PATCH", f"/api/v1/nodes/{prefix}a/status", patch, STRATEGIC_PATCH)
    other = node.request("PATCH", f"/api/v1/nodes/{prefix}b/status", patch, STRATEGIC_PATCH)
    assert own.status == 200
    assert other.status == 403
    assert "is not allowed to modify node" in other.body["message"]


def test_a_token_bound_to_a_pod_names_the_pod_and_its_node(
    controlplane: ControlPlane, namespace: str, prefix: str
) -> None:
    controlplane.admin.must("POST", "/api/v1/nodes", {"metadata": {"name": prefix + "a"}})
    pod = {"metadata": {"name": "p"}, "spec": PAUSE | {"nodeName": prefix + "a"}}
    controlplane.admin.must("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    token = controlplane.token(namespace, "default", "p")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["kubernetes.io"]["pod"]["name"] == "p"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    who = controlplane.client_with_token(token).must(
        "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review
    )
    assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert who["status"]["userInfo"]["extra"]["authentication.kubernetes.io/node-name"] == [prefix + "a"]


def test_the_scheduler_places_pods_and_the_controller_manager_sees_deployments(
    controlplane: ControlPlane, namespace: str, prefix: str
) -> None:
    labels = {"for": namespace}
    node = {"metadata": {"name": prefix + "a", "labels": labels}}
    controlplane.admin.must("POST", "/api/v1/nodes", node)
    ready = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "capacity": {"pods": "9"},
        "allocatable": {"pods": "9"},
    }
    controlplane.admin.must("PATCH", f"/api/v1/nodes/{prefix}a/status", {"status": ready}, STRATEGIC_PATCH)
    template = {"metadata": {"labels": labels}, "spec": PAUSE | {"nodeSelector": labels}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    controlplane.admin.must("POST", path, {"metadata": {"name": "d"}, "spec": spec})

    def placed() -> bool:
        pods = controlplane.admin.must("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        return [pod["spec"].get("nodeName") for pod in pods] == [prefix + "a"]

    assert _until(placed, 30)


def test_names_differ_from_test_to_test(namespace: str, prefix: str, request: pytest.FixtureRequest) -> None:
    assert namespace != prefix.removesuffix("-")
    assert namespace.endswith("names-differ-from-test-to")


def test_a_port_that_somebody_else_answers_on_is_left_alone(controlplane: ControlPlane, foreign_port: int) -> None:
    used: list[int] = []

    def pick() -> int:
        # etcd's client port and its peer port, then the API server's: each meets the foreign server first.
        used.append(foreign_port if len(used) in {0, 4} else free_port())
        return used[-1]

    with ControlPlane(_bare(), pick_port=pick) as plane:
        assert used.count(foreign_port) == 2
        assert foreign_port not in {plane.port, int(plane.etcd_url.rsplit(":", 1)[1])}
        assert plane.admin.must("GET", "/api/v1/namespaces/default")["kind"] == "Namespace"
    with socket.create_connection(("127.0.0.1", foreign_port), timeout=2):
        pass  # still theirs, still there


def test_a_client_refuses_a_server_of_another_authority(controlplane: ControlPlane, own_plane: ControlPlane) -> None:
    with (
        contextlib.closing(ApiClient(controlplane.url, str(own_plane.authority.certificate_file))) as stranger,
        pytest.raises(urllib3.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        stranger.request("GET", "/readyz")


def test_an_outage_keeps_port_data_and_identities(own_plane: ControlPlane) -> None:
    own_plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "kept"}})
    port, pid = own_plane.port, own_plane.pids["kube-apiserver"]
    own_plane.stop_apiserver()
    with pytest.raises(urllib3.exceptions.HTTPError, match="refused"):
        own_plane.admin.request("GET", "/readyz")
    own_plane.start_apiserver()
    assert own_plane.port == port
    assert own_plane.pids["kube-apiserver"] != pid
    assert own_plane.admin.must("GET", "/api/v1/namespaces/kept")["metadata"]["name"] == "kept"


def test_a_frozen_server_answers_nothing_until_it_is_thawed(own_plane: ControlPlane) -> None:
    own_plane.freeze_apiserver()
    with contextlib.closing(socket.create_connection(("127.0.0.1", own_plane.port), timeout=0.5)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    own_plane.thaw_apiserver()
    assert own_plane.admin.request("GET", "/readyz").status == 200


def test_a_server_started_by_a_short_lived_thread_outlives_the_thread(own_plane: ControlPlane) -> None:
    own_plane.stop_apiserver()
    thread = threading.Thread(target=own_plane.start_apiserver)
    thread.start()
    thread.join()
    time.sleep(0.2)  # the kernel would have sent the signal at the thread's end
    own_plane.check()
    assert own_plane.admin.request("GET", "/readyz").status == 200


def test_a_part_that_ends_is_reported_with_the_end_of_its_log(controlplane: ControlPlane) -> None:
    with pytest.raises(ChildDiedError, match=r"kube-apiserver \(pid \d+\) ended with code 1(.|\n)*--no-such-flag"):
        ControlPlane(_bare(apiserver_flags=["--no-such-flag"])).start()


def test_a_killed_parent_leaves_no_server_and_the_next_start_no_directory(
    controlplane: ControlPlane, tmp_path: Path
) -> None:
    script = (
        "import json, pathlib, sys, time\n"
        "from memorypressure_tools.controlplane import ControlPlane, Options\n"
        "options = Options(controller_manager=False, scheduler=False, parent=pathlib.Path(sys.argv[1]))\n"
        "plane = ControlPlane(options).start()\n"
        "print(json.dumps(plane.pids), flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tools")}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = list(json.loads(parent.stdout.readline()).values())
        assert len(pids) == 2
        assert all(_runs(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    assert _until(lambda: not any(_runs(pid) for pid in pids))
    assert len(list(tmp_path.iterdir())) == 1
    left = rundirectory.RunDirectory(tmp_path)
    assert list(tmp_path.iterdir()) == [left.path]
    left.remove()
    assert list(tmp_path.iterdir()) == []


def test_by_hand_it_runs_in_the_background_until_it_is_told_to_stop(controlplane: ControlPlane, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tools")}

    def by_hand(*words: str) -> tuple[int, str]:
        """Exit code and output, read to the end: a pipe that the servers kept open would be the time limit."""
        command = [sys.executable, "-m", "memorypressure_tools", "--state", str(tmp_path), *words]
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    assert by_hand("status") == (1, "no control plane runs\n")
    code, output = by_hand("up", "--background", "--no-controllers")
    try:
        assert code == 0, output
        assert "export KUBECONFIG=" in output
        pids = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))["parts"].values()
        assert len(pids) == 2
        assert all(_runs(pid) for pid in pids)
        code, output = by_hand("up", "--background")
        assert (code, "runs already; see `status`, end it with `down`" in output) == (1, True)
        assert by_hand("status")[0] == 0
    finally:
        assert by_hand("down") == (0, "stopped\n")
    assert _until(lambda: not any(_runs(pid) for pid in pids))
    assert by_hand("down") == (0, "no control plane runs\n")
