"""`status.actions`: what happened in the last hour by policy and kind, each fact once, also over restarts.

Counted are facts by name, not calls: a restarted operator that reads the same reports and decides the same denials
again adds nothing. They are kept in one ConfigMap of the operator's namespace. They are for people: nothing is decided
by them, the limits have their own records.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from memorypressure_operator.api import Api, config_map_path
from memorypressure_operator.errors import ApiRefused

log = logging.getLogger(__name__)

HOUR_SECONDS = 3600
SAVE_SECONDS = 15.0
MOST_FACTS = 2000
"""Of one policy, the newest: at 26 bytes each 25 policies that act all the time fit into a ConfigMap."""


class Tally:
    """One policy's facts of the last hour. `wall` is the time by the operator's clock, seconds since 1970."""

    def __init__(self, wall: Callable[[], float], elsewhere: Callable[[str], bool] = lambda _: False) -> None:
        """`elsewhere` says whether another policy has counted the fact of that short name."""
        self._wall = wall
        self._elsewhere = elsewhere
        self._facts: dict[str, tuple[str, int]] = {}  # short name -> kind, when
        self.last_action_time = ""  # RFC 3339, of the last action done or told in DryRun
        self.changed = False

    def add(self, kind: str, fact: str, age_seconds: float = 0.0, time: str = "", *, anywhere: bool = False) -> None:
        """Counts a fact that became one so long ago; `time` (RFC 3339) where something was done or told as done.

        A time that lies ahead, by the clock of a node, is now. `anywhere`: not where another policy has counted it. A
        node's report outlives the policy that it acted under, and an operator that was restarted reads it anew, under
        the next one.
        """
        name = hashlib.sha256(f"{kind}/{fact}".encode()).hexdigest()[:10]
        if anywhere and self._elsewhere(name):
            return
        self.last_action_time = max(self.last_action_time, min(time, self._now_text()))
        if name not in self._facts:
            self._facts[name] = (kind, int(self._wall() - age_seconds))
            self.changed = True

    def _now_text(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def has(self, name: str) -> bool:
        """Whether the fact of that short name was counted in the last hour."""
        return name in self._facts

    def count(self, kind: str) -> int:
        """Facts of the last hour."""
        self._forget()
        return sum(each == kind for each, _ in self._facts.values())

    def _forget(self) -> None:
        since = self._wall() - HOUR_SECONDS
        if any(at <= since for _, at in self._facts.values()):
            self._facts = {name: fact for name, fact in self._facts.items() if fact[1] > since}
        if len(self._facts) > MOST_FACTS:
            newest = sorted(self._facts.items(), key=lambda each: each[1][1])[-MOST_FACTS:]
            self._facts = dict(newest)

    def encode(self) -> str:
        """The value of the policy's key."""
        self._forget()
        kinds: dict[str, list[list[Any]]] = {}
        for name, (kind, at) in self._facts.items():
            kinds.setdefault(kind, []).append([at, name])
        return json.dumps(kinds, sort_keys=True, separators=(",", ":"))

    def take(self, text: str) -> None:
        """Adds what an earlier process wrote. ValueError, KeyError or TypeError for anything else."""
        for kind, facts in json.loads(text).items():
            for at, name in facts:
                self._facts.setdefault(str(name), (str(kind), min(int(at), int(self._wall()))))


class Tallies:
    """All policies' tallies, and their ConfigMap. Used by the decision loop only."""

    def __init__(
        self, api: Api, namespace: str, name: str, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._wall = wall
        self._tallies: dict[str, Tally] = {}
        self._saved_at = clock()

    def of(self, policy: str) -> Tally:
        """The policy's tally."""
        if policy not in self._tallies:
            self._tallies[policy] = Tally(self._wall, lambda name: self._counted_by_another(policy, name))
        return self._tallies[policy]

    def _counted_by_another(self, policy: str, name: str) -> bool:
        return any(tally.has(name) for other, tally in self._tallies.items() if other != policy)

    def load(self) -> None:
        """Takes up what was counted before. What is not understood is left out and told in the log. Raises as `get`."""
        self._tallies.clear()
        try:
            data = self._api.get(config_map_path(self._namespace, self._name)).json().get("data") or {}
        except ApiRefused as refusal:
            if not refusal.not_found:
                raise
            return
        for policy, text in data.items():
            try:
                self.of(policy).take(text)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                log.warning("ConfigMap %s: counts of %s are not understood: %r", self._name, policy, error)

    def save(self, *, now: bool = False) -> None:
        """Writes what changed, at most every 15 s unless `now`. Raises ApiUnreachable, ApiRefused, LeaseLost."""
        changed = any(tally.changed for tally in self._tallies.values())
        if not changed or (not now and self._clock() - self._saved_at < SAVE_SECONDS):
            return
        self._saved_at = self._clock()
        texts = {policy: tally.encode() for policy, tally in self._tallies.items()}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "data": {policy: text for policy, text in texts.items() if text != "{}"},
        }
        try:
            self._api.request("PUT", config_map_path(self._namespace, self._name), body=body)
        except ApiRefused as refusal:
            if not refusal.not_found:
                raise
            self._api.request("POST", config_map_path(self._namespace), body=body)
        for tally in self._tallies.values():
            tally.changed = False
