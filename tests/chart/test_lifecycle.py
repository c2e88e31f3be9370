"""Install, upgrade, rollback, uninstall, install again, adoption: each where nothing of the chart is left over."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.helm import CHART, NAMESPACE, RELEASE, Helm, HelmError

FULLNAME = "memory-pressure-memory-pressure-operator"
POLICIES = "/apis/memorypressure.dev/v1alpha1/memorypressurepolicies"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Cluster(Protocol):
    plane: ControlPlane
    helm: Helm


def install(cluster: Cluster, *words: str | Path, release: str = RELEASE, chart: Path = CHART) -> str:
    # hookOnly is Helm's default; named, because no kubelet makes anything ready here
    return cluster.helm.run(
        "install", release, chart, "--namespace", NAMESPACE, "--create-namespace", "--wait=hookOnly", *words
    )


def definitions(plane: ControlPlane) -> set[str]:
    items = plane.admin.must("GET", DEFINITIONS)["items"]
    return {item["metadata"]["name"] for item in items if item["spec"]["group"] == "memorypressure.dev"}


def wait_until(what: str, done: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not after {seconds:.0f} s: {what}"
        time.sleep(0.1)


def served(plane: ControlPlane) -> None:
    """Returns when every kind is served.

    Before that, the deletion of a definition gets stuck (1.37.2: `could not list instances: storage is
    (re)initializing`) and is tried again only minutes later.
    """
    for name in definitions(plane):
        wait_until(
            f"{name} is served", partial(_answers, plane, f"{POLICIES.rpartition('/')[0]}/{name.partition('.')[0]}")
        )


def _answers(plane: ControlPlane, path: str) -> bool:
    return plane.admin.request("GET", path).status == 200


def agent(plane: ControlPlane) -> dict[str, Any]:
    daemonset = plane.admin.must("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{FULLNAME}-agent")
    sentinel: dict[str, Any] = daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    return sentinel


def user_policy(name: str) -> dict[str, Any]:
    policy: dict[str, Any] = yaml.safe_load((CHART / "files/samples/default.yaml").read_text(encoding="utf-8"))
    policy["metadata"]["name"] = name
    return policy


class JobKubelet(threading.Thread):
    """Stands in for the kubelet of the uninstall Job: calls `run` for its pod and reports the pod as ended."""

    def __init__(
        self, plane: ControlPlane, run: Callable[[str], bool], selector: str = "batch.kubernetes.io/job-name"
    ) -> None:
        super().__init__(daemon=True)
        self.plane, self.command, self.selector = plane, run, selector
        self.seen: list[str] = []
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.1):
            answer = self.plane.admin.request("GET", f"{PODS}?labelSelector={self.selector}")
            pods = answer.body["items"] if answer.status == 200 else []
            for name in (p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Pending"):
                self.seen.append(name)
                phase = "Succeeded" if self.command(name) else "Failed"
                self.plane.admin.request("PATCH", f"{PODS}/{name}/status", {"status": {"phase": phase}}, MERGE_PATCH)

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)


def run_as_the_pod(plane: ControlPlane, name: str, **replaced: str) -> "subprocess.CompletedProcess[str]":
    """The pod's own command line, run as its service account, with a token that is bound to it."""
    spec = plane.admin.must("GET", f"{PODS}/{name}")["spec"]
    container = spec["containers"][0]
    kubeconfig = plane.write_kubeconfig(name, token=plane.token(NAMESPACE, spec["serviceAccountName"], name))
    program = Path(sys.executable).parent / container["command"][0]
    words = [word.replace("$(POD_NAMESPACE)", NAMESPACE) for word in container["args"]]
    words = [replaced.get(word.partition("=")[0].strip("-").replace("-", "_"), word) for word in words]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    return subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def job_kubelet() -> Iterator[Callable[..., JobKubelet]]:
    started: list[JobKubelet] = []

    def start(plane: ControlPlane, run: Callable[[str], bool] = lambda _: True, *selector: str) -> JobKubelet:
        started.append(JobKubelet(plane, run, *selector))
        started[-1].start()
        return started[-1]

    yield start
    for kubelet in started:
        kubelet.stop()


@pytest.fixture(scope="module")
def cluster(fresh_cluster: Callable[[], Cluster]) -> Cluster:
    return fresh_cluster()


