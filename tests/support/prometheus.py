"""A real Prometheus, and where its program comes from: PATH, or Debian's package, unpacked."""

import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from memorypressure_tools.ports import free_port
from memorypressure_tools.processes import Child
from memorypressure_tools.toolcache import ToolMissingError, cache_root

APT_SECONDS = 120


def program() -> Path:
    """The executable. Debian's is unpacked into the cache of tools: nothing is installed, no service starts."""
    found = shutil.which("prometheus")
    if found is not None:
        return Path(found)
    cached = cache_root() / "debian" / "prometheus"
    if not cached.exists():
        _unpack(cached)
    return cached


def _unpack(cached: Path) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as name:
        if not _apt("download", "prometheus", directory=name):
            _apt("update", "-qq", directory=name)
            if not _apt("download", "prometheus", directory=name):
                raise ToolMissingError("prometheus: not on PATH, and apt-get cannot download Debian's package")
        (package,) = Path(name).glob("prometheus_*.deb")
        tree = Path(name) / "tree"
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True, timeout=APT_SECONDS)
        (tree / "usr/bin/prometheus").rename(cached)


def _apt(*words: str, directory: str) -> bool:
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "-o", "DPkg::Lock::Timeout=60", *words]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, timeout=APT_SECONDS, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def over_tls(directory: Path, port: int, ca_file: Path, token: str) -> "Prometheus":
    """A server with one target on loopback, over TLS, with the token in a file."""
    directory.mkdir()
    token_file = directory / "token"
    token_file.write_text(token, encoding="ascii")
    job = {
        "job_name": "memory-pressure-agent",
        "scheme": "https",
        "tls_config": {"ca_file": str(ca_file)},
        "authorization": {"credentials_file": str(token_file)},
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
    }
    return Prometheus(directory, [job])


class Prometheus:
    """A server that scrapes its jobs each second, with these rules."""

    def __init__(self, directory: Path, jobs: list[dict[str, Any]], rules: tuple[Path, ...] = ()) -> None:
        directory.mkdir(exist_ok=True)
        each_second = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        configuration = directory / "prometheus.yml"
        value = {"global": each_second, "scrape_configs": jobs, "rule_files": [str(file) for file in rules]}
        configuration.write_text(json.dumps(value), encoding="utf-8")  # JSON is YAML
        own = free_port()
        self.url = f"http://127.0.0.1:{own}"
        self.log = directory / "log"
        command = [
            program(),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{own}",
        ]
        self.child = Child("prometheus", command, self.log, directory)

    def query(self, expression: str) -> list[float]:
        """The values now; none while it starts."""
        found = self._ask(f"query?{urllib.parse.urlencode({'query': expression})}")
        return [float(each["value"][1]) for each in found["result"]] if found else []

    def refusal(self, expression: str) -> str:
        """What is wrong with an expression; empty if nothing is."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return str(json.load(error)["error"])

    def unhealthy_rules(self) -> list[str] | None:
        """The rules whose last evaluation failed, and why; None before all were evaluated."""
        found = self._ask("rules")
        rules = [rule for group in found["groups"] for rule in group["rules"]] if found else []
        if not rules or any(rule["health"] == "unknown" for rule in rules):
            return None
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]

    def last_error(self) -> str:
        """Why the last scrape failed."""
        found = self._ask("targets")
        return str(found["activeTargets"][0]["lastError"]) if found else ""

    def close(self) -> None:
        self.child.stop()

    def _ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None
