"""The policies that are valid now, for the decision loop; and which nodes come first when one of them changed."""

import threading
from collections import deque
from collections.abc import Callable

from memorypressure.selection import select
from memorypressure.spec import Mode, Policy
from memorypressure_operator import defaults
from memorypressure_operator.api import Api, own_path
from memorypressure_operator.caps import capped
from memorypressure_operator.errors import OperatorError
from memorypressure_operator.metrics import Metrics
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import StateView
from memorypressure_operator.settings import Settings

RECHECK_SECONDS = 60.0
"""Age beyond which policies are listed beside kopf's watch."""
DEFAULT_RETRY_SECONDS = 10.0
_RANKS = {Mode.DISABLED.value: 0, Mode.DRY_RUN.value: 1, Mode.ENFORCE.value: 2}


def is_less(mode: Mode, state: StateView) -> bool:
    """Whether a node may do less in this mode than its state says."""
    return _RANKS[mode.value] < _RANKS.get(str(state.spec.get("mode")), _RANKS[Mode.ENFORCE.value])


class Policies:
    """`valid`: name -> policy, capped by the operator's own flags. Used by the decision loop only, but `recheck`."""

    def __init__(
        self, api: Api, registry: Registry, metrics: Metrics, clock: Callable[[], float], settings: Settings
    ) -> None:
        self._api = api
        self._registry = registry
        self._metrics = metrics
        self._clock = clock
        self._settings = settings
        self._recheck = threading.Event()
        self._listed_at = 0.0
        self._default_final = not settings.default_policy_configmap
        self._default_at: float | None = None
        self.valid: dict[str, Policy] = {}
        self.moved: deque[str] = deque()  # nodes whose state may show what is not in force any more

    def recheck(self) -> None:
        """Lists the policies at the next `refresh`. Safe from any thread."""
        self._recheck.set()

    def list(self) -> None:
        """Takes all policies from the API server: kopf does not tell what was deleted while its watch was broken."""
        with self._registry.lock:
            known = {entry.uid for entry in self._registry.tables.policies.values()}
        answer = self._api.get(own_path("memorypressurepolicies")).json()
        for item in answer["items"]:
            # items of a list carry neither
            self._registry.put_policy({"apiVersion": answer["apiVersion"], "kind": "MemoryPressurePolicy", **item})
        for uid in known - {item["metadata"]["uid"] for item in answer["items"]}:
            self._registry.remove_policy(uid)
        self._listed_at = self._clock()

    def refresh(self, armed: Callable[[str], bool]) -> None:
        """Brings `valid` up to date, and puts the nodes first for which it matters most; `armed` of a node's name."""
        if self._recheck.is_set() or self._clock() - self._listed_at >= min(
            RECHECK_SECONDS, self._settings.resync_seconds
        ):
            self._recheck.clear()
            try:
                self.list()
            except OperatorError:
                self._recheck.set()
                raise
        with self._registry.lock:
            moved, self._registry.policies_changed = self._registry.policies_changed, False
            entries = [*self._registry.tables.policies.values()]
        if moved:
            before = set(self.valid)
            self.valid = {e.name: capped(e.policy, self._settings) for e in entries if e.policy is not None}
            for name in self.valid.keys() - before:
                self._metrics.add_policy(name)
            for name in before - self.valid.keys():
                self._metrics.remove_policy(name)
            self._metrics.set_policies(policy.mode.value for policy in self.valid.values())
            # Marked when the change came, some may have had their turn since, by the policies before it.
            with self._registry.lock:
                names = [*self._registry.tables.nodes]
            self._registry.dirty.add(names)
        self._hasten(armed, everywhere=moved)

    def _hasten(self, armed: Callable[[str], bool], *, everywhere: bool) -> None:
        """Of the nodes whose policy may be another one now, those come first that may do less than before.

        Then those that hold an allowance, for which it matters that their plans are new.
        """
        with self._registry.lock:
            relabelled, self._registry.relabelled = self._registry.relabelled, set()
            tables = self._registry.tables
            names = [*tables.nodes] if everywhere else [*(relabelled & tables.nodes.keys())]
            found = [(name, tables.nodes[name].labels, tables.states.get(name)) for name in names]
        falling, moving = [], []
        for name, labels, state in found:
            if state is None:
                continue  # it is made in the node's own turn
            chosen = select(self.valid.values(), labels)
            policy = chosen.policy.name if chosen.policy is not None else None
            if is_less(chosen.mode, state):
                falling.append(name)
            elif (state.spec.get("mode"), state.spec.get("policyName")) != (chosen.mode.value, policy):
                moving.append(name)
        self._registry.dirty.add(falling, urgent=True)
        self.moved.extend([*falling, *moving])
        if everywhere:
            self._registry.dirty.add([name for name in names if armed(name)], urgent=True)

    def create_default(self) -> None:
        """Creates the default policy if that is still to be done. Raises ApiUnreachable, ApiRefused."""
        now = self._clock()
        if self._default_final or (self._default_at is not None and now - self._default_at < DEFAULT_RETRY_SECONDS):
            return
        self._default_at = now
        name = self._settings.default_policy_configmap
        self._default_final = defaults.create_once(self._api, self._settings.namespace, name).final
