"""What the real API server answers to evictions, and what follows from each answer."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.operator_lab import Lab, wait_for

from memorypressure.plans import empty_plan
from memorypressure_operator import evictor, objects
from memorypressure_operator.api import Api, Credentials, node_path
from memorypressure_operator.errors import ApiRefused
from memorypressure_operator.evictor import Outcome
from memorypressure_operator.pods import PodView, decode_pod
from memorypressure_operator.views import decode_node
from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane, Options


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


def named(pod: Any) -> dict[str, str]:
    return {"uid": pod["metadata"]["uid"], "name": pod["metadata"]["name"]}


def budget(lab: Lab, name: str, app: str, allowed: int) -> None:
    """A PodDisruptionBudget, once the controller has judged it."""
    path = f"/apis/policy/v1/namespaces/{lab.namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 2 - allowed, "selector": {"matchLabels": {"app": app}}}
    lab.admin.must("POST", path, {"metadata": {"name": name}, "spec": spec})
    wait_for(lambda: lab.admin.must("GET", f"{path}/{name}").get("status", {}).get("observedGeneration"), "judged")


def test_every_answer_to_an_eviction_has_its_outcome_and_its_next_step(lab: Lab) -> None:
    api = Api(Credentials(str(lab.plane.kubeconfig), 60, lambda: 0.0), 5.0)
    node = lab.node()

    def view(pod: Any) -> PodView:
        return decode_pod(msgspec.json.encode(pod))

    free, held, twice = (view(lab.workload(node, name)[0]) for name in ("free", "held", "twice"))
    budget(lab, "held", "held", 0)
    budget(lab, "one", "twice", 1)
    budget(lab, "two", "twice", 1)
    gone = msgspec.structs.replace(free, name="never-was")
    replaced = msgspec.structs.replace(free, uid=str(uuid.uuid4()))
    answers = {each.name: evictor.evict(api, each, 1) for each in (gone, held, twice)}
    assert answers["never-was"].outcome is Outcome.GONE
    assert answers["held-0"].outcome is Outcome.DISRUPTION_BUDGET
    assert answers["twice-0"].outcome is Outcome.DISRUPTION_BUDGET
    assert "more than one PodDisruptionBudget" in answers["twice-0"].message
    wrong = evictor.evict(api, replaced, 1)
    assert wrong.outcome is Outcome.REPLACED, "a pod of the same name that came later is safe"
    assert all(each.outcome.next_candidate and not each.outcome.spent for each in (*answers.values(), wrong))
    done = evictor.evict(api, free, 30)
    assert done.outcome is Outcome.EVICTED
    assert done.outcome.spent
    assert not done.outcome.next_candidate


def test_a_plan_is_not_written_over_another_writers_and_what_is_invalid_is_told(lab: Lab) -> None:
    api = Api(Credentials(str(lab.plane.kubeconfig), 60, lambda: 0.0), 5.0)
    name = lab.node("test")  # the word that a failed test is called by must not matter
    node = decode_node(api.get(node_path(name)).body)
    first = objects.write_plan(api, node, None, empty_plan(name))
    assert first is not None
    assert objects.write_plan(api, node, None, empty_plan(name)) is None, "it is there already"
    later = objects.write_plan(api, node, first, {**empty_plan(name), "pods": []})
    assert later is not None
    assert (later.uid, later.generation) == (first.uid, first.generation + 1)
    assert objects.write_plan(api, node, first, empty_plan(name)) is None, "another writer's stays"
    anew = msgspec.structs.replace(later, uid=str(uuid.uuid4()))
    assert objects.write_plan(api, node, anew, empty_plan(name)) is None
    with pytest.raises(ApiRefused, match="nodeName") as refused:
        objects.write_plan(api, node, later, {**empty_plan(name), "nodeName": 5})
    assert refused.value.status == 422


def test_a_budget_that_nobody_has_judged_yet_asks_for_a_pause() -> None:
    with ControlPlane(Options(controller_manager=False, scheduler=False)) as plane:
        api = Api(Credentials(str(plane.kubeconfig), 60, lambda: 0.0), 5.0)
        plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "own"}})
        plane.admin.must("POST", "/api/v1/namespaces/own/serviceaccounts", {"metadata": {"name": "default"}})
        meta = {"name": "held", "namespace": "own", "labels": {"app": "held"}}
        pod = {"metadata": meta, "spec": {"containers": [{"name": "main", "image": "none"}], "nodeName": "n"}}
        made = plane.admin.must("POST", "/api/v1/namespaces/own/pods", pod)
        running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        plane.admin.must("PATCH", "/api/v1/namespaces/own/pods/held/status", running, MERGE_PATCH)
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "held"}}}
        path = "/apis/policy/v1/namespaces/own/poddisruptionbudgets"
        plane.admin.must("POST", path, {"metadata": {"name": "held"}, "spec": spec})
        answer = evictor.evict(api, decode_pod(msgspec.json.encode(made)), 1)
    assert answer.outcome is Outcome.DISRUPTION_BUDGET
    assert answer.retry_after_seconds == 10


def test_a_node_that_reports_kills_nobody_counts_does_not_get_pods_evicted(lab: Lab) -> None:
    operator = lab.running()
    node, agent = lab.armed_node()
    pods = lab.workload(node, "web", replicas=4)
    agent.press("reserve")
    agent.kill(pods[0])  # one that it was allowed, and counts
    wait_for(lambda: lab.evicted(pods[0]), "its clean-up")
    lies = [
        {**agent.actions[0], "id": f"lie-{number}", "pod": {**agent.actions[0]["pod"], **named(pod)}}
        for number, pod in enumerate(pods[1:])
    ]
    agent.report(actions=[*lies, *agent.actions])
    wait_for(lambda: len(lab.events("Killed", kind="Pod")) == 4, "the reports are read")
    passes = operator.metric("memorypressure_operator_reconcile_duration_seconds_count")
    wait_for(lambda: operator.metric("memorypressure_operator_reconcile_duration_seconds_count") > passes + 4, "passes")
    assert [lab.evicted(pod) for pod in pods] == [True, False, False, False]
