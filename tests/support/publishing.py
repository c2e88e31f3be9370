"""A publisher between a real journal and a scripted API, on clocks that a test moves."""

import dataclasses
from pathlib import Path
from typing import Any

from support.reporting import BOOT_NS, UNIX_NS, Lines, Object, ScriptedClient, link_state, sentinel_status
from support.sentinellab import candidate
from support.sentinellab import orders as orders_of

from memorypressure_agent.host.journal import Journal
from memorypressure_agent.reporter.client import ApiError
from memorypressure_agent.reporter.link import LinkState
from memorypressure_agent.reporter.publisher import Publisher

BOOT_ID = "b0b0b0b0-0000-4000-8000-000000000001"
ORDERS = orders_of(candidate("pod-1", "p"))
EPISODE: Object = {
    "id": "x-e1",
    "start": "2027-01-15T08:00:00.000001Z",
    "worst": "w",
    "reason": "AtomicReserveBreached",
    "actions": 0,
    "outcome": "Running",
}
AWAY = ApiError(0, "no answer from https://h: Connection refused")


class Clock:
    """Seconds since the start on all three clocks; `suspend` moves two of them, `step` one."""

    def __init__(self) -> None:
        self.now = 100.0
        self.boot_ns = BOOT_NS
        self.unix_ns = UNIX_NS

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.suspend(seconds)

    def suspend(self, seconds: float) -> None:
        self.boot_ns += int(seconds * 1e9)
        self.unix_ns += int(seconds * 1e9)


STATE_PATH = "/apis/memorypressure.dev/v1alpha1/nodememorystates/n"


class StandingLink:
    """A link whose state a test sets."""

    def __init__(self) -> None:
        self.state: LinkState = link_state(ORDERS)


class Node:
    """A journal, the publisher that reads it, and the status as the API server has it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.path = directory / "journal"
        self.clock = clock
        self.journal = Journal(str(self.path), BOOT_ID)
        self.link = StandingLink()
        self.client = ScriptedClient()
        self.log = Lines()
        self.number = 0
        self.current = sentinel_status()
        self.start()

    def start(self) -> None:
        """Another reporter process."""
        self.publisher = Publisher(self.client, "n", str(self.path), self.link, self.log)  # type: ignore[arg-type]
        self.publisher._beat_jitter = 0.5

    def restart(self) -> None:
        """A reporter that begins from what the API has."""
        state = {"metadata": {"uid": "state-uid"}, "status": self.status} if self.client.patches else None
        self.link.state = dataclasses.replace(self.link.state, state=state or self.link.state.state)
        self.start()

    def sentinel(self, status: Object | None = None) -> None:
        """The sentinel writes its status."""
        self.current = status or self.current
        self.journal.write_status({**self.current, "writtenBootNs": self.clock.boot_ns})

    def act(self, **changes: Any) -> str:
        """The sentinel records an action; its id."""
        self.number += 1
        identity = f"{self.journal.incarnation[:8]}-a{self.number}"
        record = {
            "id": identity,
            "time": "2027-01-15T08:00:00.000001Z",
            "action": "Kill",
            "mode": "DryRun",
            "result": "Success",
            "reason": "AtomicReserveBreached",
        }
        self.journal.write_decision(
            {"kind": "action", "record": {**record, **changes}, "message": "why", "outcome": "gone"}
        )
        return identity

    def round(self, seconds: float = 0.5, *, quiet: bool = False) -> None:
        """Time passes, the sentinel is well, the publisher has a turn."""
        self.clock.advance(seconds)
        if not quiet:
            self.sentinel()
        self.publisher.read()
        self.publisher.write()

    def pass_time(self, seconds: float, **how: Any) -> None:
        for _ in range(int(seconds / 0.5)):
            self.round(**how)

    @property
    def patches(self) -> list[Object]:
        assert all(patch[0]["path"] == "/metadata/uid" for patch in self.client.patches)
        return [patch[-1]["value"] for patch in self.client.patches]

    @property
    def status(self) -> Object:
        return self.patches[-1]

    def shown(self) -> list[str]:
        """Ids of all actions in the order in which a reader of every status met them for the first time."""
        seen = [action["id"] for patch in self.patches for action in reversed(patch["recentActions"])]
        return list(dict.fromkeys(seen))

    def told(self) -> list[str]:
        """What an operator that remembers only the last status counts as new."""
        told: list[str] = []
        before: set[str] = set()
        for patch in self.patches:
            now = [action["id"] for action in reversed(patch["recentActions"])]
            told += [identity for identity in now if identity not in before]
            before = set(now)
        return told

    def condition(self, kind: str) -> Object:
        return next(each for each in self.status["conditions"] if each["type"] == kind)


def calm(node: Node) -> None:
    """The first report is out and a while has passed."""
    node.sentinel()
    node.pass_time(20)
    assert len(node.patches) == 1
