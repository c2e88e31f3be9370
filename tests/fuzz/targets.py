"""What is fuzzed: every parser that reads the host or a file, with seeds and the property that holds for any input.

A target raises AssertionError when the property is broken; any other exception is a finding too. A parser may refuse
what it does not understand with its documented error, and what it returns must be what a plain reading finds.
"""

import contextlib
import io
import json
import struct
import tempfile
from binascii import crc32
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support import naive, shapes
from support.crdschema import refusals, schema
from support.reporting import sentinel_status, under_pressure
from support.sentinellab import candidate, grant_for
from support.sentinellab import orders as orders_of

from memorypressure.gate import NodeVmstatError, parse_node_vmstat, parse_node_vmstat_free
from memorypressure.orders import OrdersError, decode, encode
from memorypressure.signals import SourceError, parse_meminfo, parse_psi, parse_vmstat
from memorypressure.spec_values import Mode
from memorypressure.victims import is_pod_uid
from memorypressure.zone_values import MAX_PAGES, Line
from memorypressure.zones import ZoneInfoError, ZoneInfoReader, parse_zoneinfo
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.host import flight_format, flight_reader, journal_format
from memorypressure_agent.host.cgroups import container_id_of, is_plain_name, pod_uid_of
from memorypressure_agent.host.containers import (
    CgroupFileError,
    parse_flat_keyed,
    parse_numa_stat,
    parse_populated,
    relief_of,
)
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.policy_file import load_policy
from memorypressure_agent.replay.samples import to_sample
from memorypressure_agent.replay.timeline import read_timeline
from memorypressure_agent.reporter import report, shape

FIXTURES: Final = Path(__file__).resolve().parents[1] / "fixtures"
SAMPLES: Final = Path(__file__).resolve().parents[2] / "crds" / "samples"
PAGE: Final = 4096
BOOT: Final = "11111111-2222-3333-4444-555555555555"
ACTION: Final = schema("nodememorystates.yaml", "status", "recentActions")
EPISODE: Final = schema("nodememorystates.yaml", "status", "recentEpisodes")


@dataclass(frozen=True)
class Target:
    """`check` takes any bytes; `seeds` are inputs that are as they should be."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    is_text: bool = True


# --- the kernel's files ---

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


def _zoneinfos() -> Iterator[bytes]:
    for machine in (shapes.two_nodes(), shapes.cma((5, 15)), shapes.highmem(), shapes.uniprocessor((4, 14))):
        yield shapes.zoneinfo(machine)
    yield (FIXTURES / "captures/zoneinfo-6.1-guest-1node-below-half.txt").read_bytes()


def node_vmstat(data: bytes) -> None:
    """The first line's number; all counters as a plain reading has them."""
    try:
        free = parse_node_vmstat_free(data)
    except NodeVmstatError:
        return
    lines = [line.split() for line in data.decode("ascii").splitlines()]
    assert lines[0] == ["nr_free_pages", str(free)] or int(lines[0][1]) == free
    assert 0 <= free <= MAX_PAGES
    with contextlib.suppress(NodeVmstatError):
        counters = parse_node_vmstat(data)
        assert counters == {name: int(value) for name, value in lines}


def vmstat(data: bytes) -> None:
    """Only counters that are wanted, with the values of a plain reading."""
    try:
        counters = parse_vmstat(data)
    except SourceError:
        return
    plain = dict(line.split() for line in data.decode("ascii").splitlines())
    wanted = {name for name in plain if name.split("_")[0] == "allocstall" and name.count("_") <= 1} | {"oom_kill"}
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
        stat = parse_flat_keyed("memory.stat", data)
        relief = relief_of(stat)
    except CgroupFileError:
        return
    words = [line.split() for line in data.splitlines()]
    plain = {key.decode("ascii", "replace"): int(value) for key, value in words}
    assert stat == plain
    assert len(words) == len(plain), "a line that stands twice is not understood"
    assert relief >= plain["anon"] >= 0


def numa_stat(data: bytes) -> None:
    """Each node once, in order, none negative; the sum is that of all numbers of the parts that count."""
    try:
        found = parse_numa_stat(data)
    except CgroupFileError:
        return
    nodes = [node for node, _ in found]
    assert nodes == sorted(set(nodes))
    assert all(value >= 0 for _, value in found)


def cgroup_events(data: bytes) -> None:
    """Only a whole line says whether a cgroup has processes."""
    try:
        populated = parse_populated(data)
    except CgroupFileError:
        return
    lines = [line.split() for line in data.splitlines()]
    assert [int(words[1]) for words in lines if words[0] == b"populated"] == [populated]


