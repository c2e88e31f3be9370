"""Container images of our static programs, made without container tools: one layer, as a Docker archive."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from memorypressure_tools.guest import packages, programs, store

REGISTRY: Final = "memory-pressure.invalid"
"""A registry that cannot be (RFC 2606): the nodes have the images, nothing is pulled."""
LOAD: Final = f"{REGISTRY}/load:local"
"""Busybox and the programs of load."""
PAUSE: Final = f"{REGISTRY}/pause:local"
"""The pods' sandbox; files/containerd.toml names it."""


def load_archive() -> Path:
    """The archive of the image `LOAD`; from the cache."""
    made = programs.ensure()
    busybox = Path(packages.path("busybox-static"))
    files = {f"bin/{name}": made[name] for name in ("hog", "stream", "sink", "canary", "sampler")}

    def build(target: Path) -> None:
        applets = ("sh", "sleep", "cat", "ls", "ps", "test", "true", "wget", "nc", "kill", "touch", "date", "free")
        write(target, LOAD, {**files, "bin/busybox": busybox}, dict.fromkeys(applets, "busybox"), ["/bin/sh"])

    return store.entry("image-load", store.digest(list(files.values()), busybox, Path(__file__)), build)


def pause_archive() -> Path:
    """The archive of the image `PAUSE`; from the cache."""
    pause = programs.ensure()["pause"]
    key = store.digest(pause, Path(__file__))
    return store.entry("image-pause", key, lambda target: write(target, PAUSE, {"pause": pause}, {}, ["/pause"]))


def write(
    target: Path, reference: str, files: Mapping[str, Path], links: Mapping[str, str], entrypoint: Sequence[str]
) -> None:
    """Writes a Docker archive with these files, and links in bin/, under the reference; the same bytes for the same."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for directory in ("bin", "tmp", "etc"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            archive.addfile(member)
        for inside, source in files.items():
            _add(archive, inside, source.read_bytes())
        for name, to in links.items():
            member = tarfile.TarInfo(f"bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, to
            archive.addfile(member)
        _add(archive, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    content = layer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    configuration = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    )
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    with tarfile.open(target, "w") as archive:
        _add(archive, name, configuration)
        _add(archive, f"{digest}.tar", content)
        _add(archive, "manifest.json", _json([{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o755
    archive.addfile(member, io.BytesIO(content))
