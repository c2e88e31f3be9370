"""A complete NodeMemoryState and NodeMemoryPlan, every field set, and where single fields of them may not go."""

import copy
from typing import Any, Final

import yaml
from support.policy_cases import BASE

from memorypressure.spec import normal_spec

STATE: Final[dict[str, Any]] = yaml.safe_load(
    """
apiVersion: memorypressure.dev/v1alpha1
kind: NodeMemoryState
metadata: {name: worker-7}
spec:
  nodeName: worker-7
  policyName: default
  mode: DryRun
  plan: {uid: 0c5ac8e4-0c39-4c5e-9a54-4d2c2f3f8d10, generation: 3}
  grant:
    incarnation: 5f0e-boot
    beat: 17
    killsCeiling: 4
    planUID: 0c5ac8e4-0c39-4c5e-9a54-4d2c2f3f8d10
    planGeneration: 3
status:
  observedGeneration: 1
  lease: {incarnation: 5f0e-boot, beat: 18, killsTotal: 3, ceilingSeen: 4}
  lastReportTime: "2026-05-01T10:00:00Z"
  agentVersion: 0.1.0
  capabilities: [PSI, CgroupKill]
  conditions:
  - type: UnderPressure
    status: "True"
    observedGeneration: 1
    lastTransitionTime: "2026-05-01T09:59:00Z"
    reason: AtomicReserveBreached
    message: "trigger reserve: node 0 at 92% of AtomicReserve for 40 ms"
  activeTriggers:
  - {name: reserve, since: "2026-05-01T09:59:00Z"}
  - {name: scarce, since: "2026-05-01T09:59:30Z"}
  activeTriggerNames: reserve,scarce
  lowest: {node: "0", zone: 0/Normal, line: AtomicReserve, usableToLine: 92%, freeToMin: 46%}
  psiFull10: 12.5%
  grantExpireTime: "2026-05-01T10:15:00Z"
  zones:
  - {numaNode: 0, name: Normal, managedBytes: 8000, freeBytes: 46, minBytes: 100, lowBytes: 125, reserveBytes: 50}
  recentEpisodes:
  - id: e-1
    start: "2026-05-01T09:59:00Z"
    end: "2026-05-01T10:00:00Z"
    worst: 0/Normal at 41% of AtomicReserve
    reason: AtomicReserveBreached
    actions: 1
    outcome: Recovered
  recentActions:
  - id: a-1
    time: "2026-05-01T09:59:10Z"
    action: Kill
    mode: DryRun
    result: Success
    reason: AtomicReserveBreached
    message: node 0 at 41% of AtomicReserve
    pod: {uid: u-1, namespace: shop, name: cart-0, container: app}
    freedBytes: 1073741824
  topPods:
  - {uid: u-1, reliefBytes: 1073741824, overRequest: true}
  lastActionTime: "2026-05-01T09:59:10Z"
"""
)

_PODS: Final = yaml.safe_load(
    """
- uid: 7d3f0f0e-56f1-4a3f-9d6b-6a7de2c6e001
  namespace: shop
  name: cart-0
  priority: 0
  qosClass: Burstable
  requestBytes: 536870912
  createTime: "2026-05-01T08:00:00Z"
  workload: StatefulSet/cart
"""
)

_SPEC: Final = normal_spec(BASE)
PLAN: Final[dict[str, Any]] = {
    "apiVersion": "memorypressure.dev/v1alpha1",
    "kind": "NodeMemoryPlan",
    "metadata": {"name": "worker-7"},
    "spec": {
        "nodeName": "worker-7",
        "policy": {"name": "default", "generation": 2},
        **{part: _SPEC[part] for part in ("triggers", "ladder", "victims", "limits")},
        "pods": _PODS,
    },
}

LARGEST: Final = 2**53 - 1


def state(name: str, **spec: Any) -> dict[str, Any]:
    """STATE under another name, its spec changed; None takes a field out."""
    return _renamed(STATE, name, spec)


def plan(name: str, **spec: Any) -> dict[str, Any]:
    """PLAN under another name, its spec changed; None takes a field out."""
    return _renamed(PLAN, name, spec)


def _renamed(obj: dict[str, Any], name: str, spec: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(obj)
    made["metadata"]["name"] = name
    made["spec"] = {**made["spec"], "nodeName": name, **spec}
    made["spec"] = {key: value for key, value in made["spec"].items() if value is not None}
    return made
