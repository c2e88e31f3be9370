"""Orders as the sentinel takes them from their file: again when it is another, and none that are not understood."""

import os
from pathlib import Path

import pytest
from support.sentinellab import candidate, grant_for, orders
from support.sentinelparts import OTHER, UID

from memorypressure.orders import encode
from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode
from memorypressure_agent.host.sources import HostRoots
from memorypressure_agent.sentinel.orders_file import OrdersFile, Standing
from memorypressure_agent.sentinel.settings import SentinelSettings


def test_orders_are_read_once_and_again_when_the_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    file = OrdersFile(str(path))
    first = file.poll(look_up=True)
    assert first is not None
    assert first.standing is Standing.NONE
    assert file.poll(look_up=True) is None
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    valid = file.poll(look_up=True)
    assert valid is not None
    assert valid.standing is Standing.VALID
    assert valid.candidate_uids == {UID}
    assert file.poll(look_up=True) is None
    (tmp_path / "new").write_bytes(encode(orders()))
    (tmp_path / "new").rename(path)
    again = file.poll(look_up=True)
    assert again is not None
    assert again.candidates == ()
    path.unlink()
    gone = file.poll(look_up=True)
    assert gone is not None
    assert gone.standing is Standing.NONE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.ORDERS_INVALID),
        (b"{}", Reason.WRONG_VERSION),
        (b'{"version": 2}', Reason.WRONG_VERSION),
        (b"\xff\xfe", Reason.ORDERS_INVALID),
        (b"[" * 100_000, Reason.ORDERS_INVALID),
        (b" " * (1 << 20) + b"{}", Reason.ORDERS_INVALID),
    ],
    ids=["empty", "no version", "another version", "no text", "nested without end", "too large"],
)
def test_orders_that_are_not_understood_leave_no_orders(tmp_path: Path, content: bytes, reason: Reason) -> None:
    path = tmp_path / "orders"
    path.write_bytes(content)
    read = OrdersFile(str(path)).poll(look_up=True)
    assert read is not None
    assert (read.standing, read.reason) == (Standing.INVALID, reason)
    assert read.orders is None
    assert read.leave(Mode.ENFORCE) is None
    assert read.rules(SentinelSettings(HostRoots(), None, "j"), 4096).mode is Mode.DISABLED


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_orders_that_are_no_plain_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "orders"
    if kind == "link":
        (tmp_path / "real").write_bytes(encode(orders()))
        path.symlink_to(tmp_path / "real")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    read = OrdersFile(str(path)).poll(look_up=True)
    assert read is not None
    assert read.standing is Standing.INVALID


def test_the_command_lines_limits_stand_above_orders(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"), grant=grant_for("x"))))
    read = OrdersFile(str(path)).poll(look_up=True)
    assert read is not None
    settings = SentinelSettings(
        HostRoots(), str(path), "j", max_kills_per_hour=2, min_cooldown_seconds=99, dry_run_only=True, own_pod_uid=OTHER
    )
    rules = read.rules(settings, 4096)
    assert rules.mode is Mode.DRY_RUN
    assert (rules.hard.kills_per_hour, rules.hard.min_cooldown_seconds, rules.hard.dry_run_only) == (2, 99, True)
    assert rules.own_pod_uid == OTHER
    leave = read.leave(rules.mode)
    assert leave is not None
    assert leave.mode is Mode.DRY_RUN
