"""Policy files: every complaint names the file, the line and the field."""

import json
from pathlib import Path

import pytest

from memorypressure_agent.errors import BadInputError
from memorypressure_agent.policy_file import load_policy

GOOD = """\
apiVersion: memorypressure.dev/v1alpha1
kind: MemoryPressurePolicy
metadata:
  name: small
spec:
  nodeSelector: {}
  triggers:
  - name: reserve
    type: ZoneWatermark
    zoneWatermark:
      line: AtomicReserve
      nodes: AnyNode
      belowMilliseconds: 30
      withinMilliseconds: 50
  ladder:
  - action: Kill
    triggers: [reserve]
    afterSeconds: 0
"""


def load(tmp_path: Path, text: str | bytes, name: str = "p.yaml") -> str:
    """The complaint about the file, with the directory left out."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadInputError) as caught:
        load_policy(path)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_yaml_and_json_give_the_same_policy(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    (tmp_path / "p.yaml").write_text(GOOD)
    (tmp_path / "p.json").write_text(json.dumps(yaml.safe_load(GOOD), indent="\t"))
    assert load_policy(tmp_path / "p.yaml").policy == load_policy(tmp_path / "p.json").policy


def test_a_date_without_quotes_stays_text_as_on_the_server(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD.replace("  name: small", "  name: small\n  creationTimestamp: 2026-01-02"))
    assert load_policy(tmp_path / "p.yaml").policy.creation_time == "2026-01-02"


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("4e1", 40),
        ("4.0E+1", 40),
        ("40.", 40),
        ("+40", 40),
        ("0x28", 40),
        ("0b101000", 40),
        ("0o50", 40),
        ("050", 40),
        ("4_0", 40),
        ("~", 30),
        ("", 30),
    ],
)
def test_a_number_is_read_as_kubectl_reads_it(tmp_path: Path, written: str, milliseconds: int) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD.replace("belowMilliseconds: 30", f"belowMilliseconds: {written}"))
    zone = load_policy(path).policy.triggers[0].zone_watermark
    assert zone is not None
    assert zone.below_ms == milliseconds


@pytest.mark.parametrize(
    "text", [f"---\n{GOOD}---\n", f"# a comment\n---\n{GOOD}---\n# another\n", f"---\n---\n{GOOD}..."]
)
def test_empty_documents_around_the_policy_are_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert load_policy(path).policy.name == "small"


def test_hints_name_the_line_too(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD + "  limits:\n    maxStandingKills: 0\n")
    (hint,) = load_policy(path).hints
    assert hint.startswith(f"{path}:20: spec.limits.maxStandingKills: is 0, so no node may carry out the Kill step")


BAD = {
    "an empty file": ("", "p.yaml:1: is empty; name a file with one MemoryPressurePolicy"),
    "only comments": ("# nothing\n", "p.yaml:1: is empty; name a file with one MemoryPressurePolicy"),
    "a list": ("- a\n- b\n", "p.yaml:1: a policy is an object with apiVersion, kind, metadata and spec"),
    "plain text": ("hello", "p.yaml:1: a policy is an object with apiVersion, kind, metadata and spec"),
    "two documents": (
        GOOD + "---\n" + GOOD,
        "p.yaml:20: a second document begins here; a policy file holds one MemoryPressurePolicy",
    ),
    "another kind": (GOOD.replace("MemoryPressurePolicy", "Pod"), "p.yaml:2: kind: must be MemoryPressurePolicy"),
    "another version": (GOOD.replace("v1alpha1", "v1"), "p.yaml:1: apiVersion: must be memorypressure.dev/v1alpha1"),
    "a tab": (GOOD.replace("  nodeSelector", "\tnodeSelector"), "p.yaml:6: not valid YAML: "),
    "a bracket left open": (GOOD.replace("[reserve]", "[reserve"), "p.yaml:18: not valid YAML: "),
    "a field twice": (
        GOOD.replace("      line: AtomicReserve", "      line: Min\n      line: AtomicReserve"),
        "p.yaml:12: not valid YAML: field 'line' is here twice",
    ),
    "an unknown field": (
        GOOD.replace("nodes: AnyNode", "node: AnyNode"),
        "p.yaml:12: spec.triggers[0].zoneWatermark.node",
    ),
    "a wrong unit": (
        GOOD.replace("belowMilliseconds: 30", "belowMilliseconds: 30ms"),
        "p.yaml:13: spec.triggers[0].zoneWatermark.belowMilliseconds: must be a whole number, not ",
    ),
    "a value that is not in the list": (
        GOOD.replace("AtomicReserve", "AtomicFloor"),
        "p.yaml:11: spec.triggers[0].zoneWatermark.line: ",
    ),
    "a step that names no trigger": (GOOD.replace("[reserve]", "[reserv]"), "p.yaml:15: spec.ladder"),
    "a missing selector": (GOOD.replace("  nodeSelector: {}\n", ""), "p.yaml:5: spec.nodeSelector: "),
    "Latin-1": (
        GOOD.replace("small", "smäll").encode("latin-1"),
        "p.yaml:4: not text in UTF-8; a policy is YAML or JSON",
    ),
    "a binary": (b"\x7fELF\x02\x01\x00", "p.yaml:1: not YAML: character U+007F is not allowed"),
    "a long file": ("#" * (1 << 20) + "\n", "p.yaml: is larger than 1048576 bytes"),
    "aliases that multiply": (
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)),
        "p.yaml: more than 50000 values once its aliases are followed; not a policy",
    ),
    "an alias of itself": ("a: &a [*a]\n", "p.yaml: nested too deeply for a policy"),
    "brackets without end": ("[" * 20_000, "p.yaml: nested too deeply for a policy"),
    "a number without end": (
        GOOD.replace("30", "9" * 5000),
        "p.yaml:13: not valid YAML: '999999999999999999999999999...' is no whole number of at most 64 bits",
    ),
    "a hexadecimal number without end": (
        GOOD.replace("30", "0x" + "f" * 6000),
        "p.yaml:13: not valid YAML: '0xfffffffffffffffffffffffff...' is no whole number of at most 64 bits",
    ),
    "what is called a number": (
        GOOD.replace("30", "!!int thirty"),
        "p.yaml:13: not valid YAML: 'thirty' is no whole number of at most 64 bits",
    ),
    "minutes": (
        GOOD.replace("30", "0:30"),
        "p.yaml:13: spec.triggers[0].zoneWatermark.belowMilliseconds: must be a whole number, not ",
    ),
    "y as a label": (
        GOOD.replace("nodeSelector: {}", "nodeSelector: {matchLabels: {a: y}}"),
        "p.yaml:6: spec.nodeSelector.matchLabels.a: must be text, not true; put it in quotes",
    ),
    "a generation in words": (
        GOOD.replace("name: small", "name: small\n  generation: x"),
        'p.yaml:5: metadata.generation: must be a whole number, not "x"; leave it out',
    ),
    "an uid that is a number": (
        GOOD.replace("name: small", "name: small\n  uid: 5"),
        "p.yaml:5: metadata.uid: must be text, not 5; put it in quotes or leave it out",
    ),
    "a tag that builds objects": (
        GOOD.replace("name: small", "name: !!python/object/apply:os.getcwd []"),
        "p.yaml:4: not valid YAML: could not determine a constructor for the tag",
    ),
}


@pytest.mark.parametrize(("text", "complaint"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_named_with_file_line_and_field(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    found = load(tmp_path, text)
    assert complaint in found, found


BAD_JSON = {
    "a comma too many": ('{"a": 1,}', "p.json:1: not valid JSON: "),
    "a field twice": ('{"a": 1,\n"a": 2}', "p.json: field 'a' is here twice"),
    "cut off": ('{"apiVersion": "x",\n', "p.json:2: not valid JSON: "),
    "brackets without end": ('{"a":' * 50_000, "p.json: nested too deeply for a policy"),
    "a number without end": ('{"a": 1' + "0" * 5000 + "}", "p.json: not a policy: Exceeds the limit"),
    "a line of a field": (
        '{"apiVersion": "memorypressure.dev/v1alpha1",\n\t"kind": "Pod"}',
        "p.json:2: kind: must be MemoryPressurePolicy",
    ),
}


@pytest.mark.parametrize(("text", "complaint"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_a_mistake_in_json_is_named_likewise(tmp_path: Path, text: str, complaint: str) -> None:
    found = load(tmp_path, text, "p.json")
    assert complaint in found, found


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD.replace("AnyNode", "Any").replace("belowMilliseconds: 30", "belowMilliseconds: -1"))
    assert found.splitlines()[0] == "the policy is not valid"
    assert "p.yaml:12: spec.triggers[0].zoneWatermark.nodes" in found
    assert "p.yaml:13: spec.triggers[0].zoneWatermark.belowMilliseconds" in found


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "cannot read the policy: No such file or directory"),
        (lambda path: path.mkdir(), "is a directory; name a file with one MemoryPressurePolicy"),
    ],
    ids=["not there", "a directory"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: object, complaint: str) -> None:
    path = tmp_path / "p.yaml"
    make(path)  # type: ignore[operator]
    with pytest.raises(BadInputError, match=complaint):
        load_policy(path)
