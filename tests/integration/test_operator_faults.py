"""When something is wrong: an absent API server, missing kinds, bad credentials, an edited ledger."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faultproxy import FaultProxy
from support.operator_lab import GROUP, Lab, OperatorProcess, wait_for

from memorypressure_tools.apiclient import MERGE_PATCH, ApiError
from memorypressure_tools.controlplane import ControlPlane, Options

CRDS = sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))


@pytest.fixture
def lab(crds: ControlPlane, prefix: str, namespace: str, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(crds, prefix, namespace, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_plane() -> Iterator[ControlPlane]:
    """A control plane that tests of outages may stop: no controllers, and no CRDs yet."""
    with ControlPlane(Options(controller_manager=False, scheduler=False)) as plane:
        yield plane


@pytest.fixture
def own_lab(own_plane: ControlPlane, tmp_path: Path) -> Iterator[Lab]:
    own_plane.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": "own"}})
    own_plane.admin.request("DELETE", "/apis/coordination.k8s.io/v1/namespaces/own-op/leases/memory-pressure-operator")
    made = Lab(own_plane, "own-", "own", tmp_path)
    yield made
    made.close()


def install_crds(lab: Lab) -> None:
    words = [word for file in CRDS for word in ("-f", str(file))]
    lab.plane.kubectl("apply", "--server-side", "--force-conflicts", *words)
    lab.plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *words)


def bare_node(lab: Lab, name: str) -> str:
    """A node without a kubelet's stand-in; no controller judges it."""
    full = lab.prefix + name
    body = {"metadata": {"name": full, "labels": {"lab": lab.prefix.rstrip("-")}}}
    assert lab.admin.request("POST", "/api/v1/nodes", body).status in (201, 409)
    return full


# --- start ---


def test_missing_kinds_are_named_and_waited_for(own_lab: Lab) -> None:
    operator = own_lab.operator()
    text = "nodememoryplans.memorypressure.dev not served"
    wait_for(lambda: text in operator.text(), "the missing kinds are named in the log")
    code, facts = operator.probe("/readyz")
    assert code == 503
    assert "memorypressurepolicies.memorypressure.dev" in facts["not_ready"][-1] + str(facts)
    assert operator.probe("/healthz")[0] == 200
    assert operator.text().count(text) == 1
    install_crds(own_lab)
    operator.ready()
    assert operator.stop() == 0


def test_without_an_api_server_it_waits_says_so_and_ends_on_a_signal(tmp_path: Path, own_lab: Lab) -> None:
    config = own_lab.plane.write_kubeconfig("nowhere", server="https://127.0.0.1:9", token="t")
    operator = own_lab.operator(kubeconfig=config)
    wait_for(lambda: "waiting for the API server" in operator.text(), "the reason in the log")
    assert operator.probe("/readyz")[0] == 503
    assert operator.probe("/healthz")[0] == 200
    assert operator.stop() == 0


def test_a_namespace_that_does_not_exist_is_named(own_lab: Lab) -> None:
    install_crds(own_lab)
    operator = own_lab.operator("--namespace", "typo", "--unready-seconds", "1")
    wait_for(lambda: "does namespace typo (--namespace) exist?" in operator.text(), "the log asks for it")
    found = wait_for(lambda: operator.probe("/readyz")[1]["not_ready"], "the probe names it")
    assert any(each.startswith("POST leases fails for") and '"typo" not found' in each for each in found)
    assert operator.stop() == 0


def test_a_foreign_token_is_named_and_a_valid_one_in_its_place_is_taken_up(own_lab: Lab) -> None:
    install_crds(own_lab)
    own_lab.admin.request("POST", "/api/v1/namespaces/own/serviceaccounts", {"metadata": {"name": "op"}})
    binding = {
        "metadata": {"name": "own-op-admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": "own"}],
    }
    config = own_lab.plane.write_kubeconfig("token", token="not-of-this-cluster")
    operator = own_lab.operator(kubeconfig=config)
    wait_for(lambda: "answered 401" in operator.text(), "the token is named")
    assert str(config) in operator.text()
    config.write_text(config.read_text().replace("not-of-this-cluster", own_lab.plane.token("own", "op")))
    wait_for(
        lambda: 'own:op" cannot watch resource' in operator.text(), "the new token is read, its lack of rights named"
    )
    assert operator.probe("/readyz")[0] == 503
    assert (
        own_lab.admin.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).status == 201
    )
    operator.ready()
    assert operator.stop() == 0


