"""Orders as the sentinel takes them from their file: again when it is another, and none that are not understood."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize("call", ["open", "read"])
def test_orders_that_could_not_be_read_once_are_read_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Without memory or descriptors a file cannot be opened; when there are some again nothing tells so."""
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    file = OrdersFile(str(path))
    before = len(list(Path("/proc/self/fd").iterdir()))

    def fail(*_words: object) -> int:
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        read = file.poll(look_up=True)
        assert read is not None
        assert read.reason is Reason.UNREADABLE
        assert file.poll(look_up=True) is None, "told once"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    again = file.poll(look_up=True)
    assert again is not None
    assert again.standing is Standing.VALID
    file.close()


def test_orders_that_are_replaced_between_the_look_and_the_reading_are_those_that_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "orders", tmp_path / "new"
    path.write_bytes(encode(orders()))
    new.write_bytes(encode(orders(candidate(UID, "a"))))
    file = OrdersFile(str(path))
    opened = os.open

    def replaced(*words: object) -> int:
        new.rename(path)
        return opened(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", replaced)
        read = file.poll(look_up=True)
    assert read is not None
    assert read.candidate_uids == {UID}
    assert file.poll(look_up=False) is None
    assert file.poll(look_up=True) is None
    assert file.leads_to_what_was_read()
    file.close()


def test_orders_that_are_written_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    file = OrdersFile(str(path))
    reading = os.read

    def written(descriptor: int, count: int) -> bytes:
        data = reading(descriptor, count)
        if data:
            path.write_bytes(encode(orders()))
        return data

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", written)
        assert file.poll(look_up=True) is not None
    again = file.poll(look_up=False)
    assert again is not None
    assert again.candidates == ()
    file.close()


def linked(path: Path) -> None:
    path.with_name("kept").hardlink_to(path)
    path.with_name("new").rename(path)


def moved(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.with_name("new").rename(path)


def twice(path: Path) -> None:
    path.with_name("between").write_bytes(b"{}")
    path.with_name("between").rename(path)
    path.with_name("new").rename(path)


def shut(path: Path) -> None:
    path.with_name("new").rename(path)
    path.chmod(0o400)


@pytest.mark.parametrize("how", [linked, moved, twice, shut])
def test_the_file_held_tells_how_ever_it_was_replaced(tmp_path: Path, how: Callable[[Path], None]) -> None:
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    (tmp_path / "new").write_bytes(encode(orders()))
    file = OrdersFile(str(path))
    assert file.poll(look_up=True) is not None
    time.sleep(0.02)  # the time stamps of some file systems are no finer
    how(path)
    read = file.poll(look_up=False)
    assert read is not None
    assert read.standing is Standing.VALID
    assert read.candidates == ()
    assert file.poll(look_up=False) is None
    file.close()


def test_a_file_that_was_removed_within_one_tick_of_the_clock_has_lost_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    file = OrdersFile(str(path))
    asked = os.fstat

    def without_times(descriptor: int) -> SimpleNamespace:
        found = asked(descriptor)
        names = ("st_mode", "st_dev", "st_ino", "st_nlink", "st_size")
        return SimpleNamespace(**{name: getattr(found, name) for name in names}, st_mtime_ns=0, st_ctime_ns=0)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", without_times)
        assert file.poll(look_up=True) is not None
        assert file.poll(look_up=False) is None
        path.unlink()
        gone = file.poll(look_up=False)
    assert gone is not None
    assert gone.standing is Standing.NONE


def test_a_file_that_cannot_be_asked_any_more_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESTALE: its file system is another machine's, where it was removed."""
    path = tmp_path / "orders"
    path.write_bytes(encode(orders(candidate(UID, "a"))))
    file = OrdersFile(str(path))
    assert file.poll(look_up=True) is not None
    path.unlink()

    def stale(_descriptor: int) -> os.stat_result:
        raise OSError(errno.ESTALE, "stale")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", stale)
        gone = file.poll(look_up=False)
    assert gone is not None
    assert gone.standing is Standing.NONE


def test_one_descriptor_is_held_at_most_and_none_of_what_is_no_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    file = OrdersFile(str(path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        (tmp_path / "new").write_bytes(encode(orders()) if number % 2 else b"{}")
        (tmp_path / "new").rename(path)
        assert file.poll(look_up=True) is not None
        assert file.is_held
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    path.unlink()
    path.mkdir()
    assert file.poll(look_up=False) is not None
    assert not file.is_held
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    file.close()
    path.rmdir()
    assert file.poll(look_up=False) is None, "without a file nothing can be asked"
    assert file.poll(look_up=True) is not None


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
