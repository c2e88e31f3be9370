"""When something is wrong: restarts, two operators, an absent API server, bad credentials, edited ledgers."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.operator_lab import GROUP, Agent, Lab, OperatorProcess, wait_for

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


def armed_node(lab: Lab) -> tuple[str, Agent]:
    node = lab.node()
    lab.policy()
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "an allowance")
    return node, agent


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
    operator.ready()
    agent.beat += 1
    agent.report()
    wait_for(lambda: own_lab.grant(node).get("beat") == agent.beat, "the renewal goes on", 40)
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


# --- restarts and two operators ---


def test_what_was_told_is_not_told_again_after_a_restart(lab: Lab) -> None:
    first = lab.running()
    node, agent = armed_node(lab)
    pods = lab.workload(node, "web")
    agent.press("reserve")
    agent.kill(pods[0])
    wait_for(lambda: len(lab.events("Killed")) == 2, "the kill is told on pod and node")
    wait_for(lambda: lab.events("MemoryPressureStarted"), "pressure is told")
    wait_for(lambda: lab.get_policy()["status"]["actions"]["kills"] == 1, "the kill is counted")
    counts = wait_for(lab.kept_counts, "the counts are kept")
    before = {(event["metadata"]["name"], event["metadata"]["resourceVersion"]) for event in lab.events()}
    first.kill()
    second = lab.running(identity="two")
    agent.report()
    wait_for(lambda: lab.our_taints(node), "the second has looked at the node")
    agent.report()
    time.sleep(1)
    after = {(event["metadata"]["name"], event["metadata"]["resourceVersion"]) for event in lab.events()}
    assert before <= after
    assert len(lab.events("Killed")) == 2
    assert len(lab.events("MemoryPressureStarted")) == 1
    assert lab.get_policy()["status"]["actions"]["kills"] == 1, "the same kill is counted once"
    assert lab.kept_counts() == counts
    assert second.stop() == 0


def test_of_two_operators_one_acts_whether_the_other_is_dead_asleep_or_awake_again(lab: Lab) -> None:
    first = lab.running()
    second = lab.operator(identity="two")
    second.ready()
    assert not second.probe("/healthz")[1]["leader"]
    lease_path = f"/apis/coordination.k8s.io/v1/namespaces/{lab.home}/leases/memory-pressure-operator"
    assert lab.admin.must("GET", lease_path)["spec"]["holderIdentity"] == "one"
    looks = "memorypressure_operator_reconcile_duration_seconds_count"
    before = first.metric(looks)
    first.child.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    second.leads()
    assert time.monotonic() - stopped > 2, "the Lease lasts longer than its holder may act"
    node = lab.node()
    lab.policy()
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "the second acts")
    first.child.send_signal(signal.SIGCONT)
    agent.press("low")
    with lab.reporting(agent, every_seconds=0.3):
        wait_for(lambda: lab.our_taints(node), "the second goes on")
        time.sleep(1)
    assert not first.probe("/healthz")[1]["leader"]
    assert first.metric(looks) <= before + 1, "it watches and never acts; it may have been stopped within a look"
    second.kill()
    first.leads()
    spec = lab.admin.must("GET", lease_path)["spec"]
    assert spec["holderIdentity"] == "one"
    assert spec["leaseTransitions"] == 2
    assert first.stop() == 0
    assert lab.admin.must("GET", lease_path)["spec"].get("holderIdentity", "") == "", "given back"


def test_with_two_operators_each_grant_is_given_once(lab: Lab) -> None:
    """The Lease is edited back and forth, so that both believe in it in turn; the ledger's version is the fence."""
    one, two = lab.running(), lab.operator(identity="two")
    two.ready()
    nodes = [lab.node(f"n{number}") for number in range(4)]
    lab.policy(limits={"maxStandingKills": 2})
    agents = [lab.agent(node) for node in nodes]
    lease_path = f"/apis/coordination.k8s.io/v1/namespaces/{lab.home}/leases/memory-pressure-operator"
    for number in range(8):
        lab.admin.must("PATCH", lease_path, {"spec": {"holderIdentity": ("one", "two")[number % 2]}}, MERGE_PATCH)
        for agent in agents:
            agent.beat += 1
            agent.report()
        time.sleep(0.4)
        assert sum(max(0, lab.allowed(agent)) for agent in agents) <= 2
    wait_for(lambda: sum(max(0, lab.allowed(agent)) for agent in agents) == 2, "the two allowances are out")
    assert one.stop() == 0
    assert two.stop() == 0


# --- grants ---


def test_the_ledger_is_written_before_every_raise_of_a_ceiling(lab: Lab) -> None:
    lab.running()
    node, agent = armed_node(lab)
    pods = lab.workload(node, "web", replicas=3)
    seen = []
    for number, pod in enumerate(pods[:2], 1):
        agent.press("reserve")
        agent.kill(pod, identity=f"k{number}")
        wait_for(lambda n=number: lab.grant(node).get("killsCeiling") == n + 1, "the allowance is refilled")
        ledger, state = lab.admin.must("GET", lab.ledger_path()), lab.state(node)
        assert state is not None
        entry = next(e for e in json.loads(ledger["data"]["ledger"])["entries"] if e["node"] == node)
        assert entry["ceiling"] >= number + 1
        seen.append(int(ledger["metadata"]["resourceVersion"]) < int(state["metadata"]["resourceVersion"]))
    assert all(seen)
    wait_for(lambda: lab.get_policy()["status"]["actions"]["kills"] == 2, "both kills are counted")


