"""Builds the images with buildah, each once for the same inputs: sources, requirements, Containerfile and base.

No daemon and no registry are asked: the base where none is named is Debian's Python as mmdebstrap unpacks it, and the
wheels are fetched by this machine's pip, with its configuration, and installed in the build by their hashes.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memorypressure.version import VERSION
from memorypressure_tools.images.archive import write_archive
from memorypressure_tools.toolcache import TOOLS_DIRECTORY, cache_root

REPOSITORY: Final = TOOLS_DIRECTORY.parent
REGISTRY: Final = "localhost"
"""The chart's default: no registry has the images, and a name without one would be asked of somebody else's."""
NAMES: Final = ("agent", "operator")
SOURCES: Final = {
    "agent": ("core/memorypressure", "node-agent/memorypressure_agent"),
    "operator": ("core/memorypressure", "operator/memorypressure_operator"),
}
SUITE: Final = "bookworm"
PYTHON: Final = "3.11"
"""Of the suite; wheels are fetched for it."""
BASE_PACKAGES: Final = ("python3",)
BUILDER_PACKAGES: Final = ("python3", "python3-venv", "dash", "coreutils")
REMOVED_PACKAGES: Final = ("dpkg", "tar", "debconf")
"""What the packages above depend on to be installed, which here they are not."""

KEPT: Final = 8
"""Builds of each image that the cache keeps."""
STEP_LIMIT_SECONDS: Final = 600.0
_COMMANDS: Final = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


class ImageBuildError(Exception):
    """A step failed; the text names it and ends with what it wrote."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to build on: a named base, or None for our own; whether again although it is cached."""

    base: str | None = None
    builder: str | None = None
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """One built image: its part's name, the reference it is imported under, and its OCI archive."""

    name: str
    reference: str
    path: Path


def missing(request: Request | None = None) -> list[str]:
    """What this machine lacks for building, one line each; empty when all is there."""
    commands = ["buildah"] + (["mmdebstrap"] if request is None or request.base is None else [])
    absent = [command for command in commands if shutil.which(command) is None]
    packages = " ".join(_COMMANDS[command] for command in absent)
    install = f"apt-get install --no-install-recommends {packages}"
    lacking = [f"{', '.join(absent)} (on Debian: {install})"] if absent else []
    if os.geteuid() != 0:
        lacking.insert(0, "root: a tree with other owners is unpacked and entered")
    return lacking


def reference(name: str) -> str:
    """The full name of the image of `name`, as the chart's values name it."""
    return f"{REGISTRY}/memory-pressure-operator/{name}:{VERSION}"


def build(request: Request, output: Path) -> list[Image]:
    """The images as `output`/NAME.oci.tar, from the cache where nothing changed; raises ImageBuildError."""
    output.mkdir(parents=True, exist_ok=True)
    images = []
    with _cache() as cache:
        base = None if request.base else _base(cache, refresh=request.refresh)
        for name in NAMES:
            key = _key(name, base.name if base else f"{request.base} {request.builder}")
            cached = cache / f"{name}-{key}.oci.tar"
            if request.refresh or not cached.exists():
                _build_image(name, request, base, cached)
            path = output / f"{name}.oci.tar"
            path.unlink(missing_ok=True)
            shutil.copyfile(cached, path)
            images.append(Image(name, reference(name), path))
    return images


