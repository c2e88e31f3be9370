"""Sources of the host: read whole through descriptors that stay, and absent or unknown with a reason, never a guess."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from support import shapes

from memorypressure.reasons import Reason
from memorypressure.signals import Absent, MemInfo, Psi, Unknown
from memorypressure.zone_values import ZoneInfo
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.sources import ROUNDS_OF_CLOSED, HostRoots, HostSources, SourceFile, find_numa_nodes

CAPTURES = Path(__file__).resolve().parents[1] / "fixtures" / "captures"
MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 500 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
PSI = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


@pytest.fixture
def roots(tmp_path: Path) -> HostRoots:
    node = tmp_path / "sys/devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "vmstat").write_text("nr_free_pages 1234\n")
    (tmp_path / "proc/pressure").mkdir(parents=True)
    shutil.copy(CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt", tmp_path / "proc/zoneinfo")
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "proc/pressure/memory").write_text(PSI)
    pods = tmp_path / "cgroup/kubepods"
    pods.mkdir(parents=True)
    (pods / "memory.pressure").write_text(PSI)
    return HostRoots(str(tmp_path / "proc"), str(tmp_path / "sys"), str(tmp_path / "cgroup"))


def sources_of(roots: HostRoots) -> HostSources:
    return HostSources(roots, lambda: PodsTree(roots.cgroup).path, clock=lambda: 77)


def test_a_sample_holds_every_source(roots: HostRoots) -> None:
    sources = sources_of(roots)
    sample = sources.read_sample()
    assert sample.time_ns == 77
    assert isinstance(sample.zones, ZoneInfo)
    assert isinstance(sample.memory, MemInfo)
    assert isinstance(sample.psi_node, Psi)
    assert isinstance(sample.psi_pods, Psi)
    assert sources.read_gate(0) == 1234
    assert {state.name for state in sources.states() if not state.up} == {"swap"}  # MEMINFO has none
    assert sources.page_size_bytes == os.sysconf("SC_PAGE_SIZE")
    sources.close()


def test_this_machine_has_sources_too() -> None:
    sources = HostSources(HostRoots())
    sample = sources.read_sample()
    assert isinstance(sample.zones, ZoneInfo), sample.zones
    assert isinstance(sample.memory, MemInfo), sample.memory
    for node in sources.numa_nodes:
        gate = sources.read_gate(node)
        assert isinstance(gate, int)
        assert gate > 0
    assert isinstance(sample.psi_pods, Absent)
    sources.close()


@pytest.mark.parametrize(
    ("file", "part", "hint"),
    [
        ("proc/zoneinfo", "zones", "no such file"),
        ("proc/meminfo", "memory", "no such file"),
        ("proc/pressure/memory", "psi_node", "psi=1"),
        ("cgroup/kubepods/memory.pressure", "psi_pods", "psi=1"),
    ],
)
def test_a_missing_file_is_absent_with_a_hint(
    roots: HostRoots, tmp_path: Path, file: str, part: str, hint: str
) -> None:
    (tmp_path / file).unlink()
    value = getattr(sources_of(roots).read_sample(), part)
    assert isinstance(value, Absent)
    assert value.reason is Reason.NOT_PRESENT
    assert hint in value.message


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("proc/zoneinfo", "zones"),
        ("proc/meminfo", "memory"),
        ("proc/pressure/memory", "psi_node"),
        ("cgroup/kubepods/memory.pressure", "psi_pods"),
    ],
)
@pytest.mark.parametrize("text", ["", "garbage\n", "\x00" * 50], ids=["empty", "garbage", "zeros"])
def test_a_file_that_is_not_understood_is_unknown_with_its_line(
    roots: HostRoots, tmp_path: Path, file: str, part: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    sources = sources_of(roots)
    value = getattr(sources.read_sample(), part)
    assert isinstance(value, Unknown)
    assert "line 1" in value.message
    (state,) = [state for state in sources.states() if not state.up and not state.absent]
    assert state.reason is Reason.NOT_UNDERSTOOD


def test_a_directory_in_a_files_place_is_unknown_not_a_crash(roots: HostRoots, tmp_path: Path) -> None:
    (tmp_path / "proc/meminfo").unlink()
    (tmp_path / "proc/meminfo").mkdir()
    sources = sources_of(roots)
    assert isinstance(sources.read_sample().memory, Unknown)
    (state,) = [state for state in sources.states() if not state.up and not state.absent]
    assert state.reason is Reason.UNREADABLE


def test_a_gate_of_a_node_without_vmstat_is_absent(roots: HostRoots) -> None:
    assert isinstance(sources_of(roots).read_gate(7), Absent)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, 100_000])
def test_a_file_longer_than_the_buffer_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    source = SourceFile("file", str(path), buffer_bytes=64)
    assert source.read() == b"x" * size
    path.write_bytes(b"y" * (size // 2))
    assert source.read() == b"y" * (size // 2)


def test_reading_opens_nothing_and_rechecking_finds_what_was_replaced(roots: HostRoots, tmp_path: Path) -> None:
    sources = sources_of(roots)
    (tmp_path / "proc/new").write_text(MEMINFO.replace("500", "400"))
    (tmp_path / "proc/new").rename(tmp_path / "proc/meminfo")
    before = sources.read_sample().memory
    assert isinstance(before, MemInfo)
    assert before.available_bytes == 500 * 1024
    for _ in range(5 * ROUNDS_OF_CLOSED):
        sources.recheck_one()
    after = sources.read_sample().memory
    assert isinstance(after, MemInfo)
    assert after.available_bytes == 400 * 1024


def test_a_source_that_appears_later_is_taken_up(roots: HostRoots, tmp_path: Path) -> None:
    (tmp_path / "proc/pressure/memory").unlink()
    sources = sources_of(roots)
    assert isinstance(sources.read_sample().psi_node, Absent)
    (tmp_path / "proc/pressure/memory").write_text(PSI)
    assert isinstance(sources.read_sample().psi_node, Absent)
    for _ in range(5):
        sources.recheck_one()
    assert isinstance(sources.read_sample().psi_node, Psi)


def test_what_this_machine_does_not_have_is_a_state_of_its_own_with_the_reason(
    roots: HostRoots, tmp_path: Path
) -> None:
    (tmp_path / "proc/pressure/memory").unlink()
    for directory in ("cgroup/kubepods", "sys/devices/system/node"):
        shutil.rmtree(tmp_path / directory)
    (tmp_path / "proc/zoneinfo").write_bytes(shapes.zoneinfo(shapes.two_nodes().on((5, 10))))
    sources = sources_of(roots)
    sources.read_sample()
    sources.read_vmstat()
    absent = {state.name: (state.up, state.reason, state.message) for state in sources.states() if state.absent}
    assert {name: reason for name, (_, reason, _) in absent.items()} == {
        "boost": Reason.NOT_PRESENT,
        "psi_node": Reason.NOT_PRESENT,
        "psi_pods": Reason.NOT_PRESENT,
        "swap": Reason.NO_SWAP,
        "vmstat": Reason.NOT_PRESENT,
        "vmstat_node0": Reason.NOT_PRESENT,
    }
    assert not any(up for up, _, _ in absent.values())
    assert "PSI is compiled out" in absent["psi_node"][2]
    assert "no kubepods" in absent["psi_pods"][2]
    assert "SwapTotal is 0" in absent["swap"][2]
    assert "5.16" in absent["boost"][2]
    assert "without NUMA" in absent["vmstat_node0"][2]


def test_the_pods_cgroup_may_come_after_the_agent(roots: HostRoots, tmp_path: Path) -> None:
    (tmp_path / "cgroup/kubepods").rename(tmp_path / "later")
    tree = PodsTree(roots.cgroup)
    sources = HostSources(roots, lambda: tree.path)
    assert isinstance(sources.read_sample().psi_pods, Absent)
    (tmp_path / "later").rename(tmp_path / "cgroup/kubepods")
    assert tree.locate()
    sources.recheck_one()
    assert isinstance(sources.read_sample().psi_pods, Psi)


def test_a_text_cut_between_two_nodes_is_unknown_while_the_missing_node_is_online(
    roots: HostRoots, tmp_path: Path
) -> None:
    whole = shapes.zoneinfo(shapes.two_nodes())
    node1 = tmp_path / "sys/devices/system/node/node1"
    node1.mkdir()
    (node1 / "vmstat").write_text("nr_free_pages 1\n")
    zoneinfo = tmp_path / "proc/zoneinfo"
    zoneinfo.write_bytes(whole)
    sources = sources_of(roots)
    assert isinstance(sources.read_zoneinfo(), ZoneInfo)
    zoneinfo.write_bytes(whole[: whole.index(b"Node 1,")])
    cut = sources.read_zoneinfo()
    assert isinstance(cut, Unknown)
    assert "node 1 is missing" in cut.message
    assert [state.reason for state in sources.states() if state.name == "zoneinfo"] == [Reason.NOT_UNDERSTOOD]
    zoneinfo.write_bytes(whole)
    assert isinstance(sources.read_zoneinfo(), ZoneInfo)
    shutil.rmtree(node1)  # taken out of the running machine
    zoneinfo.write_bytes(whole[: whole.index(b"Node 1,")])
    assert isinstance(sources.read_zoneinfo(), ZoneInfo)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("allocstall_dma32 1\nallocstall_normal 2\nallocstalls 9\noom_kill 3\npgfault 4\n", {"allocstall_dma32": 1}),
        ("allocstall 2\n", {"allocstall": 2}),
    ],
    ids=["6.18", "before 4.10"],
)
def test_counters_of_reclaim_and_oom_kills_are_read_as_the_kernel_names_them(
    roots: HostRoots, tmp_path: Path, text: str, expected: dict[str, int]
) -> None:
    (tmp_path / "proc/vmstat").write_text(text)
    found = sources_of(roots).read_vmstat()
    assert isinstance(found, dict)
    assert found == (expected | {"allocstall_normal": 2, "oom_kill": 3} if "oom_kill" in text else expected)


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill 1", "oom_kill -1\n", "oom_kill 1\noom_kill 2\n"])
def test_counters_that_are_not_understood_are_unknown_never_0(roots: HostRoots, tmp_path: Path, text: str) -> None:
    (tmp_path / "proc/vmstat").write_text(text)
    assert isinstance(sources_of(roots).read_vmstat(), Unknown)


def test_numa_nodes_are_found_by_their_vmstat_files(tmp_path: Path) -> None:
    base = tmp_path / "devices/system/node"
    for name in ("node0", "node2", "node10", "node01", "nodes", "node3"):
        (base / name).mkdir(parents=True)
        if name != "node3":
            (base / name / "vmstat").write_text("nr_free_pages 1\n")
    assert find_numa_nodes(str(tmp_path)) == (0, 2, 10)
    assert find_numa_nodes(str(tmp_path / "missing")) == ()


SOURCES = [
    ("proc/zoneinfo", "zones"),
    ("proc/meminfo", "memory"),
    ("proc/pressure/memory", "psi_node"),
    ("cgroup/kubepods/memory.pressure", "psi_pods"),
]


@pytest.mark.parametrize(("file", "part"), SOURCES)
def test_a_file_that_may_not_be_opened_is_a_fault_and_nothing_that_the_machine_lacks(
    roots: HostRoots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, part: str
) -> None:
    opened = os.open

    def refused(path: str, flags: int, *words: int, **how: int) -> int:
        if path == str(tmp_path / file):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *words, **how)

    monkeypatch.setattr(os, "open", refused)
    sources = sources_of(roots)
    sample = sources.read_sample()
    assert getattr(sample, part) == Unknown(f"{tmp_path / file}: Permission denied")
    assert [type(getattr(sample, other)) for _, other in SOURCES if other != part].count(Unknown) == 0
    (state,) = [state for state in sources.states() if not state.up and not state.absent]
    assert state.reason is Reason.UNREADABLE
    monkeypatch.undo()
    for _ in range(5):
        sources.recheck_one()
    assert not isinstance(getattr(sources.read_sample(), part), Absent | Unknown)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EOPNOTSUPP, "switched off in this kernel"), (errno.ENODEV, "no such file")],
    ids=["psi=0", "a cgroup that was removed"],
)
@pytest.mark.parametrize(("file", "part"), SOURCES[2:])
def test_psi_that_is_there_and_switched_off_is_absent_with_the_hint_until_it_is_read_again(
    roots: HostRoots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, part: str, number: int, words: str
) -> None:
    sources = sources_of(roots)
    assert isinstance(getattr(sources.read_sample(), part), Psi)
    off = sources._psi_node if part == "psi_node" else sources._psi_pods
    assert off is not None
    read, descriptor = os.preadv, off.descriptor

    def answered(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd == descriptor:
            raise OSError(number, os.strerror(number))
        return read(fd, buffers, offset)

    with monkeypatch.context() as while_off:
        while_off.setattr(os, "preadv", answered)
        value = getattr(sources.read_sample(), part)
    assert isinstance(value, Absent)
    assert value.message.startswith(f"{tmp_path / file}: {words}; PSI is compiled out of the kernel, or off")
    (state,) = [state for state in sources.states() if state.absent and state.name == part]
    assert (state.up, state.reason) == (False, Reason.NOT_PRESENT)
    for _ in range(5):
        sources.recheck_one()
    assert isinstance(getattr(sources.read_sample(), part), Psi)


def test_a_reading_that_fails_for_a_moment_keeps_the_file_open(
    roots: HostRoots, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = sources_of(roots)

    def refused(*_words: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as without_memory:
        without_memory.setattr(os, "preadv", refused)
        zones = sources.read_zoneinfo()
    assert isinstance(zones, Unknown)
    assert zones.message.endswith("zoneinfo: Cannot allocate memory")
    assert isinstance(sources.read_zoneinfo(), ZoneInfo), "nothing had to be opened anew"
