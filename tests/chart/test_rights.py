"""What each process may do: security contexts by profile, mounts, tokens, and the rules of RBAC."""

from typing import Any

import pytest

from memorypressure_tools.helm import Helm, Manifest, find

PROFILES = ("Observe", "Kill", "KillFast")
UNPRIVILEGED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    "appArmorProfile": {"type": "RuntimeDefault"},
}


def killer(*capabilities: str) -> dict[str, Any]:
    return {
        **UNPRIVILEGED,
        "runAsNonRoot": False,
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "capabilities": {"drop": ["ALL"], "add": list(capabilities)},
    }


def pod_spec(workload: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def by_name(things: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {thing["name"]: thing for thing in things}


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [m for m in manifests if m["kind"] in {"DaemonSet", "Deployment", "Job"}]


def rules_of(manifests: list[Manifest], kind: str, name: str) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of every right."""
    return {
        (group, resource, verb)
        for rule in find(manifests, kind, name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def rights(group: str, resources: str, verbs: str) -> set[tuple[str, str, str]]:
    return {(group, resource, verb) for resource in resources.split() for verb in verbs.split()}


@pytest.mark.parametrize(
    ("profile", "realtime", "sentinel", "read_only", "host_pid"),
    [
        ("Observe", False, UNPRIVILEGED, True, False),
        ("Kill", False, killer("IPC_LOCK"), False, False),
        ("Kill", True, killer("IPC_LOCK", "SYS_NICE"), False, False),
        ("KillFast", False, killer("IPC_LOCK"), False, True),
        ("KillFast", True, killer("IPC_LOCK", "SYS_NICE"), False, True),
    ],
)
def test_a_profile_gives_the_sentinel_exactly_its_rights(
    helm: Helm, profile: str, realtime: bool, sentinel: dict[str, Any], read_only: bool, host_pid: bool
) -> None:
    spec = pod_spec(find(helm.template({"agent.profile": profile, "agent.realtime": realtime}), "DaemonSet"))
    containers = by_name(spec["containers"])
    assert set(containers) == {"sentinel", "reporter"}
    assert containers["sentinel"]["securityContext"] == sentinel
    assert containers["reporter"]["securityContext"] == UNPRIVILEGED
    mount = by_name(containers["sentinel"]["volumeMounts"])["pods-cgroup"]
    assert (mount["readOnly"], mount["mountPropagation"]) == (read_only, "HostToContainer")
    assert (spec["hostPID"], spec["hostNetwork"], spec["hostIPC"]) == (host_pid, False, False)
    assert ("--realtime" in containers["sentinel"]["args"]) is realtime
    assert "initContainers" not in spec


@pytest.mark.parametrize(
    ("values", "path", "mounted"),
    [
        ({}, "/sys/fs/cgroup/kubepods.slice", "/host/cgroup/kubepods.slice"),
        ({"agent.cgroupDriver": "cgroupfs"}, "/sys/fs/cgroup/kubepods", "/host/cgroup/kubepods"),
        (
            {"agent.podsCgroup": "/sys/fs/cgroup/kubelet.slice/kubelet-kubepods.slice/"},
            "/sys/fs/cgroup/kubelet.slice/kubelet-kubepods.slice",
            "/host/cgroup/kubepods.slice",
        ),
        (
            {"agent.podsCgroup": "/sys/fs/cgroup/kubelet/kubepods"},
            "/sys/fs/cgroup/kubelet/kubepods",
            "/host/cgroup/kubepods",
        ),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_only_host_path_is_the_pods_cgroup_and_only_the_sentinel_has_it(
    helm: Helm, profile: str, values: dict[str, str], path: str, mounted: str
) -> None:
    manifests = helm.template({**values, "agent.profile": profile})
    spec = pod_spec(find(manifests, "DaemonSet"))
    host_paths = [v for m in workloads(manifests) for v in pod_spec(m).get("volumes", []) if "hostPath" in v]
    # type Directory: a path that is missing stops the pod, and no cgroup is made on the host
    assert host_paths == [{"name": "pods-cgroup", "hostPath": {"path": path, "type": "Directory"}}]
    mounts = {c["name"]: by_name(c["volumeMounts"]) for c in spec["containers"]}
    assert mounts["sentinel"]["pods-cgroup"]["mountPath"] == mounted
    assert "pods-cgroup" not in mounts["reporter"]
    assert "--cgroup-root=/host/cgroup" in by_name(spec["containers"])["sentinel"]["args"]


def test_only_the_reporter_has_a_token_and_it_is_bound_and_short(helm: Helm) -> None:
    manifests = helm.template()
    spec = pod_spec(find(manifests, "DaemonSet"))
    assert spec["automountServiceAccountToken"] is False
    assert find(manifests, "ServiceAccount", spec["serviceAccountName"])["automountServiceAccountToken"] is False
    sources = by_name(spec["volumes"])["token"]["projected"]["sources"]
    assert [next(iter(source)) for source in sources] == ["serviceAccountToken", "configMap", "downwardAPI"]
    assert sources[0]["serviceAccountToken"] == {"path": "token", "expirationSeconds": 3600}
    containers = by_name(spec["containers"])
    assert by_name(containers["reporter"]["volumeMounts"])["token"] == {
        "name": "token",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": True,
    }
    assert set(by_name(containers["sentinel"]["volumeMounts"])) == {"orders", "journal", "pods-cgroup"}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_kernel_log_is_read_by_a_container_that_can_do_nothing_else(helm: Helm, profile: str) -> None:
    values = {"agent.profile": profile, "agent.kernelLog.enabled": True}
    spec = pod_spec(find(helm.template(values), "DaemonSet"))
    without = pod_spec(find(helm.template({"agent.profile": profile}), "DaemonSet"))
    containers, before = by_name(spec["containers"]), by_name(without["containers"])
    assert set(containers) - set(before) == {"kernel-log"}
    added = containers["kernel-log"]
    assert added["volumeMounts"] == [{"name": "kernel-log", "mountPath": "/run/kernel-log"}]
    context = added["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["SYSLOG"]}
    assert (context["runAsUser"], context["privileged"], context["allowPrivilegeEscalation"]) == (0, False, False)
    assert context["readOnlyRootFilesystem"] is True
    assert context["seccompProfile"] == context["appArmorProfile"] == {"type": "RuntimeDefault"}
    assert added["resources"] == {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "32Mi"}}
    assert containers["sentinel"] == before["sentinel"]
    assert by_name(containers["reporter"]["volumeMounts"])["kernel-log"]["readOnly"] is True
    assert by_name(spec["volumes"])["kernel-log"] == {
        "name": "kernel-log",
        "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"},
    }


def test_orders_and_journal_are_two_memory_volumes_each_written_by_one_side(helm: Helm) -> None:
    spec = pod_spec(find(helm.template(), "DaemonSet"))
    volumes, containers = by_name(spec["volumes"]), by_name(spec["containers"])
    for volume, writer, reader in (("orders", "reporter", "sentinel"), ("journal", "sentinel", "reporter")):
        assert volumes[volume]["emptyDir"]["medium"] == "Memory"
        assert not by_name(containers[writer]["volumeMounts"])[volume].get("readOnly", False)
        assert by_name(containers[reader]["volumeMounts"])[volume]["readOnly"] is True


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_is_confined_and_gets_what_it_requests(helm: Helm, profile: str) -> None:
    for workload in workloads(helm.template({"agent.profile": profile})):
        spec = pod_spec(workload)
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
            assert set(context["capabilities"].get("add", [])) <= {"IPC_LOCK", "SYS_NICE"}
            assert context["seccompProfile"] == context["appArmorProfile"] == {"type": "RuntimeDefault"}
            assert context.get("privileged", False) is False
            resources = container["resources"]
            assert set(resources["requests"]) == {"cpu", "memory"}
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            # A quota would hold them still just when they are needed; without one the agent's rank in the kernel's OOM
            # killer is that of its priority class, which is the same for every quality of service.
            assert set(resources["limits"]) == {"memory"}
        assert spec.get("hostNetwork", False) is spec.get("hostIPC", False) is False
        if workload["kind"] != "DaemonSet":
            assert [c["securityContext"] for c in spec["containers"]] == [UNPRIVILEGED]


def test_a_quota_of_cpu_time_is_set_where_a_cluster_demands_one(helm: Helm) -> None:
    resources = {"cpu": "100m", "memory": "64Mi", "cpuLimit": "1"}
    values = {"agent.sentinel.resources": resources, "operator.resources": resources}
    found = {each["kind"]: each for each in workloads(helm.template(values))}
    (operator,) = pod_spec(found["Deployment"])["containers"]
    assert operator["resources"]["limits"] == {"cpu": "1", "memory": "64Mi"}
    agent = found["DaemonSet"]
    sentinel, reporter = (
        by_name(pod_spec(agent)["containers"])[name]["resources"] for name in ("sentinel", "reporter")
    )
    assert sentinel == {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}}
    assert "cpu" not in reporter["limits"]


NAME = "memory-pressure-memory-pressure-operator"
GROUP = "memorypressure.dev"


def test_the_agent_may_read_its_objects_and_patch_a_status_and_nothing_else(helm: Helm) -> None:
    assert rules_of(helm.template(), "ClusterRole", f"{NAME}-agent") == {
        *rights(GROUP, "nodememorystates", "get watch"),
        *rights(GROUP, "nodememoryplans", "get"),
        *rights(GROUP, "nodememorystates/status", "patch"),
    }


def test_the_operator_may_do_what_its_acts_need_and_nothing_else(helm: Helm) -> None:
    manifests = helm.template()
    assert rules_of(manifests, "ClusterRole", NAME) == {
        *rights(GROUP, "memorypressurepolicies", "get list watch create"),
        *rights(GROUP, "memorypressurepolicies/status", "patch"),
        *rights(GROUP, "nodememoryplans", "get list watch create patch delete"),
        *rights(GROUP, "nodememorystates", "get list watch create patch"),
        *rights("", "nodes", "get list watch patch"),
        *rights("", "pods", "get list watch delete"),
        *rights("", "pods/eviction", "create"),
        *rights("", "namespaces", "list watch"),
        *rights("policy", "poddisruptionbudgets", "list watch"),
        *rights("events.k8s.io", "events", "create"),
    }
    assert rules_of(manifests, "Role", NAME) == {
        *rights("coordination.k8s.io", "leases", "get create update"),
        *rights("", "configmaps", "get list create update patch delete"),
    }
    assert find(manifests, "Role", NAME)["metadata"]["namespace"] == "memory-pressure"


def test_nobody_has_secrets_wildcards_nodes_proxy_or_impersonation(helm: Helm) -> None:
    manifests = helm.template({"agent.profile": "KillFast", "agent.realtime": True})
    roles = [m for m in manifests if m["kind"] in {"ClusterRole", "Role"}]
    assert len(roles) == 3
    for role in roles:
        every = rules_of(manifests, role["kind"], role["metadata"]["name"])
        groups, resources, verbs = ({right[i] for right in every} for i in range(3))
        assert "*" not in groups | resources | verbs
        assert not resources & {"secrets", "nodes/proxy", "pods/exec", "serviceaccounts/token", "users", "groups"}
        assert not verbs & {"impersonate", "bind", "escalate", "deletecollection"}
        assert not [rule for rule in role["rules"] if "nonResourceURLs" in rule]


def test_each_role_is_bound_to_its_own_service_account_only(helm: Helm) -> None:
    manifests = helm.template({"agent.serviceAccount.name": "a", "operator.serviceAccount.name": "o"})
    for kind, name, account in (
        ("ClusterRoleBinding", f"{NAME}-agent", "a"),
        ("ClusterRoleBinding", NAME, "o"),
        ("RoleBinding", NAME, "o"),
    ):
        binding = find(manifests, kind, name)
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "memory-pressure"}]
        assert binding["roleRef"]["name"] == name
    assert pod_spec(find(manifests, "DaemonSet"))["serviceAccountName"] == "a"
    assert pod_spec(find(manifests, "Deployment"))["serviceAccountName"] == "o"
