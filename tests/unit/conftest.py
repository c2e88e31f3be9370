"""What several files of unit tests stand on: a journal and who reads it, a tree of pods, a machine on files."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory
from support.journals import BOOT
from support.publishing import Clock, Node
from support.sentinellab import CAPTURES
from support.sentinelparts import OTHER, UID

from memorypressure_agent.host import flight_format as layout
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter import publisher
from memorypressure_tools.floodplayer import FakeNode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(str(path), BOOT)
    yield opened
    opened.close()


@pytest.fixture
def reader(path: Path) -> Iterator[JournalReader]:
    with JournalReader(str(path)) as opened:
        yield opened


@pytest.fixture
def area() -> Iterator[mmap.mmap]:
    """Where a flight recorder writes, empty."""
    made = mmap.mmap(-1, layout.AREA_BYTES)
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A journal, its publisher and a scripted API; the publisher's clocks are the node's."""
    clock = Clock()
    monkeypatch.setattr(publisher, "time", clock)
    monkeypatch.setattr(publisher, "boot_ns", lambda: clock.boot_ns)
    monkeypatch.setattr(publisher, "unix_ns", lambda: clock.unix_ns)
    made = Node(tmp_path, clock)
    yield made
    made.journal.close()


@pytest.fixture
def tree(tmp_path: Path) -> CgroupTree:
    """Two pods with a container each."""
    made = CgroupTree(tmp_path)
    made.add_pod(UID)
    made.add_container(UID, "c0de01", Memory(anon=300 * MIB, nodes=(200 * MIB, 100 * MIB)), processes=3)
    made.add_pod(OTHER)
    made.add_container(OTHER, "c0de02", Memory(anon=50 * MIB))
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[FakeNode]:
    """A host's files, far from any line."""
    made = FakeNode(tmp_path / "machine", CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt")
    yield made
    made.close()
