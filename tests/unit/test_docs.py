"""What the documents say is there: links, headings, files and verbs of make exist, and the policies shown are valid."""

import re
from pathlib import Path

import pytest
import yaml

from memorypressure.reasons import Reason
from memorypressure.spec import Mode, parse_policy

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("charts/*/*.md")])
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
ANCHOR = re.compile(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)")
NAMED_FILE = re.compile(r"`([\w./-]+\.(?:py|c|yaml|md|json|tpl|toml|txt|csv))`")
VERB = re.compile(r"(?:^ {4}|`|; )make ([a-z][a-z0-9-]*)", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
OTHERS = {".venv", ".git", "build"}
FILES = [str(path) for top in REPOSITORY.iterdir() if top.name not in OTHERS for path in (top, *top.rglob("*.*"))]
YAML_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def _policies(document: Path) -> list[str]:
    blocks = YAML_BLOCK.findall(document.read_text(encoding="utf-8"))
    return [block for block in blocks if "kind: MemoryPressurePolicy\n" in block]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_relative_link_leads_to_something(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def _anchors(document: Path) -> set[str]:
    """What the headings are called in links, as the sites that show Markdown make it of them."""
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_heading_linked_to_and_every_file_and_verb_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    verbs = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    linked = [(document.parent / path if path else document, anchor) for path, anchor in ANCHOR.findall(text)]
    assert [anchor for path, anchor in linked if path.suffix == ".md" and anchor not in _anchors(path)] == []
    assert set(VERB.findall(text)) - verbs == set()
    if document.name != "CHANGELOG.md":  # which also tells of files that were
        named = {name.removeprefix("./") for name in NAMED_FILE.findall(text)}
        assert [name for name in named if not any(file.endswith(f"/{name}") for file in FILES)] == []


def test_every_reason_is_in_the_reference_and_no_other() -> None:
    page = (REPOSITORY / "docs" / "reference" / "reasons.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {str(reason) for reason in Reason}


def test_the_policy_on_the_first_screen_is_valid_and_stops_nothing() -> None:
    blocks = _policies(REPOSITORY / "README.md")
    assert len(blocks) == 1
    assert parse_policy(yaml.safe_load(blocks[0])).mode is Mode.DRY_RUN


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_policy_shown_in_whole_is_valid(document: Path) -> None:
    for block in _policies(document):
        parse_policy(yaml.safe_load(block))
