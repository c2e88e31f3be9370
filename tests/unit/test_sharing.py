"""How the test files are shared out: what is listed exists, and what comes first."""

from pathlib import Path
from types import SimpleNamespace

from support import sharing

TESTS = Path(__file__).resolve().parents[1]


def test_every_file_that_is_listed_is_there() -> None:
    listed = set(sharing.TOGETHER) | set(sharing.SECONDS)
    assert sorted(name for name in listed if not (TESTS.parent / name).exists()) == []


def test_the_longest_files_come_first_then_those_with_most_tests() -> None:
    long, longer = sorted(sharing.SECONDS, key=lambda name: sharing.SECONDS[name])[-2:]
    nodes = ["a.py::x", f"{long}::x", "b.py::x", "b.py::y", f"{longer}::x", "a.py::z", "b.py::z"]
    items = [SimpleNamespace(nodeid=node) for node in nodes]
    sharing.longest_first(items)
    assert [sharing.file_of(item.nodeid) for item in items] == [longer, long, "b.py", "b.py", "b.py", "a.py", "a.py"]
