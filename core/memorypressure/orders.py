"""The orders file: what the reporter hands to the sentinel. Versioned JSON, read strictly.

Anything else than whole orders of this version is an OrdersError with the path of the field, and nothing of it is
applied: the sentinel then has no orders. The reporter could forge orders; so here, too, a candidate that no plan may
hold makes them invalid.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from memorypressure.grants import Grant, Leave
from memorypressure.records import RecordError, unix_ns_from
from memorypressure.schema import SpecError
from memorypressure.spec import ladder_from, limits_from, triggers_from, victims_from
from memorypressure.spec_values import Limits, Mode, QosClass, Step, Trigger, VictimRules
from memorypressure.victims import FIRST_SYSTEM_CRITICAL_PRIORITY, MAX_PODS, Candidate, is_pod_uid

VERSION = 1
MAX_BYTES = 1 << 20
_MAX_COUNT = (1 << 53) - 1
"""The API's bound: what JSON numbers hold exactly."""

_T = TypeVar("_T")


class OrdersError(ValueError):
    """Orders that cannot be applied: the path of the field (empty: the whole file) and what should stand there."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Orders:
    """Everything that the sentinel acts by."""

    node_name: str
    mode: Mode
    plan_uid: str
    plan_generation: int
    policy_name: str
    policy_generation: int
    triggers: tuple[Trigger, ...]
    ladder: tuple[Step, ...]
    victims: VictimRules
    limits: Limits
    pods: tuple[Candidate, ...]
    grant: Grant | None
    own_pod_uid: str

    @property
    def leave(self) -> Leave:
        """What `grants.may_kill` needs of them."""
        return Leave(self.mode, self.grant, self.plan_uid, self.plan_generation, self.limits.grant_seconds)


def orders_from(
    plan_spec: Mapping[str, Any], plan_uid: str, plan_generation: int, state_spec: Mapping[str, Any], own_pod_uid: str
) -> Orders | None:
    """The orders that a NodeMemoryPlan and a NodeMemoryState's `spec` make; None where no policy is in force.

    OrdersError for objects that are not understood, or of two nodes or policies. The agent's own pod is left out.
    """
    state = _Object(state_spec, "state.spec")
    plan = _Object(plan_spec, "plan.spec")
    mode = Mode(state.choice("mode", [mode.value for mode in Mode]))
    node_name = state.text("nodeName", 253)
    if plan.text("nodeName", 253) != node_name:
        raise OrdersError("plan.spec.nodeName", f"is {plan.value['nodeName']}, the state is of {node_name}")
    if "policy" not in plan.value:
        return None
    grant = state.value.get("grant")
    orders = _orders(plan, mode, plan_uid, plan_generation, None if grant is None else state.part("grant", _grant))
    policy_name = state.value.get("policyName")
    if policy_name != orders.policy_name:
        raise OrdersError("plan.spec.policy.name", f"is {orders.policy_name}, the state names {policy_name}")
    pods = tuple(pod for pod in orders.pods if pod.uid != own_pod_uid)
    return replace(orders, pods=pods, own_pod_uid=own_pod_uid)


def encode(orders: Orders) -> bytes:
    """The orders file's content; write it under another name and rename it."""
    # Not at the top: the sentinel, which only decodes, keeps in memory what it imports.
    from memorypressure.plans import candidate_json
    from memorypressure.spec_json import ladder_json, limits_json, triggers_json, victims_json

    grant = orders.grant
    value = {
        "version": VERSION,
        "nodeName": orders.node_name,
        "mode": orders.mode.value,
        "plan": {"uid": orders.plan_uid, "generation": orders.plan_generation},
        "policy": {"name": orders.policy_name, "generation": orders.policy_generation},
        "triggers": triggers_json(orders.triggers),
        "ladder": ladder_json(orders.ladder),
        "victims": victims_json(orders.victims),
        "limits": limits_json(orders.limits),
        "pods": [candidate_json(pod) for pod in orders.pods],
        "grant": None if grant is None else grant_json(grant),
        "ownPodUID": orders.own_pod_uid,
    }
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def decode(data: bytes) -> Orders:
    """The orders in the file. OrdersError for anything that `encode` did not write."""
    if len(data) > MAX_BYTES:
        raise OrdersError("", f"{len(data)} bytes; orders have at most {MAX_BYTES}")
    try:
        value = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise OrdersError("", f"not whole JSON ({error}); the reporter writes the file anew") from error
    root = _Object(value, "")
    if root.value.get("version") != VERSION:
        given = root.value.get("version", "missing")
        raise OrdersError(
            "version", f"is {_shown(given)}, this sentinel reads {VERSION}; run reporter and sentinel of one image"
        )
    root.only(
        [
            "version",
            "nodeName",
            "mode",
            "plan",
            "policy",
            "triggers",
            "ladder",
            "victims",
            "limits",
            "pods",
            "grant",
            "ownPodUID",
        ]
    )
    mode = Mode(root.choice("mode", [mode.value for mode in Mode]))
    plan = root.part("plan", _Object)
    plan.only(["uid", "generation"])
    grant = None if root.value["grant"] is None else root.part("grant", _grant)
    orders = _orders(root, mode, plan.text("uid", 64), plan.count("generation", 1), grant)
    own_pod_uid = root.text("ownPodUID", 64, 0)
    if own_pod_uid and any(pod.uid == own_pod_uid for pod in orders.pods):
        raise OrdersError("pods", "hold the agent's own pod")
    return replace(orders, own_pod_uid=own_pod_uid)