def uninstall(cluster: Cluster, *words: str, release: str = RELEASE) -> str:
    return cluster.helm.run("uninstall", release, "--namespace", NAMESPACE, *words)


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[Cluster]:
    """The module's cluster without release and definitions, before and after."""

    def sweep() -> None:
        for release in cluster.helm.run("list", "--namespace", NAMESPACE, "--short").split():
            uninstall(cluster, "--no-hooks", release=release)
        served(cluster.plane)
        # Objects first: a definition that still has some waits for them in steps of five seconds.
        cluster.plane.admin.request("DELETE", POLICIES)
        for name in definitions(cluster.plane):
            answer = cluster.plane.admin.request("DELETE", f"{DEFINITIONS}/{name}")
            assert answer.status in {200, 404}, answer.body
        wait_until("the definitions are gone", lambda: not definitions(cluster.plane), 60)

    sweep()
    yield cluster
    sweep()


def test_a_first_install_upgrade_and_rollback(clean: Cluster) -> None:
    # The first test of the module: in this control plane nothing was ever installed.
    fresh, plane = clean, clean.plane
    assert plane.admin.must("GET", DEFINITIONS)["items"] == []
    said = install(fresh)
    assert "STATUS: deployed" in said
    assert "profile Observe" in said
    assert len(definitions(plane)) == 3
    served(plane)
    plane.admin.must("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{FULLNAME}")
    assert agent(plane)["runAsUser"] == 65532
    # A release holds no policy: whatever is there is the user's.
    assert plane.admin.must("GET", POLICIES)["items"] == []
    plane.admin.must("POST", POLICIES, user_policy("mine"))
    before = plane.admin.must("GET", f"{POLICIES}/mine")

    fresh.helm.run("upgrade", RELEASE, CHART, "-n", NAMESPACE, "--set", "agent.profile=Kill,defaultPolicy.mode=Enforce")
    assert agent(plane)["runAsUser"] == 0
    assert agent(plane)["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    fresh.helm.run("rollback", RELEASE, "1", "-n", NAMESPACE)
    assert agent(plane)["runAsUser"] == 65532
    assert agent(plane)["capabilities"] == {"drop": ["ALL"]}
    after = plane.admin.must("GET", f"{POLICIES}/mine")
    assert (after["spec"], after["metadata"]["uid"]) == (before["spec"], before["metadata"]["uid"])


def test_an_upgrade_brings_the_new_charts_definitions(clean: Cluster, tmp_path: Path) -> None:
    install(clean)
    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    file = newer / "files/crds/memorypressurepolicies.yaml"
    definition = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["novelty"] = {"type": "string", "maxLength": 9, "description": "A field of the next version."}
    file.write_text(yaml.safe_dump(definition), encoding="utf-8")
    clean.helm.run("upgrade", RELEASE, newer, "-n", NAMESPACE)
    wait_until(
        "the new field is explained",
        lambda: (
            "A field of the next version." in clean.plane.kubectl("explain", "mpp.spec.novelty", check=False).stdout
        ),
    )


def test_uninstall_lifts_our_taints_and_keeps_definitions_and_policies_for_the_release_to_come_back(
    clean: Cluster, job_kubelet: Callable[..., JobKubelet]
) -> None:
    plane = clean.plane
    install(clean)
    served(plane)
    plane.admin.must("POST", POLICIES, user_policy("mine"))
    foreign = {"key": "dedicated", "value": "x", "effect": "NoSchedule"}
    ours = {"key": "memorypressure.dev/pressure", "value": "reserve", "effect": "NoSchedule"}
    for node in ("tainted-1", "tainted-2"):
        plane.admin.must("POST", "/api/v1/nodes", {"metadata": {"name": node}})
        plane.admin.must("PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": [ours, foreign]}}, MERGE_PATCH)
    ended: list[subprocess.CompletedProcess[str]] = []

    kubelet = job_kubelet(plane, lambda name: ended.append(run_as_the_pod(plane, name)) or ended[-1].returncode == 0)
    said = uninstall(clean)
    assert [(done.returncode, done.stderr.count("taint removed")) for done in ended] == [(0, 2)], ended
    assert len(kubelet.seen) == 1
    for node in ("tainted-1", "tainted-2"):
        assert plane.admin.must("GET", f"/api/v1/nodes/{node}")["spec"]["taints"] == [foreign]
        plane.admin.must("DELETE", f"/api/v1/nodes/{node}")
    assert said.count("[CustomResourceDefinition]") == 3
    assert len(definitions(clean.plane)) == 3
    assert [p["metadata"]["name"] for p in clean.plane.admin.must("GET", POLICIES)["items"]] == ["mine"]
    left = clean.plane.kubectl(
        "get",
        "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings",
        "-o",
        "name",
    )
    assert FULLNAME not in left.stdout
    namespaced = "daemonsets,deployments,jobs,services,serviceaccounts,roles,rolebindings,networkpolicies,configmaps"
    assert FULLNAME not in clean.plane.kubectl("get", namespaced, "-n", NAMESPACE, "-o", "name").stdout
    assert "STATUS: deployed" in install(clean)


