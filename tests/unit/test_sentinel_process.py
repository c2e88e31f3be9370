"""The sentinel as a process: its log, its locks, its memory, the lean interpreter."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.cgrouptree import CgroupTree
from support.sentinelparts import UID

from memorypressure.victims import ContainerUsage, Usage
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.sentinel import process
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
    assert log.lost == 1_000
    os.set_blocking(reading, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(reading, 1 << 16)
    log.flush()
    first, second, *_ = os.read(reading, 1 << 16).decode().splitlines()
    assert first.endswith("Killed: (1000 log lines before this one were lost) line")
    assert second.endswith("Killed: line")
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
    assert lock.free_for_us(look_up=False), "where a node is short nothing is looked at"
    assert tree.scan() == ()
    CgroupTree(tmp_path, systemd=True).add_pod(UID)
    assert [pod.uid for pod in tree.scan()] == [UID]
    assert lock.free_for_us()
    assert not NodeLock(PodsTree(str(tmp_path))).free_for_us(), "the lock is on the directory that is there now"


def test_a_lock_that_is_held_looks_no_path_up_where_a_node_is_short_and_looks_otherwise(
    tree: CgroupTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = NodeLock(PodsTree(str(tmp_path)))
    assert lock.free_for_us()
    looked: list[str] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looked.append(str(path)) or stat(path, **options))
    assert lock.free_for_us(look_up=False)
    assert looked == []
    assert lock.free_for_us()
    assert looked == [str(tree.pods)]


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


@pytest.mark.parametrize(
    ("answers", "asked", "told"),
    [
        ([0], 1, ""),
        ([errno.EAGAIN, errno.EINVAL, 0], 3, ""),
        ([errno.ESRCH], 1, ""),
        ([errno.EPERM], 1, "process_mrelease: Operation not permitted"),
        ([errno.EAGAIN] * 20, 20, "process_mrelease: not done in time"),
    ],
    ids=["at once", "its lock is held and it has not begun to die", "gone", "not allowed", "never"],
)
def test_a_victims_memory_is_asked_for_until_it_is_given_or_it_is_told_why_not(
    monkeypatch: pytest.MonkeyPatch, answers: list[int], asked: int, told: str
) -> None:
    left, slept = list(answers), []
    monkeypatch.setattr(process, "_mrelease", lambda _: left.pop(0))
    monkeypatch.setattr(process.time, "sleep", slept.append)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert process.release_memory(os.getpid()) == told
    assert len(answers) - len(left) == asked
    assert sum(slept) < 0.11, "the helper has other work"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_victim_that_is_gone_already_is_no_failure_and_one_that_cannot_be_named_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait(timeout=10)
    assert process.release_memory(ended.pid) == ""

    def refused(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert process.release_memory(os.getpid()) == "pidfd_open: Too many open files"
    monkeypatch.setattr(process, "_mrelease", lambda _: errno.EBADF)  # the kernel has it
    assert process.mrelease_capability() == "pidfd_open: Too many open files"
    monkeypatch.setattr(process, "_mrelease", lambda _: errno.ENOSYS)
    assert process.mrelease_capability() == "the kernel has no process_mrelease (5.15 and later have)"


def test_as_many_files_as_candidates_need_may_be_open_as_far_as_the_hard_limit_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = process.WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, process.WANTED_DESCRIPTORS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert process.raise_descriptor_limit() == most
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
        assert process.raise_descriptor_limit() == most, "and is never lowered"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_populate_read_or_the_file_that_names_mappings_code_is_left_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(process, "call", lambda *words: asked.append(words) or (-1, errno.EINVAL))  # before 5.14
    process.bring_in_code()
    assert {words[0] for words in asked} == {"madvise"}
    assert {words[3] for words in asked} == {process.MADV_POPULATE_READ}

    def without_c_library(*_: object) -> tuple[int, int]:
        raise OSError("undefined symbol")

    monkeypatch.setattr(process, "call", without_c_library)
    process.bring_in_code()


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
        "6000-7000 r--p 00000000 08:01 1 /bin/two\nAnonymous:             0 kB\nVmFlags: rd mr\n"
        "8000-9000 r-xp 00000000 08:01 1 /lib/libc.so.6\nAnonymous:             0 kB\n"
        "9000-a000 r--p 00000000 08:01 1 /lib/libc.so.6\nAnonymous:             0 kB\n"
    )
    assert _unchanged_file_mappings(smaps) == [
        (0x1000, 0x2000, 16384),
        (0x6000, 0x7000, 16384),
        (0x8000, 0x9000, 16384),
        (0x9000, 0xA000, 8192),
    ]


def test_all_code_of_the_interpreter_is_there_after_what_start_up_touched_was_given_back() -> None:
    program = (
        "from memorypressure_agent.sentinel import process\n"
        "process.give_back_startup_pages()\n"
        "{}\n"
        "found, code = {{}}, ''\n"
        "for line in open('/proc/self/smaps'):\n"
        "    words = line.split()\n"
        "    if len(words) >= 6 and '-' in words[0]:\n"
        "        code = words[5] if words[1] == 'r-xp' else ''\n"
        "    elif code and words[0] in ('Size:', 'Rss:'):\n"
        "        found.setdefault(code, {{}}).setdefault(words[0], []).append(int(words[1]))\n"
        "most = max(found.values(), key=lambda sizes: sum(sizes['Size:']))\n"
        "print(sum(most['Size:']), sum(most['Rss:']))\n"
    )

    def sizes(work: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", program.format(work)], capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    code, resident = sizes("assert process.bring_in_code() == ''")
    assert code == resident > 1000
    code, resident = sizes("")
    assert resident < code


def test_code_that_an_older_kernel_does_not_read_in_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MADV_POPULATE_READ", 9999)  # an advice that no kernel knows
    assert process.bring_in_code() == (
        "the interpreter's code is not read in: MADV_POPULATE_READ: Invalid argument (Linux 5.14)"
    )


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


def test_what_the_lean_process_has_stand_ins_for_is_never_imported_on_the_way_to_them() -> None:
    """`collections` once was, by the `json` of the first lines: 0.2 MB."""
    repository = Path(__file__).resolve().parents[2]
    begin = repository / "node-agent/memorypressure_agent/sentinel/__main__.py"
    words = [sys.executable, "-I", "-S", "-X", "importtime", str(begin)]
    words += [str(repository / "core"), str(repository / "node-agent"), "null"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "memorypressure_agent.sentinel.service" in imported
    stand_ins = {"collections", "reprlib", "inspect", "difflib", "copy", "typing", "operator", "signal"}
    assert imported & stand_ins == set()


@pytest.mark.parametrize("options", [[], ["-OO"]], ids=["as it is", "without documentation"])
def test_the_lean_process_imports_none_of_the_heavy_modules_and_behaves_the_same(options: list[str]) -> None:
    repository = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-I", "-S", *options, "-c", LEAN, str(repository / "core"), str(repository / "node-agent")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    heavy, replaced, shown, refused = ended.stdout.splitlines()
    usage = Usage("uid", (ContainerUsage("id", 1, None, 2),), 3)
    assert shown == f"{usage!r} True 1"
    assert heavy == "[]"
    assert replaced == "5"
    assert "nodeNam: unknown field" in refused


CLASSES = """
import json, sys
sys.path[:0] = sys.argv[2:]
from memorypressure_agent.sentinel import lean
if sys.argv[1] == "lean":
    lean.make_lean()
