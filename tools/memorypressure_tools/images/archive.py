"""An OCI archive read and written: a tar of `oci-layout`, `index.json` and `blobs/sha256/...` (OCI image-spec 1.1)."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

HOME: Final = "opt/memory-pressure/"
"""Where everything of ours is in an image."""


def write_archive(layout: Path, reference: str, path: Path) -> None:
    """Packs an OCI layout directory of one image under `reference`, the same bytes for the same image.

    The full name stands in the annotation that containerd imports by, and in the one of the specification.
    """
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    (manifest,) = index["manifests"]
    manifest["annotations"] = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference,
    }
    (layout / "index.json").write_text(json.dumps(index, sort_keys=True), encoding="utf-8")
    with tarfile.open(path, "w") as archive:
        for file in sorted(each for each in layout.rglob("*") if each.is_file()):
            entry = tarfile.TarInfo(str(file.relative_to(layout)))
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)


class ArchiveError(Exception):
    """Not an OCI archive of one image, or a blob that is not what its digest says."""


class Archive:
    """One image in an OCI archive; every blob that is read is checked against its digest."""

    def __init__(self, path: Path) -> None:
        """Reads index, manifest and configuration."""
        self.path = path
        with tarfile.open(path) as archive:
            layout = json.loads(_member(archive, "oci-layout"))
            if layout.get("imageLayoutVersion") != "1.0.0":
                raise ArchiveError(f"{path}: oci-layout says {layout}, not version 1.0.0")
            manifests = json.loads(_member(archive, "index.json"))["manifests"]
            if len(manifests) != 1:
                raise ArchiveError(f"{path}: {len(manifests)} images, not one")
            self.descriptor: dict[str, Any] = manifests[0]
            self.manifest: dict[str, Any] = json.loads(_blob(archive, self.descriptor))
            self.configuration: dict[str, Any] = json.loads(_blob(archive, self.manifest["config"]))

    @property
    def reference(self) -> str:
        """The name that containerd imports the image under."""
        return str(self.descriptor["annotations"]["io.containerd.image.name"])

    @property
    def pulled_bytes(self) -> int:
        """What a node fetches: layers as they are stored, configuration and manifest."""
        blobs = (self.descriptor, self.manifest["config"], *self.manifest["layers"])
        return sum(int(blob["size"]) for blob in blobs)

    def _layers(self) -> Iterator[bytes]:
        """The layers as tar files, uncompressed, lowest first, checked by both their digests."""
        with tarfile.open(self.path) as archive:
            for blob, diff_id in zip(self.manifest["layers"], self.configuration["rootfs"]["diff_ids"], strict=True):
                content = _blob(archive, blob)
                content = gzip.decompress(content) if blob["mediaType"].endswith("+gzip") else content
                _check(content, diff_id, f"{self.path}: layer {blob['digest']}, unpacked")
                yield content

    def unpack(self, root: Path) -> None:
        """Unpacks the image's tree into the empty directory `root`, with owners and modes where root does it.

        Whiteouts (files that a layer takes away) are an error: our images have none.
        """
        for layer in self._layers():
            subprocess.run(["tar", "-x", "--numeric-owner", "-C", root], input=layer, check=True)
        for gone in root.rglob(".wh.*"):
            raise ArchiveError(f"{self.path}: {gone.relative_to(root)} takes away a file of a lower layer")

    def sizes(self) -> Mapping[str, int]:
        """Bytes of the files unpacked: the base, the libraries, our own code, and the bytecode of all three."""
        sizes = dict.fromkeys(("base", "libraries", "ours", "bytecode"), 0)
        seen: set[str] = set()
        for layer in reversed(list(self._layers())):
            with tarfile.open(fileobj=io.BytesIO(layer)) as entries:
                files = {entry.name.removeprefix("./"): entry.size for entry in entries if entry.isfile()}
            for name in files.keys() - seen:
                sizes[_part(name)] += files[name]
            seen |= files.keys()
        return sizes


def _part(name: str) -> str:
    if name.endswith(".pyc"):
        return "bytecode"
    if not name.startswith(HOME):
        return "base"
    inner = name.removeprefix(HOME)
    return "libraries" if inner.startswith("lib/") and not inner.startswith("lib/memorypressure") else "ours"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise ArchiveError(f"{archive.name!r}: no file {name}, so it is not an OCI archive")
    return file.read()


def _blob(archive: tarfile.TarFile, descriptor: Mapping[str, Any]) -> bytes:
    algorithm, _, digest = descriptor["digest"].partition(":")
    content = _member(archive, f"blobs/{algorithm}/{digest}")
    _check(content, descriptor["digest"], f"{archive.name!r}: blob {digest}")
    if len(content) != descriptor["size"]:
        raise ArchiveError(f"{archive.name!r}: blob {digest} has {len(content)} bytes, not {descriptor['size']}")
    return content


def _check(content: bytes, digest: str, what: str) -> None:
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise ArchiveError(f"{what} has the digest {found}, not {digest}")
