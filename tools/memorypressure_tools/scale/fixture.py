"""A cluster of any size in seconds: one object of each kind goes through the API server, its copies into etcd.

The plans are those that the operator itself would write (its planner is asked), so that a started operator finds a
cluster at rest.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from memorypressure.spec import Policy, parse_policy
from memorypressure_operator.planning import Planner
from memorypressure_operator.pods import PodView, decode_pod
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import decode_plan
from memorypressure_operator.views import decode_budget
from memorypressure_tools.apiclient import MERGE_PATCH, ApiClient
from memorypressure_tools.scale import shapes
from memorypressure_tools.scale.etcd import Etcd
from memorypressure_tools.scale.shapes import GROUP, Object, PodShape

REPOSITORY: Final = Path(__file__).resolve().parents[3]
HOME: Final = "memory-pressure"
BUDGETS: Final = 100
_PLANNING_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was made."""

    nodes: int
    pods: int
    stored_bytes: dict[str, int]  # size of one object of each kind


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class Fixture:
    """Fills one control plane. `tell` gets a line for each step."""

    def __init__(self, admin: ApiClient, etcd: Etcd, tell: Callable[[str], None]) -> None:
        self._admin = admin
        self._etcd = etcd
        self._tell = tell

    def fill(self, nodes: int, pods_a_node: int, *, mode: str, at_rest: bool = True) -> Cluster:
        """Nodes, pods, namespaces, budgets and a policy; with `at_rest` also every state and plan."""
        started = time.monotonic()
        policy = self._policy(mode)
        budgets = self._namespaces(nodes)
        node, pod = self._templates()
        self._etcd.put(self._nodes(node, nodes))
        self._tell(f"{nodes:,} nodes after {time.monotonic() - started:.0f} s")
        count = self._etcd.put(self._pods(pod, nodes, pods_a_node))
        self._tell(f"{count:,} pods after {time.monotonic() - started:.0f} s")
        self._drop_templates()
        sizes = {"node": len(node.stored), "pod": len(pod.stored)}
        if at_rest:
            sizes |= self._states_and_plans(policy, budgets, nodes, pods_a_node, pod.view)
            self._tell(f"{nodes:,} states and plans after {time.monotonic() - started:.0f} s")
        return Cluster(nodes, count, sizes)

    # --- what goes through the API ---

    def _policy(self, mode: str) -> Policy:
        body = yaml.safe_load((REPOSITORY / "crds/samples/default.yaml").read_text(encoding="utf-8"))
        body["spec"] |= {"mode": mode, "nodeSelector": {"matchLabels": {"pool": "general"}}}
        return parse_policy(self._admin.must("POST", f"{GROUP}/memorypressurepolicies", body))

    def _namespaces(self, nodes: int) -> list[bytes]:
        """Namespaces, and PodDisruptionBudgets of the first workloads: one disruption allowed each, as healthy ones."""
        for name in (HOME, shapes.NAMESPACE_TEMPLATE, *(f"team-{i:02d}" for i in range(shapes.NAMESPACES))):
            self._admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        path = f"/api/v1/namespaces/{shapes.NAMESPACE_TEMPLATE}/serviceaccounts"
        self._admin.request("POST", path, {"metadata": {"name": "default"}})
        made = []
        for number in range(min(BUDGETS, nodes)):
            pod = PodShape(number // shapes.GROUP_NODES * shapes.GROUP_NODES, number % shapes.GROUP_NODES)
            base = f"/apis/policy/v1/namespaces/{pod.namespace}/poddisruptionbudgets"
            selector = {"matchLabels": {"app.kubernetes.io/name": pod.app}}
            body = {"metadata": {"name": pod.app}, "spec": {"maxUnavailable": 1, "selector": selector}}
            found = self._admin.must("POST", base, body)
            status = {
                "observedGeneration": found["metadata"]["generation"],
                "disruptionsAllowed": 1,
                "currentHealthy": 22,
                "desiredHealthy": 21,
                "expectedPods": 22,
            }
            done = self._admin.must("PATCH", f"{base}/{pod.app}/status", {"status": status}, MERGE_PATCH)
            made.append(json.dumps(done).encode())
        return made

    def _templates(self) -> "tuple[_Template, _Template]":
        admin, name = self._admin, shapes.NODE_TEMPLATE
        admin.must("POST", "/api/v1/nodes", shapes.node_body(name))
        node = admin.must("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, MERGE_PATCH)
        namespace, app = shapes.NAMESPACE_TEMPLATE, shapes.APP_TEMPLATE
        path = f"/api/v1/namespaces/{namespace}/pods"
        made = admin.must("POST", f"{path}?fieldManager=kube-controller-manager", shapes.pod_body(namespace, app, name))
        pod_path = f"{path}/{made['metadata']['name']}"
        status = {"status": shapes.pod_status()}
        pod = admin.must("PATCH", f"{pod_path}/status?fieldManager=kubelet", status, MERGE_PATCH)
        stored_node = self._etcd.get(f"/registry/minions/{name}")
        stored_pod = self._etcd.get(f"/registry/pods/{namespace}/{made['metadata']['name']}")
        return _Template(stored_node, node), _Template(stored_pod, pod)

    def _drop_templates(self) -> None:
        namespace = shapes.NAMESPACE_TEMPLATE
        options = {"gracePeriodSeconds": 0}
        name = f"{shapes.APP_TEMPLATE}-{shapes.HASH}-99999"
        self._admin.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", options)
        self._admin.request("DELETE", f"/api/v1/nodes/{shapes.NODE_TEMPLATE}", options)

    # --- copies ---

    @staticmethod
    def _nodes(template: "_Template", count: int) -> Iterator[tuple[str, bytes]]:
        for number in range(count):
            name = shapes.node_name(number)
            value = template.stored.replace(shapes.NODE_TEMPLATE.encode(), name.encode())
            value = value.replace(template.uid.encode(), shapes.identity(name).encode())
            yield f"/registry/minions/{name}", value

    @staticmethod
    def _pods(template: "_Template", nodes: int, pods_a_node: int) -> Iterator[tuple[str, bytes]]:
        old_name = f"{shapes.APP_TEMPLATE}-{shapes.HASH}-99999".encode()
        born = b"\x08" + _varint(template.born_seconds)
        for node in range(nodes):
            name = shapes.node_name(node).encode()
            for slot in range(pods_a_node):
                pod = PodShape(node, slot)
                value = (
                    template.stored.replace(old_name, pod.name.encode())
                    .replace(shapes.APP_TEMPLATE.encode(), pod.app.encode())
                    .replace(shapes.NAMESPACE_TEMPLATE.encode(), pod.namespace.encode())
                    .replace(shapes.NODE_TEMPLATE.encode(), name)
                    .replace(template.uid.encode(), pod.uid.encode())
                    .replace(born, b"\x08" + _varint(pod.born_seconds))
                )
                yield f"/registry/pods/{pod.namespace}/{pod.name}", value

    # --- our own kinds ---

    def _states_and_plans(
        self, policy: Policy, budgets: list[bytes], nodes: int, pods_a_node: int, template: Any
    ) -> dict[str, int]:
        specs = self._plan_specs(policy, budgets, nodes, pods_a_node, template)
        plan = self._stored("nodememoryplans", specs[0], None)
        mode = policy.mode.value
        reference = {"uid": shapes.identity("plan 0"), "generation": 1}
        spec = {"nodeName": specs[0]["nodeName"], "mode": mode, "policyName": policy.name, "plan": reference}
        status = shapes.report(1, 0, specs[0]["nodeName"], pressed=False, moved=0)
        state = self._stored("nodememorystates", spec, status)
        self._etcd.put(self._plans(plan, specs))
        self._etcd.put(self._states(state, nodes))
        return {"plan": len(json.dumps(plan)), "state": len(json.dumps(state))}

    def _stored(self, plural: str, spec: Object, status: Object | None) -> Object:
        """A made object as it lies in etcd, as JSON; it is removed again."""
        kind = {"nodememoryplans": "NodeMemoryPlan", "nodememorystates": "NodeMemoryState"}[plural]
        name = spec["nodeName"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": shapes.identity(name)}
        body = {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": spec,
        }
        self._admin.must("POST", f"{GROUP}/{plural}?fieldManager=memorypressure-operator", body)
        if status is not None:
            path = f"{GROUP}/{plural}/{name}/status?fieldManager=memorypressure-agent"
            self._admin.must("PATCH", path, {"status": status}, MERGE_PATCH)
        stored: Object = json.loads(self._etcd.get(f"/registry/memorypressure.dev/{plural}/{name}"))
        return stored

    @staticmethod
    def _plans(template: Object, specs: list[Object]) -> Iterator[tuple[str, bytes]]:
        for number, spec in enumerate(specs):
            yield _copy("nodememoryplans", template, number, f"plan {number}", {"spec": spec})

    @staticmethod
    def _states(template: Object, count: int) -> Iterator[tuple[str, bytes]]:
        for number in range(count):
            name = shapes.node_name(number)
            reference = {"uid": shapes.identity(f"plan {number}"), "generation": 1}
            spec = template["spec"] | {"nodeName": name, "plan": reference}
            status = shapes.report(1, 0, name, pressed=False, moved=number)
            yield _copy("nodememorystates", template, number, f"state {number}", {"spec": spec, "status": status})

    def _plan_specs(
        self, policy: Policy, budgets: list[bytes], nodes: int, pods_a_node: int, template: Object
    ) -> list[Object]:
        """What the operator's planner wants for each node, once nothing moves any more."""
        registry = Registry(time.monotonic, 0.0)
        for number in range(shapes.NAMESPACES):
            registry.put_namespace(f"team-{number:02d}", {"kubernetes.io/metadata.name": f"team-{number:02d}"})
        for raw in budgets:
            meta = json.loads(raw)["metadata"]
            registry.put_budget((meta["namespace"], meta["name"]), decode_budget(raw))
        seen = decode_pod(json.dumps(template).encode())
        for node in range(nodes):
            for slot in range(pods_a_node):
                view = _view(seen, PodShape(node, slot))
                registry.put_pod(view.uid, view)
        planner = Planner(registry, HOME, lambda _: 1.0)
        specs: list[Object] = [{} for _ in range(nodes)]
        for _ in range(_PLANNING_ROUNDS):
            moved = 0
            planner.begin_pass()
            for number in range(nodes):
                name = shapes.node_name(number)
                draft = planner.draft(policy, name, list(registry.tables.pods_by_node.get(name, {}).values()))
                if draft.spec != specs[number]:
                    specs[number], moved = draft.spec, moved + 1
                    meta = {"name": name, "uid": shapes.identity(f"plan {number}"), "generation": 1}
                    registry.put_plan(name, decode_plan(json.dumps({"metadata": meta, "spec": draft.spec}).encode()))
            if not moved:
                break
        return specs


class _Template:
    """One object as stored and as the API shows it."""

    def __init__(self, stored: bytes, view: Object) -> None:
        self.stored = stored
        self.view = view
        self.uid: str = view["metadata"]["uid"]

    @property
    def born_seconds(self) -> int:
        """metadata.creationTimestamp."""
        return int(datetime.fromisoformat(self.view["metadata"]["creationTimestamp"]).timestamp())


def _view(template: PodView, pod: PodShape) -> PodView:
    """The operator's view of a copy, made of its view of the template."""
    words = tuple(
        word.replace(shapes.APP_TEMPLATE, pod.app).replace(shapes.NAMESPACE_TEMPLATE, pod.namespace)
        for word in template.traits.label_words
    )
    traits = msgspec.structs.replace(
        template.traits,
        namespace=pod.namespace,
        owner=template.owner.replace(shapes.APP_TEMPLATE, pod.app),
        label_words=words,
    )
    return msgspec.structs.replace(
        template,
        uid=pod.uid,
        name=pod.name,
        node=shapes.node_name(pod.node),
        created=float(pod.born_seconds),
        traits=traits,
    )


def _copy(plural: str, template: Object, number: int, key: str, parts: Object) -> tuple[str, bytes]:
    name = shapes.node_name(number)
    owner = template["metadata"]["ownerReferences"][0] | {"name": name, "uid": shapes.identity(name)}
    meta = template["metadata"] | {"name": name, "uid": shapes.identity(key), "ownerReferences": [owner]}
    value = msgspec.json.encode(template | {"metadata": meta | {"generation": 1}} | parts)
    return f"/registry/memorypressure.dev/{plural}/{name}", value
