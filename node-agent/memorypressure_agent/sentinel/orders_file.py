"""The orders file as the sentinel sees it: read when it changed, applied whole or not at all.

no file          observe only
valid            armed as far as mode and grant allow
anything else    disarmed: the orders before are dropped, the reason is reported, observing goes on
"""

import os
import stat
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from memorypressure.engine import Rules
from memorypressure.grants import Grant, Leave
from memorypressure.ladder import HardLimits
from memorypressure.orders import MAX_BYTES, Orders, OrdersError, decode
from memorypressure.reasons import Reason
from memorypressure.spec_values import LabelSelector, Limits, Mode, Share, VictimRules
from memorypressure.victims import Candidate
from memorypressure_agent.sentinel.settings import SentinelSettings

_NOBODY: Final = VictimRules((), 0, frozenset(), LabelSelector(), LabelSelector(), 0, 0, frozenset())
_NOTHING: Final = Limits(
    cooldown_seconds=60,
    max_victims_per_episode=0,
    max_victims_per_workload=Share(count=0),
    max_concurrent_nodes=Share(count=0),
    evictions_per_hour=0,
    kills_per_hour=0,
    max_standing_kills=Share(count=0),
    grant_seconds=900,
)


class Standing(StrEnum):
    """How the orders stand."""

    NONE = "None"
    VALID = "Valid"
    INVALID = "Invalid"


@dataclass(frozen=True, slots=True)
class OrdersRead:
    """One reading of the orders file. `orders` is set only when they are valid."""

    standing: Standing
    reason: Reason
    message: str
    orders: Orders | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The plan's pods."""
        return self.orders.pods if self.orders is not None else ()

    @property
    def candidate_uids(self) -> frozenset[str]:
        """Their UIDs."""
        return frozenset(pod.uid for pod in self.candidates)

    @property
    def grant(self) -> Grant | None:
        """The grant in them."""
        return self.orders.grant if self.orders is not None else None

    def leave(self, effective_mode: Mode) -> Leave | None:
        """What they say about killing, in the mode that is left of theirs."""
        return replace(self.orders.leave, mode=effective_mode) if self.orders is not None else None

    def rules(self, settings: SentinelSettings, page_bytes: int) -> Rules:
        """What decides on this node, within the sentinel's own limits."""
        hard = HardLimits(settings.max_kills_per_hour, settings.min_cooldown_seconds, settings.dry_run_only)
        orders = self.orders
        if orders is None:
            return Rules("", Mode.DISABLED, (), (), _NOBODY, _NOTHING, page_bytes, hard, settings.own_pod_uid)
        mode = Mode.DRY_RUN if settings.dry_run_only and orders.mode is Mode.ENFORCE else orders.mode
        return Rules(
            orders.policy_name,
            mode,
            orders.triggers,
            orders.ladder,
            orders.victims,
            orders.limits,
            page_bytes,
            hard,
            settings.own_pod_uid or orders.own_pod_uid,
        )


class OrdersFile:
    """The file at a path; None: there are never orders.

    It is held open, and asked before each sample: a file that was replaced or removed has lost a link. That looks no
    path up, which could wait for memory.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._fd = -1
        self._seen: tuple[int, ...] | None = None
        self._refused: OrdersRead | None = None  # what could not be read, told already

    def poll(self, *, look_up: bool) -> OrdersRead | None:
        """The orders if the file is another one than last time or was written since; None: nothing changed.

        `look_up`: looks at the path even if nothing happened to the file held. For once a second: that file may have
        come to lie somewhere else, whole, with its directory. A file that could not be read is tried again then: the
        reason may have been a want of memory or of descriptors, which leaves no trace on the file.
        """
        if self.path is None or not (look_up or self._was_touched()):
            return None
        mark = self._mark_of_path(self.path)
        if mark == self._seen:
            return None
        self.close()
        found, self._fd, held = _read(self.path)
        # Of the file that was read, which another one may have replaced since it was looked at.
        self._seen = held or (None if found.reason is Reason.UNREADABLE else mark)
        told, self._refused = self._refused, found if self._seen is None else None
        return None if found == told else found

    def leads_to_what_was_read(self) -> bool:
        """Whether the path leads to the file held, or that file tells itself why not: for a look before a kill.

        What it tells happened since the last `poll`, and counts from the next one on. What it does not tell (it was
        moved with its directory) may have been so for long: then False, and the next `poll` reads the path anew.
        """
        if self.path is None or self._was_touched() or self._mark_of_path(self.path) == self._seen:
            return True
        self._seen = None
        return False

    def close(self) -> None:
        """Gives the descriptor back."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """Whether there is a file that can be asked."""
        return self._fd >= 0

    def _was_touched(self) -> bool:
        """Whether the file held was written, replaced or removed. False without one."""
        try:
            return self._fd >= 0 and _mark(os.fstat(self._fd)) != self._seen
        except OSError:  # of a file system that is not this machine's
            return True

    @staticmethod
    def _mark_of_path(path: str) -> tuple[int, ...]:
        try:
            return _mark(os.stat(path, follow_symlinks=False))
        except OSError as error:
            return (error.errno or 0,)


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def no_orders(path: str | None) -> OrdersRead:
    """What holds while there is no file."""
    message = f"{path}: no such file; observing until the reporter writes it" if path else "no --orders: observing only"
    return OrdersRead(Standing.NONE, Reason.NO_ORDERS, message)


def _read(path: str) -> tuple[OrdersRead, int, tuple[int, ...] | None]:
    """What the file holds, its descriptor and its mark of before it was read; -1 and None where there is no such file.

    So what is written after the mark was taken is seen as another mark.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return no_orders(path), -1, None
    except OSError as error:
        return _refused(Reason.UNREADABLE, f"{path}: {error.strerror}"), -1, None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            data = b""
            while len(data) <= MAX_BYTES and (chunk := os.read(descriptor, MAX_BYTES + 1 - len(data))):
                data += chunk
            return _decoded(path, data), descriptor, _mark(status)
        found = _refused(Reason.ORDERS_INVALID, f"{path}: no regular file")
    except OSError as error:
        found = _refused(Reason.UNREADABLE, f"{path}: {error.strerror}")
    os.close(descriptor)
    return found, -1, None


def _decoded(path: str, data: bytes) -> OrdersRead:
    try:
        orders = decode(data)
    except OrdersError as error:
        reason = Reason.WRONG_VERSION if error.path == "version" else Reason.ORDERS_INVALID
        return _refused(reason, f"{path}: {error}")
    grant = "no grant" if orders.grant is None else f"kills up to {orders.grant.kills_ceiling}"
    message = (
        f"policy {orders.policy_name} (generation {orders.policy_generation}), mode {orders.mode.value}, "
        f"{len(orders.pods)} candidates, {grant}"
    )
    return OrdersRead(Standing.VALID, Reason.ACCEPTED, message, orders)


def _refused(reason: Reason, message: str) -> OrdersRead:
    return OrdersRead(Standing.INVALID, reason, f"{message}; disarmed until the file is replaced by valid orders")
