"""Earlyoom and nohang from Debian's packages, unpacked into the cache and never installed: nothing is started by them.

Both run so that they never act: earlyoom with --dryrun, nohang with thresholds of 0 %.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("earlyoom", "nohang")
CONFIG = "usr/share/nohang/nohang.conf"
PYTHON = "/usr/bin/python3"
"""Debian's: nohang's, and the one in the agent's image."""


@dataclass(frozen=True)
class Peer:
    """A killer of another project: how it is named in tables, and the command that starts it harmlessly."""

    name: str
    command: tuple[str, ...]


def peers(directory: Path) -> list[Peer] | str:
    """earlyoom, nohang as packaged and nohang at a fixed 100 ms; or why they are not there. Writes two files here."""
    root = cache()
    if not (root / "usr/bin/earlyoom").exists() or not (root / "usr/sbin/nohang").exists():
        why = fetch(root)
        if why:
            return why
    packaged = (root / CONFIG).read_text(encoding="utf-8")
    (directory / "nohang.conf").write_text(never(packaged), encoding="utf-8")
    (directory / "nohang-fixed.conf").write_text(
        changed(never(packaged), min_sleep="0.1", max_sleep="0.1"), encoding="utf-8"
    )
    nohang = (PYTHON, str(root / "usr/sbin/nohang"), "--monitor", "--config")
    return [
        Peer("earlyoom", (str(root / "usr/bin/earlyoom"), "--dryrun", "-r", "0", "-m", "1", "-s", "1")),
        Peer("nohang", (*nohang, str(directory / "nohang.conf"))),
        Peer("nohang every 100 ms", (*nohang, str(directory / "nohang-fixed.conf"))),
    ]


def cache() -> Path:
    """Where the packages are unpacked."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "memory-pressure-operator" / "peers"


def fetch(root: Path) -> str:
    """Downloads and unpacks the packages; empty, or why that failed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "no apt-get and dpkg-deb: the packages earlyoom and nohang are Debian's"
    packages = root.with_name("peers.packages")
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir(parents=True)
    try:
        for words in (["apt-get", "download", *PACKAGES], ["apt-get", "update"], ["apt-get", "download", *PACKAGES]):
            done = subprocess.run(words, cwd=packages, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode == 0 and "download" in words:
                break
        found = sorted(packages.glob("*.deb"))
        if len(found) < len(PACKAGES):
            return f"apt-get download {' '.join(PACKAGES)}: {done.stderr.strip()[-300:]}"
        for package in found:
            subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{error}"
    finally:
        shutil.rmtree(packages, ignore_errors=True)
    return ""


def never(config: str) -> str:
    """The configuration with thresholds that memory and swap never reach."""
    names = [f"{strength}_threshold_min_{what}" for strength in ("soft", "hard", "warning") for what in ("mem", "swap")]
    return changed(config, **dict.fromkeys(names, "0 %"))


def changed(config: str, **values: str) -> str:
    """The configuration with other values for keys that it has."""
    for name, value in values.items():
        config, count = re.subn(rf"^{name} *=.*$", f"{name} = {value}", config, count=1, flags=re.MULTILINE)
        if not count:
            sys.exit(f"peers: nohang.conf has no {name}")
    return config