import dataclasses, memorypressure.orders, memorypressure_agent.sentinel.service
if sys.argv[1] == "lean":
    lean.share_methods()
from memorypressure.signals import GateShut, MemInfo
from memorypressure.spec_values import Trigger, TriggerType, ZoneWatermark
from memorypressure.zones import Line, Zone, ZoneInfo

def values():
    zones = tuple(Zone(node, name, 900, 0, True, 10, 20, 30, 9_000, protection=(0, 0, 5)) for node in (0, 1)
                  for name in ("DMA32", "Normal"))
    info = ZoneInfo(zones, 4096, 2)
    watermark = ZoneWatermark(Line.MIN, "Any", 5, 300, 1000)
    return [*zones, *info.nodes, info.nodes[0].counted[0].lines, info, GateShut(info, ((0, 5),), True), watermark,
            Trigger("t", TriggerType.ZONE_WATERMARK, zone_watermark=watermark), MemInfo(5, 4, 3, 2, 1)]

def dataclasses_of_ours():
    for module in [each for name, each in sys.modules.items() if name.startswith("memorypressure")]:
        for cls in vars(module).values():
            if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__:
                yield cls

print(json.dumps({
    "classes": sorted([
        f"{cls.__module__}.{cls.__qualname__}", [each.name for each in dataclasses.fields(cls)],
        cls.__dict__.get("__slots__"), cls.__hash__ is None,
    ] for cls in dataclasses_of_ours()),
    "equal": values() == values(),
    "hashes equal": [hash(each) for each in values()] == [hash(each) for each in values()],
    "found in a set": set(values()) == {*values(), *values()},
    "hashes told apart": len({hash(each) for each in values()}),
    "replaced": repr([dataclasses.replace(each) for each in values()]),
    "is what it was made from": [dataclasses.replace(each) for each in values()] == values(),
    "another": dataclasses.replace(values()[0], free_pages=901) == values()[0],
    "of another class": values()[0] == 1,
    "has a dict": [hasattr(each, "__dict__") for each in values()],
}))
print(sorted({cls.__dataclass_params__.frozen for cls in dataclasses_of_ours() if cls.__hash__ is not None}))
"""


def test_values_of_the_lean_process_are_those_of_frozen_classes_everywhere_else() -> None:
    repository = Path(__file__).resolve().parents[2]
    places = [str(repository / "core"), str(repository / "node-agent")]

    def told(way: str) -> list[str]:
        words = [sys.executable, "-I", "-S", "-c", CLASSES, way, *places]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()

    values, frozen = told("lean")
    values_as_declared, frozen_as_declared = told("as declared")
    assert frozen == "[False]"
    assert frozen_as_declared == "[True]"
    assert json.loads(values) == json.loads(values_as_declared)
    assert len(json.loads(values)["classes"]) > 80, "all that the sentinel imports"
