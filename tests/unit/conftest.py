"""A journal and who reads it, for the tests of journals."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import BOOT

from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader


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
