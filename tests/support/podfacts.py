"""A pod as the core asks for it (`protections.PodFacts`): an ordinary one of a Deployment, unless a test says else."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pod:
    uid: str = "u1"
    namespace: str = "shop"
    name: str = "web-1"
    node: str = "n1"
    phase: str = "Running"
    qos_class: str = "Burstable"
    priority: int = 0
    request_bytes: int = 1000
    create_time: str = "2026-01-02T03:04:05Z"
    labels: Mapping[str, str] = field(default_factory=lambda: {"app": "web"})
    owner: str = "Deployment/web"
    static: bool = False
    daemon_set: bool = False
    local_storage: bool = False
    annotated: bool = False
    terminating: bool = False
