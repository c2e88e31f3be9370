"""A node's agent as the operator sees it: reports, written by an administrator."""

import time
from typing import Any

from support.waiting import now

from memorypressure_tools.apiclient import MERGE_PATCH, ApiClient

GROUP = "/apis/memorypressure.dev/v1alpha1"
Object = dict[str, Any]


class Agent:
    """One simulated node agent: keeps a status and patches it as a whole."""

    def __init__(self, admin: ApiClient, node: str) -> None:
        self._admin = admin
        self.node = node
        self.incarnation = f"{int(time.time_ns()):032x}.{7:032x}"
        self.beat = 1
        self.kills_total = 0
        self.ceiling_seen = 0
        self.triggers: dict[str, str] = {}
        self.actions: list[Object] = []
        self.top: list[Object] = []
        self.lowest = "250%"
        sizes = {"managedBytes": 4 << 30, "freeBytes": 20 << 20, "minBytes": 45 << 20, "lowBytes": 56 << 20}
        self.zone: Object = {"name": "Normal", "numaNode": 0, "reserveBytes": 0, **sizes}
        self.obeys = True  # whether it reports to have taken the newest orders
        self.observed = 0
        self.clock_ahead_seconds = 0.0  # of the node's clock
        self._pressed_since = now()
        self._number = 0

    def report(self, **changes: Any) -> Object:
        """Patches the status; `changes` are attributes to set first."""
        for name, value in changes.items():
            setattr(self, name, value)
        self._number += 1
        pressed = bool(self.triggers)
        if self.obeys:
            found = self._admin.request("GET", f"{GROUP}/nodememorystates/{self.node}")
            self.observed = found.body["metadata"]["generation"] if found.status == 200 else self.observed
        status: Object = {
            "observedGeneration": self.observed,
            "lastReportTime": now(self.clock_ahead_seconds + self._number % 60),  # moves with every report
            "agentVersion": "0.1.0",
            "capabilities": ["CgroupKill", "PSI"],
            "lease": {
                "incarnation": self.incarnation,
                "beat": self.beat,
                "killsTotal": self.kills_total,
                "ceilingSeen": self.ceiling_seen,
            },
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Reconciled",
                    "message": "",
                    "lastTransitionTime": self._pressed_since,
                },
                {
                    "type": "UnderPressure",
                    "status": "True" if pressed else "False",
                    "reason": "AtomicReserveBreached" if pressed else "NoPressure",
                    "message": "reserve: 41% of AtomicReserve" if pressed else "",
                    "lastTransitionTime": self._pressed_since,
                },
            ],
            "activeTriggers": [{"name": name, "since": since} for name, since in self.triggers.items()],
            "lowest": {"node": "0", "zone": "0/Normal", "line": "AtomicReserve", "usableToLine": self.lowest},
            "zones": [self.zone] if pressed else None,
            "recentActions": self.actions,
            "topPods": self.top,
        }
        path = f"{GROUP}/nodememorystates/{self.node}/status"
        return self._admin.must("PATCH", path, {"status": status}, MERGE_PATCH)

    def press(self, *triggers: str, top: list[Object] | None = None) -> None:
        """Pressure as a node reports it: first without, so that the operator sees a change, then with the triggers."""
        self._pressed_since = now()
        self.report(triggers={name: now() for name in triggers}, top=top or [], lowest="41%")

    def clear(self) -> None:
        self._pressed_since = now()
        self.report(triggers={}, top=[], lowest="250%")

    def obey(self, state: Object) -> None:
        """What a node does on new orders: a lower ceiling begins a beat (the acknowledgement)."""
        grant = state["spec"].get("grant") or {}
        ceiling = grant.get("killsCeiling", 0) if grant.get("incarnation") == self.incarnation else self.kills_total
        if ceiling < self.ceiling_seen:
            self.beat += 1
        self.ceiling_seen = ceiling
        self.report()

    def kill(self, pod: Object, *, mode: str = "Enforce", identity: str = "") -> None:
        """A kill as a node reports it."""
        if mode == "Enforce":
            self.kills_total += 1
        meta = pod["metadata"]
        action = {
            "id": identity or f"a{len(self.actions) + 1}-{self.beat}",
            "time": now(self.clock_ahead_seconds),
            "action": "Kill",
            "mode": mode,
            "result": "Success",
            "reason": "AtomicReserveBreached",
            "message": "0/Normal at 41% of AtomicReserve for 40 ms",
            "pod": {"uid": meta["uid"], "namespace": meta["namespace"], "name": meta["name"]},
            "freedBytes": 123456789,
        }
        self.report(actions=[action, *self.actions][:10])
