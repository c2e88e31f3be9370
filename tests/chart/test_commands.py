"""The command lines that the chart renders are ones that the real programs take."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from memorypressure_tools.helm import Manifest

COMMANDS = (
    ("DaemonSet", "sentinel", ("memorypressure-agent", "sentinel")),
    ("DaemonSet", "reporter", ("memorypressure-agent", "reporter")),
    ("DaemonSet", "kernel-log", ("memorypressure-agent", "kernel-log")),
    ("Deployment", "operator", ("memorypressure-operator", "run")),
    ("Job", "remove-taints", ("memorypressure-operator", "cleanup")),
)


@cache
def help_of(program: str, subcommand: str) -> str:
    """What `<program> <subcommand> --help` prints, by the console script of this environment."""
    script = shutil.which(program, path=str(Path(sys.executable).parent))
    assert script, f"no console script {program} beside {sys.executable}: run make setup"
    done = subprocess.run([script, subcommand, "--help"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "name", "command"), COMMANDS, ids=[name for _, name, _ in COMMANDS])
def test_every_flag_in_every_scenario_is_in_the_help_of_the_real_command(
    rendered: dict[str, list[Manifest]], kind: str, name: str, command: tuple[str, str]
) -> None:
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_of(*command)))
    assert "--help" in known
    seen: set[str] = set()
    for scenario, manifests in rendered.items():
        for workload in (m for m in manifests if m["kind"] == kind):
            for container in workload["spec"]["template"]["spec"]["containers"]:
                if container["name"] != name:
                    continue
                assert [*container["command"], container["args"][0]] == list(command)
                flags = {word.partition("=")[0] for word in container["args"][1:]}
                assert all(flag.startswith("--") for flag in flags), f"{scenario}: {container['args']}"
                assert not flags - known, f"{scenario}: {command} does not know {sorted(flags - known)}"
                seen |= flags
    assert seen


def test_every_variable_in_an_argument_is_in_the_environment(rendered: dict[str, list[Manifest]]) -> None:
    for manifests in rendered.values():
        for workload in (m for m in manifests if m["kind"] in {"DaemonSet", "Deployment", "Job"}):
            for container in workload["spec"]["template"]["spec"]["containers"]:
                used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
                assert used <= {variable["name"] for variable in container.get("env", [])}
