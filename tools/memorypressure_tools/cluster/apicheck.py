"""Proof that a pod on a node reaches the API server through its Service, with its token and over checked TLS."""

import json
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from memorypressure_tools.cluster.cluster import Cluster

SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.5
PODS: Final = "/api/v1/namespaces/default/pods"
PROGRAM: Final = """
import json, os, ssl, urllib.request
place = "/var/run/secrets/kubernetes.io/serviceaccount"
token = open(f"{place}/token").read()
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
request = urllib.request.Request(
    f"https://{host}:{port}/apis/authentication.k8s.io/v1/selfsubjectreviews",
    json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode(),
    {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
)
context = ssl.create_default_context(cafile=f"{place}/ca.crt")
with urllib.request.urlopen(request, timeout=20, context=context) as answer:
    print(json.dumps({"server": f"{host}:{port}", "user": json.load(answer)["status"]["userInfo"]}))
"""


class ApiUnreachableError(Exception):
    """No pod on the node reaches the API server; the text holds what the pod wrote and how packets are to go."""


def pod(name: str, node: str, image: str) -> dict[str, Any]:
    """The pod that asks once, as the default service account of namespace default."""
    return {
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "ask",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["python3", "-c", PROGRAM],
                }
            ],
        },
    }


def begin(cluster: "Cluster", node: str, image: str) -> None:
    """Creates the node's pod; `prove` waits for it."""
    cluster.plane.admin.must("POST", PODS, pod(_name(node), node, image))


def prove(cluster: "Cluster", node: str) -> str:
    """How the API server calls the pod: its user and the node that its token is bound to; else ApiUnreachableError."""
    plane, name = cluster.plane, _name(node)
    end, status = time.monotonic() + SECONDS, {}
    while time.monotonic() < end:
        cluster.check()
        status = plane.admin.must("GET", f"{PODS}/{name}").get("status", {})
        if status.get("phase") in {"Succeeded", "Failed"}:
            break
        time.sleep(POLL_SECONDS)
    said = plane.kubectl("logs", name, check=False)
    if status.get("phase") != "Succeeded":
        described = plane.kubectl("describe", "pod", name, check=False).stdout[-1500:]
        rules = cluster.nodes[node].shell.run("nft list ruleset; ip route", check=False)
        raise ApiUnreachableError(
            f"pod default/{name} on {node} did not reach the API server in {SECONDS:.0f} s; it wrote:\n"
            f"{said.stdout}{said.stderr}\n{described}\nThe way is {rules}\n{cluster.nodes[node].logs()}"
        )
    answer = json.loads(said.stdout)
    user = answer["user"]
    bound = user.get("extra", {}).get("authentication.kubernetes.io/node-name", ["?"])[0]
    if bound != node:
        raise ApiUnreachableError(
            f"the token of pod default/{name} is bound to node {bound}, not {node}: {said.stdout}"
        )
    plane.admin.must("DELETE", f"{PODS}/{name}")
    return f"{user['username']} on {bound} via {answer['server']}"


def _name(node: str) -> str:
    return f"api-check-{node}"
