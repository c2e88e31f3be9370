"""The repository's own rules: what must not be in it, and what has to agree."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from memorypressure.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_OURS = {".hypothesis", ".git", ".venv", "build", "__pycache__"}
LOCKS = ["agent.txt", "build.txt", "dev.txt", "operator.txt"]
CORE = sorted((REPOSITORY / "core").rglob("*.py"))
# In halves, so that this file does not find itself.
FORBIDDEN = [
    "/work" + "/main",
    "/work" + "/shared",
    "/opt" + "/wheels",
    "/root" + "/.",
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "proxy.golang" + ".org",
    "sum.golang" + ".org",
    "registry.k8s" + ".io",
    "docker" + ".io",
    "quay" + ".io",
    "ghcr" + ".io",
]


def _files() -> Iterator[Path]:
    for directory, folders, names in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if name not in NOT_OURS and not name.endswith((".egg-info", "_cache"))]
        yield from (Path(directory) / name for name in names if name != ".git")  # a file in a work tree of git's


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("folder", ["operator", "node-agent", "core", "tests", "tests/operator"])
def test_no_folder_of_sources_is_a_package_itself(folder: str) -> None:
    assert not (REPOSITORY / folder / "__init__.py").exists()


def test_the_standard_librarys_operator_is_not_shadowed() -> None:
    code = "import operator; print(operator.__file__)"
    path = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert str(REPOSITORY / "operator") not in path


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_has_hashes_and_no_url(name: str) -> None:
    text = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|\bfile:| @ ", text)
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9.-]+==\S+", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_the_lock_files_agree_on_every_version() -> None:
    pins: dict[str, set[str]] = {}
    for name in LOCKS:
        text = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8")
        for package, version, marker in re.findall(r"^([a-z0-9.-]+)==(\S+)(.*)$", text, re.MULTILINE):
            pins.setdefault(package + marker.rstrip(" \\"), set()).add(version)
    assert {package: versions for package, versions in pins.items() if len(versions) > 1} == {}


def test_the_agents_lock_holds_neither_kopf_nor_kubernetes() -> None:
    text = (REPOSITORY / "requirements/agent.txt").read_text(encoding="utf-8")
    assert set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)) == {"prometheus-client", "pyyaml"}


def test_there_is_one_version_number() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "memorypressure.version.VERSION"}
    chart = yaml.safe_load((REPOSITORY / "charts/memory-pressure-operator/Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{VERSION}]" in changelog


@pytest.mark.parametrize("command", ["memorypressure-agent", "memorypressure-operator"])
def test_a_console_script_says_the_version_and_its_help(command: str) -> None:
    script = Path(sys.executable).with_name(command)
    shown = {
        option: subprocess.run([script, option], capture_output=True, text=True, timeout=30, check=True).stdout
        for option in ("--version", "--help")
    }
    assert VERSION in shown["--version"]
    assert f"usage: {command}" in shown["--help"]


def test_every_verb_of_the_makefile_is_in_its_help() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert found is not None
    verbs = set(found.group(1).replace("\\\n", " ").split())
    assert {"setup", "demo", "test", "lint", "format", "bench", "soak", "clean"} <= verbs
    assert set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE)) == verbs
    shown = subprocess.run(["make", "-s"], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True)
    listed = {line.split()[0]: line.split(maxsplit=1)[1:] for line in shown.stdout.splitlines()}
    assert set(listed) == verbs
    assert all(listed.values())


def test_core_imports_the_standard_library_only() -> None:
    assert CORE
    for path in CORE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        foreign = set(_imports(tree)) - set(sys.stdlib_module_names) - {"memorypressure"}
        assert foreign == set(), path


def test_core_opens_and_prints_nothing() -> None:
    for path in CORE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert names & {"open", "print", "input", "exec", "eval", "__import__"} == set(), path


def test_no_file_names_a_place_of_one_machine_or_a_registry() -> None:
    found = []
    for path in _files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(REPOSITORY)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []
