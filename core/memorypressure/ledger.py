"""The cluster's kill budget as pure bookkeeping (docs/concepts/grants.md): one ledger per policy, kept in a ConfigMap.

Two sums bound everything. *Standing*: what granted ceilings still allow, over all incarnations. *Spent*: kills of the
last hour, among them what can no longer be told and so counts as killed. A ceiling may rise only while
`standing <= maxStandingKills` and `standing + spent <= maxStandingKills + killsPerHour` hold after the rise; then no
sliding hour ever sees more kills than that second sum, because a kill is standing until it is spent, and spent for at
least an hour from then on.

Time is age, never a date: the ledger holds how old its buckets were when it was written, and a reader goes on counting
on its own monotonic clock from the moment it *read* them. So a stepped clock changes nothing, and what happened between
a write and the next read counts as no time at all: ages are never overestimated, also with two writers.

An hour takes twelve full 5-minute buckets and the one being filled: twelve alone cover only 55 minutes for certain.

A ConfigMap that was edited does not match its digest: `LedgerError`. No ceiling rises then, and what is granted is
withdrawn. Delete it, and `adopted` begins a new one from what the nodes report, with nothing to give for as long as an
old grant may hold and the hour after that.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from memorypressure.reasons import Reason
from memorypressure.spec_values import Limits

VERSION = 1
KEY = "ledger"
"""The ConfigMap's key; its value is the JSON below."""
BUCKETS = 13
BUCKET_NS = 300 * 1_000_000_000
CONFIG_MAP_BYTES = 1 << 20
"""What the API server takes as a ConfigMap's values. The record of evictions beside the ledger has 360 KiB of it."""
ENTRIES_BYTES = 600 << 10
"""Once a ledger's entries take so much no further incarnation is given anything: some 2,900 with names of 45
characters. The rest of the ConfigMap is for figures that grow and for allowances that nodes report unasked."""
ENTRY_BYTES = 2 << 10
"""Beyond what any entry takes: names of 253 characters, incarnations of 128, each escaped."""

_NS = 1_000_000_000


class LedgerError(ValueError):
    """A ledger that cannot be trusted: the path of the field, what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One incarnation's allowance.

    `ceiling` bounds its kills; `counted` are those already spent here. `beat` is the newest one that a ceiling of this
    entry can have echoed when it was raised. `grant_seconds` is the longest validity it may hold under. `lost`: another
    incarnation took its place, so the rest is spent already, and stays here only until the grant has run out.
    """

    node: str
    incarnation: str
    ceiling: int
    counted: int
    beat: int
    grant_seconds: int
    lost: bool = False

    @property
    def rest(self) -> int:
        """Kills that the ceiling still allows."""
        return max(0, self.ceiling - self.counted)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The budget of one policy. `serial` makes every write differ, so that it always moves the resourceVersion.

    `buckets[0]` is being filled and is `bucket_age_ns` old; entries are sorted by incarnation. While
    `quarantine_ns` is above 0 nothing may be raised.
    """

    serial: int = 0
    buckets: tuple[int, ...] = (0,) * BUCKETS
    bucket_age_ns: int = 0
    entries: tuple[Entry, ...] = ()
    quarantine_ns: int = 0

    @property
    def standing(self) -> int:
        """Kills that nodes may still carry out without asking."""
        return sum(entry.rest for entry in self.entries if not entry.lost)

    @property
    def spent(self) -> int:
        """Kills of the last hour, with those that count as killed."""
        return sum(self.buckets) + sum(entry.rest for entry in self.entries if entry.lost)

    def entry(self, incarnation: str) -> Entry | None:
        """What the incarnation holds."""
        return next((entry for entry in self.entries if entry.incarnation == incarnation), None)

    def of_node(self, node: str) -> tuple[Entry, ...]:
        """What the incarnations of a node hold, lost ones too."""
        return tuple(entry for entry in self.entries if entry.node == node)


@dataclass(frozen=True, slots=True)
class Exposure:
    """`status.exposure`: what nodes may do without asking, and the most kills that any hour can see."""

    standing_kills: int
    worst_case_hour: int


def max_standing(limits: Limits, nodes: int) -> int:
    """The limit maxStandingKills for so many nodes in force: a share rounded up, at least 1 unless it is 0."""
    return limits.max_standing_kills.of(nodes)


def exposure(ledger: Ledger, limits: Limits, nodes: int) -> Exposure:
    """The figures for users. After a limit was lowered the old allowances count until they are released."""
    standing = ledger.standing
    return Exposure(standing, max(standing + ledger.spent, max_standing(limits, nodes) + limits.kills_per_hour))


class Sums(Protocol):
    """What bounds raises: a `Ledger`, or the `book.Book` of a round."""

    @property
    def standing(self) -> int:
        """As `Ledger.standing`."""
        ...

    @property
    def spent(self) -> int:
        """As `Ledger.spent`."""
        ...

    @property
    def quarantine_ns(self) -> int:
        """As `Ledger.quarantine_ns`."""
        ...


def against_raising(sums: Sums, limits: Limits, nodes: int, more: int) -> tuple[Reason, str] | None:
    """Why ceilings may not rise by `more` kills now, None if they may.

    Also asked where nothing is added (a withdrawn allowance is handed back): while the sums are too high nothing rises.
    """
    most = max_standing(limits, nodes)
    if sums.quarantine_ns > 0:
        message = f"the ledger was lost; nothing is granted for {sums.quarantine_ns // _NS} s more"
        return Reason.LEDGER_QUARANTINE, message
    if sums.standing + more > most:
        return Reason.STANDING_LIMIT, f"{sums.standing} kills are outstanding, maxStandingKills is {most}"
    if sums.standing + sums.spent + more > most + limits.kills_per_hour:
        message = f"{sums.spent} kills in the last hour, killsPerHour is {limits.kills_per_hour}"
        return Reason.BUDGET_EXHAUSTED, message
    return None


def aged(ledger: Ledger, elapsed_ns: int) -> Ledger:
    """The ledger after that much monotonic time: buckets move on, the oldest falls out, quarantine shortens.

    ValueError for negative time.
    """
    if elapsed_ns < 0:
        raise ValueError(f"time went back by {-elapsed_ns} ns: hand in a monotonic clock")
    if elapsed_ns == 0:
        return ledger
    steps, age = divmod(ledger.bucket_age_ns + elapsed_ns, BUCKET_NS)
    moved = ((0,) * min(steps, BUCKETS) + ledger.buckets)[:BUCKETS]
    return replace(ledger, buckets=moved, bucket_age_ns=age, quarantine_ns=max(0, ledger.quarantine_ns - elapsed_ns))


def adopted(entries: Iterable[Entry], used_before: bool, grant_seconds: int) -> Ledger:
    """A ledger where there is none: empty for a policy that never granted anything, else in quarantine.

    `used_before`: anything says that grants existed (a node reports killsTotal or ceilingSeen above 0 or holds a grant,
    or the policy's status shows an exposure). Then nothing rises while an old grant may hold (1.1 x grantSeconds of the
    longest kind) and for the hour after, in which its kills would count.
    """
    known = tuple(sorted(entries, key=lambda entry: entry.incarnation))
    if not known and not used_before:
        return Ledger()
    longest = max((grant_seconds, *(entry.grant_seconds for entry in known)))
    return Ledger(entries=known, quarantine_ns=quarantine_seconds(longest) * _NS)


def quarantine_seconds(grant_seconds: int) -> int:
    """For how long nothing is raised by a ledger made anew: an old grant may hold, and then the hour with its kills."""
    return -(-grant_seconds * 11 // 10) + 3600 + BUCKET_NS // _NS


def entry_bytes(entry: Entry) -> int:
    """What the entry takes of the ConfigMap, with its comma."""
    return len(_text_of(_entry_body(entry))) + 1


def is_full(entries_bytes: int) -> bool:
    """Whether a ledger whose entries take so much has no room for a further one, whatever its names."""
    return entries_bytes + ENTRY_BYTES > ENTRIES_BYTES


def encode(ledger: Ledger) -> dict[str, str]:
    """The ConfigMap's `data`."""
    body = _body(ledger)
    return {KEY: _text_of({**body, "digest": _digest(body)})}


