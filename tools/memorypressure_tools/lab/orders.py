"""The orders of a run: the default policy of `crds/samples`, in mode Enforce, for the pods of the scenario."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from memorypressure.orders import Orders, encode
from memorypressure.spec import parse_policy
from memorypressure.victims import Candidate
from memorypressure_tools.lab.arms import Arm
from memorypressure_tools.lab.scenarios import Scenario

POLICY: Final = Path(__file__).resolve().parents[3] / "crds" / "samples" / "default.yaml"
PLAN_UID: Final = "0f4f6a39-3a4e-4c8e-9a43-6a5f2b1f0007"
CREATED_SECONDS: Final = 1_700_000_000
NAMED: Final = frozenset({"triggers"})
"""Lists of objects with a name: a change names the one it is about."""
RUN: Final[Mapping[str, Any]] = {"mode": "Enforce", "victims": {"minAgeSeconds": 0}}
"""What every run changes: it acts, and its pods are seconds old."""


def policy_spec(scenario: Scenario, arm: Arm) -> dict[str, Any]:
    """The policy's `spec`: the default's, with what runs, this scenario and this arm change."""
    spec: dict[str, Any] = yaml.safe_load(POLICY.read_text(encoding="utf-8"))["spec"]
    for changes in (RUN, scenario.policy, arm.policy):
        spec = merged(spec, changes)
    return spec


def merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The object with changes put into it; in the lists of NAMED, changes are by name. KeyError for an unknown name."""
    out = dict(value)
    for key, change in changes.items():
        old = out.get(key)
        if key in NAMED and isinstance(old, list):
            unknown = set(change) - {each["name"] for each in old}
            if unknown:
                raise KeyError(f"{key}: no {min(unknown)} in the policy")
            out[key] = [merged(each, change.get(each["name"], {})) for each in old]
        elif isinstance(old, Mapping) and isinstance(change, Mapping):
            out[key] = merged(old, change)
        else:
            out[key] = change
    return out


def run_orders(scenario: Scenario, arm: Arm) -> bytes:
    """The orders file without a grant, which is added in the guest: it is for the incarnation of a journal there."""
    policy = parse_policy(
        {
            "apiVersion": "memorypressure.dev/v1alpha1",
            "kind": "MemoryPressurePolicy",
            "metadata": {"name": "lab"},
            "spec": policy_spec(scenario, arm),
        }
    )
    pods = tuple(
        Candidate(pod.uid, "lab", pod.name, pod.priority, "Burstable", pod.request_mib << 20, CREATED_SECONDS)
        for pod in scenario.pods
    )
    orders = Orders(
        node_name="guest",
        mode=policy.mode,
        plan_uid=PLAN_UID,
        plan_generation=1,
        policy_name=policy.name,
        policy_generation=1,
        triggers=policy.triggers,
        ladder=policy.ladder,
        victims=policy.victims,
        limits=policy.limits,
        pods=pods,
        grant=None,
        own_pod_uid="",
    )
    return encode(orders)