def grant_json(grant: Grant) -> dict[str, Any]:
    """A grant as in NodeMemoryState's `spec.grant`."""
    return {
        "incarnation": grant.incarnation,
        "beat": grant.beat,
        "killsCeiling": grant.kills_ceiling,
        "planUID": grant.plan_uid,
        "planGeneration": grant.plan_generation,
    }


def grant_from(value: Any, path: str = "grant") -> Grant:
    """The grant in NodeMemoryState's `spec.grant`; OrdersError."""
    return _grant(value, path)


def _orders(source: "_Object", mode: Mode, plan_uid: str, plan_generation: int, grant: Grant | None) -> Orders:
    policy = source.part("policy", _Object)
    policy.only(["name", "generation"])
    pods = source.items("pods") if "pods" in source.value else []
    if len(pods) > MAX_PODS:
        raise OrdersError(source.path_of("pods"), f"{len(pods)} pods; a plan holds at most {MAX_PODS}")
    candidates = tuple(_candidate(pod, f"{source.path_of('pods')}[{index}]") for index, pod in enumerate(pods))
    if len({pod.uid for pod in candidates}) != len(candidates):
        raise OrdersError(source.path_of("pods"), "name one uid twice")
    triggers = source.part("triggers", _spec_part(triggers_from))
    ladder = source.part("ladder", _spec_part(ladder_from))
    names = {trigger.name for trigger in triggers}
    for index, step in enumerate(ladder):
        unknown = [name for name in step.triggers if name not in names]
        if unknown:
            raise OrdersError(
                f"{source.path_of('ladder')}[{index}].triggers", f"{unknown[0]} is not among the triggers"
            )
    return Orders(
        node_name=source.text("nodeName", 253),
        mode=mode,
        plan_uid=plan_uid,
        plan_generation=plan_generation,
        policy_name=policy.text("name", 63),
        policy_generation=policy.count("generation", 0),
        triggers=triggers,
        ladder=ladder,
        victims=source.part("victims", _spec_part(victims_from)),
        limits=source.part("limits", _spec_part(limits_from)),
        pods=candidates,
        grant=grant,
        own_pod_uid="",
    )


class _Object:
    """A JSON object with the path by which errors name it."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise OrdersError(path, f"must be an object, not {_shown(value)}")
        self.value = value
        self.path = path

    def path_of(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def only(self, known: list[str]) -> None:
        for name in self.value:
            if name not in known:
                raise OrdersError(self.path_of(str(name)[:60]), f"unknown field; known here: {', '.join(known)}")
        for name in known:
            self._get(name)

    def _get(self, name: str) -> Any:
        if name not in self.value:
            raise OrdersError(self.path_of(name), "is missing")
        return self.value[name]

    def part(self, name: str, read: Callable[[Any, str], _T]) -> _T:
        return read(self._get(name), self.path_of(name))

    def items(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise OrdersError(self.path_of(name), f"must be a list, not {_shown(value)}")
        return value

    def text(self, name: str, longest: int, shortest: int = 1) -> str:
        value = self._get(name)
        if type(value) is not str or not shortest <= len(value) <= longest:
            wanted = f"a text of {shortest} to {longest} characters"
            raise OrdersError(self.path_of(name), f"must be {wanted}, not {_shown(value)}")
        return value

    def count(self, name: str, least: int = 0, most: int = _MAX_COUNT) -> int:
        value = self._get(name)
        if type(value) is not int or not least <= value <= most:
            raise OrdersError(self.path_of(name), f"must be a whole number from {least} to {most}, not {_shown(value)}")
        return value

    def choice(self, name: str, words: list[str]) -> str:
        value = self._get(name)
        if value not in words:
            raise OrdersError(self.path_of(name), f"must be one of {', '.join(words)}, not {_shown(value)}")
        return str(value)


def _grant(value: Any, path: str) -> Grant:
    source = _Object(value, path)
    source.only(["incarnation", "beat", "killsCeiling", "planUID", "planGeneration"])
    return Grant(
        incarnation=source.text("incarnation", 128),
        beat=source.count("beat"),
        kills_ceiling=source.count("killsCeiling"),
        plan_uid=source.text("planUID", 64),
        plan_generation=source.count("planGeneration", 1),
    )


def _candidate(value: Any, path: str) -> Candidate:
    source = _Object(value, path)
    fields = ["uid", "namespace", "name", "priority", "qosClass", "requestBytes", "createTime"]
    source.only([*fields, "workload"] if "workload" in source.value else fields)
    uid = source.text("uid", 64)
    if not is_pod_uid(uid):
        raise OrdersError(f"{path}.uid", f"must be letters, digits and '-', not {_shown(uid)}")
    try:
        created_seconds = unix_ns_from(source.text("createTime", 64)) // 1_000_000_000
    except RecordError as error:
        raise OrdersError(f"{path}.createTime", str(error)) from error
    return Candidate(
        uid=uid,
        namespace=source.text("namespace", 63),
        name=source.text("name", 253),
        priority=source.count("priority", -(2**31), FIRST_SYSTEM_CRITICAL_PRIORITY - 1),
        qos_class=source.choice("qosClass", [qos.value for qos in QosClass]),
        request_bytes=source.count("requestBytes"),
        create_time_seconds=created_seconds,
        workload=source.text("workload", 317, 0) if "workload" in source.value else "",
    )


def _spec_part(read: Callable[[Any, str], _T]) -> Callable[[Any, str], _T]:
    def reader(value: Any, path: str) -> _T:
        try:
            return read(value, path)
        except SpecError as error:
            first = error.errors[0]
            raise OrdersError(first.path, first.message) from error

    return reader


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a field stands twice")
    return value
