"""Where a tool comes from, and what is said when it cannot be had."""

import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Behaves as Go does for `go version` and `go build -o FILE`; what it builds prints its arguments.
FAKE_GO = """\
#!/bin/sh
case "$1" in
version) echo "go version go{version} linux/amd64" ;;
build)
    echo "toolchain=${{GOTOOLCHAIN:-unset}} cgo=$CGO_ENABLED $*" > "$HOME/build.txt"
    if [ -e "$HOME/broken" ]; then echo "no such host"; exit 1; fi
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho built\\n' > "$2"; chmod +x "$2" ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with an empty bin/ that is the whole PATH but for the shell's own commands."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "chmod"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    return tmp_path


def _install_go(home: Path, version: str) -> None:
    path = home / "bin/go"
    path.write_text(FAKE_GO.format(version=version), encoding="utf-8")
    path.chmod(0o755)


def _start(home: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    clean = {"PATH": str(home / "bin"), "HOME": str(home), "PYTHONPATH": str(REPOSITORY / "tools")}
    command = [sys.executable, "-m", "memorypressure_tools.toolcache", *words]
    return subprocess.Popen(
        command, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home
    )


def _run(home: Path, *words: str, **environment: str) -> tuple[int, str]:
    with _start(home, *words, **environment) as process:
        out, err = process.communicate(timeout=30)
        return process.returncode, out + err


def _cached(home: Path, cache: str = ".cache") -> list[str]:
    return [path.name for path in (home / cache).glob("memory-pressure-operator/*/bin/*")]


def test_without_go_every_missing_tool_is_listed_and_the_exit_code_is_3(home: Path) -> None:
    code, output = _run(home, "etcd", "helm")
    assert code == 3
    for name in ("etcd", "helm"):
        assert f"missing: {name}: Go is not installed (no `go` on PATH); needed: Go 1.21 or newer" in output


@pytest.mark.parametrize("version", ["1.19.8", "1.20"])
def test_a_go_that_cannot_fetch_toolchains_is_named(home: Path, version: str) -> None:
    _install_go(home, version)
    code, output = _run(home, "etcd")
    assert code == 3
    assert f"Go is too old (go version go{version} linux/amd64); needed: Go 1.21 or newer" in output


def test_an_older_go_may_fetch_the_toolchain_even_where_the_default_forbids_it(home: Path) -> None:
    _install_go(home, "1.21.0")
    assert _run(home, "etcd")[0] == 0
    assert (home / "build.txt").read_text(encoding="utf-8").startswith("toolchain=auto cgo=0 build")


def test_an_older_go_that_the_user_forbids_to_fetch_says_so(home: Path) -> None:
    _install_go(home, "1.21.0")
    code, output = _run(home, "etcd", GOTOOLCHAIN="local")
    assert code == 3
    assert "unset GOTOOLCHAIN=local" in output


def test_a_built_tool_is_in_the_cache_of_its_versions_and_not_built_again(home: Path) -> None:
    _install_go(home, "1.26.1")
    code, output = _run(home, "kube-apiserver", XDG_CACHE_HOME=str(home / "elsewhere"))
    assert code == 0
    assert "built kube-apiserver 1." in output
    assert _cached(home, "elsewhere") == ["kube-apiserver"]
    assert "version.gitVersion=v1." in (home / "build.txt").read_text(encoding="utf-8")
    (home / "bin/go").unlink()
    assert _run(home, "kube-apiserver", XDG_CACHE_HOME=str(home / "elsewhere")) == (0, "")


def test_a_failed_build_leaves_nothing_and_shows_the_end_of_its_output(home: Path) -> None:
    _install_go(home, "1.26.1")
    (home / "broken").touch()
    code, output = _run(home, "etcd")
    assert code == 3
    assert "go build of etcd ended with code 1" in output
    assert "no such host" in output
    assert _cached(home) == []


def test_what_kubebuilder_assets_has_is_taken_binary_by_binary(home: Path) -> None:
    _install_go(home, "1.26.1")
    assets = home / "assets"
    assets.mkdir()
    (assets / "etcd").write_text("#!/bin/sh\n", encoding="utf-8")
    (assets / "etcd").chmod(0o755)
    (assets / "kubectl").write_text("not executable\n", encoding="utf-8")
    code, output = _run(home, "etcd", "kubectl", KUBEBUILDER_ASSETS=str(assets))
    assert code == 0
    assert "building kubectl" in output
    assert _cached(home) == ["kubectl"]
    listing = _run(home, "--list", "etcd", KUBEBUILDER_ASSETS=str(assets))[1]
    assert str(assets / "etcd") in listing


def test_a_second_builder_waits_and_says_for_whom(home: Path) -> None:
    _install_go(home, "1.26.1")
    root = home / ".cache/memory-pressure-operator"
    root.mkdir(parents=True)
    with (root / "lock").open("w", encoding="utf-8") as lock:
        lock.write("pid 4711 (building etcd)\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = _start(home, "etcd")
        assert process.stderr is not None
        assert "waiting for the cache's lock, held by pid 4711 (building etcd)" in process.stderr.readline()
        assert process.poll() is None
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, out + err
    assert _cached(home) == ["etcd"]


@pytest.mark.parametrize(("cache", "why"), [("file", "Not a directory"), ("x" * 300, "File name too long")])
def test_a_cache_that_cannot_be_used_is_named(home: Path, cache: str, why: str) -> None:
    _install_go(home, "1.26.1")
    (home / "file").touch()
    code, output = _run(home, "etcd", XDG_CACHE_HOME=str(home / cache))
    assert code == 3
    assert f"missing: etcd: the cache {home}/{cache}/memory-pressure-operator cannot be written ({why})" in output
    assert "Traceback" not in output


def test_an_unknown_tool_is_refused_with_the_known_ones(home: Path) -> None:
    code, output = _run(home, "kubectrl")
    assert code == 2
    assert "unknown tool 'kubectrl'; known: etcd, kube-apiserver, kubectl" in output


def test_skipped_tests_are_listed_and_the_exit_code_is_3_but_a_failure_in_ci(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_bytes((REPOSITORY / "tests/conftest.py").read_bytes())
    sentence = """\
    import pytest

    from memorypressure_tools import toolcache

    @pytest.mark.needs("no-such-command-anywhere")
    def test_a():
        pass

    @pytest.fixture(scope="module")
    def server():
        raise toolcache.ToolMissingError("Go is not installed")

    def test_with_a_server(server):
        pass

    @pytest.mark.parametrize("value", [1, 2])
    def test_b(value):
        pytest.skip("no cgroup tree")

    def test_c():
        pass
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(sentence), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    results = {}
    for ci in ("", "true"):
        environment = os.environ | {"CI": ci, "PYTHONPATH": str(REPOSITORY / "tools")}
        done = subprocess.run(
            [*command, f"--rootdir={tmp_path}", str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        results[ci] = (done.returncode, done.stdout)
    assert results[""][0] == 3, results[""][1]
    assert "1 test not run: no-such-command-anywhere: no such command on PATH" in results[""][1]
    assert "2 tests not run: no cgroup tree" in results[""][1]
    assert "1 test not run: Go is not installed" in results[""][1]
    assert results["true"][0] == 1
    assert "CI=true does not allow: no-such-command-anywhere: no such command on PATH" in results["true"][1]
    assert "CI=true does not allow: Go is not installed" in results["true"][1]
    assert "CI=true does not allow: no cgroup tree" in results["true"][1]