def test_without_the_right_to_watch_policies_a_probe_names_it_and_none_asks_for_a_restart(own_lab: Lab) -> None:
    """Kopf's requests are its own: that they are refused is found out when what was written does not come back."""
    install_crds(own_lab)
    with contextlib.closing(FaultProxy(own_lab.plane)) as proxy:
        config = own_lab.plane.write_kubeconfig("watch", server=proxy.url, token=own_lab.all_rights("watcher"))
        operator = own_lab.operator("--stuck-seconds", "2", "--unready-seconds", "1", kubeconfig=config)
        operator.ready()
        operator.leads()
        own_lab.policy("watched", mode="DryRun")
        wait_for(lambda: own_lab.condition("Ready", "watched"), "a status")
        wait_for(lambda: (operator.probe("/healthz")[1]["last_policy_event_seconds"] or 0) > 1, "kopf told of it")
        proxy.faults.refuse = lambda _, path: 403 if "/memorypressurepolicies" in path and "watch=" in path else 0
        proxy.cut()
        bare_node(own_lab, "counted")  # what is shown of it is not heard of
        told = "WATCH memorypressurepolicies fails for"
        wait_for(lambda: told in str(operator.probe("/readyz")[1]["not_ready"]), "the probe names it")
        code, facts = operator.probe("/healthz")
        assert (code, facts["problems"]) == (200, [])
        proxy.heal()
        operator.ready()
        assert operator.stop() == 0
    own_lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/own-watched")


def test_a_policy_that_an_older_definition_let_in_is_named_and_the_others_go_on(own_lab: Lab) -> None:
    install_crds(own_lab)
    node = bare_node(own_lab, "old")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/memorypressurepolicies.memorypressure.dev"
    ladder = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/ladder/x-kubernetes-validations"
    own_lab.admin.must("PATCH", path, [{"op": "remove", "path": ladder}], "application/json-patch+json")
    twice = [{"action": "Taint", "triggers": ["low"]}] * 2

    def accepted() -> bool:
        try:
            own_lab.policy("old", priority=9, ladder=twice)
        except ApiError:  # the old rules are still in force
            return False
        return True

    wait_for(accepted, "a policy that the present definition refuses")
    own_lab.policy("new")
    install_crds(own_lab)
    operator = own_lab.running()
    wait_for(lambda: own_lab.condition("Accepted", "old").get("status") == "False", "it is not carried out")
    assert "spec.ladder" in own_lab.condition("Accepted", "old")["message"]
    assert own_lab.condition("Ready", "old")["status"] == "False"
    wait_for(lambda: (own_lab.state(node) or {"spec": {}})["spec"].get("policyName") == "own-new", "the other one is")
    assert operator.child.poll() is None
    assert operator.stop() == 0
    for name in ("own-old", "own-new"):
        own_lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/{name}")


def test_without_the_kinds_it_ends_once_and_waits_for_them_in_its_next_life(own_lab: Lab) -> None:
    install_crds(own_lab)
    node = bare_node(own_lab, "gone")
    operator = own_lab.running()
    own_lab.policy("gone", mode="DryRun")

    def mode() -> str | None:
        return (own_lab.state(node) or {"spec": {}})["spec"].get("mode")

    wait_for(lambda: mode() == "DryRun", "the policy is in force")
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    own_lab.admin.must("DELETE", f"{kinds}/memorypressurepolicies.memorypressure.dev")
    assert operator.child.wait(60) == 1, "kopf's watch has nothing to watch any more"
    operator.kill()  # closes its log
    again = own_lab.operator(identity="again")  # as the kubelet starts it
    wait_for(lambda: "memorypressurepolicies.memorypressure.dev not served" in again.text(), "it is named")
    assert again.probe("/readyz")[0] == 503
    install_crds(own_lab)
    again.ready()
    again.leads()
    wait_for(lambda: mode() == "Disabled", "its policies went with the kind")
    own_lab.policy("again", mode="DryRun")
    wait_for(lambda: mode() == "DryRun", "new ones are carried out")
    own_lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/own-again")
    assert again.stop() == 0


def test_kinds_that_are_deleted_while_it_runs_are_named_and_what_went_with_them_is_made_again(own_lab: Lab) -> None:
    install_crds(own_lab)
    node = bare_node(own_lab, "kept")
    operator = own_lab.running("--unready-seconds", "1")
    own_lab.policy("kept")
    agent = own_lab.agent(node)
    wait_for(lambda: own_lab.allowed(agent) == 1, "an allowance")
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for kind in ("nodememorystates", "nodememoryplans"):
        own_lab.admin.must("DELETE", f"{kinds}/{kind}.memorypressure.dev")
    for kind in ("nodememorystates", "nodememoryplans"):
        text = f"WATCH {kind} fails for"
        wait_for(lambda text=text: text in str(operator.probe("/readyz")[1]["not_ready"]), "the probe names it")
    assert operator.probe("/healthz")[0] == 200
    install_crds(own_lab)
    wait_for(lambda: own_lab.state(node) and own_lab.plan(node), "state and plan are made again")
    operator.ready()
    agent.beat += 1  # as the node does that sees its allowance taken back
    agent.report()
    wait_for(lambda: own_lab.allowed(agent) == 1, "it is armed again")
    own_lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/own-kept")
    assert operator.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--lease-seconds", "x"], {}, "--lease-seconds: 'x' is not a number"),
        (["--metrics-port", "70000"], {}, "--metrics-port: 70000 is out of range, it must be from 0 to 65535"),
        (["--no-such-flag"], {}, "unrecognized arguments: --no-such-flag"),
        ([], {"MPO_LEASE_SECOND": "3"}, "environment variable MPO_LEASE_SECOND: not a setting"),
        (["--kubeconfig", "/no/such/file"], {}, "kubeconfig /no/such/file cannot be used: there is no such file"),
        (["--renew-timeout-seconds", "30"], {}, "--renew-timeout-seconds: must be below --renew-deadline-seconds"),
    ],
)
def test_wrong_settings_end_with_2_and_name_the_setting(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    operator = OperatorProcess(tmp_path / "log", ["--namespace", "x", *arguments], environment)
    assert operator.child.wait(20) == 2
    assert expected in operator.text()
    assert "Traceback" not in operator.text()
    operator.kill()


# --- the API server goes away ---


@pytest.mark.parametrize("seconds", [20, pytest.param(600, marks=pytest.mark.soak)])
def test_an_outage_stops_every_act_and_afterwards_all_goes_on(own_lab: Lab, seconds: int) -> None:
    install_crds(own_lab)
    node = bare_node(own_lab, "n1")
    operator = own_lab.running("--unready-seconds", "1")
    own_lab.policy()
    agent = own_lab.agent(node)
    wait_for(lambda: own_lab.allowed(agent) == 1, "an allowance")
    own_lab.plane.stop_apiserver()
    ends = time.monotonic() + seconds
    wait_for(lambda: not operator.probe("/healthz")[1]["leader"], "the Lease runs out by the own clock")
    wait_for(lambda: "WATCH nodes fails for" in str(operator.probe("/readyz")[1]["not_ready"]), "the probe names it")
    while time.monotonic() < ends:
        assert operator.child.poll() is None
        assert operator.probe("/healthz")[0] == 200
        time.sleep(1)
    own_lab.plane.start_apiserver()
    operator.leads(40)
    agent.beat += 1
    agent.report()
    wait_for(lambda: own_lab.grant(node).get("beat") == agent.beat, "the renewal goes on", 40)
    operator.ready()  # after ten minutes only when a node has reported: until then the probe says that none has
    late = bare_node(own_lab, "n2")
    wait_for(lambda: own_lab.state(late), "new nodes are seen", 40)
    # deleted while kopf's watch is down: only a new list can tell
    own_lab.plane.stop_apiserver()
    own_lab.plane.start_apiserver()
    own_lab.admin.must("DELETE", f"{GROUP}/memorypressurepolicies/own-p")
    wait_for(lambda: (own_lab.state(node) or {"spec": {}})["spec"].get("mode") == "Disabled", "the policy is gone", 60)
    assert "Traceback" not in operator.text()
    assert operator.stop() == 0


def test_a_server_that_accepts_and_never_answers_costs_the_lease(own_lab: Lab) -> None:
    install_crds(own_lab)
    operator = own_lab.running()
    own_lab.plane.freeze_apiserver()
    try:
        wait_for(lambda: not operator.probe("/healthz")[1]["leader"], "the Lease runs out by the own clock")
    finally:
        own_lab.plane.thaw_apiserver()
    operator.leads(40)
    assert operator.stop() == 0


def test_a_server_without_streaming_lists_gets_paged_ones(tmp_path: Path) -> None:
    options = Options(controller_manager=False, scheduler=False, apiserver_flags=["--feature-gates=WatchList=false"])
    with ControlPlane(options) as plane:
        plane.admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "own"}})
        lab = Lab(plane, "own-", "own", tmp_path)
        try:
            install_crds(lab)
            nodes = [bare_node(lab, f"n{number}") for number in range(5)]
            operator = lab.running("--page-size", "2")
            assert "paged lists are used" in operator.text()
            for node in nodes:
                wait_for(lambda n=node: lab.state(n), "a state for each")
            later = bare_node(lab, "later")
            wait_for(lambda: lab.state(later), "changes are seen")
        finally:
            lab.close()


# --- a ledger that cannot be trusted: until it can, nobody at all is newly armed ---


