"""The sentinel as a process: its log, its locks, its memory, the lean interpreter."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.cgrouptree import CgroupTree
from support.sentinelparts import UID

from memorypressure.victims import ContainerUsage, Usage
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.sentinel.helper import Wake
from memorypressure_agent.sentinel.libc import call
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.node_lock import NodeLock
from memorypressure_agent.sentinel.process import _unchanged_file_mappings, every_other_chunk


@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_line_is_one_line_whatever_is_in_it(as_json: bool) -> None:
    reading, writing = os.pipe()
    log = Log(as_json=as_json, descriptor=writing)
    log.put(0, "Killed", "two\nlines \x1b[31m and " + "x" * 9_000)
    log.flush()
    os.close(writing)
    text = os.read(reading, 1 << 16)
    os.close(reading)
    assert text.count(b"\n") == 1
    assert len(text) <= 4096
    if as_json:
        assert json.loads(text)["reason"] == "Killed"


def test_a_full_pipe_never_holds_the_log_up() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    log = Log(as_json=False, descriptor=writing)

    def write() -> None:
        for number in range(2_000):
            log.put(number, "Killed", "line")
        log.flush()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for room in the pipe"
    os.close(reading)
    os.close(writing)


def test_a_wake_is_kept_until_somebody_waits_and_ends_one_wait() -> None:
    wake = Wake()
    assert wake._lock.locked(), "a wait takes its time"
    wake.set()
    wake.set()
    assert not wake._lock.locked(), "a wait ends at once"
    wake.wait(60)
    assert wake._lock.locked(), "the next one takes its time again"


def test_the_nodes_lock_is_for_one_process_and_falls_with_it(tree: CgroupTree, tmp_path: Path) -> None:
    ours = NodeLock(PodsTree(str(tmp_path)))
    assert ours.free_for_us()
    assert ours.free_for_us()
    code = (
        "import sys; from memorypressure_agent.host.cgroups import PodsTree;"
        "from memorypressure_agent.sentinel.node_lock import NodeLock;"
        "lock = NodeLock(PodsTree(sys.argv[1])); print(lock.free_for_us(), lock.message)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    assert other.startswith("False another sentinel acts on this node")


def test_a_pods_directory_made_anew_is_found_and_locked_anew(tmp_path: Path) -> None:
    before = CgroupTree(tmp_path)
    before.add_pod(UID)
    tree = PodsTree(str(tmp_path))
    lock = NodeLock(tree)
    assert lock.free_for_us()
    before.pods.rename(tmp_path / "gone")
    assert tree.scan() == ()
    CgroupTree(tmp_path, systemd=True).add_pod(UID)
    assert [pod.uid for pod in tree.scan()] == [UID]
    assert lock.free_for_us()
    assert not NodeLock(PodsTree(str(tmp_path))).free_for_us(), "the lock is on the directory that is there now"


def test_without_pods_there_is_nothing_to_lock(tmp_path: Path) -> None:
    assert NodeLock(PodsTree(str(tmp_path))).free_for_us()


def test_a_lock_that_cannot_be_tried_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubepods").mkdir()
    lock = NodeLock(PodsTree(str(tmp_path)))

    def no_more_files(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", no_more_files)
    assert not lock.free_for_us()
    assert "cannot be tried" in lock.message


def test_a_call_into_the_c_library_tells_its_errno() -> None:
    assert call("getpid") == (os.getpid(), 0)
    assert call("close", -1) == (-1, 9)
    with pytest.raises(OSError, match="undefined symbol"):
        call("no_such_function_anywhere")


def test_every_other_chunk_of_a_mapping_is_marked_up_to_its_end() -> None:
    assert list(every_other_chunk(0x10000, 0x1D000, 0x4000)) == [(0x10000, 0x4000), (0x18000, 0x4000)]
    assert list(every_other_chunk(0x10000, 0x19000, 0x4000)) == [(0x10000, 0x4000), (0x18000, 0x1000)]
    assert list(every_other_chunk(0x10000, 0x11000, 0x4000)) == [(0x10000, 0x1000)]


def test_only_unchanged_read_only_file_mappings_are_given_back() -> None:
    smaps = (
        "1000-2000 r-xp 00000000 08:01 1 /lib/one\nRss: 4 kB\nAnonymous:             0 kB\n"
        "2000-3000 r--p 00000000 08:01 1 /lib/relocated\nRss: 4 kB\nAnonymous:             4 kB\n"
        "3000-4000 rw-p 00000000 08:01 1 /lib/data\nAnonymous:             0 kB\n"
        "4000-5000 r--p 00000000 00:00 0 \nAnonymous:             0 kB\n"
        "5000-6000 r--s 00000000 00:01 7 /dev/shm/journal\nAnonymous:             0 kB\n"
        "6000-7000 r--p 00000000 08:01 1 /lib/two\nAnonymous:             0 kB\nVmFlags: rd mr\n"
    )
    assert _unchanged_file_mappings(smaps) == [(0x1000, 0x2000), (0x6000, 0x7000)]


LEAN = """
import sys
sys.path[:0] = sys.argv[1:]
from memorypressure_agent.sentinel import lean
lean.make_lean()
import memorypressure.orders, memorypressure_agent.sentinel.service
lean.share_methods()
heavy = {"typing", "inspect", "ctypes", "threading", "fractions", "decimal", "argparse", "logging", "socket", "ssl",
         "http", "urllib", "subprocess", "asyncio", "importlib", "difflib", "yaml", "urllib3", "prometheus_client"}
print(sorted(name for name in heavy if getattr(sys.modules.get(name), "__file__", None)))
from memorypressure.zones import parse_zoneinfo
from memorypressure.orders import decode, OrdersError
info = parse_zoneinfo(open("/proc/zoneinfo", "rb").read(), 4096)
try:
    info.zones[0].name = "x"
except AttributeError as error:
    print(type(error).__name__)
import dataclasses
print(dataclasses.replace(info.zones[0], free_pages=5).free_pages)
from memorypressure.victims import ContainerUsage, Usage
usage = Usage("uid", (ContainerUsage("id", 1, None, 2),), 3)
print(repr(usage), hash(usage) == hash(dataclasses.replace(usage)), len({usage, dataclasses.replace(usage)}))
try:
    decode(b'{"version": 1, "nodeNam": "x"}')
except OrdersError as error:
    print(error)
"""


@pytest.mark.parametrize("options", [[], ["-OO"]], ids=["as it is", "without documentation"])
def test_the_lean_process_imports_none_of_the_heavy_modules_and_behaves_the_same(options: list[str]) -> None:
    repository = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-I", "-S", *options, "-c", LEAN, str(repository / "core"), str(repository / "node-agent")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    heavy, frozen, replaced, shown, refused = ended.stdout.splitlines()
    usage = Usage("uid", (ContainerUsage("id", 1, None, 2),), 3)
    assert shown == f"{usage!r} True 1"
    assert heavy == "[]"
    assert frozen == "FrozenInstanceError"
    assert replaced == "5"
    assert "nodeNam: unknown field" in refused
