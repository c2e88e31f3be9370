"""A policy file, YAML or JSON -> `Policy`; every complaint names the file, the line and the field.

The verdict is `memorypressure.spec`'s, which is the API server's. What a file adds are the mistakes that exist only
there: syntax, keys written twice, several documents, another kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from memorypressure.spec import KIND, FieldError, Policy, SpecError, parse_policy, policy_hints
from memorypressure_agent.errors import BadInputError

MAX_FILE_BYTES = 1 << 20
"""The API server takes objects of at most 1.5 MiB; a policy is 2 KiB."""
MAX_NODES = 50_000
"""Values in the file with every alias followed: nested aliases make small files huge."""


_OLD_OCTAL = re.compile(r"([-+]?)0([0-7]+)")


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: see `_RESOLVERS`; but a key may not be there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"field '{key}' is here twice", key_node.start_mark)
            if key is not None:
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """The number, which has at most 64 bits, as on the server."""
        text = self.construct_scalar(node).replace("_", "")
        try:
            number = int(_OLD_OCTAL.sub(r"\g<1>0o\2", text) if _OLD_OCTAL.fullmatch(text) else text, 0)
        except ValueError:
            number = 1 << 64
        if not -(1 << 63) <= number < 1 << 64:
            shown = text if len(text) <= 30 else text[:27] + "..."
            raise yaml.constructor.ConstructorError(
                None, None, f"'{shown}' is no whole number of at most 64 bits", node.start_mark
            )
        return number


# As go-yaml 2 (resolve.go), which kubectl uses, where PyYAML differs: dates are text, 1e3 and 0o17 are numbers, 1:30 is
# none, y and n are booleans.
_RESOLVERS = {
    "bool": (r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    "int": (r"[-+]?(?:0[bB][01_]+|0[oO]?[0-7_]+|0[xX][0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in {*_RESOLVERS, "timestamp"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
_Loader.add_constructor(_TAG + "int", _Loader.construct_whole_number)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A valid policy, and what in it is allowed but hardly meant, a line each."""

    policy: Policy
    hints: tuple[str, ...]


def load_policy(path: Path) -> PolicyFile:
    """The policy in the file.

    Raises `BadInputError` with one line for each mistake: `FILE:LINE: FIELD: what to write instead`.
    """
    text = _read(path)
    value, lines = _load_json(path, text) if text.lstrip().startswith("{") else _load_yaml(path, text)

    def located(error: FieldError) -> str:
        return f"{path}:{_line_of(lines, error.path)}: {error.path + ': ' if error.path else ''}{error.message}"

    try:
        policy = parse_policy(value)  # type: ignore[arg-type]  # anything else than a mapping is one of its errors
    except SpecError as error:
        raise BadInputError("\n  ".join(("the policy is not valid", *map(located, error.errors)))) from error
    return PolicyFile(policy, tuple(located(hint) for hint in policy_hints(policy)))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except IsADirectoryError:
        raise BadInputError(f"{path}: is a directory; name a file with one {KIND}") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot read the policy: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadInputError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; name a file with one {KIND}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(f"{path}:{line}: not text in UTF-8; a policy is YAML or JSON") from error


def _load_json(path: Path, text: str) -> tuple[object, dict[str, int]]:
    def without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            keys = [key for key, _ in pairs]
            double = next(key for key in keys if keys.count(key) > 1)
            raise BadInputError(f"{path}: field '{double}' is here twice")
        return fields

    try:
        value: object = json.loads(text, object_pairs_hook=without_doubles)
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise BadInputError(f"{path}: nested too deeply for a policy") from error
    except ValueError as error:
        raise BadInputError(f"{path}: not a policy: {error}") from error
    try:
        # JSON is YAML but for tabs; composing it again is only for the line numbers.
        root = yaml.compose(text.replace("\t", " "), Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        root = None
    return value, _field_lines(path, root)


def _load_yaml(path: Path, text: str) -> tuple[object, dict[str, int]]:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadInputError(f"{path}:{line}: not YAML: character U+{error.character:04X} is not allowed") from error
    try:
        root = None
        while loader.check_node():
            node = loader.get_node()
            if node is None or node.tag == _TAG + "null":  # nothing between two `---`, which kubectl passes over too
                continue
            if root is not None:
                line = node.start_mark.line + 1
                raise BadInputError(f"{path}:{line}: a second document begins here; a policy file holds one {KIND}")
            root = node
        if root is None:
            raise BadInputError(f"{path}:1: is empty; name a file with one {KIND}")
        lines = _field_lines(path, root)
        value: object = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise BadInputError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise BadInputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise BadInputError(f"{path}: nested too deeply for a policy") from None
    except ValueError as error:
        # From the constructor's own conversions, for instance of integers with thousands of digits.
        raise BadInputError(f"{path}: not a policy: {error}") from error
    finally:
        loader.dispose()
    return value, lines


def _field_lines(path: Path, root: yaml.Node | None) -> dict[str, int]:
    """Field path as in `FieldError.path` -> line in the file, 1-based."""
    lines: dict[str, int] = {}
    for count, (field, node) in enumerate(_walk(root, "")):
        if count > MAX_NODES:
            raise BadInputError(f"{path}: more than {MAX_NODES} values once its aliases are followed; not a policy")
        lines.setdefault(field, node.start_mark.line + 1)
    return lines


def _walk(node: yaml.Node | None, field: str) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{field}.{key.value}" if field else str(key.value)
            yield inner, key
            yield from _walk(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = f"{field}[{index}]"
            yield inner, value
            yield from _walk(value, inner)


def _line_of(lines: dict[str, int], field: str) -> int:
    """The field's line, or for a missing one that of the nearest field around it."""
    while field:
        if field in lines:
            return lines[field]
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return 1
