"""What the chart renders, without a cluster: names, images, labels, the default policy, notes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from memorypressure.spec import Mode, parse_policy
from memorypressure.version import VERSION
from memorypressure_operator import events, settings, tainter
from memorypressure_tools import chartoperator
from memorypressure_tools.helm import CHART, Helm, HelmError, Manifest, find

REPOSITORY = CHART.parent.parent
WORKLOADS = {"DaemonSet", "Deployment", "Job"}
DIGEST = "sha256:" + "ab" * 32
CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def pod_spec(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container(workload: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {c["name"]: c for c in pod_spec(workload)["containers"]}[name]
    return found


def policy_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    configuration = [m for m in manifests if m["kind"] == "ConfigMap"]
    assert [list(c["data"]) for c in configuration] == [["policy.yaml"]]
    policy: dict[str, Any] = yaml.safe_load(configuration[0]["data"]["policy.yaml"])
    return policy


def notes(helm: Helm, *words: str) -> str:
    release = ("memory-pressure", CHART, "-n", "memory-pressure")
    return helm.run("install", *release, "--dry-run=client", *words).split("\nNOTES:\n", 1)[1]


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART)


def test_the_packaged_chart_renders_the_same(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", CHART, "--destination", tmp_path)
    package = tmp_path / f"memory-pressure-operator-{VERSION}.tgz"
    assert helm.template(chart=package) == helm.template()


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    assert chart["kubeVersion"] == ">=1.32.0-0"


def test_artifacthub_lists_the_definitions_that_exist() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    listed = {(c["kind"], c["name"]) for c in yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])}
    definitions = [yaml.safe_load(f.read_text(encoding="utf-8")) for f in (REPOSITORY / "crds").glob("*.yaml")]
    assert listed == {(d["spec"]["names"]["kind"], d["metadata"]["name"]) for d in definitions}


def test_artifacthub_shows_a_policy_that_is_valid_and_stops_nothing() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (example,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    assert parse_policy(example).mode is Mode.DRY_RUN


def test_volumes_of_the_user_reach_reporter_and_operator_and_never_the_sentinel(helm: Helm) -> None:
    volume = {"name": "own-ca", "configMap": {"name": "own-ca"}}
    mount = {"name": "own-ca", "mountPath": "/etc/own-ca", "readOnly": True}
    given = {"extraVolumes": [volume], "extraVolumeMounts": [mount]}
    manifests = helm.template({"agent.reporter": given, "operator": given})
    for kind, name in (("DaemonSet", "reporter"), ("Deployment", "operator")):
        workload = find(manifests, kind)
        assert volume in pod_spec(workload)["volumes"]
        assert mount in container(workload, name)["volumeMounts"]
    assert mount not in container(find(manifests, "DaemonSet"), "sentinel")["volumeMounts"]
    with pytest.raises(HelmError, match=r'agent\.reporter\.extraVolumes "host" is a hostPath'):
        helm.template({"agent.reporter": {"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]}})


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    with pytest.raises(Exception, match=r"chart requires kubeVersion: >=1\.32\.0-0"):
        helm.template(None, "--kube-version", "1.31.9")


@pytest.mark.parametrize(
    ("release", "values", "operator", "agent"),
    [
        ("memory-pressure-operator", {}, "memory-pressure-operator", "memory-pressure-operator-agent"),
        ("mp", {}, "mp-memory-pressure-operator", "mp-memory-pressure-operator-agent"),
        ("mp", {"nameOverride": "oom"}, "mp-oom", "mp-oom-agent"),
        ("mp", {"fullnameOverride": "oom"}, "oom", "oom-agent"),
        ("r" * 53, {}, "r" * 43, "r" * 43 + "-agent"),
    ],
)
def test_objects_are_named_after_release_and_chart(
    helm: Helm, release: str, values: dict[str, str], operator: str, agent: str
) -> None:
    manifests = helm.template(values, release=release)
    assert find(manifests, "Deployment")["metadata"]["name"] == operator
    assert find(manifests, "DaemonSet")["metadata"]["name"] == agent
    assert max(len(m["metadata"]["name"]) for m in manifests if m["kind"] != "CustomResourceDefinition") <= 63


def test_namespaces_that_admission_protects_are_known_to_the_operator(helm: Helm) -> None:
    manifests = helm.template({"admission.protectedNamespaces": ["kube-system", "pay"], "admission.enabled": False})
    (container,) = find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {"name": "MPO_PROTECTED_NAMESPACES", "value": "kube-system,pay"} in container["env"]


def test_a_namespace_override_reaches_every_object_and_every_reference(helm: Helm) -> None:
    manifests = helm.template({"namespaceOverride": "elsewhere"})
    for manifest in manifests:
        expected = None if manifest["kind"] in CLUSTER_SCOPED else "elsewhere"
        assert manifest["metadata"].get("namespace") == expected, manifest["kind"]
        assert all(s["namespace"] == "elsewhere" for s in manifest.get("subjects", [])), manifest["metadata"]["name"]
    users = [
        condition["expression"]
        for manifest in manifests
        if manifest["kind"] == "ValidatingAdmissionPolicy"
        for condition in manifest["spec"].get("matchConditions", [])
    ]
    assert len(users) == 4
    assert all('"system:serviceaccount:elsewhere:' in user for user in users)
    operator_guards = [m for m in manifests if m["metadata"]["name"].endswith(("-evictions", "-pods"))]
    assert all(
        '["elsewhere","kube-system"]' in str(m) for m in operator_guards if m["kind"] == "ValidatingAdmissionPolicy"
    )


def test_common_labels_and_annotations_are_on_every_object_and_pod(helm: Helm) -> None:
    manifests = helm.template({"commonLabels": {"team": "sre"}, "commonAnnotations": {"a/b": "c"}})
    ours = [m for m in manifests if m["kind"] != "CustomResourceDefinition"]
    pods = [m["spec"]["template"] for m in ours if m["kind"] in {"DaemonSet", "Deployment"}]
    assert len(pods) == 2
    for thing in [*ours, *pods]:
        assert thing["metadata"]["labels"]["team"] == "sre"
        assert thing["metadata"]["labels"]["app.kubernetes.io/part-of"] == "memory-pressure-operator"
        assert thing["metadata"]["annotations"]["a/b"] == "c"


def test_labels_of_the_user_cannot_change_what_selects_pods(helm: Helm) -> None:
    manifests = helm.template(
        {"commonLabels": {"app.kubernetes.io/name": "x"}, "agent.podLabels": {"app.kubernetes.io/component": "x"}}
    )
    for kind in ("DaemonSet", "Deployment"):
        spec = find(manifests, kind)["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_selectors_of_agent_and_operator_differ_and_services_use_them(helm: Helm) -> None:
    manifests = helm.template()
    selectors = {kind: find(manifests, kind)["spec"]["selector"]["matchLabels"] for kind in ("DaemonSet", "Deployment")}
    assert selectors["DaemonSet"] != selectors["Deployment"]
    services = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Service"}
    assert services["memory-pressure-memory-pressure-operator-agent-metrics"]["selector"] == selectors["DaemonSet"]
    assert services["memory-pressure-memory-pressure-operator-metrics"]["selector"] == selectors["Deployment"]
    policies = [m["spec"]["podSelector"]["matchLabels"] for m in manifests if m["kind"] == "NetworkPolicy"]
    assert sorted(policies, key=str) == sorted(selectors.values(), key=str)
    job = find(manifests, "Job")["spec"]["template"]["metadata"]["labels"]
    assert not any(selector.items() <= job.items() for selector in selectors.values())


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, f"localhost/memory-pressure-operator/agent:{VERSION}"),
        ({"agent.image.registry": ""}, f"memory-pressure-operator/agent:{VERSION}"),
        ({"agent.image.registry": "a.example"}, f"a.example/memory-pressure-operator/agent:{VERSION}"),
        (
            {"agent.image.registry": "a.example", "global.imageRegistry": "b.example:5000/x"},
            f"b.example:5000/x/memory-pressure-operator/agent:{VERSION}",
        ),
        ({"agent.image.tag": "next"}, "localhost/memory-pressure-operator/agent:next"),
        (
            {"agent.image.tag": "next", "agent.image.digest": DIGEST},
            f"localhost/memory-pressure-operator/agent@{DIGEST}",
        ),
        ({"agent.image.repository": "team/node"}, f"localhost/team/node:{VERSION}"),
    ],
)
def test_the_image_is_registry_repository_and_digest_or_tag(helm: Helm, values: dict[str, str], image: str) -> None:
    daemonset = find(helm.template(values), "DaemonSet")
    assert [c["image"] for c in pod_spec(daemonset)["containers"]] == [image, image]


def test_pull_secrets_come_in_both_shapes_and_once_each(helm: Helm) -> None:
    manifests = helm.template(
        {"global.imagePullSecrets": ["a", {"name": "b"}], "imagePullSecrets": [{"name": "a"}, "c"]}
    )
    for workload in (m for m in manifests if m["kind"] in WORKLOADS):
        assert pod_spec(workload)["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}, {"name": "c"}]


def test_definitions_are_those_of_crds_with_the_keep_annotation_alone_added(helm: Helm) -> None:
    originals = {f.name: yaml.safe_load(f.read_text(encoding="utf-8")) for f in (REPOSITORY / "crds").glob("*.yaml")}
    for keep in (True, False):
        rendered = [m for m in helm.template({"crds.keep": keep}) if m["kind"] == "CustomResourceDefinition"]
        assert len(rendered) == len(originals) == 3
        for definition in rendered:
            annotations = definition["metadata"].pop("annotations", {})
            assert annotations == ({"helm.sh/resource-policy": "keep"} if keep else {})
            assert definition in originals.values()


def test_definitions_can_be_left_out(helm: Helm) -> None:
    assert not [m for m in helm.template({"crds.enabled": False}) if m["kind"] == "CustomResourceDefinition"]


def test_the_default_policy_is_the_default_sample_in_the_mode_of_the_values(helm: Helm) -> None:
    sample = yaml.safe_load((REPOSITORY / "crds/samples/default.yaml").read_text(encoding="utf-8"))
    for mode in ("Disabled", "DryRun", "Enforce"):
        policy = policy_of(helm.template({"defaultPolicy.mode": mode}))
        assert policy == {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "default"},
            "spec": {**sample["spec"], "mode": mode},
        }


def test_a_spec_of_the_user_replaces_the_default_one_as_a_whole(helm: Helm, scenarios: dict[str, Path]) -> None:
    given = yaml.safe_load(scenarios["own-policy"].read_text(encoding="utf-8"))["defaultPolicy"]
    policy = policy_of(helm.template(scenarios["own-policy"]))
    assert policy["metadata"]["name"] == "batch"
    assert policy["spec"] == {**given["spec"], "mode": "Enforce"}
    assert policy["spec"]["victims"]["maxPriority"] == 1999999999  # an integer: a float would be refused by the server


def test_no_policy_object_is_in_the_chart(rendered: dict[str, list[Manifest]]) -> None:
    for manifests in rendered.values():
        assert not [m for m in manifests if m["apiVersion"].startswith("memorypressure.dev/")]


def test_without_a_default_policy_the_operator_is_told_of_none(helm: Helm) -> None:
    manifests = helm.template({"defaultPolicy.create": False})
    assert not [m for m in manifests if m["kind"] == "ConfigMap"]
    assert not [w for w in container(find(manifests, "Deployment"), "operator")["args"] if "default-policy" in w]


def test_the_operator_is_told_the_name_of_the_config_map(helm: Helm) -> None:
    manifests = helm.template()
    name = find(manifests, "ConfigMap")["metadata"]["name"]
    assert name == "memory-pressure-memory-pressure-operator-default-policy"
    assert f"--default-policy-configmap={name}" in container(find(manifests, "Deployment"), "operator")["args"]


def test_only_a_changed_default_policy_changes_the_checksum_that_restarts_the_operator(helm: Helm) -> None:
    def checksum(values: dict[str, Any]) -> str:
        deployment = find(helm.template(values), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/default-policy"])

    assert checksum({}) == checksum({"agent.profile": "Kill"})
    assert checksum({}) != checksum({"defaultPolicy.mode": "Enforce"})


def test_one_operator_is_recreated_and_agents_are_replaced_a_tenth_at_a_time_without_surge(helm: Helm) -> None:
    manifests = helm.template()
    deployment, daemonset = find(manifests, "Deployment")["spec"], find(manifests, "DaemonSet")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert daemonset["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"},
    }


def test_agents_are_critical_tolerate_everything_and_stay_off_virtual_nodes(helm: Helm) -> None:
    spec = pod_spec(
        find(helm.template({"agent.nodeSelector": {"kubernetes.io/os": "windows", "pool": "a"}}), "DaemonSet")
    )
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "a"}
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {(e["key"], e["operator"]) for e in terms[0]["matchExpressions"]} == {
        ("type", "NotIn"),
        ("eks.amazonaws.com/compute-type", "NotIn"),
        ("liqo.io/type", "NotIn"),
    }


def test_names_that_the_chart_shares_with_the_operator_are_the_operators(helm: Helm) -> None:
    assert f"--field-selector reportingComponent={events.CONTROLLER}" in notes(helm)
    manifests = helm.template()
    for kind in ("Deployment", "Job"):
        # where every node carries our taint, the operator and the uninstall Job still find a place
        assert {"key": tainter.KEY, "operator": "Exists"} in pod_spec(find(manifests, kind))["tolerations"]


def test_extra_arguments_and_environment_come_last(helm: Helm) -> None:
    manifests = helm.template(
        {
            "agent.sentinel.extraArgs": ["--a"],
            "agent.reporter.extraArgs": ["--b"],
            "operator.extraArgs": ["--c"],
            "agent.sentinel.extraEnv": [{"name": "X", "value": "1"}],
        }
    )
    daemonset, deployment = find(manifests, "DaemonSet"), find(manifests, "Deployment")
    assert container(daemonset, "sentinel")["args"][-1] == "--a"
    assert container(daemonset, "reporter")["args"][-1] == "--b"
    assert container(deployment, "operator")["args"][-1] == "--c"
    assert container(find(manifests, "Job"), "remove-taints")["args"][-1] == "--c"
    assert container(daemonset, "sentinel")["env"][-1] == {"name": "X", "value": "1"}


@pytest.mark.parametrize("value", [True, False])
def test_one_value_makes_everything_a_dry_run_and_explain_knows_it(helm: Helm, value: bool) -> None:
    manifests = helm.template({"dryRunOnly": value, "agent.profile": "Kill"})
    sentinel = container(find(manifests, "DaemonSet"), "sentinel")["args"]
    operator = container(find(manifests, "Deployment"), "operator")
    environment = {each["name"]: each["value"] for each in operator["env"] if "value" in each}
    assert sentinel.count("--dry-run-only") == value
    assert settings.parse({"namespace": "n"}, environment).dry_run_only is value, "explain reads no arguments of run"
    assert "--dry-run-only" not in operator["args"]


def test_the_operator_as_a_process_of_the_tools_has_the_arguments_and_settings_of_its_pod(helm: Helm) -> None:
    manifests = helm.template({"dryRunOnly": True, "admission.protectedNamespaces": ["kube-system", "pay"]})
    words = chartoperator.command(find(manifests, "Deployment")["spec"]["template"], "here", Path("/kubeconfig"))
    program = next(index for index, word in enumerate(words) if word.endswith("/memorypressure-operator"))
    assert words[:program] == ["/usr/bin/env", "MPO_PROTECTED_NAMESPACES=kube-system,pay", "MPO_DRY_RUN_ONLY=true"]
    assert {"run", "--namespace=here", "--metrics-port=0", "--health-port=0", "--kubeconfig=/kubeconfig"} < set(
        words[program + 1 :]
    )


def test_network_policies_let_in_metrics_and_probes_only(helm: Helm, scenarios: dict[str, Path]) -> None:
    policies = {
        m["metadata"]["labels"]["app.kubernetes.io/component"]: m["spec"]
        for m in helm.template(scenarios["network"])
        if m["kind"] == "NetworkPolicy"
    }
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert policies["agent"]["ingress"] == [{"ports": [{"port": 9464, "protocol": "TCP"}], "from": peers}]
    labels = find(helm.template(scenarios["network"]), "Pod")["metadata"]["labels"]  # of `helm test`
    check = policies["operator"]["ingress"][0]["from"][-1]["podSelector"]["matchLabels"]
    assert check.items() <= labels.items()
    assert policies["operator"]["ingress"] == [
        {"ports": [{"port": 9465, "protocol": "TCP"}], "from": [*peers, {"podSelector": {"matchLabels": check}}]},
        {"ports": [{"port": 8080, "protocol": "TCP"}]},
    ]
    for spec in policies.values():
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert [(p["port"], p["protocol"]) for p in spec["egress"][0]["ports"]] == [
            (53, "UDP"),
            (53, "TCP"),
            (6443, "TCP"),
        ]
    unrestricted = [m["spec"] for m in helm.template() if m["kind"] == "NetworkPolicy"]
    assert all(s["policyTypes"] == ["Ingress"] and "from" not in s["ingress"][0] for s in unrestricted)


def test_the_uninstall_job_is_a_pre_delete_hook_as_the_operator(helm: Helm) -> None:
    manifests = helm.template()
    job = find(manifests, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    assert pod_spec(job)["serviceAccountName"] == pod_spec(find(manifests, "Deployment"))["serviceAccountName"]
    assert not [m for m in helm.template({"uninstall.removeTaints": False}) if m["kind"] == "Job"]


@pytest.mark.parametrize(
    ("words", "present", "absent"),
    [
        (
            (),
            ["profile Observe", "mode DryRun", "kubectl get nms", "kubectl apply -f", "enforce=privileged"],
            ["WARNING"],
        ),
        (("--set", "defaultPolicy.mode=Enforce"), ["WARNING", "cannot kill", "agent.profile=Kill"], []),
        (("--set", "defaultPolicy.mode=Enforce,agent.profile=Kill"), ["mode Enforce (taints, evicts"], ["WARNING"]),
        (("--set", "crds.keep=false"), ["WARNING: crds.keep=false"], []),
        (("--set", "admission.enabled=false"), ["WARNING: admission.enabled=false"], []),
        (("--set", "dryRunOnly=true"), ["WARNING: dryRunOnly=true"], []),
        (("--set", "defaultPolicy.create=false"), ["Policy:   none"], ["mode DryRun"]),
        (("--set", "agent.cgroupDriver=cgroupfs"), ["/sys/fs/cgroup/kubepods on", "agent.cgroupDriver=systemd"], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_the_notes_say_what_is_in_force_and_what_to_do(
    helm: Helm, words: tuple[str, ...], present: list[str], absent: list[str]
) -> None:
    text = notes(helm, *words)
    assert [part for part in present if part not in text] == []
    assert [part for part in absent if part in text] == []
