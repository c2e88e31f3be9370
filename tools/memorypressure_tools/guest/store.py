"""What guests are made of, kept in the cache under a name and a digest of everything that it was made from."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from memorypressure_tools import toolcache

KEPT: Final = 3
"""Entries of one name that are kept: the newest ones by last use."""
IN_USE_SECONDS: Final = 6 * 3600.0
"""An entry that was asked for so short ago may be in use, also by another checkout, and is kept whatever the number."""
PROGRESS_SECONDS: Final = 15.0


def directory() -> Path:
    """Where the entries are: `guest/` in the tools' cache."""
    return toolcache.cache_root() / "guest"


def digest(*parts: str | bytes | Path | Iterable[object]) -> str:
    """16 hexadecimal digits that depend on texts, on contents of files, and on names, modes and contents in trees."""
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        total.update(_one(part))
    return total.hexdigest()


def _one(part: object) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    if isinstance(part, Path):
        if part.is_dir():
            for path in sorted(part.rglob("*")):
                kind = b"link:" + os.fsencode(path.readlink()) if path.is_symlink() else b""
                total.update(os.fsencode(path.relative_to(part)) + f"\0{path.lstat().st_mode:o}\0".encode() + kind)
                if path.is_file() and not path.is_symlink():
                    total.update(_one(path))
        else:
            with part.open("rb") as file:
                total.update(hashlib.file_digest(file, "blake2b").digest())
    elif isinstance(part, bytes):
        total.update(part)
    elif isinstance(part, str):
        total.update(part.encode())
    elif isinstance(part, Iterable):
        for each in part:
            total.update(_one(each))
    else:
        total.update(repr(part).encode())
    return total.digest()


def entry(name: str, key: str, build: Callable[[Path], None], *, said: str = "") -> Path:
    """The path of the entry: a file or directory that `build` makes at the path it is given, if it is not kept yet.

    `said` is a line for the terminal when it has to be made. One entry of a name is made at a time; a build that fails
    leaves nothing.
    """
    wanted = directory() / f"{name}-{key}"
    with _lock(name):
        if not wanted.exists():
            if said:
                print(f"guest: {said}", file=sys.stderr, flush=True)
            started = time.monotonic()
            temporary = directory() / f".{name}.new"
            _remove(temporary)
            try:
                build(temporary)
                temporary.replace(wanted)
            finally:
                _remove(temporary)
            if said:
                print(f"guest: {said}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        os.utime(wanted)
        _forget_old(name)
    return wanted


def _forget_old(name: str) -> None:
    """Removes entries of the name but the newest, and but those that may be in use."""
    entries = [path for path in directory().glob(f"{name}-*") if len(path.name) == len(name) + 17]
    for path in sorted(entries, key=lambda each: each.stat().st_mtime, reverse=True)[KEPT:]:
        if time.time() - path.stat().st_mtime > IN_USE_SECONDS:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Holds the lock of one name; says that it waits while another process makes the same."""
    try:
        directory().mkdir(parents=True, exist_ok=True)
        file = (directory() / f".{name}.lock").open("w", encoding="utf-8")
    except OSError as error:
        raise toolcache.ToolMissingError(
            f"the cache {directory()} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a directory that can"
        ) from error
    with file:
        said = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - said >= PROGRESS_SECONDS:
                    print(f"guest: waiting for another process that makes {name}", file=sys.stderr, flush=True)
                    said = time.monotonic()
                time.sleep(0.2)
        yield
