"""Finds or builds the pinned servers and command-line tools that tests and demo run.

A tool is taken from `KUBEBUILDER_ASSETS` where that directory has an executable of its name, else from the cache, else
it is built from its Go module (`tools/<family>/go.mod`, which is the only place that names its version).
The cache is `${XDG_CACHE_HOME:-~/.cache}/memory-pressure-operator/<family>-<version>/bin`; a build goes to a temporary
name that is renamed when it is complete, under one lock for all of it.
"""

import argparse
import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

TOOLS_DIRECTORY: Final = Path(__file__).resolve().parent.parent
EXIT_MISSING: Final = 3
PROGRESS_SECONDS: Final = 15.0
BUILD_LIMIT_SECONDS: Final = 2400.0
LOG_TAIL_LINES: Final = 15
# The first Go that fetches the toolchain a go.mod asks for; older ones fail on the `tool` lines with a riddle.
OLDEST_GO: Final = (1, 21)


@dataclass(frozen=True, slots=True)
class Family:
    """One Go module whose programs are built together: its directory under tools/, the module with the version."""

    name: str
    module: str
    version_flags: tuple[str, ...] = ()
    tags: str = ""

    @property
    def cache_directory(self) -> Path:
        """Where the tools of this version are, for example `.../etcd-3.6.5`."""
        return cache_root() / f"{self.module.split('/')[1]}-{self.version}"

    @property
    def directory(self) -> Path:
        """Where the family's go.mod is."""
        return TOOLS_DIRECTORY / self.name

    @property
    def version(self) -> str:
        """The pinned version without its `v`, read from the family's go.mod."""
        text = (self.directory / "go.mod").read_text(encoding="utf-8")
        found = re.search(rf"^(?:require)?\s*{re.escape(self.module)} v(\S+)", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"{self.directory / 'go.mod'}: no line requires {self.module}")
        return found.group(1)

    @property
    def ldflags(self) -> str:
        """Linker flags: no symbol table, and the version where the program would report none or v0.0.0 without them."""
        major, minor = self.version.split(".")[:2]
        flags = (flag.format(version=self.version, major=major, minor=minor) for flag in self.version_flags)
        return " ".join(["-s -w", *(f"-X {flag}" for flag in flags)])


_COMPONENT: Final = "k8s.io/component-base/version"
KUBERNETES: Final = Family(
    "controlplane",
    "k8s.io/kubernetes",
    (f"{_COMPONENT}.gitVersion=v{{version}}", f"{_COMPONENT}.gitMajor={{major}}", f"{_COMPONENT}.gitMinor={{minor}}"),
)
ETCD: Final = Family("etcd", "go.etcd.io/etcd/server/v3")
HELM: Final = Family("helm", "helm.sh/helm/v4", ("helm.sh/helm/v4/internal/version.version=v{version}",))
# remove_all_sd leaves out the cloud service discoveries (and most of the build time): promtool checks rules without.
PROMETHEUS: Final = Family(
    "prometheus",
    "github.com/prometheus/prometheus",
    ("github.com/prometheus/common/version.Version={version}",),
    "remove_all_sd",
)
_CONTAINERD: Final = "github.com/containerd/containerd/v2"
CONTAINERD: Final = Family("containerd", _CONTAINERD, (f"{_CONTAINERD}/version.Version={{version}}",))

