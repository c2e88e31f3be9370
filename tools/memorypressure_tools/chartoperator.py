"""The chart's operator as a process of this machine: with the arguments and settings that its pod would have."""

import re
import sys
from pathlib import Path
from typing import Any


def command(pod: dict[str, Any], namespace: str, kubeconfig: Path) -> list[str]:
    """The words that start it, by a Pod object of the chart's Deployment; metrics and probes get free ports."""
    (container,) = pod["spec"]["containers"]
    settings = [f"{each['name']}={each['value']}" for each in container.get("env", []) if "value" in each]
    arguments = [
        re.sub(r"^(--(?:metrics|health)-port=)\d+$", r"\g<1>0", word.replace("$(POD_NAMESPACE)", namespace))
        for word in container["args"]
    ]
    program = Path(sys.executable).with_name("memorypressure-operator")
    return ["/usr/bin/env", *settings, str(program), *arguments, f"--kubeconfig={kubeconfig}"]
