"""How long it takes until every node, or thirty of them, has the orders that a change asks for."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.scale import observe, shapes
from memorypressure_tools.scale.etcd import Etcd

FEW: Final = 30
FEW_POLICY: Final = "few"
SETTLE_SECONDS: Final = 1.5
"""Between two moves: the plans' tokens are back, and an operator at rest begins the next."""
ALL_MOVES: Final = ("disabled", "enforced", "labels away", "labels back", "dry run", "deleted")
FEW_MOVES: Final = ("created", "edited", "labels away", "labels back", "deleted")

_STATES: Final = f"{shapes.GROUP}/nodememorystates"
_POLICIES: Final = f"{shapes.GROUP}/memorypressurepolicies"


@dataclass(frozen=True, slots=True)
class Move:
    """A change, and the mode and policy (None: no policy) that its nodes have to show afterwards."""

    name: str
    change: Callable[[], object]
    mode: str
    policy: str | None


class Moves:
    """Moves nodes of one control plane about, and watches what the operator makes of it. `pid` is the operator's."""

    def __init__(
        self, plane: ControlPlane, audit: observe.Audit, pid: int, nodes: int, tell: Callable[[str], None]
    ) -> None:
        self._plane = plane
        self._admin = plane.admin
        self._audit = audit
        self._pid = pid
        self._nodes = nodes
        self._tell = tell

    # --- thirty nodes ---

    def few(self) -> dict[str, dict[str, Any]]:
        """Seconds of each move of thirty nodes of the cluster, by a further policy that selects them by a label."""
        names = [shapes.node_name(number) for number in range(min(FEW, self._nodes))]
        self._label(names, "yes")
        time.sleep(SETTLE_SECONDS)
        changes: dict[str, tuple[Callable[[], object], str, str | None]] = {
            "created": (self._create_few, "DryRun", FEW_POLICY),
            "edited": (lambda: self._edit(FEW_POLICY, "Enforce"), "Enforce", FEW_POLICY),
            "labels away": (lambda: self._label(names, "no"), "Enforce", shapes.POLICY),
            "labels back": (lambda: self._label(names, "yes"), "Enforce", FEW_POLICY),
            "deleted": (lambda: self._delete(FEW_POLICY), "Enforce", shapes.POLICY),
        }
        found = {}
        for name in FEW_MOVES:
            move = Move(name, *changes[name])
            found[name] = {"seconds": self._moved(move, names)}
            self._tell(f"{len(names)} nodes, policy or labels {name}: moved after {found[name]['seconds']} s")
            time.sleep(SETTLE_SECONDS)
        return found

    def _moved(self, move: Move, names: Sequence[str]) -> float | None:
        started, left = time.monotonic(), list(names)
        move.change()
        while left:
            if time.monotonic() - started > 60:
                return None
            left = [name for name in left if not _shows(self._admin.must("GET", f"{_STATES}/{name}"), move)]
        return round(time.monotonic() - started, 2)

    def _label(self, names: Sequence[str], value: str) -> None:
        for name in names:
            body = {"metadata": {"labels": {FEW_POLICY: value}}}
            self._admin.must("PATCH", f"/api/v1/nodes/{name}", body, MERGE_PATCH)

    def _create_few(self) -> None:
        spec = self._admin.must("GET", f"{_POLICIES}/{shapes.POLICY}")["spec"]
        spec |= {"mode": "DryRun", "priority": 10, "nodeSelector": {"matchLabels": {FEW_POLICY: "yes"}}}
        kind = {"apiVersion": "memorypressure.dev/v1alpha1", "kind": "MemoryPressurePolicy"}
        self._admin.must("POST", _POLICIES, kind | {"metadata": {"name": FEW_POLICY}, "spec": spec})

    # --- all nodes ---

    def everything(self) -> dict[str, dict[str, Any]]:
        """What each move of all nodes took."""
        away, back = self._relabelled("general", "special"), self._relabelled("special", "general")
        changes: dict[str, tuple[Callable[[], object], str, str | None]] = {
            "disabled": (lambda: self._edit(shapes.POLICY, "Disabled"), "Disabled", None),
            "enforced": (lambda: self._edit(shapes.POLICY, "Enforce"), "Enforce", shapes.POLICY),
            "labels away": (away, "Disabled", None),
            "labels back": (back, "Enforce", shapes.POLICY),
            "dry run": (lambda: self._edit(shapes.POLICY, "DryRun"), "DryRun", shapes.POLICY),
            "deleted": (lambda: self._delete(shapes.POLICY), "Disabled", None),
        }
        found = {}
        for name in ALL_MOVES:
            found[name] = self._all_moved(Move(name, *changes[name]))
            time.sleep(SETTLE_SECONDS)
        return found

    def _all_moved(self, move: Move) -> dict[str, Any]:
        self._audit.writes()
        before, started = observe.cpu_seconds(self._pid), time.monotonic()
        move.change()
        changed = time.monotonic() - started
        total: dict[str, int] = {}
        half: float | None = None
        limit = max(60.0, self._nodes / 25)
        while True:
            time.sleep(0.1 if self._nodes < 1000 else 0.5)
            for key, count in self._audit.writes().items():
                total[key] = total.get(key, 0) + count
            states = total.get("patch nodememorystates", 0)
            if half is None and states >= self._nodes / 2:
                half = time.monotonic() - started
            if states >= self._nodes and self._all_show(move):
                break
            if time.monotonic() - started > limit:
                self._tell(
                    f"all nodes, policy or labels {move.name}: not through after {limit:.0f} s ({states} written)"
                )
                return {"seconds": None, "limit_seconds": limit, "writes": total}
        seconds = time.monotonic() - started
        self._tell(
            f"all nodes, policy or labels {move.name}: moved after {seconds:.1f} s, half after {half or 0:.1f} s"
        )
        return {
            "seconds": round(seconds, 1),
            "half_seconds": round(half or seconds, 1),
            "change_seconds": round(changed, 1),
            "writes": total,
            "cpu_seconds": round(observe.cpu_seconds(self._pid) - before, 1),
        }

    def _all_show(self, move: Move) -> bool:
        return all(_shows(item, move) for item in self._states())

    def _states(self) -> Iterator[Any]:
        token = ""
        while True:
            page = self._admin.must("GET", f"{_STATES}?limit=1000&continue={token}")
            yield from page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    def _relabelled(self, before: str, after: str) -> Callable[[], None]:
        """A change of a label of every node, straight into etcd: through the API it would take longer than the move."""

        def change() -> None:
            old, new = (f"pool\x12\x07{value}".encode() for value in (before, after))
            with contextlib.closing(self._plane.etcd_client()) as client:
                etcd = Etcd(client)
                etcd.put_each((key, value.replace(old, new)) for key, value in etcd.under("/registry/minions/"))

        return change

    def _edit(self, policy: str, mode: str) -> None:
        self._admin.must("PATCH", f"{_POLICIES}/{policy}", {"spec": {"mode": mode}}, MERGE_PATCH)

    def _delete(self, policy: str) -> None:
        self._admin.must("DELETE", f"{_POLICIES}/{policy}")


def _shows(state: Any, move: Move) -> bool:
    spec = state["spec"]
    return (spec.get("mode"), spec.get("policyName")) == (move.mode, move.policy)
