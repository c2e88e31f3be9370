"""Checks JSON against a declared shape: the same defaults, nulls, bounds and rules as a structural schema of a CRD.

`check` returns what the API server would store, or collects an error for every field that it would refuse. Order as on
the server: nulls and defaults, then types and bounds, then rules. A rule runs when the fields it needs are in order,
so that a user sees everything at once and nothing twice.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field, and what to write instead. `path` is as kubectl prints it: spec.ladder[1].match."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ValueError):
    """An object is not valid; `errors` has all of the reasons, in the order of the object's fields."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on a checked value; `says` is the sentence of the CRD's rule, word for word.

    `at` is the field the sentence is about (the CRD's fieldPath), "" for the value itself. `needs` are the fields that
    must be in order before `holds` may look at the value.
    """

    says: str
    holds: Callable[[Any], bool]
    at: str = ""
    needs: tuple[str, ...] = ()


class Shape(Protocol):
    """Anything that can check a value."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What must hold beyond types and bounds."""
        ...

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The value with its defaults; what is wrong is appended to `errors`."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a range, or one of `choices`."""

    low: int
    high: int
    choices: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = ()

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The number as an int."""
        number = _whole_number(value)
        if number is None:
            _add(errors, path, f"must be a whole number, not {shown(value)}")
            return None
        if self.choices:
            if number not in self.choices:
                _add(
                    errors,
                    path,
                    f"must be one of {', '.join(map(str, self.choices))}, not {shown(number)}",
                )
        elif not self.low <= number <= self.high:
            _add(errors, path, f"must be from {self.low} to {self.high}, not {shown(number)}")
        else:
            _apply(self.rules, number, path, errors, frozenset())
        return number


@dataclass(frozen=True, slots=True)
class Text:
    """Text of bounded length, optionally of a pattern that `looks` describes in words."""

    max_length: int
    min_length: int = 0
    pattern: str = ""
    looks: str = ""
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        re.compile(self.pattern)  # and kept by `re`: not to be done in the middle of a check

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The text as it is."""
        if not isinstance(value, str):
            _add(errors, path, f"must be text, not {shown(value)}; put it in quotes")
        elif len(value) > self.max_length:
            _add(
                errors,
                path,
                f"has {len(value)} characters, at most {self.max_length} are allowed",
            )
        elif len(value) < self.min_length:
            _add(errors, path, "must not be empty")
        elif self.pattern and re.fullmatch(self.pattern, value) is None:
            _add(errors, path, f"must be {self.looks}, not {shown(value)}")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]
    rules: tuple[Rule, ...] = ()

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The word as it is."""
        if not isinstance(value, str) or value not in self.words:
            _add(
                errors,
                path,
                f"must be one of {', '.join(self.words)}, not {shown(value)}{_meant(value, self.words)}",
            )
        return value


@dataclass(frozen=True, slots=True)
class IntOrText:
    """A whole number or text: quantities and shares; the rules say which."""

    max_length: int
    rules: tuple[Rule, ...] = ()

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The number or the text as it is."""
        if isinstance(value, str) and len(value) > self.max_length:
            _add(
                errors,
                path,
                f"has {len(value)} characters, at most {self.max_length} are allowed",
            )
        elif not isinstance(value, str) and _whole_number(value) is None:
            _add(errors, path, f"must be a whole number or text, not {shown(value)}")
        else:
            value = value if isinstance(value, str) else _whole_number(value)
            _apply(self.rules, value, path, errors, frozenset())
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; `unique` is "" for any items, "set" for different items, or the field that tells them apart."""

    items: Shape
    max_items: int
    min_items: int = 0
    unique: str = ""
    rules: tuple[Rule, ...] = ()

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The list with its items checked."""
        if not isinstance(value, list | tuple):
            _add(errors, path, f"must be a list, not {shown(value)}")
            return value
        before = len(errors)
        if len(value) < self.min_items:
            _add(
                errors,
                path,
                f"must have at least {self.min_items} item{'s' if self.min_items > 1 else ''}",
            )
        if len(value) > self.max_items:
            _add(
                errors,
                path,
                f"has {len(value)} items, at most {self.max_items} are allowed",
            )
            return value
        checked = [self.items.check(item, f"{path}[{index}]", errors) for index, item in enumerate(value)]
        if self.unique:
            self._find_duplicates(checked, path, errors)
        _apply(
            self.rules,
            checked,
            path,
            errors,
            frozenset() if len(errors) == before else None,
        )
        return checked

    def _find_duplicates(self, items: list[Any], path: str, errors: list[FieldError]) -> None:
        seen: set[str] = set()
        for index, item in enumerate(items):
            key = item if self.unique == "set" else item.get(self.unique) if isinstance(item, dict) else None
            if not isinstance(key, str):
                continue
            if key in seen:
                where = f"{path}[{index}]" if self.unique == "set" else f"{path}[{index}].{self.unique}"
                _add(errors, where, f"{shown(key)} is there twice")
            seen.add(key)


