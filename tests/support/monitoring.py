"""What the tests of alerts, dashboards and monitors share: the chart's rules, exported names, and promtool."""

import re
import subprocess
from pathlib import Path

from memorypressure_tools import toolcache
from memorypressure_tools.helm import CHART

REPOSITORY = CHART.parent.parent
RULES = CHART / "files/monitoring/rules.yaml"
METRIC = re.compile(r"(?<![\w:])memorypressure_\w+")


def exported() -> set[str]:
    """The names that the reference pages list; other tests hold those pages against real expositions."""
    names: set[str] = set()
    for page in ("agent", "operator"):
        text = (REPOSITORY / f"docs/reference/{page}-metrics.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| `memorypressure_")]
        for row in rows:
            names |= set(re.findall(r"`(memorypressure_\w+)`", row.split("|")[1]))
            if "| histogram" in row:
                names |= {f"{name}_bucket" for name in re.findall(r"`(memorypressure_\w+)`", row.split("|")[1])}
    return names


def promtool(*words: str | Path) -> str:
    """What it prints; fails with that where promtool does."""
    program = toolcache.ensure(["promtool"])["promtool"]
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
