"""`make scale`'s moves, on a control plane that does at once what an operator would do."""

import base64
from typing import Any

import pytest

from memorypressure_tools.scale import moves as moves_module
from memorypressure_tools.scale import observe, shapes
from memorypressure_tools.scale.etcd import Etcd
from memorypressure_tools.scale.moves import ALL_MOVES, FEW, FEW_MOVES, Moves

NODES = 40


class Cluster:
    """Nodes with labels, policies that select one label, and states as an operator writes them.

    A policy in mode Disabled is in force nowhere.
    """

    def __init__(self) -> None:
        self.labels = {shapes.node_name(number): {"pool": "general"} for number in range(NODES)}
        self.policies: dict[str, Any] = {
            shapes.POLICY: {"mode": "Enforce", "priority": 0, "nodeSelector": {"matchLabels": {"pool": "general"}}}
        }
        self.shown: dict[str, Any] = {}
        self.written = 0
        self.act()

    def act(self) -> None:
        for node, labels in self.labels.items():
            found = sorted(
                (-spec["priority"], name)
                for name, spec in self.policies.items()
                if spec["mode"] != "Disabled" and spec["nodeSelector"]["matchLabels"].items() <= labels.items()
            )
            name = found[0][1] if found else None
            spec = {"mode": self.policies[name]["mode"], "policyName": name} if name else {"mode": "Disabled"}
            if spec != self.shown.get(node):
                self.shown[node] = spec
                self.written += 1

    def must(self, method: str, path: str, body: Any = None, _: str = "") -> Any:
        name, answer = path.rsplit("/", 1)[1], {}
        if method == "GET" and name.startswith("nodememorystates?"):
            first = name.endswith("continue=")
            half = [*self.shown.values()][: NODES // 2] if first else [*self.shown.values()][NODES // 2 :]
            answer = {"items": [{"spec": spec} for spec in half], "metadata": {"continue": "x"} if first else {}}
        elif method == "GET":
            answer = {"spec": self.shown[name] if "nodememorystates/" in path else dict(self.policies[name])}
        elif method == "POST":
            self.policies[body["metadata"]["name"]] = body["spec"]
        elif method == "DELETE":
            del self.policies[name]
        elif "/nodes/" in path:
            self.labels[name] |= body["metadata"]["labels"]
        else:
            self.policies[name] = self.policies[name] | body["spec"]
        self.act()
        return answer


class Gateway:
    """etcd's JSON gateway: nodes as stored bytes, three a page."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def must(self, _: str, path: str, body: Any) -> Any:
        if path.endswith("/txn"):
            for each in body["success"]:
                key, value = (base64.b64decode(each["requestPut"][part]) for part in ("key", "value"))
                pool = "special" if b"special" in value else "general"
                self._cluster.labels[key.decode().rsplit("/", 1)[1]]["pool"] = pool
            self._cluster.act()
            return {}
        stored = {
            f"/registry/minions/{name}": b"k8s\x00..\x12\x04pool\x12\x07" + labels["pool"].encode() + b".."
            for name, labels in self._cluster.labels.items()
        }
        start, end = (base64.b64decode(body[part]).decode() for part in ("key", "range_end"))
        keys = [key for key in sorted(stored) if start <= key < end]
        kvs = [
            {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(stored[key]).decode()}
            for key in keys[:3]
        ]
        return {"kvs": kvs} | ({"more": True} if len(keys) > 3 else {})

    def close(self) -> None:
        """Nothing is open."""


class Plane:
    def __init__(self, cluster: Cluster) -> None:
        self.admin = cluster

    def etcd_client(self) -> Gateway:
        return Gateway(self.admin)


class Audit:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def writes(self) -> dict[str, int]:
        count, self._cluster.written = self._cluster.written, 0
        return {"patch nodememorystates": count}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def moves(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Moves:
    monkeypatch.setattr(moves_module.time, "sleep", lambda _: None)
    monkeypatch.setattr(observe, "cpu_seconds", lambda _: 1.0)
    parts: Any = (Plane(cluster), Audit(cluster))
    return Moves(*parts, 1, NODES, lambda _: None)


def test_every_move_of_thirty_nodes_is_made_and_seen_and_they_end_where_they_were(
    cluster: Cluster, moves: Moves
) -> None:
    before = dict(cluster.shown)
    found = moves.few()
    assert tuple(found) == FEW_MOVES
    assert all(each["seconds"] is not None for each in found.values())
    assert sum(labels.get("few") == "yes" for labels in cluster.labels.values()) == FEW
    assert cluster.shown == before


def test_every_move_of_all_nodes_is_made_and_seen(cluster: Cluster, moves: Moves) -> None:
    found = moves.everything()
    assert tuple(found) == ALL_MOVES
    assert [each["writes"]["patch nodememorystates"] for each in found.values()] == [NODES] * len(ALL_MOVES)
    assert all(each["seconds"] is not None for each in found.values())
    assert [*cluster.shown.values()] == [{"mode": "Disabled"}] * NODES
    assert cluster.policies == {}


def test_everything_under_a_prefix_of_etcd_is_read_page_by_page(cluster: Cluster) -> None:
    client: Any = Gateway(cluster)
    found = dict(Etcd(client).under("/registry/minions/"))
    assert len(found) == NODES
    assert found["/registry/minions/node-00039"].endswith(b"general..")
    assert list(Etcd(client).under("/registry/pods/")) == []
