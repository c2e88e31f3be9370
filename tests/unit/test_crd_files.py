"""What every definition in crds/ has: a sentence for every field, bounds, a place for every message."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = Path(__file__).parents[2] / "crds"
KINDS = ("memorypressurepolicies", "nodememoryplans", "nodememorystates")
IN_METADATA = "a policy name has at most 63 characters"


def load(kind: str) -> dict[str, Any]:
    crd: dict[str, Any] = yaml.safe_load((CRDS / f"{kind}.yaml").read_text(encoding="utf-8"))
    return crd


def walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of everything below the root, list items and map values too."""
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from walk(node[key], f"{path}[]")


def version(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = load(kind)["spec"]["versions"][0]
    return found


SCHEMAS = [
    pytest.param(path, node, id=f"{kind}{path}")
    for kind in KINDS
    for path, node in walk(version(kind)["schema"]["openAPIV3Schema"])
    if path not in (".metadata", ".apiVersion", ".kind")
]


@pytest.mark.parametrize("kind", ["memorypressurepolicies", "nodememoryplans"])
def test_giving_up_annotated_pods_says_that_evictions_stay_refused(kind: str) -> None:
    texts = (
        node["description"] for _, node in walk(version(kind)["schema"]["openAPIV3Schema"]) if "description" in node
    )
    (text,) = (text for text in texts if "AnnotatedPods" in text)
    assert "AnnotatedPods lifts the plan's protection alone: the node may kill such pods" in text
    assert "admission policies go on to refuse every eviction" in text


def test_there_is_one_file_for_each_kind() -> None:
    assert sorted(file.stem for file in CRDS.glob("*.yaml")) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_definitions_have_the_names_and_the_one_version_of_the_api(kind: str) -> None:
    spec = load(kind)["spec"]
    shorts = {"memorypressurepolicies": "mpp", "nodememoryplans": "nmp", "nodememorystates": "nms"}
    assert load(kind)["metadata"]["name"] == f"{kind}.memorypressure.dev"
    assert (spec["group"], spec["scope"]) == ("memorypressure.dev", "Cluster")
    assert (spec["names"]["shortNames"], spec["names"]["categories"]) == ([shorts[kind]], ["memorypressure"])
    assert [one["name"] for one in spec["versions"]] == ["v1alpha1"]
    assert ("subresources" in version(kind)) == (kind != "nodememoryplans")


@pytest.mark.parametrize(("path", "node"), SCHEMAS)
def test_every_field_is_described_in_sentences(path: str, node: dict[str, Any]) -> None:
    item_of_words = path.endswith("[]") and node.get("type") != "object"
    assert item_of_words or node["description"].endswith("."), "a description is a sentence"
    if "default" in node and node["default"] != {}:
        assert "efault" in node["description"], "the description names the default"
    if "maximum" in node and path.startswith(".spec") and not path.startswith(".spec.plan") and "default" in node:
        assert str(node["default"]) in node["description"]


@pytest.mark.parametrize(("path", "node"), SCHEMAS)
def test_every_field_is_bounded(path: str, node: dict[str, Any]) -> None:
    match node.get("type"):
        case "integer":
            assert "enum" in node or {"minimum", "maximum", "format"} <= set(node)
        case "string":
            assert "enum" in node or "maxLength" in node or node.get("format") == "date-time"
        case "array":
            assert {"maxItems", "x-kubernetes-list-type"} <= set(node)
        case "object":
            assert "properties" in node or "maxProperties" in node
        case "boolean":
            pass
        case None:
            assert node["x-kubernetes-int-or-string"]
            assert "maxLength" in node
            assert "x-kubernetes-validations" in node
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize(("path", "node"), SCHEMAS)
def test_every_rule_has_a_message_and_points_at_its_field(path: str, node: dict[str, Any]) -> None:
    for rule in node.get("x-kubernetes-validations", ()):
        assert rule["message"]
        assert "messageExpression" not in rule, "refused for its cost"
        if node.get("type") == "object" and "properties" in node and rule["message"] != IN_METADATA:
            assert rule["fieldPath"].startswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_explained_and_read_fields_that_exist(kind: str) -> None:
    known = {path.replace("[]", "") for path, _ in walk(version(kind)["schema"]["openAPIV3Schema"])}
    known |= {".metadata.creationTimestamp", ".metadata.generation"}
    for column in version(kind)["additionalPrinterColumns"]:
        assert column["description"].endswith(".")
        path = column["jsonPath"]
        plain = path.split("[?(")[0] + path.split(")]")[1] if "[?(" in path else path
        assert plain in known
        assert "[*]" not in path, "a column prints the first of many only"
    for selectable in version(kind)["selectableFields"]:
        assert selectable["jsonPath"] in known
