"""Simulated agents: status reports at a steady rate, each sent when it is due whether the last was answered or not.

A late report counts from when it was due, so a slow server cannot hide its slowness (coordinated omission).
"""

import asyncio
import itertools
import json
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from memorypressure_tools.certificates import Pair
from memorypressure_tools.scale import shapes

STATUS: Final = shapes.GROUP + "/nodememorystates/{}/status?fieldManager=memorypressure-agent"
AT_ONCE: Final = 32


@dataclass(slots=True)
class Report:
    """One status write. Times on the monotonic clock, which all processes of a machine share."""

    node: str
    kind: str  # Beat, Figures (under pressure), Pressed, Cleared
    due: float
    sent: float = 0.0
    answered: float = 0.0
    version: int = 0  # resourceVersion that it made; 0 = refused
    problem: str = ""


@dataclass(slots=True)
class Agents:
    """What every simulated agent knows: its beat, the ceiling that it was last shown, whether it is under pressure."""

    nodes: list[str]
    beats: dict[str, int] = field(default_factory=dict)
    ceilings: dict[str, int] = field(default_factory=dict)
    pressed: set[str] = field(default_factory=set)
    moved: int = 1

    def body(self, node: str, kind: str) -> bytes:
        """The patch of this report."""
        self.moved += 1
        if kind == "Beat":
            self.beats[node] = self.beats.get(node, 1) + 1
        elif kind == "Pressed":
            self.pressed.add(node)
        elif kind == "Cleared":
            self.pressed.discard(node)
        status = shapes.report(
            self.beats.get(node, 1),
            self.ceilings.get(node, 0),
            node,
            pressed=node in self.pressed,
            moved=self.moved,
        )
        return json.dumps({"status": status}).encode()

    def heard(self, node: str, answer: shapes.Object) -> None:
        """Takes the orders out of the server's answer, as a reporter does from its watch."""
        grant = answer["spec"].get("grant") or {}
        self.ceilings[node] = int(grant.get("killsCeiling") or 0)


def heartbeats(agents: Agents) -> Iterable[tuple[str, str]]:
    """(node, kind) without end: every node in turn, far neighbours one after the other."""
    count = len(agents.nodes)
    step = next(s for s in (37, 41, 43, 47) if count % s)
    for number in itertools.count():
        yield agents.nodes[number * step % count], "Beat"


def pressure(agents: Agents) -> Iterable[tuple[str, str]]:
    """(node, kind) of a bad hour: of ten reports one says that pressure began, one that it ended."""
    count = len(agents.nodes)
    order = itertools.cycle(agents.nodes[i * 53 % count if count % 53 else i] for i in range(count))
    moving: list[str] = []
    for number in itertools.count():
        if number % 10 == 0:
            node = next(order)
            moving.append(node)
            yield node, "Pressed" if node not in agents.pressed else "Figures"
        elif number % 10 == 5 and len(moving) > 20:
            yield moving.pop(0), "Cleared"
        elif moving:
            yield moving[number % len(moving)], "Figures"
        else:
            yield agents.nodes[number % count], "Beat"


class Writers:
    """Sends reports to one API server from this process."""

    def __init__(self, server: str, authority: str, identity: Pair) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cafile=authority)
        self._tls.load_cert_chain(identity.certificate, identity.key)

    def run(
        self,
        agents: Agents,
        reports: Iterable[tuple[str, str]],
        rate: float,
        seconds: float,
        each_second: Callable[[int], None],
    ) -> list[Report]:
        """All reports that were due in `seconds`, `rate` of them a second. `each_second` is called with the count."""
        return asyncio.run(self._run(agents, iter(reports), rate, seconds, each_second))

    async def _run(
        self,
        agents: Agents,
        reports: Iterable[tuple[str, str]],
        rate: float,
        seconds: float,
        each_second: Callable[[int], None],
    ) -> list[Report]:
        source = iter(reports)
        done: list[Report] = []
        tasks: set[asyncio.Task[None]] = set()
        gate = asyncio.Semaphore(AT_ONCE)
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
            started = time.monotonic()
            told = 0
            for number in range(int(rate * seconds)):
                due = started + number / rate
                delay = due - time.monotonic()
                if delay > 0:
                    await asyncio.sleep(delay)
                node, kind = next(source)
                task = asyncio.create_task(self._send(session, gate, agents, Report(node, kind, due), done))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                if int(time.monotonic() - started) > told:
                    told = int(time.monotonic() - started)
                    each_second(len(done))
            if tasks:
                await asyncio.gather(*tasks)
        return done

    async def _send(
        self,
        session: aiohttp.ClientSession,
        gate: asyncio.Semaphore,
        agents: Agents,
        report: Report,
        done: list[Report],
    ) -> None:
        async with gate:
            body = agents.body(report.node, report.kind)
            report.sent = time.monotonic()
            try:
                async with session.patch(
                    self._server + STATUS.format(report.node),
                    data=body,
                    headers={"Content-Type": "application/merge-patch+json"},
                ) as answer:
                    raw = await answer.read()
                    report.answered = time.monotonic()
                    if answer.status == 200:
                        stored = json.loads(raw)
                        report.version = int(stored["metadata"]["resourceVersion"])
                        agents.heard(report.node, stored)
                    else:
                        report.problem = f"{answer.status}: {raw[:200].decode(errors='replace')}"
            except (aiohttp.ClientError, TimeoutError) as error:
                report.answered = time.monotonic()
                report.problem = f"{type(error).__name__}: {error}"
        done.append(report)