def test_an_edited_ledger_disarms_and_says_how_to_go_on(lab: Lab) -> None:
    operator = lab.running()
    node, agent = lab.armed_node()
    pods = lab.workload(node, "web")
    ledger = json.loads(lab.admin.must("GET", lab.ledger_path())["data"]["ledger"])
    ledger["entries"][0]["counted"] += 1
    lab.admin.must("PATCH", lab.ledger_path(), {"data": {"ledger": json.dumps(ledger)}}, MERGE_PATCH)
    agent.press("low", top=[{"uid": pods[0]["metadata"]["uid"], "reliefBytes": 500 << 20, "overRequest": True}])
    with lab.reporting(agent):
        wait_for(lambda: lab.condition("Ready").get("reason") == "LedgerInvalid", "the condition says so", 60)
        wait_for(lambda: lab.allowed(agent) <= 0, "nothing stays granted")
        assert not any(lab.evicted(pod) for pod in pods)
    assert "delete the ConfigMap" in lab.condition("Ready")["message"]
    wait_for(lambda: lab.events("LedgerInvalid", kind="MemoryPressurePolicy"), "an Event says so")
    assert operator.metric("memorypressure_operator_ledger_valid", policy=lab.prefix + "p") == 0
    lab.admin.must("DELETE", lab.ledger_path())
    wait_for(lambda: lab.condition("Ready").get("status") == "True", "it goes on with a new ledger", 60)
    assert "nothing is granted in its first" in lab.condition("Ready")["message"]
    assert lab.condition("BudgetAvailable")["reason"] == "LedgerQuarantine"
    denied = "memorypressure_actions_denied_total"
    with lab.reporting(agent):
        wait_for(
            lambda: operator.metric(denied, action="Evict", reason="LedgerQuarantine") == 1, "nor is a pod evicted"
        )
    assert lab.allowed(agent) <= 0
    assert not any(lab.evicted(pod) for pod in pods)


@pytest.mark.soak  # it waits until it is told; tests/unit has the rest
def test_a_ledger_that_somebody_made_immutable_is_named(lab: Lab) -> None:
    lab.running()
    node, agent = lab.armed_node()
    pods = lab.workload(node, "web")
    lab.admin.must("PATCH", lab.ledger_path(), {"immutable": True}, MERGE_PATCH)
    agent.press("low", top=[{"uid": pods[0]["metadata"]["uid"], "reliefBytes": 500 << 20, "overRequest": True}])
    with lab.reporting(agent):
        wait_for(lambda: lab.condition("Ready").get("reason") == "LedgerInvalid", "the condition says so", 60)
        assert lab.condition("BudgetAvailable")["status"] == "False"
        message = lab.condition("Ready")["message"]
        assert "field is immutable" in message or "is marked immutable" in message
        assert not any(map(lab.evicted, pods))
        lab.admin.must("DELETE", lab.ledger_path())
        wait_for(lambda: lab.condition("Ready").get("status") == "True", "it goes on with a new ledger", 60)


def test_while_nothing_is_sent_of_namespaces_nobody_is_armed_anew_or_evicted(lab: Lab) -> None:
    """Who is protected may have changed: a watch that cannot be opened for long is no knowledge."""
    with contextlib.closing(FaultProxy(lab.plane)) as proxy:
        config = lab.plane.write_kubeconfig(lab.prefix + "blind", server=proxy.url, token=lab.all_rights("blind"))
        operator = lab.operator("--stream-read-timeout-seconds", "2", kubeconfig=config)  # blind after 5 s
        operator.leads()
        node, agent = lab.armed_node()
        pods = lab.workload(node, "web")
        wait_for(lambda: len(lab.planned(node)) == 2, "planned")
        proxy.faults.refuse = lambda _, path: 403 if path.startswith("/api/v1/namespaces?") else 0
        proxy.cut()
        wait_for(lambda: lab.condition("Ready").get("reason") == "Unreadable", "the policy says so")
        assert "nothing of namespaces" in lab.condition("Ready")["message"]
        agent.beat += 1
        agent.press("low", top=[{"uid": pods[0]["metadata"]["uid"], "reliefBytes": 500 << 20, "overRequest": True}])
        denied = "memorypressure_actions_denied_total"
        with lab.reporting(agent):
            wait_for(
                lambda: operator.metric(denied, action="Evict", reason="Unreadable") == 1, "the eviction is denied"
            )
            assert lab.our_taints(node), "a taint stops nobody"
            assert not any(map(lab.evicted, pods))
            assert lab.grant(node)["beat"] < agent.beat, "not renewed"
            proxy.heal()
            wait_for(lambda: lab.evicted(pods[0]), "it goes on")
            wait_for(lambda: lab.grant(node).get("beat") == agent.beat, "also with grants")
        assert operator.stop() == 0