@dataclass(frozen=True, slots=True)
class TextMap:
    """A map from text to text."""

    max_entries: int
    values: Text
    rules: tuple[Rule, ...] = ()

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """The map without entries that are null."""
        if not isinstance(value, Mapping):
            _add(errors, path, f"must be a map of keys and values, not {shown(value)}")
            return value
        before = len(errors)
        entries = {key: item for key, item in value.items() if item is not None}
        if len(entries) > self.max_entries:
            _add(
                errors,
                path,
                f"has {len(entries)} entries, at most {self.max_entries} are allowed",
            )
        for key, item in entries.items():
            if not isinstance(key, str):
                _add(
                    errors,
                    path,
                    f"has the key {shown(key)}, which is not text; put it in quotes",
                )
            self.values.check(item, f"{path}.{key}", errors)
        _apply(
            self.rules,
            entries,
            path,
            errors,
            frozenset() if len(errors) == before else None,
        )
        return entries


@dataclass(frozen=True, slots=True)
class Member:
    """A field of an object; `default` is what an absent or null field becomes, None where it stays absent."""

    shape: Shape
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Object:
    """An object with known fields, all others are errors."""

    members: Mapping[str, Member]
    rules: tuple[Rule, ...] = field(default=())

    def check(self, value: Any, path: str, errors: list[FieldError]) -> Any:
        """A new dict with the defaults filled in."""
        if not isinstance(value, Mapping):
            _add(errors, path, f"must be an object with fields, not {shown(value)}")
            return value
        checked: dict[str, Any] = {}
        broken = set()
        for name, member in self.members.items():
            given = value.get(name)
            if given is None:
                given = json.loads(json.dumps(member.default))  # a copy of its own
            here = f"{path}.{name}" if path else name
            before = len(errors)
            if given is not None:
                checked[name] = member.shape.check(given, here, errors)
            elif member.required:
                _add(errors, here, "is required")
            if len(errors) > before:
                broken.add(name)
        for name in value:
            if name not in self.members:
                here = f"{path}.{name}" if path else f"{name}"
                hint = _meant(name, tuple(self.members)) or f"; known here: {', '.join(self.members)}"
                _add(errors, here, f"unknown field{hint}")
        _apply(self.rules, checked, path, errors, frozenset(broken))
        return checked


def one_of(enum: type[StrEnum]) -> Choice:
    """The choice between the values of an enumeration."""
    return Choice(tuple(member.value for member in enum))


def shown(value: Any) -> str:
    """The value as JSON, shortened, for use in a message."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists without end
        return "a value too large to show"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _apply(
    rules: tuple[Rule, ...],
    value: Any,
    path: str,
    errors: list[FieldError],
    broken: frozenset[str] | None,
) -> None:
    """Adds the sentence of every rule that does not hold; `broken` None: the value is not fit for any rule."""
    if broken is None:
        return
    for rule in rules:
        if broken.isdisjoint(rule.needs) and not rule.holds(value):
            _add(errors, f"{path}.{rule.at}" if rule.at else path, rule.says)


def _add(errors: list[FieldError], path: str, message: str) -> None:
    errors.append(FieldError(path, message))


def _whole_number(value: Any) -> int | None:
    """The int that a JSON number stands for (60.0 is 60, as on the server); None for anything else, bools too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _meant(given: Any, known: Sequence[str]) -> str:
    """The end of a message that suggests the known word close to the given one; empty where none is."""
    if not isinstance(given, str):
        return ""
    folded = {word.lower(): word for word in known}
    close = difflib.get_close_matches(given.lower(), list(folded), n=1, cutoff=0.65)
    return f"; did you mean {folded[close[0]]}?" if close else ""