def test_a_new_incarnation_gets_its_own_allowance_and_the_old_rest_counts_as_killed(lab: Lab) -> None:
    lab.running()
    _, agent = armed_node(lab)
    agent.incarnation = f"{int(time.time_ns()):032x}.{8:032x}"
    agent.report(beat=1, kills_total=0, ceiling_seen=0)
    wait_for(lambda: lab.allowed(agent) == 1, "the new journal is armed")
    ledger = json.loads(lab.admin.must("GET", lab.ledger_path())["data"]["ledger"])
    assert sorted(entry["lost"] for entry in ledger["entries"]) == [False, True]


def test_a_deleted_state_is_made_again_and_armed_again(lab: Lab) -> None:
    lab.running()
    node, agent = armed_node(lab)
    uid = (lab.state(node) or {})["metadata"]["uid"]
    lab.admin.must("DELETE", f"{GROUP}/nodememorystates/{node}")
    wait_for(lambda: (lab.state(node) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, "a new state")
    agent.report()
    wait_for(lambda: lab.allowed(agent) == 1, "armed again")


def test_a_plan_changed_by_hand_is_put_right(lab: Lab) -> None:
    lab.running()
    node, _ = armed_node(lab)
    lab.workload(node, "web")
    wait_for(lambda: len(lab.planned(node)) == 2, "planned")
    lab.admin.must("PATCH", f"{GROUP}/nodememoryplans/{node}", {"spec": {"pods": []}}, MERGE_PATCH)
    wait_for(lambda: len(lab.planned(node)) == 2, "put right")
    wait_for(
        lambda: lab.grant(node)["planGeneration"] == (lab.plan(node) or {})["metadata"]["generation"],
        "the grant names the newest plan",
    )


def test_an_edited_ledger_disarms_and_says_how_to_go_on(lab: Lab) -> None:
    operator = lab.running()
    node, agent = armed_node(lab)
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
    assert lab.allowed(agent) <= 0


# --- conflicts, deletion ---


def test_tied_policies_are_told_and_run_dry(lab: Lab) -> None:
    lab.running()
    node = lab.node()
    lab.policy("a", mode="Enforce")
    lab.policy("b", mode="DryRun")
    for name in ("a", "b"):
        wait_for(lambda n=name: lab.condition("Conflicted", n).get("status") == "True", "both are Conflicted")
    wait_for(lambda: len(lab.events("EqualPriorityOverlap", kind="MemoryPressurePolicy")) == 2, "both are told")
    wait_for(lambda: (lab.state(node) or {"spec": {}})["spec"].get("mode") == "DryRun", "DryRun until resolved")
    lab.admin.must("PATCH", f"{GROUP}/memorypressurepolicies/{lab.prefix}a", {"spec": {"priority": 5}}, MERGE_PATCH)
    wait_for(lambda: (lab.state(node) or {})["spec"]["mode"] == "Enforce", "resolved")
    wait_for(lambda: lab.condition("Conflicted", "b").get("status") == "False", "no conflict any more")


LEASE_TIMES = ("--renew-deadline-seconds", "2", "--request-timeout-seconds", "2", "--renew-timeout-seconds", "1")


def cleanup(lab: Lab, name: str, kubeconfig: Path) -> OperatorProcess:
    """The command with the short times of the lab's operators, ended."""
    words = ["--kubeconfig", str(kubeconfig), "--namespace", lab.home, "--identity", name]
    done = OperatorProcess(lab.directory / name, ["cleanup", *words, *LEASE_TIMES, "--lease-seconds", "4"])
    assert done.child.wait(30) == 0, done.text()
    done.kill()
    return done


def installation(lab: Lab, name: str) -> Path:
    """A kubeconfig with the token of a service account of its own, as each installation of the chart has one."""
    lab.admin.must("POST", f"/api/v1/namespaces/{lab.home}/serviceaccounts", {"metadata": {"name": name}})
    binding = {
        "metadata": {"name": f"{lab.prefix}{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": lab.home}],
    }
    lab.admin.must("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    return lab.plane.write_kubeconfig(lab.prefix + name, token=lab.plane.token(lab.home, name))


def test_cleanup_takes_only_our_taints_and_a_running_operator_does_not_put_them_on_again(lab: Lab) -> None:
    old = installation(lab, "old")
    operator = lab.operator(kubeconfig=old)
    operator.ready()
    operator.leads()
    node = lab.node()
    lab.policy()
    foreign = {"key": "example.com/x", "effect": "NoSchedule"}
    lab.admin.must("PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": [foreign]}}, MERGE_PATCH)
    agent = lab.agent(node)
    agent.press("low")
    with lab.reporting(agent, every_seconds=0.3):
        wait_for(lambda: lab.our_taints(node), "our taint")
        done = cleanup(lab, "cleaner", old)
        assert "one held the lease" in done.text()
        assert not operator.probe("/healthz")[1]["leader"]
        time.sleep(2)
        assert [taint["key"] for taint in lab.taints(node)] == ["example.com/x"]
        assert operator.child.poll() is None
        path = f"/apis/coordination.k8s.io/v1/namespaces/{lab.home}/leases/memory-pressure-operator"
        lease = lab.admin.must("GET", path)
        assert lease["spec"]["holderIdentity"] == "cleaner"
        assert lease["spec"]["leaseDurationSeconds"] == 120, "this installation does nothing for so long"
        again = lab.operator(identity="again", kubeconfig=installation(lab, "new"))
        again.leads()
        assert "left by an installation that has been cleaned up" in again.text(), (
            "one that comes after it waits for nothing"
        )
        wait_for(lambda: lab.our_taints(node), "and acts")
        assert not operator.probe("/healthz")[1]["leader"]