def decode(data: Mapping[str, str] | None) -> Ledger:
    """The ledger in a ConfigMap's `data`. LedgerError for anything that `encode` did not write."""
    if not data or KEY not in data:
        raise LedgerError(f"data.{KEY}: is missing; {_REMEDY}")
    try:
        value = json.loads(data[KEY], parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"data.{KEY}: is no JSON ({error}); {_REMEDY}") from error
    if not isinstance(value, dict):
        raise LedgerError(f"data.{KEY}: is no object; {_REMEDY}")
    if value.get("version") != VERSION:
        message = f"data.{KEY}.version: is {value.get('version')!r}, this operator writes {VERSION}"
        raise LedgerError(f"{message}; run the operator that wrote it, or {_REMEDY}")
    digest = value.pop("digest", None)
    if digest != _digest(value):
        raise LedgerError(f"data.{KEY}.digest: does not match: the ledger was edited; {_REMEDY}")
    wrong = set(value) - _FIELDS
    if wrong:
        raise LedgerError(f"data.{KEY}.{min(wrong)}: unknown field; {_REMEDY}")
    buckets = value.get("buckets")
    if not isinstance(buckets, list) or len(buckets) != BUCKETS:
        raise LedgerError(f"data.{KEY}.buckets: must be {BUCKETS} numbers; {_REMEDY}")
    entries = value.get("entries")
    if not isinstance(entries, list):
        raise LedgerError(f"data.{KEY}.entries: must be a list; {_REMEDY}")
    ledger = Ledger(
        serial=_count(value.get("serial"), "serial"),
        buckets=tuple(_count(bucket, f"buckets[{index}]") for index, bucket in enumerate(buckets)),
        bucket_age_ns=_count(value.get("bucketAgeNanoseconds"), "bucketAgeNanoseconds"),
        entries=tuple(_entry(entry, f"entries[{index}]") for index, entry in enumerate(entries)),
        quarantine_ns=_count(value.get("quarantineNanoseconds"), "quarantineNanoseconds"),
    )
    if ledger.bucket_age_ns >= BUCKET_NS:
        raise LedgerError(f"data.{KEY}.bucketAgeNanoseconds: must be below {BUCKET_NS}; {_REMEDY}")
    names = [entry.incarnation for entry in ledger.entries]
    if names != sorted(set(names)):
        raise LedgerError(f"data.{KEY}.entries: must be sorted by incarnation, each once; {_REMEDY}")
    return ledger


_REMEDY = "delete the ConfigMap to begin anew (no kill is granted for more than an hour then)"
_FIELDS = {"version", "serial", "buckets", "bucketAgeNanoseconds", "entries", "quarantineNanoseconds"}
_ENTRY_FIELDS = {"node", "incarnation", "ceiling", "counted", "beat", "grantSeconds", "lost"}


def _body(ledger: Ledger) -> dict[str, Any]:
    return {
        "version": VERSION,
        "serial": ledger.serial,
        "buckets": list(ledger.buckets),
        "bucketAgeNanoseconds": ledger.bucket_age_ns,
        "quarantineNanoseconds": ledger.quarantine_ns,
        "entries": [_entry_body(entry) for entry in ledger.entries],
    }


def _entry_body(entry: Entry) -> dict[str, Any]:
    return {
        "node": entry.node,
        "incarnation": entry.incarnation,
        "ceiling": entry.ceiling,
        "counted": entry.counted,
        "beat": entry.beat,
        "grantSeconds": entry.grant_seconds,
        "lost": entry.lost,
    }


def _text_of(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text_of(body).encode()).hexdigest()[:32]


def _entry(value: Any, path: str) -> Entry:
    if not isinstance(value, dict) or set(value) != _ENTRY_FIELDS:
        raise LedgerError(f"data.{KEY}.{path}: must be an object with {', '.join(sorted(_ENTRY_FIELDS))}; {_REMEDY}")
    if type(value["lost"]) is not bool:
        raise LedgerError(f"data.{KEY}.{path}.lost: must be true or false; {_REMEDY}")
    return Entry(
        node=_text(value["node"], f"{path}.node"),
        incarnation=_text(value["incarnation"], f"{path}.incarnation"),
        ceiling=_count(value["ceiling"], f"{path}.ceiling"),
        counted=_count(value["counted"], f"{path}.counted"),
        beat=_count(value["beat"], f"{path}.beat"),
        grant_seconds=_count(value["grantSeconds"], f"{path}.grantSeconds"),
        lost=value["lost"],
    )


def _count(value: Any, path: str) -> int:
    if type(value) is not int or not 0 <= value <= 1 << 60:
        raise LedgerError(f"data.{KEY}.{path}: must be a number from 0, not {value!r}; {_REMEDY}")
    return value


def _text(value: Any, path: str) -> str:
    if type(value) is not str or not 1 <= len(value) <= 253:
        raise LedgerError(f"data.{KEY}.{path}: must be a text of 1 to 253 characters; {_REMEDY}")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
