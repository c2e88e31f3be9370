"""What users may write and hardly mean: accepted or refused with the field's name, and the operator goes on."""

import uuid
from collections.abc import Iterator

import pytest
from support.operator_lab import GROUP, Lab, OperatorProcess, wait_for

from memorypressure_tools.controlplane import ControlPlane

LONGEST_NAME = 253
LONGEST_POLICY_NAME = 63


@pytest.fixture(scope="module")
def lab(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    crds.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": "badinput"}})
    crds.wait_for_service_account("badinput")
    made = Lab(crds, "badinput-", "badinput", tmp_path_factory.mktemp("badinput"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def operator(lab: Lab) -> OperatorProcess:
    return lab.running("--resync-seconds", "1")  # many passes are waited for


@pytest.fixture(autouse=True)
def goes_on(operator: OperatorProcess) -> Iterator[None]:
    """Whatever a test wrote, the one operator of all of them is alive and has met nothing unexpected."""
    yield
    assert operator.child.poll() is None
    assert operator.metric("memorypressure_operator_reconcile_errors_total", reason="Unexpected") == 0
    assert "Traceback" not in operator.text()


NOBODY = {
    "matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}, {"key": "a", "operator": "DoesNotExist"}]
}


def test_a_node_selector_that_matches_nothing_is_told_with_its_field(lab: Lab) -> None:
    lab.policy("none", nodeSelector=NOBODY)
    wait_for(lambda: lab.condition("Ready", "none").get("status") == "True", "it is carried out")
    assert lab.condition("Ready", "none")["message"] == "spec.nodeSelector matches no node, so nothing is done"
    assert set(lab.get_policy("none")["status"]["nodes"].values()) == {0}


def test_victims_that_match_nothing_are_told_with_where_to_look(lab: Lab) -> None:
    node = lab.node("victims", {"bad": "victims"})
    lab.workload(node, "web")
    lab.policy("victims", nodeSelector={"matchLabels": {"bad": "victims"}}, victims={"podSelector": NOBODY})
    wait_for(lambda: "spec.victims" in lab.condition("Ready", "victims").get("message", ""), "the message")
    assert "explain NODE" in lab.condition("Ready", "victims")["message"]


@pytest.mark.parametrize(
    ("name", "limits", "field"),
    [
        ("evictions", {"evictionsPerHour": 0}, "spec.limits.evictionsPerHour"),
        ("kills", {"killsPerHour": 0}, "spec.limits.killsPerHour"),
        ("standing", {"maxStandingKills": 0}, "spec.limits.maxStandingKills"),
    ],
)
def test_a_budget_of_zero_is_accepted_and_its_meaning_is_told(
    lab: Lab, name: str, limits: dict[str, int], field: str
) -> None:
    lab.policy(name, nodeSelector=NOBODY, limits=limits)
    accepted = wait_for(lambda: lab.condition("Accepted", name), "a condition")
    assert accepted["status"] == "True"
    assert f"{field}: is 0" in accepted["message"]


@pytest.mark.parametrize(
    ("name", "quantity", "relief"), [("mebi", "64Mi", 64 << 20), ("mega", "64M", 64_000_000)], ids=["64Mi", "64M"]
)
def test_quantities_of_both_kinds_mean_what_they_say(lab: Lab, name: str, quantity: str, relief: int) -> None:
    node = lab.node(name, {"bad": name})
    lab.policy(name, nodeSelector={"matchLabels": {"bad": name}}, victims={"minRelief": quantity})
    plan = wait_for(lambda: lab.plan(node), "a plan")
    assert plan["spec"]["victims"]["minRelief"] == relief


def test_a_node_and_a_policy_of_the_longest_names_have_plan_state_ledger_and_allowance_like_any_other(lab: Lab) -> None:
    stem = ".".join([f"{lab.prefix}long", *["o" * 60] * 4])
    node = stem[:LONGEST_NAME].ljust(LONGEST_NAME, "p")
    lab.admin.must("POST", "/api/v1/nodes", {"metadata": {"name": node, "labels": {"bad": "long"}}})
    policy = "long.".ljust(LONGEST_POLICY_NAME - len(lab.prefix), "p")
    lab.policy(policy, nodeSelector={"matchLabels": {"bad": "long"}})
    agent = lab.agent(node)
    wait_for(lambda: lab.allowed(agent) == 1, "an allowance")
    assert lab.admin.must("GET", lab.ledger_path(policy))["data"]
    agent.press("low")
    with lab.reporting(agent):
        wait_for(lambda: lab.our_taints(node), "our taint")
        wait_for(lambda: lab.events("Tainted", kind="Node"), "an Event on the Node")
    lab.admin.must("DELETE", f"/api/v1/nodes/{node}")


def test_pods_whose_owners_and_requests_no_plan_holds_keep_no_other_off_it(lab: Lab) -> None:
    node = lab.node("odd", {"bad": "odd"})
    lab.policy("odd", nodeSelector={"matchLabels": {"bad": "odd"}})
    owner = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "o" * 400, "uid": str(uuid.uuid4())}
    for number in range(2):
        lab.pod(node, f"odd-{number}", owner={**owner, "controller": True}, memory="8Ei")
    lab.workload(node, "more")
    wait_for(lambda: lab.planned(node) == {"odd-0", "odd-1", "more-0", "more-1"}, "all of them are on the plan")


def test_contradicting_policies_run_dry_and_both_say_with_whom_they_conflict(lab: Lab) -> None:
    node = lab.node("tied", {"bad": "tied"})
    for name, mode in (("one", "Enforce"), ("two", "DryRun")):
        lab.policy(name, mode=mode, nodeSelector={"matchLabels": {"bad": "tied"}})
    for name, other in (("one", "two"), ("two", "one")):
        wait_for(lambda n=name: lab.condition("Conflicted", n).get("status") == "True", "both are Conflicted")
        assert f"{lab.prefix}{other}" in lab.condition("Conflicted", name)["message"]
    wait_for(lambda: (lab.state(node) or {"spec": {}})["spec"].get("mode") == "DryRun", "the node runs dry")


def test_kubectl_waits_for_a_policys_conditions(lab: Lab) -> None:
    lab.policy("waits", nodeSelector=NOBODY)
    for condition in ("Accepted", "Ready", "Conflicted=false", "BudgetAvailable"):
        lab.plane.kubectl("wait", f"mpp/{lab.prefix}waits", f"--for=condition={condition}", "--timeout=20s")


def test_a_status_is_written_only_when_something_changed(lab: Lab, operator: OperatorProcess) -> None:
    lab.policy("quiet", nodeSelector=NOBODY)
    wait_for(lambda: lab.condition("Ready", "quiet"), "a status")
    before = lab.get_policy("quiet")["metadata"]["resourceVersion"]
    passes = operator.metric("memorypressure_operator_reconcile_duration_seconds_count")
    wait_for(
        lambda: operator.metric("memorypressure_operator_reconcile_duration_seconds_count") > passes + 20, "passes"
    )
    assert lab.get_policy("quiet")["metadata"]["resourceVersion"] == before


def test_a_broken_policy_is_refused_by_the_server_with_its_field(lab: Lab) -> None:
    spec = {"nodeSelector": {}, "triggers": [], "ladder": []}
    body = {
        "apiVersion": "memorypressure.dev/v1alpha1",
        "kind": "MemoryPressurePolicy",
        "metadata": {"name": "badinput-broken"},
        "spec": {**spec, "victims": {"minRelief": "64 MB"}},
    }
    answer = lab.admin.request("POST", f"{GROUP}/memorypressurepolicies", body)
    assert answer.status == 422
    assert "spec.victims.minRelief" in answer.body["message"]
    assert "64Mi" in answer.body["message"]
