"""Removes what one test left on the shared API server: objects whose name begins with the test's prefix."""

import time
from typing import Any, Final

from memorypressure_tools.apiclient import MERGE_PATCH, ApiClient

_CLUSTER_SCOPED: Final = (
    "/api/v1/nodes",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "/apis/scheduling.k8s.io/v1/priorityclasses",
)
SERVED_SECONDS: Final = 20.0
_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def _custom_collections(client: ApiClient) -> list[str]:
    paths: list[str] = []
    for item in client.must("GET", _DEFINITIONS)["items"]:
        spec = item["spec"]
        if spec["scope"] == "Cluster":
            stored = next(version["name"] for version in spec["versions"] if version["storage"])
            paths.append(f"/apis/{spec['group']}/{stored}/{spec['names']['plural']}")
    return paths


def _items(client: ApiClient, collection: str) -> list[Any]:
    """The objects there; none of a definition that is being removed (404)."""
    end = time.monotonic() + SERVED_SECONDS
    while True:
        answer = client.request("GET", collection)
        if answer.status == 404:
            return []
        if answer.status != 429 or time.monotonic() > end:  # 429: a definition's storage is being set up
            found: list[Any] = client.must("GET", collection)["items"]
            return found
        time.sleep(0.1)


def remove_prefixed(client: ApiClient, prefix: str) -> None:
    """Deletes cluster-scoped objects with the prefix; finalizers go first, as their controllers may be gone."""
    for collection in (*_CLUSTER_SCOPED, *_custom_collections(client)):
        for item in _items(client, collection):
            name = item["metadata"]["name"]
            if name.startswith(prefix):
                if item["metadata"].get("finalizers"):
                    client.request("PATCH", f"{collection}/{name}", {"metadata": {"finalizers": None}}, MERGE_PATCH)
                client.request("DELETE", f"{collection}/{name}")


def remove_namespace(client: ApiClient, namespace: str) -> None:
    """Deletes the namespace without waiting; pods go at once, because no kubelet would ever confirm their end."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for item in client.must("GET", pods)["items"]:
        name = item["metadata"]["name"]
        if item["metadata"].get("finalizers"):
            client.request("PATCH", f"{pods}/{name}", {"metadata": {"finalizers": None}}, MERGE_PATCH)
        client.request("DELETE", f"{pods}/{name}", {"gracePeriodSeconds": 0})
    client.request("DELETE", f"/api/v1/namespaces/{namespace}")
