"""Which policy is in force on a node, and which policies are in each other's way.

Highest priority wins; among equals the older one, then the first by name; nothing is merged. Equals that disagree about
the mode make the node run DryRun until somebody resolves it: a tie must not be what decides that pods are killed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memorypressure.reasons import Reason
from memorypressure.spec import Mode, Policy


@dataclass(frozen=True, slots=True)
class Selection:
    """What holds on one node.

    `policy` None: none is in force and `mode` is Disabled. `tied` are the names of all candidates of the winner's
    priority, the winner first, and empty where it is alone; `superseded` those of the candidates that did not win.
    `reason` is NoPolicy, NoOverlap or EqualPriorityOverlap. `modes_differ`: those that tie disagree about the mode.
    """

    policy: Policy | None
    mode: Mode
    tied: tuple[str, ...]
    superseded: tuple[str, ...]
    reason: Reason
    message: str
    modes_differ: bool = False

    @property
    def conflicted(self) -> bool:
        """Whether equal priorities left it to age or name which policy is in force."""
        return bool(self.tied)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one policy fares on all nodes: counts of nodes, and the policies it ties with somewhere.

    `selected` are the nodes its selector matches; of those it is in force on `effective`, and another policy is on
    `superseded`; a Disabled policy has neither. `disputed` are those on which it ties with one of another mode.
    `reason` is NoOverlap or EqualPriorityOverlap.
    """

    selected: int
    effective: int
    superseded: int
    tied_with: tuple[str, ...]
    reason: Reason
    message: str
    disputed: int = 0

    @property
    def conflicted(self) -> bool:
        """Whether it wins or loses a tie on any node."""
        return bool(self.tied_with)


@dataclass(frozen=True, slots=True)
class Survey:
    """The selection of every node and the standing of every policy, by name."""

    nodes: Mapping[str, Selection]
    policies: Mapping[str, Standing]


def select(policies: Iterable[Policy], labels: Mapping[str, str]) -> Selection:
    """The policy in force on a node with these labels; the order of `policies` does not matter."""
    candidates = sorted(
        (policy for policy in policies if policy.mode is not Mode.DISABLED and policy.node_selector.matches(labels)),
        key=_rank,
    )
    if not candidates:
        return Selection(None, Mode.DISABLED, (), (), Reason.NO_POLICY, "no policy selects this node")
    winner = candidates[0]
    superseded = tuple(policy.name for policy in candidates[1:])
    equals = [policy for policy in candidates if policy.priority == winner.priority]
    if len(equals) == 1:
        message = f"policy {winner.name} is in force"
        return Selection(winner, winner.mode, (), superseded, Reason.NO_OVERLAP, message)
    tied = tuple(policy.name for policy in equals)
    modes = {policy.mode for policy in equals}
    message = f"policies {', '.join(tied)} have the same priority {winner.priority}; {winner.name} is in force"
    if len(modes) == 1:
        message += ", as the oldest or first by name"
        return Selection(winner, winner.mode, tied, superseded, Reason.EQUAL_PRIORITY_OVERLAP, message)
    message += " in DryRun, because their modes differ"
    return Selection(winner, Mode.DRY_RUN, tied, superseded, Reason.EQUAL_PRIORITY_OVERLAP, message, modes_differ=True)


def survey(policies: Iterable[Policy], nodes: Mapping[str, Mapping[str, str]]) -> Survey:
    """The selection of every node, given its labels by its name, and how every policy fares."""
    known = sorted(policies, key=lambda policy: policy.name)
    selections = {node: select(known, nodes[node]) for node in sorted(nodes)}
    return Survey(selections, {policy.name: _standing(policy, nodes, selections) for policy in known})


def _rank(policy: Policy) -> tuple[int, str, str]:
    # Times of the API server are RFC 3339 in UTC with whole seconds, so text order is time order.
    return -policy.priority, policy.creation_time, policy.name


def _standing(policy: Policy, nodes: Mapping[str, Mapping[str, str]], selections: Mapping[str, Selection]) -> Standing:
    selected = sum(policy.node_selector.matches(labels) for labels in nodes.values())
    effective = sum(
        selection.policy is not None and selection.policy.name == policy.name for selection in selections.values()
    )
    superseded = sum(policy.name in selection.superseded for selection in selections.values())
    ties = {node: selection for node, selection in selections.items() if policy.name in selection.tied}
    if not ties:
        message = "no other policy of this priority selects any of its nodes"
        return Standing(selected, effective, superseded, (), Reason.NO_OVERLAP, message)
    others = tuple(sorted({name for selection in ties.values() for name in selection.tied} - {policy.name}))
    example = next(iter(ties))
    dry = sum(selection.mode is not selection.policy.mode for selection in ties.values() if selection.policy)
    message = (
        f"same priority {policy.priority} as {', '.join(others)} on {len(ties)} node{'s' * (len(ties) > 1)}"
        f" such as {example}; give one of them another priority"
    )
    if dry:
        message += f"; until then {dry} of them run{'s' * (dry == 1)} DryRun, because the modes differ"
    disputed = sum(selection.modes_differ for selection in ties.values())
    return Standing(selected, effective, superseded, others, Reason.EQUAL_PRIORITY_OVERLAP, message, disputed)