def cgroup_names(data: bytes) -> None:
    """A name that is taken for a pod's or a container's leads to one directory, and a pod's UID is one."""
    name = data.decode("utf-8", "surrogateescape")
    uid, container = pod_uid_of(name), container_id_of(name)
    assert uid is None or (is_pod_uid(uid) and is_plain_name(name))
    assert container is None or (is_plain_name(name) and is_plain_name(container) and container in name)


# --- files of ours ---


def orders(data: bytes) -> None:
    """What is understood is written again as the same; no pod's UID leads anywhere."""
    try:
        found = decode(data)
    except OrdersError as refusal:
        if len(str(refusal)) > 2000:
            raise AssertionError("the error is too long for a log line") from refusal
        return
    assert decode(encode(found)) == found
    assert all(is_pod_uid(pod.uid) for pod in found.pods)
    assert found.grant is None or found.grant.kills_ceiling >= 0


def _orders() -> Iterator[bytes]:
    pods = [candidate(f"8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c{number:04x}", f"web-{number}") for number in range(2)]
    yield encode(orders_of(*pods, grant=grant_for("0123456789abcdef.boot", ceiling=2)))
    yield encode(orders_of(mode=Mode.DRY_RUN))


def recording(data: bytes) -> None:
    """Samples in order of time, each with a value for the core, or a sentence that names file and line."""
    before = None
    with contextlib.suppress(BadInputError):
        for recorded in read_timeline("recording", io.BytesIO(data)):
            sample = to_sample("recording", recorded, PAGE)
            assert before is None or sample.time_ns >= before  # equal where times are coarser than the samples
            before = sample.time_ns
            assert all(zone.free is None or zone.free >= 0 for zone in recorded.zones)


def _recordings() -> Iterator[bytes]:
    for file in sorted(FIXTURES.glob("timelines/*.csv")):
        yield file.read_bytes()[:3000]
    for file in sorted(FIXTURES.glob("captures/*.csv")):
        yield b"\n".join(file.read_bytes().split(b"\n")[:12]) + b"\n"


def policy(data: bytes) -> None:
    """A policy, or sentences about the file."""
    path = _scratch / "policy.yaml"
    path.write_bytes(data)
    with contextlib.suppress(BadInputError):
        found = load_policy(path).policy
        assert found.ladder
        assert found.name


# --- the journal: one file that is damaged and mended again, since it has 8 MiB ---

_scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
_PATCH = struct.Struct("<IB")


class _JournalFile:
    """A journal with a status, actions and samples in it, and readers of its bytes."""

    def __init__(self) -> None:
        self.path = _scratch / "journal"
        journal = Journal(str(self.path), BOOT)
        for number in range(3):
            journal.write_status({**sentinel_status(), "writtenBootNs": number})
            journal.write_decision({"kind": "action", "record": _action(number), "message": "why", "outcome": ""})
            journal.write_decision({"kind": "episode", "record": _EPISODE})
        journal.write_status(under_pressure())
        journal.close()
        self.areas = (
            (0, 512),
            (journal_format.GRANTS_OFFSET, 2 * journal_format.GRANTS_SLOT_BYTES),
            (journal_format.STATUS_OFFSET, 12_000),
            (journal_format.STATUS_OFFSET + journal_format.STATUS_SLOT_BYTES, 12_000),
            (journal_format.DECISIONS_OFFSET, 8 * journal_format.DECISION_SLOT_BYTES),
        )
        self.file = self.path.open("r+b", buffering=0)

    def damaged(self, data: bytes) -> None:
        """Puts the patches in `data` (place, length, bytes) over the journal, reads it, and mends it."""
        done = []
        try:
            for place, patch in _patches(data):
                area, size = self.areas[place % len(self.areas)]
                offset = area + (place >> 3) % size
                self.file.seek(offset)
                done.append((offset, self.file.read(len(patch))))
                self.file.seek(offset)
                self.file.write(patch)
            self._read()
        finally:
            for offset, before in reversed(done):
                self.file.seek(offset)
                self.file.write(before)

    def _read(self) -> None:
        with JournalReader(str(self.path)) as reader:
            try:
                identity = reader.refresh()
                assert identity.incarnation
                grants = reader.grants()
                assert grants.kills_total >= 0
                assert grants.beats
                status = reader.status()
                batch = reader.decisions()
            except JournalError:
                return
            if status is not None:
                assert isinstance(shape.complaint(status.values), str)
            sequences = [sequence for sequence, _ in batch.records]
            assert sequences == sorted(set(sequences))
            for _, record in batch.records:
                records(json.dumps(record).encode())


def _patches(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _PATCH.size <= len(data):
        place, length = _PATCH.unpack_from(data, at)
        at += _PATCH.size
        yield place, data[at : at + length]
        at += length


_file: list[_JournalFile] = []


def journal(data: bytes) -> None:
    """A damaged journal is refused with its error, or what is read of it is whole."""
    if not _file:
        _file.append(_JournalFile())
    _file[0].damaged(data)


def _journals() -> Iterator[bytes]:
    yield b""
    for place in range(5):
        yield _PATCH.pack(place, 4) + b"\0\0\0\1"
        yield _PATCH.pack(place | 64 << 3, 1) + b"\xff"


def status_object(data: bytes) -> None:
    """The sentinel's status as JSON: refused in a sentence, or a report that the API server's schema takes."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict) or shape.complaint(values):
        return
    view = report.View(values, None, 1_800_000_000_000_000_000, values["writtenBootNs"])
    link = report.LinkState()
    conditions = report.conditions(view, link, ())
    body = report.body(view, link, conditions, [], [])
    assert list(refusals(body, _STATUS)) == []


def records(data: bytes) -> None:
    """Records of the journal as JSON: left out, or entries that the API server's schema takes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    record = value["record"] if isinstance(value, Mapping) and "record" in value else value
    for entry, rules in ((report.action_entry(record, "why"), ACTION), (report.episode_entry(record), EPISODE)):
        assert entry is None or list(refusals([entry], rules)) == []


_STATUS: Final = schema("nodememorystates.yaml", "status")
_EPISODE: Final = {
    "id": "0123-e1",
    "start": "2027-01-15T08:00:00.000001Z",
    "worst": "0/Normal at 41%",
    "reason": "AtomicReserveBreached",
    "actions": 1,
    "outcome": "Running",
}


def _records() -> Iterator[bytes]:
    for record in (_action(1), _EPISODE):
        assert report.action_entry(record, "why") or report.episode_entry(record)
        yield json.dumps(record).encode()


def _action(number: int) -> dict[str, object]:
    return {
        "id": f"0123-a{number}",
        "time": "2027-01-15T08:00:00.000001Z",
        "action": "Kill",
        "mode": "DryRun",
        "result": "Success",
        "reason": "AtomicReserveBreached",
        "pod": {"uid": "8f1f6d1e", "namespace": "default", "name": "web-0"},
        "freedBytes": 1 << 20,
    }


def flight(data: bytes) -> None:
    """A flight recorder's block, its checksums put right: samples in order of time, and no more than are there."""
    block = _sealed(bytearray(data[: flight_format.BLOCK_BYTES].ljust(flight_format.BLOCK_BYTES, b"\0")))
    found = flight_format.unpack_block(block)
    # Not the whole area: its 1,792 blocks would take a hundred times as long.
    samples = flight_reader._samples([] if found is None else [found])
    times = [sample.time_ns for sample in samples]
    assert times == sorted(times)
    assert len(samples) <= flight_format.BLOCK_BYTES // flight_format.RECORD.size


def _sealed(block: bytearray) -> bytes:
    """The block with the checksums that its bytes need, of the head and of each sample as long as they fit."""
    layout = flight_format
    zones = block[layout.HEAD.size - 2]  # its count has two bytes; more than fit in a block are of no interest
    block[layout.HEAD.size - 1] = 0
    start = layout.live_offset(zones)
    if start + layout.LIVE.size > len(block):
        return bytes(block)
    layout.CRC.pack_into(block, start - layout.CRC.size, crc32(block[: start - layout.CRC.size]))
    found = layout.unpack_block(bytes(block))
    if found is None:
        return bytes(block)
    at = found.start
    while at + layout.RECORD.size <= found.used:
        flags, _, ticks = layout.RECORD.unpack_from(block, at)
        size = _sample_bytes(found, flags)
        body = bytes(block[at + layout.RECORD.size : at + layout.RECORD.size + size])
        layout.RECORD.pack_into(block, at, flags, layout.check_of(flags, ticks, body), ticks)
        at += layout.RECORD.size + size
    return bytes(block)


def _sample_bytes(block: flight_format.Block, flags: int) -> int:
    """Bytes after a sample's head, as the format's description says."""
    layout, zones = flight_format, len(block.zones)
    nodes = {zone[0] for zone in block.zones if zone[6] and zone[1] < 3}  # judged: with a managed zone up to Normal
    free = 0 if flags & layout.UNKNOWN else (zones if flags & layout.FULL else len(nodes))
    size = free * (4 if flags & layout.WIDE else 2)
    size += 4 * zones * bool(flags & layout.BOOST) + 4 * zones * bool(flags & layout.CMA)
    size += layout.SLOW.size * bool(flags & layout.MEMORY)
    return size + layout.AVERAGES.size * (bool(flags & layout.PSI_NODE) + bool(flags & layout.PSI_PODS))


def _flights() -> Iterator[bytes]:
    layout = flight_format
    zone = layout.ZONE.pack(0, 2, 3, 900, 200, 200, 2_000_000, 0, 0, 32, 2)
    head = layout.pack_head(1, 7_000_000_000, PAGE, (2_000_000, 1000, 0), 31, zone)
    samples = layout.RECORD.pack(layout.FULL | layout.WIDE, 0, 10) + (97_027).to_bytes(4, "little")
    samples += layout.RECORD.pack(layout.FULL | layout.MEMORY | layout.PSI_NODE, 0, 100) + bytes(2 + 8 + 12)
    samples += layout.RECORD.pack(0, 0, 100) + bytes(2)
    block = bytearray(head + samples)
    layout.LIVE.pack_into(block, layout.live_offset(1), len(block), 0, 0)
    yield bytes(block)


def _lines(**values: object) -> bytes:
    return "".join(f"{name} {value}\n" for name, value in values.items()).encode()


_PSI: Final = b"some avg10=1.53 avg60=0.87 avg300=0.24 total=11740917\n"
_MEMINFO: Final = (
    "MemTotal:       16303428 kB\nMemFree:          388164 kB\nMemAvailable:    9388164 kB\n"
    "SwapTotal:       1048572 kB\nSwapFree:         786432 kB\n"
    "HugePages_Total:       2\nHugepagesize:       2048 kB\nHugetlb:            4096 kB\n"
)

TARGETS: Final[Mapping[str, Target]] = {
    "zoneinfo": Target(zoneinfo, _zoneinfos),
    "node_vmstat": Target(
        node_vmstat, lambda: iter([shapes.node_vmstat(shapes.two_nodes(), 0)[:400].rpartition(b"\n")[0] + b"\n"])
    ),
    "vmstat": Target(
        vmstat,
        lambda: iter(
            [_lines(nr_free_pages=97027, allocstall_dma=0, allocstall_normal=41, pgalloc_normal=9, oom_kill=2)]
        ),
    ),
    "meminfo": Target(meminfo, lambda: iter([_MEMINFO.encode(), _MEMINFO.encode().replace(b"Hugetlb", b"HugeTLB")])),
    "psi": Target(psi, lambda: iter([_PSI, _PSI + _PSI.replace(b"some", b"full")])),
    "memory_stat": Target(
        memory_stat,
        lambda: iter([_lines(anon=4096, file=8192, kernel=512, sock=0), _lines(anon=1, kernel_stack=2, slab=3)]),
    ),
    "numa_stat": Target(
        numa_stat, lambda: iter([b"anon N0=4096 N1=8192\nfile N0=0 N1=5\nkernel_stack N0=16384 N1=0\n"])
    ),
    "cgroup_events": Target(cgroup_events, lambda: iter([b"populated 1\nfrozen 0\n", b"populated 0\n"])),
    "cgroup_names": Target(
        cgroup_names,
        lambda: iter(
            [
                b"kubepods-burstable-pod8f1f6d1e_6ad0_4a7e_9f0e_2f8d6a3c1b11.slice",
                b"pod8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11",
                b"cri-containerd-0123456789abcdef.scope",
                b"crio-conmon-0123456789abcdef.scope",
                b"0123456789abcdef",
            ]
        ),
    ),
    "orders": Target(orders, _orders),
    "recording": Target(recording, _recordings),
    "policy": Target(policy, lambda: (file.read_bytes() for file in sorted(SAMPLES.glob("*.yaml")))),
    "journal": Target(journal, _journals, is_text=False),
    "status": Target(
        status_object, lambda: (json.dumps(each).encode() for each in (sentinel_status(), under_pressure()))
    ),
    "records": Target(records, _records),
    "flight": Target(flight, _flights, is_text=False),
}
