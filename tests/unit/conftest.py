"""A journal and who reads it: for the tests of journals, and of the reporter that publishes what is in one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import BOOT
from support.publishing import Clock, Node

from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.reporter import publisher


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
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A journal, its publisher and a scripted API; the publisher's clocks are the node's."""
    clock = Clock()
    monkeypatch.setattr(publisher, "time", clock)
    monkeypatch.setattr(publisher, "boot_ns", lambda: clock.boot_ns)
    monkeypatch.setattr(publisher, "unix_ns", lambda: clock.unix_ns)
    made = Node(tmp_path, clock)
    yield made
    made.journal.close()
