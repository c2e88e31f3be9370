"""The parts of a cluster that need no machine: options, addresses, image archives, the check's pod, the background."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from memorypressure_tools import toolcache
from memorypressure_tools.background import Background, RunsAlreadyError
from memorypressure_tools.cluster import apicheck, cluster, loadimage
from memorypressure_tools.cluster.__main__ import main
from memorypressure_tools.cluster.node import NodeOptions, kubelet_configuration
from memorypressure_tools.helm import CHART


def test_kubelet_eviction_is_off_unless_asked_for() -> None:
    assert kubelet_configuration(NodeOptions())["evictionHard"]["memory.available"] == "0%"
    asked = kubelet_configuration(NodeOptions(eviction_memory_available="100Mi"))
    assert asked["evictionHard"]["memory.available"] == "100Mi"
    assert "localStorageCapacityIsolation" not in asked


def test_kubelets_of_one_cluster_have_addresses_of_their_own_on_loopback() -> None:
    addresses = cluster._addresses(["node-1", "node-2"])
    first, second = (address.split(".") for address in addresses.values())
    assert first[0] == second[0] == "127"
    assert first[1:3] == second[1:3]
    assert (first[3], second[3]) == ("11", "12")


def test_more_than_two_nodes_are_refused() -> None:
    with pytest.raises(cluster.ClusterError, match="NODES=3: one or two"):
        cluster.Cluster(cluster.ClusterOptions(nodes=3))


def test_what_several_programs_lack_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        toolcache, "missing", lambda _: {"etcd": "Go is not installed", "kubelet": "Go is not installed"}
    )
    monkeypatch.setattr(cluster.packages, "ensure", lambda _: None)
    monkeypatch.setattr(cluster.image_build, "missing", list)
    assert cluster.prepare() == ["Go is not installed; to build etcd, kubelet"]


def test_an_image_archive_is_the_same_for_the_same_files_and_holds_them(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!")
    archives = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for archive in archives:
        loadimage.write(archive, "example.invalid/x:1", {"bin/program": program}, {"sh": "program"}, ["/bin/program"])
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert manifest[0]["RepoTags"] == ["example.invalid/x:1"]
        with tarfile.open(fileobj=archive.extractfile(manifest[0]["Layers"][0])) as layer:
            assert {"bin/program", "bin/sh"} <= set(layer.getnames())


def test_the_checks_pod_runs_on_its_node_whatever_taints_it_has() -> None:
    spec = apicheck.pod("check", "node-2", "image")["spec"]
    assert (spec["nodeName"], spec["tolerations"]) == ("node-2", [{"operator": "Exists"}])
    compile(spec["containers"][0]["command"][2], "check", "exec")


def test_a_shell_without_a_cluster_says_what_starts_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shell", "--state", str(tmp_path)]) == 1
    assert "make cluster starts one" in capsys.readouterr().err


def test_the_state_of_a_running_one_is_its_owners_alone_and_goes_with_it(tmp_path: Path) -> None:
    background = Background(tmp_path, "a cluster", "make cluster-down")
    assert background.read() is None
    with background.hold():
        assert background.read() == {}
        background.publish({"token": "secret"})
        assert background.read() == {"pid": os.getpid(), "token": "secret"}
        assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
        with pytest.raises(RunsAlreadyError, match="end it with `make cluster-down`"), background.hold():
            pass
    assert background.read() is None


def test_what_runs_in_the_background_ends_when_its_directory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memorypressure_tools.background.CHECK_SECONDS", 0.0)
    background = Background(tmp_path / "build/cluster", "a cluster")
    checks = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            shutil.rmtree(tmp_path / "build")

    with background.hold():
        background.run(check)
    assert len(checks) == 3
    assert not (tmp_path / "state.json").exists()


def test_agent_and_operator_fit_on_the_idle_node() -> None:
    def millicores(quantity: str) -> int:
        return int(quantity.removesuffix("m"))

    options = cluster.ClusterOptions(nodes=2)
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    agent = sum(millicores(values["agent"][part]["resources"]["cpu"]) for part in ("sentinel", "reporter"))
    assert agent + millicores(values["operator"]["resources"]["cpu"]) <= options.idle_node.cpus * 1000
