"""What holds of the parsers of the kernel's files, for any input."""

import contextlib
from collections.abc import Iterator

from fuzz.places import FIXTURES, PAGE
from support import naive, shapes

from memorypressure.gate import NodeVmstatError, parse_node_vmstat_free
from memorypressure.signals import SourceError, parse_meminfo, parse_psi, parse_vmstat
from memorypressure.victims import is_pod_uid
from memorypressure.zone_values import MAX_PAGES, Line
from memorypressure.zones import ZoneInfoError, ZoneInfoReader, parse_zoneinfo
from memorypressure_agent.host.cgroups import container_id_of, is_plain_name, pod_uid_of
from memorypressure_agent.host.containers import (
    CgroupFileError,
    parse_flat_keyed,
    parse_numa_stat,
    parse_populated,
    parse_procs,
    parse_relief,
    relief_of,
)
from memorypressure_agent.host.sources import first_count
from memorypressure_agent.kernel_log.failures import found_in, new_part

_reader = ZoneInfoReader(PAGE)


def zoneinfo(data: bytes) -> None:
    """Zones agree with a reading line by line, with those of a reader that has read others, and with themselves."""
    try:
        info = parse_zoneinfo(data, PAGE)
    except ZoneInfoError as refusal:
        if not 1 <= refusal.line_number <= data.count(b"\n") + 1:
            raise AssertionError("the error names a line that is not there") from refusal
        with contextlib.suppress(ZoneInfoError):
            _reader.parse(data)
            raise AssertionError("a reader that has read others takes what a new one refuses") from refusal
        return
    assert _reader.parse(data) == info
    for zone, block in zip(info.zones, naive.read(data), strict=True):
        numbers = block.numbers
        assert (zone.node, zone.name) == (block.node, block.name)
        assert (zone.free_pages, zone.managed_pages) == (numbers["free"], numbers["managed"])
        assert (zone.min_pages, zone.low_pages, zone.high_pages) == tuple(numbers[n] for n in ("min", "low", "high"))
        assert (zone.boost_pages, zone.boost_known) == (numbers.get("boost", 0), "boost" in numbers)
        assert (zone.cma_pages, zone.cma_known) == (numbers.get("cma", 0), "cma" in numbers)
        assert zone.free_cma_pages == numbers.get("nr_free_cma", 0)
        assert zone.protection == block.protection
        assert zone.stat_threshold_pages == max(block.thresholds, default=0)
        assert 0 <= zone.boost_pages <= zone.min_pages <= zone.low_pages <= zone.high_pages <= MAX_PAGES
        assert zone.managed_pages <= MAX_PAGES
    assert info.counted_nodes
    for node in info.counted_nodes:
        lines_down = (Line.HIGH, Line.LOW, Line.MIN, Line.ATOMIC_RESERVE)
        marks = [node.below(line) for line in lines_down if node.headroom_pages(line) is not None]
        assert marks == sorted(marks, reverse=True)  # below a line is below every higher one that is not closed
        for counted in node.counted:
            lines = counted.lines
            assert lines.atomic_floor <= lines.atomic_reserve <= lines.min <= lines.low <= lines.high
    assert len({(zone.node, zone.name) for zone in info.zones}) == len(info.zones)


def zoneinfos() -> Iterator[bytes]:
    for machine in (shapes.two_nodes(), shapes.cma((5, 15)), shapes.highmem(), shapes.uniprocessor((4, 14))):
        yield shapes.zoneinfo(machine)
    yield (FIXTURES / "captures/zoneinfo-6.1-guest-1node-below-half.txt").read_bytes()


def node_vmstat(data: bytes) -> None:
    """The first line's number, by the quick reading of its first bytes too."""
    quick = first_count(data[:48])
    assert quick is None or data.startswith(b"nr_free_pages ")
    try:
        free = parse_node_vmstat_free(data)
    except NodeVmstatError:
        return
    assert quick == free
    lines = [line.split() for line in data.decode("ascii").splitlines()]
    assert lines[0] == ["nr_free_pages", str(free)] or int(lines[0][1]) == free
    assert 0 <= free <= MAX_PAGES


def vmstat(data: bytes) -> None:
    """Only counters that are wanted, with the values of a plain reading."""
    try:
        counters = parse_vmstat(data)
    except SourceError:
        return
    plain = dict(line.split() for line in data.decode("ascii").splitlines())
    zones = {name: name.partition("_") for name in plain if name.startswith("allocstall")}
    wanted = {name for name, (first, _, zone) in zones.items() if first == "allocstall" and zone.isalnum()}
    wanted |= {"allocstall", "oom_kill"}
    assert counters == {name: int(value) for name, value in plain.items() if name in wanted}


def meminfo(data: bytes) -> None:
    """Bytes as a plain reading has them, none negative, no more available than there is."""
    try:
        found = parse_meminfo(data)
    except SourceError:
        return
    plain = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in data.decode("ascii").splitlines()}
    assert found.total_bytes == plain["MemTotal"] * 1024
    assert found.available_bytes == plain["MemAvailable"] * 1024
    assert (found.swap_total_bytes, found.swap_free_bytes) == (plain["SwapTotal"] * 1024, plain["SwapFree"] * 1024)
    assert 0 <= max(found.available_bytes, found.hugetlb_bytes) <= found.total_bytes


def psi(data: bytes) -> None:
    """Averages from 0 to 100 as a plain reading has them."""
    try:
        found = parse_psi(data)
    except SourceError:
        return
    plain = {
        words[0]: dict(word.split("=") for word in words[1:]) for words in map(str.split, data.decode().splitlines())
    }
    for name, line in (("some", found.some), ("full", found.full)):
        assert (line is None) == (name not in plain)
        if line is not None:
            assert [line.avg10, line.avg60, line.avg300] == [float(plain[name][f"avg{n}"]) for n in (10, 60, 300)]
            assert line.total_us == int(plain[name]["total"]) >= 0
            assert 0 <= min(line.avg10, line.avg60, line.avg300) <= max(line.avg10, line.avg60, line.avg300) <= 100


def memory_stat(data: bytes) -> None:
    """What a kill would give back is the sum of what stands there, and never negative."""
    try:
        relief = parse_relief(data)
    except CgroupFileError:
        return
    words = [line.split() for line in data.splitlines()]
    plain = {key.decode("ascii", "replace"): int(value) for key, value in words}
    assert relief == relief_of(plain) >= plain["anon"] >= 0
    try:
        assert parse_flat_keyed("memory.stat", data) == plain
    except CgroupFileError:
        assert len(words) > len(plain), "a name that does not count stands twice"


_NUMA = {"anon", "kernel_stack", "pagetables", "sec_pagetables", "slab_reclaimable", "slab_unreclaimable"}


def numa_stat(data: bytes) -> None:
    """Each node once, in order, none negative; the sum is that of all numbers of the parts that count."""
    try:
        found = parse_numa_stat(data)
    except CgroupFileError:
        return
    nodes = [node for node, _ in found]
    assert nodes == sorted(set(nodes))
    assert all(value >= 0 for _, value in found)
    counted = [
        line.split() for line in data.splitlines() if line.partition(b" ")[0].decode("ascii", "replace") in _NUMA
    ]
    assert sum(value for _, value in found) == sum(
        int(word.partition(b"=")[2]) for _, *words in counted for word in words
    )


def cgroup_events(data: bytes) -> None:
    """Only a whole line says whether a cgroup has processes."""
    try:
        populated = parse_populated(data)
    except CgroupFileError:
        return
    lines = [line.split() for line in data.splitlines()]
    assert [int(words[1]) for words in lines if words[0] == b"populated"] == [populated]


def cgroup_procs(data: bytes) -> None:
    """A number for each line, as a plain reading has them, or none at all."""
    try:
        found = parse_procs(data)
    except CgroupFileError:
        return
    assert list(found) == [int(word) for word in data.decode("ascii").split()]
    assert len(found) == data.count(b"\n")


def cgroup_names(data: bytes) -> None:
    """A name that is taken for a pod's or a container's leads to one directory, and a pod's UID is one."""
    name = data.decode("utf-8", "surrogateescape")
    uid, container = pod_uid_of(name), container_id_of(name)
    assert uid is None or (is_pod_uid(uid) and is_plain_name(name))
    assert container is None or (is_plain_name(name) and is_plain_name(container) and container in name)


def kernel_log(data: bytes) -> None:
    """No count is negative, none is lost where the log is cut between two lines, and what is new is an end of it."""
    found = found_in(data)
    assert min(found.atomic, found.other, found.unknown) >= 0
    assert found.atomic + found.other <= data.count(b"llocat")
    lines = data.split(b"\n")  # the kernel's lines end so, and a carriage return is a byte of one
    half = len(b"\n".join([*lines[: len(lines) // 2], b""]))
    first, second = data[:half], data[half:]
    assert found_in(first) + found_in(second) == found
    assert data.endswith(new_part(data, first[-512:]))
