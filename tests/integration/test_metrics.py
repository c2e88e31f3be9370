"""The metrics of a real reporter and a real operator, by Prometheus' judge and by the names that the API promises."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import shapes
from support.operator_lab import wait_for
from support.pathlab import PathLab, lab_of
from support.reporterlab import ReporterNode
from support.sentinellab import candidate
from support.sentinellab import orders as orders_of

from memorypressure.spec import parse_policy
from memorypressure.spec_values import Mode
from memorypressure_tools import toolcache
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.standin import KubeletStandIn

PREFIX = "metrics-"
NAMESPACE = "metrics"
HOW_TO = Path(__file__).parents[2] / "docs/how-to/scrape-the-metrics.md"
DEFAULT_POLICY = Path(__file__).parents[2] / "crds/samples/default.yaml"
POD = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
AGENT = {
    "memorypressure_agent_capability": "gauge",
    "memorypressure_agent_grant_kills": "gauge",
    "memorypressure_agent_loop_lag_seconds": "histogram",
    "memorypressure_agent_policy_info": "gauge",
    "memorypressure_agent_policy_sync_timestamp_seconds": "gauge",
    "memorypressure_agent_source_up": "gauge",
    "memorypressure_action_latency_seconds": "histogram",
    "memorypressure_actions": "counter",
    "memorypressure_actions_denied": "counter",
    "memorypressure_build_info": "gauge",
    "memorypressure_direct_reclaim_stalls": "counter",
    "memorypressure_freed_bytes": "counter",
    "memorypressure_kernel_oom_kills": "counter",
    "memorypressure_psi_stalled_seconds": "counter",
    "memorypressure_trigger_active": "gauge",
    "memorypressure_zone_below_line_episodes": "counter",
    "memorypressure_zone_below_line_seconds": "counter",
    "memorypressure_zone_free_bytes": "gauge",
    "memorypressure_zone_line_bytes": "gauge",
    "memorypressure_zone_lowmem_reserve_bytes": "gauge",
    "memorypressure_zone_managed_bytes": "gauge",
    "memorypressure_zone_watermark_bytes": "gauge",
    "process_resident_memory_bytes": "gauge",
}
OPERATOR = {
    "memorypressure_actions": "counter",
    "memorypressure_actions_denied": "counter",
    "memorypressure_build_info": "gauge",
    "memorypressure_operator_budget_limit": "gauge",
    "memorypressure_operator_budget_remaining": "gauge",
    "memorypressure_operator_nodes": "gauge",
    "memorypressure_operator_policies": "gauge",
    "memorypressure_operator_policy_conflicts": "gauge",
    "memorypressure_operator_reconcile_duration_seconds": "histogram",
    "memorypressure_operator_reconcile_errors": "counter",
    "process_resident_memory_bytes": "gauge",
}


@pytest.fixture(scope="module")
def lab(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathLab]:
    with lab_of(crds, NAMESPACE, tmp_path_factory.mktemp(NAMESPACE)) as made:
        yield made


def two_nodes_under_the_default_policy(lab: PathLab) -> ReporterNode:
    """A node whose machine is a server with two NUMA nodes, with all sources, and orders of the default policy."""
    node = ReporterNode(lab, "agent")
    shape = shapes.two_nodes()
    proc, tree = node.machine.machine.proc, node.machine.machine.sys / "devices/system/node"
    (proc / "zoneinfo").write_bytes(shapes.zoneinfo(shape))
    (proc / "vmstat").write_bytes(Path("/proc/vmstat").read_bytes())
    for number in shape.nodes:
        (tree / f"node{number}").mkdir(exist_ok=True)
        (tree / f"node{number}/vmstat").write_bytes(shapes.node_vmstat(shape, number))
    (tree / "online").write_text("0-1\n")
    (node.machine.cgroup_root / "kubepods/memory.pressure").write_bytes((proc / "pressure/memory").read_bytes())
    policy = parse_policy(yaml.safe_load(DEFAULT_POLICY.read_text()))
    orders = orders_of(
        candidate(POD, "web-0"),
        mode=Mode.DRY_RUN,
        node_name=node.name,
        policy_name=policy.name,
        triggers=policy.triggers,
        ladder=policy.ladder,
    )
    node.make_state(orders)
    return node


@pytest.fixture(scope="module")
def agent(lab: PathLab) -> str:
    """What a real reporter exposes about a real sentinel with a policy in force, on a machine with two NUMA nodes."""
    node = two_nodes_under_the_default_policy(lab)
    node.start_sentinel()
    node.report(quick=True)
    wait_for(lambda: "memorypressure_trigger_active{" in node.ask("/metrics")[1], "figures of the policy's triggers")
    return node.ask("/metrics")[1]


@pytest.fixture(scope="module")
def operator(lab: PathLab) -> Iterator[str]:
    """What a real operator exposes that has a policy with a node."""
    with KubeletStandIn(lab.admin, [f"{PREFIX}n1"]) as stand_in:
        stand_in.register(f"{PREFIX}n1", {"lab": PREFIX.rstrip("-")})
        process = lab.running()
        lab.policy()
        limit = re.compile(rf'^memorypressure_operator_budget_limit{{action="Kill",policy="{PREFIX}p"}}', re.MULTILINE)
        wait_for(lambda: limit.search(process.metrics()), "figures of the policy's budget")
        yield process.metrics()


@pytest.fixture(params=["agent", "operator"])
def exposition(request: pytest.FixtureRequest) -> str:
    text: str = request.getfixturevalue(request.param)
    return text


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_say(exposition: str) -> None:
    promtool = toolcache.ensure(["promtool"])["promtool"]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs("promtool")
def test_the_scrape_configuration_of_the_documents_is_one(tmp_path: Path) -> None:
    promtool = toolcache.ensure(["promtool"])["promtool"]
    block = re.search(r"```yaml\n(scrape_configs:.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    file = tmp_path / "prometheus.yml"
    file.write_text(block[1])
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", file], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("promtool")
def test_promtool_does_find_a_bad_name() -> None:
    promtool = toolcache.ensure(["promtool"])["promtool"]
    text = (
        "# HELP memorypressure_pods_total Pods.\n# TYPE memorypressure_pods_total gauge\nmemorypressure_pods_total 1\n"
    )
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0


@pytest.mark.parametrize(("name", "kind"), AGENT.items())
def test_the_agent_exposes_the_main_metrics(agent: str, name: str, kind: str) -> None:
    families = {family.name: family for family in parse_text(agent)}
    assert families[name].type == kind
    assert families[name].samples


@pytest.mark.parametrize(("name", "kind"), OPERATOR.items())
def test_the_operator_exposes_the_main_metrics(operator: str, name: str, kind: str) -> None:
    families = {family.name: family for family in parse_text(operator)}
    assert families[name].type == kind
    assert families[name].samples


def test_nothing_names_a_pod_or_is_counted_from_a_creation_time(exposition: str) -> None:
    assert "web-0" not in exposition
    assert POD not in exposition
    assert "_created" not in exposition
    labels = {label for family in parse_text(exposition) for sample in family.samples for label in sample.labels}
    assert not labels & {"pod", "namespace", "uid", "container", "node"}


def test_a_machine_with_two_numa_nodes_under_the_default_policy_has_at_most_200_series(agent: str) -> None:
    families = list(parse_text(agent))
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["numa_node"] for sample in samples if "numa_node" in sample.labels} == {"0", "1"}
    triggers = {sample.labels["trigger"] for sample in samples if "trigger" in sample.labels}
    assert triggers == {"reserve", "drained", "starving", "scarce", "exhausted", "stalled"}
    assert {sample.labels["scope"] for sample in samples if "scope" in sample.labels} == {"node", "kubepods"}
    assert 130 < len(samples) <= 200


def test_every_metric_has_a_help_text_and_no_action_is_counted_by_agent_and_operator(agent: str, operator: str) -> None:
    counted = []
    for text in (agent, operator):
        families = list(parse_text(text))
        assert [family.name for family in families if not family.documentation] == []
        counted.append({s.labels["action"] for f in families if f.name == "memorypressure_actions" for s in f.samples})
    assert counted == [{"Kill"}, {"Taint", "Evict"}]
