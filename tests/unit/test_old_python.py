"""What the code must not use, because the oldest supported Python (Debian 12: 3.11.2) gets it wrong."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("core", "node-agent", "operator")


def test_no_possessive_repeat_of_a_group() -> None:
    """`(...)++` and `(...)?+` fail to match before CPython 3.11.5 (gh-106052); `(?>(...)+)` and `[a-z]++` are right."""
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for package in PACKAGES
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\)(?:[*+?]|\{[0-9,]+\})\+", line) and "gh-106052" not in line and "(...)" not in line
    ]
    assert found == []