TOOLS: Final[Mapping[str, tuple[Family, str]]] = {
    "etcd": (ETCD, "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kubectl": (KUBERNETES, "k8s.io/kubernetes/cmd/kubectl"),
    "kube-controller-manager": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": (KUBERNETES, "k8s.io/kubernetes/cmd/kubelet"),
    "helm": (HELM, "helm.sh/helm/v4/cmd/helm"),
    "promtool": (PROMETHEUS, "github.com/prometheus/prometheus/cmd/promtool"),
    "containerd": (CONTAINERD, f"{_CONTAINERD}/cmd/containerd"),
    "containerd-shim-runc-v2": (CONTAINERD, f"{_CONTAINERD}/cmd/containerd-shim-runc-v2"),
    "ctr": (CONTAINERD, f"{_CONTAINERD}/cmd/ctr"),
}
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler")
TEST_TOOLS: Final = (*CONTROL_PLANE, "helm", "promtool")
NODE_TOOLS: Final = ("kubelet", "containerd", "containerd-shim-runc-v2", "ctr")
"""What a node in a virtual machine runs, beside what Debian has."""


class ToolMissingError(Exception):
    """A tool is neither there nor can it be built; the text names the tool and what is missing."""


@functools.cache
def cache_root() -> Path:
    """The directory that holds every version's tools and the lock."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path here is to be ignored.
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "memory-pressure-operator"


def _executable(path: Path) -> bool:
    return os.access(path, os.X_OK) and path.is_file()  # is_file raises below a directory that may not be entered


def _cached(name: str) -> Path:
    return TOOLS[name][0].cache_directory / "bin" / name


def find(name: str) -> Path | None:
    """The tool's executable if it is there already, else None; never builds."""
    if name not in TOOLS:
        raise ValueError(f"unknown tool {name!r}; known: {', '.join(TOOLS)}")
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    candidates = ([Path(assets).resolve() / name] if assets else []) + [_cached(name)]
    return next((path for path in candidates if _executable(path)), None)


def _go_version(text: str) -> tuple[int, int]:
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def go_environment(family: Family) -> dict[str, str]:
    """The environment to build `family` in; raises ToolMissingError when there is no Go that can."""
    if shutil.which("go") is None:
        raise ToolMissingError("Go is not installed (no `go` on PATH); needed: Go 1.21 or newer (https://go.dev/dl)")
    environment = {key: value for key, value in os.environ.items() if key not in {"GOOS", "GOARCH", "GOFLAGS"}}
    environment |= {"CGO_ENABLED": "0", "GOWORK": "off"}
    local = subprocess.run(
        ["go", "version"],
        env=environment | {"GOTOOLCHAIN": "local"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    version = _go_version(local.stdout)
    if version < OLDEST_GO:
        said = (local.stdout or local.stderr).strip()
        raise ToolMissingError(f"Go is too old ({said}); needed: Go 1.21 or newer (https://go.dev/dl)")
    wanted = _go_version((family.directory / "go.mod").read_text(encoding="utf-8").replace("\ngo ", "\ngo"))
    if version < wanted:
        if os.environ.get("GOTOOLCHAIN") == "local":
            raise ToolMissingError(
                f"Go {version[0]}.{version[1]} may not fetch the Go {wanted[0]}.{wanted[1]} that "
                f"tools/{family.name}/go.mod asks for: unset GOTOOLCHAIN=local or install that version"
            )
        # Debian's Go has `local` as its default, which refuses instead of fetching the newer toolchain.
        environment.setdefault("GOTOOLCHAIN", "auto")
    return environment


def missing(names: Iterable[str]) -> dict[str, str]:
    """Name and reason of each tool that is not there and cannot be built here; empty when all can be had."""
    reasons: dict[str, str] = {}
    for name in names:
        if find(name) is None:
            try:
                go_environment(TOOLS[name][0])
            except ToolMissingError as error:
                reasons[name] = str(error)
    return reasons


def _say(text: str) -> None:
    print(f"tools: {text}", file=sys.stderr, flush=True)


def _open_lock() -> IO[str]:
    """The lock's file in a cache that can be written; ToolMissingError where it cannot."""
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        return (cache_root() / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ToolMissingError(
            f"the cache {cache_root()} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a directory that can"
        ) from error


@contextlib.contextmanager
def _lock(purpose: str) -> Iterator[None]:
    """Holds the cache's lock; while another process holds it, says which one and for how long this one has waited."""
    with _open_lock() as file:
        started = said = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if said == started or now - said >= PROGRESS_SECONDS:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    _say(f"{now - started:.0f} s: waiting for the cache's lock, held by {holder}")
                    said = now
                time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} ({purpose})\n")
        file.flush()
        yield
        # Emptied, not removed: a removed file would let two processes lock two files of one name.
        file.truncate(0)


def _build(name: str) -> None:
    """Puts the tool into the cache, under the lock; ToolMissingError with the end of the build's output."""
    family, package = TOOLS[name]
    environment = go_environment(family)
    binaries = _cached(name).parent
    binaries.mkdir(parents=True, exist_ok=True)
    for leftover in binaries.glob(f".{name}.*"):
        leftover.unlink()
    temporary = binaries / f".{name}.{os.getpid()}"
    log_path = family.cache_directory / f"build-{name}.log"
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", family.ldflags]
    command += (["-tags", family.tags] if family.tags else []) + ["-o", str(temporary), package]
    _say(f"building {name} {family.version} from its Go module; {_remaining(name)}")
    started = time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        code = _wait(name, started, command, environment, family.directory, log)
    if code != 0 or not _executable(temporary):
        temporary.unlink(missing_ok=True)
        tail = "\n  ".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise ToolMissingError(f"go build of {name} ended with code {code}, see {log_path}:\n  {tail}")
    temporary.replace(binaries / name)
    log_path.unlink()
    _say(f"built {name} {family.version} in {time.monotonic() - started:.0f} s")


def _remaining(name: str) -> str:
    return "takes 4 to 7 minutes the first time" if name == "kube-apiserver" else "takes up to 3 minutes the first time"


def _wait(
    name: str, started: float, command: list[str], environment: dict[str, str], directory: Path, log: IO[str]
) -> int:
    """Exit code of the build, after progress lines; the build ends with this process's Ctrl-C or its time limit."""
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    ) as process:
        try:
            while True:
                try:
                    return process.wait(PROGRESS_SECONDS)
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    _say(f"building {name}: {elapsed:.0f} s")
                    if elapsed > BUILD_LIMIT_SECONDS:
                        process.kill()
                        raise ToolMissingError(
                            f"go build of {name} was stopped after {elapsed:.0f} s (limit {BUILD_LIMIT_SECONDS:.0f} s)"
                        ) from None
        except BaseException:
            process.kill()
            raise


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """Path of each tool by name, built where needed; raises ToolMissingError for the first that cannot be had."""
    paths: dict[str, Path] = {}
    for name in names:
        path = find(name)
        if path is None:
            go_environment(TOOLS[name][0])
            with _lock(f"building {name}"):
                path = find(name)  # another process may have built it while this one waited
                if path is None:
                    _build(name)
                    path = find(name)
        if path is None:
            raise ToolMissingError(f"{name}: built, but not found at {_cached(name)}")
        paths[name] = path
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Ensures the named tools (default: all that tests use); 0, or 3 after a list of what is missing."""
    parser = argparse.ArgumentParser(prog="toolcache", description="Find or build the pinned tools.")
    parser.add_argument("names", nargs="*", metavar="TOOL", help=f"default: {' '.join(TEST_TOOLS)}")
    parser.add_argument("--list", action="store_true", help="print where each tool is and build nothing")
    options = parser.parse_args(arguments)
    names: list[str] = options.names or list(TEST_TOOLS)
    unknown = [name for name in names if name not in TOOLS]
    if unknown:
        parser.error(f"unknown tool {unknown[0]!r}; known: {', '.join(TOOLS)}")
    if options.list:
        for name in names:
            print(f"{name:24} {TOOLS[name][0].version:10} {find(name) or 'not built yet'}")
        return 0
    reasons: dict[str, str] = {}
    for name in names:
        try:
            ensure([name])
        except ToolMissingError as error:
            reasons[name] = str(error)
    for name, reason in reasons.items():
        _say(f"missing: {name}: {reason}")
    return EXIT_MISSING if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
