"""Helm as tests and demo run it: its own empty configuration, output as text, rendered objects by kind and name."""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from memorypressure_tools import toolcache

CHART: Final = toolcache.TOOLS_DIRECTORY.parent / "charts" / "memory-pressure-operator"
RELEASE: Final = "memory-pressure"
NAMESPACE: Final = "memory-pressure"
TIMEOUT_SECONDS: Final = 90.0

# libyaml where the wheel has it: over the 100 KB of definitions the pure parser takes as long as Helm itself.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Manifest = dict[str, Any]


class HelmError(Exception):
    """Helm ended with another code than 0; the text is what it wrote."""


class Helm:
    """Runs the pinned Helm with a home directory of its own and, where one is given, a kubeconfig."""

    def __init__(self, home: Path, kubeconfig: Path | None = None) -> None:
        """`home` is made; nothing of the user's Helm configuration is read."""
        self._helm = toolcache.ensure(["helm"])["helm"]
        home.mkdir(parents=True, exist_ok=True)
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))
        }
        self._environment |= {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        # Without a kubeconfig there is nothing to reach: an empty file, so that ~/.kube/config is not used either.
        empty = home / "no-cluster.kubeconfig"
        empty.touch()
        self._environment["KUBECONFIG"] = str(kubeconfig or empty)

    def run(self, *words: str | Path) -> str:
        """What Helm wrote to its standard output; raises HelmError with all that it wrote."""
        done = subprocess.run(
            [self._helm, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(map(str, words))}: code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def template(
        self,
        values: Mapping[str, Any] | Path | None = None,
        *words: str,
        chart: Path = CHART,
        release: str = RELEASE,
        namespace: str = NAMESPACE,
    ) -> list[Manifest]:
        """All objects of the chart, hooks too, rendered without a cluster."""
        arguments: list[str | Path] = [
            "template",
            release,
            chart,
            "--namespace",
            namespace,
            *values_words(values),
            *words,
        ]
        return [document for document in yaml.load_all(self.run(*arguments), Loader=_LOADER) if document]


def values_words(values: Mapping[str, Any] | Path | None) -> list[str | Path]:
    """Command-line words for a file of values, or for values themselves."""
    if values is None:
        return []
    if isinstance(values, Path):
        return ["--values", values]
    return [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]


def find(manifests: Iterable[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one object of that kind (and name); KeyError with what there is when it is not exactly one."""
    manifests = list(manifests)
    found = [m for m in manifests if m["kind"] == kind and (name is None or m["metadata"]["name"] == name)]
    if len(found) != 1:
        there = ", ".join(f"{m['kind']}/{m['metadata']['name']}" for m in manifests)
        raise KeyError(f"{len(found)} objects of kind {kind}, name {name or 'any'}; there are: {there}")
    return found[0]
