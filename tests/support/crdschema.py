"""What a structural schema of crds/ refuses of a value that a test makes; the API server itself is asked elsewhere."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).resolve().parents[2] / "crds"
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
}


def schema(file: str, *path: str) -> Mapping[str, Any]:
    """The schema of a part of the one version in crds/<file>, such as `status`."""
    definition = yaml.safe_load((CRDS / file).read_text(encoding="utf-8"))
    (version,) = definition["spec"]["versions"]
    found: Mapping[str, Any] = version["schema"]["openAPIV3Schema"]
    for name in path:
        found = found["properties"][name]
    return found


def refusals(value: Any, rules: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Each violation as `path: what`; a member that the schema does not know, which would be dropped, is one too."""
    kind = rules["type"]
    if type(value) not in TYPES[kind]:
        yield f"{path}: {value!r} is no {kind}"
    elif kind == "object":
        known = rules.get("properties", {})
        yield from (f"{path}.{name}: missing" for name in rules.get("required", ()) if name not in value)
        for name, member in value.items():
            if name not in known:
                yield f"{path}.{name}: not in the schema"
            else:
                yield from refusals(member, known[name], f"{path}.{name}")
    elif kind == "array":
        yield from _list_refusals(value, rules, path)
    elif kind == "integer":
        if not rules.get("minimum", value) <= value <= rules.get("maximum", value):
            yield f"{path}: {value} is out of range"
    elif kind == "string":
        yield from _text_refusals(value, rules, path)


def _list_refusals(value: list[Any], rules: Mapping[str, Any], path: str) -> Iterator[str]:
    if len(value) > rules.get("maxItems", len(value)):
        yield f"{path}: {len(value)} items"
    for index, each in enumerate(value):
        yield from refusals(each, rules["items"], f"{path}[{index}]")
    keys = rules.get("x-kubernetes-list-map-keys")
    if keys:
        found = [tuple(each.get(key) for key in keys) for each in value]
        if len(set(found)) != len(found):
            yield f"{path}: {keys} twice"
    if rules.get("x-kubernetes-list-type") == "set" and len(set(value)) != len(value):
        yield f"{path}: a value twice"


def _text_refusals(value: str, rules: Mapping[str, Any], path: str) -> Iterator[str]:
    if not rules.get("minLength", 0) <= len(value) <= rules.get("maxLength", len(value)):
        yield f"{path}: {len(value)} characters"
    if "enum" in rules and value not in rules["enum"]:
        yield f"{path}: {value!r} is none of {rules['enum']}"
    if "pattern" in rules and not re.search(rules["pattern"], value):
        yield f"{path}: {value!r} does not match"
    if rules.get("format") == "date-time":
        try:
            whole = datetime.fromisoformat(value).tzinfo is not None
        except ValueError:
            whole = False
        if not whole:
            yield f"{path}: {value!r} is no time"
