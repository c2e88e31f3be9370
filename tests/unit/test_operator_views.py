"""What is kept of other people's objects, and which nodes a change of them concerns."""

import json
from typing import Any

import pytest
from support.fakecluster import Clock

from memorypressure_operator.dirty import Dirty
from memorypressure_operator.pods import decode_pod
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import decode_plan, decode_state, digest
from memorypressure_operator.tables import SINKS
from memorypressure_operator.views import decode_budget, decode_node

# --- views ---


def pod_json(**changes: Any) -> dict[str, Any]:
    spec = {"nodeName": "n", "containers": [{"resources": {"requests": {"memory": "64Mi"}}}], **changes.pop("spec", {})}
    meta = {
        "name": "p",
        "namespace": "ns",
        "uid": "u",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **changes.pop("metadata", {}),
    }
    return {"metadata": meta, "spec": spec, "status": {"phase": "Running", "qosClass": "Burstable"}, **changes}


def view(**changes: Any) -> Any:
    return decode_pod(json.dumps(pod_json(**changes)).encode())


OWNER = {"kind": "ReplicaSet", "name": "web-5d8", "controller": True}
Mi = 1 << 20


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({}, "owner", ""),
        ({"metadata": {"ownerReferences": [OWNER]}}, "owner", "ReplicaSet/web-5d8"),
        (
            {"metadata": {"ownerReferences": [OWNER], "labels": {"pod-template-hash": "5d8"}}},
            "owner",
            "Deployment/web",
        ),
        ({"metadata": {"ownerReferences": [{**OWNER, "controller": False}]}}, "owner", ""),
        ({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}, "static", True),
        (
            {"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "controller": True}]}},
            "daemon_set",
            True,
        ),
        ({"metadata": {"annotations": {"memorypressure.dev/protected": "true"}}}, "annotated", True),
        ({"metadata": {"annotations": {"memorypressure.dev/protected": "no"}}}, "annotated", False),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "local_storage", True),
        ({"spec": {"volumes": [{"emptyDir": {"medium": "Memory"}}]}}, "local_storage", False),
        ({"spec": {"volumes": [{"hostPath": {"path": "/x"}}]}}, "local_storage", True),
        ({"spec": {"volumes": [{"configMap": {"name": "x"}}]}}, "local_storage", False),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "terminating", True),
        ({}, "request_bytes", 64 * Mi),
        ({"spec": {"overhead": {"memory": "9007199255Mi"}}}, "request_bytes", (1 << 53) - 1),
        ({"spec": {"resources": {"requests": {"memory": "8Ei"}}}}, "request_bytes", (1 << 53) - 1),
        ({"spec": {"overhead": {"memory": "16Mi"}}}, "request_bytes", 80 * Mi),
        ({"spec": {"resources": {"requests": {"memory": "1Gi"}}}}, "request_bytes", 1024 * Mi),
        (
            {"spec": {"initContainers": [{"resources": {"requests": {"memory": "100Mi"}}}]}},
            "request_bytes",
            100 * Mi,
        ),
        (
            {"spec": {"initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"memory": "100Mi"}}}]}},
            "request_bytes",
            164 * Mi,
        ),
    ],
)
def test_what_is_read_of_a_pod(changes: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(view(**changes), field) == expected


@pytest.mark.parametrize("letter", ["o", "\N{BRAIN}"])
def test_an_owners_name_that_no_plan_holds_ends_in_a_digest_and_still_names_one_owner(letter: str) -> None:
    owners = [{"kind": "Thing", "name": letter * 400 + end, "controller": True} for end in ("", "1", "2")]
    found = [view(metadata={"ownerReferences": [owner]}).owner for owner in owners]
    assert len(set(found)) == 3
    assert all(name.startswith(f"Thing/{letter}") and 300 < len(name.encode()) <= 317 for name in found)
    assert view(metadata={"ownerReferences": [{"kind": "K", "name": "o" * 315, "controller": True}]}).owner[-1] == "o"


def test_equal_labels_are_kept_once() -> None:
    first, second = (view(metadata={"uid": uid, "labels": {"app": "x"}}) for uid in "ab")
    assert first.labels is second.labels


@pytest.mark.parametrize(
    ("status", "generation", "allowed", "current"),
    [
        ({"disruptionsAllowed": 1, "observedGeneration": 2}, 2, 1, True),
        ({"disruptionsAllowed": 1, "observedGeneration": 1}, 2, 1, False),
        (None, 1, 0, False),
    ],
)
def test_a_budget_counts_only_with_a_status_of_its_spec(
    status: dict[str, int] | None, generation: int, allowed: int, current: bool
) -> None:
    body = {"metadata": {"name": "b", "namespace": "n", "generation": generation}, "spec": {"selector": {}}}
    budget = decode_budget(json.dumps({**body, "status": status}).encode())
    assert (budget.disruptions_allowed, budget.current) == (allowed, current)
    assert budget.covers("n", {"any": "label"})


def test_a_budget_without_a_selector_covers_nothing_and_a_strange_one_everything() -> None:
    body: dict[str, Any] = {"metadata": {"name": "b", "namespace": "n"}, "spec": {}}
    assert not decode_budget(json.dumps(body).encode()).covers("n", {})
    body["spec"]["selector"] = {"matchExpressions": [{"key": "a", "operator": "Near"}]}
    assert decode_budget(json.dumps(body).encode()).covers("n", {})


def test_a_plan_is_known_by_its_content_whatever_the_order_of_its_keys() -> None:
    spec = {"nodeName": "n", "policy": {"name": "p", "generation": 1}, "pods": [{"namespace": "a", "workload": "B/c"}]}
    body = {"metadata": {"name": "n", "uid": "u", "generation": 1}, "spec": dict(reversed(spec.items()))}
    plan = decode_plan(json.dumps(body).encode())
    assert plan.digest == digest(spec)
    assert plan.workloads == {"a/B/c"}
    assert plan.policy == "p"


def test_a_state_without_a_status_has_an_empty_one() -> None:
    state = decode_state(b'{"metadata": {"name": "n", "uid": "u"}, "spec": {"nodeName": "n", "mode": "Disabled"}}')
    assert state.status.lease is None
    assert state.status.active_triggers == ()


def test_a_node_is_not_ready_only_where_it_says_so() -> None:
    def ready(*statuses: str) -> bool:
        conditions = [{"type": "Ready", "status": each} for each in statuses]
        body = {"metadata": {"name": "n", "uid": "u"}, "spec": {}, "status": {"conditions": conditions}}
        return decode_node(json.dumps(body).encode()).ready

    assert ready()
    assert ready("True")
    assert not ready("False")
    assert not ready("Unknown")


# --- registry ---


def taken(dirty: Dirty) -> list[str]:
    """Everything that is due, in order."""
    return [found[0] for found in iter(dirty.take, None)]


def test_new_pressure_comes_first_then_reports_then_what_is_due_and_changes_are_coalesced() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    dirty.add(["a", "b"])
    dirty.add(["a"])
    assert dirty.take() is None
    clock.now += 0.2
    dirty.report("d", urgent=False)
    dirty.report("c", urgent=True)
    dirty.report("b", urgent=False)
    assert [dirty.take() for _ in range(5)] == [("c", True), ("d", True), ("b", True), ("a", False), None]
    assert len(dirty) == 0


def test_a_node_of_which_only_the_report_moved_keeps_its_plan() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    dirty.report("a", urgent=False)
    dirty.add(["b"], light=True, delay_seconds=0.0)
    dirty.add(["b"])
    assert taken(dirty) == ["a", "b"]
    assert not dirty.thorough("a")
    assert dirty.thorough("b")
    assert not dirty.thorough("b")


def test_an_earlier_due_time_stays_and_a_node_is_taken_once() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    for delay in (5.0, 1.0, 3.0):
        dirty.add(["a"], delay_seconds=delay)
    clock.now += 1.5
    assert dirty.waiting() == 1
    assert taken(dirty) == ["a"]
    clock.now += 10
    assert taken(dirty) == []
    assert len(dirty) == 0


def test_due_times_that_were_overtaken_do_not_pile_up() -> None:
    clock = Clock()
    dirty = Dirty(clock, 0.2)
    for _ in range(5000):
        dirty.add(["a"], delay_seconds=300)
        dirty.report("a", urgent=False)
        assert dirty.take() == ("a", True)
    assert len(dirty._heap) <= 1003


def test_no_node_counts_as_dirty_before_every_table_is_complete() -> None:
    clock = Clock()
    registry = Registry(clock, 0.2)
    registry.put_node("n", decode_node(b'{"metadata": {"name": "n", "uid": "u"}, "spec": {}}'))
    assert len(registry.dirty) == 0
    for table in SINKS:
        assert not registry.complete()
        registry.mark_synced(table)
    assert registry.complete()
    clock.now += 1
    assert registry.dirty.take() == ("n", False)


def state_json(version: str, *triggers: str) -> bytes:
    body = {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": version},
        "spec": {"nodeName": "n", "mode": "Enforce"},
        "status": {"activeTriggers": [{"name": name} for name in triggers]},
    }
    return json.dumps(body).encode()


def test_the_first_sight_of_a_report_is_no_change_of_it() -> None:
    clock = Clock()
    registry = Registry(clock, 0.0)
    registry.put_state("n", decode_state(state_json("5", "low")))
    assert "n" in registry.reported_at
    assert "n" not in registry.changed_at
    clock.now += 3
    registry.put_state("n", decode_state(state_json("6", "low", "min")))
    assert registry.changed_at["n"] == clock.now
    registry.put_state("n", decode_state(state_json("4")))
    assert len(registry.tables.states["n"].status.active_triggers) == 2, "an older version comes late"


def test_pods_are_counted_by_workload_and_node_while_they_live() -> None:
    registry = Registry(Clock(), 0.0)
    owner = {"ownerReferences": [{"kind": "Job", "name": "j", "controller": True}]}
    for uid in ("a", "b"):
        registry.put_pod(uid, view(metadata={"uid": uid, **owner}))
    assert registry.tables.workload_nodes == {"ns/Job/j": {"n": 2}}
    registry.put_pod("a", view(metadata={"uid": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", **owner}))
    assert registry.tables.workload_nodes == {"ns/Job/j": {"n": 1}}
    registry.remove_pod("a")
    registry.remove_pod("b")
    assert registry.tables.workload_nodes == {}
    assert registry.tables.pods_by_node == {}
