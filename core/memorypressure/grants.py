"""The node's side of the grant protocol (docs/concepts/grants.md): when a kill is allowed, and what is promised of it.

The state below lives in the journal and dies with it. Every function returns the next state; **write it to the journal
whole, with a barrier, before anything it says leaves the process** (a beat to the reporter, a kill to a cgroup). Times
are the boot-time clock, which no clock step moves.

**The promise.** A report (beat n, ceilingSeen c) means: grants that echo a beat before n can never take killsTotal
above c. It is kept by the fence: `begin_beat` sets it to the new beat and to the ceiling in force, and a grant that
echoes an earlier beat is cut down to the fence's ceiling. So the operator may hand an allowance to another node as soon
as it reads such a report with n above every beat that it ever echoed with the higher ceiling, and a stale, replayed or
reordered grant that arrives later is harmless. A ceiling that went down begins a new beat at once, which carries the
acknowledgement.
"""

from dataclasses import dataclass, replace

from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode

MAX_GRANT_SECONDS = 3600
BEATS_KEPT = 8
"""Beats whose boot time is remembered: at grantSeconds/3 each, more than two and a half times grantSeconds."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    """`status.lease`: what a node reports. `ceiling_seen` bounds killsTotal under every grant of an earlier beat."""

    incarnation: str
    beat: int
    kills_total: int
    ceiling_seen: int


@dataclass(frozen=True, slots=True)
class Grant:
    """`spec.grant`: leave to go on killing until killsTotal reaches `kills_ceiling`, while beat `beat` is young."""

    incarnation: str
    beat: int
    kills_ceiling: int
    plan_uid: str
    plan_generation: int


@dataclass(frozen=True, slots=True)
class Beat:
    """When a beat began, on the boot-time clock."""

    number: int
    boot_ns: int


@dataclass(frozen=True, slots=True)
class NodeGrants:
    """The node's durable state. Only the functions of this module make new ones.

    `fence_beat`, `fence_ceiling`: grants echoing a beat below the one never allow more than the other.
    """

    incarnation: str
    kills_total: int
    beats: tuple[Beat, ...]
    ceiling_seen: int
    fence_beat: int
    fence_ceiling: int

    @property
    def beat(self) -> int:
        """The number of the running beat."""
        return self.beats[-1].number

    @property
    def lease(self) -> Lease:
        """What the reporter sends; read it and the beat's boot time from the journal in one go."""
        return Lease(self.incarnation, self.beat, self.kills_total, self.ceiling_seen)


@dataclass(frozen=True, slots=True)
class Leave:
    """What the orders in force say about killing; `grant` None: nothing is granted."""

    mode: Mode
    grant: Grant | None
    plan_uid: str
    plan_generation: int
    grant_seconds: int


@dataclass(frozen=True, slots=True)
class Permit:
    """A kill is allowed now; `left` kills remain, this one included."""

    left: int
    message: str = ""

    @property
    def reason(self) -> Reason:
        """Why: a grant."""
        return Reason.GRANTED


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kill is not allowed now."""

    reason: Reason
    message: str


def new_journal(incarnation: str, boot_ns: int) -> NodeGrants:
    """The state of a journal just made: no kill, beat 1 begins now, nothing granted."""
    return NodeGrants(incarnation, 0, (Beat(1, boot_ns),), ceiling_seen=0, fence_beat=1, fence_ceiling=0)


def beat_due(state: NodeGrants, boot_ns: int, grant_seconds: int) -> bool:
    """Whether the next beat must begin: a third of grantSeconds since the last one did."""
    return boot_ns - state.beats[-1].boot_ns >= min(grant_seconds, MAX_GRANT_SECONDS) * _NS // 3


def begin_beat(state: NodeGrants, boot_ns: int) -> NodeGrants:
    """The next beat, and with it the promise about grants of earlier ones."""
    beats = (*state.beats, Beat(state.beat + 1, boot_ns))[-BEATS_KEPT:]
    return replace(state, beats=beats, fence_beat=state.beat + 1, fence_ceiling=state.ceiling_seen)


def see_grant(state: NodeGrants, grant: Grant | None, boot_ns: int) -> NodeGrants:
    """The state after orders with this grant were read: call it whenever orders were read, before `may_kill`.

    A ceiling lower than the one seen before begins a beat, so that the report of it is an acknowledgement; so does one
    that echoes the running beat and allows nothing, for a node that never saw the higher one.
    """
    ceiling = _ceiling(state, grant)
    idle = grant is not None and grant.incarnation == state.incarnation and ceiling <= state.kills_total
    seen = state if ceiling == state.ceiling_seen else replace(state, ceiling_seen=ceiling)
    if ceiling < state.ceiling_seen or (idle and grant is not None and grant.beat == state.beat):
        return begin_beat(seen, boot_ns)
    return seen


def may_kill(state: NodeGrants, leave: Leave | None, boot_ns: int) -> Permit | Refusal:
    """Whether one kill is allowed at this moment. Pure: `reserve` spends it."""
    if leave is None:
        return Refusal(Reason.NO_ORDERS, "there are no valid orders")
    if leave.mode is not Mode.ENFORCE:
        return Refusal(Reason.MODE_NOT_ENFORCE, f"mode is {leave.mode.value}")
    grant = leave.grant
    if grant is None:
        return Refusal(Reason.NO_GRANT, "the operator has granted nothing")
    if grant.incarnation != state.incarnation:
        return Refusal(Reason.WRONG_INCARNATION, f"the grant is for {grant.incarnation[:8]}, not this journal")
    if grant.plan_uid != leave.plan_uid or leave.plan_generation < grant.plan_generation:
        message = (
            f"the grant wants plan {grant.plan_uid} generation {grant.plan_generation},"
            f" here is {leave.plan_uid} generation {leave.plan_generation}"
        )
        return Refusal(Reason.PLAN_MISMATCH, message)
    began_ns = next((beat.boot_ns for beat in state.beats if beat.number == grant.beat), None)
    if began_ns is None:
        return Refusal(Reason.GRANT_EXPIRED, f"beat {grant.beat} is none of the last {len(state.beats)}")
    age_ns = boot_ns - began_ns
    if not 0 <= age_ns < min(leave.grant_seconds, MAX_GRANT_SECONDS) * _NS:
        message = f"beat {grant.beat} is {age_ns // _NS} s old, grantSeconds is {leave.grant_seconds}"
        return Refusal(Reason.GRANT_EXPIRED, message)
    ceiling = min(_ceiling(state, grant), state.ceiling_seen)
    if state.kills_total >= ceiling:
        return Refusal(Reason.CEILING_REACHED, f"{state.kills_total} kills of {ceiling} allowed")
    left = ceiling - state.kills_total
    return Permit(left, f"{left} of {ceiling} kills left, beat {grant.beat} is {age_ns // _NS} s old")


def reserve(state: NodeGrants) -> NodeGrants:
    """The state to be in the journal before `cgroup.kill` is written: a crash between counts as a kill."""
    return replace(state, kills_total=state.kills_total + 1)


def _ceiling(state: NodeGrants, grant: Grant | None) -> int:
    """What the grant bounds killsTotal by; without one for this journal, what has been killed already."""
    if grant is None or grant.incarnation != state.incarnation:
        return state.kills_total
    if grant.beat < state.fence_beat:
        return min(grant.kills_ceiling, state.fence_ceiling)
    return grant.kills_ceiling
