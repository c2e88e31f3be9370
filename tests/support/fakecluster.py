"""An API server in memory, for what a real one cannot show at will: answers on demand, time that a test moves.

It knows ConfigMaps with resourceVersions, pods, evictions and plans. Everything else is tested on a real API server.
"""

import json
from collections.abc import Callable
from typing import Any

from memorypressure_operator.api import Answer
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.pods import PodView, decode_pod


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pod_json(uid: str, *, node: str = "n", owner: str = "web", **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": uid,
            "namespace": "ns",
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "ReplicaSet", "name": owner, "controller": True}],
            **meta,
        },
        "spec": {"nodeName": node, "containers": [{"resources": {"requests": {"memory": "64Mi"}}}]},
        "status": {"phase": "Running", "qosClass": "Burstable"},
    }


class FakeCluster:
    """`answers`: pod uid -> what its evictions raise, one after the other. `before`: called before every request."""

    def __init__(self) -> None:
        self.config_maps: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.policies: list[dict[str, Any]] = []
        self.plans: dict[str, dict[str, Any]] = {}
        self.states: dict[str, dict[str, Any]] = {}  # those that are kept; others are as a patch makes them
        self.answers: dict[str, list[Exception | None]] = {}
        self.evictions: list[str] = []
        self.deletes: list[str] = []
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.version = 0

    def add(self, uid: str, **changes: Any) -> PodView:
        self.pods[uid] = pod_json(uid, **changes)
        return self.view(uid)

    def view(self, uid: str) -> PodView:
        return decode_pod(json.dumps(self.pods[uid]).encode())

    def views(self) -> dict[str, PodView]:
        return {uid: self.view(uid) for uid in self.pods}

    def get(self, path: str, **_: Any) -> Answer:
        return self.request("GET", path)

    def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Answer:
        self.before(method, path)
        if method != "GET":
            self.writes.append((method, path))
        if path.endswith("/memorypressurepolicies"):
            return Answer(
                200, json.dumps({"apiVersion": "memorypressure.dev/v1alpha1", "items": self.policies}).encode()
            )
        if "/memorypressurepolicies/" in path:
            return self._policy_status(path.split("/")[-2], body["status"])
        if "/nodememoryplans" in path:
            return self._plan(body)
        if "/nodememorystates/" in path and method == "GET":
            name = path.rsplit("/", 1)[1]
            if name not in self.states:
                raise ApiRefused(404, "NotFound", "none")
            return Answer(200, json.dumps(self.states[name]).encode())
        if "/nodememorystates/" in path:
            return self._state(path.rsplit("/", 1)[1], body)
        if "/configmaps" in path:
            return self._config_map(method, path.partition("/configmaps")[2].strip("/"), body)
        if path.endswith("/eviction"):
            return self._evict(path.split("/")[-2], body)
        uid = path.rsplit("/", 1)[1]
        if uid not in self.pods:
            raise ApiRefused(404, "NotFound", "none")
        if method == "DELETE":
            self.deletes.append(uid)
        return Answer(200, json.dumps(self.pods[uid]).encode())

    def _state(self, name: str, patch: Any) -> Answer:
        """A state as patched; what it was before is the caller's to know, or in `states`."""
        self.version += 1
        held = self.states.get(name)
        if held is not None:
            meta = held["metadata"]
            if patch["metadata"].get("resourceVersion", meta["resourceVersion"]) != meta["resourceVersion"]:
                raise ApiRefused(409, "Conflict", "stale")
            held["spec"] = {key: value for key, value in {**held["spec"], **patch["spec"]}.items() if value is not None}
            held["metadata"] = meta | {"resourceVersion": str(self.version), "generation": meta["generation"] + 1}
            return Answer(200, json.dumps(held).encode())
        spec = {key: value for key, value in patch["spec"].items() if value is not None}
        meta = {**patch["metadata"], "name": name, "uid": "s", "generation": 2, "resourceVersion": str(self.version)}
        return Answer(200, json.dumps({"metadata": meta, "spec": spec}).encode())

    def _policy_status(self, name: str, status: Any) -> Answer:
        """The policy as it is listed, with that status."""
        self.version += 1
        listed = next((each for each in self.policies if each["metadata"]["name"] == name), None)
        if listed is None:
            raise ApiRefused(404, "NotFound", "none")
        listed["metadata"]["resourceVersion"], listed["status"] = str(self.version), status
        kind = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy"}
        return Answer(200, json.dumps({**kind, **listed}).encode())

    def _plan(self, body: Any) -> Answer:
        """A plan as created, or as changed by a JSON patch that replaces its spec."""
        spec = body["spec"] if isinstance(body, dict) else body[-1]["value"]
        name = spec["nodeName"]
        generation = self.plans[name]["metadata"]["generation"] + 1 if name in self.plans else 1
        owner = body["metadata"]["ownerReferences"] if isinstance(body, dict) else body[-2]["value"]
        meta = {"name": name, "uid": f"plan-{name}", "generation": generation, "ownerReferences": owner}
        self.plans[name] = {"metadata": meta, "spec": spec}
        return Answer(200, json.dumps(self.plans[name]).encode())

    def _evict(self, uid: str, body: Any) -> Answer:
        self.evictions.append(uid)
        waiting = self.answers.get(uid) or [None]
        error = waiting.pop(0)
        if error is not None:
            raise error
        if uid not in self.pods:
            raise ApiRefused(404, "NotFound", "none")
        assert body["deleteOptions"]["preconditions"] == {"uid": uid}
        self.pods[uid]["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
        return Answer(201, b"{}")

    def _config_map(self, method: str, name: str, body: Any) -> Answer:
        if method == "GET" and not name:
            return Answer(200, json.dumps({"items": list(self.config_maps.values())}).encode())
        if method == "GET":
            if name not in self.config_maps:
                raise ApiRefused(404, "NotFound", "none")
            return Answer(200, json.dumps(self.config_maps[name]).encode())
        if method == "DELETE":
            del self.config_maps[name]
            return Answer(200, b"{}")
        name = body["metadata"]["name"]
        there = self.config_maps.get(name)
        if (there is None) != (method == "POST"):
            raise ApiRefused(409 if there else 404, "Conflict" if there else "NotFound", "x")
        wanted = body["metadata"].get("resourceVersion")
        if there is not None and wanted is not None and wanted != there["metadata"]["resourceVersion"]:
            raise ApiRefused(409, "Conflict", "stale")
        self.version += 1
        made = json.loads(json.dumps(body))
        made["metadata"]["resourceVersion"] = str(self.version)
        self.config_maps[name] = made
        return Answer(200, json.dumps(made).encode())
