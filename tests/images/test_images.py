"""What `make images` builds, unpacked and run as a pod would: a read-only root, uid 65532 and 0, no network."""

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.imagetree import NONROOT, ImageTree
from support.sentinellab import eventually

from memorypressure.version import VERSION
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_tools.helm import Helm
from memorypressure_tools.images import build
from memorypressure_tools.images.archive import Archive, ArchiveError
from memorypressure_tools.images.build import reference

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = "/opt/memory-pressure/lib"
UNCHECKED = 0b01
"""Flags of a .pyc: by hash, and not to be compared with its source (PEP 552)."""
BUILD_TOOLS = {
    "pip",
    "pip.conf",
    "wheels",
    "setuptools",
    "ensurepip",
    "gcc",
    "cc",
    "ld",
    "dpkg",
    "apt",
    "sh",
    "busybox",
}


def _python(tree: ImageTree, code: str) -> str:
    """What the code prints in the image's Python, which sees the image's libraries; it must write no error."""
    start = f"import sys; sys.path.insert(0, {LIBRARY!r}); "
    done = tree.run("/opt/memory-pressure/bin/python3", "-I", "-c", start + code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_chart_asks_for_the_images_under_the_names_they_are_built_under(
    images: dict[str, ImageTree], tmp_path: Path
) -> None:
    named = set()
    for manifest in Helm(tmp_path).template():
        pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
        named |= {container["image"] for container in pod.get("containers", [])}
    assert named == {reference("agent"), reference("operator")}
    assert named == {tree.archive.reference for tree in images.values()}


@pytest.mark.parametrize("name", ["agent", "operator"])
@pytest.mark.parametrize("uid", [NONROOT, 0])
def test_the_console_script_is_on_the_path_and_says_its_version(
    images: dict[str, ImageTree], name: str, uid: int
) -> None:
    done = images[name].run(f"memorypressure-{name}", "--version", uid=uid)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"memorypressure-{name} {VERSION}\n", "")


def test_the_reporter_starts_as_far_as_it_can_without_a_cluster(agent: ImageTree) -> None:
    done = agent.run("memorypressure-agent", "reporter", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--journal FILE" in done.stdout
    _python(agent, "import memorypressure_agent.reporter.main, memorypressure_agent.reporter.publisher")


def test_the_operator_starts_as_far_as_it_can_without_a_cluster(operator: ImageTree) -> None:
    done = operator.run("memorypressure-operator", "run")
    assert done.returncode == 2
    assert "--namespace: not given" in done.stderr
    _python(operator, "import memorypressure_operator.main, kopf, kubernetes")


@pytest.mark.parametrize("uid", [NONROOT, 0])
def test_the_sentinel_observes_the_kernel_it_runs_on(agent: ImageTree, uid: int) -> None:
    journal = agent.run_directory / f"journal-{uid}"
    (agent.run_directory / "cgroup").mkdir(exist_ok=True)
    command = ("memorypressure-agent", "sentinel", f"--journal=/run/{journal.name}", "--cgroup-root=/run/cgroup")
    with agent.running(*command, uid=uid) as process:

        def zones() -> int:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            try:
                with JournalReader(str(journal)) as reader:
                    reader.refresh()
                    record = reader.status()
            except JournalError:  # not made yet
                return 0
            return 0 if record is None else len(record.values["zones"])

        eventually(zones, "a status with the machine's zones", 30)


def test_the_agents_image_holds_neither_kopf_nor_kubernetes_nor_the_operator(agent: ImageTree) -> None:
    forbidden = ["kopf", "kubernetes", "msgspec", "memorypressure_operator"]
    found = [path for path in agent.root.rglob("*") if path.name.partition("-")[0].removesuffix(".py") in forbidden]
    assert found == []
    assert _python(agent, f"import importlib.util as u; print([n for n in {forbidden} if u.find_spec(n)])") == "[]"


def test_the_agents_python_has_the_standard_library_with_its_extensions(agent: ImageTree) -> None:
    _python(agent, "import bz2, curses, decimal, lzma, mmap, multiprocessing, resource, sqlite3, ssl, zlib, zoneinfo")
    assert _python(agent, "import ctypes; print(ctypes.CDLL(None).mlockall.argtypes)") == "None"


@pytest.mark.parametrize("name", ["agent", "operator"])
def test_every_module_has_bytecode_that_is_taken_as_it_is(images: dict[str, ImageTree], name: str) -> None:
    tree = images[name]
    code = "import sysconfig; import importlib.util as u; "
    code += "print(sysconfig.get_path('stdlib'), u.MAGIC_NUMBER.hex(), u.cache_from_source('x.py'))"
    stdlib, magic, cached = _python(tree, code).split()
    sources = [path for place in (stdlib, LIBRARY) for path in (tree.root / place[1:]).rglob("*.py")]
    assert len(sources) > 500
    for source in sources:
        compiled = source.parent / cached.replace("x", source.stem, 1)
        head = compiled.read_bytes()[:16]
        assert (head[:4].hex(), int.from_bytes(head[4:8], "little")) == (magic, UNCHECKED), compiled
        assert head[8:] == importlib.util.source_hash(source.read_bytes()), (
            f"{source} was changed after it was compiled"
        )


def test_the_sentinels_own_bytecode_is_taken_as_it_is(agent: ImageTree) -> None:
    code = "import json, sys; from memorypressure_agent.sentinel import lean; lean.main('null'); "
    code += "import memorypressure_agent.sentinel.service; "
    code += (
        "print(json.dumps([[m.__file__, m.__cached__] for m in sys.modules.values() if getattr(m, '__cached__', 0)]))"
    )
    words = ("/opt/memory-pressure/bin/python3", "-I", "-S", "-OO", "-c")
    done = agent.run(*words, f"import sys; sys.path.insert(0, {LIBRARY!r}); {code}")
    assert (done.returncode, done.stderr) == (0, "")
    loaded = json.loads(done.stdout)
    assert len(loaded) > 50
    for source, compiled in loaded:
        assert compiled.endswith(".opt-2.pyc")
        head = (agent.root / compiled[1:]).read_bytes()[:16]
        assert int.from_bytes(head[4:8], "little") == UNCHECKED, compiled
        text = (agent.root / source[1:]).read_bytes()
        assert head[8:] == importlib.util.source_hash(text), f"{source} was changed after it was compiled"


@pytest.mark.parametrize("name", ["agent", "operator"])
def test_nothing_is_left_of_the_build(images: dict[str, ImageTree], name: str) -> None:
    root = images[name].root
    paths = [path for path in root.rglob("*") if path.relative_to(root).parts[0] != "dev"]
    assert [path for path in paths if path.name in BUILD_TOOLS and not path.is_dir()] == []
    assert [path for path in paths if path.name in {"pip", "setuptools", "ensurepip", "wheels"}] == []
    assert [path for path in paths if path.suffix == ".whl"] == []
    assert list((root / "tmp").iterdir()) == []
    assert {path.name for path in (root / "opt/memory-pressure").iterdir()} == {"LICENSE", "bin", "lib"}
    for path in paths:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        if not path.is_symlink() and path != root / "tmp":
            assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH), f"{path}: {status.st_mode:o}"
            assert status.st_mode & stat.S_IROTH, f"{path} cannot be read by uid {NONROOT}"


