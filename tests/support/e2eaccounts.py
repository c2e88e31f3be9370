"""What a cluster said about kills, held against itself and against the kernel's own count. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A node's lease and grant as one look at its state showed them; no grant: ceiling 0 for incarnation ""."""

    at: float
    incarnation: str
    kills: int
    ceiling_seen: int
    granted_to: str
    ceiling: int

    @classmethod
    def of(cls, at: float, state: Object) -> Self | None:
        """None while the node has reported no lease."""
        lease, grant = state.get("status", {}).get("lease"), state.get("spec", {}).get("grant") or {}
        if not lease:
            return None
        granted = grant.get("incarnation", ""), grant.get("killsCeiling", 0)
        return cls(at, lease["incarnation"], lease["killsTotal"], lease["ceilingSeen"], *granted)

    @property
    def left(self) -> int:
        """Kills that the node may make by what is shown; 0 for a grant to another incarnation."""
        return max(0, self.ceiling - self.kills) if self.granted_to == self.incarnation else 0

    @property
    def armed(self) -> bool:
        """Whether the node has an allowance and knows of it."""
        return self.left > 0 and self.ceiling_seen == self.ceiling


def broken_grants(rows: Sequence[GrantRow], *, standing: int) -> list[str]:
    """Sentences about what no node may show: kills over the ceiling, more than `standing` left, a count that fell."""
    found = []
    most_kills: dict[str, int] = {}
    most_allowed: dict[str, int] = {}  # a grant that was withdrawn later may have been used before
    for row in rows:
        name = row.incarnation[:8]
        granted = row.ceiling if row.granted_to == row.incarnation else 0
        allowed = most_allowed[row.incarnation] = max(most_allowed.get(row.incarnation, 0), row.ceiling_seen, granted)
        if row.kills > allowed:
            found.append(f"{name}: {row.kills} kills, ceiling {allowed}")
        if row.left > standing:
            found.append(f"{name}: {row.left} kills left, {standing} allowed to stand")
        if row.kills < most_kills.get(row.incarnation, 0):
            found.append(f"{name}: {row.kills} kills after {most_kills[row.incarnation]}")
        most_kills[row.incarnation] = max(row.kills, most_kills.get(row.incarnation, 0))
    return list(dict.fromkeys(found))


def kills_in(rows: Sequence[GrantRow]) -> int:
    """Kills counted by the node's journals over the rows; what the first row shows is from before."""
    highest = {row.incarnation: row.kills for row in sorted(rows, key=lambda row: row.kills)}
    return sum(highest.values()) - (rows[0].kills if rows else 0)


SLOW_END = "the wait for its cgroup to be empty has ended"


def done(action: Object) -> bool:
    """Whether the node says that it killed: seen to the end, or only the wait for that end was over before.

    A killed container of a node that thrashes may take longer; what the kernel counted is held against both.
    """
    slow = action["result"] == "Incomplete" and SLOW_END in action["message"]
    return action["result"] == "Success" or slow


def untrue(actions: Iterable[Object], events: Iterable[Object], *, counted: int, written: int) -> list[str]:
    """Sentences about kills that were not told exactly once.

    `actions` are the node's (each id once), `events` all Events with reason Killed, `counted` is the policy's own
    figure, `written` the kernel's count of writes to cgroup.kill, of which a kill of one container makes one.
    """
    kills = [each for each in actions if each["action"] == "Kill" and each["mode"] == "Enforce"]
    found = [f"action {each['id']} ended as {each['result']}" for each in kills if not done(each)]
    wanted = Counter(each["pod"]["uid"] for each in kills)
    on_pods = Counter(each["regarding"]["uid"] for each in events if each["regarding"]["kind"] == "Pod")
    on_nodes = Counter(each.get("related", {}).get("uid") for each in events if each["regarding"]["kind"] == "Node")
    for what, seen in (("Pod", on_pods), ("Node", on_nodes)):
        found += [
            f"pod {uid}: {wanted[uid]} kills, {seen[uid]} Events on its {what}"
            for uid in sorted({*wanted, *seen}, key=str)
            if wanted[uid] != seen[uid]
        ]
    found += [f"Event {each['metadata']['name']} is a series" for each in events if each.get("series")]
    if counted != len(kills):
        found.append(f"the policy counts {counted} kills, the node told {len(kills)}")
    if written != len(kills):
        found.append(f"the kernel saw {written} writes to cgroup.kill, the node told {len(kills)} kills")
    return found


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, in Prometheus' text format; 0 without any."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))


def swings(values: Iterable[str], calm: str = "none") -> int:
    """How often something left its calm value: 1 is one rise, more is to and fro."""
    before, count = calm, 0
    for value in values:
        count += before == calm and value != calm
        before = value
    return count