def test_uninstall_stops_where_the_taints_cannot_be_removed_and_goes_on_without_hooks(
    clean: Cluster, job_kubelet: Callable[..., JobKubelet]
) -> None:
    values = ["--set", "operator.image.pullPolicy=Never"]
    install(clean, *values)
    job_kubelet(clean.plane, lambda _: False)
    with pytest.raises(HelmError, match="remove-taints"):
        uninstall(clean, "--timeout", "2s")
    assert agent(clean.plane)  # nothing but the hook was touched
    uninstall(clean, "--no-hooks")
    assert clean.plane.admin.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets").body["items"] == []


def test_kept_definitions_are_adopted_by_another_release_only_when_told_so(clean: Cluster) -> None:
    install(clean)
    uninstall(clean, "--no-hooks")
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        install(clean, release="other")
    assert "STATUS: deployed" in install(clean, "--take-ownership", release="other")
    owners = {
        item["metadata"]["annotations"]["meta.helm.sh/release-name"]
        for item in clean.plane.admin.must("GET", DEFINITIONS)["items"]
    }
    assert owners == {"other"}


def test_a_second_release_is_refused_and_the_first_goes_on(clean: Cluster) -> None:
    install(clean)
    for words in (
        (),
        ("--set", "crds.enabled=false"),
        ("--set", "nameOverride=x,fullnameOverride=y,crds.enabled=false"),
    ):
        with pytest.raises(HelmError, match=f'release "{RELEASE}" in namespace "{NAMESPACE}" is an operator of this'):
            install(clean, *words, release="other")
    clean.helm.run("upgrade", RELEASE, CHART, "-n", NAMESPACE, "--set", "crds.enabled=false")
    assert clean.helm.run("list", "-n", NAMESPACE, "--short").split() == [RELEASE]
    clean.plane.kubectl("create", "clusterrole", "unlabelled", "--verb=get", "--resource=pods")
    uninstall(clean, "--no-hooks")
    assert "STATUS: deployed" in install(clean, "--take-ownership", release="other")
    clean.plane.kubectl("delete", "clusterrole", "unlabelled")


def test_definitions_of_kubectl_are_adopted_with_force(clean: Cluster) -> None:
    clean.plane.kubectl("apply", "--server-side", "-f", str(CHART / "files/crds"))
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        install(clean)
    assert "STATUS: deployed" in install(clean, "--take-ownership", "--force-conflicts")


def test_without_keep_the_definitions_and_all_policies_go(clean: Cluster) -> None:
    install(clean, "--set", "crds.keep=false")
    served(clean.plane)
    clean.plane.admin.must("POST", POLICIES, user_policy("mine"))
    uninstall(clean, "--no-hooks")
    wait_until("the definitions are gone", lambda: not definitions(clean.plane), 90)
    assert clean.plane.admin.request("GET", POLICIES).status == 404


def test_helm_test_runs_the_check_with_the_operators_rights_and_fails_with_it(
    clean: Cluster, job_kubelet: Callable[..., JobKubelet]
) -> None:
    plane = clean.plane
    install(clean)
    served(plane)
    ended: list[subprocess.CompletedProcess[str]] = []

    def check(name: str) -> bool:
        ended.append(run_as_the_pod(plane, name, wait_seconds="--wait-seconds=0", metrics_url="--metrics-url="))
        return ended[-1].returncode == 0

    job_kubelet(plane, check, "app.kubernetes.io/component=check")
    assert "Succeeded" in clean.helm.run("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "60s")
    assert [done.stdout.splitlines() for done in ended] == [
        ["ok  no policy yet: nothing is decided", "ok  agents: 0 of 0 nodes report"]
    ]
    plane.admin.must("POST", POLICIES, user_policy("mine"))
    with pytest.raises(HelmError, match="check"):
        clean.helm.run("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "60s")
    assert "NOT policy mine in mode DryRun: no status yet: is the operator running?" in ended[-1].stdout
