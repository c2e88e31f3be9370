"""Copies crds/ into the chart, and the policy's schema into the schema of the chart's values; --check only compares.

Helm reads nothing outside a chart, so the chart holds copies: of every definition, of the sample that is the default
policy, and of the policy's spec as `$defs.policySpec` in values.schema.json (a wrong `defaultPolicy.spec` is then
refused by Helm, with the field's name, and not found out later by the operator).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).resolve().parent.parent
CHART: Final = REPOSITORY / "charts" / "memory-pressure-operator"
POLICY: Final = "memorypressurepolicies.yaml"
SAMPLE: Final = Path("samples") / "default.yaml"
SCHEMA: Final = CHART / "values.schema.json"
# What JSON Schema has of the API server's schema language; the rest (CEL rules, list types, defaults) stays there.
KEPT: Final = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
               "pattern", "required")  # fmt: skip


def json_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema of a definition as JSON Schema, closed: a field that the definition lacks is refused."""
    result: dict[str, Any] = {key: node[key] for key in KEPT if key in node}
    if node.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if "properties" in node:
        result["properties"] = {name: json_schema(child) for name, child in node["properties"].items()}
        result["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), Mapping):
        result["additionalProperties"] = json_schema(node["additionalProperties"])
    if "items" in node:
        result["items"] = json_schema(node["items"])
    return result


def policy_spec_schema() -> dict[str, Any]:
    """The schema of `defaultPolicy.spec`: the policy's spec without `mode`, which is the value `defaultPolicy.mode`."""
    definition = yaml.safe_load((REPOSITORY / "crds" / POLICY).read_text(encoding="utf-8"))
    schema = json_schema(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    del schema["properties"]["mode"]
    return schema


def wanted() -> dict[Path, str]:
    """Content of every file that this script writes."""
    files = {CHART / "files/crds" / file.name: file.read_text("utf-8") for file in (REPOSITORY / "crds").glob("*.yaml")}
    files[CHART / "files" / SAMPLE] = (REPOSITORY / "crds" / SAMPLE).read_text(encoding="utf-8")
    values = json.loads(SCHEMA.read_text(encoding="utf-8"))
    values["$defs"]["policySpec"] = policy_spec_schema()
    files[SCHEMA] = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return files


def drift() -> dict[Path, str | None]:
    """What has to change: a file and its content, or None for a copy whose original is gone."""
    files = wanted()
    present = {*(CHART / "files/crds").glob("*.yaml"), *(CHART / "files/samples").glob("*.yaml"), SCHEMA}
    changed = {path: text for path, text in files.items() if path not in present or path.read_text("utf-8") != text}
    return {**changed, **dict.fromkeys(present - files.keys())}


def main(arguments: list[str] | None = None) -> int:
    """0 when the copies are (or now are) like crds/; 1 for drift with --check, after a list of the files."""
    parser = argparse.ArgumentParser(prog="sync_crds", description="Copy crds/ into the chart.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when a copy differs")
    options = parser.parse_args(arguments)
    changes = drift()
    for path, text in sorted(changes.items()):
        name = path.relative_to(REPOSITORY)
        if options.check:
            print(f"{name} is not what crds/ says: run tools/sync_crds.py", file=sys.stderr)
        elif text is None:
            path.unlink()
            print(f"removed {name}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if options.check and changes else 0


if __name__ == "__main__":
    sys.exit(main())
