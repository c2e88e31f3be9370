"""What the documents say is there: links lead to files, and the policies shown are valid."""

import re
from pathlib import Path

import pytest
import yaml

from memorypressure.spec import Mode, parse_policy

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("charts/*/*.md")])
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
YAML_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def _policies(document: Path) -> list[str]:
    blocks = YAML_BLOCK.findall(document.read_text(encoding="utf-8"))
    return [block for block in blocks if "kind: MemoryPressurePolicy\n" in block]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_relative_link_leads_to_something(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_policy_on_the_first_screen_is_valid_and_stops_nothing() -> None:
    blocks = _policies(REPOSITORY / "README.md")
    assert len(blocks) == 1
    assert parse_policy(yaml.safe_load(blocks[0])).mode is Mode.DRY_RUN


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_policy_shown_in_whole_is_valid(document: Path) -> None:
    for block in _policies(document):
        parse_policy(yaml.safe_load(block))