def _say(text: str) -> None:
    print(f"images: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """The directory of what was built, held by this process alone."""
    cache = cache_root() / "images"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield cache


def _digest(paths: Sequence[Path], *words: str) -> str:
    total = hashlib.sha256("\0".join(words).encode())
    for top in paths:
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(str(file.relative_to(REPOSITORY)).encode() + b"\0")
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def _key(name: str, base: str) -> str:
    files = ("images/Containerfile", "images/compile_all.py", f"images/bin/memorypressure-{name}", "LICENSE")
    inputs = [REPOSITORY / file for file in files]
    inputs += [REPOSITORY / f"requirements/{name}.txt", *(REPOSITORY / source for source in SOURCES[name])]
    inputs += [Path(__file__), Path(__file__).with_name("archive.py")]
    return _digest(inputs, base, VERSION, _epoch())


def _epoch() -> str:
    """Seconds since 1970 that every file and the image's `created` carry: the same inputs make the same image."""
    return os.environ.get("SOURCE_DATE_EPOCH", "0")


def _run(what: str, command: Sequence[str | Path], cwd: Path = REPOSITORY, **environment: str) -> None:
    """Runs one step; ImageBuildError with the end of its output."""
    _say(what)
    started = time.monotonic()
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageBuildError(f"{what}: not done after {STEP_LIMIT_SECONDS:.0f} s") from error
    if done.returncode != 0:
        tail = "\n  ".join(done.stdout.decode("utf-8", "replace").splitlines()[-25:])
        raise ImageBuildError(f"{what}: code {done.returncode}\n  {tail}")
    _say(f"{what}: {time.monotonic() - started:.0f} s")


def _base(cache: Path, *, refresh: bool) -> Path:
    """The directory with `base.tar` and `builder.tar`, trees of Debian packages, unpacked anew only when asked for."""
    words = (SUITE, *BASE_PACKAGES, "/", *BUILDER_PACKAGES, "/", *REMOVED_PACKAGES, _epoch())
    final = cache / f"base-{_digest([REPOSITORY / 'images/base'], *words)}"
    if final.is_dir() and not refresh:
        return final
    temporary = Path(tempfile.mkdtemp(dir=cache, prefix=".base-"))
    for name, packages in (("base", BASE_PACKAGES), ("builder", BUILDER_PACKAGES)):
        _run(
            f"unpacking Debian's packages for the {name}",
            [
                "mmdebstrap",
                "--variant=extract",
                "--mode=root",
                "--skip=cleanup/apt,cleanup/tmp",  # the hook has done it
                f"--include={','.join(packages)}",
                f"--extract-hook={REPOSITORY / 'images/base/tidy.sh'}",
                SUITE,
                temporary / f"{name}.tar",
            ],
            SOURCE_DATE_EPOCH=_epoch(),
            REMOVED_PACKAGES=" ".join(REMOVED_PACKAGES),
        )
    shutil.rmtree(final, ignore_errors=True)
    temporary.chmod(0o755)
    temporary.replace(final)
    return final


def _wheels(name: str, directory: Path) -> None:
    """Fetches the wheels of the image's requirements, for the base's Python, with this machine's pip."""
    architecture = os.uname().machine
    platforms = [f"--platform=manylinux{tag}_{architecture}" for tag in ("_2_28", "_2_17", "2014")]
    _run(
        f"fetching the {name}'s libraries",
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-input", "--quiet"),
            *("--require-hashes", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}"),
            *("--implementation=cp", *platforms, f"--dest={directory}"),
            f"--requirement={REPOSITORY}/requirements/{name}.txt",
        ],
    )


class _Buildah:
    """buildah with a storage of its own below `directory`, which goes with that directory."""

    def __init__(self, directory: Path) -> None:
        self._options = [f"--root={directory}/storage", f"--runroot={directory}/run", "--storage-driver=vfs"]

    def build(self, what: str, tag: str, containerfile: Path, context: Path, *options: str) -> None:
        """Builds `containerfile`; steps run in a chroot, so neither a runtime nor cgroups are needed."""
        _run(
            f"building the {what}",
            [
                *("buildah", *self._options, "build", "--isolation=chroot", "--format=oci", f"--timestamp={_epoch()}"),
                *("--layers=false", "--no-hosts", f"--file={containerfile}", f"--tag={tag}", *options, str(context)),
            ],
        )

    def export(self, tag: str, layout: Path) -> None:
        """Writes the image as an OCI layout directory."""
        _run("writing its layout", ["buildah", *self._options, "push", "--quiet", tag, f"oci:{layout}"])


def _own_base(buildah: _Buildah, name: str, base: Path, context: Path) -> list[str]:
    """Build arguments that name our base and its builder, which holds the wheels of the image `name`."""
    context.mkdir()
    for tree in ("base.tar", "builder.tar"):
        (context / tree).hardlink_to(base / tree)
    _wheels(name, context / "wheels")
    (context / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n", encoding="utf-8")
    tags = {"BASE": f"localhost/debian-python:{SUITE}", "BUILDER": f"localhost/debian-python-builder:{SUITE}"}
    for argument, file in (("BASE", "Containerfile"), ("BUILDER", "builder.Containerfile")):
        buildah.build(argument.lower(), tags[argument], REPOSITORY / "images/base" / file, context)
    return [f"--build-arg={argument}={tag}" for argument, tag in tags.items()]


def _build_image(name: str, request: Request, base: Path | None, path: Path) -> None:
    """Builds one image into the file `path`, which is there when it is complete."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as place:
        directory = Path(place)
        buildah = _Buildah(directory)
        options = [f"--target={name}", f"--build-arg=NAME={name}", f"--build-arg=VERSION={VERSION}"]
        if base is None:
            options += [f"--build-arg=BASE={request.base}"]
            options += [f"--build-arg=BUILDER={request.builder}"] if request.builder else []
        else:
            options += _own_base(buildah, name, base, directory / "context")
        buildah.build(f"{name}'s image", name, REPOSITORY / "images/Containerfile", REPOSITORY, *options)
        layout = directory / "layout"
        buildah.export(name, layout)
        write_archive(layout, reference(name), directory / "archive")
        (directory / "archive").replace(path)
    others = sorted(path.parent.glob(f"{name}-*.oci.tar"), key=lambda each: each.stat().st_mtime)
    for old in others[:-KEPT]:
        old.unlink()
