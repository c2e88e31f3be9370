"""The kubelet's own eviction beside a policy: one pod goes, nobody else, and neither undoes what the other did.

The node is filled by plain load (support/e2eepisode.py): the kubelet acts on memory.available, which a flood hardly
moves and which it looks at every 10 s; both thresholds are crossed within seconds of each other here. A second pod, the
spare, is the next victim of either one.
"""

import json
import time
from collections.abc import Iterator

import pytest
from support.e2eaccounts import swings
from support.e2eepisode import FILLER, Episode, Episodes, changed, filling_policy
from support.e2efaults import kubelet_set
from support.e2elab import BYSTANDERS, GUARDED, NODE, SLOW_SECONDS

from memorypressure_tools.flood import load

pytestmark = pytest.mark.e2e

SPARE = "spare"
SPARE_MIB = 72
AVAILABLE = "200Mi"
"""Of some 430 before the filler fills the node, and 100 afterwards."""
LOOKED_AT_SECONDS = 60
"""After the first pod is gone, while the pressure's taints stand and after them."""
HARD = {
    "evictionHard": {"memory.available": AVAILABLE, "nodefs.available": "0%", "imagefs.available": "0%"},
    "evictionPressureTransitionPeriod": "20s",
}
SOFT = {
    "evictionSoft": {"memory.available": AVAILABLE},
    "evictionSoftGracePeriod": {"memory.available": "15s"},
    "evictionMaxPodGracePeriod": 1,
    "evictionPressureTransitionPeriod": "20s",
}


def _spare_spec() -> load.Object:
    """Eligible for the policy, and within its request, so that the kubelet takes a pod above its own first."""
    command = f"/bin/busybox cp /bin/hog /tmp/{SPARE} && exec /tmp/{SPARE} {SPARE_MIB} 100000"
    requests = {"memory": "100Mi", "cpu": "5m"}
    return load.pod_spec(f"sh -c '{command}'", node=NODE, requests=requests, waits=False)


@pytest.fixture(scope="module")
def beside(episodes: Episodes) -> Iterator[Episodes]:
    """The guarded pod and the hog are away, the spare is there.

    The kubelet, who knows no budgets, would take the guarded pod first; and a hard threshold counts as reserved: with
    the hog's request the node would be overbooked, and the kubelet would refuse a pod when it starts again.
    """
    lab = episodes.lab
    kubectl = lab.cluster.plane.kubectl
    away = ((GUARDED, BYSTANDERS, 1), ("hog", load.NAMESPACE, 2))
    for name, namespace, _ in away:
        kubectl("scale", "deployment", name, "--namespace", namespace, "--replicas=0")
    kubectl("apply", "-f", "-", stdin=json.dumps(load.deployment(SPARE, _spare_spec())))

    def set_up() -> bool:
        there = " ".join(lab.containers(BYSTANDERS) | lab.containers(load.NAMESPACE))
        return f"/{GUARDED}-" not in there and "/hog-" not in there and f"/{SPARE}-" in there

    lab.cluster.wait_for("the spare in the place of the guarded pod and the hog", set_up, SLOW_SECONDS)
    yield episodes
    kubectl("delete", "deployment", SPARE, "--namespace", load.NAMESPACE)
    for name, namespace, replicas in away:
        kubectl("scale", "deployment", name, "--namespace", namespace, f"--replicas={replicas}")
    lab.cluster.wait_for("the guarded pod to be back", lambda: len(lab.containers(BYSTANDERS)) == 2, SLOW_SECONDS)
    lab.used = True  # whoever needs the hog has its pods made anew


def _filled_and_watched(running: Episode) -> set[str]:
    """The fillers' names that were stopped in any way, after a minute in which more could have been."""
    lab = running.lab
    running.place()
    first = running.running()
    assert first is not None
    running.fill()

    def ended() -> bool:
        pods = {pod["metadata"]["uid"]: pod for pod in lab.pods(FILLER)}
        pod = pods.get(first["metadata"]["uid"])
        return pod is None or pod["status"].get("phase") == "Failed" or "deletionTimestamp" in pod["metadata"]

    lab.cluster.wait_for("the filler to be stopped", ended, SLOW_SECONDS)
    running.close()
    end = time.monotonic() + LOOKED_AT_SECONDS
    while time.monotonic() < end:
        assert changed(running.before, running.spared()) == []
        time.sleep(2)
    stopped = {
        each.what.removeprefix("pod ")
        for each in running.observer.changes
        if each.what.startswith(f"pod {FILLER}-")
        and any(word in each.now for word in ("Failed", "deleting", "gone", "(137)"))
    }
    assert first["metadata"]["name"] in stopped
    return stopped


def _taints_came_once(running: Episode) -> None:
    """Ours and the kubelet's: at most one rise each, and none is left."""
    lab = running.lab
    changes = running.observer.changes

    def gone() -> bool:
        node = lab.get(f"/api/v1/nodes/{NODE}")
        return not node["spec"].get("taints")

    lab.cluster.wait_for("all taints to be lifted", gone, SLOW_SECONDS)
    time.sleep(2)
    assert swings(each.now for each in changes if each.what == "taint") <= 1
    others = [each.now for each in changes if each.what == "other taints"]
    assert swings("memory-pressure" if "memory-pressure" in each else "none" for each in others) <= 1


def test_a_pod_that_the_kubelet_evicts_first_is_not_killed_too_and_nobody_else_is(beside: Episodes) -> None:
    lab = beside.lab
    with kubelet_set(lab, **HARD), beside.begin(filling_policy("kubelet-first", after_seconds=40)) as running:
        assert len(_filled_and_watched(running)) == 1
        said = [each.now for each in running.observer.changes if each.what.startswith(f"pod {FILLER}-")]
        assert any("Evicted" in each for each in said), "the kubelet did not evict: the test shows nothing"
        assert running.written() == 0
        _taints_came_once(running)
        running.end_load()
        assert running.broken() == []


def test_a_kill_and_the_kubelets_eviction_at_the_same_time_take_one_pod_together(beside: Episodes) -> None:
    lab = beside.lab
    with kubelet_set(lab, **HARD), beside.begin(filling_policy("kubelet-second", after_seconds=0)) as running:
        assert len(_filled_and_watched(running)) == 1
        assert running.written() <= 1
        _taints_came_once(running)
        running.settle()
        assert running.broken() == []


def test_soft_eviction_and_the_operators_eviction_take_one_pod_together(beside: Episodes) -> None:
    lab = beside.lab
    policy = filling_policy("kubelet-soft", after_seconds=0, action="Evict")
    with kubelet_set(lab, **SOFT), beside.begin(policy) as running:
        assert len(_filled_and_watched(running)) == 1
        assert running.written() == 0
        _taints_came_once(running)
        running.end_load()
        assert running.broken() == []