@pytest.mark.parametrize("name", ["agent", "operator"])
def test_an_image_says_what_it_is_and_names_its_packages_for_scanners(images: dict[str, ImageTree], name: str) -> None:
    configuration = images[name].archive.configuration["config"]
    assert configuration["User"] == "65532:65532"
    assert configuration["Entrypoint"] == [f"memorypressure-{name}"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in configuration["Labels"].items()}
    assert labels["title"] == f"memory-pressure-operator/{name}"
    assert labels["version"] == VERSION
    assert labels["licenses"] == "Apache-2.0"
    package = images[name].root / "var/lib/dpkg/status.d/python3.11"
    assert "Version: 3.11." in package.read_text(encoding="utf-8")
    assert (images[name].root / "usr/share/doc/python3.11/copyright").stat().st_size > 0


def _make(words: list[str], path: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name in {"HOME", "XDG_CACHE_HOME"}}
    environment |= {"PATH": path, "PYTHONPATH": f"{REPOSITORY}/tools:{REPOSITORY}/core"}
    command = [sys.executable, "-m", "memorypressure_tools.images", *words]
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_second_build_comes_from_the_cache_and_prints_the_table(images: dict[str, ImageTree], tmp_path: Path) -> None:
    for name in ("buildah", "mmdebstrap"):
        (tmp_path / name).write_text("#!/bin/false\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = _make([f"--output={tmp_path}/out"], f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, "")
    for name, tree in images.items():
        assert reference(name) in done.stdout
        assert (tmp_path / f"out/{name}.oci.tar").read_bytes() == tree.archive.path.read_bytes()


def test_what_is_missing_is_listed_and_the_exit_code_is_3(tmp_path: Path) -> None:
    done = _make([], str(tmp_path))
    assert done.returncode == 3
    command = "apt-get install --no-install-recommends buildah mmdebstrap"
    assert f"images: missing: buildah, mmdebstrap (on Debian: {command})" in done.stderr


def test_a_base_that_is_not_there_is_an_error_that_names_it(images: dict[str, ImageTree], tmp_path: Path) -> None:
    done = _make(["--base=localhost/no-such-image:1", f"--output={tmp_path}"], os.environ["PATH"])
    assert done.returncode == 1
    assert "images: error: building the agent's image: code" in done.stderr
    assert "localhost/no-such-image:1" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_blob_that_is_not_what_its_digest_says_is_refused(agent: ImageTree, tmp_path: Path) -> None:
    content = bytearray(agent.archive.path.read_bytes())
    digest = agent.archive.manifest["layers"][1]["digest"].removeprefix("sha256:")
    content[content.index(f"blobs/sha256/{digest}".encode()) + 100_000] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(ArchiveError, match=digest):
        Archive(tmp_path / "damaged").sizes()


def test_a_key_of_the_cache_changes_with_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    key = build._key("agent", "base")
    assert build._key("agent", "base") == key
    assert build._key("agent", "other base") != key
    assert build._key("operator", "base") != key
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert build._key("agent", "base") != key
